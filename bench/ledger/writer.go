package ledger

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// WriteConfig says how a run is written.
type WriteConfig struct {
	URL          string        // of the push endpoint
	TenantHeader string        // X-Scope-OrgID; empty = none is sent
	Writers      int           // per tenant; the odd ones speak remote write 2.0
	Rate         float64       // samples a second, all tenants together
	Ticks        int64         // per request
	MaxTicks     int64         // stop a block there; 0 = never
	Duplicate    int           // every n-th acked request is sent once more; 0 = none
	MaxBackoff   time.Duration // 0 = one second
	Client       *http.Client  // nil = one of its own
	Logf         func(format string, args ...any)
}

// Stats are the figures of a run of writing.
type Stats struct {
	Requests, Acked, Rejected, Unknown int
	Attempts, Retries, Duplicates      int
	Samples                            int64         // acked, floats and histograms
	Outage                             time.Duration // longest time without any ack while writers were trying
	MissingRetryAfter                  int           // 429 and 503 answers without the header
	WrongWritten                       int           // 2.0 acks whose Written headers do not say what was sent
	Problems                           []string      // the first few refusals and wrong headers, verbatim
	Took                               time.Duration
}

// Write runs the writers until stop is closed; each then finishes the request it has under way, still retrying until ctx
// ends. Samples never lie in the future: a tenant that has caught up with the clock waits for it.
func (l *Ledger) Write(ctx context.Context, stop <-chan struct{}, cfg WriteConfig) (Stats, error) {
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
		defer cfg.Client.CloseIdleConnections()
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = time.Second
	}
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	if cfg.Writers <= 0 || cfg.Ticks <= 0 || cfg.Rate <= 0 {
		return Stats{}, fmt.Errorf("writers, ticks and rate must be positive")
	}
	r := &run{Ledger: l, cfg: cfg, stop: stop, lastAck: time.Now()}
	begun := time.Now()
	var wg sync.WaitGroup
	for t := range l.Spec.Tenants {
		for i := range cfg.Writers {
			w := &writer{run: r, tenant: t, proto: 1 + i%2,
				limiter: rate.NewLimiter(rate.Limit(cfg.Rate/float64(len(l.Spec.Tenants)*cfg.Writers)), SlotsPerBlock*int(cfg.Ticks))}
			for b := i; b < l.Spec.Tenants[t].Blocks(); b += cfg.Writers {
				w.blocks = append(w.blocks, &line{block: b})
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				w.loop(ctx)
			}()
		}
	}
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Took = time.Since(begun)
	return r.stats, nil
}

type run struct {
	*Ledger
	cfg  WriteConfig
	stop <-chan struct{}

	mu      sync.Mutex // guards stats and lastAck
	stats   Stats
	lastAck time.Time
}

func (r *run) count(f func(s *Stats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.stats)
}

func (r *run) stopped() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

// line is a block with how far it was written.
type line struct {
	block int
	now   int64 // next tick of the samples in time
	late  int64 // next tick of the samples that come late
}

type writer struct {
	*run
	tenant  int
	proto   int
	limiter *rate.Limiter
	blocks  []*line

	kept    Request // an acked request that is to be sent once more, some time later
	keptEnc Encoded
}

func (w *writer) loop(ctx context.Context) {
	for i := 0; len(w.blocks) > 0 && !w.stopped() && ctx.Err() == nil; i++ {
		req, ok := w.next(w.blocks[i%len(w.blocks)])
		if !ok {
			if i%len(w.blocks) == len(w.blocks)-1 && !w.wait(ctx, 50*time.Millisecond) {
				return
			}
			continue
		}
		enc, err := w.Spec.Encode(req)
		if err != nil || enc.Samples+enc.Histograms == 0 {
			continue
		}
		if w.limiter.WaitN(ctx, enc.Samples+enc.Histograms) != nil {
			return
		}
		w.send(ctx, w.Intend(req), enc)
	}
}

// next is what to write for a block: late samples that are due come first.
func (w *writer) next(l *line) (Request, bool) {
	t := &w.Spec.Tenants[w.tenant]
	req := Request{Tenant: w.tenant, Block: l.block, Proto: w.proto}
	lateBy := t.Late[(l.late/w.cfg.Ticks)%2]
	done := w.cfg.MaxTicks > 0 && l.now >= w.cfg.MaxTicks
	if l.late < l.now && (done || l.late+w.cfg.Ticks+lateBy <= l.now) {
		req.Late, req.From, req.To = true, l.late, min(l.late+w.cfg.Ticks, l.now)
		l.late = req.To
		return req, true
	}
	if done || t.Start+(l.now+w.cfg.Ticks+1)*t.stepMs() > time.Now().UnixMilli() {
		return req, false
	}
	req.From, req.To = l.now, l.now+w.cfg.Ticks
	l.now = req.To
	return req, true
}

