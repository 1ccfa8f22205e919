// Package delay measures how long a sample that was acked takes until a query shows it. In go the two URLs of a running
// installation; out comes a Report. It writes a few series of its own, each value once, at a steady rate, and asks for the
// values that were acked and not yet seen, one query after the other. It leans on nothing of the product but the name of the
// tenant's header, speaks remote write and PromQL only, and never deletes what it wrote.
//
// What is measured, exactly:
//
//	send ──────── 2xx received ─────────────── answer received that contains the value
//	      ack                       delay
//
// Delay is as an observer outside has it, so it holds the time of the query that found the value, and it is known no finer
// than the queries follow each other: both are in the Report. A query asks only for values whose 2xx was there before it
// was sent, so no delay is negative or shorter than a query. Reads are eventual: nothing asks the reader to wait. Both ends
// of a delay are read from the monotonic clock of this process; the clocks of the machines measured do not matter.
package delay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config of a measurement.
type Config struct {
	// WriteURL takes remote write 1.0, such as http://127.0.0.1:9009/api/v1/push. Required.
	WriteURL string
	// ReadURL is Prometheus' API without /api/v1, such as http://127.0.0.1:9009/prometheus. Required.
	ReadURL string
	// Tenant to write to and to ask; empty = no header is sent.
	Tenant string
	// Duration of the writing. Default 30 s.
	Duration time.Duration
	// Interval between two writes of one sample each, at least 1 ms. Default 100 ms.
	Interval time.Duration
	// Series that are written in turn, so that more than one partition is measured. Default 16.
	Series int
	// Pause between an answer and the next query. Default 2 ms.
	Pause time.Duration
	// Wait is how long after the last write a value may still turn up. Default 30 s.
	Wait time.Duration
	// Client of all requests; nil = one with its own connections.
	Client *http.Client
}

// Validate fills in defaults and refuses what cannot work.
func (c *Config) Validate() error {
	if c.WriteURL == "" || c.ReadURL == "" {
		return errors.New("delay: the URLs to write to and to read from must be given")
	}
	setDefault(&c.Duration, 30*time.Second)
	setDefault(&c.Interval, 100*time.Millisecond)
	setDefault(&c.Series, 16)
	setDefault(&c.Pause, 2*time.Millisecond)
	setDefault(&c.Wait, 30*time.Second)
	if c.Interval < time.Millisecond {
		return fmt.Errorf("delay: an interval of %s: samples are told apart by their milliseconds", c.Interval)
	}
	if c.Duration < 0 || c.Series < 0 || c.Pause < 0 || c.Wait < 0 {
		return errors.New("delay: a duration, a wait, a pause or a number of series below zero")
	}
	if c.Client == nil {
		c.Client = &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: maxInFlight}}
	}
	return nil
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// maxInFlight bounds the writes under way. Beyond it the schedule slips, and the report says by how much.
const maxInFlight = 64

// run is a measurement under way.
type run struct {
	cfg  Config
	id   string        // value of the label run: other measurements are none of ours
	wake chan struct{} // something was acked, or the writing is over

	mu      sync.Mutex // guards the rest
	pending map[int64]acked
	over    bool // nothing more will be acked
	report  Report
	samples samples
}

// acked is a value that has its 2xx and was not seen yet.
type acked struct {
	at time.Time // when the 2xx was there
	ms int64     // the sample's timestamp
}

// samples are the measured times that the report sums up.
type samples struct{ ack, delay, query, gap, slip []time.Duration }

// Run writes and asks for cfg.Duration, waits for what is still to be seen, and reports. When ctx ends it reports what it has so
// far, with ctx' error.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if err := cfg.Validate(); err != nil {
		return Report{}, err
	}
	r := &run{
		cfg: cfg, id: strconv.FormatUint(rand.Uint64(), 36), wake: make(chan struct{}, 1), pending: map[int64]acked{},
	}
	begin := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.poll(gctx) })
	g.Go(func() error { return r.write(gctx) })
	err := g.Wait()
	r.report.Seconds = time.Since(begin).Seconds()
	r.report.sum(cfg, r.samples, len(r.pending))
	return r.report, err
}

// write sends one sample an Interval, each at its appointed time whatever became of those before.
func (r *run) write(ctx context.Context) error {
	var g errgroup.Group
	g.SetLimit(maxInFlight)
	defer func() {
		_ = g.Wait() // returns no errors: a write that fails is counted
		r.mu.Lock()
		r.over = true
		r.mu.Unlock()
		r.signal()
	}()
	begin, lastMs := time.Now(), int64(0)
	for i := int64(0); ; i++ {
		due := begin.Add(time.Duration(i) * r.cfg.Interval)
		if due.Sub(begin) >= r.cfg.Duration {
			return nil
		}
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
			return ctx.Err()
		}
		ms := max(time.Now().UnixMilli(), lastMs+1)
		lastMs = ms
		g.Go(func() error {
			r.writeOne(ctx, i, ms, due)
			return nil
		})
	}
}

func (r *run) writeOne(ctx context.Context, value, ms int64, due time.Time) {
	begin := time.Now()
	err := r.push(ctx, value, ms)
	at := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Written++
	r.samples.slip = append(r.samples.slip, begin.Sub(due))
	if err != nil {
		r.report.WritesFailed++
		r.report.LastError = err.Error()
		return
	}
	r.samples.ack = append(r.samples.ack, at.Sub(begin))
	r.pending[value] = acked{at, ms}
	r.signal()
}

func (r *run) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// poll asks for what is pending until nothing is and nothing more will be.
func (r *run) poll(ctx context.Context) error {
	var deadline <-chan time.Time
	var answered time.Time // the answer before, if values have been pending ever since
	for {
		from, to, n, over := r.window()
		if over && deadline == nil {
			deadline = time.After(r.cfg.Wait)
		}
		var next <-chan time.Time
		switch {
		case n > 0:
			r.ask(ctx, from, to, &answered)
			next = time.After(r.cfg.Pause)
		case over:
			return nil
		default:
			answered = time.Time{}
		}
		wake := r.wake
		if n > 0 {
			wake = nil // the next query comes soon enough
		}
		select {
		case <-next:
		case <-wake:
		case <-deadline:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// window returns the timestamps that cover all that is pending, and how much that is.
func (r *run) window() (from, to int64, n int, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pending {
		if n == 0 {
			from, to = p.ms, p.ms
		}
		from, to = min(from, p.ms), max(to, p.ms)
		n++
	}
	return from, to, n, r.over
}

// ask runs one query and notes what it shows. Values that were acked after it was sent are left to the next one.
func (r *run) ask(ctx context.Context, from, to int64, answered *time.Time) {
	begin := time.Now()
	values, err := r.query(ctx, from, to)
	at := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Queries++
	if !answered.IsZero() {
		r.samples.gap = append(r.samples.gap, at.Sub(*answered))
	}
	*answered = at
	if err != nil {
		r.report.QueriesFailed++
		r.report.LastError = err.Error()
		return
	}
	r.samples.query = append(r.samples.query, at.Sub(begin))
	for _, v := range values {
		if p, ok := r.pending[v]; ok && !p.at.After(begin) {
			r.samples.delay = append(r.samples.delay, at.Sub(p.at))
			delete(r.pending, v)
		}
	}
}
