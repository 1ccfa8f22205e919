package store

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"

	"sluice/internal/trace"
	"sluice/schema"
)

// largeIndex writes an index of n series in 100 metrics, each with an instance of its own and one of 10 jobs, and its header.
func largeIndex(t testing.TB, n int) (string, *schema.BlockEntry) {
	dir := t.TempDir()
	ctx := context.Background()
	w, err := index.NewWriter(ctx, filepath.Join(dir, schema.IndexFile))
	require.NoError(t, err)
	symbols := []string{"__name__"}
	for i := range n {
		symbols = append(symbols, fmt.Sprintf("host-%08d.example.com:9100", i))
	}
	symbols = append(symbols, "instance", "job")
	for i := range 10 {
		symbols = append(symbols, fmt.Sprintf("job-%d", i))
	}
	for i := range 100 {
		symbols = append(symbols, fmt.Sprintf("metric_%03d_total", i))
	}
	for _, s := range symbols {
		require.NoError(t, w.AddSymbol(s))
	}
	var b labels.ScratchBuilder
	for i := range n {
		b.Reset()
		b.Add("__name__", fmt.Sprintf("metric_%03d_total", i*100/n))
		b.Add("instance", symbols[1+i])
		b.Add("job", fmt.Sprintf("job-%d", i%10))
		require.NoError(t, w.AddSeries(storage.SeriesRef(i), b.Labels(), chunks.Meta{Ref: chunks.ChunkRef(8 + 200*i), MinTime: 0, MaxTime: 7_200_000}))
	}
	require.NoError(t, w.Close())
	info, err := os.Stat(filepath.Join(dir, schema.IndexFile))
	require.NoError(t, err)
	entry := &schema.BlockEntry{ID: ulid.ULID{1}, Tenant: "acme", MaxTime: 7_200_000, Series: uint64(n), Samples: uint64(n), Files: []schema.BlockFile{{Path: schema.IndexFile, Size: info.Size()}}}
	addHeader(t, dir, entry)
	return dir, entry
}

// folder is a bucket that reads a block's files, and counts.
type folder struct {
	objstore.BucketReader
	dir         string
	gets, bytes atomic.Int64
}

func (b *folder) IsObjNotFoundErr(err error) bool { return os.IsNotExist(err) }