func (w *writer) wait(ctx context.Context, d time.Duration) bool {
	// A run with an end is over once every block has reached it.
	if w.cfg.MaxTicks > 0 {
		over := true
		for _, l := range w.blocks {
			over = over && l.now >= w.cfg.MaxTicks && l.late >= l.now
		}
		if over {
			return false
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-w.stop:
		return false
	case <-t.C:
		return true
	}
}

// send tries the same bytes until they are acked or refused, as Prometheus does.
func (w *writer) send(ctx context.Context, req Request, enc Encoded) {
	w.count(func(s *Stats) { s.Requests++ })
	backoff := 30 * time.Millisecond
	for {
		status, after := w.attempt(ctx, req, enc)
		switch {
		case status >= 200 && status < 300:
			w.Settle(req.ID, Acked)
			w.acked(ctx, req, enc)
			return
		case status >= 400 && status < 500 && status != http.StatusTooManyRequests:
			w.Settle(req.ID, Rejected)
			w.count(func(s *Stats) { s.Rejected++ })
			return
		}
		w.count(func(s *Stats) { s.Retries++ })
		backoff = min(2*backoff, w.cfg.MaxBackoff)
		timer := time.NewTimer(max(backoff, min(after, w.cfg.MaxBackoff)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			w.Settle(req.ID, Unknown)
			w.count(func(s *Stats) { s.Unknown++ })
			return
		}
	}
}

func (w *writer) acked(ctx context.Context, req Request, enc Encoded) {
	again := false
	w.count(func(s *Stats) {
		now := time.Now()
		s.Outage = max(s.Outage, now.Sub(w.lastAck))
		w.lastAck = now
		s.Acked++
		s.Samples += int64(enc.Samples + enc.Histograms)
		again = w.cfg.Duplicate > 0 && s.Acked%w.cfg.Duplicate == 0
		if again && w.kept.ID != 0 {
			s.Duplicates++
		}
	})
	if !again {
		return
	}
	if w.kept.ID != 0 { // whatever comes of it: the first time counts, the second must leave no trace
		w.attempt(ctx, w.kept, w.keptEnc)
	}
	w.kept, w.keptEnc = req, enc
}

// attempt sends once. Status 0 = no answer. after is the Retry-After of the answer.
func (w *writer) attempt(ctx context.Context, r Request, enc Encoded) (status int, after time.Duration) {
	w.count(func(s *Stats) { s.Attempts++ })
	start, written := time.Now(), -1
	defer func() { w.Attempt(r.ID, start, time.Now(), status, written) }()
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.URL, bytes.NewReader(enc.Body))
	if err != nil {
		return 0, 0
	}
	for k, v := range enc.Header {
		hr.Header.Set(k, v)
	}
	if w.cfg.TenantHeader != "" {
		hr.Header.Set(w.cfg.TenantHeader, w.Spec.Tenants[w.tenant].Name)
	}
	resp, err := w.cfg.Client.Do(hr)
	if err != nil {
		return 0, 0
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 2048))
	io.Copy(io.Discard, resp.Body)
	status = resp.StatusCode
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
		after = time.Duration(s) * time.Second
	} else if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.count(func(s *Stats) { s.MissingRetryAfter++ })
	}
	if status/100 == 4 && status != http.StatusTooManyRequests {
		w.problem("request %d: status %d: %s", r.ID, status, body)
	}
	if r.Proto == 2 {
		written = w.written(r, enc, resp)
	}
	return status, after
}

// written checks what a 2.0 receiver admits to: a sender counts everything else as lost.
func (w *writer) written(r Request, enc Encoded, resp *http.Response) int {
	get := func(name string) int {
		n, err := strconv.Atoi(resp.Header.Get("X-Prometheus-Remote-Write-" + name + "-Written"))
		if err != nil {
			return -1
		}
		return n
	}
	s, h := get("Samples"), get("Histograms")
	if resp.StatusCode/100 == 2 && (s != enc.Samples || h != enc.Histograms) {
		w.count(func(st *Stats) { st.WrongWritten++ })
		w.problem("request %d: sent %d samples and %d histograms, written headers say %d and %d", r.ID, enc.Samples, enc.Histograms, s, h)
	}
	return s + h
}

func (w *writer) problem(format string, args ...any) {
	w.cfg.Logf(format, args...)
	w.count(func(s *Stats) {
		if len(s.Problems) < 10 {
			s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
		}
	})
}
