package producer

import (
	"context"
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
	if q.split != nil {
		return q.commitSplitOTLP(r.Context())
	}
	return q.store(r.Context(), true)
}

// commitSplitOTLP is store for a request with a split. What was refused of its parts goes into q.refused; a part that is above
// its rate has the sender come back with all, of which what is there already changes nothing.
func (q *request) commitSplitOTLP(ctx context.Context) error {
	err := q.commitSplit(ctx)
	var se *schema.Error
	if q.split.stored && errors.As(err, &se) && se.Status == http.StatusBadRequest {
		if first := q.refused.add(se.ID, 0); first != nil {
			first.message = se.Message
		}
		return nil
	}
	return err
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
	q.key = seriesKey{} // not a 2.0 request: series are known by their labels
	if q.split == nil {
		return q.cached(func() error {
			return q.eachTranslated(func(payload []byte, meta *schema.SeriesV2) (int, error) {
				err := q.addSeries(payload, nil, meta)
				return q.refused.series, err
			})
		})
	}
	err := q.eachTranslated(func(payload []byte, meta *schema.SeriesV2) (int, error) {
		err := q.addToPart(payload, nil, meta)
		return q.split.refused(), err
	})
	if err != nil {
		return err
	}
	return q.split.learn()
}

// eachTranslated calls add with each series, and counts the data points for which the number of refused series that it
// returns has grown.
func (q *request) eachTranslated(add func(payload []byte, meta *schema.SeriesV2) (refused int, err error)) error {
	t := &q.otlp
	start, before, point := 0, 0, int32(0)
	meta := schema.SeriesV2{HasMeta: true}
	for i := range t.series {
		s := &t.series[i]
		meta.Metadata = t.metas[s.meta]
		refused, err := add(t.payloads[start:s.end], &meta)
		if err != nil {
			return err
		}
		if refused > before && s.point > point {
			point = s.point
			q.pointsRefused++
		}
		start, before = s.end, refused
	}
	return nil
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
