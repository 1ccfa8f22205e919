package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/internal/cardinality"
	"sluice/schema"
)

// fakeSource answers from a plain TSDB.
type fakeSource struct {
	db      storage.Queryable
	openErr error
	wrap    func(storage.SeriesSet) storage.SeriesSet
	counted cardinality.Query
	asks    []Ask
	tenant  schema.Tenant
	found   []exemplar.QueryResult
	meta    map[string][]metadata.Metadata
}

func (s *fakeSource) Querier(_ context.Context, tenant schema.Tenant, mint, maxt int64, asks []Ask) (storage.Querier, error) {
	s.asks, s.tenant = asks, tenant
	if s.openErr != nil {
		return nil, s.openErr
	}
	q, err := s.db.Querier(mint, maxt)
	return &wrappedQuerier{q, s.wrap}, err
}

func (s *fakeSource) Exemplars(context.Context, schema.Tenant, int64, int64, [][]*labels.Matcher, []Ask) ([]exemplar.QueryResult, error) {
	return s.found, s.openErr
}

func (s *fakeSource) Metadata(context.Context, schema.Tenant, string) (map[string][]metadata.Metadata, error) {
	return s.meta, s.openErr
}

func (s *fakeSource) Cardinality(_ context.Context, tenant schema.Tenant, q cardinality.Query, asks []Ask) (*cardinality.Result, error) {
	s.asks, s.tenant, s.counted = asks, tenant, q
	c := cardinality.NewCounter(q)
	for _, i := range []string{"1", "2", "3"} {
		if err := c.Add(labels.FromStrings("__name__", "m", "i", i)); err != nil {
			return nil, err
		}
	}
	return c.Result(), s.openErr
}

type wrappedQuerier struct {
	storage.Querier
	wrap func(storage.SeriesSet) storage.SeriesSet
}

func (q *wrappedQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	set := q.Querier.Select(ctx, sorted, hints, ms...)
	if q.wrap != nil {
		set = q.wrap(set)
	}
	return set
}

// brokenSet gives n series and then err.
type brokenSet struct {
	storage.SeriesSet
	n   int
	err error
}

func (s *brokenSet) Next() bool {
	if s.n--; s.n < 0 {
		return false
	}
	return s.SeriesSet.Next()
}
func (s *brokenSet) Err() error { return s.err }

type warnedSet struct{ storage.SeriesSet }

func (warnedSet) Warnings() annotations.Annotations {
	as := annotations.New().Add(errors.New("mind the gäp\n😀"))
	return as.Add(fmt.Errorf("%w: no wörry\n", annotations.PromQLInfo))
}

func newDB(t testing.TB) *tsdb.DB {
	opts := tsdb.DefaultOptions()
	opts.OutOfOrderTimeWindow = 0
	db, err := tsdb.Open(t.TempDir(), slog.New(slog.DiscardHandler), nil, opts, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	app := db.Appender(context.Background())
	for s := range 20 {
		ls := labels.FromStrings("__name__", "floats", "i", fmt.Sprint(s), "utf8", "ä😀")
		for i := range 3000 {
			v := float64(i) * math.Pi * float64(s)
			switch i % 100 {
			case 7:
				v = math.Float64frombits(value.StaleNaN)
			case 8:
				v = math.Float64frombits(0x7ff8dead00000001) // a NaN of our own
			case 9:
				v = math.Inf(-1)
			case 10:
				v = math.Copysign(0, -1)
			}
			_, err := app.Append(0, ls, int64(i)*1000, v)
			require.NoError(t, err)
		}
	}
	for i, h := range tsdbutil.GenerateTestHistograms(300) {
		if i == 150 {
			h = &histogram.Histogram{Sum: math.Float64frombits(value.StaleNaN)}
		}
		_, err := app.AppendHistogram(0, labels.FromStrings("__name__", "ints"), int64(i)*1000, h, nil)
		require.NoError(t, err)
	}
	for i, h := range tsdbutil.GenerateTestFloatHistograms(300) {
		_, err := app.AppendHistogram(0, labels.FromStrings("__name__", "gauges"), int64(i)*1000, nil, h)
		require.NoError(t, err)
	}
	for i, h := range tsdbutil.GenerateTestCustomBucketsHistograms(300) {
		_, err := app.AppendHistogram(0, labels.FromStrings("__name__", "custom"), int64(i)*1000, h, nil)
		require.NoError(t, err)
	}
	require.NoError(t, app.Commit())
	return db
}

func serve(t testing.TB, src Source) *Client {
	srv := httptest.NewServer(Handler(HandlerConfig{Source: src}, slog.New(slog.DiscardHandler)))
	t.Cleanup(srv.Close)
	return NewClient(srv.URL+"/", srv.Client(), time.Minute)
}

// dump spells out every sample with all its bits.
func dump(t testing.TB, set storage.SeriesSet) map[string][]string {
	out := map[string][]string{}
	var it chunkenc.Iterator
	for set.Next() {
		s := set.At()
		key := s.Labels().String()
		require.NotContains(t, out, key)
		out[key] = nil
		it = s.Iterator(it)
		for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
			out[key] = append(out[key], sample(it, typ))
		}
		require.NoError(t, it.Err())
	}
	require.NoError(t, set.Err())
	return out
}

