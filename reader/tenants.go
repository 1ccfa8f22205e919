package reader

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/util/httputil"

	"sluice/internal/catalog"
	"sluice/internal/fetch"
	"sluice/internal/ha"
	"sluice/internal/limits"
	"sluice/internal/plan"
	"sluice/internal/usage"
	"sluice/internal/writes"
	"sluice/schema"
)

// What is known of tenants beside their samples: for the page, and for who writes scripts. All of it is out of the log, so any
// reader can answer, but for the time of the newest sample, which consumers are asked for.

// Known is where a reader has it from. All of it is run by the caller, and may be shared with other stages of the process.
type Known struct {
	Catalog *catalog.Catalog
	Usage   *usage.Table
	Writes  *writes.Table
	HA      *ha.Tracker
	Merges  *Merges
	Limits  *limits.Limits
	Plan    func() plan.Config // what compactors go by
}

// known is Known, and whether it is up to date.
type known struct {
	Known
	synced atomic.Bool
}

// ShowTenants makes Register mount the endpoints about tenants and their blocks. Only before Register.
func (r *Reader) ShowTenants(k Known) { r.known = &known{Known: k} }

// syncTimeout bounds how long the first question waits for what was there before this process.
const syncTimeout = 5 * time.Second

// ready waits, once, until all that was told before this process started is known.
func (k *known) ready(ctx context.Context) error {
	if k.synced.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	for _, sync := range []func(context.Context) error{k.Usage.Sync, k.Writes.Sync, k.HA.Sync, k.Merges.Sync, k.Catalog.Sync} {
		if err := sync(ctx); err != nil {
			return schema.Unavailable(schema.ErrNotReady, err, "this process has yet to read what others have told")
		}
	}
	k.synced.Store(true)
	return nil
}

// registerTenants mounts them. They do not queue with queries: they cost little, and are wanted most when queries wait.
func (r *Reader) registerTenants(mux *http.ServeMux) {
	if r.known == nil {
		return
	}
	mount := func(pattern string, serve func(*http.Request) (any, error)) {
		mux.Handle(pattern, httputil.CompressionHandler{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			err := r.Ready()
			if err == nil {
				err = r.known.ready(req.Context())
			}
			var data any
			if err == nil {
				data, err = serve(req)
			}
			if err != nil {
				respondError(w, req, err)
				return
			}
			respondData(w, req, data)
		})})
	}
	own := func(serve func(*http.Request, schema.Tenant) (any, error)) func(*http.Request) (any, error) {
		return func(req *http.Request) (any, error) {
			tenants, err := r.tenancy.Tenants(req)
			if err != nil {
				return nil, err
			}
			if len(tenants) > 1 {
				return nil, badData("this is about one tenant at a time, not %d", len(tenants))
			}
			return serve(req, tenants[0])
		}
	}
	for _, prefix := range prefixes {
		mount("GET "+prefix+"/status/tenant", own(r.serveTenant))
		mount("GET "+prefix+"/status/blocks", own(r.serveBlocks))
		mount("GET "+prefix+"/status/blocks/{id}", own(r.serveBlock))
	}
	mount("GET /-/tenants", r.serveTenants)
}

// tenantRow is one element of what /-/tenants answers. Times are in ms; 0 = never.
type tenantRow struct {
	Tenant       schema.Tenant `json:"tenant"`
	Series       int64         `json:"active_series"`
	HeadSeries   int64         `json:"head_series"`
	Samples      float64       `json:"samples_per_second"`
	Blocks       int           `json:"blocks"`
	BlockBytes   int64         `json:"block_bytes"`
	BlockSamples uint64        `json:"block_samples"`
	Oldest       int64         `json:"oldest"`
	Newest       int64         `json:"newest"`
	Rejected     int64         `json:"rejected"`
	LastRejected int64         `json:"last_rejected"`
}

// tenantOrders are by what /-/tenants sorts, the most first.
var tenantOrders = map[string]func(a, b *tenantRow) int{
	"active_series":      func(a, b *tenantRow) int { return cmp.Compare(b.Series, a.Series) },
	"samples_per_second": func(a, b *tenantRow) int { return cmp.Compare(b.Samples, a.Samples) },
	"block_bytes":        func(a, b *tenantRow) int { return cmp.Compare(b.BlockBytes, a.BlockBytes) },
	"rejected":           func(a, b *tenantRow) int { return cmp.Compare(b.Rejected, a.Rejected) },
	"tenant":             func(a, b *tenantRow) int { return 0 },
}

// tenantRows is how many rows an answer has unless the caller says so; at most maxTenants.
const tenantRows = 100

// serveTenants answers who there is, out of all that is known.
func (r *Reader) serveTenants(req *http.Request) (any, error) {
	by := cmp.Or(req.FormValue("sort"), "active_series")
	order := tenantOrders[by]
	if order == nil {
		return nil, badData("sort is %.50q, must be active_series, samples_per_second, block_bytes, rejected or tenant", by)
	}
	limit, err := between(req, "limit", tenantRows, 0, maxTenants)
	if err != nil {
		return nil, err
	}
	offset, err := between(req, "offset", 0, 0, 1<<31)
	if err != nil {
		return nil, err
	}
	rows := r.known.tenants(req.FormValue("search"))
	slices.SortFunc(rows, func(a, b *tenantRow) int { return cmp.Or(order(a, b), cmp.Compare(a.Tenant, b.Tenant)) })
	page := rows[min(offset, len(rows)):]
	return map[string]any{"total": len(rows), "tenants": page[:min(limit, len(page))]}, nil
}

