package producer

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// Prometheus' own compliance suite runs against the whole program in bench/e2e; this is the grid that it does not have: every
// content type with every encoding, body and kind of content.

// payload is a kind of content, in both versions, with what of it is to be written.
type payload struct {
	v1     *prompb.WriteRequest
	v2     func(b *builder)
	want   written
	status int // 204 or 400
	id     schema.ErrorID
}

func payloads() map[string]payload {
	now := testNow.UnixMilli()
	name := labels.FromStrings("__name__", "m", "job", "x")
	nhcb := &histogram.Histogram{
		Schema: histogram.CustomBucketsSchema, Count: 3, Sum: 4, CustomValues: []float64{1, 2},
		PositiveSpans: []histogram.Span{{Length: 3}}, PositiveBuckets: []int64{1, 0, 0},
	}
	float := &histogram.FloatHistogram{Schema: 1, Count: 3, Sum: 4, PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []float64{3}}
	exponential := testHistogram(0).ToIntHistogram()
	one1 := func(change func(ts *prompb.TimeSeries)) *prompb.WriteRequest {
		ts := series("__name__", "m", "job", "x")
		change(&ts)
		return &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{ts}}
	}
	one2 := func(change func(b *builder, ts *writev2.TimeSeries)) func(*builder) {
		return func(b *builder) { change(b, b.add(name)) }
	}
	hist := func(h prompb.Histogram, h2 writev2.Histogram, want written, status int, id schema.ErrorID) payload {
		return payload{
			one1(func(ts *prompb.TimeSeries) { ts.Histograms = []prompb.Histogram{h} }),
			one2(func(_ *builder, ts *writev2.TimeSeries) { ts.Histograms = []writev2.Histogram{h2} }), want, status, id,
		}
	}
	bad := prompb.FromIntHistogram(now, exponential)
	bad.Count = &prompb.Histogram_CountInt{CountInt: 1}
	bad2 := writev2.FromIntHistogram(0, now, exponential)
	bad2.Count = &writev2.Histogram_CountInt{CountInt: 1}
	return map[string]payload{
		"empty": {&prompb.WriteRequest{}, func(*builder) {}, written{}, 204, ""},
		"float": {
			one1(func(ts *prompb.TimeSeries) { ts.Samples = []prompb.Sample{one(1), {Value: 2, Timestamp: now - 1}} }),
			one2(func(_ *builder, ts *writev2.TimeSeries) {
				ts.Samples = []writev2.Sample{{Value: 1, Timestamp: now, StartTimestamp: now - 5}, {Value: 2, Timestamp: now - 1}}
			}), written{samples: 2}, 204, "",
		},
		"histogram":       hist(prompb.FromIntHistogram(now, exponential), writev2.FromIntHistogram(now-5, now, exponential), written{histograms: 1}, 204, ""),
		"float histogram": hist(prompb.FromFloatHistogram(now, float), writev2.FromFloatHistogram(0, now, float), written{histograms: 1}, 204, ""),
		"custom buckets":  hist(prompb.FromIntHistogram(now, nhcb), writev2.FromIntHistogram(0, now, nhcb), written{histograms: 1}, 204, ""),
		"bad histogram":   hist(bad, bad2, written{}, 400, schema.ErrHistogramInvalid),
		"exemplar": {
			one1(func(ts *prompb.TimeSeries) {
				ts.Samples = []prompb.Sample{one(1)}
				ts.Exemplars = []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace_id", Value: "t"}}, Value: 1, Timestamp: now}}
			}),
			one2(func(b *builder, ts *writev2.TimeSeries) {
				ts.Samples = []writev2.Sample{{Value: 1, Timestamp: now}}
				ts.Exemplars = []writev2.Exemplar{{LabelsRefs: b.symbols.SymbolizeLabels(labels.FromStrings("trace_id", "t"), nil), Value: 1, Timestamp: now}}
			}), written{samples: 1, exemplars: 1}, 204, "",
		},
		"metadata": {
			&prompb.WriteRequest{Metadata: []prompb.MetricMetadata{{MetricFamilyName: "m", Help: "h"}}},
			one2(func(b *builder, ts *writev2.TimeSeries) { ts.Metadata.HelpRef = b.symbols.Symbolize("h") }), written{}, 204, "",
		},
		"in part": {
			&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{withSamples(series("__name__", "m"), one(1)), withSamples(series("job", "x"), one(1))}},
			func(b *builder) {
				b.add(labels.FromStrings("__name__", "m")).Samples = []writev2.Sample{{Value: 1, Timestamp: now}}
				b.add(labels.FromStrings("job", "x")).Samples = []writev2.Sample{{Value: 1, Timestamp: now}}
			}, written{samples: 1}, 400, schema.ErrMissingMetricName,
		},
		"future": {
			one1(func(ts *prompb.TimeSeries) { ts.Samples = []prompb.Sample{one(1), {Timestamp: now + 3600_000}} }),
			one2(func(_ *builder, ts *writev2.TimeSeries) {
				ts.Samples = []writev2.Sample{{Timestamp: now}, {Timestamp: now + 3600_000}}
			}),
			written{samples: 1}, 400, schema.ErrTooFarInFuture,
		},
	}
}

