package producer

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	gometrics "runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"sluice/schema"
)

// wrap puts payload into the fields with these numbers, the last the outermost.
func wrap(payload []byte, numbers ...int) []byte {
	for _, n := range numbers {
		payload = schema.AppendField(nil, n, payload)
	}
	return payload
}

// repeated is n times the field with the payload.
func repeated(n, number int, payload []byte) []byte {
	return bytes.Repeat(schema.AppendField(nil, number, payload), n)
}

// The fields that lead from a data point, and from an attribute of one, out to the request.
var (
	toGauge       = []int{5, 2, 2, 1} // Metric.gauge, ScopeMetrics.metrics, ResourceMetrics.scope_metrics, request
	toSum         = []int{7, 2, 2, 1}
	toHistogram   = []int{9, 2, 2, 1}
	toExponential = []int{10, 2, 2, 1}
	toSummary     = []int{11, 2, 2, 1}
)

// nested is an attribute value that is a list in a list, so many deep.
func nested(depth int) []byte {
	b := schema.AppendField(nil, 1, []byte("x"))
	for range depth {
		b = wrap(b, 1, 5) // ArrayValue.values, AnyValue.array_value
	}
	return b
}

// otlpBombs are bodies of about n bytes that want to become much more.
func otlpBombs(n int) map[string][]byte {
	key := schema.AppendField(nil, 1, []byte("k"))
	return map[string][]byte{
		"resources":       repeated(n/2, 1, nil),
		"scopes":          wrap(repeated(n/2, 2, nil), 1),
		"old scopes":      wrap(repeated(n/3, 1000, nil), 1),
		"metrics":         wrap(repeated(n/2, 2, nil), 2, 1),
		"gauge points":    wrap(repeated(n/2, 1, nil), toGauge...),
		"sum points":      wrap(repeated(n/2, 1, nil), toSum...),
		"histograms":      wrap(repeated(n/2, 1, nil), toHistogram...),
		"exponentials":    wrap(repeated(n/2, 1, nil), toExponential...),
		"summaries":       wrap(repeated(n/2, 1, nil), toSummary...),
		"quantiles":       wrap(wrap(repeated(n/2, 6, nil), 1), toSummary...),
		"attributes":      wrap(wrap(repeated(n/2, 7, nil), 1), toGauge...),
		"keys":            wrap(wrap(repeated(n/5, 7, key), 1), toGauge...),
		"list":            wrap(wrap(wrap(repeated(n/2, 1, nil), 5, 2, 7), 1), toGauge...),
		"map":             wrap(wrap(wrap(repeated(n/2, 1, nil), 6, 2, 7), 1), toGauge...),
		"exemplars":       wrap(wrap(repeated(n/2, 5, nil), 1), toGauge...),
		"buckets":         wrap(wrap(wrap(bytes.Repeat([]byte{1}, n), 2, 8), 1), toExponential...),
		"bounds":          wrap(wrap(append(schema.AppendField(nil, 7, make([]byte, n/16*8)), schema.AppendField(nil, 6, make([]byte, n/16*8+8))...), 1), toHistogram...),
		"entities":        wrap(repeated(n/2, 3, nil), 1, 1),
		"resource":        wrap(repeated(n/2, 1, nil), 1, 1),
		"metric metadata": wrap(repeated(n/2, 12, nil), 2, 2, 1),
		"values anew":     wrap(wrap(wrap(repeated(n/4, 5, repeated(1, 1, nil)), 2, 7), 1), toGauge...),
	}
}

