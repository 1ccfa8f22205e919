package reader

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"sluice/internal/trace"
	"sluice/schema"
)

// logSlow writes a line about a request that took long: what explain=true would have said, in short.
func (r *Reader) logSlow(a *asking, w *answer, took time.Duration) {
	if r.cfg.SlowQuery == 0 || r.cfg.SlowQuery > 0 && took < r.cfg.SlowQuery {
		return
	}
	report := a.trace.Report()
	seconds := func(name string) slog.Attr { return slog.Float64(name+"_seconds", report.SecondsOf(name)) }
	attrs := []slog.Attr{
		slog.String("tenant", string(a.opts.whose())), slog.String("user", a.user), slog.String("remote", a.remote),
		slog.String("endpoint", a.endpoint), slog.String("query", a.query), slog.String("start", a.start), slog.String("end", a.end), slog.String("step", a.step),
		slog.Int("status", w.code()), slog.Int64("answer_bytes", w.bytes), slog.Float64("seconds", took.Seconds()),
		seconds("queue"), seconds("parse"), seconds("plan"), seconds("select"), seconds("evaluate"), seconds("encode"), seconds("send"),
	}
	for c, n := range report.Total {
		attrs = append(attrs, slog.Int64(trace.Counter(c).String(), n))
	}
	covers := a.opts.coverage.told(0)
	attrs = append(attrs, slog.Int("blocks", covers.Blocks), slog.Int("missing", len(covers.Missing)), slog.String("consistency", covers.Consistency))
	if err := a.opts.noted(); err != nil {
		attrs = append(attrs, slog.String("err", shorten(err.Error(), maxTextBytes)))
	}
	r.logger.LogAttrs(context.Background(), slog.LevelInfo, "slow query", attrs...)
}

// tenantMetrics count by tenant what its queries took: what one would bill. A tenant that has asked nothing for a while is
// forgotten, and beyond so many all others are one.
type tenantMetrics struct {
	queries, seconds, series, chunks, bytes, samples, bucketBytes *prometheus.CounterVec

	mu    sync.Mutex
	seen  map[schema.Tenant]time.Time // guarded by mu
	swept time.Time                   // guarded by mu
}

const (
	idleTenant        = time.Hour
	maxMeteredTenants = 5000
	otherTenants      = schema.Tenant("__other__")
)

func newTenantMetrics(reg prometheus.Registerer) *tenantMetrics {
	f := promauto.With(reg)
	vec := func(name, help string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_reader_tenant_" + name + "_total", Help: help}, []string{"tenant"})
	}
	return &tenantMetrics{
		queries: vec("queries", "Requests for data, by tenant."), seconds: vec("query_seconds", "Time from request to answer, waiting included, by tenant."),
		series: vec("fetched_series", "Series fetched for queries, by tenant."), chunks: vec("fetched_chunks", "Chunks fetched for queries, by tenant."),
		bytes: vec("fetched_chunk_bytes", "Bytes of chunks fetched for queries, by tenant."), samples: vec("samples", "Samples that queries read, by tenant."),
		bucketBytes: vec("bucket_bytes", "Bytes that came from the bucket for queries, by tenant."),
		seen:        map[schema.Tenant]time.Time{},
	}
}

// all returns the counters.
func (m *tenantMetrics) all() []*prometheus.CounterVec {
	return []*prometheus.CounterVec{m.queries, m.seconds, m.series, m.chunks, m.bytes, m.samples, m.bucketBytes}
}

// name returns under which name the tenant is counted at the time now, and forgets those that are idle.
func (m *tenantMetrics) name(tenant schema.Tenant, now time.Time) schema.Tenant {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.swept) > time.Minute {
		m.swept = now
		for t, last := range m.seen {
			if now.Sub(last) > idleTenant {
				delete(m.seen, t)
				for _, vec := range m.all() {
					vec.DeleteLabelValues(string(t))
				}
			}
		}
	}
	if _, known := m.seen[tenant]; !known && len(m.seen) >= maxMeteredTenants {
		tenant = otherTenants
	}
	m.seen[tenant] = now
	return tenant
}

func (m *tenantMetrics) count(tenant schema.Tenant, now time.Time, took time.Duration, c trace.Counts) {
	name := string(m.name(tenant, now))
	m.queries.WithLabelValues(name).Inc()
	m.seconds.WithLabelValues(name).Add(took.Seconds())
	m.series.WithLabelValues(name).Add(float64(c[trace.Series]))
	m.chunks.WithLabelValues(name).Add(float64(c[trace.Chunks]))
	m.bytes.WithLabelValues(name).Add(float64(c[trace.ChunkBytes]))
	m.samples.WithLabelValues(name).Add(float64(c[trace.Samples]))
	m.bucketBytes.WithLabelValues(name).Add(float64(c[trace.BucketBytes]))
}
