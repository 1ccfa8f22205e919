// Package queried is how one knows which metrics somebody asks for. In go, at the readers, the matchers of each selector of a
// request; a Tracker counts the requests for each metric name of a tenant and says in the control topic what has changed.
// Out comes, at every reader, how often each name was asked for by whichever reader, and when last. It never looks
// at series, and does nothing for a sample or a series.
//
// # What is in the topic
//
//	queried/<tenant>/<chunk>/<instance>   a part of the tenant's names; JSON: {"since":s,"names":{"up":[requests,minute]}}
//
// Each reader speaks under keys of its own, and goes on from them after a restart; readers add them up. Names are
// spread over chunks by their hash, so that a change tells some hundred names again and not all. New names are told within a
// minute, larger numbers within ten. What has not been told again for 30 days is of a reader that is gone: any reader
// withdraws it.
package queried

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"sluice/internal/log"
	"sluice/schema"
)

const (
	// maxNames bounds the names that are counted of a tenant, maxTenants the tenants, and maxTotal the names of all of them: some
	// 40 MB. Beyond a bound what was asked for least recently is forgotten.
	maxNames   = 20_000
	maxTenants = 1000
	maxTotal   = 200_000
	// maxOthers bounds the names that other readers have told of, some 50 MB; what is beyond does not count here.
	maxOthers = 500_000
	// maxNameBytes is the longest name that is counted.
	maxNameBytes = 512
	// maxPerRequest bounds the names of one request.
	maxPerRequest = 1000

	// countsFor is how many intervals numbers may be larger than what was told.
	countsFor = 10
	// tellAgain is when what has not changed is told again, and goneAfter when whoever told it is gone.
	tellAgain = 7 * 24 * time.Hour
	goneAfter = 30 * 24 * time.Hour
)

// Config of a Tracker. Zero values take the defaults.
type Config struct {
	Instance string        // of this process: the name under which its counts are found again
	Interval time.Duration // between two looks at what has changed; default 1 min
	Now      func() time.Time
}

// Usage is what is known of a metric name.
type Usage struct {
	Requests uint64 // requests that had a selector with this name
	Last     int64  // when the last of them was, s since the epoch; a minute exact, or better
}

// Stats is what is known of a tenant.
type Stats struct {
	Since int64 // when counting began, s since the epoch
	Names map[string]Usage
}

// Request gathers the names that one request asks for. Its methods may be called on nil, and from many goroutines.
type Request struct {
	mu    sync.Mutex
	names map[tenantName]struct{} // guarded by mu
}

type tenantName struct {
	tenant schema.Tenant
	name   string
}

// Note takes the matchers of a selector. Those that name no metric, or leave open which, say nothing.
func (q *Request) Note(tenant schema.Tenant, ms []*labels.Matcher) {
	if q == nil {
		return
	}
	names := namesOf(ms)
	if len(names) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.names == nil {
		q.names = make(map[tenantName]struct{}, len(names))
	}
	for _, name := range names {
		if len(q.names) < maxPerRequest {
			q.names[tenantName{tenant, name}] = struct{}{}
		}
	}
}

// namesOf returns the metric names that matchers ask for: {__name__="a"}, {__name__=~"a|b"}.
func namesOf(ms []*labels.Matcher) (names []string) {
	for _, m := range ms {
		if m.Name != model.MetricNameLabel {
			continue
		}
		switch m.Type {
		case labels.MatchEqual:
			names = []string{m.Value}
		case labels.MatchRegexp:
			names = m.SetMatches()
		}
		if len(names) > 0 {
			break
		}
	}
	kept := names[:0:0]
	for _, name := range names {
		fits := name != "" && len(name) <= maxNameBytes && utf8.ValidString(name)
		for _, m := range ms {
			fits = fits && (m.Name != model.MetricNameLabel || m.Matches(name))
		}
		if fits {
			kept = append(kept, name)
		}
	}
	return kept
}

// Tracker counts, tells, and knows what others have told.
type Tracker struct {
	cfg     Config
	log     log.Log
	control *log.Table
	logger  *slog.Logger

	mu      sync.Mutex // guards the rest
	since   int64      // s
	tenants map[schema.Tenant]*tenantNames
	total   int                  // names of all tenants
	others  map[recordKey]*chunk // of other readers; of this one too until it goes on from there
	told    map[string]struct{}  // keys that are to be withdrawn
	known   int                  // names in others
	newest  int64                // log time of the newest record, ms
	loaded  bool                 // our own records have been taken over
	cut     bool                 // others did not fit, which was logged
}

// tenantNames is what this reader has counted of a tenant.
type tenantNames struct {
	since  int64
	names  map[string]*list.Element // of *counted
	order  list.List                // the one that was asked for last is in front
	chunks []chunkState
}

type counted struct {
	name string
	Usage
}