// What is held for decoding covers what decoding takes.
func TestOTLPCost(t *testing.T) {
	if testing.Short() {
		t.Skip("measures memory, one request after the other: nothing for the race detector")
	}
	measure := func(name string, body []byte, cost int64, decode func(pmetricotlp.ExportRequest) error) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		req := pmetricotlp.NewExportRequest()
		err := decode(req)
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(req)
		took := int64(after.HeapAlloc) - int64(before.HeapAlloc)
		require.Less(t, took, cost+64<<10, "%s: %d bytes, %v", name, len(body), err)
	}
	for name, body := range otlpBombs(400_000) {
		cost, err := otlpProtoCost(body)
		require.NoError(t, err)
		measure(name, body, cost, func(r pmetricotlp.ExportRequest) error { return r.UnmarshalProto(body) })
		req := pmetricotlp.NewExportRequest()
		require.NoError(t, req.UnmarshalProto(body), name)
		text, err := req.MarshalJSON()
		require.NoError(t, err)
		cost, err = otlpJSONCost(text)
		require.NoError(t, err)
		measure("JSON "+name, text, cost, func(r pmetricotlp.ExportRequest) error { return r.UnmarshalJSON(text) })
	}
	for name, text := range map[string]string{
		"null":    `{"resourceMetrics":[` + strings.Repeat("null,", 50_000) + `null]}`,
		"objects": `{"resourceMetrics":[` + strings.Repeat("{},", 50_000) + `{}]}`,
		"points":  `{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"exponentialHistogram":{"dataPoints":[` + strings.Repeat("{},", 50_000) + `{}]}}]}]}]}`,
		"numbers": `{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"histogram":{"dataPoints":[{"bucketCounts":[` + strings.Repeat("1,", 50_000) + `1]}]}}]}]}]}`,
	} {
		cost, err := otlpJSONCost([]byte(text))
		require.NoError(t, err)
		measure(name, []byte(text), cost, func(r pmetricotlp.ExportRequest) error { return r.UnmarshalJSON([]byte(text)) })
	}
	md := everythingOTLP()
	cost, err := otlpProtoCost(otlpProto(t, md))
	require.NoError(t, err)
	require.Less(t, cost, int64(15*len(otlpProto(t, md))), "an honest request is not worth much more than it is")
	cost, err = otlpJSONCost(otlpJSON(t, md))
	require.NoError(t, err)
	require.Less(t, cost, int64(15*len(otlpJSON(t, md))))
}

// A body that is nested as deep as its size allows is refused before anything recurses into it, in every place that can nest.
func TestOTLPDepth(t *testing.T) {
	f := newFixture(t, Config{}, "", 1)
	deep := nested(1 << 12) // each level takes a longer length: this is 40 kB
	point := wrap(deep, 2, 7)
	for name, body := range map[string][]byte{
		"attribute":      wrap(wrap(point, 1), toGauge...),
		"old scopes":     wrap(wrap(wrap(point, 1), 5, 2), 1000, 1),
		"exemplar":       wrap(wrap(wrap(point, 5), 1), toGauge...),
		"resource":       wrap(wrap(deep, 2, 1), 1, 1),
		"scope":          wrap(wrap(deep, 2, 3), 1, 2, 1),
		"metric":         wrap(wrap(deep, 2, 12), 2, 2, 1),
		"deprecated map": wrap(wrap(wrap(deep, 2, 1), 6, 2, 7), append([]int{1}, toSum...)...),
	} {
		w := f.postOTLP(body)
		require.Equal(t, http.StatusBadRequest, w.Code, name)
		_, message := rpcStatus(t, w)
		require.Contains(t, message, "nested deeper", name)
	}
	for _, open := range []string{"[", `{"a":`, `{"resourceMetrics":[`} {
		w := f.postOTLP([]byte(strings.Repeat(open, 1<<20)), "Content-Type", jsonType)
		require.Equal(t, http.StatusBadRequest, w.Code)
		_, message := rpcStatus(t, w)
		require.Contains(t, message, "nested deeper")
	}
	// What is not too deep is taken.
	md, add := otlpMetrics()
	v := addGauge(add("m"), 1).Attributes().PutEmpty("deep")
	for range 20 {
		v = v.SetEmptySlice().AppendEmpty()
	}
	v.SetStr("end")
	for _, body := range [][]byte{otlpProto(t, md), otlpJSON(t, md)} {
		contentType := protobufType
		if body[0] == '{' {
			contentType = jsonType
		}
		rejected, message := exportResponse(t, f.postOTLP(body, "Content-Type", contentType))
		require.Zero(t, rejected, message)
	}
}

// Data points with as many attributes as there can be do not take the translator minutes.
func TestOTLPManyAttributes(t *testing.T) {
	md, add := otlpMetrics()
	a := addGauge(add("m"), 1).Attributes()
	a.EnsureCapacity(300_000)
	for i := range 300_000 {
		a.PutEmpty(fmt.Sprint("a", i)) // Put looks for the key: quadratic, in the test itself
		if i == 3000 {
			break
		}
	}
	f := newFixture(t, Config{}, "default: {max_label_names_per_series: 0}", 1)
	w := f.postOTLP(otlpProto(t, md))
	require.Equal(t, http.StatusBadRequest, w.Code)
	_, message := rpcStatus(t, w)
	require.Contains(t, message, string(schema.ErrTooManyLabels))
}

// bombs are bodies of every endpoint and encoding that become as large as they can, with the headers to send them by.
type bomb struct {
	path, contentType, encoding string
	body                        []byte
	inflated                    int // bytes that it becomes
}

