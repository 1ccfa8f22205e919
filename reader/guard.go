package reader

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/util/httputil"

	"sluice/internal/queried"
	"sluice/internal/trace"
	"sluice/internal/web"
	"sluice/schema"
)

const (
	consistencyHeader = "X-Read-Consistency"
	consistencyStrong = "strong"
	consistencyWeak   = "eventual"

	statisticsHeader = "X-Sluice-Statistics" // off: the request does not count in which metrics are queried

	maxFormBytes    = 1 << 20
	maxReadBytes    = 1 << 20 // remote read, compressed
	maxReadUnpacked = 8 << 20
)

// guard stands before an endpoint: it finds out who asks and how, refuses what must not reach the parser, and makes the
// answer say what went wrong on our side.
func (r *Reader) guard(e *endpoint) http.Handler {
	serve := r.api
	if e.own != nil {
		serve = httputil.CompressionHandler{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { e.own(r, w, req) })}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodOptions {
			r.api.ServeHTTP(w, req)
			return
		}
		if e.own != nil && req.Method != http.MethodGet && (!e.post || req.Method != http.MethodPost) {
			e.refuseMethod(w)
			return
		}
		start := time.Now()
		opts := &options{}
		out := &answer{ResponseWriter: w, opts: opts}
		defer func() {
			r.metrics.queries.WithLabelValues(strconv.Itoa(out.code())).Inc()
			r.metrics.seconds.WithLabelValues(e.path).Observe(time.Since(start).Seconds())
		}()
		err := r.Ready()
		if err == nil {
			err = r.prepare(out, req, opts, e.promql)
		}
		if err == nil && e.path == "/read" {
			err = limitRead(out, req)
		}
		if err != nil {
			respondError(out, req, err)
			return
		}
		if r.queried != nil && req.Header.Get(statisticsHeader) != "off" {
			opts.queried = &queried.Request{}
			defer r.queried.Count(opts.queried)
		}
		req, done := r.follow(out, req, opts, e.path)
		defer done()
		r.serveInTurn(e.path, serve, out, req, opts)
	})
}

// refuseMethod answers as Prometheus' router does.
func (e *endpoint) refuseMethod(w http.ResponseWriter) {
	allow := "GET, OPTIONS"
	if e.post {
		allow = "GET, OPTIONS, POST"
	}
	w.Header().Set("Allow", allow)
	http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
}

// prepare fills in opts from the request and checks its PromQL.
func (r *Reader) prepare(w http.ResponseWriter, req *http.Request, opts *options, promql string) error {
	tenants, err := r.tenancy.Tenants(req)
	if err != nil {
		return err
	}
	if opts.tenant = tenants[0]; len(tenants) > 1 {
		opts.tenant, opts.tenants = "", tenants
	}
	switch c := req.Header.Get(consistencyHeader); c {
	case "", consistencyWeak:
	case consistencyStrong:
		opts.strong = true
	default:
		return badData("%s is %q, must be %q or %q", consistencyHeader, c, consistencyStrong, consistencyWeak)
	}
	if promql == "" {
		return opts.wants(req.URL.Query())
	}
	req.Body = http.MaxBytesReader(w, req.Body, maxFormBytes)
	// The handlers read their fields by FormValue, which knows multipart forms: look where they look.
	kind, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if kind == "multipart/form-data" {
		err = req.ParseMultipartForm(maxFormBytes)
	} else {
		err = req.ParseForm()
	}
	if err != nil {
		return badData("form cannot be read: %v", err)
	}
	if err := opts.wants(req.Form); err != nil {
		return err
	}
	pattern := 0
	for _, q := range req.Form[promql] {
		if err := checkQuery(q); err != nil {
			return err
		}
		if pattern += measure(q).pattern; pattern > maxPattern { // many small ones
			return tooLargePattern(pattern)
		}
		if promql == "query" {
			d := r.dialect(opts)
			if err := d.Check(r.language, q); err != nil {
				return err
			}
		}
	}
	return nil
}

