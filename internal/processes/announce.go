package processes

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"sluice/internal/log"
)

// Interval is how often a process says what it does.
const Interval = 5 * time.Second

// Announcer says what this process does.
type Announcer struct {
	log    log.Log
	every  time.Duration
	status func() Process
	logger *slog.Logger

	key    []byte   // of what was said; nil = nothing yet
	before []totals // those of announcements within rateWindow, the oldest first
}

// rateWindow is what rates are taken over: senders and scrapes come every 15 or 30 seconds, not every five.
const rateWindow = 30 * time.Second

// totals are what the counters stood at.
type totals struct {
	at     time.Time
	counts []float64
}

// NewAnnouncer returns an Announcer for what status returns; its stages and ID must always be the same. every is Interval
// but in tests.
func NewAnnouncer(l log.Log, every time.Duration, status func() Process, logger *slog.Logger) *Announcer {
	return &Announcer{log: l, every: every, status: status, logger: logger}
}

// Run says every so often what the process does until ctx ends, and then takes it back.
func (a *Announcer) Run(ctx context.Context) error {
	failing := false
	for pause := time.Second; ; pause = a.every { // the second one soon: most of the process starts with the first
		err := a.announce(ctx, time.Now())
		if err != nil && !failing && ctx.Err() == nil { // nothing but what people look at hangs on it: once is enough
			a.logger.Warn("telling the others what this process does", "err", err)
		}
		failing = err != nil
		select {
		case <-time.After(min(pause, a.every)):
		case <-ctx.Done():
			return a.withdraw(ctx)
		}
	}
}

func (a *Announcer) announce(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, 2*Interval)
	defer cancel()
	p := a.status()
	a.rate(&p, now)
	value, err := p.encode()
	if err != nil {
		return err
	}
	a.key = p.key()
	if err := a.log.Append(ctx, log.TopicControl, []log.Record{{Key: a.key, Value: value}}); err != nil {
		return fmt.Errorf("announce process %s: %w", p.ID, err)
	}
	return nil
}

// rate makes speeds of the counters and what they were up to a rateWindow ago.
func (a *Announcer) rate(p *Process, now time.Time) {
	all := p.rates()
	current := totals{now, make([]float64, len(all))}
	for i, r := range all {
		current.counts[i] = r.Total
	}
	for len(a.before) > 1 && now.Sub(a.before[0].at) > rateWindow+Interval/2 {
		a.before = a.before[1:]
	}
	if len(a.before) > 0 {
		first := a.before[0]
		if passed := now.Sub(first.at).Seconds(); passed > 0 {
			for i, r := range all {
				*r = At(math.Round(1000*max(0, r.Total-first.counts[i])/passed) / 1000)
			}
		}
	}
	a.before = append(a.before, current)
}

// withdraw takes back what was said.
func (a *Announcer) withdraw(ctx context.Context) error {
	if a.key == nil {
		return ctx.Err()
	}
	gone, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := a.log.Append(gone, log.TopicControl, []log.Record{{Key: a.key}}); err != nil {
		a.logger.Debug("withdrawing from the control topic", "err", err)
	}
	return ctx.Err()
}

// Total adds up what the counters and gauges of the collectors stand at, for those whose figures are in metrics anyway.
func Total(all ...prometheus.Collector) (sum float64) {
	for _, c := range all {
		found := make(chan prometheus.Metric)
		go func() {
			defer close(found)
			c.Collect(found)
		}()
		for m := range found {
			var v dto.Metric
			if m.Write(&v) == nil {
				sum += v.GetCounter().GetValue() + v.GetGauge().GetValue()
			}
		}
	}
	return sum
}
