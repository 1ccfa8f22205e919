package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"
	"github.com/thanos-io/objstore/providers/filesystem"
	"go.uber.org/goleak"

	"sluice/internal/merge"
	"sluice/schema"
)

func newStore(t testing.TB, bkt objstore.BucketReader, cfg Config) *Store {
	s, err := New(bkt, cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// dump spells out every sample with all its bits; an error instead when there is one.
func dump(set storage.SeriesSet) (map[string][]string, error) {
	out := map[string][]string{}
	var order []labels.Labels
	var it chunkenc.Iterator
	for set.Next() {
		s := set.At()
		order = append(order, s.Labels())
		key := s.Labels().String()
		if _, ok := out[key]; ok {
			return nil, fmt.Errorf("series %s comes twice", key)
		}
		out[key] = []string{}
		it = s.Iterator(it)
		for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
			switch typ {
			case chunkenc.ValFloat:
				ts, v := it.At()
				out[key] = append(out[key], fmt.Sprintf("%d %x", ts, math.Float64bits(v)))
			case chunkenc.ValHistogram:
				ts, h := it.AtHistogram(nil)
				out[key] = append(out[key], fmt.Sprintf("%d %s %d", ts, h.String(), h.CounterResetHint))
			case chunkenc.ValFloatHistogram:
				ts, h := it.AtFloatHistogram(nil)
				out[key] = append(out[key], fmt.Sprintf("%d %s %d", ts, h.String(), h.CounterResetHint))
			}
		}
		if it.Err() != nil {
			return nil, it.Err()
		}
	}
	for i := 1; i < len(order); i++ {
		if labels.Compare(order[i-1], order[i]) >= 0 {
			return nil, fmt.Errorf("series %s comes after %s", order[i], order[i-1])
		}
	}
	return out, set.Err()
}

func match(t labels.MatchType, name, value string) *labels.Matcher {
	return labels.MustNewMatcher(t, name, value)
}

var matcherSets = [][]*labels.Matcher{
	{match(labels.MatchEqual, "__name__", "metric_3")},
	{match(labels.MatchEqual, "__name__", "metric_3"), match(labels.MatchEqual, "instance", "host-00013:9100")},
	{match(labels.MatchEqual, "__name__", "metric_3"), match(labels.MatchRegexp, "instance", ".*7:9100")},
	{match(labels.MatchRegexp, "__name__", "metric_[02]"), match(labels.MatchNotEqual, "job", "job1")},
	{match(labels.MatchRegexp, "instance", "host-00001:9100|host-00100:9100|host-00101:9100|host-99999:9100|a|z")},
	{match(labels.MatchNotEqual, "job", "")},
	{match(labels.MatchEqual, "job", "")},
	{match(labels.MatchNotRegexp, "instance", "host-0.*")},
	{match(labels.MatchRegexp, "rare", ".+")},
	{match(labels.MatchNotRegexp, "rare", ".+"), match(labels.MatchEqual, "job", "job2")},
	{match(labels.MatchEqual, "__name__", "nothing")},
	{match(labels.MatchEqual, "nothing", "at all")},
	{match(labels.MatchEqual, "zone", "ä😀")},
	{match(labels.MatchEqual, "", "")},
}

// TestLikeTSDB holds every answer to that of Prometheus' own querier over the same files.
func TestLikeTSDB(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir, entry := makeBlock(t, 100, 300)
	require.Greater(t, len(entry.Files), 4, "several segments")
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	want, err := tsdb.OpenBlock(nil, dir, nil, nil)
	require.NoError(t, err)
	defer want.Close()
	fs, err := filesystem.NewBucket(t.TempDir())
	require.NoError(t, err)
	for _, f := range entry.Files {
		data, err := os.Open(filepath.Join(dir, f.Path))
		require.NoError(t, err)
		require.NoError(t, fs.Upload(context.Background(), "acme/"+entry.ID.String()+"/"+f.Path, data))
		require.NoError(t, data.Close())
	}
	for name, s := range map[string]*Store{
		"default":     newStore(t, bkt, Config{}),
		"small pages": newStore(t, bkt, Config{PageBytes: 512, CacheBytes: 4096}),
		"odd pages":   newStore(t, bkt, Config{PageBytes: 4099, Parallelism: 1}),
		"filesystem":  newStore(t, fs, Config{PageBytes: 8192}),
	} {
		t.Run(name, func(t *testing.T) { likeTSDB(t, s, entry, want) })
		s.Close()
	}
	bare := *entry
	addHeader(t, dir, entry)
	bkt.upload(t, dir, entry)
	s := newStore(t, bkt, Config{})
	t.Run("header", func(t *testing.T) { likeTSDB(t, s, entry, want) })
	require.Equal(t, 1.0, counted(t, s.metrics.headers.WithLabelValues("bucket")))
	likeTSDBAtRandom(t, s, entry, want)
	small := newStore(t, bkt, Config{PageBytes: 512})
	likeTSDBAtRandom(t, small, &bare, want)
	small.Close()
	s.Close()
}

func counted(t testing.TB, c prometheus.Counter) float64 {
	var m dto.Metric
	require.NoError(t, c.Write(&m))
	return m.GetCounter().GetValue()
}

// likeTSDBAtRandom asks with matchers that a seed makes up.
func likeTSDBAtRandom(t *testing.T, s *Store, entry *schema.BlockEntry, block *tsdb.Block) {
	ctx := context.Background()
	want, err := tsdb.NewBlockQuerier(block, 0, 1e9)
	require.NoError(t, err)
	defer want.Close()
	got, err := s.Querier(ctx, entry, 0, 1e9)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(5, 6))
	names := []string{"__name__", "instance", "job", "rare", "zone", "nothing"}
	values := []string{"", "metric_3", "metric_7", "host-00013:9100", "host-00087:9100", "host-0", "job1", "job2", "yes", "ä😀", "zzz", "a"}
	res := []string{"", ".*", ".+", "metric_[0-4]", "metric_(1|2|3)", "metric_1|metric_2|", "host-0000.*", "(?i)HOST-0001.*", "host-000.3:9100", "host-00013:9100|host-00014:9100|no",
		"job.", "job1|", "yes|", ".*9100", "(?i)yes", "h.*|m.*", "zzz.*", "job\\d"}
	hints := &storage.SelectHints{Start: 0, End: 1e9, Func: "series"}
	questions := 400
	if testing.Short() { // under the race detector, which sees the same goroutines in each of them
		questions = 60
	}
	for range questions {
		var ms []*labels.Matcher
		for range 1 + rng.IntN(4) {
			typ := labels.MatchType(rng.IntN(4))
			from := values
			if typ == labels.MatchRegexp || typ == labels.MatchNotRegexp {
				from = res
			}
			ms = append(ms, match(typ, names[rng.IntN(len(names))], from[rng.IntN(len(from))]))
		}
		w, err := dump(want.Select(ctx, true, hints, slices.Clone(ms)...))
		require.NoError(t, err)
		g, err := dump(got.Select(ctx, true, hints, ms...))
		require.NoError(t, err)
		require.Equal(t, w, g, "%v", ms)
		name := names[rng.IntN(len(names))]
		wv, _, err := want.LabelValues(ctx, name, nil, ms...)
		require.NoError(t, err)
		gv, _, err := got.LabelValues(ctx, name, nil, ms...)
		require.NoError(t, err)
		require.ElementsMatch(t, wv, gv, "%s of %v", name, ms)
	}
}

