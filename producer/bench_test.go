package producer

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/model/labels"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"sluice/schema"
)

// benchLabels are twelve labels, some 330 bytes on the wire, as a node in a cluster has them.
func benchLabels(i int) labels.Labels {
	return labels.FromStrings(
		"__name__", "container_network_receive_packets_total", "cluster", "eu-west-1", "container", "application-server",
		"endpoint", "https-metrics", "id", fmt.Sprintf("/kubepods/pod%08x", uint32(i*2654435761)), "image", "app:v1.22.333",
		"instance", fmt.Sprintf("10.12.%d.%d:10250", i/250, i%250), "interface", "eth0", "job", "kubelet", "namespace", "customer-facing",
		"node", fmt.Sprintf("ip-10-12-%d-%d", i/250, i%250), "pod", fmt.Sprintf("application-server-%05d", i),
	)
}

func benchBody(n int) (body []byte, labelBytes int) {
	for i := range n {
		var ls []schema.Label
		benchLabels(i).Range(func(l labels.Label) {
			ls = append(ls, schema.Label{Name: []byte(l.Name), Value: []byte(l.Value)})
		})
		payload := schema.AppendLabels(nil, ls)
		labelBytes = len(payload)
		body = schema.AppendTimeSeries(body, schema.AppendSample(payload, testNow.UnixMilli(), 0, float64(i)))
	}
	return body, labelBytes
}

const benchSeries = 2000

// BenchmarkWalkV1 is the way from a decoded request to its records: one sample per series.
func BenchmarkWalkV1(b *testing.B) {
	f := newFixture(b, Config{}, "", 16)
	f.log.discard = true
	body, labelBytes := benchBody(benchSeries)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		require.NoError(b, f.Push(b.Context(), "team-a", body))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchSeries, "ns/sample")
	b.ReportMetric(float64(labelBytes), "label-bytes/series")
}

func benchHandler(b *testing.B, body []byte, contentType string) {
	benchHandlerWith(b, Config{}, body, contentType)
}

func benchHandlerWith(b *testing.B, cfg Config, body []byte, contentType string) {
	f := newFixture(b, cfg, "", 16)
	f.log.discard = true
	packed := snappy.Encode(nil, body)
	rd := bytes.NewReader(packed)
	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", rd)
	r.Header.Set("Content-Type", contentType)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		rd.Reset(packed)
		r.Body = io.NopCloser(rd)
		w := httptest.NewRecorder()
		f.serve(w, r)
		if w.Code != http.StatusNoContent {
			b.Fatal(w.Body)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchSeries, "ns/sample")
}

// BenchmarkHandlerV1 is the same with HTTP headers and snappy.
func BenchmarkHandlerV1(b *testing.B) {
	body, _ := benchBody(benchSeries)
	benchHandler(b, body, "application/x-protobuf")
}

func BenchmarkHandlerV2(b *testing.B) {
	bld := newBuilder()
	for i := range benchSeries {
		bld.add(benchLabels(i)).Samples = []writev2.Sample{{Timestamp: testNow.UnixMilli(), Value: float64(i)}}
	}
	benchHandler(b, marshal(b, bld.request()), contentTypeV2)
}

// Nothing on the way of a known-good request allocates per series.
func TestNoAllocationPerSeries(t *testing.T) {
	f := newFixture(t, Config{}, "", 4)
	f.log.discard = true
	allocs := func(series int) float64 {
		body, _ := benchBody(series)
		return testing.AllocsPerRun(50, func() {
			if err := f.Push(t.Context(), "team-a", body); err != nil {
				t.Fatal(err)
			}
		})
	}
	// The pool may be emptied by a collection, so a few allocations are allowed; one for each series would be thousands.
	require.Less(t, allocs(4000)-allocs(10), 100.0)
}

