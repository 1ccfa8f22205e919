// Package producer is the write path: in come remote-write requests of versions 1.0 and 2.0 and metrics by OTLP, out go records for the
// partitions of the samples topic, acknowledged by the log before the sender gets its answer. It also writes the ticks by
// which log time advances. It keeps no samples of its own and never reads what it has written.
//
// A request goes through: serve (handler.go) → walk (walk.go) → validate (validate.go) → commit (commit.go).
package producer

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/internal/ha"
	"sluice/internal/limits"
	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/schema"
)

// Producer accepts samples and writes them to the log.
type Producer struct {
	cfg     Config
	log     log.Log
	limits  *limits.Limits
	tenancy web.Tenancy
	logger  *slog.Logger
	metrics *metrics
	now     func() time.Time

	partitions atomic.Int32 // of the samples topic, as many as are written to, 0 = not known yet; it never becomes smaller
	growth     growth
	topicID    atomic.Pointer[string] // incarnation of the topic that the caches' definitions are in; nil = not known yet
	budget     budget
	tenants    tenants
	rejects    rejects
	tracker    *ha.Tracker // nil: no HA pairs

	cardinality *cardinality // nil: the limits on series are not kept
	pool        sync.Pool    // of *request
	headers     []log.Header
	started     time.Time
}

// New makes a Producer that writes to l. inUse may be nil: then new partitions are written to at once.
func New(cfg Config, l log.Log, inUse InUse, lim *limits.Limits, tenancy web.Tenancy, logger *slog.Logger, reg prometheus.Registerer) (*Producer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("producer: %w", err)
	}
	p := &Producer{
		cfg: cfg, log: l, limits: lim, tenancy: tenancy, logger: logger, now: time.Now,
		growth:  growth{inUse: inUse},
		budget:  budget{limit: cfg.MaxInflightBytes},
		tenants: tenants{states: map[schema.Tenant]*tenantState{}},
		rejects: rejects{tenants: map[schema.Tenant]map[schema.ErrorID]*rejected{}},
		headers: []log.Header{{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}},
		started: time.Now(),
	}
	p.tenants.headers = []log.Header{{Key: schema.HeaderVersion, Value: []byte{byte(cfg.RecordVersion)}}}
	if cfg.RecordVersion == schema.RecordV2 {
		p.tenants.series = &seriesBudget{limit: cfg.MaxKnownSeries}
	}
	p.metrics = newMetrics(reg, func() float64 { return float64(p.budget.used.Load()) })
	p.pool.New = func() any { return newRequest(p) }
	return p, nil
}

// Register mounts the endpoints that senders know: those of Cortex and Mimir, of Cortex before 1.0, of Prometheus and of
// Thanos, which do the same; those of Mimir and of Prometheus for OTLP; and what a tenant may ask about its own writing.
func (p *Producer) Register(mux *http.ServeMux) {
	for _, path := range []string{"/api/v1/push", "/api/prom/push", "/api/v1/write", "/api/v1/receive"} {
		mux.HandleFunc(path, p.serve)
	}
	mux.HandleFunc("GET /api/v1/user_limits", p.serveLimits)
	mux.HandleFunc("GET /api/v1/rejects", p.serveRejects)
	for _, path := range []string{"/otlp/v1/metrics", "/api/v1/otlp/v1/metrics"} {
		mux.HandleFunc(path, p.serveOTLP)
	}
}

// Run keeps the number of partitions up to date and, but with Config.NoTicks, writes a tick into each partition every
// Config.TickInterval, until ctx ends. A log that does not answer is logged and asked again.
func (p *Producer) Run(ctx context.Context) error {
	tick := time.NewTicker(p.cfg.TickInterval)
	defer tick.Stop()
	refresh := time.NewTicker(p.cfg.PartitionRefresh)
	defer refresh.Stop()
	forget := time.NewTicker(forgetInterval)
	defer forget.Stop()
	p.refresh(ctx)
	p.tick(ctx)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-refresh.C:
			p.refresh(ctx)
			p.tenants.sweep(p.now())
		case <-tick.C:
			p.tick(ctx)
		case <-forget.C:
			p.tenants.forgetSeries(p.clock(p.now()))
		}
	}
}

