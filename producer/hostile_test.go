package producer

import (
	"fmt"
	"math"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"sluice/schema"
)

// sampleV1 and sampleV2 are requests with one of everything.
func sampleV1() *prompb.WriteRequest {
	ts := withSamples(series("__name__", "up", "job", "x"), one(1))
	ts.Exemplars = []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace", Value: "t"}}, Value: 2, Timestamp: testNow.UnixMilli()}}
	h := series("__name__", "h")
	h.Histograms = []prompb.Histogram{testHistogram(testNow.UnixMilli())}
	return &prompb.WriteRequest{
		Timeseries: []prompb.TimeSeries{ts, h},
		Metadata:   []prompb.MetricMetadata{{MetricFamilyName: "up", Help: "help", Unit: "u", Type: prompb.MetricMetadata_GAUGE}},
	}
}

func sampleV2() *writev2.Request {
	b := newBuilder()
	ts := b.add(labels.FromStrings("__name__", "up", "job", "x"))
	ts.Samples = []writev2.Sample{{Value: 1, Timestamp: testNow.UnixMilli(), StartTimestamp: 5}}
	ts.Exemplars = []writev2.Exemplar{{LabelsRefs: b.symbols.SymbolizeLabels(labels.FromStrings("trace", "t"), nil), Value: 1, Timestamp: 7}}
	ts.Metadata = writev2.Metadata{Type: 1, HelpRef: b.symbols.Symbolize("help")}
	h := b.add(labels.FromStrings("__name__", "h"))
	h.Histograms = []writev2.Histogram{writev2.FromIntHistogram(1, testNow.UnixMilli(), testHistogram(0).ToIntHistogram())}
	return b.request()
}

func marshal(t testing.TB, m interface{ Marshal() ([]byte, error) }) []byte {
	b, err := m.Marshal()
	require.NoError(t, err)
	return b
}

// A body cut at any byte, or with any byte changed, is refused or is written as something valid.
func TestDamagedBodies(t *testing.T) {
	f := newFixture(t, Config{}, "", 3)
	for _, tc := range []struct {
		body    []byte
		headers []string
	}{
		{marshal(t, sampleV1()), nil},
		{marshal(t, sampleV2()), []string{"Content-Type", contentTypeV2}},
	} {
		require.Equal(t, 204, f.post(snappy.Encode(nil, tc.body), tc.headers...).Code)
		check := func(w *httptest.ResponseRecorder, msg string) {
			require.Contains(t, []int{204, 400, 413}, w.Code, "%s: %s", msg, w.Body)
			f.log.content(t)
			f.log.reset()
		}
		for i := range tc.body {
			check(f.post(snappy.Encode(nil, tc.body[:i]), tc.headers...), fmt.Sprintf("cut at %d", i))
			for _, x := range []byte{0x01, 0x07, 0x80, 0xff} {
				b := append([]byte{}, tc.body...)
				b[i] ^= x
				check(f.post(snappy.Encode(nil, b), tc.headers...), fmt.Sprintf("byte %d ^ %x", i, x))
			}
		}
		packed := snappy.Encode(nil, tc.body)
		for i := range packed {
			check(f.post(packed[:i], tc.headers...), fmt.Sprintf("compressed cut at %d", i))
			b := append([]byte{}, packed...)
			b[i] ^= 0x55
			check(f.post(b, tc.headers...), fmt.Sprintf("compressed byte %d", i))
		}
	}
	require.Zero(t, f.budget.used.Load())
}

