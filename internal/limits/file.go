package limits

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v3"

	"sluice/schema"
)

// The file, all of it optional; docs/limits.md is for those who write it. Each key is taken from the most specific place that
// sets it: the tenant's own, else the most specific class that matches, else default, else schema.DefaultLimits. A runtime
// configuration of Cortex or Mimir that has nothing but overrides is such a file.
//
//	default:
//	  ingestion_rate: 100000
//	classes:
//	  team-*: {ingestion_rate: 200000, partition_shard_size: 4}
//	overrides:
//	  team-a: {ingestion_rate: 0, max_label_names_per_series: 100}
type file struct {
	Default   yaml.Node            `yaml:"default"`
	Classes   map[string]yaml.Node `yaml:"classes"`
	Overrides map[string]yaml.Node `yaml:"overrides"`
}

// aliases are other names of limits.
var aliases = map[string]string{
	"ingestion_partitions_tenant_shard_size": "partition_shard_size",          // Mimir
	"max_exemplars":                          "max_global_exemplars_per_user", // Cortex
}

// table is one good reading of the file. It is never changed once it can be seen.
type table struct {
	fallback  *schema.Limits
	classes   []class // the most specific one first
	overrides map[schema.Tenant]*own
	lists     map[string]any // for schema.SharedList.Intern: what does not change between readings stays equal
}

// own is what one tenant has by its name.
type own struct {
	limits schema.Limits
	class  string // pattern of the class that it starts from, empty for none
}

// class is limits for the tenants whose names match.
type class struct {
	pattern string
	limits  schema.Limits
}

// classOf returns the most specific class of a tenant, nil if it has none.
func (t *table) classOf(tenant string) *class {
	for i := range t.classes {
		if matches(t.classes[i].pattern, tenant) {
			return &t.classes[i]
		}
	}
	return nil
}

