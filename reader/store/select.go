package store

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"sort"
	"strings"
	"unsafe"

	"github.com/prometheus/prometheus/model/labels"

	layout "sluice/internal/block"
)

// Matchers become sets of series in as few and as small reads as the header allows. It gives a bound of what each matcher
// costs to look up. What is cheap is read first, all of it at one time. With the series that are left then, each of the
// others is looked up only if that reads less than the series themselves, whose labels can be asked as well.

const (
	// cheapBytes is what the table and the postings of a matcher may have to be read at once.
	cheapBytes = 512 << 10
	// roundBytes is what a round trip more to the bucket is worth.
	roundBytes = 4 << 20
)

// term is a matcher as lists of postings: of the series that it wants or, subtract, of those that it does not.
type term struct {
	matcher  *labels.Matcher
	label    *layout.HeaderLabel
	subtract bool

	values []string          // sorted: those whose lists are meant
	keep   func(string) bool // or, if values is nil, says which; nil = all

	stretches []*layout.TableStretch // that have to be read to find them
	lists     []span                 // what was found
	cost      int64                  // bytes of tables and lists, at most
	ahead     bool                   // the lists of the stretches are few: they can be read with the table
	refs      []uint32
}

// found is what the matchers select.
type found struct {
	refs []uint32          // sorted
	rest []*labels.Matcher // still to be asked of the labels
	deep bool              // it took a second look
}

