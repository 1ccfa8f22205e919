package consumer

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"sluice/internal/log"
	"sluice/internal/usage"
	"sluice/schema"
)

// The count of active series: what the partitions tell their trackers, and what becomes of it. internal/usage says how
// series are counted; the producers keep the limits. Here is only the cap behind them.

// markSeries counts a series. hash is scratch space, returned grown.
func markSeries(t *usage.Tracker, tenant schema.Tenant, lbls []schema.Label, hash []byte) []byte {
	if t == nil {
		return hash
	}
	h, hash := schema.SeriesHash(tenant, lbls, hash)
	var metric []byte
	for i := range lbls {
		if string(lbls[i].Name) == model.MetricNameLabel {
			metric = lbls[i].Value
			break
		}
	}
	t.Mark(tenant, h, metric)
	return hash
}

// limitOf returns the limit on series that the record carries, none if it does not, and tells the tracker.
func (p *partition) limitOf(rec *log.Record, tenant schema.Tenant) (schema.SeriesLimit, error) {
	raw, ok := rec.Header(schema.HeaderSeriesLimit)
	if !ok {
		return schema.SeriesLimit{}, nil
	}
	limit, err := schema.DecodeSeriesLimit(raw)
	if err == nil {
		p.usage.Limit(tenant, limit)
	}
	return limit, err
}

// countV1 counts the series of a record of version 1 that is not applied.
func (p *partition) countV1(tenant schema.Tenant, value []byte) {
	for rest := value; ; {
		f, next, err := schema.NextField(rest)
		if err != nil || f.Raw == nil {
			return
		}
		rest = next
		if !f.Meta && p.scratch.Parse(f.Payload) == nil {
			p.refs.hash = markSeries(p.usage, tenant, p.scratch.Labels, p.refs.hash)
		}
	}
}

// mark counts a series of a record of version 1, known to the head or not, once in each round of the tracker.
func (a *appender) mark(s *schema.Series, ref uint32) {
	h, round := a.head, a.usage.Round()
	if a.usage == nil || int(ref) < len(h.marked) && h.marked[ref] == round {
		return
	}
	if s.ParseLabels() != nil {
		return
	}
	h.hash = markSeries(a.usage, h.tenant, s.Labels, h.hash)
	if ref == 0 {
		return // it has no place yet, and is counted again when it comes again
	}
	for int(ref) >= len(h.marked) {
		h.marked = append(h.marked, 0)
	}
	h.marked[ref] = round
}

// full tells whether a new series is above the cap. What was decided depends on the record and on the head, which both
// follow from the log alone.
func (a *appender) full(lset labels.Labels, t *tally) bool {
	h := a.head
	if a.cap == 0 || int64(h.series.Len()) < a.cap {
		return false
	}
	t.capped++
	if a.usage == nil {
		return true
	}
	var lbls []schema.Label
	lset.Range(func(l labels.Label) { lbls = append(lbls, schema.Label{Name: []byte(l.Name), Value: []byte(l.Value)}) })
	var hash uint64
	hash, h.hash = schema.SeriesHash(h.tenant, lbls, h.hash)
	a.usage.Refuse(h.tenant, hash)
	return true
}

// tellCapped logs, once per generation, that a tenant has met its cap. The samples are counted and stay in the log for as
// long as that is kept.
func (p *partition) tellCapped(g *generation, tenant schema.Tenant, limit schema.SeriesLimit, t *tally) {
	if t.capped == 0 {
		return
	}
	g.mu.RLock()
	part := g.tenants[tenant]
	g.mu.RUnlock()
	if part.head.capTold {
		return
	}
	part.head.capTold = true
	p.logger.Error("a tenant has met the safety cap, its new series are left out until the generation ends",
		"tenant", tenant, "series", part.head.series.Len(), "max_global_series_per_user", limit.MaxSeries)
}

// usageInterval is how often is told what has changed.
const usageInterval = 2 * time.Second

// usageBatch is how many bytes are appended at once.
const usageBatch = 1 << 20

// usageLoop tells of the series of the partitions that are applied as far as the log goes.
func (c *Consumer) usageLoop(ctx context.Context) {
	tick := time.NewTicker(usageInterval)
	defer tick.Stop()
	applied := map[int32]int64{} // in the last beat
	for {
		for _, p := range c.speaking() {
			if err := c.tellUsage(ctx, p, applied); err != nil && ctx.Err() == nil {
				c.logger.Warn("telling the number of series", "partition", p.id, "err", err)
			}
		}
		c.meter.update(c.open())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// speaking returns the partitions that this consumer answers for and goes on to.
func (c *Consumer) speaking() []*partition {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var all []*partition
	for _, id := range slices.Sorted(maps.Keys(c.holdings)) {
		if h := c.holdings[id]; !h.leaving {
			all = append(all, h.partition)
		}
	}
	return all
}

func (c *Consumer) tellUsage(ctx context.Context, p *partition, last map[int32]int64) error {
	cov, ok := p.coverage() // before the tracker, which may only be further
	if !ok {
		return nil
	}
	src := usage.Source{Instance: c.cfg.InstanceID, Partition: p.id, TopicID: cov.TopicID, Applied: cov.Applied}
	told, known := last[p.id]
	recs := p.usage.Collect(src, !known || told != cov.Applied)
	if err := appendUsage(ctx, c.log, recs); err != nil {
		p.usage.Failed()
		return err
	}
	last[p.id] = cov.Applied
	return nil
}

// appendUsage appends the records in order, a batch at a time.
func appendUsage(ctx context.Context, l log.Log, recs []log.Record) error {
	for len(recs) > 0 {
		n, size := 0, 0
		for n < len(recs) && (n == 0 || size+len(recs[n].Value) <= usageBatch) {
			size += len(recs[n].Key) + len(recs[n].Value)
			n++
		}
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := l.Append(limited, log.TopicControl, recs[:n])
		cancel()
		if err != nil {
			return err
		}
		recs = recs[n:]
	}
	return nil
}

// withdrawUsage takes back what was said of a partition that is somebody else's now.
func (c *Consumer) withdrawUsage(ctx context.Context, p *partition) {
	if err := appendUsage(ctx, c.log, p.usage.Withdraw(usage.Source{Instance: c.cfg.InstanceID, Partition: p.id})); err != nil && ctx.Err() == nil {
		c.logger.Warn("taking back the number of series", "partition", p.id, "err", err)
	}
}

// usageMeter keeps the gauges of tenants, for the largest of them.
type usageMeter struct {
	active, heads *prometheus.GaugeVec
	shown         map[schema.Tenant]bool
}

// maxMeteredTenants bounds the tenants with a gauge of their own: anybody can invent tenants.
const (
	maxMeteredTenants = 1000
	otherTenants      = schema.Tenant("__other__")
)

func newUsageMeter(m *metrics) *usageMeter {
	return &usageMeter{active: m.activeSeries, heads: m.headSeries, shown: map[schema.Tenant]bool{}}
}

func (m *usageMeter) update(parts []*partition) {
	counts := map[schema.Tenant]usage.Count{}
	for _, p := range parts {
		p.usage.Active(counts)
	}
	names := slices.SortedFunc(maps.Keys(counts), func(a, b schema.Tenant) int {
		return cmp.Or(cmp.Compare(counts[b].Active, counts[a].Active), cmp.Compare(a, b))
	})
	if len(names) > maxMeteredTenants {
		var rest usage.Count
		for _, name := range names[maxMeteredTenants:] {
			rest.Active += counts[name].Active
			rest.InHeads += counts[name].InHeads
		}
		counts[otherTenants] = rest
		names = append(names[:maxMeteredTenants], otherTenants)
	}
	shown := make(map[schema.Tenant]bool, len(names))
	for _, name := range names {
		m.active.WithLabelValues(string(name)).Set(float64(counts[name].Active))
		m.heads.WithLabelValues(string(name)).Set(float64(counts[name].InHeads))
		shown[name] = true
	}
	for name := range m.shown {
		if !shown[name] {
			m.active.DeleteLabelValues(string(name))
			m.heads.DeleteLabelValues(string(name))
		}
	}
	m.shown = shown
}