func likeTSDB(t *testing.T, s *Store, entry *schema.BlockEntry, block *tsdb.Block) {
	ctx := context.Background()
	ranges := [][2]int64{{1_000_000, 2_345_678}, {0, 6_000_000}, {15_000, 15_000}, {7_000_000, 8_000_000}, {math.MinInt64, math.MaxInt64}}
	if testing.Short() { // under the race detector: the next differ in arithmetic
		ranges = ranges[:1]
	}
	for _, r := range ranges {
		want, err := tsdb.NewBlockQuerier(block, r[0], r[1])
		require.NoError(t, err)
		t.Cleanup(func() { want.Close() }) // else a failure would hang in the block's Close
		got, err := s.Querier(ctx, entry, r[0], r[1])
		require.NoError(t, err)
		for _, ms := range matcherSets {
			for _, hints := range []*storage.SelectHints{
				nil,
				{Start: r[0], End: r[1], Step: 15_000},
				{Start: 2_000_000, End: 2_100_000},
				{Start: r[0], End: r[1], DisableTrimming: true},
				{Start: r[0], End: r[1], Func: "series"},
			} {
				w, err := dump(want.Select(ctx, true, hints, ms...))
				require.NoError(t, err)
				g, err := dump(got.Select(ctx, true, hints, ms...))
				require.NoError(t, err)
				require.Equal(t, w, g, "%v %v %+v", r, ms, hints)

				if s.cfg.PageBytes != 64<<10 {
					continue
				}
				untrimmed := storage.SelectHints{Start: r[0], End: r[1]}
				if hints != nil {
					untrimmed = *hints
				}
				untrimmed.DisableTrimming = true
				w, err = dump(got.Select(ctx, true, &untrimmed, ms...))
				require.NoError(t, err)
				g, err = dump(&passedOn{got.Select(ctx, true, hints, ms...)})
				require.NoError(t, err)
				require.Equal(t, w, g, "whole %v %v %+v", r, ms, hints)
			}
			if ms[0].Name == "" {
				continue
			}
			likeTSDBLabels(t, want, got, ms)
		}
		likeTSDBLabels(t, want, got, nil)
		require.NoError(t, got.Close())
	}
}