// find selects the series that match. It keeps to Prometheus' rule: a label that is not there has the value "".
func (x *blockIndex) find(ctx context.Context, ms []*labels.Matcher) (found, error) {
	terms, none, err := x.terms(ms)
	if err != nil || none {
		return found{}, err
	}
	slices.SortStableFunc(terms, func(a, b *term) int {
		if a.subtract != b.subtract {
			if a.subtract {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.cost, b.cost)
	})
	first, later := []*term{terms[0]}, []*term(nil)
	enough := int64(cheapBytes)
	if terms[0].cost > enough { // then others may be as much, together they still take one round
		enough = windowPages * x.pages.size
	}
	for _, t := range terms[1:] {
		if t.cost <= enough {
			first = append(first, t)
		} else {
			later = append(later, t)
		}
	}
	if err := x.load(ctx, first); err != nil {
		return found{}, err
	}
	f := found{refs: first[0].refs}
	for _, t := range first[1:] {
		f.refs = t.apply(f.refs)
	}
	if len(f.refs) == 0 || len(later) == 0 {
		return f, nil
	}
	lazy := x.bytesOf(f.refs)
	eager := later[:0]
	for _, t := range later {
		if t.cost+roundBytes >= lazy {
			f.rest = append(f.rest, t.matcher)
		} else {
			eager = append(eager, t)
		}
	}
	if f.deep = len(eager) > 0; f.deep {
		if err := x.load(ctx, eager); err != nil {
			return found{}, err
		}
		for _, t := range eager {
			f.refs = t.apply(f.refs)
		}
	}
	return f, nil
}

// bytesOf returns how many bytes of pages the entries of refs are on.
func (x *blockIndex) bytesOf(refs []uint32) int64 {
	n, last := int64(0), int64(-1)
	for _, ref := range refs {
		if page := int64(ref) * seriesAlign / x.pages.size; page != last {
			n, last = n+1, page
		}
	}
	return n * x.pages.size
}

// apply returns the part of refs that the term leaves. It may reuse refs.
func (t *term) apply(refs []uint32) []uint32 {
	if t.subtract && len(t.refs) == 0 {
		return refs
	}
	kept := refs[:0]
	other := t.refs
	for _, ref := range refs {
		other = skipTo(other, ref)
		if has := len(other) > 0 && other[0] == ref; has != t.subtract {
			kept = append(kept, ref)
		}
	}
	return kept
}

// skipTo returns the part of the sorted refs from ref on, in few steps when it is near.
func skipTo(refs []uint32, ref uint32) []uint32 {
	step := 1
	for step < len(refs) && refs[step] < ref {
		step *= 2
	}
	from := step / 2
	if len(refs) == 0 || refs[from] >= ref && from == 0 {
		return refs
	}
	to := min(step+1, len(refs))
	i, _ := slices.BinarySearch(refs[from:to], ref)
	return refs[from+i:]
}

// terms plans the matchers; none says that no series can match. At least one of the terms does not subtract.
func (x *blockIndex) terms(ms []*labels.Matcher) (terms []*term, none bool, err error) {
	all := &term{label: x.Label(""), values: []string{""}}
	wanted := false
	if len(ms) != 1 || ms[0].Name != "" || ms[0].Value != "" {
		for _, m := range ms {
			if m.Name == "" && m.Value == "" {
				return nil, false, errors.New("unexpected matcher for all series")
			}
			t, useless := x.newTerm(m)
			switch {
			case useless:
				continue
			case !t.subtract && t.empty():
				return nil, true, nil
			case t.subtract && t.empty():
				continue
			}
			wanted = wanted || !t.subtract
			terms = append(terms, t)
		}
	}
	if !wanted {
		if all.label == nil {
			return nil, true, nil
		}
		all.plan()
		terms = append(terms, all)
	}
	return terms, false, nil
}

func (t *term) empty() bool { return len(t.stretches)+len(t.lists) == 0 }

// newTerm plans one matcher; useless says that it matches everything.
func (x *blockIndex) newTerm(m *labels.Matcher) (t *term, useless bool) {
	t = &term{matcher: m, label: x.Label(m.Name), subtract: m.Matches("")}
	if m.Name == "" {
		t.label = nil // the list of all series is nobody's label
	}
	inner := m.Type == labels.MatchEqual || m.Type == labels.MatchRegexp // the values that the text of the matcher says, not the others
	prefix := ""
	switch m.Type {
	case labels.MatchEqual, labels.MatchNotEqual:
		if inner != t.subtract {
			t.values = []string{m.Value}
		} else {
			t.keep = nil // the value is "": all that there are
		}
	default:
		switch {
		case m.Value == ".*":
			if m.Type == labels.MatchRegexp {
				return t, true
			}
			t.label = nil // nothing matches
		case inner == t.subtract && (m.Value == "" || m.Value == ".+"):
			t.keep = nil
		case m.Value == ".+": // all values, wanted or not
		default:
			set := m.SetMatches()
			if len(set) > 0 && inner != t.subtract {
				t.values = slices.DeleteFunc(slices.Clone(set), func(v string) bool { return v == "" })
				slices.Sort(t.values)
				t.values = slices.Compact(t.values)
				break
			}
			t.keep = func(v string) bool { return m.Matches(v) != t.subtract }
			if inner != t.subtract {
				prefix = literalPrefix(m)
			}
		}
	}
	if t.label != nil {
		t.planFrom(prefix)
	}
	return t, false
}

// literalPrefix returns what every value that the expression means begins with.
func literalPrefix(m *labels.Matcher) string {
	p := m.Prefix()
	// The prefix of an expression that ignores case is not literal; such a one does not begin with it.
	if p == "" || !strings.HasPrefix(m.Value, regexp.QuoteMeta(p)) {
		return ""
	}
	return p
}

func (t *term) plan() { t.planFrom("") }

// planFrom finds the stretches in which the term's values are. A value that has a stretch of its own needs no reading.
func (t *term) planFrom(prefix string) {
	take := func(s *layout.TableStretch, has func(string) bool) {
		switch {
		case s.Values > 1:
			t.stretches = append(t.stretches, s)
			t.cost += s.To - s.From + s.End - s.Lists
		case has(s.First):
			t.lists = append(t.lists, span{s.Lists, s.End})
			t.cost += s.End - s.Lists
		}
	}
	all := t.label.Stretches
	if t.values == nil {
		in := stretches(t.label, prefix)
		for i := range in {
			take(&in[i], func(v string) bool { return t.keep == nil || t.keep(v) })
		}
	}
	before := -1
	for _, v := range t.values {
		i := sort.Search(len(all), func(i int) bool { return all[i].First > v }) - 1
		if i < 0 || v > t.label.Last || i == before && all[i].Values > 1 {
			continue
		}
		before = i
		take(&all[i], func(first string) bool { return first == v })
	}
	var lists int64
	for _, s := range t.stretches {
		lists += s.End - s.Lists
	}
	t.ahead = lists <= cheapBytes/2
}

// wants says whether the list of a value is one of the term's.
func (t *term) wants(value string) bool {
	if t.values == nil {
		return t.keep == nil || t.keep(value)
	}
	_, ok := slices.BinarySearch(t.values, value)
	return ok
}

// load reads the lists of the terms: what the header does not say in one round, what is then still missing in another.
func (x *blockIndex) load(ctx context.Context, terms []*term) error {
	ahead, err := x.look(ctx, terms)
	if err != nil {
		return err
	}
	type wanted struct {
		span
		term *term
	}
	var lists []wanted
	for _, t := range terms {
		slices.SortFunc(t.lists, compareSpans)
		for _, l := range t.lists {
			if b := ahead.cut(l); b != nil {
				if t.refs, err = x.appendList(t.refs, l.from, b); err != nil {
					return err
				}
				continue
			}
			lists = append(lists, wanted{l, t})
		}
	}
	slices.SortStableFunc(lists, func(a, b wanted) int { return compareSpans(a.span, b.span) })
	spans := make([]span, len(lists))
	for i, l := range lists {
		spans[i] = l.span
	}
	err = x.pages.read(ctx, x.file, forPostings, spans, func(i int, b []byte) (err error) {
		t := lists[i].term
		t.refs, err = x.appendList(t.refs, spans[i].from, b)
		return err
	})
	if err != nil {
		return err
	}
	for _, t := range terms {
		if len(t.lists) > 1 {
			slices.Sort(t.refs)
			t.refs = slices.Compact(t.refs)
		}
	}
	return nil
}

func compareSpans(a, b span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) }

