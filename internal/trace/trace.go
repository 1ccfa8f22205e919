// Package trace follows one query. In go counts (series, chunks, bytes, requests to the bucket) and spans (what was done,
// from when to when), wherever a stage works for the query; out come the totals, a tree that says where time and bytes went,
// and an error as soon as a total passes the tenant's limit. A query without a trace in its context costs a look-up and
// nothing else. It never stops anything itself, and what it says is for reading: no answer depends on it, but for limits.
package trace

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/schema"
)

// Counter is something that is counted.
type Counter int

// The counters.
const (
	Series         Counter = iota // fetched from heads and blocks, before anything is merged
	Chunks                        // fetched
	ChunkBytes                    // of these
	Samples                       // taken out of chunks
	Memory                        // bytes held for the query, estimated; goes down again when they are let go
	BucketRequests                // to the object store
	BucketBytes                   // that came from it
	PageHits                      // pages of blocks that were in memory
	PageMisses                    // pages that were not
	DiskHits                      // of those, pages that were on the local disk
	CacheHits                     // parts of the answer out of the results cache
	CacheMisses                   // parts that had to be worked out
	counters
)

var counterNames = [counters]string{
	"series", "chunks", "chunk_bytes", "samples", "memory_bytes", "bucket_requests", "bucket_bytes", "page_hits", "page_misses", "disk_hits", "cache_hits", "cache_misses",
}

// String returns the name that explain shows.
func (c Counter) String() string { return counterNames[c] }

// Counts are totals by counter.
type Counts [counters]int64

// MarshalJSON writes those that are not zero, by name.
func (c Counts) MarshalJSON() ([]byte, error) {
	named := map[string]int64{}
	for i, n := range c {
		if n != 0 {
			named[counterNames[i]] = n
		}
	}
	return json.Marshal(named)
}

// UnmarshalJSON is MarshalJSON's inverse; names that are not known are left out.
func (c *Counts) UnmarshalJSON(b []byte) error {
	var named map[string]int64
	if err := json.Unmarshal(b, &named); err != nil {
		return err
	}
	*c = Counts{}
	for i, name := range counterNames {
		c[i] = named[name]
	}
	return nil
}

// Limit is the most that a counter may reach.
type Limit struct {
	Max  int64          // 0 = none
	ID   schema.ErrorID // of the error
	Name string         // of the limit, as the tenant knows it
}

// Query is what is known of one query. All methods may be called at the same time, and on a nil Query.
type Query struct {
	counts   [counters]atomic.Int64
	peak     atomic.Int64 // of Memory
	limits   [counters]Limit
	root     Span
	spans    atomic.Int64
	maxSpans int64
	share    share // of the process' memory
}

const (
	// maxSpans bounds what is remembered of one query; what comes after counts for the totals only.
	maxSpans = 2000
	// maxPartSpans is the same for what another process did for it, which has to travel.
	maxPartSpans = 200
	// maxText is how many bytes of an error or of a value in words are kept.
	maxText = 300
)

// New begins to follow a query.
func New(name string, limits map[Counter]Limit) *Query {
	q := &Query{maxSpans: maxSpans}
	for c, l := range limits {
		q.limits[c] = l
	}
	q.root = Span{query: q, name: name, start: time.Now()}
	return q
}

// NewPart begins to follow what this process does for a query of another one, which gets the Report.
func NewPart(name string) *Query {
	q := New(name, nil)
	q.maxSpans = maxPartSpans
	return q
}

// Counts returns the totals so far.
func (q *Query) Counts() (c Counts) {
	if q == nil {
		return c
	}
	for i := range c {
		c[i] = q.counts[i].Load()
	}
	return c
}

// PeakMemory returns the most that Memory has been, in bytes.
func (q *Query) PeakMemory() int64 {
	if q == nil {
		return 0
	}
	return q.peak.Load()
}

// add counts n, and returns an error once the total is above its limit.
func (q *Query) add(c Counter, n int64) error {
	total := q.counts[c].Add(n)
	if c == Memory {
		for peak := q.peak.Load(); total > peak && !q.peak.CompareAndSwap(peak, total); peak = q.peak.Load() {
		}
		if err := q.share.take(n); err != nil {
			return limitError{err}
		}
	}
	if l := &q.limits[c]; l.Max > 0 && total > l.Max && n > 0 {
		return limitError{schema.NewError(l.ID, http.StatusUnprocessableEntity, "query needs %d %s or more, above the limit of %d (%s)", total, c.noun(), l.Max, l.Name)}
	}
	return nil
}

// limitError says that the query of this process passed a limit.
type limitError struct{ err error }

func (e limitError) Error() string { return e.err.Error() }
func (e limitError) Unwrap() error { return e.err }

// IsLimit says whether err is, or wraps, the error of a count of this process: then there is nobody else to ask.
func IsLimit(err error) bool { return errors.As(err, new(limitError)) }

func (c Counter) noun() string {
	switch c {
	case ChunkBytes:
		return "bytes of chunks"
	case Memory:
		return "bytes of memory"
	}
	return c.String()
}

// Root returns the query's own span.
func (q *Query) Root() *Span {
	if q == nil {
		return nil
	}
	return &q.root
}

type key struct{}

// With makes the query of ctx q.
func With(ctx context.Context, q *Query) context.Context {
	if q == nil {
		return ctx
	}
	return context.WithValue(ctx, key{}, &q.root)
}

// From returns the query of ctx, nil if there is none.
func From(ctx context.Context) *Query {
	if s := Current(ctx); s != nil {
		return s.query
	}
	return nil
}

