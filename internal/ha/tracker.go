// Package ha decides which of several Prometheus replicas of a cluster a tenant's samples are taken from. In go the
// replicas that a producer meets; out comes whether the samples of one are to be written, the same in all producers, by the
// order of claims in the control topic. It never looks at a sample, and producers without such tenants write nothing.
//
// The rule is in rule.go; what producers tell each other all the time is in share.go.
package ha

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/internal/log"
	"sluice/schema"
)

// Config of a Tracker.
type Config struct {
	// Instance is the stable name of this process. Two that share one are still counted right.
	Instance string
	// Interval is how often this process tells the others which elected replicas it has heard of; default 5 s. It must be well
	// below every failover time-out.
	Interval time.Duration
}

// Validate fills in defaults and refuses what cannot be meant.
func (c *Config) Validate() error {
	if c.Instance == "" {
		return errors.New("HA tracker: no instance name")
	}
	if c.Interval < 0 {
		return fmt.Errorf("HA tracker: interval is %s, must not be negative", c.Interval)
	}
	if c.Interval == 0 {
		c.Interval = 5 * time.Second
	}
	return nil
}

// Tracker knows who is elected as of the control topic.
type Tracker struct {
	cfg     Config
	log     log.Log
	control *log.Table
	logger  *slog.Logger
	metrics *metrics
	now     func() time.Time

	asked  chan struct{} // closed at the first question
	ask    sync.Once
	caught chan struct{} // closed when ready
	ended  chan struct{} // closed when Run has ended

	mu      sync.Mutex // guards the rest
	ready   bool       // all that the log held at the first question is known
	tenants map[schema.Tenant]map[string]*cluster
	byClaim map[int64]*cluster     // those with an elected replica
	mend    map[*cluster]time.Time // under whose key something else than their term stands, and when to state the term
	told    map[string]int64       // log time of the newest record under each of the keys of signs of life, ms
	logTime int64                  // of the last record, ms
	logRead time.Time              // when it was read
}

// cluster is one cluster of a tenant. Without a term it is one whose first claim is on its way.
type cluster struct {
	tenant schema.Tenant
	name   string
	term   // epoch 0 = nobody is elected yet

	// The last sign of life of the elected replica, anywhere: by the log's time, ms, and by the clock here.
	seenLog int64
	seen    time.Time

	heard    time.Time     // when the elected one last came here
	claiming chan struct{} // not nil: a claim of this process is on its way; closed when it has come back
}

// New makes a Tracker that writes to l and knows what control, the table of its control topic, has read. reg may be nil.
func New(cfg Config, l log.Log, control *log.Table, logger *slog.Logger, reg prometheus.Registerer) (*Tracker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	t := &Tracker{
		cfg: cfg, log: l, control: control, logger: logger, metrics: newMetrics(reg), now: time.Now,
		asked: make(chan struct{}), caught: make(chan struct{}), ended: make(chan struct{}),
		tenants: map[schema.Tenant]map[string]*cluster{}, byClaim: map[int64]*cluster{},
		mend: map[*cluster]time.Time{}, told: map[string]int64{},
	}
	control.On(t.apply)
	return t, nil
}

// SetClock replaces the clock here; only before Run.
func (t *Tracker) SetClock(now func() time.Time) { t.now = now }

// Run tells what is heard here until ctx ends, and then returns nil. It may be called once, and control must be running.
func (t *Tracker) Run(ctx context.Context) error {
	t.share(ctx)
	close(t.ended)
	return nil
}

// Sync waits until everything that was decided before the call is known here.
func (t *Tracker) Sync(ctx context.Context) error { return t.control.Sync(ctx) }

// Verdict is what to do with a series of a replica.
type Verdict uint8

// Verdicts. The zero value is none.
const (
	Accept  Verdict = 1 + iota // it is the elected one: write it
	Drop                       // another one is elected
	Unknown                    // nobody is elected, or the elected one is silent: call Elect and ask again
	TooMany                    // the cluster would be one more than the tenant may have
)

// Terms are the limits that elections of a tenant go by.
type Terms struct {
	MaxClusters int           // 0 = any number
	Timeout     time.Duration // how long the elected replica must have been silent before another one is elected
}

// Judge says what to do with the series of a replica that came just now, and remembers that it came. It never waits.
func (t *Tracker) Judge(tenant schema.Tenant, name, replica string, terms Terms) Verdict {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.judge(tenant, name, replica, terms, now)
}

