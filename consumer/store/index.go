package store

import (
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	tsdbindex "github.com/prometheus/prometheus/tsdb/index"
)

// index knows which series have which label. Refs come in ascending order, so every list is sorted.
type index struct {
	names map[string]map[string]refs
}

// refs of the series with one label. Most labels of most series are either very common or in one series only: the first
// ref needs no list.
type refs struct {
	first uint32
	more  []uint32
}

func (x *index) add(lset labels.Labels, ref uint32) {
	if x.names == nil {
		x.names = map[string]map[string]refs{}
	}
	lset.Range(func(l labels.Label) {
		values := x.names[l.Name]
		if values == nil {
			values = map[string]refs{}
			x.names[l.Name] = values
		}
		r, ok := values[l.Value]
		if ok {
			r.more = append(r.more, ref)
		} else {
			r.first = ref
		}
		values[l.Value] = r
	})
}

func (r refs) appendTo(out []uint32) []uint32 {
	return append(append(out, r.first), r.more...)
}

// list are postings over sorted refs.
type list struct {
	refs []uint32
	at   int
}

func newList(refs []uint32) tsdbindex.Postings {
	if len(refs) == 0 {
		return tsdbindex.EmptyPostings()
	}
	return &list{refs: refs, at: -1}
}

func (l *list) Next() bool {
	l.at++
	return l.at < len(l.refs)
}

func (l *list) Seek(v storage.SeriesRef) bool {
	l.at = max(l.at, 0)
	if l.at < len(l.refs) && storage.SeriesRef(l.refs[l.at]) >= v {
		return true
	}
	rest := l.refs[min(l.at, len(l.refs)):]
	l.at += sort.Search(len(rest), func(i int) bool { return storage.SeriesRef(rest[i]) >= v })
	return l.at < len(l.refs)
}

func (l *list) At() storage.SeriesRef { return storage.SeriesRef(l.refs[l.at]) }
func (*list) Err() error              { return nil }

// ofOne are the postings of one label. They are the index's own list, in which what is there does not change.
type ofOne struct {
	refs
	at int // 0 = the first ref
}

func (o *ofOne) Next() bool {
	o.at = min(o.at+1, len(o.more)+1)
	return o.at <= len(o.more)
}

func (o *ofOne) Seek(v storage.SeriesRef) bool {
	if o.at < 0 {
		o.at = 0
	}
	if o.at == 0 && storage.SeriesRef(o.first) >= v {
		return true
	}
	o.at = max(o.at, 1)
	rest := o.more[min(o.at-1, len(o.more)):]
	o.at += sort.Search(len(rest), func(i int) bool { return storage.SeriesRef(rest[i]) >= v })
	return o.at <= len(o.more)
}

func (o *ofOne) At() storage.SeriesRef {
	if o.at == 0 {
		return storage.SeriesRef(o.first)
	}
	return storage.SeriesRef(o.more[o.at-1])
}

func (*ofOne) Err() error { return nil }

// all are the postings of every series from 1 to last.
type all struct{ at, last uint32 }

func (a *all) Next() bool {
	if a.at > a.last {
		return false
	}
	a.at++
	return a.at <= a.last
}

func (a *all) Seek(v storage.SeriesRef) bool {
	if v > storage.SeriesRef(a.last) {
		a.at = a.last + 1
		return false
	}
	a.at = max(a.at, uint32(v), 1)
	return a.at <= a.last
}

func (a *all) At() storage.SeriesRef { return storage.SeriesRef(a.at) }
func (*all) Err() error              { return nil }

// sortedKeys of a map.
func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