// Current returns the span of ctx, nil if there is none.
func Current(ctx context.Context) *Span {
	s, _ := ctx.Value(key{}).(*Span)
	return s
}

// Add counts n for the query and the span of ctx. The error says which limit of the tenant was passed: give it back as it is.
func Add(ctx context.Context, c Counter, n int64) error { return Current(ctx).Add(c, n) }

// Start begins a part of the work. The span is nil, and ctx as it was, if nobody follows the query. Whoever started it ends it.
func Start(ctx context.Context, name string) (context.Context, *Span) {
	s := Current(ctx).Child(name)
	if s == nil {
		return ctx, nil
	}
	return context.WithValue(ctx, key{}, s), s
}

// Span is a part of the work. All methods may be called at the same time, and on a nil Span.
type Span struct {
	query  *Query
	name   string
	start  time.Time
	counts [counters]atomic.Int64
	busy   atomic.Int64 // ns

	mu       sync.Mutex // guards what follows
	took     time.Duration
	ended    bool
	err      string
	values   map[string]any
	children []*Span
	remote   []*Report
	dropped  int // children beyond maxSpans
}

// Child begins a part of this part.
func (s *Span) Child(name string) *Span {
	if s == nil {
		return nil
	}
	child := &Span{query: s.query, name: name, start: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.query.spans.Add(1) > s.query.maxSpans {
		s.dropped++ // it counts for the query all the same
	} else {
		s.children = append(s.children, child)
	}
	return child
}

// Add counts n for the span and its query; the error as in the package's Add.
func (s *Span) Add(c Counter, n int64) error {
	if s == nil || n == 0 {
		return nil
	}
	if s != &s.query.root {
		s.counts[c].Add(n)
	}
	return s.query.add(c, n)
}

// Set says something about the span that JSON can hold.
func (s *Span) Set(key string, value any) {
	if s == nil {
		return
	}
	if text, ok := value.(string); ok {
		value = cut(text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = map[string]any{}
	}
	s.values[key] = value
}

// Busy notes that the span worked from since until now. A span that is read from bit by bit says so what of its time was its own.
func (s *Span) Busy(since time.Time) {
	if s != nil {
		s.busy.Add(int64(time.Since(since)))
	}
}

// Attach adds what another process did for this span, and to the query's counts what is counted where it is done. Series,
// chunks and their bytes are counted by whoever they arrive at, and memory is over there.
func (s *Span) Attach(r *Report) error {
	if s == nil || r == nil {
		return nil
	}
	if n := r.size(); s.query.spans.Add(n) > s.query.maxSpans {
		s.query.spans.Add(1 - n)
		r = &Report{Name: r.Name, Seconds: r.Seconds, Error: r.Error, Total: r.Total, Dropped: int(n) - 1}
	}
	s.mu.Lock()
	s.remote = append(s.remote, r)
	s.mu.Unlock()
	var first error
	for c, n := range r.Total {
		switch Counter(c) {
		case Series, Chunks, ChunkBytes, Memory:
			continue
		}
		if n > 0 {
			if err := s.query.add(Counter(c), n); err != nil && first == nil {
				first = err
			}
		}
	}
	return first
}

// End ends the span; err may be nil. A second End changes nothing.
func (s *Span) End(err error) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended, s.took = true, time.Since(s.start)
	if err != nil {
		s.err = cut(err.Error())
	}
}

// cut keeps texts short.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
}

// Report is a span as it is shown and sent: times in seconds, Start from the start of the whole.
type Report struct {
	Name     string         `json:"name"`
	Start    float64        `json:"start"`
	Seconds  float64        `json:"seconds"`
	Busy     float64        `json:"busy,omitempty"`    // of Seconds, those in which it worked, where it says so
	Running  bool           `json:"running,omitempty"` // not ended when this was written
	Error    string         `json:"error,omitempty"`
	Values   map[string]any `json:"values,omitempty"`
	Counts   Counts         `json:"counts,omitzero"`   // of this span alone
	Total    Counts         `json:"total,omitzero"`    // of the whole, in the topmost
	Dropped  int            `json:"dropped,omitempty"` // spans that were too many
	Children []*Report      `json:"children,omitempty"`
}

// Report returns what is known so far.
func (q *Query) Report() *Report {
	if q == nil {
		return nil
	}
	r := q.root.report(q.root.start)
	r.Total = q.Counts()
	r.Total[Memory] = q.PeakMemory()
	return r
}

func (s *Span) report(origin time.Time) *Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &Report{
		Name: s.name, Start: s.start.Sub(origin).Seconds(), Seconds: s.took.Seconds(), Busy: time.Duration(s.busy.Load()).Seconds(), Running: !s.ended, Error: s.err,
		Values: maps.Clone(s.values), Dropped: s.dropped,
	}
	if !s.ended {
		r.Seconds = time.Since(s.start).Seconds()
	}
	for i := range s.counts {
		r.Counts[i] = s.counts[i].Load()
	}
	for _, child := range s.children {
		r.Children = append(r.Children, child.report(origin))
	}
	r.Children = append(r.Children, s.remote...)
	return r
}

// size is the number of spans.
func (r *Report) size() int64 {
	n := int64(1)
	for _, child := range r.Children {
		n += child.size()
	}
	return n
}

// SecondsOf returns how long the spans of that name took together, this one and all below; those side by side add up.
func (r *Report) SecondsOf(name string) (sum float64) {
	if r == nil {
		return 0
	}
	if r.Name == name {
		sum = r.Seconds
	}
	for _, child := range r.Children {
		sum += child.SecondsOf(name)
	}
	return sum
}
