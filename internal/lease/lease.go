// Package lease lets processes agree, by the order of records in the control topic, on who does what at the moment. In
// go claims of named leases; out comes, for the one whose claim stands first, a context that ends when the lease does. It
// never asks another process, never trusts a process' clock, and never claims what somebody else has.
//
// A lease is a division of labour and no lock, see rule.go.
package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/internal/log"
)

// Leases knows who holds which lease as of the control topic, and keeps those of this process.
type Leases struct {
	log     log.Log
	control *log.Table
	holder  string
	logger  *slog.Logger
	metrics *metrics
	now     func() time.Time

	wake  chan struct{} // the loop of Run has something to look at
	ended chan struct{} // closed when Run has ended

	order sync.Mutex // held while renewals and releases are made and appended; taken before mu

	mu       sync.Mutex // guards the rest
	caughtUp bool
	seq      int64
	logTime  int64 // of the last record seen, ms
	entries  map[string]known
	pending  map[string]*pending
	held     map[string]*Lease
	unwanted map[string]bool // granted to us after we had stopped waiting
}

// known is an entry and when it was read here: if the log stands still, local waiting counts.
type known struct {
	entry
	seen time.Time
}

// pending is a claim that is on its way through the log.
type pending struct {
	seq     int64
	verdict chan bool // holds one
}

// New makes Leases that write to l and know what control, the table of its control topic, has read. instance names this
// process to people; each Leases is a holder of its own even so, for two processes may run under one name while one of
// them is being replaced. reg may be nil.
func New(l log.Log, control *log.Table, instance string, logger *slog.Logger, reg prometheus.Registerer) *Leases {
	s := &Leases{
		log: l, control: control, holder: instance + "#" + rand.Text()[:10], logger: logger, metrics: newMetrics(reg), now: time.Now,
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
		entries: map[string]known{}, pending: map[string]*pending{}, held: map[string]*Lease{}, unwanted: map[string]bool{},
	}
	control.On(s.apply)
	return s
}

// SetClock replaces the local clock. Only before Run.
func (s *Leases) SetClock(now func() time.Time) { s.now = now }

// Holder is the name under which this process claims.
func (s *Leases) Holder() string { return s.holder }

// Run renews what is held until ctx ends, and then returns nil; what is still held then is lost. It may be called once, and
// control must be running.
func (s *Leases) Run(ctx context.Context) error {
	s.keep(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.held {
		s.lose(l, errors.New("leases are not renewed any more"))
	}
	close(s.ended)
	return nil
}

// Sync waits until everything that was claimed or given up before the call is known here.
func (s *Leases) Sync(ctx context.Context) error { return s.control.Sync(ctx) }

// Acquire takes the lease if nobody has it: it looks first, claims only what is free as far as is known here, and waits
// until the claim has come back through the log. ok is false if somebody else has it, be it another part of this process.
// The lease is renewed until it is released, and its Context ends with ctx. All who claim a name must use the same ttl.
// After an error the lease may be ours for up to a ttl; it can be claimed again. Run must be running.
func (s *Leases) Acquire(ctx context.Context, name string, ttl time.Duration) (held *Lease, ok bool, err error) {
	if err := checkName(name); err != nil {
		return nil, false, err
	}
	if ms := ttl.Milliseconds(); ms <= 0 || ms > maxTTL {
		return nil, false, fmt.Errorf("claim lease %s: ttl of %s", name, ttl)
	}
	if err := s.catchUp(ctx); err != nil {
		return nil, false, fmt.Errorf("claim lease %s: %w", name, err)
	}
	s.mu.Lock()
	if !s.free(name) {
		s.mu.Unlock()
		return nil, false, nil
	}
	s.seq++
	p := &pending{seq: s.seq, verdict: make(chan bool, 1)}
	s.pending[name] = p
	s.mu.Unlock()

	begun := s.now()
	granted, err := s.claim(ctx, name, ttl, p)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, name)
	if err != nil {
		select {
		case granted := <-p.verdict: // it came just when we stopped waiting
			if granted {
				s.unwanted[name] = true
				s.rouse()
			}
		default:
		}
		return nil, false, fmt.Errorf("claim lease %s: %w", name, err)
	}
	e := s.entries[name]
	if !granted || e.holder != s.holder || !s.now().Before(begun.Add(ttl)) {
		return nil, false, nil
	}
	held = &Lease{leases: s, name: name, ttl: ttl, sent: map[int64]time.Time{}}
	held.ctx, held.cancel = context.WithCancelCause(ctx)
	held.timer = time.AfterFunc(ttl, held.expired)
	held.extend(begun)
	s.held[name] = held
	s.metrics.held.Set(float64(len(s.held)))
	s.rouse()
	return held, true, nil
}

