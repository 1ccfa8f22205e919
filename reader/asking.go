package reader

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/promql"

	"sluice/internal/auth"
	"sluice/internal/trace"
)

// asking is one request while it is being answered. Its methods may be called on nil.
type asking struct {
	id       uint64
	endpoint string
	opts     *options
	query    string // text, cut; or matchers
	start    string // as they were given, cut
	end      string
	step     string
	stats    string // the parameter
	remote   string
	user     string
	began    time.Time
	trace    *trace.Query
	cancel   context.CancelCauseFunc

	mu    sync.Mutex
	phase *trace.Span // queue, encode or send; guarded by mu
	part  string      // its name; guarded by mu
}

const (
	maxTextBytes  = 1024 // of a query's text that is remembered
	maxParamBytes = 40
)

// quiet tells which endpoints are not followed: they look at no data.
func quiet(endpoint string) bool {
	switch endpoint {
	case "/format_query", "/parse_query", "/rules", "/alerts", "/alertmanagers", "/targets", "/scrape_pools", "/features":
		return true
	}
	return strings.HasPrefix(endpoint, "/status/")
}

// follow begins to follow a request; done must be called when it has been answered.
func (r *Reader) follow(w *answer, req *http.Request, opts *options, endpoint string) (_ *http.Request, done func()) {
	if quiet(endpoint) {
		return req, func() {}
	}
	form := req.Form
	if form == nil {
		form = req.URL.Query()
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	a := &asking{
		endpoint: endpoint, opts: opts, query: textOf(form), stats: form.Get("stats"), step: shorten(form.Get("step"), maxParamBytes),
		start: shorten(form.Get("start")+form.Get("time"), maxParamBytes), end: shorten(form.Get("end"), maxParamBytes),
		remote: req.RemoteAddr, began: time.Now(), trace: trace.New(strings.TrimPrefix(endpoint, "/"), traceLimits(r.queryLimits(opts))), cancel: cancel,
	}
	if u := auth.UserFrom(ctx); u != nil {
		a.user = u.Name
	}
	opts.asking = a
	if opts.explain {
		req.Header.Del("Accept-Encoding") // what is compressed has no room for more
		w.explain = true
	}
	r.registry.begin(a)
	strike := r.tracker.Load().begin(a.String())
	return req.WithContext(trace.With(ctx, a.trace)), func() {
		strike()
		a.enter("")
		a.trace.Root().End(nil)
		w.finish(a)
		cancel(nil)
		took, counts := time.Since(a.began), a.trace.Counts()
		r.metrics.tenants.count(opts.whose(), a.began, took, counts)
		r.logSlow(a, w, took)
		r.registry.end(a, counts)
	}
}

// textOf is what a request asks for.
func textOf(form url.Values) string {
	text := form.Get("query")
	if text == "" {
		text = strings.Join(form["match[]"], " ")
	}
	return shorten(text, maxTextBytes)
}

// shorten returns at most the first n bytes of s, cut between characters, and a mark. It does not hold on to what s is a
// part of: the whole body of a form.
func shorten(s string, n int) string {
	if len(s) <= n {
		return strings.Clone(s)
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// enter begins a part of answering and ends the one before; "" begins none.
func (a *asking) enter(part string) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.phase.End(nil)
	a.phase, a.part = nil, part
	if part != "" {
		a.phase = a.trace.Root().Child(part)
	}
}

// in returns the part of answering that was entered last.
func (a *asking) in() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.part
}

// evaluated notes that the result is there.
func (a *asking) evaluated(res *promql.Result) {
	if a == nil {
		return
	}
	a.enter("encode")
	switch a.stats {
	case "", "true", "all":
	default: // Prometheus' API leaves this to those who render statistics themselves
		res.Warnings.Add(errors.New(`value "` + shorten(a.stats, maxParamBytes) + `" for parameter "stats" is deprecated and will be rejected in the next major release, use "true" or "all"`))
	}
}