// passedOn has the chunks of a set as they are given to whoever passes them on.
type passedOn struct{ storage.SeriesSet }

func (p *passedOn) At() storage.Series {
	s := p.SeriesSet.At().(*merge.ChunksSeries)
	var metas []chunks.Meta
	for it := s.Chunks(nil); it.Next(); {
		metas = append(metas, it.At())
	}
	return merge.SeriesOfChunks(s.Labels(), metas)
}

func likeTSDBLabels(t *testing.T, want, got storage.Querier, ms []*labels.Matcher) {
	ctx := context.Background()
	for _, hints := range []*storage.LabelHints{nil, {Limit: 3}, {Limit: 1000}} {
		w, _, err := want.LabelNames(ctx, hints, ms...)
		require.NoError(t, err)
		g, _, err := got.LabelNames(ctx, hints, ms...)
		require.NoError(t, err)
		require.ElementsMatch(t, w, g)
		for _, name := range []string{"__name__", "instance", "job", "rare", "nothing", "zone"} {
			w, _, err := want.LabelValues(ctx, name, hints, ms...)
			require.NoError(t, err)
			g, _, err := got.LabelValues(ctx, name, hints, ms...)
			require.NoError(t, err)
			if hints != nil && len(ms) > 0 { // TSDB keeps any, we keep the first
				require.Len(t, g, len(w))
				continue
			}
			require.ElementsMatch(t, w, g, "%s %v %v", name, ms, hints)
		}
	}
}

func TestShards(t *testing.T) {
	dir, entry := makeBlock(t, 100, 20)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	q, err := newStore(t, bkt, Config{}).Querier(context.Background(), entry, 0, 1e9)
	require.NoError(t, err)
	total := 0
	for shard := range uint64(4) {
		got, err := dump(q.Select(context.Background(), true, &storage.SelectHints{End: 1e9, ShardCount: 4, ShardIndex: shard}, match(labels.MatchEqual, "", "")))
		require.NoError(t, err)
		total += len(got)
	}
	require.Equal(t, 100, total)
}

