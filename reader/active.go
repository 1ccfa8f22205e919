package reader

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/common/model"

	"sluice/internal/trace"
	"sluice/schema"
)

// Requests that are under way and the last ones that are over, each reader's own: what another reader answers is known
// there. A tenant sees, and ends, its own; the endpoints under /-/ know no tenants.

// errCanceled is why a query ends that somebody has ended. Its status is the one that Prometheus gives such answers.
var errCanceled = &schema.Error{ID: schema.ErrQueryCanceled, Status: 499, Message: "the query was ended by a request to active_queries/cancel", Cause: context.Canceled}

// registry knows the requests.
type registry struct {
	prefix string // of IDs, so that one of another reader, or of before a restart, is never taken for one of ours
	now    func() time.Time

	mu     sync.Mutex // guards the rest
	last   uint64
	active map[uint64]*asking
	over   []overview // a ring of at most maxOver
	next   int        // in over, once it is full
}

// maxOver is how many requests are remembered: with texts of maxTextBytes 12 MB, of the usual length 3 MB.
const maxOver = 10_000

// overview is what is remembered of a request that is over.
type overview struct {
	tenants                 []schema.Tenant
	tenant, endpoint, query string
	span                    time.Duration // from start to end
	took                    time.Duration
	at                      time.Time
	bytes, series           int64 // fetched
}

func newRegistry() *registry {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return &registry{prefix: hex.EncodeToString(b[:]) + "-", now: time.Now, active: map[uint64]*asking{}}
}

func (g *registry) begin(a *asking) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	a.id = g.last
	g.active[a.id] = a
}

func (g *registry) end(a *asking, counts trace.Counts) {
	now := g.now()
	o := overview{
		tenants: a.opts.all(), tenant: string(a.opts.whose()), endpoint: a.endpoint, query: a.query, took: now.Sub(a.began), at: now,
		bytes: counts[trace.ChunkBytes], series: counts[trace.Series],
	}
	if from, ok := parseTime(a.start); ok {
		if to, ok := parseTime(a.end); ok {
			o.span = to.Sub(from)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.active, a.id)
	if len(g.over) < maxOver {
		g.over = append(g.over, o)
		return
	}
	g.over[g.next] = o
	g.next = (g.next + 1) % maxOver
}

// mine tells whether whoever asks for tenants may know of a query of others; nil = may know of all.
func mine(asker []schema.Tenant, others []schema.Tenant) bool {
	return asker == nil || !slices.ContainsFunc(others, func(t schema.Tenant) bool { return !slices.Contains(asker, t) })
}

// activeQuery is one element of what active_queries answers.
type activeQuery struct {
	ID       string       `json:"id"`
	Tenant   string       `json:"tenant"`
	User     string       `json:"user,omitempty"`
	Remote   string       `json:"remote_addr"`
	Endpoint string       `json:"endpoint"`
	Query    string       `json:"query"`
	Start    string       `json:"start,omitempty"`
	End      string       `json:"end,omitempty"`
	Step     string       `json:"step,omitempty"`
	State    string       `json:"state"` // queued or running
	Began    time.Time    `json:"began"`
	Duration float64      `json:"duration"` // s
	Counts   trace.Counts `json:"counts"`
}

// list returns the requests under way, the oldest first.
func (g *registry) list(asker []schema.Tenant) []activeQuery {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := []activeQuery{}
	for _, a := range g.active {
		if !mine(asker, a.opts.all()) {
			continue
		}
		q := activeQuery{
			ID: g.prefix + strconv.FormatUint(a.id, 10), Tenant: string(a.opts.whose()), User: a.user, Remote: a.remote, Endpoint: a.endpoint,
			Query: a.query, Start: a.start, End: a.end, Step: a.step, State: "running", Began: a.began.UTC(), Duration: g.now().Sub(a.began).Seconds(),
			Counts: a.trace.Counts(),
		}
		if a.in() == "queue" {
			q.State = "queued"
		}
		out = append(out, q)
	}
	slices.SortFunc(out, func(x, y activeQuery) int { return cmp.Or(x.Began.Compare(y.Began), cmp.Compare(x.ID, y.ID)) })
	return out
}

// cancel ends a request.
func (g *registry) cancel(asker []schema.Tenant, id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n, a := range g.active {
		if id == g.prefix+strconv.FormatUint(n, 10) && mine(asker, a.opts.all()) {
			a.cancel(errCanceled)
			return nil
		}
	}
	return schema.NewError(schema.ErrQueryNotFound, http.StatusNotFound, "no query %.50q is under way in this reader", id)
}

// topQuery is one element of each of top_queries' lists.
type topQuery struct {
	Tenant      string  `json:"tenant"`
	Endpoint    string  `json:"endpoint"`
	Query       string  `json:"query"`
	Range       float64 `json:"timeRangeSeconds"` // from start to end
	Count       int64   `json:"count"`
	AvgDuration float64 `json:"avgDurationSeconds"`
	SumDuration float64 `json:"sumDurationSeconds"`
	SumBytes    int64   `json:"sumFetchedBytes"` // of chunks
	SumSeries   int64   `json:"sumFetchedSeries"`
}

// topQueries is what top_queries answers.
type topQueries struct {
	TopN          int        `json:"topN"`
	MaxLifetime   string     `json:"maxLifetime"`
	Remembered    int        `json:"rememberedQueries"` // younger than maxLifetime
	ByCount       []topQuery `json:"topByCount"`
	ByAvgDuration []topQuery `json:"topByAvgDuration"`
	BySumDuration []topQuery `json:"topBySumDuration"`
	ByBytes       []topQuery `json:"topByFetchedBytes"`
}

// top sums up the requests that ended within lifetime.
func (g *registry) top(asker []schema.Tenant, n int, lifetime time.Duration) topQueries {
	type key struct {
		tenant, endpoint, query string
		span                    time.Duration
	}
	sums := map[key]*topQuery{}
	out := topQueries{TopN: n, MaxLifetime: model.Duration(lifetime).String()}
	g.mu.Lock()
	since := g.now().Add(-lifetime)
	for i := range g.over {
		o := &g.over[i]
		if o.at.Before(since) || !mine(asker, o.tenants) {
			continue
		}
		out.Remembered++
		k := key{o.tenant, o.endpoint, o.query, o.span}
		q := sums[k]
		if q == nil {
			q = &topQuery{Tenant: o.tenant, Endpoint: o.endpoint, Query: o.query, Range: o.span.Seconds()}
			sums[k] = q
		}
		q.Count++
		q.SumDuration += o.took.Seconds()
		q.SumBytes += o.bytes
		q.SumSeries += o.series
	}
	g.mu.Unlock()
	var all []topQuery
	for _, q := range sums {
		q.AvgDuration = q.SumDuration / float64(q.Count)
		all = append(all, *q)
	}
	best := func(by func(q *topQuery) float64) []topQuery {
		slices.SortFunc(all, func(a, b topQuery) int {
			return cmp.Or(cmp.Compare(by(&b), by(&a)), cmp.Compare(a.Query, b.Query), cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Range, b.Range), cmp.Compare(a.Tenant, b.Tenant))
		})
		return append([]topQuery{}, all[:min(n, len(all))]...)
	}
	out.ByCount = best(func(q *topQuery) float64 { return float64(q.Count) })
	out.ByAvgDuration = best(func(q *topQuery) float64 { return q.AvgDuration })
	out.BySumDuration = best(func(q *topQuery) float64 { return q.SumDuration })
	out.ByBytes = best(func(q *topQuery) float64 { return float64(q.SumBytes) })
	return out
}

