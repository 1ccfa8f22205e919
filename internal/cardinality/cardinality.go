// Package cardinality counts what series consist of. In go the labels of series, each series once; out come how many there
// are, how many values each label has, and which values and which pairs of name and value have most series. Results of
// disjoint sets of series add up. It never holds a series, only the distinct values of the labels that are counted.
package cardinality

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

const (
	// maxPairs is how many distinct pairs of name and value one count may hold: some 400 MB.
	maxPairs = 4_000_000
	// KeptValues is how many values of a label, and how many pairs, a result has at most, those with most series. Below it
	// sums over several results are exact; above it they lack what few series in each of them have.
	KeptValues = 10_000
)

// ErrTooMany is returned for series that have more distinct labels than may be counted at once.
var ErrTooMany = errors.New("too many different labels")

// Query is what is to be counted.
type Query struct {
	Matchers []*labels.Matcher // series that count; none = all
	Since    int64             // ms; only series that have a sample at this time or later
	Until    int64             // ms; and not later than this; 0 = at any time
	All      bool              // the values of all labels are counted
	Values   []string          // labels whose values are counted and listed with their series
	Pairs    bool              // the pairs with most series are listed, and metric names with their series
}

// End is the last time (ms) of which samples count.
func (q *Query) End() int64 {
	if q.Until == 0 {
		return math.MaxInt64
	}
	return q.Until
}

// Result is what was counted.
type Result struct {
	Total   int64             `json:"total"`  // series of the tenant, whatever the matchers say
	Series  int64             `json:"series"` // that match
	Bytes   int64             `json:"bytes"`  // of names and values of these
	Labels  map[string]*Label `json:"labels,omitempty"`
	Pairs   []Pair            `json:"pairs,omitempty"`
	Chunks  int64             `json:"chunks,omitempty"` // in memory and in blocks that are not in the bucket yet
	MinTime int64             `json:"min_time"`         // ms, of the samples there; MaxInt64 if there are none
	MaxTime int64             `json:"max_time"`         // MinInt64 if there are none
}

// Label is what was counted of a label.
type Label struct {
	Series int64            `json:"series"`           // that have it
	Bytes  int64            `json:"bytes,omitempty"`  // of its value, summed over its series
	Values Hashes           `json:"values,omitempty"` // of its values
	Counts map[string]int64 `json:"counts,omitempty"` // series by value, KeptValues of them
}

// Pair is a label with a value.
type Pair struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Series int64  `json:"series"`
}

// Hashes is a set of 64-bit hashes of values, sorted: by them the values of several results are told apart without
// being sent.
type Hashes []uint64

// MarshalJSON writes 8 bytes a hash, as a string of base64.
func (h Hashes) MarshalJSON() ([]byte, error) {
	out := make([]byte, 0, 8*len(h))
	for _, v := range h {
		out = binary.LittleEndian.AppendUint64(out, v)
	}
	return json.Marshal(out)
}

// UnmarshalJSON is MarshalJSON's inverse.
func (h *Hashes) UnmarshalJSON(text []byte) error {
	var b []byte
	if err := json.Unmarshal(text, &b); err != nil {
		return fmt.Errorf("hashes of values: %w", err)
	}
	if len(b)%8 != 0 {
		return fmt.Errorf("hashes of values have %d bytes, must be a multiple of 8", len(b))
	}
	*h = make(Hashes, 0, len(b)/8)
	for ; len(b) > 0; b = b[8:] {
		*h = append(*h, binary.LittleEndian.Uint64(b))
	}
	return nil
}

// Counter counts series. It is not safe for concurrent use.
type Counter struct {
	query  Query
	result Result
	labels map[string]*tally
	pairs  int
}

// tally is what was counted of one label.
type tally struct {
	series, bytes int64
	values        map[string]int64
}

// NewCounter makes a counter for q.
func NewCounter(q Query) *Counter {
	return &Counter{query: q, result: Empty(), labels: map[string]*tally{}}
}

// Empty is the result of nothing.
func Empty() Result { return Result{MinTime: math.MaxInt64, MaxTime: math.MinInt64} }

