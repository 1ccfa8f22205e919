package eval

import (
	"math"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/kahansum"
)

// groups aggregate the results of series, which must come in their order: sums of floats depend on it.
type groups struct {
	op       parser.ItemType
	without  bool
	grouping []string // sorted
	byKey    map[uint64]*group
	all      []*group // in the order in which they were first met
	builder  *labels.Builder
}

// group has for each step what the operator needs. A slice that it does not need is nil.
type group struct {
	labels labels.Labels
	value  []float64 // missing where no series had a result
	c      []float64 // compensation of the sum
	mean   []float64
	count  []float64
	// running has the steps whose sum has overflown: their mean is kept instead.
	running []bool
}

// aggregators are the operators known here.
func aggregates(op parser.ItemType) bool {
	switch op {
	case parser.SUM, parser.AVG, parser.COUNT, parser.MIN, parser.MAX, parser.GROUP, parser.STDDEV, parser.STDVAR:
		return true
	}
	return false
}

func newGroups(op parser.ItemType, without bool, grouping []string) *groups {
	return &groups{op: op, without: without, grouping: grouping, byKey: map[uint64]*group{}, builder: labels.NewBuilder(labels.EmptyLabels())}
}

// key of the group that a series belongs to. buf is scratch space.
func (g *groups) key(lset labels.Labels, buf []byte) (uint64, []byte) {
	switch {
	case g.without:
		return lset.HashWithoutLabels(buf, g.grouping...)
	case len(g.grouping) == 0:
		return 0, buf
	}
	return lset.HashForLabels(buf, g.grouping...)
}

// of returns the group with the key, a new one with the labels that series with lset have there.
func (g *groups) of(key uint64, lset labels.Labels, steps int) *group {
	if found := g.byKey[key]; found != nil {
		return found
	}
	n := &group{value: make([]float64, steps)}
	for i := range n.value {
		n.value[i] = missing
	}
	g.builder.Reset(lset)
	switch {
	case g.without:
		n.labels = g.builder.Del(g.grouping...).Del(model.MetricNameLabel).Labels()
	case len(g.grouping) > 0:
		n.labels = g.builder.Keep(g.grouping...).Labels()
	}
	switch g.op {
	case parser.SUM:
		n.c = make([]float64, steps)
	case parser.AVG:
		n.c, n.count = make([]float64, steps), make([]float64, steps)
	case parser.STDDEV, parser.STDVAR:
		n.mean, n.count = make([]float64, steps), make([]float64, steps)
	}
	g.byKey[key] = n
	g.all = append(g.all, n)
	return n
}

// add adds the results of one series.
func (g *groups) add(to *group, from []float64) {
	value := to.value[:len(from)]
	switch g.op {
	case parser.SUM:
		c := to.c[:len(from)]
		for i, f := range from {
			switch {
			case isMissing(f):
			case isMissing(value[i]):
				value[i] = f
			default:
				value[i], c[i] = kahansum.Inc(f, value[i], c[i])
			}
		}
	case parser.AVG:
		for i, f := range from {
			if !isMissing(f) {
				to.average(i, f)
			}
		}
	case parser.COUNT:
		for i, f := range from {
			switch {
			case isMissing(f):
			case isMissing(value[i]):
				value[i] = 1
			default:
				value[i]++
			}
		}
	case parser.MIN:
		for i, f := range from {
			if v := value[i]; !isMissing(f) && (isMissing(v) || v > f || v != v) {
				value[i] = f
			}
		}
	case parser.MAX:
		for i, f := range from {
			if v := value[i]; !isMissing(f) && (isMissing(v) || v < f || v != v) {
				value[i] = f
			}
		}
	case parser.GROUP:
		for i, f := range from {
			if !isMissing(f) {
				value[i] = 1
			}
		}
	case parser.STDDEV, parser.STDVAR:
		for i, f := range from {
			if !isMissing(f) {
				to.deviate(i, f)
			}
		}
	}
}

func (to *group) average(i int, f float64) {
	if isMissing(to.value[i]) {
		to.value[i], to.count[i] = f, 1
		return
	}
	to.count[i]++
	n := to.count[i]
	if to.running == nil || !to.running[i] {
		v, c := kahansum.Inc(f, to.value[i], to.c[i])
		if !math.IsInf(v, 0) {
			to.value[i], to.c[i] = v, c
			return
		}
		if to.running == nil {
			to.running, to.mean = make([]bool, len(to.value)), make([]float64, len(to.value))
		}
		to.running[i] = true
		to.mean[i] = to.value[i] / (n - 1)
		to.c[i] /= n - 1
	}
	q := (n - 1) / n
	to.mean[i], to.c[i] = kahansum.Inc(f/n, q*to.mean[i], q*to.c[i])
}

func (to *group) deviate(i int, f float64) {
	if isMissing(to.value[i]) {
		to.mean[i], to.count[i], to.value[i] = f, 1, 0
		if math.IsNaN(f) || math.IsInf(f, 0) {
			to.value[i] = math.NaN()
		}
		return
	}
	to.count[i]++
	delta := f - to.mean[i]
	to.mean[i] += delta / to.count[i]
	to.value[i] += delta * (f - to.mean[i])
}

// results finishes the groups and returns them.
func (g *groups) results() []series {
	out := make([]series, len(g.all))
	for j, to := range g.all {
		for i, v := range to.value {
			switch {
			case isMissing(v):
			case g.op == parser.SUM:
				to.value[i] += to.c[i]
			case g.op == parser.AVG && to.running != nil && to.running[i]:
				to.value[i] = to.mean[i] + to.c[i]
			case g.op == parser.AVG:
				to.value[i] = v/to.count[i] + to.c[i]/to.count[i]
			case g.op == parser.STDVAR:
				to.value[i] /= to.count[i]
			case g.op == parser.STDDEV:
				to.value[i] = math.Sqrt(v / to.count[i])
			}
		}
		out[j] = series{to.labels, to.value}
	}
	return out
}