// judge is Judge for a caller who holds mu.
func (t *Tracker) judge(tenant schema.Tenant, name, replica string, terms Terms, now time.Time) Verdict {
	if !t.ready {
		return Unknown
	}
	c := t.tenants[tenant][name]
	switch {
	case c == nil && terms.MaxClusters > 0 && len(t.tenants[tenant]) >= terms.MaxClusters:
		return TooMany
	case c == nil || c.epoch == 0:
		return Unknown
	case c.replica == replica:
		c.seen, c.heard = now, now
		c.seenLog = max(c.seenLog, t.logNow(now))
		return Accept
	case t.silent(c, terms.Timeout, now):
		return Unknown
	}
	return Drop
}

// silent says that nobody has heard of the elected replica for the time-out, by the clock here and by the log's time.
func (t *Tracker) silent(c *cluster, timeout time.Duration, now time.Time) bool {
	return now.Sub(c.seen) >= timeout && t.logNow(now)-c.seenLog >= timeout.Milliseconds()
}

// logNow is the log's time at this moment, as far as it can be known: never later than it is, but for a log whose clock
// goes back.
func (t *Tracker) logNow(now time.Time) int64 {
	return t.logTime + now.Sub(t.logRead).Milliseconds()
}

// Candidate is a replica that asks to be elected.
type Candidate struct{ Cluster, Replica string }

// maxRounds is how often a claim that did not count is repeated.
const maxRounds = 4

// Elect has the elections held that the candidates need, and returns when their outcomes are known: Judge tells. After an error
// they may or may not be held. Names must be valid UTF-8, neither empty nor longer than MaxNameBytes. Run must be running.
func (t *Tracker) Elect(ctx context.Context, tenant schema.Tenant, candidates []Candidate, terms Terms) error {
	if err := t.catchUp(ctx); err != nil {
		return err
	}
	for range maxRounds {
		done, err := t.round(ctx, tenant, candidates, terms)
		if err != nil {
			return fmt.Errorf("elect HA replicas: %w", err)
		}
		if done {
			break
		}
	}
	return nil
}

// round claims what is still to be claimed and waits for the outcome; done if there was nothing.
func (t *Tracker) round(ctx context.Context, tenant schema.Tenant, candidates []Candidate, terms Terms) (done bool, err error) {
	// A follower that lags would take a replica for silent of which the others have said that it lives.
	if err := t.control.Sync(ctx); err != nil {
		return false, err
	}
	recs, begun, others := t.claims(tenant, candidates, terms)
	if len(recs) > 0 {
		if err = t.append(ctx, recs); err == nil {
			err = t.control.Sync(ctx)
		}
		t.claimed(begun)
		if err != nil {
			return false, err
		}
	}
	for _, done := range others {
		select {
		case <-done:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	return len(recs)+len(others) == 0, nil
}

// claims makes the claims that are due, and returns the clusters that they are for and what to wait for in their stead where
// somebody else in this process is at it.
func (t *Tracker) claims(tenant schema.Tenant, candidates []Candidate, terms Terms) (recs []log.Record, begun []*cluster, others []chan struct{}) {
	now := t.now()
	done := make(chan struct{})
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, cand := range candidates {
		if t.judge(tenant, cand.Cluster, cand.Replica, terms, now) != Unknown {
			continue
		}
		c := t.tenants[tenant][cand.Cluster]
		if c == nil {
			c = t.add(tenant, cand.Cluster)
		}
		if c.claiming != nil {
			if c.claiming != done {
				others = append(others, c.claiming)
			}
			continue
		}
		c.claiming = done
		begun = append(begun, c)
		recs = append(recs, encodeBallot(tenant, cand.Cluster, ballot{
			Replica: cand.Replica, Epoch: c.epoch + 1, Timeout: terms.Timeout.Milliseconds(), Seen: c.seenLog, AsOf: t.logNow(now),
		}))
	}
	t.metrics.claims.Add(float64(len(recs)))
	return recs, begun, others
}

// claimed notes that the claims have come back, or will not.
func (t *Tracker) claimed(begun []*cluster) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, c := range begun {
		if i == 0 {
			close(c.claiming)
		}
		c.claiming = nil
		if c.epoch == 0 {
			t.remove(c)
		}
	}
}

// Clusters is how many clusters of a tenant are known here.
func (t *Tracker) Clusters(tenant schema.Tenant) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.tenants[tenant])
}

// catchUp waits until the history of the topic is known.
func (t *Tracker) catchUp(ctx context.Context) error {
	t.ask.Do(func() { close(t.asked) })
	select {
	case <-t.caught:
		return nil
	case <-t.ended:
		return errors.New("the HA tracker has stopped")
	case <-ctx.Done():
		return fmt.Errorf("learn which HA replicas are elected: %w", ctx.Err())
	}
}

// append writes records to the control topic.
func (t *Tracker) append(ctx context.Context, recs []log.Record) error {
	if err := t.log.Append(ctx, log.TopicControl, recs); err != nil {
		return err
	}
	for i := range recs {
		t.metrics.bytes.Add(float64(len(recs[i].Key) + len(recs[i].Value)))
	}
	return nil
}

