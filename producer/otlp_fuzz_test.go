package producer

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"sluice/schema"
)

// FuzzOTLP: whatever the body, the answer is one of OTLP's, what is written can be read, and nothing stays held.
func FuzzOTLP(f *testing.F) {
	f.Add(otlpProto(f, everythingOTLP()), false)
	f.Add(otlpJSON(f, everythingOTLP()), true)
	for _, body := range otlpBombs(64) {
		f.Add(body, false)
		req := pmetricotlp.NewExportRequest()
		require.NoError(f, req.UnmarshalProto(body))
		text, err := req.MarshalJSON()
		require.NoError(f, err)
		f.Add(text, true)
	}
	f.Add(wrap(wrap(wrap(nested(80), 2, 7), 1), toGauge...), false)
	f.Add([]byte(`{"resourceMetrics":[null,{"scopeMetrics":[{"metrics":[{"name":"a","gauge":{"dataPoints":[{"asInt":"1","timeUnixNano":1}]}}]}]}]}`), true)
	x := newFixture(f, Config{}, "default: {otel_translation_strategy: NoUTF8EscapingWithSuffixes, otel_promote_scope_metadata: true, promote_otel_resource_attributes: '*'}\noverrides: {nhcb: {otel_convert_histograms_to_nhcb: true}}", 3)
	f.Fuzz(func(t *testing.T, body []byte, json bool) {
		contentType := protobufType
		if json {
			contentType = jsonType
		}
		for _, tenant := range []string{"default", "nhcb"} {
			x.log.reset()
			w := x.postOTLP(body, "Content-Type", contentType, "X-Scope-OrgID", tenant)
			switch w.Code {
			case http.StatusOK:
				rejected, message := exportResponse(t, w)
				require.True(t, rejected == 0 || message != "")
			case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
				code, message := rpcStatus(t, w)
				require.Equal(t, 3, code)
				require.Contains(t, message, "err-sluice-")
			default:
				t.Fatalf("status %d: %q", w.Code, w.Body)
			}
			x.log.content(t) // checks that schema and Prometheus can read it
			require.Zero(t, x.budget.used.Load())
		}
	})
}

// FuzzBody: what the bounded readers make of a body is what others make of it, up to the limit.
func FuzzBody(f *testing.F) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	require.NoError(f, err)
	for _, text := range [][]byte{nil, []byte("text"), bytes.Repeat([]byte("ab"), 5000), make([]byte, 30_000)} {
		f.Add(snappy.Encode(nil, text), uint8(0))
		f.Add(w.EncodeAll(text, nil), uint8(1))
		f.Add(append(w.EncodeAll(text, nil), w.EncodeAll(text, nil)...), uint8(1))
		f.Add(gzipped(f, text), uint8(2))
		f.Add(append(gzipped(f, text), gzipped(f, text)...), uint8(2))
	}
	f.Add([]byte("\xff\xff\xff\xff\x0f\x00"), uint8(0))
	const limit = 20_000
	x := newFixture(f, Config{MaxDecodedBytes: limit}, "", 1)
	other, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderMaxMemory(1<<20))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, body []byte, which uint8) {
		encoding := []string{encodingSnappy, encodingZstd, encodingGzip}[which%3]
		q := x.pool.Get().(*request)
		r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
		err := q.read(r, encoding)
		if len(q.decoded) > limit {
			t.Fatalf("%d bytes", len(q.decoded))
		}
		var want []byte
		var refused error
		switch encoding {
		case encodingSnappy:
			if n, err := snappy.DecodedLen(body); err == nil && n > 1<<20 {
				break
			}
			want, refused = snappy.Decode(nil, body)
		case encodingZstd:
			want, refused = other.DecodeAll(body, nil)
		case encodingGzip:
			var z *gzip.Reader
			if z, refused = gzip.NewReader(bytes.NewReader(body)); refused == nil {
				want, refused = io.ReadAll(io.LimitReader(z, 1<<20))
			}
		}
		if err == nil {
			require.NoError(t, refused)
			require.True(t, bytes.Equal(want, q.decoded))
		} else {
			var se *schema.Error
			require.ErrorAs(t, err, &se)
			require.True(t, refused != nil || len(want) > limit || len(body) == 0 || want == nil, "%v, and %d bytes", err, len(want))
		}
		x.release(q)
		require.Zero(t, x.budget.used.Load())
	})
}