func bombs(t testing.TB) (all []bomb) {
	zeros := make([]byte, 80<<20) // more than is taken
	w, err := zstd.NewWriter(nil, zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	require.NoError(t, err)
	add := func(path, contentType string, encodings []string, body []byte) {
		for _, encoding := range encodings {
			packed := body
			switch encoding {
			case "snappy":
				packed = snappy.Encode(nil, body)
			case "gzip":
				packed = gzipped(t, body)
			case "zstd":
				packed = w.EncodeAll(body, nil)
			}
			all = append(all, bomb{path, contentType, encoding, packed, len(body)})
		}
	}
	const push, otlp = "/api/v1/push", "/otlp/v1/metrics"
	written, exported := []string{"snappy", "zstd"}, []string{"zstd", "gzip"}
	empty := bytes.Repeat([]byte("\x0a\x00\x2a\x00"), 15<<20)
	for _, ct := range []string{protobufType, contentTypeV2} {
		add(push, ct, written, zeros)
		add(push, ct, written, empty)
	}
	add(otlp, protobufType, exported, zeros)
	add(otlp, jsonType, exported, zeros)
	add(otlp, jsonType, exported, bytes.Repeat([]byte("{},"), 20<<20))
	for _, size := range []int{500_000, 20 << 20} {
		for _, body := range otlpBombs(size) {
			add(otlp, protobufType, exported[:1], body)
		}
	}
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, encoding := range []string{"snappy", "zstd", "gzip", ""} {
		all = append(all, bomb{push, protobufType, encoding, noise, len(noise)}, bomb{otlp, protobufType, encoding, noise, len(noise)})
	}
	return all
}

// A gigabyte of hostile bodies, several at a time, never takes the producer above its bound. What counts is what is alive,
// looked at often; how much garbage there may be beside it is up to the settings of Go. What is allocated while the
// collector marks counts as alive, too, which on a busy machine is much: of three tries the best one is judged.
func TestGigabyteOfHostileBodies(t *testing.T) {
	cfg := Config{MaxBodyBytes: 32 << 20, MaxDecodedBytes: 64 << 20, MaxInflightBytes: 256 << 20}
	all := bombs(t)
	if testing.Short() { // under the race detector, which sees four at a time with any number of them
		var some []bomb
		for i := 0; i < len(all); i += 3 { // of every kind
			some = append(some, all[i])
		}
		all = some
	}
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	least := int64(math.MaxInt64)
	for try := 0; try < 3 && least >= cfg.MaxInflightBytes*5/4; try++ {
		least = min(least, peakOf(t, cfg, all))
	}
	require.Less(t, least, cfg.MaxInflightBytes*5/4)
}

// peakOf sends the bodies to a new producer, four at a time, and returns by how much the live heap has grown at most.
func peakOf(t *testing.T, cfg Config, all []bomb) int64 {
	t.Helper()
	f := newFixture(t, cfg, "default: {max_series_per_request: 0}", 3)
	f.log.discard = true
	runtime.GC()
	heap := []gometrics.Sample{{Name: "/gc/heap/live:bytes"}}
	gometrics.Read(heap)
	base := heap[0].Value.Uint64()

	var sent, inflated atomic.Int64
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		highest := uint64(0)
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				peak <- highest
				return
			case <-tick.C:
				gometrics.Read(heap)
				highest = max(highest, heap[0].Value.Uint64())
			}
		}
	}()
	var statuses sync.Map
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 4 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(all) {
					return
				}
				b := all[i]
				r := httptest.NewRequest(http.MethodPost, b.path, bytes.NewReader(b.body))
				r.Header.Set("Content-Type", b.contentType)
				if b.encoding != "" {
					r.Header.Set("Content-Encoding", b.encoding)
				}
				w := httptest.NewRecorder()
				f.mux.ServeHTTP(w, r)
				statuses.Store(w.Code, true)
				sent.Add(int64(len(b.body)))
				inflated.Add(int64(b.inflated))
			}
		})
	}
	wg.Wait()
	close(stop)
	grown := int64(<-peak) - int64(base)
	statuses.Range(func(code, _ any) bool {
		require.Contains(t, []int{200, 204, 400, 413, 415, 503}, code)
		return true
	})
	if !testing.Short() {
		require.Greater(t, inflated.Load(), int64(1<<30))
	}
	require.Zero(t, f.budget.used.Load())
	t.Logf("%d bodies of %d MiB, %d MiB decompressed: %d MiB at the peak, bound %d MiB",
		len(all), sent.Load()>>20, inflated.Load()>>20, grown>>20, cfg.MaxInflightBytes>>20)
	return grown
}
