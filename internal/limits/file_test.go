package limits

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/internal/watch"
	"sluice/schema"
)

func load(t *testing.T, content string) *Limits {
	t.Helper()
	tab, err := parse([]byte(content), nil)
	require.NoError(t, err)
	return &Limits{file: watch.Fixed(tab)}
}

// Each key comes from the most specific place that sets it.
func TestClasses(t *testing.T) {
	l := load(t, `
default: {request_rate: 1, max_label_names_per_series: 11}
classes:
  "*": {request_rate: 2}
  team-*: {request_rate: 3, partition_shard_size: 4, drop_labels: [pod]}
  team-*-dev: {request_rate: 4}
  "*-dev": {request_rate: 5}
  t**-prod: {request_rate: 6}
  t*-prod: {request_rate: 7}
overrides:
  team-a: {max_label_value_length: 9}
  team-b: {request_rate: 0, drop_labels: []}
  zzz: {}
  team-*: {request_rate: 99}
`)
	for tenant, want := range map[schema.Tenant]struct {
		rate   float64
		source Source
	}{
		"other":       {2, Source{Class: "*"}},
		"zzz":         {2, Source{Class: "*", Override: true}},
		"team-":       {3, Source{Class: "team-*"}},
		"team-x":      {3, Source{Class: "team-*"}},
		"team-x-dev":  {4, Source{Class: "team-*-dev"}},
		"team-dev":    {3, Source{Class: "team-*"}}, // spells out more than *-dev
		"x-dev":       {5, Source{Class: "*-dev"}},
		"too-prod":    {7, Source{Class: "t*-prod"}},
		"team-a":      {3, Source{Class: "team-*", Override: true}},
		"team-b":      {0, Source{Class: "team-*", Override: true}},
		"team-*":      {99, Source{Class: "team-*", Override: true}}, // a name: patterns are in classes only
		"Team-x":      {2, Source{Class: "*"}},
		"my-team-dev": {5, Source{Class: "*-dev"}},
	} {
		require.InDelta(t, want.rate, l.For(tenant).RequestRate, 0, tenant)
		require.Equal(t, want.source, l.Source(tenant), tenant)
		require.Equal(t, 11, l.For(tenant).MaxLabelNamesPerSeries, tenant)
	}
	require.Equal(t, 4, l.For("team-a").PartitionShardSize)
	require.Equal(t, []schema.LabelName{"pod"}, l.For("team-a").DropLabels.Items())
	require.Empty(t, l.For("team-b").DropLabels.Items(), "an empty list takes back what the class says")
	require.Equal(t, 9, l.For("team-a").MaxLabelValueLength)

	l = load(t, "default: {request_rate: 7}")
	require.Equal(t, Source{}, l.Source("x"))
	require.InDelta(t, 7, l.For("x").RequestRate, 0)
}

func TestMatches(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"a*", "a", true}, {"a*", "ab", true}, {"a*", "ba", false}, {"*a", "a", true}, {"*a", "aab", false}, {"*a", "aba", true},
		{"a*b*c", "abc", true}, {"a*b*c", "axbxbxc", true}, {"a*b*c", "acb", false}, {"*", "", true}, {"**", "x", true},
		{"a*a", "a", false}, {"a*a", "aa", true}, {"x*", "*x", false}, {"*x*", "*x*", true}, {"a*c", "a*bc", true},
	} {
		require.Equal(t, tc.want, matches(tc.pattern, tc.name), "%s, %s", tc.pattern, tc.name)
	}
}