// Small bodies that decoders like to turn into gigabytes. Allocation is measured in all, not at its peak: it is more than
// what is held at any time.
func TestExpensiveBodies(t *testing.T) {
	if testing.Short() {
		t.Skip("measures memory, one request after the other: nothing for the race detector")
	}
	repeat := func(s string, n int) []byte { return []byte(strings.Repeat(s, n)) }
	field := func(tag byte, payload []byte) []byte {
		return append([]byte{tag}, schema.AppendField(nil, 1, payload)[1:]...)
	}
	symbols := []byte("\x22\x00\x22\x08__name__\x22\x02up") // "", __name__, up
	for name, tc := range map[string]struct {
		body    []byte
		v2      bool
		id      schema.ErrorID
		allowed uint64 // bytes allocated in all
	}{
		"10 M empty series":         {repeat("\x0a\x00", 10<<20), false, schema.ErrNoLabels, 48 << 20},
		"10 M empty metadata":       {repeat("\x1a\x00", 10<<20), false, "", 48 << 20},
		"series of empty labels":    {field(0x0a, repeat("\x0a\x00", 450_000)), false, schema.ErrLabelNameInvalid, 150 << 20},
		"series of empty samples":   {field(0x0a, append([]byte("\x0a\x0e\x0a\x08__name__\x12\x02up"), repeat("\x12\x00", 450_000)...)), false, "", 150 << 20},
		"scattered labels":          {field(0x0a, repeat("\x0a\x00\x28\x01", 240_000)), false, schema.ErrLabelNameInvalid, 150 << 20},
		"series too large":          {field(0x0a, repeat("\x0a\x00", 5<<20)), false, schema.ErrRecordTooLarge, 32 << 20},
		"v2: 10 M empty series":     {repeat("\x2a\x00", 10<<20), true, schema.ErrNoLabels, 48 << 20},
		"v2: empty histograms":      {append(symbols, field(0x2a, append([]byte("\x0a\x02\x01\x02"), repeat("\x1a\x00", 450_000)...))...), true, "", 400 << 20},
		"v2: a series of 10 MB":     {field(0x2a, repeat("\x0a\x00", 5<<20)), true, schema.ErrRecordTooLarge, 32 << 20},
		"v2: 10 M symbols":          {repeat("\x22\x00", 10<<20), true, schema.ErrBodyTooLarge, 150 << 20},
		"v2: refs and no symbols":   {field(0x2a, field(0x0a, repeat("\x01", 900_000))), true, schema.ErrSymbolRef, 48 << 20},
		"v2: same two symbols":      {append(symbols, field(0x2a, field(0x0a, repeat("\x01\x02", 400_000)))...), true, schema.ErrRecordTooLarge, 48 << 20},
		"histogram of empty spans":  {field(0x0a, append([]byte("\x0a\x0e\x0a\x08__name__\x12\x02up"), field(0x22, repeat("\x5a\x00", 400_000))...)), false, schema.ErrTooFarInPast, 64 << 20},
		"histogram of long spans":   {field(0x0a, append([]byte("\x0a\x0e\x0a\x08__name__\x12\x02up"), field(0x22, repeat("\x5a\x06\x10\xff\xff\xff\xff\x0f", 100_000))...)), false, schema.ErrHistogramInvalid, 64 << 20},
		"histogram of empty deltas": {field(0x0a, append([]byte("\x0a\x0e\x0a\x08__name__\x12\x02up"), field(0x22, field(0x62, repeat("\x00", 900_000)))...)), false, schema.ErrHistogramInvalid, 64 << 20},
		"metadata of 10 MB":         {field(0x1a, repeat("\x12\x00", 5<<20)), false, "", 32 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Config{}, "default: {past_grace_period: 1h, max_series_per_request: 0}", 3)
			f.log.discard = true
			packed := snappy.Encode(nil, tc.body)
			headers := []string{"Content-Type", "application/x-protobuf"}
			if tc.v2 {
				headers[1] = contentTypeV2
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			w := f.post(packed, headers...)
			runtime.ReadMemStats(&after)
			if tc.id != "" {
				require.Contains(t, w.Body.String(), string(tc.id))
				require.Contains(t, []int{400, 413}, w.Code)
			}
			require.Less(t, w.Body.Len(), 2000)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, tc.allowed)
			require.Zero(t, f.budget.used.Load())
		})
	}
}

// A million series in one request are fine where the limit allows it, and the memory is bounded by their bytes.
func TestMillionSeries(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	f := newFixture(t, Config{}, "default: {max_series_per_request: 0}", 8)
	f.log.discard = true
	var body []byte
	for i := range 1_000_000 {
		id := fmt.Appendf(nil, "%07d", i)
		payload := schema.AppendLabels(nil, []schema.Label{{Name: []byte("__name__"), Value: []byte("up")}, {Name: []byte("id"), Value: id}})
		body = schema.AppendTimeSeries(body, schema.AppendSample(payload, testNow.UnixMilli(), 0, float64(i)))
	}
	packed := snappy.Encode(nil, body)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w := f.post(packed)
	runtime.ReadMemStats(&after)
	require.Equal(t, 204, w.Code, w.Body.String())
	// All that was ever allocated, what growing tables have left behind included. The series are all new, and remembered.
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(14*len(body)))
	require.Zero(t, f.budget.used.Load())
}

func TestSeriesPerRequest(t *testing.T) {
	f := newFixture(t, Config{}, "default: {max_series_per_request: 3}", 2)
	var all []prompb.TimeSeries
	for i := range 4 {
		all = append(all, withSamples(series("__name__", "up", "i", fmt.Sprint(i)), one(1)))
	}
	require.Equal(t, 204, f.push(t, request1(all[:2]...)).Code)
	require.Equal(t, 204, f.push(t, request1(all[:3]...)).Code)
	before := len(f.log.records())
	requireRefused(t, f.push(t, request1(all...)), 413, schema.ErrSeriesPerRequest)
	require.Len(t, f.log.records(), before, "nothing of the request is written")
}

