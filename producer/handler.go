package producer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/golang/snappy"

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
	if r.Method != http.MethodPost {
		return versionUnknown, schema.NewError(schema.ErrMethod, http.StatusMethodNotAllowed, "method %.20q is not allowed here, only POST", r.Method)
	}
	tenant, err := q.p.tenancy.Tenant(r)
	if err != nil {
		return versionUnknown, err
	}
	if version, err = protocol(r.Header); err != nil {
		q.p.rejectRequest(tenant, err)
		return version, err
	}
	if err = q.begin(r.Context(), tenant); err != nil {
		return version, err
	}
	err = allow(q.state.requests, 1, q.now, schema.ErrRequestRate, "requests", "request_rate", "request_burst_size")
	if err == nil {
		err = q.read(r)
	}
	if err != nil {
		q.p.rejectRequest(tenant, err)
		return version, err
	}
	if err = q.walk(q.decoded, version); err != nil {
		q.p.rejectRequest(tenant, err)
		return version, err
	}
	return version, q.commit(r.Context(), true)
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

// protocol tells the version from the headers, and refuses what we do not speak.
func protocol(h http.Header) (version string, err error) {
	refuse := func(id schema.ErrorID, format string, args ...any) (string, error) {
		return version, schema.NewError(id, http.StatusUnsupportedMediaType, format, args...)
	}
	version = version1 // what senders older than the header mean
	if ct := h.Get("Content-Type"); ct != "" {
		media, params, err := mime.ParseMediaType(ct)
		if err != nil || media != "application/x-protobuf" {
			version = versionUnknown
			return refuse(schema.ErrContentType, "content type %.100q is not supported, only application/x-protobuf", ct)
		}
		switch proto := params["proto"]; proto {
		case "", "prometheus.WriteRequest":
		case "io.prometheus.write.v2.Request":
			version = version2
		default:
			version = versionUnknown
			return refuse(schema.ErrContentType,
				"protobuf message %.100q is not supported, only prometheus.WriteRequest and io.prometheus.write.v2.Request", proto)
		}
	}
	if enc := h.Get("Content-Encoding"); enc != "" && enc != "snappy" {
		return refuse(schema.ErrContentEncoding, "content encoding %.100q is not supported, only snappy (block format)", enc)
	}
	return version, nil
}

// maxSnappyRatio is the most that snappy can do: a copy of 64 bytes takes three.
const maxSnappyRatio = 22

// read reads and decompresses the body into q.decoded. Nothing is allocated by what the sender only claims.
func (q *request) read(r *http.Request) error {
	if r.ContentLength > q.p.cfg.MaxBodyBytes {
		return bodyTooLarge("body", r.ContentLength, q.p.cfg.MaxBodyBytes)
	}
	if err := q.readBody(r); err != nil {
		return err
	}
	n, err := snappy.DecodedLen(q.body)
	switch {
	case err != nil && len(q.body) == 0:
		return schema.NewError(schema.ErrDecompress, http.StatusBadRequest, "the body is empty, not even an empty snappy block")
	case err != nil:
		return schema.NewError(schema.ErrDecompress, http.StatusBadRequest, "the body is no snappy block: %v", err)
	case int64(n) > q.p.cfg.MaxDecodedBytes:
		return bodyTooLarge("decompressed body", int64(n), q.p.cfg.MaxDecodedBytes)
	case n > maxSnappyRatio*len(q.body)+64:
		return schema.NewError(schema.ErrDecompress, http.StatusBadRequest,
			"the body is no snappy block: %d bytes cannot become the %d that it promises", len(q.body), n)
	}
	if err := q.hold(2 * int64(n)); err != nil {
		return err
	}
	q.outReserved = int64(n)
	q.decodeBuf = grow(q.decodeBuf, n)
	if q.decoded, err = snappy.Decode(q.decodeBuf[:n], q.body); err != nil {
		return schema.NewError(schema.ErrDecompress, http.StatusBadRequest, "the body is no snappy block: %v", err)
	}
	return nil
}

func bodyTooLarge(what string, size, limit int64) error {
	return schema.NewError(schema.ErrBodyTooLarge, http.StatusRequestEntityTooLarge, "%s of %d bytes is larger than the limit of %d", what, size, limit)
}

// readBody reads the body into q.body, with room that grows with what has arrived.
func (q *request) readBody(r *http.Request) error {
	limit := q.p.cfg.MaxBodyBytes
	buf, room := q.bodyBuf[:0], int64(0)
	for {
		if int64(len(buf)) == room {
			step := min(max(room, firstRead), limit+1-room)
			if err := q.hold(step); err != nil {
				return err
			}
			room += step
			buf = slices.Grow(buf, int(step))
		}
		n, err := r.Body.Read(buf[len(buf):room])
		buf = buf[:len(buf)+n]
		q.bodyBuf, q.body = buf, buf
		switch {
		case int64(len(buf)) > limit:
			return bodyTooLarge("body", int64(len(buf)), limit)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return unreadable(r, err)
		}
	}
}

// firstRead is the room that a body gets before its first byte has arrived: little, as thousands of clients may be slow.
const firstRead = 16 << 10

// unreadable says why a body did not arrive.
func unreadable(r *http.Request, err error) error {
	switch {
	case r.Context().Err() != nil:
		return fmt.Errorf("read body: %w", err) // 499
	case errors.Is(err, io.ErrUnexpectedEOF):
		return schema.NewError(schema.ErrBodyUnreadable, web.StatusClientClosedRequest, "the body ended before its announced length")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return schema.NewError(schema.ErrBodyUnreadable, http.StatusRequestTimeout, "the body did not arrive in time")
	}
	return schema.NewError(schema.ErrBodyUnreadable, http.StatusBadRequest, "the body could not be read: %v", err)
}

func grow[T any](b []T, n int) []T {
	if cap(b) < n {
		return make([]T, n)
	}
	return b[:n]
}
