package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// bad is a request that must be refused.
type bad struct {
	name   string
	body   []byte
	header map[string]string
	status []int            // any of these
	ids    []schema.ErrorID // any of these
}

func pack(raw []byte) []byte { return snappy.Encode(nil, raw) }

func request(t *testing.T, list ...prompb.TimeSeries) []byte {
	raw, err := (&prompb.WriteRequest{Timeseries: list}).Marshal()
	require.NoError(t, err)
	return raw
}

func labelled(pairs ...string) prompb.TimeSeries {
	ts := prompb.TimeSeries{Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: 1}}}
	for i := 0; i < len(pairs); i += 2 {
		ts.Labels = append(ts.Labels, prompb.Label{Name: pairs[i], Value: pairs[i+1]})
	}
	return ts
}

func manyLabels(n int) prompb.TimeSeries {
	pairs := []string{"__name__", "bomb"}
	for i := range n {
		pairs = append(pairs, fmt.Sprintf("l%06d", i), "v")
	}
	return labelled(pairs...)
}

// badBodies are the hostile bodies. Each is small to send; what it unpacks to is not.
func badBodies(t *testing.T) []bad {
	now := time.Now()
	whole := request(t, series("truncated", 1, now, "a", "b"))
	packed := pack(whole)
	v2 := map[string]string{"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request", "X-Prometheus-Remote-Write-Version": "2.0.0"}
	rw2 := func(refs []uint32, symbols ...string) []byte {
		raw, err := (&writev2.Request{Symbols: append([]string{""}, symbols...), Timeseries: []writev2.TimeSeries{
			{LabelsRefs: refs, Samples: []writev2.Sample{{Timestamp: now.UnixMilli(), Value: 1}}},
		}}).Marshal()
		require.NoError(t, err)
		return raw
	}
	hist := func(h prompb.Histogram) []byte {
		h.Timestamp = now.UnixMilli()
		return pack(request(t, prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "bad_hist"}}, Histograms: []prompb.Histogram{h}}))
	}
	at := func(ms int64) []byte {
		ts := series("wrong_time", 1, now)
		ts.Samples[0].Timestamp = ms
		return pack(request(t, ts))
	}
	claim := append(binary.AppendUvarint(nil, 1<<32-1), 0, 0, 0)
	decode := []schema.ErrorID{schema.ErrDecode, schema.ErrDecompress}
	large := []schema.ErrorID{schema.ErrBodyTooLarge, schema.ErrDecompress}
	return []bad{
		{"empty", nil, nil, []int{400}, decode},
		{"not snappy", []byte("hello, world, this is no snappy"), nil, []int{400}, decode},
		{"snappy cut short", packed[:len(packed)-3], nil, []int{400}, decode},
		{"protobuf cut short", pack(whole[:len(whole)-3]), nil, []int{400}, decode},
		{"protobuf of noise", pack(bytes.Repeat([]byte{0x0a, 0xff, 0x01}, 50)), nil, []int{400}, decode},
		{"snappy sent as zstd", packed, map[string]string{"Content-Encoding": "zstd"}, []int{400}, decode},
		{"zstd bomb", zstdBomb(t), map[string]string{"Content-Encoding": "zstd"}, []int{413}, large},
		{"gzip", packed, map[string]string{"Content-Encoding": "gzip"}, []int{415}, []schema.ErrorID{schema.ErrContentEncoding}},
		{"JSON", []byte(`{"a":1}`), map[string]string{"Content-Type": "application/json"}, []int{415}, []schema.ErrorID{schema.ErrContentType}},
		{"unknown proto", packed, map[string]string{"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v9.Request"}, []int{415}, []schema.ErrorID{schema.ErrContentType}},
		{"snappy that claims 4 GiB", claim, nil, []int{400, 413}, large},
		{"snappy bomb", pack(make([]byte, 200<<20)), nil, []int{400, 413}, large},
		{"body over the limit", make([]byte, 33<<20), nil, []int{400, 413}, large},
		{"RW 2.0 sent as 1.0", pack(rw2([]uint32{1, 2}, "__name__", "sneaky")), nil, []int{400, 415}, nil},
		{"RW 2.0 symbol out of range", pack(rw2([]uint32{1, 999}, "__name__", "x")), v2, []int{400}, []schema.ErrorID{schema.ErrSymbolRef}},
		{"RW 2.0 odd references", pack(rw2([]uint32{1}, "__name__")), v2, []int{400}, []schema.ErrorID{schema.ErrSymbolRef}},
		{"10000 labels", pack(request(t, manyLabels(10_000))), nil, []int{400}, []schema.ErrorID{schema.ErrTooManyLabels}},
		{"label value of 1 MB", pack(request(t, labelled("__name__", "x", "a", strings.Repeat("v", 1<<20)))), nil, []int{400}, []schema.ErrorID{schema.ErrLabelValueTooLong, schema.ErrRecordTooLarge}},
		{"label name of 64 KB", pack(request(t, labelled("__name__", "x", strings.Repeat("n", 1<<16), "v"))), nil, []int{400}, []schema.ErrorID{schema.ErrLabelNameTooLong}},
		{"no labels", pack(request(t, labelled())), nil, []int{400}, []schema.ErrorID{schema.ErrNoLabels, schema.ErrMissingMetricName}},
		{"no metric name", pack(request(t, labelled("a", "b"))), nil, []int{400}, []schema.ErrorID{schema.ErrMissingMetricName}},
		{"unsorted duplicate labels", pack(request(t, labelled("__name__", "x", "b", "1", "a", "2", "b", "1"))), nil, []int{400}, []schema.ErrorID{schema.ErrDuplicateLabelNames}},
		{"duplicate labels", pack(request(t, labelled("__name__", "x", "a", "1", "a", "2"))), nil, []int{400}, []schema.ErrorID{schema.ErrDuplicateLabelNames}},
		{"empty label name", pack(request(t, labelled("", "1", "__name__", "x"))), nil, []int{400}, []schema.ErrorID{schema.ErrLabelNameInvalid}},
		{"label name that is no UTF-8", pack(request(t, labelled("__name__", "x", "a\xff\xfe", "1"))), nil, []int{400}, []schema.ErrorID{schema.ErrLabelNameInvalid}},
		{"label value that is no UTF-8", pack(request(t, labelled("__name__", "x", "a", "\xff\xfe"))), nil, []int{400}, []schema.ErrorID{schema.ErrLabelValueInvalid}},
		{"ten years ahead", at(now.AddDate(10, 0, 0).UnixMilli()), nil, []int{400}, []schema.ErrorID{schema.ErrTooFarInFuture}},
		{"end of time", at(math.MaxInt64), nil, []int{400}, []schema.ErrorID{schema.ErrTooFarInFuture}},
		{"beginning of time", at(math.MinInt64), nil, []int{400}, []schema.ErrorID{schema.ErrTooFarInPast}},
		{"histogram span of 2^31", hist(prompb.Histogram{
			Count: &prompb.Histogram_CountInt{CountInt: 1}, ZeroCount: &prompb.Histogram_ZeroCountInt{}, PositiveSpans: []prompb.BucketSpan{{Length: 1 << 31}}, PositiveDeltas: []int64{1},
		}), nil, []int{400}, []schema.ErrorID{schema.ErrHistogramInvalid, schema.ErrHistogramBuckets}},
		{"histogram that does not add up", hist(prompb.Histogram{
			Count: &prompb.Histogram_CountInt{CountInt: 9}, ZeroCount: &prompb.Histogram_ZeroCountInt{ZeroCountInt: 1}, Sum: 1,
		}), nil, []int{400}, []schema.ErrorID{schema.ErrHistogramInvalid}},
		{"histogram with 10^5 buckets", hist(wideHistogram(100_000)), nil, []int{400}, []schema.ErrorID{schema.ErrHistogramBuckets, schema.ErrHistogramInvalid}},
	}
}