func sample(it chunkenc.Iterator, typ chunkenc.ValueType) string {
	switch typ {
	case chunkenc.ValFloat:
		ts, v := it.At()
		return fmt.Sprintf("%d %x", ts, math.Float64bits(v))
	case chunkenc.ValHistogram:
		ts, h := it.AtHistogram(nil)
		return fmt.Sprintf("%d %s %x %v %d %d %v", ts, h.String(), math.Float64bits(h.Sum), h.CustomValues, h.Schema, h.Count, h.CounterResetHint == histogram.GaugeType)
	}
	ts, h := it.AtFloatHistogram(nil)
	return fmt.Sprintf("%d %s %x %v %d", ts, h.String(), math.Float64bits(h.Sum), h.CustomValues, h.Schema)
}

var everything = labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")

func TestSelectRoundTrip(t *testing.T) {
	db := newDB(t)
	src := &fakeSource{db: db}
	client := serve(t, src)
	ctx := context.Background()
	asks := []Ask{{Partition: 3, From: 17, Wait: 99}}
	for _, r := range [][2]int64{{0, 3_000_000}, {math.MinInt64, math.MaxInt64}, {123_456, 777_000}, {119_000, 119_000}, {5_000_000, 6_000_000}} {
		for _, hints := range []*storage.SelectHints{nil, {Start: r[0], End: r[1], Func: "rate"}, {Start: 200_000, End: 300_000}, {Start: r[0], End: r[1], DisableTrimming: true}} {
			want, err := db.Querier(r[0], r[1])
			require.NoError(t, err)
			got, err := client.Querier(ctx, "acme", r[0], r[1], asks)
			require.NoError(t, err)
			require.Equal(t, dump(t, want.Select(ctx, true, hints, everything)), dump(t, got.Select(ctx, true, hints, everything)), "%v %+v", r, hints)
			require.Equal(t, asks, src.asks)
			require.Equal(t, schema.Tenant("acme"), src.tenant)
			require.NoError(t, got.Close())
			require.NoError(t, want.Close())
		}
	}
}

func TestSeek(t *testing.T) {
	db := newDB(t)
	client := serve(t, &fakeSource{db: db})
	ctx := context.Background()
	q, err := client.Querier(ctx, "acme", 100_000, 2_900_000, nil)
	require.NoError(t, err)
	defer q.Close()
	set := q.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchEqual, "i", "7"))
	require.True(t, set.Next())
	s := set.At()
	require.False(t, set.Next())
	for _, tc := range [][]int64{{0}, {100_000}, {150_500, 150_000, 151_000, 2_899_999}, {-5, 119_000, 120_000, 240_000}, {3_000_000}, {2_900_001}} {
		it := s.Iterator(nil)
		for _, to := range tc {
			want := max(100_000, (to+999)/1000*1000)
			typ := it.Seek(to)
			if want > 2_900_000 {
				require.Equal(t, chunkenc.ValNone, typ)
				require.Equal(t, chunkenc.ValNone, it.Next())
				require.Equal(t, chunkenc.ValNone, it.Seek(0))
				continue
			}
			require.Equal(t, chunkenc.ValFloat, typ)
			require.GreaterOrEqual(t, it.AtT(), want)
			if to == tc[0] {
				require.Equal(t, want, it.AtT())
			}
		}
	}
}

