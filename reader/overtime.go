package reader

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"sluice/internal/cardinality"
	"sluice/internal/fetch"
	"sluice/internal/trace"
	"sluice/reader/store"
	"sluice/schema"
)

// Cardinality over time: how many series the labels of a tenant, or the values of one, had in each window of time. Blocks say
// it by the tables of their indices, of which no postings are read; what is in no block yet, the consumers count.

const (
	shortWindow = 2 * time.Hour
	longWindow  = 24 * time.Hour
	shortRange  = 48 * time.Hour // up to which windows are short
	maxWindows  = 60
	// defaultOverTime is the range of a question that names none.
	defaultOverTime = 24 * time.Hour
	// headWindows is how many windows consumers count their series for: the newest of those that they have samples of.
	headWindows = 4
	// keptNames is how many labels or values of a window go on to the answer.
	keptNames = store.KeptValues
)

// overTime is a question.
type overTime struct {
	*cardinalityRequest
	label   string // "" = by label name
	search  string
	sort    string
	width   int64 // ms
	windows []timeWindow
	many    []bool // windows that several blocks may have series in
}

// timeWindow is one element of the answer's windows.
type timeWindow struct {
	Start  int64  `json:"start"` // ms
	End    int64  `json:"end"`   // ms, exclusive
	Series int64  `json:"series"`
	Source string `json:"source,omitempty"` // blocks, heads, both; none: nothing is known of it
}

type overTimeAnswer struct {
	Tenant    schema.Tenant   `json:"tenant"`
	Label     string          `json:"label"`
	Windows   []timeWindow    `json:"windows"`
	Total     int             `json:"total"`
	Entries   []overTimeEntry `json:"entries"`
	Truncated bool            `json:"truncated"`
}

// overTimeEntry is a label, or a value of the label that was asked for.
type overTimeEntry struct {
	Name   string  `json:"name"`
	Series []int64 `json:"series"`           // by window
	Values []int64 `json:"values,omitempty"` // of a label, by window
	Max    int64   `json:"max"`
	First  int64   `json:"first"` // in the first window that anything is known of
	Last   int64   `json:"last"`
	Growth int64   `json:"growth"`
}

// serveCardinalityOverTime answers /cardinality/over_time.
func (r *Reader) serveCardinalityOverTime(w http.ResponseWriter, req *http.Request) {
	q, err := r.readOverTime(req)
	if err != nil {
		respondError(w, req, err)
		return
	}
	answer, warnings, err := r.countOverTime(req.Context(), q)
	if err != nil {
		respondError(w, req, err)
		return
	}
	respondData(w, req, answer, warnings...)
}

func (r *Reader) readOverTime(req *http.Request) (*overTime, error) {
	c, err := r.readCardinality(req, true)
	if err != nil {
		return nil, err
	}
	if len(c.matchers) > 0 {
		return nil, badData("'selector' is not supported here: the tables of blocks do not tell which series have two labels")
	}
	q := &overTime{cardinalityRequest: c, label: req.FormValue("label"), search: req.FormValue("search"), sort: req.FormValue("sort")}
	if q.label != "" && !model.UTF8Validation.IsValidLabelName(q.label) {
		return nil, badData("invalid 'label' param '%.100s'", q.label)
	}
	switch q.sort {
	case "":
		q.sort = "max"
	case "max", "growth", "name":
	default:
		return nil, badData("'sort' param is %.50q, must be max, growth or name", q.sort)
	}
	end, start := r.now(), time.Time{}
	for name, to := range map[string]*time.Time{"start": &start, "end": &end} {
		if s := req.FormValue(name); s != "" {
			var ok bool
			if *to, ok = parseTime(s); !ok {
				return nil, badData("cannot parse %.50q as '%s'", s, name)
			}
		}
	}
	if req.FormValue("start") == "" {
		start = end.Add(-defaultOverTime)
	}
	opts, err := optionsFrom(req.Context())
	if err != nil {
		return nil, err
	}
	from, to := max(start.UnixMilli(), r.earliest(opts)), end.UnixMilli()
	if from > to {
		return nil, badData("'start' is after 'end', or after all that may be shown")
	}
	q.width, q.windows = windowsOf(from, to)
	return q, nil
}

// windowsOf cuts [from, to] (ms, both inclusive) into windows that are aligned to the epoch, and so to days.
func windowsOf(from, to int64) (width int64, windows []timeWindow) {
	width = shortWindow.Milliseconds()
	if to-from > shortRange.Milliseconds() {
		width = longWindow.Milliseconds()
	}
	count := func() int64 { return floorTo(to, width)/width - floorTo(from, width)/width + 1 }
	for count() > maxWindows {
		width += longWindow.Milliseconds()
	}
	for at := floorTo(from, width); at <= to; at += width {
		windows = append(windows, timeWindow{Start: at, End: at + width})
	}
	return width, windows
}

// floorTo returns the multiple of step at or before n.
func floorTo(n, step int64) int64 {
	if n%step < 0 {
		return n - n%step - step
	}
	return n - n%step
}

// countedSource is what a block or a consumer said.
type countedSource struct {
	entry  *schema.BlockEntry
	counts *store.Counts
	heads  map[int]*cardinality.Result // by window
}

func (r *Reader) countOverTime(ctx context.Context, q *overTime) (_ *overTimeAnswer, warnings []string, err error) {
	opts, err := optionsFrom(ctx)
	if err != nil {
		return nil, nil, err
	}
	blocks, _ := r.cat.Snapshot(q.tenant)
	q.many = make([]bool, len(q.windows))
	seen := make([]int, len(q.windows))
	for _, e := range blocks {
		for _, i := range q.touched(e.MinTime, e.MaxTime) {
			seen[i]++
			q.many[i] = seen[i] > 1 || q.windows[i].End > r.now().UnixMilli() // or there are heads
		}
	}
	qry := &query{reader: r, opts: opts}
	got, err := ask(ctx, qry, question[countedSource]{
		blocks: true, mint: q.windows[0].Start, maxt: q.windows[len(q.windows)-1].End - 1,
		only: func(*schema.BlockEntry) bool { return true }, // tables are small: whoever asks reads them
		put: func(ctx context.Context, s *source) (countedSource, error) {
			if s.entry != nil {
				return r.countBlock(ctx, q, s.entry)
			}
			return s.countHeads(ctx, opts, q)
		},
	})
	if err != nil {
		return nil, nil, qry.told(err)
	}
	for _, w := range got.warnings.AsErrors() {
		warnings = append(warnings, w.Error())
	}
	return q.answer(got.answers), warnings, got.close()
}

// touched returns the windows that [from, to) is in.
func (q *overTime) touched(from, to int64) (windows []int) {
	for i := range q.windows {
		if w := &q.windows[i]; from < w.End && max(to, from+1) > w.Start {
			windows = append(windows, i)
		}
	}
	return windows
}

func (r *Reader) countBlock(ctx context.Context, q *overTime, e *schema.BlockEntry) (c countedSource, err error) {
	c.entry = e
	if q.label != "" {
		c.counts, err = r.blocks.CountValues(ctx, e, q.label)
	} else {
		distinct := slices.ContainsFunc(q.touched(e.MinTime, e.MaxTime), func(i int) bool { return q.many[i] })
		c.counts, err = r.blocks.CountLabels(ctx, e, distinct)
	}
	if err == nil {
		err = trace.Add(ctx, trace.Memory, c.counts.Bytes())
	}
	return c, err
}

// countHeads asks a consumer for its series in the newest windows that it has samples of which are in no block yet. All that
// it holds counts there, so that a series which ended shortly before the last block does as well.
func (s *source) countHeads(ctx context.Context, opts *options, q *overTime) (c countedSource, err error) {
	held, err := s.held(ctx, opts)
	if err != nil {
		return c, err
	}
	c.heads = map[int]*cardinality.Result{}
	for i := len(q.windows) - 1; i >= 0 && len(c.heads) < headWindows; i-- {
		w := &q.windows[i]
		if !slices.ContainsFunc(held, func(h fetch.Interval) bool { return h.Mint < w.End && h.Maxt >= w.Start }) {
			continue
		}
		ask := cardinality.Query{Since: w.Start, Until: w.End - 1, All: q.label == ""}
		if q.label != "" {
			ask.Values = []string{q.label}
		}
		if c.heads[i], err = s.src.Cardinality(ctx, opts.tenant, ask, s.askAll()); err != nil {
			return c, err
		}
	}
	return c, nil
}

// answer puts together what the sources said, window by window.
func (q *overTime) answer(sources []countedSource) *overTimeAnswer {
	a := &overTimeAnswer{Tenant: q.tenant, Label: q.label, Windows: q.windows, Entries: []overTimeEntry{}}
	type point struct {
		window         int
		series, values int64
	}
	points := map[string][]point{}
	first, last := -1, -1 // windows that anything is known of
	for i := range q.windows {
		w := &q.windows[i]
		sum := newWindowSum(q.label)
		for _, s := range sources {
			if h := s.heads[i]; h != nil {
				sum.addHeads(h)
			}
			if s.entry != nil && s.entry.MinTime < w.End && max(s.entry.MaxTime, s.entry.MinTime+1) > w.Start {
				sum.addBlock(s.entry, s.counts)
			}
		}
		series := sum.close()
		w.Source, w.Series = sum.source(), series[""]
		a.Truncated = a.Truncated || sum.truncated
		delete(series, "")
		if w.Source != "" {
			if last = i; first < 0 {
				first = i
			}
		}
		for name, n := range series {
			if q.search == "" || strings.Contains(name, q.search) {
				points[name] = append(points[name], point{i, n, sum.values(name)})
			}
		}
	}
	a.Total = len(points)
	for name, ps := range points {
		e := overTimeEntry{Name: name, Max: math.MinInt64}
		for _, p := range ps {
			e.Max = max(e.Max, p.series)
			if p.window == first {
				e.First = p.series
			}
			if p.window == last {
				e.Last = p.series
			}
		}
		e.Growth = e.Last - e.First
		a.Entries = append(a.Entries, e)
	}
	slices.SortFunc(a.Entries, func(x, y overTimeEntry) int {
		switch q.sort {
		case "name":
			return strings.Compare(x.Name, y.Name)
		case "growth":
			return cmp.Or(cmp.Compare(y.Growth, x.Growth), cmp.Compare(y.Max, x.Max), strings.Compare(x.Name, y.Name))
		}
		return cmp.Or(cmp.Compare(y.Max, x.Max), strings.Compare(x.Name, y.Name))
	})
	a.Entries = a.Entries[:min(len(a.Entries), q.limit)]
	for i := range a.Entries {
		e := &a.Entries[i]
		e.Series = make([]int64, len(q.windows))
		if q.label == "" {
			e.Values = make([]int64, len(q.windows))
		}
		for _, p := range points[e.Name] {
			if e.Series[p.window] = p.series; q.label == "" {
				e.Values[p.window] = p.values
			}
		}
	}
	return a
}