// chunkState says what is to be told of a chunk.
type chunkState struct {
	names   bool  // there are others than were told
	numbers bool  // some are larger than was told
	at      int64 // when it was told, s
}

// New makes a tracker that writes to l and knows what control, the table of its control topic, has read.
func New(cfg Config, l log.Log, control *log.Table, logger *slog.Logger) *Tracker {
	if cfg.Interval == 0 {
		cfg.Interval = time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	t := &Tracker{
		cfg: cfg, log: l, control: control, logger: logger, since: cfg.Now().Unix(),
		tenants: map[schema.Tenant]*tenantNames{}, others: map[recordKey]*chunk{}, told: map[string]struct{}{},
	}
	control.On(t.apply)
	return t
}

// Run goes on from what this reader told before, and tells what changes until ctx ends, and at the end once more. control
// must be running.
func (t *Tracker) Run(ctx context.Context) error {
	if err := t.control.Sync(ctx); err != nil {
		return err
	}
	t.load()
	again := time.NewTicker(t.cfg.Interval)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			if err := t.tell(ctx, false); err != nil && ctx.Err() == nil {
				t.logger.Warn("telling which metrics are queried", "err", err)
				if errors.Is(err, log.ErrClosed) {
					return err
				}
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := t.tell(last, true); err != nil {
				t.logger.Warn("telling which metrics were queried", "err", err)
			}
			return ctx.Err()
		}
	}
}

// Count counts a request that is over: each of its names once.
func (t *Tracker) Count(q *Request) {
	if q == nil {
		return
	}
	q.mu.Lock()
	names := q.names
	q.names = nil
	q.mu.Unlock()
	if len(names) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now().Unix()
	for n := range names {
		t.add(n.tenant, n.name, Usage{1, now}, false)
	}
}

// add adds to what is known of a name. The caller holds mu.
func (t *Tracker) add(tenant schema.Tenant, name string, u Usage, older bool) {
	n := t.tenants[tenant]
	if n == nil {
		if len(t.tenants) >= maxTenants {
			t.forgetTenant(tenant)
		}
		n = &tenantNames{since: t.since, names: map[string]*list.Element{}, chunks: make([]chunkState, 1)}
		t.tenants[tenant] = n
	}
	e := n.names[name]
	if e == nil {
		c := &counted{name: string([]byte(name))} // not a part of the query's text
		if older {
			e = n.order.PushBack(c)
		} else {
			e = n.order.PushFront(c)
		}
		n.names[c.name] = e
		if t.total++; len(n.names) > maxNames {
			t.forget(n, n.order.Back())
		} else if t.total > maxTotal {
			t.forgetTenant(tenant)
		}
		n.grow()
		n.chunks[chunkOf(name, len(n.chunks))].names = true
	} else if !older {
		n.order.MoveToFront(e)
	}
	c := e.Value.(*counted)
	c.Requests, c.Last = c.Requests+u.Requests, max(c.Last, u.Last)
	n.chunks[chunkOf(name, len(n.chunks))].numbers = true
}

// forget forgets a name.
func (t *Tracker) forget(n *tenantNames, e *list.Element) {
	name := n.order.Remove(e).(*counted).name
	delete(n.names, name)
	t.total--
	n.chunks[chunkOf(name, len(n.chunks))].numbers = true
}

// forgetTenant forgets the tenant that asked for nothing for longest, but for one.
func (t *Tracker) forgetTenant(but schema.Tenant) {
	var oldest schema.Tenant
	at := int64(0)
	for tenant, n := range t.tenants {
		last := int64(0)
		if e := n.order.Front(); e != nil {
			last = e.Value.(*counted).Last
		}
		if tenant != but && (oldest == "" || last < at) {
			oldest, at = tenant, last
		}
	}
	n := t.tenants[oldest]
	if n == nil {
		return
	}
	t.total -= len(n.names)
	for i := range n.chunks {
		t.told[recordKey{oldest, i, t.cfg.Instance}.String()] = struct{}{}
	}
	delete(t.tenants, oldest)
}

// Stats returns what all readers have counted of a tenant.
func (t *Tracker) Stats(tenant schema.Tenant) Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := Stats{Since: t.since, Names: map[string]Usage{}}
	add := func(name string, u Usage) {
		sum := s.Names[name]
		s.Names[name] = Usage{sum.Requests + u.Requests, max(sum.Last, u.Last)}
	}
	if n := t.tenants[tenant]; n != nil {
		s.Since = min(s.Since, n.since)
		for e := n.order.Front(); e != nil; e = e.Next() {
			c := e.Value.(*counted)
			add(c.name, c.Usage)
		}
	}
	for key, c := range t.others {
		if key.tenant == tenant {
			s.Since = min(s.Since, c.since)
			for name, u := range c.names {
				add(name, u)
			}
		}
	}
	return s
}