func TestLabelsOnlyAndStrings(t *testing.T) {
	db := newDB(t)
	client := serve(t, &fakeSource{db: db})
	ctx := context.Background()
	want, err := db.Querier(0, 1000)
	require.NoError(t, err)
	defer want.Close()
	got, err := client.Querier(ctx, "acme", 0, 1000, nil)
	require.NoError(t, err)
	defer got.Close()
	hints := &storage.SelectHints{Start: 0, End: 1000, Func: "series"}
	require.Equal(t, dump(t, want.Select(ctx, true, hints, everything)), dump(t, got.Select(ctx, true, hints, everything)))

	for _, ms := range [][]*labels.Matcher{nil, {labels.MustNewMatcher(labels.MatchRegexp, "i", "1.*")}, {labels.MustNewMatcher(labels.MatchEqual, "i", "\xff")}} {
		for _, h := range []*storage.LabelHints{nil, {Limit: 2}} {
			wantNames, _, err := want.LabelNames(ctx, h, ms...)
			require.NoError(t, err)
			names, _, err := got.LabelNames(ctx, h, ms...)
			require.NoError(t, err)
			require.ElementsMatch(t, wantNames, names)
			wantValues, _, err := want.LabelValues(ctx, "i", h, ms...)
			require.NoError(t, err)
			values, _, err := got.LabelValues(ctx, "i", h, ms...)
			require.NoError(t, err)
			require.ElementsMatch(t, wantValues, values)
		}
	}
}

func TestErrorsCrossTheWire(t *testing.T) {
	hole := &HoleError{Partition: 2, From: 10, Held: 20}
	ours := &schema.Error{ID: schema.ErrStrongRead, Status: 503, Message: "log not applied", RetryAfter: 3 * time.Second, Cause: errors.New("slow")}
	db := newDB(t)
	ctx := context.Background()
	calls := map[string]func(*Client) error{
		"select": func(c *Client) error {
			q, err := c.Querier(ctx, "acme", 0, 1, nil)
			require.NoError(t, err)
			set := q.Select(ctx, true, nil, everything)
			require.False(t, set.Next())
			return set.Err()
		},
		"names": func(c *Client) error {
			q, _ := c.Querier(ctx, "acme", 0, 1, nil)
			_, _, err := q.LabelNames(ctx, nil)
			return err
		},
		"values": func(c *Client) error {
			q, _ := c.Querier(ctx, "acme", 0, 1, nil)
			_, _, err := q.LabelValues(ctx, "a", nil)
			return err
		},
		"exemplars": func(c *Client) error { _, err := c.Exemplars(ctx, "acme", 0, 1, nil, nil); return err },
		"metadata":  func(c *Client) error { _, err := c.Metadata(ctx, "acme", ""); return err },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			var gotHole *HoleError
			require.ErrorAs(t, call(serve(t, &fakeSource{db: db, openErr: fmt.Errorf("wrapped: %w", hole)})), &gotHole)
			require.Equal(t, hole, gotHole)
			var got *schema.Error
			require.ErrorAs(t, call(serve(t, &fakeSource{db: db, openErr: fmt.Errorf("wrapped: %w", ours)})), &got)
			require.Equal(t, &schema.Error{ID: ours.ID, Status: 503, Message: "log not applied: slow", RetryAfter: 3 * time.Second}, got)
			require.ErrorContains(t, call(serve(t, &fakeSource{db: db, openErr: errors.New("plain")})), "plain")
		})
	}
}

func TestErrorInMidStream(t *testing.T) {
	db := newDB(t)
	ctx := context.Background()
	hole := &HoleError{Partition: 1, From: 1, Held: 5}
	for _, n := range []int{0, 1, 15} {
		client := serve(t, &fakeSource{db: db, wrap: func(s storage.SeriesSet) storage.SeriesSet { return &brokenSet{s, n, hole} }})
		q, err := client.Querier(ctx, "acme", 0, 3_000_000, nil)
		require.NoError(t, err)
		set := q.Select(ctx, true, nil, everything)
		for set.Next() {
		}
		var got *HoleError
		require.ErrorAs(t, set.Err(), &got)
		require.NoError(t, q.Close())
	}
}

func TestWarningsCross(t *testing.T) {
	client := serve(t, &fakeSource{db: newDB(t), wrap: func(s storage.SeriesSet) storage.SeriesSet { return warnedSet{s} }})
	q, err := client.Querier(context.Background(), "acme", 0, 3_000_000, nil)
	require.NoError(t, err)
	defer q.Close()
	set := q.Select(context.Background(), true, nil, everything)
	for set.Next() {
	}
	require.NoError(t, set.Err())
	warnings, infos := set.Warnings().AsStrings("", 0, 0)
	require.Equal(t, []string{"mind the gäp\n😀"}, warnings)
	require.Equal(t, []string{"PromQL info: no wörry\n"}, infos)
}

// stringsSource answers with values of its own and an info.
type stringsSource struct {
	fakeSource
	values []string
}