// between reads a number in [least, most].
func between(req *http.Request, name string, fallback, least, most int) (int, error) {
	s := req.FormValue(name)
	if s == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return 0, badData("%s is %.50q, must be a number from %d to %d", name, s, least, most)
	}
	return n, nil
}

// tenants returns a row for each tenant that anything is known of and whose name contains search.
func (k *known) tenants(search string) []*tenantRow {
	blocks, series, written := k.Catalog.Totals(), k.Usage.Totals(), k.Writes.Totals()
	all := make(map[schema.Tenant]*tenantRow, max(len(blocks), len(series), len(written)))
	row := func(t schema.Tenant) *tenantRow {
		r := all[t]
		if r == nil {
			r = &tenantRow{Tenant: t}
			all[t] = r
		}
		return r
	}
	for t, sum := range blocks {
		r := row(t)
		r.Blocks, r.BlockBytes, r.BlockSamples, r.Oldest, r.Newest = sum.Blocks, sum.Bytes, sum.Samples, sum.Oldest, sum.Newest
	}
	for t, sum := range series {
		r := row(t)
		r.Series, r.HeadSeries = sum.Series, sum.InHeads
	}
	for t, sum := range written {
		r := row(t)
		r.Samples, r.Rejected, r.LastRejected = sum.Samples, sum.Rejected, sum.LastRejected
	}
	rows := make([]*tenantRow, 0, len(all))
	for t, r := range all {
		if strings.Contains(string(t), search) {
			rows = append(rows, r)
		}
	}
	return rows
}

// tenantStatus is what status/tenant answers.
type tenantStatus struct {
	Tenant     schema.Tenant       `json:"tenant"`
	Now        int64               `json:"now"`              // ms, by the reader's clock
	Newest     int64               `json:"newest,omitempty"` // time of the newest sample, ms; 0 = not known
	Limits     map[string]any      `json:"limits"`           // by YAML name
	Source     limits.Source       `json:"source"`           // of them
	Usage      map[string]float64  `json:"usage"`            // what of them is in use, over all producers
	TopMetrics []usage.MetricUsage `json:"top_metrics"`
	Rejects    []writes.Rejected   `json:"rejects"`
	HA         []haCluster         `json:"ha"`
}

// haCluster is an HA pair. Times are the log's, in ms.
type haCluster struct {
	Cluster    string  `json:"cluster"`
	Replica    string  `json:"replica"` // the elected one
	ElectedAt  int64   `json:"elected_at"`
	ReceivedAt int64   `json:"received_at"`
	Timeout    float64 `json:"failover_timeout"` // s
	Epoch      int64   `json:"epoch"`            // counts the elections
}

const topMetrics = 10

// serveTenant answers what a tenant may do, what it does, and what was refused.
func (r *Reader) serveTenant(req *http.Request, tenant schema.Tenant) (any, error) {
	k, lim := r.known, r.known.Limits.For(tenant)
	s := tenantStatus{
		Tenant: tenant, Now: r.now().UnixMilli(), Limits: limits.All(lim), Source: k.Limits.Source(tenant), Rejects: k.Writes.Rejects(tenant), HA: []haCluster{},
	}
	s.Newest = r.newestSample(req.Context(), tenant)
	for _, c := range k.HA.Snapshot() {
		if c.Tenant == string(tenant) {
			s.HA = append(s.HA, haCluster{c.Cluster, c.Replica, c.ElectedAt.UnixMilli(), c.ReceivedAt.UnixMilli(), c.FailoverTime, c.Epoch})
		}
	}
	var series int64
	series, s.TopMetrics = k.Usage.Usage(tenant, topMetrics)
	rates := k.Writes.Rates(tenant)
	s.Usage = map[string]float64{
		"ingestion_rate": rates.Samples, "native_histogram_ingestion_rate": rates.Histograms, "request_rate": rates.Requests,
		"max_global_series_per_user": float64(series), "max_global_series_per_metric": 0,
	}
	if len(s.TopMetrics) > 0 {
		s.Usage["max_global_series_per_metric"] = float64(s.TopMetrics[0].Series)
	}
	if lim.AcceptHASamples {
		s.Usage["ha_max_clusters"] = float64(len(s.HA))
	}
	return s, nil
}

// newestWait bounds how long an answer waits for consumers to say how new their samples are.
const newestWait = 2 * time.Second

// newestSample is the time of the tenant's newest sample, ms: of those in blocks, and of those that consumers hold, if they say so in time.
func (r *Reader) newestSample(ctx context.Context, tenant schema.Tenant) (newest int64) {
	for _, e := range r.known.Catalog.Blocks(tenant) {
		newest = max(newest, e.MaxTime-1)
	}
	ctx, cancel := context.WithTimeout(ctx, newestWait)
	defer cancel()
	opts := &options{tenant: tenant, partial: true}
	q := &query{reader: r, opts: opts}
	got, err := ask(ctx, q, question[[]fetch.Interval]{
		put: func(ctx context.Context, s *source) ([]fetch.Interval, error) { return s.held(ctx, opts) },
	})
	if err != nil {
		return newest // what is known without them; whoever queries is told why
	}
	for _, held := range got.answers {
		for _, h := range held {
			if h.Maxt < math.MaxInt64 { // else it cannot tell
				newest = max(newest, h.Maxt)
			}
		}
	}
	_ = got.close() // nothing is open
	return newest
}