// otlpBench are data points with the twelve labels of benchLabels, three of them from the resource.
func otlpBench(n int) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", "kubelet")
	rm.Resource().Attributes().PutStr("service.instance.id", "10.12.1.7:10250")
	rm.Resource().Attributes().PutStr("host.name", "ip-10-12-1-7")
	metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
	for i := 0; i < n; {
		m := metrics.AppendEmpty()
		m.SetName(fmt.Sprint("container.network.receive.packets.", i))
		sum := m.SetEmptySum()
		sum.SetIsMonotonic(true)
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		for end := min(i+50, n); i < end; i++ {
			d := sum.DataPoints().AppendEmpty()
			d.SetTimestamp(otlpTime)
			d.SetStartTimestamp(otlpStart)
			d.SetDoubleValue(float64(i))
			benchLabels(i).Range(func(l labels.Label) {
				if l.Name != "__name__" && l.Name != "job" && l.Name != "instance" {
					d.Attributes().PutStr(l.Name, l.Value)
				}
			})
		}
	}
	return md
}

// BenchmarkOTLP is the way of a request from its headers to its records, of known series.
func BenchmarkOTLP(b *testing.B) {
	for name, tc := range map[string]struct {
		contentType string
		body        []byte
	}{
		"proto": {protobufType, otlpProto(b, otlpBench(benchSeries))},
		"json":  {jsonType, otlpJSON(b, otlpBench(benchSeries))},
	} {
		b.Run(name, func(b *testing.B) {
			f := newFixture(b, Config{}, "", 16)
			f.log.discard = true
			rd := bytes.NewReader(tc.body)
			r := httptest.NewRequest(http.MethodPost, "/otlp/v1/metrics", rd)
			r.Header.Set("Content-Type", tc.contentType)
			b.ReportAllocs()
			b.SetBytes(int64(len(tc.body)))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for b.Loop() {
				rd.Reset(tc.body)
				r.Body = io.NopCloser(rd)
				w := httptest.NewRecorder()
				f.serveOTLP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
			runtime.ReadMemStats(&after)
			points := float64(b.N) * benchSeries
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/points, "ns/point")
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/points, "allocs/point")
		})
	}
}

// BenchmarkLogBytes is what a sample takes in the log in steady state, with one sample of each of 2,000 series every 15 s: as
// records are, and compressed as the embedded log and Kafka do it. Of several producers, each gets every n-th request and
// defines every series for itself.
func BenchmarkLogBytes(b *testing.B) {
	const scrapes = 120 // half an hour: as long as a definition is used, so it comes once for each producer
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	require.NoError(b, err)
	for _, producers := range []int{1, 10} {
		b.Run(fmt.Sprint("producers=", producers), func(b *testing.B) {
			var raw, snappied, zstded, samples int
			for b.Loop() {
				var fs []*fixture
				for range producers {
					fs = append(fs, newFixture(b, Config{}, "", 4))
				}
				at := testNow
				for scrape := range scrapes {
					at = at.Add(15 * time.Second)
					f := fs[scrape%producers]
					f.now = func() time.Time { return at }
					require.NoError(b, f.Push(b.Context(), "team-a", scrapeBody(benchSeries, scrape, at.UnixMilli())))
					for _, recs := range f.log.records() {
						for _, r := range recs {
							raw += len(r.Value)
							snappied += len(snappy.Encode(nil, r.Value))
							zstded += len(encoder.EncodeAll(r.Value, nil))
						}
					}
					f.log.reset()
					samples += benchSeries
				}
			}
			b.ReportMetric(float64(raw)/float64(samples), "B/sample")
			b.ReportMetric(float64(snappied)/float64(samples), "snappy-B/sample")
			b.ReportMetric(float64(zstded)/float64(samples), "zstd-B/sample")
		})
	}
}

// scrapeBody is one scrape: counters that grow, some that rest, gauges.
func scrapeBody(n, scrape int, at int64) (body []byte) {
	for i := range n {
		var ls []schema.Label
		benchLabels(i).Range(func(l labels.Label) {
			ls = append(ls, schema.Label{Name: []byte(l.Name), Value: []byte(l.Value)})
		})
		v := float64(scrape) * float64(1+i%13)
		switch i % 4 {
		case 1:
			v = float64(i)
		case 2:
			v = math.Sin(float64(scrape*i)) * 1000
		}
		body = schema.AppendTimeSeries(body, schema.AppendSample(schema.AppendLabels(nil, ls), at+int64(i%7), 0, v))
	}
	return body
}
