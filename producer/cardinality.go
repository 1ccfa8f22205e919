package producer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"sluice/internal/log"
	"sluice/internal/usage"
	"sluice/schema"
)

// cardinality keeps max_global_series_per_user and max_global_series_per_metric. The consumers count; here a series that the
// cache does not know is let through when they know it, when this producer has let it through before and they have yet to
// count it, or when there is room for it. So a series that was accepted once is not refused, and with one producer the limit is
// exact. Of several producers each takes its part of the room, twice over as senders do not spread evenly:
// together they go at most as far above the limit as they were below it when the consumers last counted (every two
// seconds). What cannot be seen from here (a limit that producers have not heard of, consumers that do not count) is
// the business of the cap in schema/cap.go.
type cardinality struct {
	table *usage.Table
	id    uint32 // of this producer, in the log

	synced  atomic.Bool             // the table has read what was there when we started
	ends    atomic.Pointer[[]int64] // of the samples topic when we started
	settled atomic.Bool             // the consumers have counted up to there
}

const (
	// settleTime is how long, after the start, is waited for consumers to count what was accepted before it.
	settleTime = time.Minute
	// pendingSlack is how far consumers must be past a series that was let through, and that they do not know, before it is given
	// up: it was not written, or not applied.
	pendingSlack = time.Minute
	// pruneInterval is how often is looked for such series.
	pruneInterval = 5 * time.Second
)

// LimitSeries makes the producer keep the limits on series, by what table knows. Without it they are not kept. Only before Run.
func (p *Producer) LimitSeries(table *usage.Table) {
	p.cardinality = &cardinality{table: table, id: rand.Uint32()}
	p.tenants.cardinality = p.cardinality
}

// learnEnds notes, once, how far the log went when this producer started.
func (c *cardinality) learnEnds(ctx context.Context, l log.Log) {
	if c == nil || c.ends.Load() != nil {
		return
	}
	if ends, err := l.Ends(ctx, log.TopicSamples); err == nil {
		c.ends.Store(&ends)
	}
}

// isSettled tells whether everything that was accepted before the start has been counted.
func (c *cardinality) isSettled(running time.Duration) bool {
	if c.settled.Load() {
		return true
	}
	if running < settleTime {
		ends := c.ends.Load()
		if ends == nil {
			return false
		}
		for p, end := range *ends {
			if at, _ := c.table.Applied(int32(p)); at < end {
				return false
			}
		}
	}
	c.settled.Store(true)
	return true
}

// ready waits until the table has read what was there when the producer started.
func (c *cardinality) ready(ctx context.Context, patience time.Duration) error {
	if c.synced.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.table.Sync(ctx); err != nil {
		return schema.Unavailable(schema.ErrLogDown, err, "it is not known yet how many series the tenant has")
	}
	c.synced.Store(true)
	return nil
}

// topMetrics is how many metric names a tenant is told of.
const topMetrics = 10

// usage tells, by the names of the limits, how many active series the tenant has and how many its largest metric has.
func (c *cardinality) usage(tenant schema.Tenant, out map[string]float64) {
	if c == nil {
		return
	}
	series, top := c.table.Usage(tenant, 1)
	out["max_global_series_per_user"], out["max_global_series_per_metric"] = float64(series), 0
	for _, m := range top {
		out["max_global_series_per_metric"] = float64(m.Series)
	}
}

// admissions are the series of a tenant that were let through here and that the consumers have not counted yet. There are never
// more than there was room for.
type admissions struct {
	mu        sync.Mutex // guards the rest
	pending   map[uint64]admitted
	perMetric map[string]int64 // of those
	seen      *usage.View      // when they were last looked through
	looked    time.Time
}

type admitted struct {
	metric    string
	partition int32
	at        int64 // ms
}

func newAdmissions() *admissions {
	return &admissions{pending: map[uint64]admitted{}, perMetric: map[string]int64{}}
}

func (a *admissions) forget(hash uint64) {
	s, ok := a.pending[hash]
	if !ok {
		return
	}
	delete(a.pending, hash)
	if a.perMetric[s.metric]--; a.perMetric[s.metric] <= 0 {
		delete(a.perMetric, s.metric)
	}
}

// prune drops what has been counted, and what never will be.
func (a *admissions) prune(t *usage.Table, tenant schema.Tenant, view *usage.View, now time.Time) {
	if view == a.seen && now.Sub(a.looked) < pruneInterval {
		return
	}
	a.seen, a.looked = view, now
	for hash, s := range a.pending {
		if t.Known(tenant, hash, s.partition) {
			a.forget(hash)
		} else if _, logTime := t.Applied(s.partition); logTime-s.at > pendingSlack.Milliseconds() {
			a.forget(hash)
		}
	}
}