// Add counts a series. ErrTooMany: it cannot go on.
func (c *Counter) Add(lset labels.Labels) error {
	c.result.Series++
	lset.Range(func(l labels.Label) {
		c.result.Bytes += int64(len(l.Name) + len(l.Value))
		if !c.query.All && !slices.Contains(c.query.Values, l.Name) {
			return
		}
		t := c.labels[l.Name]
		if t == nil {
			t = &tally{values: map[string]int64{}}
			c.labels[strings.Clone(l.Name)] = t
		}
		t.series++
		t.bytes += int64(len(l.Value))
		n, known := t.values[l.Value]
		if !known {
			c.pairs++
			t.values[strings.Clone(l.Value)] = 1
			return
		}
		t.values[l.Value] = n + 1
	})
	if c.pairs > maxPairs {
		return fmt.Errorf("%w: more than %d pairs of name and value", ErrTooMany, maxPairs)
	}
	return nil
}

// AddTotal counts series of the tenant that need not match.
func (c *Counter) AddTotal(n int64) { c.result.Total += n }

// AddSamples tells of chunks and of the times of the samples in them, ms.
func (c *Counter) AddSamples(chunks, mint, maxt int64) {
	c.result.Chunks += chunks
	c.result.MinTime, c.result.MaxTime = min(c.result.MinTime, mint), max(c.result.MaxTime, maxt)
}

// Result returns what was counted.
func (c *Counter) Result() *Result {
	r := c.result
	r.Labels = make(map[string]*Label, len(c.labels))
	for name, t := range c.labels {
		l := &Label{Series: t.series, Bytes: t.bytes, Values: make(Hashes, 0, len(t.values))}
		for v := range t.values {
			l.Values = append(l.Values, xxhash.Sum64String(v))
		}
		slices.Sort(l.Values)
		if slices.Contains(c.query.Values, name) || c.query.Pairs && name == model.MetricNameLabel {
			l.Counts = map[string]int64{}
			for _, p := range most(name, t.values, KeptValues) {
				l.Counts[p.Value] = p.Series
			}
		}
		if c.query.Pairs {
			r.Pairs = append(r.Pairs, most(name, t.values, KeptValues)...)
			if len(r.Pairs) > 4*KeptValues {
				r.Pairs = top(r.Pairs, KeptValues)
			}
		}
		r.Labels[name] = l
	}
	r.Pairs = top(r.Pairs, KeptValues)
	return &r
}

func most(name string, values map[string]int64, n int) []Pair {
	all := make([]Pair, 0, len(values))
	for v, series := range values {
		all = append(all, Pair{name, v, series})
	}
	return top(all, n)
}

// top returns the n pairs with most series; of those with as many, the first by name and value.
func top(all []Pair, n int) []Pair {
	slices.SortFunc(all, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(b.Series, a.Series), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Value, b.Value))
	})
	return all[:min(n, len(all))]
}

// Merge adds the results of disjoint sets of series.
func Merge(results []*Result) *Result {
	sum := Empty()
	sum.Labels = map[string]*Label{}
	pairs := map[[2]string]int64{}
	for _, r := range results {
		sum.Total, sum.Series, sum.Bytes, sum.Chunks = sum.Total+r.Total, sum.Series+r.Series, sum.Bytes+r.Bytes, sum.Chunks+r.Chunks
		sum.MinTime, sum.MaxTime = min(sum.MinTime, r.MinTime), max(sum.MaxTime, r.MaxTime)
		for name, l := range r.Labels {
			s := sum.Labels[name]
			if s == nil {
				s = &Label{Counts: map[string]int64{}}
				sum.Labels[name] = s
			}
			s.Series, s.Bytes = s.Series+l.Series, s.Bytes+l.Bytes
			s.Values = append(s.Values, l.Values...)
			for v, n := range l.Counts {
				s.Counts[v] += n
			}
		}
		for _, p := range r.Pairs {
			pairs[[2]string{p.Name, p.Value}] += p.Series
		}
	}
	for _, l := range sum.Labels {
		slices.Sort(l.Values)
		l.Values = slices.Compact(l.Values)
	}
	for p, n := range pairs {
		sum.Pairs = append(sum.Pairs, Pair{p[0], p[1], n})
	}
	sum.Pairs = top(sum.Pairs, len(sum.Pairs))
	return &sum
}

// Top returns the n labels for which size is greatest, by name where it is the same.
func (r *Result) Top(n int, size func(*Label) int64) []Pair {
	var all []Pair
	for name, l := range r.Labels {
		all = append(all, Pair{Name: name, Series: size(l)})
	}
	return top(all, n)
}

// TopValues returns the n values of a label with most series.
func (r *Result) TopValues(name string, n int) []Pair {
	l := r.Labels[name]
	if l == nil {
		return nil
	}
	return most(name, l.Counts, n)
}