// TestReadsLittle is the point of the package: a selective query reads a small part of a block, and a second time nothing.
func TestReadsLittle(t *testing.T) {
	dir, entry := makeBlock(t, 4000, 240)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	var size int64
	for _, f := range entry.Files {
		size += f.Size
	}
	s := newStore(t, bkt, Config{PageBytes: 16 << 10})
	ctx := context.Background()
	query := func() {
		q, err := s.Querier(ctx, entry, 0, 1e9)
		require.NoError(t, err)
		got, err := dump(q.Select(ctx, true, nil, match(labels.MatchEqual, "instance", "host-02013:9100")))
		require.NoError(t, err)
		require.Len(t, got, 1)
	}
	query()
	t.Logf("block of %d bytes: %d bytes in %d GETs", size, bkt.bytes.Load(), bkt.gets.Load())
	require.Less(t, bkt.bytes.Load(), size/4)
	require.Less(t, bkt.gets.Load(), int64(10))
	gets := bkt.gets.Load()
	s.pages.cache.Wait()
	query()
	require.Equal(t, gets, bkt.gets.Load())
}

// TestTogether asks for the same from many goroutines: the bucket sees each page once.
func TestTogether(t *testing.T) {
	dir, entry := makeBlock(t, 500, 240)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	var size int64
	for _, f := range entry.Files {
		size += f.Size
	}
	s := newStore(t, bkt, Config{PageBytes: 4096})
	var wg sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wg.Go(func() {
			q, err := s.Querier(context.Background(), entry, 0, 1e9)
			if err != nil {
				errs[i] = err
				return
			}
			var got map[string][]string
			got, errs[i] = dump(q.Select(context.Background(), true, nil, match(labels.MatchRegexp, "__name__", ".+")))
			if len(got) != 500 {
				errs[i] = errors.Join(errs[i], fmt.Errorf("%d series", len(got)))
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Less(t, bkt.bytes.Load(), 3*size) // the cache takes pages a moment after they were fetched
}

func selectAll(ctx context.Context, s *Store, entry *schema.BlockEntry) error {
	q, err := s.Querier(ctx, entry, 0, 1e9)
	if err != nil {
		return err
	}
	_, err = dump(q.Select(ctx, true, nil, match(labels.MatchRegexp, "__name__", ".+")))
	if err != nil {
		return err
	}
	if _, _, err = q.LabelNames(ctx, nil, match(labels.MatchEqual, "job", "job1")); err != nil {
		return err
	}
	_, _, err = q.LabelValues(ctx, "instance", nil, match(labels.MatchEqual, "job", "job1"))
	return err
}

// requireUnreadable wants the error of a block that cannot be read, with all its names in it.
func requireUnreadable(t *testing.T, err error, entry *schema.BlockEntry, file string) {
	var se *schema.Error
	require.ErrorAs(t, err, &se)
	require.Equal(t, schema.ErrBlockUnreadable, se.ID)
	require.Equal(t, 503, se.Status)
	for _, part := range []string{string(entry.Tenant), entry.ID.String(), file} {
		require.ErrorContains(t, err, part)
	}
}

func TestFaults(t *testing.T) {
	dir, entry := makeBlock(t, 100, 240)
	boom := errors.New("boom")
	in := func(part string) func(string) bool {
		return func(name string) bool { return strings.Contains(name, part) }
	}
	cases := map[string]struct {
		file   string
		fault  func(string, int64, int64) error
		mangle func(string, int64, []byte) []byte
	}{
		"index GET fails": {"index", func(name string, _, _ int64) error { return when(in("/index")(name), boom) }, nil},
		"chunk GET fails": {"chunks/", func(name string, _, _ int64) error { return when(in("/chunks/")(name), boom) }, nil},
		"short index": {"index", nil, func(name string, _ int64, b []byte) []byte {
			if in("/index")(name) {
				return b[:len(b)-1]
			}
			return b
		}},
		"short chunks": {"chunks/", nil, func(name string, _ int64, b []byte) []byte {
			if in("/chunks/")(name) {
				return b[:len(b)/2]
			}
			return b
		}},
		"empty body": {"index", nil, func(string, int64, []byte) []byte { return nil }},
		"zeros":      {"index", nil, func(_ string, _ int64, b []byte) []byte { return make([]byte, len(b)) }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			bkt := newBucket()
			bkt.upload(t, dir, entry)
			s := newStore(t, bkt, Config{})
			bkt.set(c.fault, c.mangle)
			requireUnreadable(t, selectAll(context.Background(), s, entry), entry, c.file)
			bkt.set(nil, nil)
			require.NoError(t, selectAll(context.Background(), s, entry), "a fault is not remembered")
		})
	}
}

func when(is bool, err error) error {
	if is {
		return err
	}
	return nil
}

func TestOneFailureIsTriedAgain(t *testing.T) {
	dir, entry := makeBlock(t, 50, 20)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	s := newStore(t, bkt, Config{})
	var mu sync.Mutex
	failed := map[string]bool{}
	bkt.set(func(name string, off, _ int64) error {
		mu.Lock()
		defer mu.Unlock()
		key := fmt.Sprint(name, off)
		defer func() { failed[key] = true }()
		return when(!failed[key], errors.New("once"))
	}, nil)
	require.NoError(t, selectAll(context.Background(), s, entry))
}

func TestGone(t *testing.T) {
	dir, entry := makeBlock(t, 50, 240)
	for _, file := range []string{"index", "chunks/000001"} {
		bkt := newBucket()
		bkt.upload(t, dir, entry)
		require.NoError(t, bkt.Delete(context.Background(), "acme/"+entry.ID.String()+"/"+file))
		err := selectAll(context.Background(), newStore(t, bkt, Config{}), entry)
		requireUnreadable(t, err, entry, file)
		require.ErrorIs(t, err, ErrGone)
	}
	none := *entry
	none.Files = nil
	requireUnreadable(t, selectAll(context.Background(), newStore(t, newBucket(), Config{}), &none), entry, "index")
}

func TestCancelled(t *testing.T) {
	dir, entry := makeBlock(t, 50, 240)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	s := newStore(t, bkt, Config{})
	ctx, cancel := context.WithCancel(context.Background())
	bkt.set(func(name string, _, _ int64) error {
		if strings.Contains(name, "/chunks/") {
			cancel()
		}
		return nil
	}, nil)
	require.ErrorIs(t, selectAll(ctx, s, entry), context.Canceled)
	require.ErrorIs(t, selectAll(ctx, s, entry), context.Canceled)
	bkt.set(nil, nil)
	require.NoError(t, selectAll(context.Background(), s, entry), "one caller's end is not another's")
}

func TestLRU(t *testing.T) {
	bkt := newBucket()
	s := newStore(t, bkt, Config{OpenBytes: 1})
	var entries []*schema.BlockEntry
	for range 3 {
		dir, entry := makeBlock(t, 10, 10)
		bkt.upload(t, dir, entry)
		entries = append(entries, entry)
	}
	for range 2 {
		for _, e := range entries {
			require.NoError(t, selectAll(context.Background(), s, e))
			require.Equal(t, 1, s.opened.order.Len())
		}
	}
}

// TestLyingBlocks flips bits, cuts and overwrites at many places of every file: the answer is the right one or an error,
// never a wrong one and never a panic.
func TestLyingBlocks(t *testing.T) {
	dir, entry := makeBlock(t, 60, 130)
	addHeader(t, dir, entry)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	right, err := answers(newStore(t, bkt, Config{PageBytes: 4096}), entry)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, f := range entry.Files {
		if f.Path == "meta.json" || f.Path == "tombstones" {
			continue
		}
		var offsets []int64
		for o := int64(0); o < f.Size; o += max(1, f.Size/100) {
			offsets = append(offsets, o)
		}
		for o := max(0, f.Size-60); o < f.Size; o++ { // the table of contents
			offsets = append(offsets, o)
		}
		for o := range min(16, f.Size) {
			offsets = append(offsets, o)
		}
		for _, at := range offsets {
			bit := byte(1) << rng.IntN(8)
			kind := rng.IntN(3)
			bkt.set(nil, func(name string, off int64, b []byte) []byte {
				if !strings.HasSuffix(name, "/"+f.Path) {
					return b
				}
				switch i := at - off; {
				case kind < 2 && i >= 0 && i < int64(len(b)):
					b[i] ^= bit
				case kind == 2: // garbage from there on, for a while
					for j := max(i, 0); j < min(i+32, int64(len(b))); j++ {
						b[j] = byte(rng.Uint32())
					}
				}
				return b
			})
			s, err := New(bkt, Config{PageBytes: 4096}, slog.New(slog.DiscardHandler), nil)
			require.NoError(t, err)
			got, err := answers(s, entry)
			s.Close()
			if err == nil {
				require.Equal(t, right, got, "%s, byte %d, bit %x", f.Path, at, bit)
				continue
			}
			var se *schema.Error
			require.ErrorAs(t, err, &se, "%s, byte %d", f.Path, at)
		}
	}
}

func answers(s *Store, entry *schema.BlockEntry) (any, error) {
	return answersWith(context.Background(), s, entry)
}

func answersWith(ctx context.Context, s *Store, entry *schema.BlockEntry) (any, error) {
	q, err := s.Querier(ctx, entry, 0, 1e9)
	if err != nil {
		return nil, err
	}
	a, err := dump(q.Select(ctx, true, nil, match(labels.MatchRegexp, "__name__", ".+")))
	if err != nil {
		return nil, err
	}
	b, _, err := q.LabelValues(ctx, "instance", nil)
	if err != nil {
		return nil, err
	}
	c, _, err := q.LabelNames(ctx, nil)
	return []any{a, b, c}, err
}

// FuzzIndex opens arbitrary bytes as an index, their checksums made right in a part of the runs by the seeds.
func FuzzIndex(f *testing.F) {
	dir, entry := makeBlock(f, 5, 5)
	index, err := os.ReadFile(filepath.Join(dir, "index"))
	require.NoError(f, err)
	f.Add(index)
	f.Add(index[:len(index)-1])
	f.Add(index[10:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		bkt := objstore.NewInMemBucket()
		e := *entry
		e.Files = []schema.BlockFile{{Path: "index", Size: int64(len(b))}}
		require.NoError(t, bkt.Upload(context.Background(), "acme/"+e.ID.String()+"/index", strings.NewReader(string(b))))
		s, err := New(bkt, Config{CacheBytes: 1 << 20}, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		defer s.Close()
		_ = selectAll(context.Background(), s, &e)
	})
}

func benchmark(b *testing.B, warm bool, ms ...*labels.Matcher) {
	dir, entry := makeBlock(b, 10_000, 240)
	bkt := newBucket()
	bkt.upload(b, dir, entry)
	ctx := context.Background()
	s := newStore(b, bkt, Config{})
	run := func() {
		q, err := s.Querier(ctx, entry, 0, 1e9)
		require.NoError(b, err)
		set := q.Select(ctx, true, nil, ms...)
		for set.Next() {
		}
		require.NoError(b, set.Err())
	}
	run()
	s.pages.cache.Wait()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if !warm {
			b.StopTimer()
			s = newStore(b, bkt, Config{})
			b.StartTimer()
		}
		run()
	}
}

func BenchmarkSelectOneWarm(b *testing.B) {
	benchmark(b, true, match(labels.MatchEqual, "instance", "host-02013:9100"))
}

func BenchmarkSelectOneCold(b *testing.B) {
	benchmark(b, false, match(labels.MatchEqual, "instance", "host-02013:9100"))
}

func BenchmarkSelectThousandWarm(b *testing.B) {
	benchmark(b, true, match(labels.MatchEqual, "__name__", "metric_3"))
}

func BenchmarkSelectThousandCold(b *testing.B) {
	benchmark(b, false, match(labels.MatchEqual, "__name__", "metric_3"))
}