func (s *stringsSource) Querier(context.Context, schema.Tenant, int64, int64, []Ask) (storage.Querier, error) {
	return stringsQuerier{storage.NoopQuerier(), s.values}, nil
}

type stringsQuerier struct {
	storage.Querier
	values []string
}

func (s stringsQuerier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return s.values, annotations.New().Add(fmt.Errorf("%w: so many", annotations.PromQLInfo)), nil
}

// Names and values cross whatever characters they have, and no byte of the answer can change unseen.
func TestAnswersAreChecked(t *testing.T) {
	source := &stringsSource{values: []string{"", "\x00\x01\x7f", "\"quoted\" <&>", "line\nbreak\r\u2028", "ä€😀", "zwei\\t"}}
	whole := Handler(HandlerConfig{Source: source, KeepAlive: time.Hour}, slog.New(slog.DiscardHandler))
	flip := -1
	var sent int
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		whole.ServeHTTP(answer, r)
		body := answer.Body.Bytes()
		if sent = len(body); flip >= 0 {
			body[flip] ^= 1
		}
		_, _ = w.Write(append([]byte("\n\n"), body...)) // as after signs of life
	}))
	defer srv.Close()
	q, err := NewClient(srv.URL, srv.Client(), time.Minute).Querier(context.Background(), "acme", 0, 1, nil)
	require.NoError(t, err)
	defer q.Close()
	values, notes, err := q.LabelValues(context.Background(), "a", nil)
	require.NoError(t, err)
	require.Equal(t, source.values, values)
	_, infos := notes.AsStrings("", 0, 0)
	require.Equal(t, []string{"PromQL info: so many"}, infos)
	for flip = range sent - 1 { // the last byte ends the line and says nothing
		_, _, err := q.LabelValues(context.Background(), "a", nil)
		require.ErrorIs(t, err, ErrUnreachable, "byte %d", flip)
	}
}

// TestCutStream cuts the answer after each of many bytes: it is never taken for a complete one.
func TestCutStream(t *testing.T) {
	whole := httptest.NewRecorder()
	h := Handler(HandlerConfig{Source: &fakeSource{db: newDB(t)}}, slog.New(slog.DiscardHandler))
	var cut int
	var limit bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !limit {
			whole = httptest.NewRecorder()
			h.ServeHTTP(whole, r)
			limit = true
		}
		w.WriteHeader(200)
		_, _ = w.Write(whole.Body.Bytes()[:cut]) // ends cleanly, as behind a proxy, but without the trailer
	}))
	defer srv.Close()
	client := NewClient(srv.URL, srv.Client(), time.Minute)
	ctx := context.Background()
	for cut = 0; limit == false || cut < whole.Body.Len(); cut += 997 {
		q, err := client.Querier(ctx, "acme", 0, 3_000_000, nil)
		require.NoError(t, err)
		set := q.Select(ctx, true, nil, everything)
		for set.Next() {
		}
		require.ErrorIs(t, set.Err(), errCut)
		require.NoError(t, q.Close())
	}
}

func TestCancelStopsTheSource(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	started, stopped := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		buf := make([]byte, 1<<12)
		for { // the body must be read before the server notices that the client has gone
			if _, err := r.Body.Read(buf); err != nil {
				break
			}
		}
		close(started)
		<-r.Context().Done()
		close(stopped)
	}))
	defer srv.Close()
	client := NewClient(srv.URL, srv.Client(), time.Minute)
	ctx, cancel := context.WithCancel(context.Background())
	q, err := client.Querier(ctx, "acme", 0, 1, nil)
	require.NoError(t, err)
	go func() {
		<-started
		cancel()
	}()
	set := q.Select(ctx, true, nil, everything)
	require.False(t, set.Next())
	require.ErrorIs(t, set.Err(), context.Canceled)
	<-stopped
	srv.Client().CloseIdleConnections()
}

// timesSource tells of which times it holds something.
type timesSource struct {
	*fakeSource
	held []Interval
}

func (s timesSource) Held(_ context.Context, tenant schema.Tenant, asks []Ask) ([]Interval, Applied, error) {
	s.tenant, s.asks = tenant, asks
	return s.held, Applied{3: 70}, s.openErr
}

