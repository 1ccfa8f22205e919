package store

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	layout "sluice/internal/block"
	"sluice/schema"
)

// How many series a value of a label has is known without reading any of them: its postings are 12 bytes and 4 for each
// series, and where they begin and end is in the postings offset table. Of a whole label the header knows the same.

// Count is how many series of a block have a label, or a value of one.
type Count struct {
	Name   string
	Series int64
	Values int64 // of a label: how many it has
	// Distinct are the hashes (xxhash) of a label's values, sorted, if they were asked for and are not too many: they tell
	// which values of several blocks are the same.
	Distinct []uint64
}

// Counts says how the series of a block are spread over labels, or over the values of one.
type Counts struct {
	List  []Count // in no order
	Total int     // how many there are: more than in List, if those with fewest series were left out
}

// Bytes estimates the memory that the counts take.
func (c *Counts) Bytes() int64 {
	n := int64(len(c.List)) * 64
	for i := range c.List {
		n += int64(len(c.List[i].Name) + 8*len(c.List[i].Distinct))
	}
	return n
}

const (
	// KeptValues is how many values of a label are counted in one block, those with most series, and keptBytes how long
	// they may be together.
	KeptValues = 10_000
	keptBytes  = 2 << 20
	// maxDistinct is how many hashes of values are kept of one block: 1.6 MB.
	maxDistinct = 200_000
	// countStretches is how many stretches of the table are read at once.
	countStretches = 64
)

// CountLabels returns how many series each label of the block has, and how many values. It is all in the header, except
// for what distinct asks for in addition. Errors are those of Querier.
func (s *Store) CountLabels(ctx context.Context, entry *schema.BlockEntry, distinct bool) (*Counts, error) {
	what := ""
	if distinct {
		what = "distinct"
	}
	return s.counted(ctx, entry, what, func(x *blockIndex) (*Counts, error) {
		c := &Counts{}
		for i := range x.Labels {
			if l := &x.Labels[i]; l.Name != "" {
				c.List = append(c.List, Count{Name: strings.Clone(l.Name), Series: seriesWith(l), Values: int64(l.Values)})
			}
		}
		c.Total = len(c.List)
		if !distinct {
			return c, nil
		}
		return c, x.addDistinct(ctx, c)
	})
}

// CountValues returns how many series each value of a label has: of the KeptValues with most. Memory is bounded by that,
// and what of the table cannot have any of them is not read. Errors are those of Querier.
func (s *Store) CountValues(ctx context.Context, entry *schema.BlockEntry, label string) (*Counts, error) {
	return s.counted(ctx, entry, "="+label, func(x *blockIndex) (*Counts, error) {
		l := x.Label(label)
		if l == nil || label == "" {
			return &Counts{}, nil
		}
		list, err := x.heaviest(ctx, l)
		return &Counts{List: list, Total: l.Values}, err
	})
}

// counted remembers what count says of a block. What it returns must not be changed.
func (s *Store) counted(ctx context.Context, entry *schema.BlockEntry, what string, count func(*blockIndex) (*Counts, error)) (c *Counts, err error) {
	asked := aboutCounts + "\x00" + layout.Key(entry.Tenant, entry.ID) + "\x00" + what
	if c, ok := s.replies.getCounts(asked); ok {
		return c, nil
	}
	b, err := s.block(ctx, entry)
	if err != nil {
		return nil, err
	}
	defer recovered(b.index.file, &err)
	if c, err = count(b.index); err != nil {
		return nil, b.index.file.fail(err)
	}
	s.replies.putCounts(asked, c)
	return c, nil
}

// inLists is how many series are in lists of postings that are so long together.
func inLists(bytes int64, lists int) int64 { return max((bytes-12*int64(lists))/4, 0) }

func seriesWith(l *layout.HeaderLabel) (n int64) {
	for i := range l.Stretches {
		s := &l.Stretches[i]
		n += inLists(s.End-s.Lists, s.Values)
	}
	return n
}

// heaviest returns the values of a label with most series. It begins where a value may have most, and ends where none can have
// more than those that it has.
func (x *blockIndex) heaviest(ctx context.Context, l *layout.HeaderLabel) ([]Count, error) {
	var best []Count
	least := int64(0) // what a value must have more of, once there are enough
	take := func(value string, list span) bool {
		if n := inLists(list.to-list.from, 1); n > least || len(best) < KeptValues {
			best = append(best, Count{Name: strings.Clone(value), Series: n})
			if len(best) == 2*KeptValues {
				best, least = most(best)
			}
		}
		return true
	}
	atMost := func(s *layout.TableStretch) int64 { return inLists(s.End-s.Lists, s.Values) - int64(s.Values) + 1 }
	order := slices.Clone(l.Stretches)
	if l.Values > KeptValues {
		slices.SortStableFunc(order, func(a, b layout.TableStretch) int { return cmp.Compare(atMost(&b), atMost(&a)) })
	}
	for part := range slices.Chunk(order, countStretches) {
		if len(best) >= KeptValues {
			if best, least = most(best); atMost(&part[0]) <= least {
				break
			}
		}
		slices.SortFunc(part, func(a, b layout.TableStretch) int { return cmp.Compare(a.From, b.From) })
		if err := x.walk(ctx, l, part, take); err != nil {
			return nil, err
		}
	}
	best, _ = most(best)
	return best, nil
}

// most keeps what has most series, and tells what the last of it has if it is as much as may be kept.
func most(all []Count) (kept []Count, least int64) {
	slices.SortFunc(all, func(a, b Count) int { return cmp.Or(cmp.Compare(b.Series, a.Series), strings.Compare(a.Name, b.Name)) })
	bytes := 0
	for i := range all {
		if bytes += len(all[i].Name); i == KeptValues || bytes > keptBytes {
			return all[:i], all[max(i-1, 0)].Series
		}
	}
	return all, 0
}

// addDistinct adds the hashes of values to labels: to those with fewest first.
func (x *blockIndex) addDistinct(ctx context.Context, c *Counts) error {
	order := make([]int, len(c.List))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(c.List[a].Values, c.List[b].Values) })
	left, n := int64(maxDistinct), 0
	for _, i := range order {
		if left -= c.List[i].Values; left < 0 || c.List[i].Values > KeptValues {
			break
		}
		n++
	}
	order = order[:n]
	slices.Sort(order) // as in the table
	type place struct {
		label   int // in c
		stretch *layout.TableStretch
	}
	var places []place
	var spans []span
	for _, i := range order {
		for j := range x.Label(c.List[i].Name).Stretches {
			s := &x.Label(c.List[i].Name).Stretches[j]
			if s.Values == 1 { // the header has it
				c.List[i].Distinct = append(c.List[i].Distinct, xxhash.Sum64String(s.First))
				continue
			}
			places, spans = append(places, place{i, s}), append(spans, span{s.From, s.To})
		}
	}
	err := x.pages.read(ctx, x.file, forTable, spans, func(k int, b []byte) error {
		p := places[k]
		to := &c.List[p.label]
		return x.rows(x.Label(to.Name), p.stretch, b, func(value []byte, _ span) bool {
			to.Distinct = append(to.Distinct, xxhash.Sum64(value))
			return true
		})
	})
	for i := range c.List {
		slices.Sort(c.List[i].Distinct)
	}
	return err
}