// What is wrong is said with its line and the name that was probably meant.
func TestParseSays(t *testing.T) {
	for content, says := range map[string]string{
		"default:\n  ingestion_rat: 1":                   `default: line 2: "ingestion_rat" is no limit, did you mean ingestion_rate?`,
		"overrides:\n  a: {max_label_name_per_serie: 1}": `overrides of a: line 2: "max_label_name_per_serie" is no limit, did you mean max_label_names_per_series?`,
		"overides: {}":                            `line 1: "overides" is no key of a limits file, did you mean overrides?`,
		"classes: {a*: {request_rat: 1}}":         `class a*: line 1: "request_rat" is no limit, did you mean request_rate?`,
		"default: {something_else_altogether: 1}": `"something_else_altogether" is no limit`,
		"default: {metric_relabel_configs: [{source_label: [a], action: drop}]}":   `"source_label" is no key of a relabel rule, did you mean source_labels?`,
		"default: {metric_relabel_configs: [{action: dorp}]}":                      `unknown relabel action "dorp"`,
		"default: {metric_relabel_configs: [{regex: 'a(', action: drop}]}":         "missing closing )",
		"default: {metric_relabel_configs: [{action: replace, replacement: x}]}":   "requires 'target_label'",
		"default: {metric_relabel_configs: [null]}":                                "an empty item in a list",
		"default: {metric_relabel_configs: [drop]}":                                "has to be a mapping",
		"default: {drop_labels: [a, '']}":                                          "empty label name",
		"default: {drop_labels: [a, ~]}":                                           "an empty item in a list",
		"default: {drop_labels: [__name__]}":                                       "a series needs its name",
		"default: {ingestion_burst_factor: 0.5}":                                   "ingestion_burst_factor is 0.5, must be at least 1",
		"default: {request_rate: .inf}":                                            "request_rate is +Inf, must be a number",
		"default: {request_rate: .nan}":                                            "request_rate is NaN, must be a number",
		"default: {past_grace_period: -1h}":                                        "not a valid duration",
		"classes: {team-a: {}}":                                                    "team-a has no *",
		"classes: {'__*': {}}":                                                     "matches no tenant",
		"classes: {'a/*': {}}":                                                     "matches no tenant",
		"classes: {'a*': {}, 'a*': {}}":                                            "already defined",
		"default: &x {<<: *x}":                                                     "merges",
		"default: {max_exemplars: 1, max_global_exemplars_per_user: 2}":            "already defined",
		"default: &a {request_rate: 1}\noverrides: {t: {<<: *a, request_rote: 2}}": "did you mean request_rate?",
	} {
		_, err := parse([]byte(content), nil)
		require.ErrorContains(t, err, says, content)
	}
}

// The other names that Cortex and Mimir have for limits of ours, also where one mapping is merged into another.
func TestOtherNames(t *testing.T) {
	l := load(t, `
default: &d {max_exemplars: 5, ingestion_partitions_tenant_shard_size: 3}
overrides:
  a: {<<: *d, request_rate: 2e+02, ingestion_burst_size: 2e+06}
  b: {<<: [*d, {max_exemplars: 8}], reject_old_samples: true}
`)
	require.Equal(t, 5, l.For("a").MaxExemplars)
	require.Equal(t, 3, l.For("a").PartitionShardSize)
	require.Equal(t, 2_000_000, l.For("a").IngestionBurstSize)
	require.Equal(t, 5, l.For("b").MaxExemplars)
	age, name := l.For("b").MaxAge()
	require.Equal(t, "336h0m0s reject_old_samples_max_age", age.String()+" "+name)
}

// Limits that say the same compare equal, over readings of the file and between tenants, or caches are emptied for nothing.
func TestEqualLimitsStayEqual(t *testing.T) {
	require.True(t, reflect.TypeFor[schema.Limits]().Comparable())
	content := func(regex, rate string) []byte {
		return []byte(`
default: {drop_labels: [a, b], request_rate: ` + rate + `}
overrides:
  x: {metric_relabel_configs: [{source_labels: [job], regex: ` + regex + `, action: drop}]}
  y: {metric_relabel_configs: [{action: drop, regex: one, source_labels: [job]}]}
`)
	}
	first, err := parse(content("one", "1"), nil)
	require.NoError(t, err)
	require.True(t, first.overrides["x"].limits == first.overrides["y"].limits)
	before := first
	for range 3 {
		again, err := parse(content("one", "2"), before)
		require.NoError(t, err)
		require.True(t, again.overrides["x"].limits != first.overrides["x"].limits)
		require.True(t, again.overrides["x"].limits.OfSeries() == first.overrides["x"].limits.OfSeries(), "a rate says nothing of series")
		before = again
	}
	changed, err := parse(content("two", "1"), before)
	require.NoError(t, err)
	require.True(t, changed.overrides["x"].limits != first.overrides["x"].limits)
	require.True(t, changed.overrides["y"].limits == first.overrides["y"].limits)
	require.Len(t, changed.lists, 3, "what nobody has any more is forgotten")
}

