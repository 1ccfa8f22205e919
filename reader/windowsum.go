package reader

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sluice/internal/cardinality"
	"sluice/reader/store"
	"sluice/schema"
)

// windowSum adds up the series of one window of time. Two blocks may have the same series or not, and their tables do not
// say. But a series is in one partition, so those of blocks of different partitions are different ones; and most of those
// of two blocks of the same partitions are the same, so of these the larger number counts. Where a block has some of the
// partitions of another (one was merged already, the others not yet), both follow: the larger of the one and of what
// the others are together. What consumers hold are series of all partitions.
type windowSum struct {
	label     string
	groups    map[string]*blockGroup // by partitions
	heads     *blockGroup            // nil = none
	blocks    bool
	truncated bool
	known     map[string]*knownValues // by label name
}

// blockGroup is what blocks of the same partitions have: series by name, those of all under "".
type blockGroup struct {
	partitions []int32 // sorted; none: a block of another database
	series     map[string]int64
}

// knownValues is what is known of a label's values.
type knownValues struct {
	most   int64    // in one block, or in all that consumers hold
	hashes []uint64 // of those that are known
}

func newWindowSum(label string) *windowSum {
	return &windowSum{label: label, groups: map[string]*blockGroup{}, known: map[string]*knownValues{}}
}

// partitionsOf returns the partitions that a block's series come from, sorted.
func partitionsOf(e *schema.BlockEntry) (all []int32) {
	for _, r := range e.Ranges {
		all = append(all, r.Partition)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (w *windowSum) addBlock(e *schema.BlockEntry, c *store.Counts) {
	w.blocks = true
	w.truncated = w.truncated || c.Total > len(c.List)
	partitions := partitionsOf(e)
	key := fmt.Sprint(partitions)
	g := w.groups[key]
	if g == nil {
		g = &blockGroup{partitions, map[string]int64{}}
		w.groups[key] = g
	}
	g.series[""] = max(g.series[""], int64(e.Series))
	for i := range c.List {
		n := &c.List[i]
		g.series[n.Name] = max(g.series[n.Name], n.Series)
		if w.label == "" {
			w.know(n.Name, n.Values, n.Distinct)
		}
	}
}

// addHeads adds what one consumer holds of some partitions; others have others.
func (w *windowSum) addHeads(r *cardinality.Result) {
	if r.Series == 0 {
		return
	}
	if w.heads == nil {
		w.heads = &blockGroup{series: map[string]int64{}}
	}
	w.heads.series[""] += r.Series
	if w.label == "" {
		for name, l := range r.Labels {
			w.heads.series[name] += l.Series
			w.know(name, int64(len(l.Values)), l.Values)
		}
		return
	}
	if l := r.Labels[w.label]; l != nil {
		w.truncated = w.truncated || len(l.Values) > len(l.Counts)
		for value, n := range l.Counts {
			w.heads.series[value] += n
		}
	}
}

func (w *windowSum) know(name string, values int64, hashes []uint64) {
	k := w.known[name]
	if k == nil {
		k = &knownValues{}
		w.known[name] = k
	}
	k.most = max(k.most, values)
	k.hashes = append(k.hashes, hashes...)
}

// values returns how many values a label has: at least so many.
func (w *windowSum) values(name string) int64 {
	k := w.known[name]
	if k == nil {
		return 0
	}
	slices.Sort(k.hashes)
	return max(k.most, int64(len(slices.Compact(k.hashes))))
}

func (w *windowSum) source() string {
	switch {
	case w.blocks && w.heads != nil:
		return "both"
	case w.blocks:
		return "blocks"
	case w.heads != nil:
		return "heads"
	}
	return ""
}

// close returns the series by name, of all under "". The groups are of no use afterwards.
func (w *windowSum) close() map[string]int64 {
	groups := make([]*blockGroup, 0, len(w.groups))
	for _, g := range w.groups {
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b *blockGroup) int {
		return cmp.Or(cmp.Compare(len(a.partitions), len(b.partitions)), slices.Compare(a.partitions, b.partitions))
	})
	ours, foreign := map[string]int64{}, map[string]int64{}
	parts := make([]map[string]int64, len(groups)) // what the groups within a group are together
	for i, g := range groups {
		atLeast(g.series, parts[i])
		into := &ours
		if len(g.partitions) == 0 {
			into = &foreign
		} else if j := slices.IndexFunc(groups[i+1:], func(o *blockGroup) bool { return o.contains(g) }); j >= 0 {
			into = &parts[i+1+j]
		}
		if *into == nil {
			*into = map[string]int64{}
		}
		addTo(*into, g.series)
	}
	if w.heads != nil {
		atLeast(ours, w.heads.series)
	}
	addTo(ours, foreign)
	if len(ours) > keptNames+1 {
		w.truncated = true
		all := ours[""]
		ours = heaviestOf(ours)
		ours[""] = all
	}
	return ours
}

// contains tells whether the group has all partitions of a smaller one.
func (g *blockGroup) contains(o *blockGroup) bool {
	return len(g.partitions) > len(o.partitions) && !slices.ContainsFunc(o.partitions, func(p int32) bool {
		_, ok := slices.BinarySearch(g.partitions, p)
		return !ok
	})
}

// atLeast raises numbers to those of others.
func atLeast(numbers, others map[string]int64) {
	for name, n := range others {
		numbers[name] = max(numbers[name], n)
	}
}

func addTo(sum, numbers map[string]int64) {
	for name, n := range numbers {
		sum[name] += n
	}
}

// heaviestOf keeps the names with most series.
func heaviestOf(all map[string]int64) map[string]int64 {
	delete(all, "")
	names := slices.Collect(maps.Keys(all))
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(all[b], all[a]), strings.Compare(a, b)) })
	kept := map[string]int64{}
	for _, name := range names[:min(len(names), keptNames)] {
		kept[name] = all[name]
	}
	return kept
}