// registerActive mounts the endpoints: the tenants' own beside the query API, those of all under /-/.
func (r *Reader) registerActive(mux *http.ServeMux) {
	own := func(serve func(http.ResponseWriter, *http.Request, []schema.Tenant)) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			tenants, err := r.tenancy.Tenants(req)
			if err != nil {
				respondError(w, req, err)
				return
			}
			serve(w, req, tenants)
		}
	}
	every := func(serve func(http.ResponseWriter, *http.Request, []schema.Tenant)) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) { serve(w, req, nil) }
	}
	for _, prefix := range prefixes {
		mux.HandleFunc("GET "+prefix+"/status/active_queries", own(r.serveActive))
		mux.HandleFunc("POST "+prefix+"/status/active_queries/cancel", own(r.serveCancel))
		mux.HandleFunc("DELETE "+prefix+"/status/active_queries/{id}", own(r.serveCancel))
		mux.HandleFunc("GET "+prefix+"/status/top_queries", own(r.serveTop))
	}
	mux.HandleFunc("GET /-/active_queries", every(r.serveActive))
	mux.HandleFunc("POST /-/active_queries/cancel", every(r.serveCancel))
	mux.HandleFunc("GET /-/top_queries", every(r.serveTop))
}

func (r *Reader) serveActive(w http.ResponseWriter, req *http.Request, asker []schema.Tenant) {
	respondData(w, req, r.registry.list(asker))
}

func (r *Reader) serveCancel(w http.ResponseWriter, req *http.Request, asker []schema.Tenant) {
	id := req.PathValue("id")
	if id == "" {
		req.Body = http.MaxBytesReader(w, req.Body, maxFormBytes)
		id = req.FormValue("id")
	}
	if err := r.registry.cancel(asker, id); err != nil {
		respondError(w, req, err)
		return
	}
	respondData(w, req, nil)
}

const (
	defaultTop         = 20
	maxTop             = 1000
	defaultTopLifetime = 10 * time.Minute
)

func (r *Reader) serveTop(w http.ResponseWriter, req *http.Request, asker []schema.Tenant) {
	n, lifetime := defaultTop, defaultTopLifetime
	if s := req.FormValue("topN"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 || n > maxTop {
			respondError(w, req, badData("topN is %.50q, must be a number from 1 to %d", s, maxTop))
			return
		}
	}
	if s := req.FormValue("maxLifetime"); s != "" {
		d, err := model.ParseDuration(s)
		if err != nil || d <= 0 {
			respondError(w, req, badData("maxLifetime is %.50q, must be a duration such as 10m", s))
			return
		}
		lifetime = time.Duration(d)
	}
	respondData(w, req, r.registry.top(asker, n, lifetime))
}

// all returns the tenants that the query is about.
func (o *options) all() []schema.Tenant {
	if len(o.tenants) == 0 {
		return []schema.Tenant{o.tenant}
	}
	return o.tenants
}

func (a *asking) String() string {
	return fmt.Sprintf("%s %s %s..%s/%s %s", a.opts.whose(), a.endpoint, a.start, a.end, a.step, a.query)
}
