package producer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"sluice/internal/web"
	"sluice/schema"
)

// versionOTLP is the label of OTLP requests.
const versionOTLP = "otlp"

const (
	protobufType = "application/x-protobuf"
	jsonType     = "application/json"
)

// serveOTLP answers an ExportMetricsServiceRequest as OTLP/HTTP has it: 200 with what was refused in the answer if something
// was written, 400 if nothing could be; errors are google.rpc.Status in the encoding of the request.
func (p *Producer) serveOTLP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	q := p.pool.Get().(*request)
	defer p.release(q)

	f, unknown := otlpFormat(r.Header)
	err := q.pushOTLP(r, f, unknown)
	status := http.StatusOK
	if err == nil {
		err = q.answerOTLP(w, f)
	}
	if err != nil {
		status = statusOf(r, err)
		otlpError(w, f, status, err)
	}
	p.metrics.requests.WithLabelValues(fmt.Sprint(status), f.version).Inc()
	p.metrics.seconds.Observe(time.Since(start).Seconds())
}

// otlpFormat is protocol for OTLP. What is no format of OTLP is answered in JSON.
func otlpFormat(h http.Header) (format, error) {
	f := format{version: versionOTLP, json: true}
	ct := h.Get("Content-Type")
	switch media, _, err := mime.ParseMediaType(ct); {
	case err == nil && media == protobufType:
		f.json = false
	case err == nil && media == jsonType:
	default:
		return f, unsupported(schema.ErrContentType, "content type %.100q is not supported, only %s and %s", ct, protobufType, jsonType)
	}
	switch enc := h.Get("Content-Encoding"); enc {
	case encodingNone, "identity":
	case encodingGzip, encodingZstd:
		f.encoding = enc
	default:
		return f, unsupported(schema.ErrContentEncoding, "content encoding %.100q is not supported, only gzip, zstd and none", enc)
	}
	return f, nil
}

// pushOTLP reads, translates, walks and writes a request. An error means that nothing was written; what was refused of a
// request that was written is in q.refused.
func (q *request) pushOTLP(r *http.Request, f format, unknown error) error {
	if err := q.receive(r, f, unknown); err != nil {
		return err
	}
	md, cost, err := q.decodeOTLP(f)
	if err == nil {
		err = q.translate(r.Context(), md)
	}
	q.giveBack(cost)
	if err == nil {
		err = q.walkTranslated()
	}
	if err != nil {
		q.p.rejectRequest(q.tenant, err)
		return err
	}
	return q.store(r.Context(), true)
}

// decodeOTLP decodes the body. cost is what was held for that.
func (q *request) decodeOTLP(f format) (md pmetric.Metrics, cost int64, err error) {
	estimate := otlpProtoCost
	if f.json {
		estimate = otlpJSONCost
	}
	if cost, err = estimate(q.decoded); err != nil {
		return md, 0, err
	}
	if limit := q.p.cfg.maxOTLPTree(); cost > limit {
		return md, 0, schema.NewError(schema.ErrBodyTooLarge, http.StatusRequestEntityTooLarge,
			"the request takes some %d bytes when decoded, more than the limit of %d; send less at once", cost, limit)
	}
	if err := q.hold(cost); err != nil {
		return md, 0, err
	}
	req := pmetricotlp.NewExportRequest()
	if f.json {
		err = req.UnmarshalJSON(q.decoded)
	} else {
		err = req.UnmarshalProto(q.decoded)
	}
	if err != nil {
		return md, cost, schema.NewError(schema.ErrDecode, http.StatusBadRequest, "the body is no ExportMetricsServiceRequest: %.300v", err)
	}
	return req.Metrics(), cost, nil
}

// walkTranslated puts the translated series into records.
func (q *request) walkTranslated() error {
	return q.cached(func() error {
		t := &q.otlp
		q.key = seriesKey{} // not a 2.0 request: series are known by their labels
		start, refusedPoint := 0, int32(0)
		for i := range t.series {
			s := &t.series[i]
			before := q.refused.series
			meta := schema.SeriesV2{Metadata: t.metas[s.meta], HasMeta: true}
			if err := q.addSeries(t.payloads[start:s.end], nil, &meta); err != nil {
				return err
			}
			if q.refused.series > before && s.point > refusedPoint {
				refusedPoint = s.point
				q.pointsRefused++
			}
			start = s.end
		}
		return nil
	})
}

// answerOTLP says what became of the data points. An error is the answer if all were refused.
func (q *request) answerOTLP(w http.ResponseWriter, f format) (err error) {
	resp := pmetricotlp.NewExportResponse()
	if refused := q.refused.explain(q.pointsRefused, q.dataPoints, "data points"); refused != nil {
		if q.pointsRefused == q.dataPoints {
			return refused
		}
		resp.PartialSuccess().SetRejectedDataPoints(int64(q.pointsRefused))
		resp.PartialSuccess().SetErrorMessage(refused.Error())
	}
	var body []byte
	if f.json {
		body, err = resp.MarshalJSON()
	} else {
		body, err = resp.MarshalProto()
	}
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	w.Header().Set("Content-Type", f.contentType())
	_, _ = w.Write(body) // the sender has gone, and will send again
	return nil
}

func (f format) contentType() string {
	if f.json {
		return jsonType
	}
	return protobufType
}

// otlpError answers with a google.rpc.Status.
func otlpError(w http.ResponseWriter, f format, status int, err error) {
	h := w.Header()
	var se *schema.Error
	if errors.As(err, &se) {
		web.SetRetryAfter(w, se.RetryAfter)
	}
	if status == http.StatusMethodNotAllowed {
		h.Set("Allow", http.MethodPost)
	}
	code, message := rpcCode(status), err.Error()
	var body []byte
	if f.json {
		body, _ = json.Marshal(struct { // cannot fail
			Code    int    `json:"code"`
			Message string `json:"message"`
		}{code, message})
	} else {
		body = binary.AppendUvarint([]byte{1 << 3}, uint64(code))
		body = schema.AppendField(body, 2, []byte(message))
	}
	h.Set("Content-Type", f.contentType())
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// rpcCode is the google.rpc.Code that goes with a status of HTTP. Whether to try again senders tell from the latter.
func rpcCode(status int) int {
	switch status {
	case http.StatusUnauthorized:
		return 16 // UNAUTHENTICATED
	case http.StatusForbidden:
		return 7 // PERMISSION_DENIED
	case http.StatusTooManyRequests:
		return 8 // RESOURCE_EXHAUSTED
	case web.StatusClientClosedRequest, http.StatusRequestTimeout:
		return 1 // CANCELLED
	case http.StatusServiceUnavailable:
		return 14 // UNAVAILABLE
	}
	if status >= http.StatusInternalServerError {
		return 13 // INTERNAL
	}
	return 3 // INVALID_ARGUMENT
}