// forgetInterval is how often series that do not come any more are looked for.
const forgetInterval = 2 * time.Minute

// clock counts seconds by the monotonic clock, from 1.
func (p *Producer) clock(now time.Time) uint32 { return uint32(now.Sub(p.started)/time.Second) + 1 }

// refresh asks for the number of partitions.
func (p *Producer) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.AppendTimeout)
	defer cancel()
	p.cardinality.learnEnds(ctx, p.log)
	if err := p.learn(ctx); err != nil && context.Cause(ctx) != context.Canceled {
		p.logger.Warn("number of partitions not known", "topic", log.TopicSamples, "err", err)
	}
}

func (p *Producer) learn(ctx context.Context) error {
	n, err := p.log.Partitions(ctx, log.TopicSamples)
	if err != nil {
		return fmt.Errorf("ask for the partitions of %s: %w", log.TopicSamples, err)
	}
	id, err := p.log.TopicID(ctx, log.TopicSamples)
	if err != nil {
		return fmt.Errorf("ask for the identity of %s: %w", log.TopicSamples, err)
	}
	if before := p.topicID.Swap(&id); before != nil && *before != id {
		p.logger.Warn("the topic was made anew: every series is defined again", "topic", log.TopicSamples)
		p.tenants.forgetDefinitions()
	}
	if n, err = p.growth.adopt(ctx, p.partitions.Load(), n, p.now()); err != nil {
		return err
	}
	for {
		old := p.partitions.Load()
		if n <= old || p.partitions.CompareAndSwap(old, n) {
			if n > old && old > 0 {
				p.logger.Info("partitions were added", "before", old, "now", n)
			}
			p.metrics.partitions.Set(float64(max(n, old)))
			return nil
		}
	}
}

// partitionCount returns the number of partitions, asking the log if nobody has yet.
func (p *Producer) partitionCount(ctx context.Context) (int32, error) {
	if n := p.partitions.Load(); n > 0 {
		return n, nil
	}
	err := p.learn(ctx)
	if n := p.partitions.Load(); err == nil && n > 0 {
		return n, nil
	}
	return 0, schema.Unavailable(schema.ErrLogDown, err, "the log does not say how many partitions it has")
}

// tick writes one tick into every partition.
func (p *Producer) tick(ctx context.Context) {
	if p.cfg.NoTicks {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.AppendTimeout)
	defer cancel()
	if _, err := p.mark(ctx, schema.KindTick); err != nil && context.Cause(ctx) != context.Canceled {
		p.metrics.tickFailures.Inc()
		p.logger.Warn("ticks not written", "err", err)
	}
}

// Seal ends the generation of every partition by a seal record, and returns the offsets of the seals by partition. On an
// error some partitions may have got theirs; a second seal does no harm.
func (p *Producer) Seal(ctx context.Context) (map[int32]int64, error) {
	recs, err := p.mark(ctx, schema.KindSeal)
	if err != nil {
		return nil, err
	}
	offsets := make(map[int32]int64, len(recs))
	for _, r := range recs {
		offsets[r.Partition] = r.Offset
	}
	return offsets, nil
}

// mark appends a record without samples to every partition.
func (p *Producer) mark(ctx context.Context, kind string) ([]log.Record, error) {
	n, err := p.partitionCount(ctx)
	if err != nil {
		return nil, err
	}
	headers := append([]log.Header{
		{Key: schema.HeaderKind, Value: []byte(kind)}, {Key: schema.HeaderGeneration, Value: p.cfg.Generation.Encode()},
	}, p.headers...)
	recs := make([]log.Record, n)
	for i := range recs {
		recs[i] = log.Record{Partition: int32(i), Headers: headers}
	}
	if err := p.log.Append(ctx, log.TopicSamples, recs); err != nil {
		return nil, fmt.Errorf("append %s: %w", kind, err)
	}
	return recs, nil
}