func (b *folder) GetRange(_ context.Context, name string, off, length int64) (io.ReadCloser, error) {
	b.gets.Add(1)
	b.bytes.Add(length)
	f, err := os.Open(filepath.Join(b.dir, filepath.Base(name)))
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, off, length), f}, nil
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestLargeBlock opens a block of very many series, with and without a header, and asks it. SLUICE_SERIES=10000000 for more.
func TestLargeBlock(t *testing.T) {
	n := 300_000
	if s := os.Getenv("SLUICE_SERIES"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		require.NoError(t, err)
	} else if testing.Short() { // under the race detector
		n = 50_000
	}
	dir, entry := largeIndex(t, n)
	foreign := *entry
	foreign.Files = entry.Files[:1]
	ctx := context.Background()
	last := fmt.Sprintf("host-%08d.example.com:9100", n-1)

	for _, e := range []*schema.BlockEntry{entry, &foreign} {
		bkt := &folder{dir: dir}
		before := heap()
		s := newStore(t, bkt, Config{CacheBytes: 1 << 20})
		start := time.Now()
		_, err := s.Querier(ctx, e, 0, 1e9)
		require.NoError(t, err)
		took := time.Since(start)
		s.pages.forgetRecent()
		held := heap() - before
		report(t, map[string]any{
			"large": "open", "series": n, "header": len(e.Files) > 1, "index_bytes": entry.Files[0].Size, "header_bytes": entry.Files[1].Size,
			"gets": bkt.gets.Load(), "bytes": bkt.bytes.Load(), "held_bytes": held, "ms": took.Milliseconds(),
		})
		require.Less(t, s.opened.bytes, entry.Files[0].Size/50, "what an open block holds")
		if len(e.Files) > 1 {
			require.LessOrEqual(t, bkt.gets.Load(), 1+entry.Files[1].Size/(runPages*64<<10))
		}
		runtime.KeepAlive(s)
		s.Close()
	}

	bkt := &folder{dir: dir}
	for name, ask := range map[string]func(context.Context, storage.Querier) int{
		"one series": func(ctx context.Context, q storage.Querier) int {
			return seriesOf(t, ctx, q, match(labels.MatchEqual, "instance", last))
		},
		"metric, job and a regular expression": func(ctx context.Context, q storage.Querier) int {
			return seriesOf(t, ctx, q, match(labels.MatchEqual, "__name__", "metric_099_total"), match(labels.MatchEqual, "job", "job-7"), match(labels.MatchRegexp, "instance", ".*77.*"))
		},
		"job and one instance": func(ctx context.Context, q storage.Querier) int {
			return seriesOf(t, ctx, q, match(labels.MatchNotEqual, "job", "job-7"), match(labels.MatchEqual, "instance", last))
		},
		"prefix": func(ctx context.Context, q storage.Querier) int {
			return seriesOf(t, ctx, q, match(labels.MatchRegexp, "instance", "host-0000012.*"))
		},
		"1,000 values": func(ctx context.Context, q storage.Querier) int {
			v, _, err := q.LabelValues(ctx, "instance", &storage.LabelHints{Limit: 1000})
			require.NoError(t, err)
			return len(v)
		},
		"values of a small label by one of a large": func(ctx context.Context, q storage.Querier) int {
			v, _, err := q.LabelValues(ctx, "__name__", nil, match(labels.MatchEqual, "instance", last))
			require.NoError(t, err)
			return len(v)
		},
	} {
		t.Run(name, func(t *testing.T) {
			gets, bytes := bkt.gets.Load(), bkt.bytes.Load()
			s := newStore(t, bkt, Config{CacheBytes: 32 << 20})
			q := trace.New("q", nil)
			start := time.Now()
			qr, err := s.Querier(ctx, entry, 0, 1e9)
			require.NoError(t, err)
			opened, openBytes := bkt.gets.Load()-gets, bkt.bytes.Load()-bytes
			found := ask(trace.With(ctx, q), qr)
			took := time.Since(start)
			require.Positive(t, found)
			gets, bytes = bkt.gets.Load()-gets, bkt.bytes.Load()-bytes
			report(t, map[string]any{"large": name, "series": n, "found": found, "gets": gets, "bytes": bytes, "us": took.Microseconds()})
			require.Equal(t, gets-opened, q.Counts()[trace.BucketRequests])
			require.Equal(t, bytes-openBytes, q.Counts()[trace.BucketBytes])
			require.Less(t, bytes, entry.Files[0].Size/4)
		})
	}
}

func report(t testing.TB, figures map[string]any) {
	b, err := json.Marshal(figures)
	require.NoError(t, err)
	fmt.Printf("SLUICE-FIGURES %s\n", b)
}

func seriesOf(t testing.TB, ctx context.Context, q storage.Querier, ms ...*labels.Matcher) (n int) {
	set := q.Select(ctx, true, &storage.SelectHints{End: 1e9, Func: "series"}, slices.Clone(ms)...)
	for set.Next() {
		n++
	}
	require.NoError(t, set.Err())
	return n
}

// forgetRecent lets go of what is kept at hand beside the cache.
func (p *pages) forgetRecent() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.recent {
		p.forget(r)
	}
	p.recent, p.recently = nil, 0
}

// BenchmarkLargeOpen opens a block of 300,000 series by its header.
func BenchmarkLargeOpen(b *testing.B) {
	dir, entry := largeIndex(b, 300_000)
	bkt := &folder{dir: dir}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		s := newStore(b, bkt, Config{CacheBytes: 1 << 20})
		b.StartTimer()
		_, err := s.Querier(context.Background(), entry, 0, 1e9)
		require.NoError(b, err)
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}
