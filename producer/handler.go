package producer

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"time"

	"sluice/internal/web"
	"sluice/schema"
)

// Versions of the remote-write protocol, as labels.
const (
	versionUnknown = ""
	version1       = "1.0"
	version2       = "2.0"
)

// The headers by which a 2.0 receiver says how much it has written.
const (
	headerSamplesWritten    = "X-Prometheus-Remote-Write-Samples-Written"
	headerHistogramsWritten = "X-Prometheus-Remote-Write-Histograms-Written"
	headerExemplarsWritten  = "X-Prometheus-Remote-Write-Exemplars-Written"
)

// written is what the log has acknowledged of a request.
type written struct{ samples, histograms, exemplars int }

func (w written) plus(o written) written {
	return written{w.samples + o.samples, w.histograms + o.histograms, w.exemplars + o.exemplars}
}

// serve answers a push.
func (p *Producer) serve(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	q := p.pool.Get().(*request)
	defer p.release(q)

	version, err := q.push(r)
	if version == version2 {
		h := w.Header()
		h.Set(headerSamplesWritten, strconv.Itoa(q.written.samples))
		h.Set(headerHistogramsWritten, strconv.Itoa(q.written.histograms))
		h.Set(headerExemplarsWritten, strconv.Itoa(q.written.exemplars))
	}
	status := http.StatusNoContent
	if err == nil && q.ha.dropped != (written{}) {
		status = http.StatusAccepted
		q.ha.answer(w, status)
	} else if err == nil {
		w.WriteHeader(status)
	} else {
		status = statusOf(r, err)
		if status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodPost)
		}
		web.Error(w, r, err)
	}
	p.metrics.requests.WithLabelValues(strconv.Itoa(status), version).Inc()
	p.metrics.seconds.Observe(time.Since(start).Seconds())
}

// statusOf is the status that web.Error answers with.
func statusOf(r *http.Request, err error) int {
	var se *schema.Error
	switch {
	case errors.As(err, &se):
		return se.Status
	case r.Context().Err() != nil:
		return web.StatusClientClosedRequest
	}
	return http.StatusInternalServerError
}

// push reads, walks and writes a request. What was written is in q, whatever the error.
func (q *request) push(r *http.Request) (version string, err error) {
	f, unknown := protocol(r.Header)
	if err := q.receive(r, f, unknown); err != nil {
		return f.version, err
	}
	if err = q.walk(q.decoded, f.version); err != nil {
		q.p.rejectRequest(q.tenant, err)
		return f.version, err
	}
	return f.version, q.commit(r.Context(), true)
}

// receive finds out whose request it is, looks at the rate, and reads it into q.decoded. unknown is why its format is none of
// ours, nil if it is.
func (q *request) receive(r *http.Request, f format, unknown error) error {
	if r.Method != http.MethodPost {
		return schema.NewError(schema.ErrMethod, http.StatusMethodNotAllowed, "method %.20q is not allowed here, only POST", r.Method)
	}
	tenant, err := q.p.tenancy.Tenant(r)
	if err != nil {
		return err
	}
	if unknown != nil {
		q.p.rejectRequest(tenant, unknown)
		return unknown
	}
	if err = q.begin(r.Context(), tenant); err != nil {
		return err
	}
	q.splitBy(r.Context())
	if err = q.allowRequest(); err == nil {
		err = q.read(r, f.encoding)
	}
	if err != nil {
		q.p.rejectRequest(tenant, err)
	}
	return err
}

// rejectRequest counts a request that was refused as a whole by the sender's fault.
func (p *Producer) rejectRequest(tenant schema.Tenant, err error) {
	var se *schema.Error
	if errors.As(err, &se) && se.Status < http.StatusInternalServerError {
		p.reject(tenant, se, 1)
	}
}

// reject counts n items that were refused, and remembers why for the tenant.
func (p *Producer) reject(tenant schema.Tenant, err error, n int) {
	var se *schema.Error
	if errors.As(err, &se) {
		p.metrics.reject(tenant, se.ID, n)
		p.rejects.add(tenant, &refusal{id: se.ID, count: n, message: se.Message}, p.now())
	}
}

// Push writes body, an uncompressed remote-write 1.0 WriteRequest, for tenant, as a request over HTTP would be but without
// its rates. The error is a *schema.Error; what was valid has been written even if its status is 400. It is how this
// process sends its own metrics.
func (p *Producer) Push(ctx context.Context, tenant schema.Tenant, body []byte) error {
	q := p.pool.Get().(*request)
	defer p.release(q)
	if err := q.begin(ctx, tenant); err != nil {
		return err
	}
	if err := q.hold(2 * int64(len(body))); err != nil {
		return err
	}
	q.outReserved = int64(len(body))
	if err := q.walk(body, version1); err != nil {
		return err
	}
	return q.commit(ctx, false)
}

// format is how a request is written.
type format struct {
	version  string
	encoding string // Content-Encoding as we understand it
	json     bool   // OTLP only
}

// protocol tells the format from the headers, and refuses what we do not speak. The version is known as far as the headers
// say it even then.
func protocol(h http.Header) (f format, err error) {
	f.version = version1 // what senders older than the header mean
	if ct := h.Get("Content-Type"); ct != "" {
		media, params, err := mime.ParseMediaType(ct)
		if err != nil || media != "application/x-protobuf" {
			return format{}, unsupported(schema.ErrContentType, "content type %.100q is not supported, only application/x-protobuf", ct)
		}
		switch proto := params["proto"]; proto {
		case "", "prometheus.WriteRequest":
		case "io.prometheus.write.v2.Request":
			f.version = version2
		default:
			return format{}, unsupported(schema.ErrContentType,
				"protobuf message %.100q is not supported, only prometheus.WriteRequest and io.prometheus.write.v2.Request", proto)
		}
	}
	switch enc := h.Get("Content-Encoding"); enc {
	case "", encodingSnappy:
		f.encoding = encodingSnappy
	case encodingZstd: // what vmagent begins with
		f.encoding = encodingZstd
	default:
		return f, unsupported(schema.ErrContentEncoding, "content encoding %.100q is not supported, only snappy (block format) and zstd", enc)
	}
	return f, nil
}

func unsupported(id schema.ErrorID, format string, args ...any) error {
	return schema.NewError(id, http.StatusUnsupportedMediaType, format, args...)
}