// admit decides about q.series, which has that hash, goes to that partition and is not in the cache. If it is refused, it is
// counted as such. An error ends the request.
func (q *request) admit(hash uint64, partition int32) (ok bool, err error) {
	a := q.state.admissions
	if a == nil {
		return true, nil
	}
	c := q.p.cardinality
	if c.table.Known(q.tenant, hash, partition) {
		return true, nil
	}
	var metric []byte
	for i := range q.series.Labels {
		if string(q.series.Labels[i].Name) == metricName {
			metric = q.series.Labels[i].Value
			break
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.pending[hash]; ok {
		return true, nil
	}
	view := c.table.View(q.tenant)
	a.prune(c.table, q.tenant, view, q.now)
	if !view.Complete { // the consumers have just heard of the limit: nobody can tell yet what is new
		return true, nil
	}
	producers := view.Others(c.id) + 1
	var id schema.ErrorID
	var message string
	switch perUser, perMetric := int64(q.limits.MaxGlobalSeriesPerUser), int64(q.limits.MaxGlobalSeriesPerMetric); {
	case perUser > 0 && !roomFor(perUser, view.Series, int64(len(a.pending)), producers):
		id = schema.ErrMaxSeriesPerUser
		message = fmt.Sprintf("the tenant has %d active series, no room for a new one within max_global_series_per_user of %d",
			view.Series+int64(len(a.pending)), perUser)
	case perMetric > 0 && !roomFor(perMetric, view.Metrics[string(metric)], a.perMetric[string(metric)], producers):
		id = schema.ErrMaxSeriesPerMetric
		message = fmt.Sprintf("metric %.100q has %d active series, no room for a new one within max_global_series_per_metric of %d",
			metric, view.Metrics[string(metric)]+a.perMetric[string(metric)], perMetric)
	default:
		s := admitted{string(metric), partition, q.now.UnixMilli()}
		a.pending[hash] = s
		a.perMetric[s.metric]++
		q.admitted = append(q.admitted, hash)
		return true, nil
	}
	if !c.isSettled(time.Since(q.p.started)) {
		return false, schema.Unavailable(schema.ErrNotReady, nil,
			"this process has just started, %s, and it is not known yet which series were there before", message)
	}
	q.refuseParsed(id, message)
	return false, nil
}

// roomFor tells whether a producer may let one more series through, when so many have been counted and it has let through so
// many since.
func roomFor(limit, counted, pending int64, producers int) bool {
	left := limit - counted
	if n := int64(producers); left > 0 && n > 2 {
		left = (2*left + n - 1) / n
	}
	return pending < left
}

// withdrawAdmissions gives back the room that the request took, as it was not written.
func (q *request) withdrawAdmissions() {
	if len(q.admitted) == 0 {
		return
	}
	if a := q.state.admissions; a != nil {
		a.mu.Lock()
		for _, hash := range q.admitted {
			a.forget(hash)
		}
		a.mu.Unlock()
	}
	q.admitted = q.admitted[:0]
}

// limitSeries brings the tenant's limits on series and exemplars up to date: the headers that tell the consumers of them, and the memory of what was let
// through.
func (c *cardinality) limitSeries(s *tenantState, lim *schema.Limits, version []log.Header) {
	if lim.MaxExemplars != schema.DefaultExemplarLimit {
		if s.exemplarLimit != lim.MaxExemplars || s.exemplarHeader == nil {
			s.exemplarLimit, s.seriesLimit = lim.MaxExemplars, schema.SeriesLimit{}
			s.exemplarHeader = append(version[:len(version):len(version)], log.Header{Key: schema.HeaderExemplarLimit, Value: schema.AppendExemplarLimit(nil, lim.MaxExemplars)})
		}
		version = s.exemplarHeader
	} else if s.exemplarHeader != nil {
		s.exemplarHeader, s.seriesLimit = nil, schema.SeriesLimit{}
	}
	limit := schema.SeriesLimit{MaxSeries: int64(lim.MaxGlobalSeriesPerUser), MaxPerMetric: int64(lim.MaxGlobalSeriesPerMetric)}
	if c == nil || limit == (schema.SeriesLimit{}) {
		s.headers, s.seriesLimit, s.admissions = version, schema.SeriesLimit{}, nil
		return
	}
	limit.Partitions, limit.Producer = int32(len(s.shard)), c.id
	if s.admissions == nil {
		s.admissions = newAdmissions()
	}
	if s.seriesLimit != limit {
		s.seriesLimit = limit
		s.headers = append(version[:len(version):len(version)], log.Header{Key: schema.HeaderSeriesLimit, Value: limit.Append(nil)})
	}
}