func TestComplianceGrid(t *testing.T) {
	const proto1, proto2 = "application/x-protobuf;proto=prometheus.WriteRequest", contentTypeV2
	encodings := map[string]func([]byte) []byte{
		"":       func(b []byte) []byte { return snappy.Encode(nil, b) },
		"snappy": func(b []byte) []byte { return snappy.Encode(nil, b) },
		"zstd":   func(b []byte) []byte { return zstded(t, b) },
		"gzip":   func(b []byte) []byte { return gzipped(t, b) },
		"br":     slices.Clone[[]byte],
	}
	cases := 0
	for kind, p := range payloads() {
		b := newBuilder()
		p.v2(b)
		bodies := map[string][]byte{version1: marshal(t, p.v1), version2: marshal(t, b.request())}
		for _, contentType := range []string{
			"", "application/x-protobuf", proto1, proto2, `application/x-protobuf; proto="io.prometheus.write.v2.Request"`,
			"application/x-protobuf;proto=other", "application/json", "text/plain;",
		} {
			for encoding, pack := range encodings {
				for version, body := range bodies {
					cases++
					says, known := version1, true
					switch contentType {
					case "", "application/x-protobuf", proto1:
					case "application/x-protobuf;proto=other", "application/json", "text/plain;":
						known = false
					default:
						says = version2
					}
					f := newFixture(t, Config{}, "", 3)
					r := httptest.NewRequest(http.MethodPost, "/api/v1/write", bytes.NewReader(pack(body)))
					for name, v := range map[string]string{"Content-Type": contentType, "Content-Encoding": encoding} {
						if v != "" {
							r.Header.Set(name, v)
						}
					}
					w := httptest.NewRecorder()
					f.mux.ServeHTTP(w, r)
					about := fmt.Sprintf("%s of %s as %q, %q: %s", kind, version, contentType, encoding, w.Body)
					supported := encoding == "" || encoding == "snappy" || encoding == "zstd"
					wrong := says != version && len(body) > 0
					var want written
					switch {
					case !known || !supported:
						require.Equal(t, http.StatusUnsupportedMediaType, w.Code, about)
					case wrong:
						require.Equal(t, http.StatusBadRequest, w.Code, about)
						require.Contains(t, w.Body.String(), string(schema.ErrDecode), about)
					default:
						require.Equal(t, p.status, w.Code, about)
						require.Contains(t, w.Body.String(), string(p.id), about)
						want = p.want
					}
					if known && says == version2 {
						requireWritten(t, w, want.samples, want.histograms, want.exemplars)
					} else {
						require.Empty(t, w.Header().Get(headerSamplesWritten), about)
					}
					var got written
					for _, ts := range f.log.content(t).Timeseries {
						got = got.plus(written{len(ts.Samples), len(ts.Histograms), len(ts.Exemplars)})
					}
					require.Equal(t, want, got, about)
					require.Zero(t, f.budget.used.Load(), about)
				}
			}
		}
	}
	t.Logf("%d cases", cases)
}
