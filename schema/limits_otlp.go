package schema

import (
	"fmt"
	"strings"
)

// The translation strategies of OTLP, as Prometheus calls them.
const (
	UnderscoreEscapingWithSuffixes    = "UnderscoreEscapingWithSuffixes"
	UnderscoreEscapingWithoutSuffixes = "UnderscoreEscapingWithoutSuffixes"
	NoUTF8EscapingWithSuffixes        = "NoUTF8EscapingWithSuffixes"
	NoTranslation                     = "NoTranslation"
)

// OTelNames says what otel_translation_strategy and otel_metric_suffixes_enabled together mean: whether names are escaped, and
// whether metrics get suffixes. The strategy has the last word where it is set.
func (l *Limits) OTelNames() (escape, suffixes bool) {
	switch l.OTelTranslationStrategy {
	case UnderscoreEscapingWithSuffixes:
		return true, true
	case UnderscoreEscapingWithoutSuffixes:
		return true, false
	case NoUTF8EscapingWithSuffixes:
		return false, true
	case NoTranslation:
		return false, false
	}
	return true, l.OTelMetricSuffixesEnabled
}

func (l *Limits) validateOTel() error {
	switch l.OTelTranslationStrategy {
	case "", UnderscoreEscapingWithSuffixes, UnderscoreEscapingWithoutSuffixes, NoUTF8EscapingWithSuffixes, NoTranslation:
	default:
		return fmt.Errorf("otel_translation_strategy is %q, must be %s, %s, %s or %s", l.OTelTranslationStrategy,
			UnderscoreEscapingWithSuffixes, UnderscoreEscapingWithoutSuffixes, NoUTF8EscapingWithSuffixes, NoTranslation)
	}
	return nil
}

// CSVList is a list of names with commas between them; in YAML a list, too. It can be compared, as Limits has to be.
type CSVList string

// UnmarshalYAML reads both forms.
func (l *CSVList) UnmarshalYAML(unmarshal func(any) error) error {
	var list []string
	if err := unmarshal(&list); err != nil {
		var text string
		if err := unmarshal(&text); err != nil {
			return err
		}
		list = strings.Split(text, ",")
	}
	var names []string
	for _, name := range list {
		if name = strings.TrimSpace(name); strings.Contains(name, ",") {
			return fmt.Errorf("name %q has a comma", name)
		} else if name != "" {
			names = append(names, name)
		}
	}
	*l = CSVList(strings.Join(names, ","))
	return nil
}

// Names returns the list.
func (l CSVList) Names() []string {
	if l == "" {
		return nil
	}
	return strings.Split(string(l), ",")
}