// claim appends a claim and waits for it to come back.
func (s *Leases) claim(ctx context.Context, name string, ttl time.Duration, p *pending) (granted bool, err error) {
	rec, err := encodeClaim(name, claim{Version: version, Holder: s.holder, TTL: ttl.Milliseconds(), Seq: p.seq})
	if err != nil {
		return false, err
	}
	if err := s.log.Append(ctx, log.TopicControl, []log.Record{rec}); err != nil {
		return false, err
	}
	select {
	case granted = <-p.verdict:
		return granted, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-s.ended:
		return false, errors.New("leases are not renewed any more")
	}
}

// catchUp waits, once, until the history of the topic is known.
func (s *Leases) catchUp(ctx context.Context) error {
	s.mu.Lock()
	done := s.caughtUp
	s.mu.Unlock()
	if done {
		return nil
	}
	if err := s.control.Sync(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.caughtUp = true
	return nil
}

// free says whether a claim has a chance. A lease whose holder is silent is free once the log's time has passed its end;
// where nothing is written, time does not pass, so that a ttl of waiting here is reason enough to try: the claim's own
// record brings the time that decides.
func (s *Leases) free(name string) bool {
	if s.held[name] != nil || s.pending[name] != nil {
		return false
	}
	e, ok := s.entries[name]
	return !ok || e.holder == s.holder || e.expires <= s.logTime || s.now().Sub(e.seen) >= time.Duration(e.ttl)*time.Millisecond
}

// apply takes one record of the topic over.
func (s *Leases) apply(rec *log.Record) {
	ch, ours, err := decode(rec)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logTime = rec.Time
	switch {
	case !ours:
	case err != nil:
		s.metrics.undecodable.Inc()
		s.logger.Warn("lease record skipped", "offset", rec.Offset, "err", err)
	case ch.claim == nil:
		s.applyRelease(rec, ch)
	default:
		s.applyClaim(rec, ch)
	}
}

func (s *Leases) applyRelease(rec *log.Record, ch change) {
	e, ok := s.entries[ch.name]
	if !ok {
		return
	}
	l := s.held[ch.name]
	if !judgeRelease(e.entry, rec.Time, ch.release) {
		s.repair(l)
		return
	}
	delete(s.entries, ch.name)
	if l != nil && e.holder == s.holder {
		s.lose(l, errors.New("it was taken away"))
	}
}

func (s *Leases) applyClaim(rec *log.Record, ch change) {
	var cur *entry
	if e, ok := s.entries[ch.name]; ok {
		cur = &e.entry
	}
	next, granted := judge(cur, rec.Offset, rec.Time, ch.claim)
	s.entries[ch.name] = known{next, s.now()} // seen anew also when it was not granted: one try in a ttl is enough
	l, p := s.held[ch.name], s.pending[ch.name]
	mine := ch.claim.Holder == s.holder
	switch {
	case mine && p != nil && p.seq == ch.claim.Seq:
		p.verdict <- granted
		if granted {
			s.metrics.won.Inc()
		} else {
			s.metrics.raced.Inc()
		}
	case mine && granted && l != nil:
		if begun, ok := l.sent[ch.claim.Seq]; ok {
			l.extend(begun)
			maps.DeleteFunc(l.sent, func(seq int64, _ time.Time) bool { return seq <= ch.claim.Seq })
		}
	case mine && granted && p == nil:
		s.unwanted[ch.name] = true
		s.rouse()
	case !granted:
		s.repair(l)
	}
	if l != nil && next.holder != s.holder {
		s.lose(l, fmt.Errorf("%s has it", next.holder))
	}
}

// repair has a lease renewed at once, after a record that changed nothing: ours must be the last one under the key.
func (s *Leases) repair(l *Lease) {
	if l != nil {
		l.renewAt = time.Time{}
		s.rouse()
	}
}

func (s *Leases) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lose ends a lease that is not ours any more.
func (s *Leases) lose(l *Lease, why error) {
	if s.drop(l, fmt.Errorf("%w: %s: %w", ErrLost, l.name, why)) {
		s.metrics.lost.Inc()
		s.logger.Warn("lease lost", "lease", l.name, "err", why)
	}
}

// drop takes a lease out of those held; false if it was out already.
func (s *Leases) drop(l *Lease, cause error) bool {
	l.timer.Stop()
	l.cancel(cause)
	if s.held[l.name] != l {
		return false
	}
	delete(s.held, l.name)
	s.metrics.held.Set(float64(len(s.held)))
	return true
}