func zstdBomb(t *testing.T) []byte {
	w, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	defer w.Close()
	return w.EncodeAll(make([]byte, 200<<20), nil)
}

func wideHistogram(n int) prompb.Histogram {
	h := prompb.Histogram{
		Count: &prompb.Histogram_CountInt{CountInt: uint64(n)}, ZeroCount: &prompb.Histogram_ZeroCountInt{}, Sum: 1,
		PositiveSpans: []prompb.BucketSpan{{Length: uint32(n)}}, PositiveDeltas: make([]int64, n),
	}
	h.PositiveDeltas[0] = 1
	return h
}

var idInText = regexp.MustCompile(`err-sluice-[a-z0-9-]+`)

func (b *bad) judge(r reply) error {
	text := string(bytes.TrimSpace(r.body))
	id := schema.ErrorID(idInText.FindString(text))
	switch {
	case !slices.Contains(b.status, r.status):
		return fmt.Errorf("%s: status %d, want %v: %.300s", b.name, r.status, b.status, text)
	case id == "" || !slices.Contains(schema.ErrorIDs(), id):
		return fmt.Errorf("%s: no known error ID in %.300q", b.name, text)
	case b.ids != nil && !slices.Contains(b.ids, id):
		return fmt.Errorf("%s: error ID %s, want one of %v: %.300s", b.name, id, b.ids, text)
	case len(strings.Fields(idInText.ReplaceAllString(text, ""))) < 4 || len(text) > 2000 || strings.Contains(text, "\n"):
		return fmt.Errorf("%s: not one readable sentence: %.300q", b.name, text)
	}
	return nil
}