func TestNearest(t *testing.T) {
	names := []string{"request_rate", "ingestion_rate", "ingestion_burst_size"}
	for word, want := range map[string]string{
		"request_rate": "request_rate", "requestrate": "request_rate", "ingest_rate": "ingestion_rate", "ingestion_burst_sice": "ingestion_burst_size",
		"": "", "xyz": "", "completely_different": "", strings.Repeat("request_rate", 20): "",
	} {
		require.Equal(t, want, Nearest(word, names), word)
	}
}

// All has every limit, and its JSON is what the API shows.
func TestAll(t *testing.T) {
	l := load(t, "default: {drop_labels: [a], metric_relabel_configs: [{action: labeldrop, regex: 'x.*'}], past_grace_period: 90m}")
	all := All(l.For("x"))
	require.Len(t, all, len(schema.LimitFields()), "every field has a YAML name of its own")
	text, err := json.Marshal(all)
	require.NoError(t, err)
	for _, s := range []string{`"drop_labels":["a"]`, `"past_grace_period":"1h30m"`, `"action":"labeldrop"`, `"regex":"x.*"`, `"creation_grace_period":"10m"`, `"reject_old_samples":false`} {
		require.Contains(t, string(text), s)
	}
	text, err = json.Marshal(All(load(t, "").For("x")))
	require.NoError(t, err)
	require.Contains(t, string(text), `"metric_relabel_configs":[]`)
}

// docs/limits.md has a row for each limit, with its default and with error IDs that exist.
func TestLimitsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "limits.md"))
	require.NoError(t, err)
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([^|]+)\\|([^|]*)\\|([^|]*)\\| .+ \\|$")
	documented := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(doc), -1) {
		require.NotContains(t, documented, m[1], "twice")
		documented[m[1]] = m[2]
		require.NotEmpty(t, strings.TrimSpace(m[3]), "%s has no unit", m[1])
		for _, id := range regexp.MustCompile("err-sluice-[a-z-]+").FindAllString(m[4], -1) {
			require.True(t, slices.Contains(schema.ErrorIDs(), schema.ErrorID(id)), "%s names %s, which does not exist", m[1], id)
		}
	}
	defaults := schema.DefaultLimits()
	for name, value := range All(&defaults) {
		text, err := json.Marshal(value)
		require.NoError(t, err)
		require.Contains(t, documented, name, "not in docs/limits.md")
		require.Equal(t, strings.Trim(string(text), `"`), strings.TrimSpace(documented[name]), "default of %s", name)
		delete(documented, name)
	}
	for name := range documented {
		require.Contains(t, aliases, name, "in docs/limits.md, but no limit")
		delete(documented, name)
	}
	for name := range aliases {
		require.Contains(t, string(doc), "`"+name+"`")
	}
}

// The example shows limits, a class and overrides that hold.
func TestExample(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "deploy", "limits.example.yaml"))
	require.NoError(t, err)
	l := load(t, string(content))
	require.Equal(t, Source{Class: "dev-*"}, l.Source("dev-anna"))
	require.Equal(t, Source{Override: true}, l.Source("team-small"))
	require.Equal(t, 1, l.For("team-small").PartitionShardSize)
	require.NotEmpty(t, l.For("team-large").MetricRelabelConfigs.Items())
}
