package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"

	"sluice/schema"
)

// makeBlock writes a block as TSDB does: series of a few metrics with many chunks, histograms among them, in segments of
// 64 KiB. It returns its folder and what the catalogue would say of it.
func makeBlock(t testing.TB, series, samples int) (string, *schema.BlockEntry) {
	opts := tsdb.DefaultHeadOptions()
	opts.ChunkDirRoot = t.TempDir()
	opts.ChunkRange = 1 << 40
	head, err := tsdb.NewHead(nil, nil, nil, nil, opts, nil)
	require.NoError(t, err)
	defer head.Close()
	ints, floats := tsdbutil.GenerateTestHistograms(samples), tsdbutil.GenerateTestFloatHistograms(samples)
	app := head.Appender(context.Background())
	for s := range series {
		ls := labels.FromStrings("__name__", fmt.Sprintf("metric_%d", s%10), "instance", fmt.Sprintf("host-%05d:9100", s), "job", fmt.Sprintf("job%d", s%3), "zone", "ä😀")
		if s%7 == 0 {
			ls = labels.NewBuilder(ls).Set("rare", "yes").Del("job").Labels()
		}
		for i := range samples {
			ts := int64(i) * 15_000
			switch s % 50 {
			case 48:
				_, err = app.AppendHistogram(0, ls, ts, ints[i], nil)
			case 49:
				_, err = app.AppendHistogram(0, ls, ts, nil, floats[i])
			default:
				_, err = app.Append(0, ls, ts, float64(i)*math.Sqrt(float64(s)))
			}
			require.NoError(t, err)
		}
	}
	require.NoError(t, app.Commit())
	return written(t, head)
}

// makeCounted makes a block in which label v has values with so many series.
func makeCounted(t testing.TB, fill func(add func(value string, series int))) (string, *schema.BlockEntry) {
	opts := tsdb.DefaultHeadOptions()
	opts.ChunkDirRoot = t.TempDir()
	opts.ChunkRange = 1 << 40
	head, err := tsdb.NewHead(nil, nil, nil, nil, opts, nil)
	require.NoError(t, err)
	defer head.Close()
	app := head.Appender(context.Background())
	fill(func(value string, series int) {
		for i := range series {
			_, err := app.Append(0, labels.FromStrings("__name__", "m", "i", fmt.Sprint(i), "v", value), 1000, 1)
			require.NoError(t, err)
		}
	})
	require.NoError(t, app.Commit())
	return written(t, head)
}

// written makes a block of a head.
func written(t testing.TB, head *tsdb.Head) (string, *schema.BlockEntry) {
	compactor, err := tsdb.NewLeveledCompactorWithOptions(context.Background(), nil, slog.New(slog.DiscardHandler), []int64{1 << 40}, chunkenc.NewPool(), tsdb.LeveledCompactorOptions{
		MaxBlockChunkSegmentSize: 64 << 10,
	})
	require.NoError(t, err)
	dir := t.TempDir()
	ids, err := compactor.Write(dir, head, head.MinTime(), head.MaxTime()+1, nil)
	require.NoError(t, err)
	require.Len(t, ids, 1)
	return describe(t, filepath.Join(dir, ids[0].String()), ids[0])
}

func describe(t testing.TB, dir string, id ulid.ULID) (string, *schema.BlockEntry) {
	blk, err := tsdb.OpenBlock(nil, dir, nil, nil)
	require.NoError(t, err)
	defer blk.Close()
	m := blk.Meta()
	entry := &schema.BlockEntry{ID: id, Tenant: "acme", MinTime: m.MinTime, MaxTime: m.MaxTime, Series: m.Stats.NumSeries, Samples: m.Stats.NumSamples}
	require.NoError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		entry.Files = append(entry.Files, schema.BlockFile{Path: filepath.ToSlash(rel), Size: info.Size()})
		return err
	}))
	return dir, entry
}

// bucket is an in-memory bucket that counts, and that a test can make fail.
type bucket struct {
	objstore.Bucket
	gets, bytes atomic.Int64

	mu      sync.Mutex
	fault   func(name string, off, length int64) error // before a GET
	mangle  func(name string, off int64, b []byte) []byte
	offered map[string][]byte
}

func newBucket() *bucket {
	return &bucket{Bucket: objstore.NewInMemBucket(), offered: map[string][]byte{}}
}

func (b *bucket) upload(t testing.TB, dir string, entry *schema.BlockEntry) {
	for _, f := range entry.Files {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.Path)))
		require.NoError(t, err)
		require.NoError(t, b.Upload(context.Background(), path.Join(string(entry.Tenant), entry.ID.String(), f.Path), bytes.NewReader(data)))
	}
}

func (b *bucket) GetRange(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	b.gets.Add(1)
	b.mu.Lock()
	fault, mangle := b.fault, b.mangle
	b.mu.Unlock()
	if fault != nil {
		if err := fault(name, off, length); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r, err := b.Bucket.GetRange(ctx, name, off, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	b.bytes.Add(int64(len(data)))
	if mangle != nil {
		data = mangle(name, off, data)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (b *bucket) Get(context.Context, string) (io.ReadCloser, error) {
	return nil, errors.New("a whole object was asked for")
}

func (b *bucket) Attributes(context.Context, string) (objstore.ObjectAttributes, error) {
	return objstore.ObjectAttributes{}, errors.New("attributes were asked for")
}

func (b *bucket) set(fault func(string, int64, int64) error, mangle func(string, int64, []byte) []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault, b.mangle = fault, mangle
}
