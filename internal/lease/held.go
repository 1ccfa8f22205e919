package lease

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"sluice/internal/log"
)

// Lease is one that this process holds, or held.
type Lease struct {
	leases *Leases
	name   string
	ttl    time.Duration
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer // fires when the lease has not been renewed in time

	// Guarded by leases.mu. Times are local: a grant is reckoned from before its claim was sent, so that it ends here before
	// it ends in the log.
	deadline time.Time
	renewAt  time.Time
	sent     map[int64]time.Time // claims that have not come back yet, by seq
}

// Name is what was acquired.
func (l *Lease) Name() string { return l.name }

// Context ends when the lease is lost or released, or with the context that it was acquired with.
func (l *Lease) Context() context.Context { return l.ctx }

// Err is nil while the lease is held, going by the clock too: a process that stood still finds out here at once.
func (l *Lease) Err() error {
	if err := context.Cause(l.ctx); err != nil {
		return err
	}
	l.leases.mu.Lock()
	defer l.leases.mu.Unlock()
	if !l.leases.now().Before(l.deadline) {
		l.leases.lose(l, errLate)
		return context.Cause(l.ctx)
	}
	return nil
}

var (
	errLate     = errors.New("it was not renewed in time")
	errReleased = errors.New("lease released")
)

// releaseTimeout bounds how long giving up a lease may take. It ends by itself otherwise.
const releaseTimeout = 5 * time.Second

// Release gives the lease up, so that another may take it at once. What was lost is left alone. Whoever has acquired a
// lease must release it, also when its context has ended. Doing it twice is harmless.
func (l *Lease) Release() {
	s := l.leases
	s.mu.Lock()
	late := !s.now().Before(l.deadline)
	held := s.drop(l, errReleased)
	e := s.entries[l.name].entry
	s.mu.Unlock()
	if !held || late {
		return
	}
	// A renewal that is on its way must not come after the release.
	s.order.Lock()
	defer s.order.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), min(releaseTimeout, l.ttl))
	defer cancel()
	rec, err := encodeRelease(l.name, e)
	if err == nil {
		err = s.log.Append(ctx, log.TopicControl, []log.Record{rec})
	}
	if err != nil {
		s.logger.Warn("lease is not given up and ends by itself", "lease", l.name, "ttl", l.ttl, "err", err)
	}
}

// expired is called by the timer.
func (l *Lease) expired() {
	l.leases.mu.Lock()
	defer l.leases.mu.Unlock()
	if left := l.deadline.Sub(l.leases.now()); left > 0 {
		l.timer.Reset(left) // renewed just now
		return
	}
	l.leases.lose(l, errLate)
}

// extend reckons a grant from the time before its claim was sent. The caller holds leases.mu.
func (l *Lease) extend(begun time.Time) {
	if d := begun.Add(l.ttl); d.After(l.deadline) {
		l.deadline = d
		l.renewAt = begun.Add(l.ttl / 3)
		l.timer.Reset(max(0, d.Sub(l.leases.now())))
	}
}

const (
	// sweepEvery is how often leases are looked for that nobody has given up and nobody holds, and sweepAfter how long ago
	// they must have ended.
	sweepEvery = time.Minute
	sweepAfter = 10 * time.Minute
	// sweepRecords bounds how many of those go at once.
	sweepRecords = 100
)

// keep renews what is held and gives up what is not wanted, until ctx ends.
func (s *Leases) keep(ctx context.Context) {
	swept := s.now()
	for {
		var recs []log.Record
		if now := s.now(); now.Sub(swept) >= sweepEvery {
			swept = now
			var err error
			if recs, err = s.sweep(); err != nil {
				s.logger.Error("ended leases are not swept", "err", err)
			}
		}
		wait := s.renew(ctx, recs)
		timer := time.NewTimer(max(wait, 10*time.Millisecond))
		select {
		case <-s.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// renew appends recs and what is due, and returns how long the next renewal may wait.
func (s *Leases) renew(ctx context.Context, recs []log.Record) time.Duration {
	s.order.Lock()
	defer s.order.Unlock()
	renewals, wait := s.due()
	if recs = append(recs, renewals...); len(recs) > 0 {
		if err := s.put(ctx, recs); err != nil && ctx.Err() == nil {
			s.logger.Warn("leases are not renewed, trying again", "records", len(recs), "err", err)
		}
	}
	return wait
}

// put appends records, for no longer than the shortest lease may wait.
func (s *Leases) put(ctx context.Context, recs []log.Record) error {
	wait := time.Minute
	s.mu.Lock()
	for _, l := range s.held {
		wait = min(wait, l.ttl/3)
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return s.log.Append(ctx, log.TopicControl, recs)
}

// due returns the records that are due, all in one batch, and how long the next ones may wait.
func (s *Leases) due() (recs []log.Record, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add := func(name string, rec log.Record, err error) {
		if err != nil {
			s.logger.Error("lease is neither renewed nor given up", "lease", name, "err", err)
			return
		}
		recs = append(recs, rec)
	}
	now := s.now()
	for _, name := range slices.Sorted(maps.Keys(s.unwanted)) {
		if e := s.entries[name]; e.holder == s.holder && s.held[name] == nil && s.pending[name] == nil {
			rec, err := encodeRelease(name, e.entry)
			add(name, rec, err)
		}
	}
	clear(s.unwanted)
	wait = sweepEvery
	for _, name := range slices.Sorted(maps.Keys(s.held)) {
		l := s.held[name]
		if !now.Before(l.renewAt) {
			e := s.entries[name]
			s.seq++
			rec, err := encodeClaim(name, claim{
				Version: version, Holder: s.holder, TTL: l.ttl.Milliseconds(), Seq: s.seq, Renews: &term{Since: e.since, Until: e.expires},
			})
			add(name, rec, err)
			l.sent[s.seq] = now
			l.renewAt = now.Add(l.ttl / 6) // unless it comes back before
		}
		wait = min(wait, l.renewAt.Sub(now))
	}
	return recs, wait
}

// sweep returns releases, on behalf of their holders, of leases that ended long ago: those of processes that died, under
// names that nobody will claim again. Several processes may write the same, which changes nothing.
func (s *Leases) sweep() (recs []log.Record, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, e := range s.entries {
		if s.logTime-e.expires > sweepAfter.Milliseconds() && len(recs) < sweepRecords && s.held[name] == nil && s.pending[name] == nil {
			rec, err := encodeRelease(name, e.entry)
			if err != nil {
				return recs, err
			}
			recs = append(recs, rec)
		}
	}
	return recs, nil
}