// wants takes over what the parameters ask for.
func (o *options) wants(form url.Values) (err error) {
	if o.partial, err = boolean(form, "partial_response"); err != nil {
		return err
	}
	o.explain, err = boolean(form, "explain")
	return err
}

// boolean reads a parameter that is false unless it says otherwise.
func boolean(form url.Values, name string) (bool, error) {
	s := form.Get(name)
	if s == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, badData("%s is %.50q, must be true or false", name, s)
	}
	return b, nil
}

func badData(format string, args ...any) *schema.Error {
	return schema.NewError(schema.ErrDecode, http.StatusBadRequest, format, args...)
}

// limitRead holds a remote read to its limits before Prometheus' handler decompresses it, which trusts the length that
// the body claims.
func limitRead(w http.ResponseWriter, req *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxReadBytes))
	if err != nil {
		return schema.NewError(schema.ErrBodyTooLarge, http.StatusRequestEntityTooLarge, "remote read request cannot be read (limit %d bytes): %v", maxReadBytes, err)
	}
	n, err := snappy.DecodedLen(body)
	var raw []byte
	if err == nil && n <= maxReadUnpacked {
		raw, err = snappy.Decode(nil, body)
	}
	if err != nil || n > maxReadUnpacked {
		return schema.NewError(schema.ErrDecompress, http.StatusBadRequest, "remote read request of %d bytes does not decompress to at most %d", len(body), maxReadUnpacked)
	}
	if err := checkRead(raw); err != nil {
		return err
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// answer is a ResponseWriter that knows what failed.
type answer struct {
	http.ResponseWriter
	opts    *options
	status  int
	bytes   int64
	explain bool
	tail    *tail // nil = nothing is added at the end
}

// WriteHeader puts the status of a failure of ours in the place of a plain 500, and says when to come back. When the head
// is out already, the connection is cut: what was sent must not be taken for the whole.
func (a *answer) WriteHeader(status int) {
	failure := a.opts.noted()
	if a.status != 0 {
		if status >= 500 {
			panic(http.ErrAbortHandler)
		}
		return
	}
	if status >= 500 && failure != nil {
		status = failure.Status
		web.SetRetryAfter(a.ResponseWriter, failure.RetryAfter)
	}
	a.status = status
	if a.opts.coverage.setHeader(a.Header()); a.explain && holdsJSON(a.Header()) {
		a.tail = &tail{}
		a.Header().Del("Content-Length")
	}
	a.opts.asking.enter("send")
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	a.bytes += int64(len(b))
	if a.tail != nil {
		return a.tail.write(a.ResponseWriter, b)
	}
	return a.ResponseWriter.Write(b)
}

// finish writes what was kept for the end.
func (a *answer) finish(q *asking) {
	if a.tail != nil {
		a.tail.end(a.ResponseWriter, &explanation{q.trace.Report(), a.opts.coverage.told(q.trace.Counts()[trace.CacheHits])})
	}
}

// Flush is wanted by remote read's streams. An answer without a body yet stays open for its status.
func (a *answer) Flush() {
	if f, ok := a.ResponseWriter.(http.Flusher); ok && a.status != 0 {
		f.Flush()
	}
}

// Unwrap serves http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) code() int {
	if a.status == 0 {
		return http.StatusOK
	}
	return a.status
}