// add makes a cluster without a term. The caller holds mu.
func (t *Tracker) add(tenant schema.Tenant, name string) *cluster {
	c := &cluster{tenant: tenant, name: name}
	if t.tenants[tenant] == nil {
		t.tenants[tenant] = map[string]*cluster{}
	}
	t.tenants[tenant][name] = c
	return c
}

// remove forgets a cluster. The caller holds mu.
func (t *Tracker) remove(c *cluster) {
	if c.epoch > 0 {
		delete(t.byClaim, c.claim)
		delete(t.mend, c)
		t.metrics.clusters.Set(float64(len(t.byClaim)))
		c.term = term{}
	}
	if c.claiming != nil {
		return // claimed looks after it
	}
	delete(t.tenants[c.tenant], c.name)
	if len(t.tenants[c.tenant]) == 0 {
		delete(t.tenants, c.tenant)
	}
}

// apply takes one record of the topic over.
func (t *Tracker) apply(rec *log.Record) {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.logTime, t.logRead = rec.Time, now
	key := string(rec.Key)
	var err error
	switch {
	case strings.HasPrefix(key, electPrefix):
		var ch change
		if ch, err = decodeElect(rec); err == nil {
			t.applyElect(rec, ch, now)
		}
	case strings.HasPrefix(key, seenPrefix):
		err = t.applySeen(rec, now)
	}
	if err != nil {
		t.metrics.undecodable.Inc()
		t.logger.Warn("record about HA replicas skipped", "offset", rec.Offset, "err", err)
	}
}

func (t *Tracker) applyElect(rec *log.Record, ch change, now time.Time) {
	c, b := t.tenants[ch.tenant][ch.cluster], ch.ballot
	switch {
	case b == nil && (c == nil || c.epoch == 0):
	case b == nil && (ch.forgets == nil || *ch.forgets == c.claim):
		t.remove(c)
	case b == nil:
		t.mendSoon(c, now)
	case !b.valid(rec.Time):
		t.metrics.invalid.Inc()
		t.mendSoon(c, now)
	default:
		if c == nil {
			c = t.add(ch.tenant, ch.cluster)
		}
		t.applyTerm(c, b, rec, now)
	}
}

// applyTerm takes over what a valid ballot says.
func (t *Tracker) applyTerm(c *cluster, b *ballot, rec *log.Record, now time.Time) {
	next := b.term(rec.Offset, rec.Time)
	switch {
	case next.beats(c.term):
		t.begin(c, next)
		c.seenLog = max(next.since, min(b.Seen, rec.Time)) // Seen of a claim is about another replica, and before it
		c.seen = now.Add(-time.Duration(max(0, rec.Time-c.seenLog)) * time.Millisecond)
	case next.claim != c.claim && next.replica != c.replica:
		t.mendSoon(c, now)
	default:
		delete(t.mend, c) // what stands under the key is right
		if b.Claim != nil {
			c.seenLog = max(c.seenLog, min(b.Seen, rec.Time))
		}
	}
}

// begin begins a term.
func (t *Tracker) begin(c *cluster, next term) {
	if next.replica != c.replica {
		c.heard = time.Time{}
	}
	if c.epoch > 0 {
		delete(t.byClaim, c.claim)
		if t.ready && next.replica != c.replica {
			t.metrics.failovers.Inc()
			t.logger.Info("HA cluster gets another replica", "tenant", c.tenant, "cluster", c.name,
				"replica", next.replica, "was", c.replica, "epoch", next.epoch)
		}
	}
	c.term = next
	t.byClaim[next.claim] = c
	delete(t.mend, c)
	t.metrics.clusters.Set(float64(len(t.byClaim)))
}

// mendSoon has it stated what was decided of c, if anything, as the last record under its key says something else. Those who see that wait
// for different times, so that mostly one of them does it.
func (t *Tracker) mendSoon(c *cluster, now time.Time) {
	if c == nil || c.epoch == 0 {
		return
	}
	if _, due := t.mend[c]; !due {
		t.mend[c] = now.Add(randomDelay())
	}
}

func (t *Tracker) applySeen(rec *log.Record, now time.Time) error {
	key := string(rec.Key)
	if len(rec.Value) == 0 {
		delete(t.told, key)
		return nil
	}
	t.told[key] = rec.Time
	return decodeSeen(rec.Value, func(s sign) {
		c := t.byClaim[s.claim]
		if c == nil {
			return
		}
		c.seenLog = max(c.seenLog, rec.Time-s.age)
		if at := now.Add(-time.Duration(s.age) * time.Millisecond); at.After(c.seen) {
			c.seen = at
		}
	})
}