func TestLabelBombs(t *testing.T) {
	f := newFixture(t, Config{}, "", 3)
	many := series("__name__", "up")
	for i := range 10_000 {
		many.Labels = append(many.Labels, prompb.Label{Name: fmt.Sprintf("l%05d", i), Value: "v"})
	}
	w := f.push(t, request1(
		withSamples(many, one(1)),
		withSamples(series("__name__", "up", "v", strings.Repeat("v", 900_000)), one(1)),
		withSamples(series("__name__", "up", strings.Repeat("n", 900_000), "v"), one(1)),
		withSamples(series("__name__", "up", "v", strings.Repeat("v", 1<<20)), one(1)),
		withSamples(series("__name__", "ok"), one(1)),
	))
	requireRefused(t, w, 400, schema.ErrTooManyLabels)
	require.Contains(t, w.Body.String(), "4 of 5 series")
	require.Less(t, w.Body.Len(), 3000)
	require.Len(t, f.log.content(t).Timeseries, 1)
}

func TestTimestampsAtTheEnds(t *testing.T) {
	f := newFixture(t, Config{}, "default: {creation_grace_period: 290y, past_grace_period: 290y}", 1)
	for _, ts := range []int64{math.MinInt64, math.MinInt64 + 1, minTimestamp - 1, maxTimestamp + 1, math.MaxInt64 - 1, math.MaxInt64} {
		w := f.push(t, request1(withSamples(series("__name__", "up"), at(ts))))
		require.Equal(t, 400, w.Code)
	}
	require.Empty(t, f.log.records())
}

// Requests share pools, budgets and limiters, and nothing of one ends up in another.
func TestConcurrentPushes(t *testing.T) {
	f := newFixture(t, Config{}, "default: {ingestion_rate: 1e9, request_rate: 1e9, partition_shard_size: 2}", 2)
	const workers, each = 8, 40
	var g errgroup.Group
	for w := range workers {
		g.Go(func() error {
			for i := range each {
				req := request1(
					withSamples(series("__name__", "up", "i", fmt.Sprint(i), "worker", fmt.Sprint(w)), one(float64(1000*w+i))),
					withSamples(series("__name__", "up", "i", strings.Repeat("x", 3000)), one(1)),
				)
				body, err := req.Marshal()
				if err != nil {
					return err
				}
				if rec := f.post(snappy.Encode(nil, body), "X-Scope-OrgID", fmt.Sprintf("tenant-%d", w%3)); rec.Code != 400 {
					return fmt.Errorf("status %d", rec.Code)
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	got := f.log.content(t)
	require.Len(t, got.Timeseries, workers*each)
	seen := map[float64]bool{}
	for _, ts := range got.Timeseries {
		v := ts.Samples[0].Value
		require.Equal(t, fmt.Sprint(int(v)%1000), ts.Labels[1].Value)
		require.Equal(t, fmt.Sprint(int(v)/1000), ts.Labels[2].Value)
		seen[v] = true
	}
	require.Len(t, seen, workers*each)
	require.Zero(t, f.budget.used.Load())
}

func FuzzPush(f *testing.F) {
	f.Add(marshal(f, sampleV1()), false)
	f.Add(marshal(f, sampleV2()), true)
	f.Add([]byte("\x0a\x00\x1a\x00\x22\x00\x2a\x00"), true)
	f.Add([]byte("\x0a\x06\x0a\x00\x12\x00\x1a\x00"), false)
	f.Add([]byte("\x0a\x10\x0a\x0e\x0a\x08__name__\x12\x02up\x22\x02\x42\x00"), false)
	f.Add([]byte("\x8a\x80\x80\x80\x10\x02\x0a\x00"), false)
	f.Add([]byte("\x12\x03\x0a\x01\x01\x0a\x00"), false)
	x := newFixture(f, Config{}, "default: {creation_grace_period: 0s, max_label_names_per_series: 7}", 3)
	f.Fuzz(func(t *testing.T, body []byte, v2 bool) {
		x.log.reset()
		headers := []string{"Content-Type", "application/x-protobuf"}
		if v2 {
			headers[1] = contentTypeV2
		}
		w := x.post(snappy.Encode(nil, body), headers...)
		switch w.Code {
		case 204, 400, 413:
		default:
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
		got := x.log.content(t) // checks that schema and Prometheus can read it
		if v2 {
			samples := 0
			for _, ts := range got.Timeseries {
				samples += len(ts.Samples)
			}
			require.Equal(t, fmt.Sprint(samples), w.Header().Get(headerSamplesWritten))
		}
		require.Zero(t, x.budget.used.Load())

		w = x.post(body, headers...) // as it is: the path up to snappy
		require.Contains(t, []int{204, 400, 413}, w.Code)
	})
}