// respondError answers in Prometheus' shape.
func respondError(w http.ResponseWriter, req *http.Request, err error) {
	var se *schema.Error
	var p plain
	if errors.As(err, &p) {
		se = &schema.Error{Status: http.StatusBadRequest, Message: err.Error()}
	} else if !errors.As(err, &se) {
		se = &schema.Error{Status: http.StatusInternalServerError, Message: err.Error()}
	}
	kind := "bad_data"
	switch {
	case se.ID == schema.ErrNoTenant:
		kind = "unauthorized"
	case se.Status == http.StatusForbidden:
		kind = "forbidden"
	case se.Status == http.StatusNotFound:
		kind = "not_found"
	case se.ID == schema.ErrQueryCanceled:
		kind = "canceled"
	case se.Status == http.StatusUnprocessableEntity:
		kind = "execution"
	case se.Status == http.StatusServiceUnavailable:
		kind = "unavailable"
	case se.Status >= 500:
		kind = "internal"
	}
	httputil.SetCORS(w, corsOrigin(), req)
	if a, ok := w.(*answer); ok {
		a.opts.note(se)
	}
	writeJSON(w, se.Status, envelope{Status: "error", ErrorType: kind, Error: err.Error()})
}

// plain is what Prometheus says of a bad parameter, word for word.
type plain string

func (p plain) Error() string { return string(p) }

// envelope is an answer of Prometheus' API.
type envelope struct {
	Status    string   `json:"status"`
	Data      any      `json:"data,omitempty"`
	ErrorType string   `json:"errorType,omitempty"`
	Error     string   `json:"error,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
}

// respondData answers a request that went well.
func respondData(w http.ResponseWriter, req *http.Request, data any, warnings ...string) {
	httputil.SetCORS(w, corsOrigin(), req)
	writeJSON(w, http.StatusOK, envelope{Status: "success", Data: data, Warnings: warnings})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil { // only strings and numbers are marshalled here
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // the client has gone
}

// serveMetadata answers /metadata, which Prometheus' handler takes from its scrape targets.
func (r *Reader) serveMetadata(w http.ResponseWriter, req *http.Request) {
	limit, err := number(req, "limit")
	if err != nil {
		respondError(w, req, plain("limit must be a number"))
		return
	}
	perMetric, err := number(req, "limit_per_metric")
	if err != nil {
		respondError(w, req, plain("limit_per_metric must be a number"))
		return
	}
	found, warnings, err := r.metadata(req.Context(), req.FormValue("metric"))
	if err != nil {
		respondError(w, req, err)
		return
	}
	data := map[string][]metadata.Metadata{}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		ms := found[name]
		if limit >= 0 && len(data) >= limit {
			break
		}
		if perMetric > 0 && len(ms) > perMetric {
			ms = ms[:perMetric]
		}
		data[name] = ms
	}
	respondData(w, req, data, warnings...)
}

func number(req *http.Request, name string) (int, error) {
	s := req.FormValue(name)
	if s == "" {
		return -1, nil
	}
	return strconv.Atoi(s)
}

// serveBuildInfo answers what Grafana decides by: the version of the Prometheus whose API and engine this is.
func (r *Reader) serveBuildInfo(w http.ResponseWriter, req *http.Request) {
	info := map[string]string{
		"application": "Sluice", "version": prometheusVersion(), "sluiceVersion": r.cfg.Version,
		"revision": "", "branch": "", "buildUser": "", "buildDate": "", "goVersion": "",
	}
	if b, ok := debug.ReadBuildInfo(); ok {
		info["goVersion"] = strings.TrimPrefix(b.GoVersion, "go")
	}
	respondData(w, req, info)
}

// prometheusVersion derives the version of Prometheus from that of its module: v0.315.0 is 3.15.0.
func prometheusVersion() string {
	const fallback = "3.15.0"
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return fallback
	}
	for _, dep := range b.Deps {
		parts := strings.Split(strings.TrimPrefix(dep.Version, "v"), ".")
		if dep.Path != "github.com/prometheus/prometheus" || len(parts) != 3 || len(parts[1]) != 3 {
			continue
		}
		minor, err := strconv.Atoi(parts[1][1:])
		if err != nil {
			return fallback
		}
		return parts[1][:1] + "." + strconv.Itoa(minor) + "." + parts[2]
	}
	return fallback
}
