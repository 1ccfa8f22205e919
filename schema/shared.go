package schema

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v3"
)

// SharedList is a list inside of Limits, which have to stay comparable: two are equal if they are the same list in memory.
// Whoever reads Limits sees to it that equal lists become the same one (Intern). The zero value is empty; a list never changes.
type SharedList[T any] struct {
	list *sharedList[T]
}

type sharedList[T any] struct {
	items []T
	text  string // equal for equal lists
}

// Items returns the list, which belongs to everybody and must not be changed.
func (s SharedList[T]) Items() []T {
	if s.list == nil {
		return nil
	}
	return s.list.items
}

// UnmarshalYAML replaces the list and leaves the one before as it was.
func (s *SharedList[T]) UnmarshalYAML(node *yaml.Node) error {
	for _, item := range node.Content {
		if item.Tag == "!!null" || item.Alias != nil && item.Alias.Tag == "!!null" { // its own UnmarshalYAML would not be asked
			return fmt.Errorf("line %d: an empty item in a list", item.Line)
		}
	}
	var items []T
	if err := node.Decode(&items); err != nil {
		return err
	}
	if len(items) == 0 {
		s.list = nil
		return nil
	}
	text, err := yaml.Marshal(items)
	if err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	s.list = &sharedList[T]{items: items, text: string(text)}
	return nil
}

// MarshalJSON writes the list.
func (s SharedList[T]) MarshalJSON() ([]byte, error) {
	if s.list == nil {
		return []byte("[]"), nil
	}
	return json.Marshal(s.list.items)
}

// Intern makes s the list that known has under the same text, or adds it there.
func (s *SharedList[T]) Intern(known map[string]any) {
	if s.list == nil {
		return
	}
	key := fmt.Sprintf("%T %s", s.list, s.list.text)
	if same, ok := known[key].(*sharedList[T]); ok {
		s.list = same
		return
	}
	known[key] = s.list
}

// RelabelRule is a rule of metric_relabel_configs, as Prometheus has them, checked as it is read.
type RelabelRule struct{ *relabel.Config }

// UnmarshalYAML reads and checks the rule.
func (r *RelabelRule) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: a relabel rule has to be a mapping", node.Line)
	}
	r.Config = &relabel.Config{}
	if err := node.Decode(r.Config); err != nil {
		return err
	}
	if err := r.Validate(model.UTF8Validation); err != nil {
		return fmt.Errorf("line %d: %w", node.Line, err)
	}
	return nil
}

// LabelName is the name of a label in a list of them.
type LabelName string

// UnmarshalYAML refuses the empty name and that of metrics, without which no series is valid.
func (l *LabelName) UnmarshalYAML(node *yaml.Node) error {
	if err := node.Decode((*string)(l)); err != nil {
		return err
	}
	switch {
	case *l == "":
		return fmt.Errorf("line %d: empty label name", node.Line)
	case *l == model.MetricNameLabel:
		return errors.New(model.MetricNameLabel + " cannot be dropped: a series needs its name")
	}
	return nil
}
