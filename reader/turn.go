package reader

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/prometheus/util/httputil"

	"sluice/internal/trace"
	"sluice/internal/web"
	"sluice/schema"
)

// dataEndpoints are those whose work has to wait for its turn: all that look at samples, series or labels.
var dataEndpoints = map[string]bool{
	"/query": true, "/query_range": true, "/query_exemplars": true, "/series": true, "/labels": true, "/label/{name}/values": true, "/read": true,
	"/search/metric_names": true, "/search/label_names": true, "/search/label_values": true,
	"/federate": true, "/cardinality/label_names": true, "/cardinality/label_values": true, "/cardinality/active_series": true, "/cardinality/over_time": true, "/status/tsdb": true, "/status/metric_names_stats": true,
}

// serveInTurn answers a request whose form has been read: it holds it to the tenant's limits, lets it wait for its turn and
// gives the place back with the first byte of the answer. By then all work is done but for what is streamed, and a client
// that reads slowly holds up nobody.
func (r *Reader) serveInTurn(endpoint string, serve http.Handler, out *answer, req *http.Request, opts *options) {
	ctx := withOptions(req.Context(), opts)
	if !dataEndpoints[endpoint] {
		out.ResponseWriter = &pacedWriter{ResponseWriter: out.ResponseWriter, pace: r.cfg.WritePace}
		serve.ServeHTTP(out, req.WithContext(ctx))
		return
	}
	limits := r.queryLimits(opts)
	opts.noStore = strings.Contains(req.Header.Get("Cache-Control"), "no-store")
	switch endpoint {
	case "/series", "/labels", "/label/{name}/values", "/search/metric_names", "/search/label_names", "/search/label_values", "/cardinality/over_time":
		if err := r.limitLabels(req, limits); err != nil {
			respondError(out, req, err)
			return
		}
	}
	followed := trace.From(ctx)
	if followed == nil {
		followed = trace.New(endpoint, traceLimits(limits))
		ctx = trace.With(ctx, followed)
	}
	followed.Share(r.memory)
	defer followed.Release()
	start := time.Now()
	opts.asking.enter("queue")
	leave, err := r.queue.Enter(ctx, opts.whose(), limits.MaxOutstandingRequestsPerTenant)
	opts.asking.enter("")
	if err != nil {
		var refused *schema.Error
		if errors.As(err, &refused) {
			web.SetRetryAfter(out, refused.RetryAfter)
		}
		respondError(out, req, err)
		return
	}
	defer leave()
	opts.queued = time.Since(start)
	followed.Root().Set("queue_seconds", opts.queued.Seconds())
	paced := &pacedWriter{ResponseWriter: out.ResponseWriter, pace: r.cfg.WritePace, begin: leave}
	out.ResponseWriter = paced
	req = req.WithContext(ctx)
	if limit := limits.MaxQueryResponseSize; limit > 0 {
		sized := &sizedWriter{limit: limit}
		defer sized.end()
		serve = sized.before(serve)
	}
	serve.ServeHTTP(out, req)
}

// whose returns the name under which the query takes its turns.
func (o *options) whose() schema.Tenant {
	if len(o.tenants) == 0 {
		return o.tenant
	}
	names := make([]string, len(o.tenants))
	for i, t := range o.tenants {
		names[i] = string(t)
	}
	return schema.Tenant(strings.Join(names, "|"))
}

// pieceBytes is what a client has to take within one pace.
const pieceBytes = 64 << 10

// pacedWriter cuts off a client that takes less than pieceBytes in a pace once the buffers between us are full.
type pacedWriter struct {
	http.ResponseWriter
	pace  time.Duration
	begin func() // called before the first byte; may be nil
}

func (p *pacedWriter) WriteHeader(status int) {
	p.started()
	p.ResponseWriter.WriteHeader(status)
}

func (p *pacedWriter) started() {
	if p.begin != nil {
		p.begin()
		p.begin = nil
	}
}

func (p *pacedWriter) Write(b []byte) (n int, err error) {
	p.started()
	for len(b) > 0 && err == nil {
		piece := b[:min(len(b), pieceBytes)]
		p.extend()
		var written int
		written, err = p.ResponseWriter.Write(piece)
		n, b = n+written, b[len(piece):]
	}
	return n, err
}

// extend gives the client another pace; the server takes the deadline back before the connection's next request.
func (p *pacedWriter) extend() {
	_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(p.pace)) // not every writer can
}

// Flush is wanted by streams.
func (p *pacedWriter) Flush() {
	p.started()
	p.extend()
	_ = http.NewResponseController(p.ResponseWriter).Flush() // not every writer can
}

// Unwrap serves http.ResponseController.
func (p *pacedWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// sizedWriter holds an answer to max_query_response_size. The head waits for the first bytes, as Prometheus' API writes its
// whole answer at once: what is too large gets an error. What is streamed beyond the limit is cut.
type sizedWriter struct {
	http.ResponseWriter
	limit  int64
	status int // not sent yet
	taken  int64
	over   bool
}

// before makes serve write to the sizedWriter, which counts before anything is compressed.
func (s *sizedWriter) before(serve http.Handler) http.Handler {
	plain := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		s.ResponseWriter = w
		req = req.Clone(req.Context())
		req.Header.Del("Accept-Encoding")
		serve.ServeHTTP(s, req)
		s.end()
	})
	return httputil.CompressionHandler{Handler: plain}
}

func (s *sizedWriter) WriteHeader(status int) {
	if s.status == 0 && s.taken == 0 {
		s.status = status
	}
}

// end sends the head of an answer without a body.
func (s *sizedWriter) end() {
	if s.status != 0 && s.ResponseWriter != nil {
		s.ResponseWriter.WriteHeader(s.status)
		s.status = 0
	}
}

func (s *sizedWriter) Write(b []byte) (int, error) {
	if s.over {
		return len(b), nil
	}
	first := s.taken == 0
	s.taken += int64(len(b))
	if s.taken > s.limit && (s.status == 0 || s.status < 300) {
		if !first {
			panic(http.ErrAbortHandler)
		}
		s.over = true
		err := schema.NewError(schema.ErrMaxResponseSize, http.StatusUnprocessableEntity,
			"the answer has %d bytes or more, the limit is %d (max_query_response_size)", s.taken, s.limit)
		s.status = 0
		text, _ := json.Marshal(map[string]string{"status": "error", "errorType": "execution", "error": err.Error()}) // of strings
		s.ResponseWriter.Header().Set("Content-Type", "application/json")
		s.ResponseWriter.WriteHeader(err.Status)
		_, werr := s.ResponseWriter.Write(text)
		return len(b), werr
	}
	s.end()
	return s.ResponseWriter.Write(b)
}

// Flush is wanted by streams.
func (s *sizedWriter) Flush() {
	s.end()
	if f, ok := s.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap serves http.ResponseController.
func (s *sizedWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }
