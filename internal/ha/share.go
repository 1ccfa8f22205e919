package ha

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"sluice/internal/log"
)

const (
	// lookEvery is how often it is seen what there is to write.
	lookEvery = 500 * time.Millisecond
	// stateWithin is the longest that a correction waits for somebody else to make it.
	stateWithin = 2 * time.Second
	// appendTimeout bounds one attempt to write.
	appendTimeout = 10 * time.Second

	// sweepEvery is how often it is looked for what nobody has heard of for forgetAfter, which is longer than any time-out.
	sweepEvery   = time.Minute
	forgetAfter  = time.Hour
	sweepRecords = 1000
)

func randomDelay() time.Duration { return rand.N(stateWithin) }

// share tells the others, until ctx ends, which elected replicas were heard of here, mends what stands last under a key, and
// forgets what has long been silent. Nothing is written before the first question.
func (t *Tracker) share(ctx context.Context) {
	select {
	case <-t.asked:
	case <-ctx.Done():
		return
	}
	for !t.begun(ctx) {
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return
		}
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	told, swept := t.now(), t.now().Add(rand.N(sweepEvery))
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		now := t.now()
		recs := t.statements(now)
		if now.Sub(told) >= t.cfg.Interval {
			told = now
			recs = append(recs, t.signs(now)...)
		}
		if now.Sub(swept) >= sweepEvery {
			swept = now
			recs = append(recs, t.sweep(now)...)
		}
		if len(recs) > 0 {
			t.write(ctx, recs)
		}
	}
}

// begun makes the tracker ready: it writes a record, whose time is the log's, and reads everything up to it.
func (t *Tracker) begun(ctx context.Context) bool {
	if !t.write(ctx, []log.Record{{Key: []byte(timeKey), Value: []byte("{}")}}) {
		return false
	}
	sync, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := t.control.Sync(sync); err != nil {
		if ctx.Err() == nil {
			t.logger.Warn("the history of HA replicas is not read yet", "err", err)
		}
		return false
	}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.byClaim { // what was read late happened when the log says
		silent := min(max(0, t.logNow(now)-c.seenLog), maxSpan)
		c.seen = now.Add(-time.Duration(silent) * time.Millisecond)
	}
	t.ready = true
	close(t.caught)
	return true
}

// write appends records and says whether that went well. What did not is made anew the next time.
func (t *Tracker) write(ctx context.Context, recs []log.Record) bool {
	limited, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	err := t.append(limited, recs)
	if err != nil && ctx.Err() == nil {
		t.logger.Warn("nothing about HA replicas can be written, trying again", "records", len(recs), "err", err)
	}
	return err == nil
}

// statements are those that are due.
func (t *Tracker) statements(now time.Time) (recs []log.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c, at := range t.mend {
		if now.Before(at) {
			continue
		}
		t.mend[c] = now.Add(stateWithin) // unless it comes back before
		recs = append(recs, encodeBallot(c.tenant, c.name, ballot{
			Replica: c.replica, Epoch: c.epoch, Timeout: c.timeout, Seen: c.seenLog, Claim: &c.claim, Since: c.since,
		}))
	}
	return recs
}

// signs are the signs of life of all replicas that were heard of within their time-out: of the records under a key only the
// last one may be left, and it has to say everything.
func (t *Tracker) signs(now time.Time) (recs []log.Record) {
	t.mu.Lock()
	var all []sign
	for claim, c := range t.byClaim {
		if age := now.Sub(c.heard).Milliseconds(); !c.heard.IsZero() && age < c.timeout {
			all = append(all, sign{claim, age})
		}
	}
	t.mu.Unlock()
	slices.SortFunc(all, func(a, b sign) int { return cmp.Compare(a.claim, b.claim) })
	for n := 0; len(all) > 0; n++ {
		part := all[:min(len(all), maxSigns)]
		all = all[len(part):]
		recs = append(recs, log.Record{Key: t.seenKey(n), Value: encodeSeen(nil, part)})
	}
	return recs
}

func (t *Tracker) seenKey(n int) []byte {
	return []byte(seenPrefix + t.cfg.Instance + "/" + strconv.Itoa(n))
}

// sweep forgets clusters, and processes, that nobody has heard of for long. Whoever is elected next begins anew.
func (t *Tracker) sweep(now time.Time) (recs []log.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.byClaim {
		if t.silent(c, forgetAfter, now) && len(recs) < sweepRecords {
			recs = append(recs, encodeForget(c.tenant, c.name, c.claim))
		}
	}
	for key, at := range t.told {
		if t.logNow(now)-at > forgetAfter.Milliseconds() && len(recs) < sweepRecords {
			recs = append(recs, log.Record{Key: []byte(key)})
		}
	}
	return recs
}