// TestBadInput: what is hostile or broken gets the right answer, costs no memory that is not given back, and harms no neighbour.
func TestBadInput(t *testing.T) {
	enabled(t)
	s := newInstance(t, workDir(t), "all", "--producer.max-inflight-bytes", fmt.Sprint(300<<20))
	s.start()
	s.ready(60 * time.Second)
	bodies := badBodies(t)
	base := s.url("/prometheus")

	t.Run("answers", func(t *testing.T) {
		for _, b := range bodies {
			if err := b.judge(s.pushBody("", b.body, b.header)); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("tenants", func(t *testing.T) { hostileTenants(t, s) })
	t.Run("method", func(t *testing.T) {
		require.NoError(t, expect(context.Background(), s.url("/api/v1/push"), "", http.StatusMethodNotAllowed))
	})
	t.Run("neighbours", func(t *testing.T) {
		now := time.Now()
		r := s.push("", series("good", 1, now, "n", "1"), labelled("__name__", "evil", "a", "1", "a", "2"), series("good", 2, now, "n", "2"), labelled("a", "b"))
		require.Equal(t, 400, r.status, string(r.body))
		got, err := instant(base, "", `sum by (n) (good)`, now)
		require.NoError(t, err)
		require.Equal(t, result{`{"n":"1"}`: {now.UnixMilli(): "1"}, `{"n":"2"}`: {now.UnixMilli(): "2"}}, got)
		got, err = instant(base, "", `count({__name__="evil"})`, now)
		require.NoError(t, err)
		require.Empty(t, got)
	})
	t.Run("what looks odd and is right", func(t *testing.T) {
		at := time.UnixMilli(86_400_000)
		require.Less(t, s.push("", series("old", 7, at)).status, 300, "a sample of 1970")
		got, err := instant(base, "", "old", at)
		require.NoError(t, err)
		require.Equal(t, "7", got.one(t))
		now := time.Now()
		require.Less(t, s.push("", series("odd_nan", math.Float64frombits(0x7ff8dead00000000), now)).status, 300, "a NaN with a payload")
		got, err = instant(base, "", "odd_nan", now)
		require.NoError(t, err)
		require.Equal(t, "NaN", got.one(t))
		require.Less(t, s.push("", labelled("__name__", "utf8.métrique", "clé", "värde")).status, 300, "UTF-8 names")
	})
	t.Run("flood", func(t *testing.T) { flood(t, s, bodies) })
	t.Run("a million series in one request", func(t *testing.T) {
		before, _ := s.memory()
		r := s.pushBody("", pack(million()), nil)
		require.Equal(t, 413, r.status, "%.300s", r.body)
		require.Contains(t, string(r.body), string(schema.ErrSeriesPerRequest))
		now := time.Now()
		eventually(t, "a neighbour is served afterwards", 30*time.Second, func() error {
			if r := s.push("neighbour", series("good", 3, now)); r.status >= 300 {
				return fmt.Errorf("status %d: %.300s", r.status, r.body)
			}
			got, err := instant(base, "neighbour", "good", now)
			if err == nil && len(got) != 1 {
				return fmt.Errorf("%d series", len(got))
			}
			return err
		})
		after, peak := s.memory()
		t.Logf("status %d, RSS %d MB before, %d MB after, peak %d MB", r.status, before>>20, after>>20, peak>>20)
		require.Less(t, peak, int64(4<<30))
	})
	require.True(t, s.running(), "died: %v", s.err)
	s.stop()
}

// flood sends 240 hostile bodies, eight at a time, with writes of a neighbour in between.
func flood(t *testing.T, s *instance, bodies []bad) {
	before, _ := s.memory()
	rng := rand.New(rand.NewPCG(1, 2))
	work := make(chan bad)
	var wg sync.WaitGroup
	var mu sync.Mutex
	overloaded := 0
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for b := range work {
				r := s.pushBody("", b.body, b.header)
				if r.status == http.StatusServiceUnavailable { // bounded memory may answer so, with the header
					mu.Lock()
					if overloaded++; r.header.Get("Retry-After") == "" {
						t.Error("503 without Retry-After")
					}
					mu.Unlock()
				} else if err := b.judge(r); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	for i := range 240 {
		work <- bodies[rng.IntN(len(bodies))]
		if i%20 == 0 {
			r := s.push("neighbour", series("heartbeat", float64(i), time.Now(), "i", fmt.Sprint(i)))
			if r.status >= 300 && r.status != 503 {
				t.Errorf("a neighbour is refused: %d %s", r.status, r.body)
			}
		}
	}
	close(work)
	wg.Wait()
	after, peak := s.memory()
	t.Logf("RSS %d MB before, %d MB after, peak %d MB, %d answers 503", before>>20, after>>20, peak>>20, overloaded)
	require.Less(t, peak-before, int64(900<<20), "bound: --producer.max-inflight-bytes 300 MB, bodies, and what the collector lets lie")
}

// million is a request of a million series, each with one sample, encoded without holding a million messages.
func million() []byte {
	var raw []byte
	now := time.Now().UnixMilli()
	for i := range 1_000_000 {
		ts := prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: "million"}, {Name: "i", Value: fmt.Sprint(i)}},
			Samples: []prompb.Sample{{Timestamp: now, Value: float64(i)}},
		}
		msg, err := ts.Marshal()
		if err != nil {
			panic(err)
		}
		raw = schema.AppendTimeSeries(raw, msg)
	}
	return raw
}

func hostileTenants(t *testing.T, s *instance) {
	body := pack(request(t, series("x", 1, time.Now())))
	do := func(path string, names ...string) reply {
		req, err := http.NewRequest(http.MethodPost, s.url(path), bytes.NewReader(body))
		require.NoError(t, err)
		if strings.Contains(path, "query") {
			req.Body = io.NopCloser(strings.NewReader(url.Values{"query": {"x"}}.Encode()))
			req.ContentLength = -1
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		} else {
			req.Header.Set("Content-Type", "application/x-protobuf")
			req.Header.Set("Content-Encoding", "snappy")
		}
		for _, n := range names {
			req.Header.Add(schema.TenantHeader, n)
		}
		r, err := send(context.Background(), req, "")
		require.NoError(t, err)
		return r
	}
	for _, names := range [][]string{
		{"."}, {".."}, {"a/b"}, {"../../etc"}, {`a\b`}, {"a|b"}, {"%2e%2e"}, {"a b"}, {"é"}, {"__reserved"}, {strings.Repeat("x", 1000)}, {"a", "b"}, {""},
	} {
		for _, path := range []string{"/api/v1/push", "/prometheus/api/v1/query"} {
			r := do(path, names...)
			id := schema.ErrorID(idInText.FindString(string(r.body)))
			if (r.status != 400 && r.status != 401) || (id != schema.ErrTenantInvalid && id != schema.ErrNoTenant) {
				t.Errorf("tenant %.40q at %s: status %d, %.200s", names, path, r.status, r.body)
			}
		}
	}
	// Names that differ by case only share nothing.
	now := time.Now()
	require.Less(t, s.push("Case", series("mine", 1, now)).status, 300)
	got, err := instant(s.url("/prometheus"), "case", "mine", now)
	require.NoError(t, err)
	require.Empty(t, got)
}