// matches tells whether name is pattern, in which every * stands for any characters or none.
func matches(pattern, name string) bool {
	star, retry := -1, 0
	p := 0
	for n := 0; n < len(name); {
		switch {
		case p < len(pattern) && pattern[p] == '*': // before the next case: names may have stars as well
			star, retry = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0: // let the last star take one more
			retry++
			p, n = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// moreSpecific orders classes: first the one that spells out more characters, then the one with fewer stars, then by name.
func moreSpecific(a, b class) int {
	starsA, starsB := strings.Count(a.pattern, "*"), strings.Count(b.pattern, "*")
	return cmp.Or(
		cmp.Compare(len(b.pattern)-starsB, len(a.pattern)-starsA),
		cmp.Compare(starsA, starsB),
		strings.Compare(a.pattern, b.pattern),
	)
}

// parse reads a limits file; an empty one is allowed and says nothing. before is the reading that is in force, if any.
func parse(content []byte, before *table) (*table, error) {
	f, err := decodeFile(content)
	if err != nil {
		return nil, err
	}
	t := &table{overrides: make(map[schema.Tenant]*own, len(f.Overrides)), lists: map[string]any{}}
	known := map[string]any{}
	if before != nil {
		maps.Copy(known, before.lists)
	}
	fallback := schema.DefaultLimits()
	if err := decodeLimits(f.Default, &fallback); err != nil {
		return nil, fmt.Errorf("default: %w", err)
	}
	intern(&fallback, known, t.lists)
	t.fallback = &fallback
	for pattern, node := range f.Classes {
		if err := checkPattern(pattern); err != nil {
			return nil, fmt.Errorf("classes: %w", err)
		}
		c := class{pattern: pattern, limits: fallback}
		if err := decodeLimits(node, &c.limits); err != nil {
			return nil, fmt.Errorf("class %s: %w", pattern, err)
		}
		intern(&c.limits, known, t.lists)
		t.classes = append(t.classes, c)
	}
	slices.SortFunc(t.classes, moreSpecific)
	for name, node := range f.Overrides {
		tenant, err := schema.ParseTenant(name)
		if err != nil {
			return nil, fmt.Errorf("overrides: %w", err)
		}
		o := &own{limits: fallback}
		if c := t.classOf(name); c != nil {
			o.limits, o.class = c.limits, c.pattern
		}
		if err := decodeLimits(node, &o.limits); err != nil {
			return nil, fmt.Errorf("overrides of %s: %w", name, err)
		}
		intern(&o.limits, known, t.lists)
		t.overrides[tenant] = o
	}
	return t, nil
}

// intern makes the lists of l those that known or used have, and notes in used what l has.
func intern(l *schema.Limits, known, used map[string]any) {
	for _, m := range []map[string]any{known, used} {
		l.DropLabels.Intern(m)
		l.MetricRelabelConfigs.Intern(m)
	}
}

func checkPattern(pattern string) error {
	if !strings.Contains(pattern, "*") {
		return fmt.Errorf("%s has no *: what is for one tenant goes under overrides", pattern)
	}
	if _, err := schema.ParseTenant(strings.ReplaceAll(pattern, "*", "x")); err != nil {
		return fmt.Errorf("%s matches no tenant: %w", pattern, err)
	}
	return nil
}

// decodeFile reads the outer mappings.
func decodeFile(content []byte) (*file, error) {
	var f file
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(content))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return &f, nil
	case err != nil:
		return nil, err
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	if err := checkKeys(&doc, []string{"default", "classes", "overrides"}, "key of a limits file", 0); err != nil {
		return nil, err
	}
	if err := doc.Decode(&f); err != nil {
		return nil, err
	}
	return &f, nil
}

// decodeLimits puts what node says over what into has already.
func decodeLimits(node yaml.Node, into *schema.Limits) error {
	if node.IsZero() || node.Tag == "!!null" {
		return nil
	}
	if err := checkKeys(&node, limitNames(), "limit", 0); err != nil {
		return err
	}
	if err := node.Decode(into); err != nil {
		return err
	}
	return into.Validate()
}

// maxNesting bounds merges in merges, which YAML lets go round in circles.
const maxNesting = 3

// checkKeys refuses keys of a mapping that are not among names, and says which name was probably meant. what is what the keys
// are. Aliases of limits become their names. Whether it is a mapping at all is left to the decoder.
func checkKeys(node *yaml.Node, names []string, what string, depth int) (err error) {
	node = target(node)
	if depth > maxNesting {
		return fmt.Errorf("line %d: too many merges in merges", node.Line)
	}
	if node.Kind == yaml.SequenceNode { // of merges
		for _, item := range node.Content {
			err = firstOf(err, checkKeys(item, names, what, depth+1))
		}
		return err
	}
	eachPair(node, func(key, value *yaml.Node) {
		if name, ok := aliases[key.Value]; ok {
			key.Value = name
		}
		switch {
		case key.Tag == "!!merge":
			err = firstOf(err, checkKeys(value, names, what, depth+1))
		case !slices.Contains(names, key.Value):
			err = firstOf(err, fmt.Errorf("line %d: %w", key.Line, unknown(key.Value, names, what)))
		case key.Value == "metric_relabel_configs":
			for _, rule := range target(value).Content {
				err = firstOf(err, checkKeys(rule, yamlNames(reflect.TypeFor[relabel.Config]()), "key of a relabel rule", depth+1))
			}
		}
	})
	return err
}

func firstOf(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// unknown is the error for a name that is none of names.
func unknown(name string, names []string, what string) error {
	if near := Nearest(name, names); near != "" {
		return fmt.Errorf("%.60q is no %s, did you mean %s?", name, what, near)
	}
	return fmt.Errorf("%.60q is no %s", name, what)
}

// target is the node that an alias, or a document, stands for.
func target(node *yaml.Node) *yaml.Node {
	for range maxNesting {
		switch {
		case node.Kind == yaml.AliasNode:
			node = node.Alias
		case node.Kind == yaml.DocumentNode && len(node.Content) == 1:
			node = node.Content[0]
		default:
			return node
		}
	}
	return node
}

// eachPair calls f with the keys and values of node, if it is a mapping.
func eachPair(node *yaml.Node, f func(key, value *yaml.Node)) {
	if node = target(node); node.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		f(target(node.Content[i]), node.Content[i+1])
	}
}

func limitNames() []string { return namesOf(schema.LimitFields()) }

// yamlNames are the YAML names of the fields of a struct.
func yamlNames(t reflect.Type) []string { return namesOf(reflect.VisibleFields(t)) }

func namesOf(fields []reflect.StructField) []string {
	var names []string
	for _, field := range fields {
		if name, _, _ := strings.Cut(field.Tag.Get("yaml"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}

// All returns every limit by its YAML name, to be written as JSON.
func All(l *schema.Limits) map[string]any {
	v := reflect.ValueOf(l).Elem()
	fields := schema.LimitFields()
	out := make(map[string]any, len(fields))
	for i, name := range namesOf(fields) {
		out[name] = v.FieldByIndex(fields[i].Index).Interface()
	}
	return out
}