// parts are bytes of a file that were read ahead, in order.
type parts []part

type part struct {
	span
	b []byte
}

// cut returns the bytes of s, nil if they are not all there.
func (p parts) cut(s span) []byte {
	i := sort.Search(len(p), func(i int) bool { return p[i].from > s.from }) - 1
	if i < 0 || s.to > p[i].to {
		return nil
	}
	return p[i].b[s.from-p[i].from : s.to-p[i].from]
}

// look reads the stretches of the terms and adds to each the lists that it wants. Together with them it reads the lists
// that may turn out to be wanted, where those are few, and returns them.
func (x *blockIndex) look(ctx context.Context, terms []*term) (parts, error) {
	type job struct {
		span
		stretch *layout.TableStretch // nil: lists
		terms   []*term
	}
	jobs := map[*layout.TableStretch]*job{}
	var all []*job
	for _, t := range terms {
		for _, s := range t.stretches {
			j := jobs[s]
			if j == nil {
				j = &job{span: span{s.From, s.To}, stretch: s}
				jobs[s] = j
				all = append(all, j)
				if t.ahead {
					all = append(all, &job{span: span{s.Lists, s.End}})
				}
			}
			j.terms = append(j.terms, t)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	// Lists that are known already come in the same round.
	for _, t := range terms {
		for _, l := range t.lists {
			if l.to-l.from <= cheapBytes {
				all = append(all, &job{span: l})
			}
		}
	}
	slices.SortFunc(all, func(a, b *job) int { return compareSpans(a.span, b.span) })
	spans := make([]span, len(all))
	for i, j := range all {
		spans[i] = j.span
	}
	var ahead parts
	err := x.pages.read(ctx, x.file, forTable, spans, func(i int, b []byte) error {
		j := all[i]
		if j.stretch == nil {
			ahead = append(ahead, part{j.span, b})
			return nil
		}
		last, all := "", false // the last value that is wanted, unless all may be
		for _, t := range j.terms {
			if all = all || t.values == nil; !all {
				last = max(last, t.values[len(t.values)-1])
			}
		}
		return x.rows(j.terms[0].label, j.stretch, b, func(value []byte, list span) bool {
			v := unsafe.String(unsafe.SliceData(value), len(value)) // a matcher keeps nothing of it
			for _, t := range j.terms {
				if t.wants(v) {
					t.lists = append(t.lists, list)
				}
			}
			return all || v < last
		})
	})
	return ahead, err
}