func TestTimesCross(t *testing.T) {
	fake := &fakeSource{}
	held := []Interval{{math.MinInt64, -5}, {7, math.MaxInt64}}
	got, applied, err := serve(t, timesSource{fake, held}).Held(context.Background(), "acme", []Ask{{Partition: 3, From: 7, Wait: 9}})
	require.NoError(t, err)
	require.Equal(t, held, got)
	require.Equal(t, Applied{3: 70}, applied)
	require.Equal(t, []Ask{{Partition: 3, From: 7, Wait: 9}}, fake.asks)

	got, _, err = serve(t, timesSource{fake, nil}).Held(context.Background(), "acme", nil)
	require.NoError(t, err)
	require.Empty(t, got)

	fake.openErr = &HoleError{Partition: 3, From: 7, Held: 8}
	_, _, err = serve(t, timesSource{fake, nil}).Held(context.Background(), "acme", nil)
	var hole *HoleError
	require.ErrorAs(t, err, &hole)
	require.Equal(t, fake.openErr, hole)

	// Who does not know may hold anything.
	got, _, err = serve(t, fake).Held(context.Background(), "acme", nil)
	require.NoError(t, err)
	require.Equal(t, []Interval{Always}, got)
	older := httptest.NewServer(http.NotFoundHandler())
	defer older.Close()
	got, _, err = NewClient(older.URL, older.Client(), time.Minute).Held(context.Background(), "acme", nil)
	require.NoError(t, err)
	require.Equal(t, []Interval{Always}, got)
}

func TestExemplarsAndMetadata(t *testing.T) {
	src := &fakeSource{
		found: []exemplar.QueryResult{{
			SeriesLabels: labels.FromStrings("__name__", "x", "a", "ü"),
			Exemplars: []exemplar.Exemplar{
				{Labels: labels.FromStrings("trace", "1"), Value: math.Inf(1), Ts: 5, HasTs: true},
				{Labels: labels.EmptyLabels(), Value: 1.5, Ts: 6},
			},
		}},
		meta: map[string][]metadata.Metadata{"x": {{Type: model.MetricTypeCounter, Unit: "s", Help: "help"}}},
	}
	client := serve(t, src)
	found, err := client.Exemplars(context.Background(), "acme", 0, 10, [][]*labels.Matcher{{everything}}, nil)
	require.NoError(t, err)
	require.Equal(t, src.found, found)
	meta, err := client.Metadata(context.Background(), "acme", "")
	require.NoError(t, err)
	require.Equal(t, src.meta, meta)
}

func TestBadRequests(t *testing.T) {
	srv := httptest.NewServer(Handler(HandlerConfig{Source: &fakeSource{db: newDB(t)}}, slog.New(slog.DiscardHandler)))
	defer srv.Close()
	client := NewClient(srv.URL, srv.Client(), time.Minute)
	ctx := context.Background()
	q, _ := client.Querier(ctx, "../evil", 0, 1, nil)
	set := q.Select(ctx, true, nil, everything)
	require.False(t, set.Next())
	var se *schema.Error
	require.ErrorAs(t, set.Err(), &se)
	require.Equal(t, schema.ErrTenantInvalid, se.ID)

	_, err := client.post(ctx, pathSelect, &request{Tenant: "acme", Matchers: []matcher{{Type: 77}}})
	require.ErrorAs(t, err, &se)
	require.Equal(t, schema.ErrDecode, se.ID)
}

// FuzzStream feeds arbitrary bytes to the client's side: an error or series, never a panic.
func FuzzStream(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x05, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	chunk := chunkenc.NewXORChunk()
	app, err := chunk.Appender()
	require.NoError(f, err)
	app.Append(0, 1, 2)
	frame, err := (&prompb.ChunkedReadResponse{ChunkedSeries: []*prompb.ChunkedSeries{{
		Labels: []prompb.Label{{Name: "a", Value: "b"}}, Chunks: []prompb.Chunk{{Type: prompb.Chunk_XOR, Data: chunk.Bytes()}},
	}}}).Marshal()
	require.NoError(f, err)
	rec := httptest.NewRecorder()
	out := remote.NewChunkedWriter(rec, rec)
	_, err = out.Write(frame)
	require.NoError(f, err)
	f.Add(rec.Body.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		srv := http.Response{Body: http.NoBody, Trailer: http.Header{}}
		ctx, cancel := context.WithCancelCause(context.Background())
		s := newStream(&answer{&srv, ctx, cancel}, 3, minTime, maxTime)
		s.frames = remote.NewChunkedReader(bytes.NewReader(b), maxFrameLimit, nil)
		s.begin()
		for s.Next() {
			it := s.At().Iterator(nil)
			for it.Next() != chunkenc.ValNone {
			}
		}
		require.Error(t, s.Err()) // there is no trailer
	})
}
