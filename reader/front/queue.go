package front

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"sluice/schema"
)

// Queue lets so many requests work at one time, and the tenants take turns: within a tenant the first comes first, and of
// those that wait the tenant that is at work least is next. A quarter of the places is never given to a tenant that has the
// others already, so that nobody waits for one tenant alone.
type Queue struct {
	places int // in all
	most   int // for one tenant

	mu      sync.Mutex
	busy    int
	tenants map[schema.Tenant]*turns // those that work or wait
	order   []*turns                 // those that wait; the one that had its turn last comes last

	waiting prometheus.Gauge
	waited  prometheus.Histogram
	refused prometheus.Counter
}

// turns is one tenant in the queue.
type turns struct {
	tenant  schema.Tenant
	working int
	waiting []*ticket
}

// ticket is one request that waits.
type ticket struct {
	ready chan struct{} // closed when it has a place
}

// NewQueue makes a queue with so many places, at least one.
func NewQueue(places int, reg prometheus.Registerer) *Queue {
	places = max(places, 1)
	f := promauto.With(reg)
	return &Queue{
		places: places, most: places - places/4, tenants: map[schema.Tenant]*turns{},
		waiting: f.NewGauge(prometheus.GaugeOpts{Name: "sluice_reader_queue_length", Help: "Requests that wait for their turn."}),
		waited: f.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_reader_queue_duration_seconds", Help: "Time that requests waited for their turn.",
			Buckets: append([]float64{0}, prometheus.ExponentialBuckets(0.001, 4, 9)...),
		}),
		refused: f.NewCounter(prometheus.CounterOpts{Name: "sluice_reader_queue_refused_total", Help: "Requests refused because too many of their tenant were waiting."}),
	}
}

// Enter waits for a place and returns how to leave it, which may be called more than once. outstanding is how many requests
// of the tenant may wait (0 = any number); a 429 says that there were so many. It returns when ctx ends.
func (q *Queue) Enter(ctx context.Context, tenant schema.Tenant, outstanding int) (leave func(), err error) {
	q.mu.Lock()
	t := q.tenants[tenant]
	if t == nil {
		t = &turns{tenant: tenant}
		q.tenants[tenant] = t
	}
	if len(t.waiting) == 0 && q.free(t) {
		q.take(t)
		q.mu.Unlock()
		q.waited.Observe(0)
		return q.leaver(t), nil
	}
	if outstanding > 0 && len(t.waiting) >= outstanding {
		n := len(t.waiting)
		q.mu.Unlock()
		q.refused.Inc()
		return nil, &schema.Error{
			ID: schema.ErrTooManyOutstanding, Status: http.StatusTooManyRequests, RetryAfter: time.Second,
			Message: fmt.Sprintf("%d requests of the tenant are waiting for their turn, the limit is %d (max_outstanding_requests_per_tenant)", n, outstanding),
		}
	}
	mine := &ticket{ready: make(chan struct{})}
	if len(t.waiting) == 0 {
		q.order = append(q.order, t)
	}
	t.waiting = append(t.waiting, mine)
	q.mu.Unlock()
	q.waiting.Inc()
	defer q.waiting.Dec()
	start := time.Now()
	select {
	case <-mine.ready:
		q.waited.Observe(time.Since(start).Seconds())
		return q.leaver(t), nil
	case <-ctx.Done():
		q.giveUp(t, mine)
		return nil, context.Cause(ctx)
	}
}

// Spare returns how to leave a place that is free now and that nobody waits for; false if there is none. It is for more
// hands for a request that has a place already: who waits for none cannot hang on one.
func (q *Queue) Spare(tenant schema.Tenant) (leave func(), ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := q.tenants[tenant]
	if len(q.order) > 0 || t == nil || !q.free(t) {
		return nil, false
	}
	q.take(t)
	return q.leaver(t), true
}

// Waiting returns how many requests of the tenant wait.
func (q *Queue) Waiting(tenant schema.Tenant) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := q.tenants[tenant]; t != nil {
		return len(t.waiting)
	}
	return 0
}

// free says whether t may have another place. q.mu is held, as in all that follows.
func (q *Queue) free(t *turns) bool { return q.busy < q.places && t.working < q.most }

func (q *Queue) take(t *turns) {
	q.busy++
	t.working++
}

func (q *Queue) leaver(t *turns) func() {
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.busy--
		t.working--
		q.next()
		q.forget(t)
	})
}

// next gives places to those that wait.
func (q *Queue) next() {
	for q.busy < q.places {
		best := -1
		for i, t := range q.order {
			if q.free(t) && (best < 0 || t.working < q.order[best].working) {
				best = i
			}
		}
		if best < 0 {
			return
		}
		t := q.order[best]
		q.order = slices.Delete(q.order, best, best+1)
		first := t.waiting[0]
		if t.waiting = t.waiting[1:]; len(t.waiting) > 0 {
			q.order = append(q.order, t)
		}
		q.take(t)
		close(first.ready)
	}
}

// giveUp takes a request that nobody wants any more out of the queue.
func (q *Queue) giveUp(t *turns, mine *ticket) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-mine.ready: // it got its place at this very moment
		q.busy--
		t.working--
		q.next()
	default:
		t.waiting = slices.DeleteFunc(t.waiting, func(w *ticket) bool { return w == mine })
		if len(t.waiting) == 0 {
			q.order = slices.DeleteFunc(q.order, func(o *turns) bool { return o == t })
		}
	}
	q.forget(t)
}

func (q *Queue) forget(t *turns) {
	if t.working == 0 && len(t.waiting) == 0 && q.tenants[t.tenant] == t {
		delete(q.tenants, t.tenant)
	}
}
