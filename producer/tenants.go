package producer

import (
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"sluice/internal/log"
	"sluice/schema"
)

// tenantState is what the producer remembers of a tenant between requests. Losing it costs nothing but a full burst.
type tenantState struct {
	key        []byte // the Kafka key
	ingestion  *rate.Limiter
	histograms *rate.Limiter
	requests   *rate.Limiter

	rates *rates

	shard     schema.Shard
	shardN    int32 // what shard was made for
	shardSize int

	cache *seriesCache // nil: records of version 1
	ha    *haGroups    // nil: the tenant has no HA pairs

	headers     []log.Header // of its records
	seriesLimit schema.SeriesLimit

	exemplarLimit  int          // in exemplarHeader
	exemplarHeader []log.Header // nil while the limit is the default
	admissions     *admissions  // nil: no limit on series

	lastUsed time.Time
}

// tenants holds the states of those seen lately.
type tenants struct {
	series      *seriesBudget // nil: records of version 1
	headers     []log.Header  // of records
	cardinality *cardinality  // nil: the limits on series are not kept

	mu     sync.Mutex // guards states and the fields of each; what the fields point to is safe or never changed
	states map[schema.Tenant]*tenantState
}

const (
	// maxTenantStates bounds the map: anybody can invent tenants. Above it, one that happens to come first is forgotten.
	maxTenantStates = 10_000
	// tenantIdle is longer than any burst takes to fill up again at sane settings.
	tenantIdle = 10 * time.Minute
)

// get returns a copy of the tenant's state, with its limiters and its shard brought up to date.
func (t *tenants) get(tenant schema.Tenant, lim *schema.Limits, partitions int32, now time.Time) tenantState {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.states[tenant]
	if s == nil {
		if len(t.states) >= maxTenantStates {
			for victim := range t.states {
				t.drop(victim)
				break
			}
		}
		s = &tenantState{key: []byte(tenant), rates: &rates{}}
		t.states[tenant] = s
	}
	s.lastUsed = now
	burst, _ := lim.IngestionBurst()
	s.ingestion = adjust(s.ingestion, lim.IngestionRate, burst, now)
	s.histograms = adjust(s.histograms, lim.NativeHistogramIngestionRate, lim.NativeHistogramIngestionBurstSize, now)
	s.requests = adjust(s.requests, lim.RequestRate, lim.RequestBurstSize, now)
	if s.shard == nil || s.shardN != partitions || s.shardSize != lim.PartitionShardSize {
		s.shard = schema.ShardOf(tenant, partitions, lim.PartitionShardSize)
		s.shardN, s.shardSize = partitions, lim.PartitionShardSize
		s.forgetSeries()
	}
	s.adjustHA(lim)
	t.cardinality.limitSeries(s, lim, t.headers)
	if t.series == nil {
		return *s
	}
	ofSeries := lim.OfSeries()
	if s.cache != nil && (s.cache.limits != ofSeries || s.cache.worn()) {
		s.forgetSeries()
	}
	if s.cache == nil {
		s.cache = newSeriesCache(&ofSeries, partitions, t.series)
	}
	return *s
}

// peek returns a copy of the tenant's state as it is, false if there is none.
func (t *tenants) peek(tenant schema.Tenant) (tenantState, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.states[tenant]; s != nil {
		return *s, true
	}
	return tenantState{}, false
}

// forgetSeries gives up what is known of the tenant's series.
func (s *tenantState) forgetSeries() {
	if s.cache != nil {
		s.cache.drop()
		s.cache = nil
	}
}

// forgetDefinitions gives up what is known of all series: the log does not have their definitions any more.
func (t *tenants) forgetDefinitions() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.states {
		s.forgetSeries()
	}
}

// drop forgets a tenant.
func (t *tenants) drop(name schema.Tenant) {
	t.states[name].forgetSeries()
	delete(t.states, name)
}

// forgetSeries forgets the series that have not come for a while, of a full cache those that have not come for less.
func (t *tenants) forgetSeries(now uint32) {
	if t.series == nil {
		return
	}
	idle := uint32(schema.RefLife / time.Second)
	if t.series.used.Load() >= t.series.limit {
		idle /= 6
	}
	t.mu.Lock()
	var caches []*seriesCache
	for _, s := range t.states {
		if s.cache != nil {
			caches = append(caches, s.cache)
		}
	}
	t.mu.Unlock()
	for _, c := range caches {
		c.forget(now, idle)
	}
}

// sweep forgets the tenants that have not been seen for a while.
func (t *tenants) sweep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, s := range t.states {
		if now.Sub(s.lastUsed) > tenantIdle {
			t.drop(name)
		}
	}
}

// adjust returns l with this rate and burst, nil when there is no limit.
func adjust(l *rate.Limiter, perSecond float64, burst int, now time.Time) *rate.Limiter {
	if perSecond == 0 {
		return nil
	}
	if burst == 0 {
		burst = int(min(max(10*perSecond, 1), 1<<40))
	}
	if l == nil {
		return rate.NewLimiter(rate.Limit(perSecond), burst)
	}
	if l.Limit() != rate.Limit(perSecond) {
		l.SetLimitAt(now, rate.Limit(perSecond))
	}
	if l.Burst() != burst {
		l.SetBurstAt(now, burst)
	}
	return l
}

// allow takes n out of l or says why not. what is what is counted, rateName and burstName are the limits' YAML names.
func allow(l *rate.Limiter, n int, now time.Time, id schema.ErrorID, what, rateName, burstName string) error {
	if l == nil || n == 0 || l.AllowN(now, n) {
		return nil
	}
	if n > l.Burst() { // not 429: senders that retry on that would for ever
		return schema.NewError(id, http.StatusRequestEntityTooLarge,
			"this one request has %d %s, more than %s allows at once (%d): send smaller requests", n, what, burstName, l.Burst())
	}
	e := schema.NewError(id, http.StatusTooManyRequests,
		"%d more %s are above %s of %v a second with %s of %d", n, what, rateName, float64(l.Limit()), burstName, l.Burst())
	missing := max(0, float64(n)-l.TokensAt(now))
	e.RetryAfter = time.Duration(min(max(missing/float64(l.Limit()), 1), 3600) * float64(time.Second))
	return e
}
