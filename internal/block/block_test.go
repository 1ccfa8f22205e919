package block

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"

	"sluice/internal/bucket"
	"sluice/schema"
)

// sample is a float sample.
type sample struct {
	t int64
	v float64
}

func (s sample) T() int64                      { return s.t }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.v }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }

// set is a chunk series set over a slice.
type set struct {
	storage.ChunkSeriesSet
	series []storage.ChunkSeries
	at     int
}

func newSet(series ...storage.ChunkSeries) *set {
	return &set{ChunkSeriesSet: storage.EmptyChunkSeriesSet(), series: series, at: -1}
}

func (s *set) Next() bool              { s.at++; return s.at < len(s.series) }
func (s *set) At() storage.ChunkSeries { return s.series[s.at] }

func series(name string, samples ...chunks.Sample) storage.ChunkSeries {
	return storage.NewSeriesToChunkEncoder(storage.NewListSeries(labels.FromStrings("__name__", name), samples))
}

// build makes a block with two series below dir.
func build(t *testing.T, dir string, origin schema.BlockOrigin) (*schema.BlockMeta, string) {
	t.Helper()
	tmp := filepath.Join(dir, "tmp")
	c, err := Write(context.Background(), tmp, index.NewStringListIter([]string{"__name__", "a", "b"}),
		newSet(series("a", sample{1, 1}, sample{2, 2}), series("b", sample{3, 3})))
	require.NoError(t, err)
	require.Equal(t, uint64(3), c.Stats.NumSamples)
	require.Equal(t, uint64(2), c.Stats.NumSeries)
	require.Equal(t, int64(1), c.MinTime)
	require.Equal(t, int64(4), c.MaxTime)
	meta, final, err := Finish(tmp, c, origin, "test", 1, nil)
	require.NoError(t, err)
	require.NoDirExists(t, tmp)
	return meta, final
}

var origin = schema.BlockOrigin{
	Tenant: "a", LogTime: 1_700_000_000_000, LogFrom: 1_699_999_999_000,
	Ranges: []schema.LogRange{{TopicID: "t", Partition: 3, From: 10, To: 20}},
}

func openBucket(t *testing.T) (objstore.Bucket, string) {
	t.Helper()
	dir := t.TempDir()
	bkt, err := bucket.Open(nil, dir, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	return bkt, dir
}

func TestIdentityFollowsFromContentAndOrigin(t *testing.T) {
	meta, dir := build(t, t.TempDir(), origin)
	again, dirAgain := build(t, t.TempDir(), origin)
	require.Equal(t, meta, again)
	require.Equal(t, meta.ULID.String(), filepath.Base(dir))
	require.Equal(t, uint64(origin.LogTime), meta.ULID.Time())
	require.Equal(t, []ulid.ULID{meta.ULID}, meta.Compaction.Sources)
	for _, f := range append(meta.Thanos.Files, schema.BlockFile{Path: schema.MetaFile}) {
		a, err := os.ReadFile(filepath.Join(dir, f.Path))
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(dirAgain, f.Path))
		require.NoError(t, err)
		require.Equal(t, a, b, f.Path)
	}
	seen := map[ulid.ULID]string{meta.ULID: "the original"}
	for name, change := range map[string]func(*schema.BlockOrigin){
		"tenant":    func(o *schema.BlockOrigin) { o.Tenant = "b" },
		"topic":     func(o *schema.BlockOrigin) { o.Ranges[0].TopicID = "u" },
		"partition": func(o *schema.BlockOrigin) { o.Ranges[0].Partition = 4 },
		"from":      func(o *schema.BlockOrigin) { o.Ranges[0].From = 11 },
		"to":        func(o *schema.BlockOrigin) { o.Ranges[0].To = 21 },
		"log time":  func(o *schema.BlockOrigin) { o.LogTime++ },
	} {
		o := origin
		o.Ranges = append([]schema.LogRange(nil), origin.Ranges...)
		change(&o)
		other, _ := build(t, t.TempDir(), o)
		require.NotContains(t, seen, other.ULID, "%s and %s", name, seen[other.ULID])
		seen[other.ULID] = name
	}
}

func TestWriteNothingLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	c, err := Write(context.Background(), dir, index.NewStringListIter(nil), newSet())
	require.NoError(t, err)
	require.Zero(t, c.Stats.NumSamples)
	require.NoDirExists(t, dir)
}

func TestUploadDownloadVerifyDelete(t *testing.T) {
	ctx := context.Background()
	bkt, root := openBucket(t)
	meta, dir := build(t, t.TempDir(), origin)
	require.NoError(t, Upload(ctx, bkt, dir, meta))
	var arrived []string
	require.NoError(t, Upload(ctx, bkt, dir, meta, func(path string) { arrived = append(arrived, path) }), "twice is harmless")
	require.Equal(t, []string{"chunks/000001", schema.IndexFile, schema.MetaFile}, arrived)
	got, err := ReadMeta(ctx, bkt, "a", meta.ULID)
	require.NoError(t, err)
	require.Equal(t, meta, got)
	entry := meta.Entry(1)
	require.Empty(t, Verify(ctx, bkt, &entry, false, t.TempDir()))
	require.Empty(t, Verify(ctx, bkt, &entry, true, t.TempDir()))

	local := t.TempDir()
	require.NoError(t, Download(ctx, bkt, "a", meta.ULID, meta.Thanos.Files, local))
	n, samples, err := Walk(ctx, local)
	require.NoError(t, err)
	require.Equal(t, [2]uint64{2, 3}, [2]uint64{n, samples})

	wrong := entry
	wrong.Samples++
	require.Len(t, Verify(ctx, bkt, &wrong, true, t.TempDir()), 1)

	var gone []string
	require.NoError(t, Delete(ctx, bkt, "a", meta.ULID, func(path string) { gone = append(gone, path) }))
	require.Equal(t, []string{schema.MetaFile, "chunks/000001", schema.IndexFile}, gone)
	require.NoDirExists(t, filepath.Join(root, "a", meta.ULID.String()))
	require.NoError(t, Delete(ctx, bkt, "a", meta.ULID), "twice is harmless")
	_, err = ReadMeta(ctx, bkt, "a", meta.ULID)
	require.ErrorIs(t, err, ErrNotFound)
}

func TestDamageIsFound(t *testing.T) {
	ctx := context.Background()
	for name, damage := range map[string]func(t *testing.T, dir string){
		"chunk flipped": func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "chunks", "000001"), 20) },
		"index flipped": func(t *testing.T, dir string) { flip(t, filepath.Join(dir, "index"), 30) },
		"chunk truncated": func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "chunks", "000001"), 9))
		},
		"index missing": func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "index"))) },
		"meta torn":     func(t *testing.T, dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, "meta.json"), 9)) },
	} {
		t.Run(name, func(t *testing.T) {
			bkt, root := openBucket(t)
			meta, dir := build(t, t.TempDir(), origin)
			require.NoError(t, Upload(ctx, bkt, dir, meta))
			damage(t, filepath.Join(root, "a", meta.ULID.String()))
			entry := meta.Entry(1)
			require.NotEmpty(t, Verify(ctx, bkt, &entry, false, t.TempDir()))
			if !strings.HasPrefix(name, "meta") {
				require.Error(t, Download(ctx, bkt, "a", meta.ULID, meta.Thanos.Files, t.TempDir()))
			}
		})
	}
}

func flip(t *testing.T, file string, at int) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	b[at] ^= 1
	require.NoError(t, os.WriteFile(file, b, 0o644))
}

// A meta.json from a stranger must not make us write outside of the folder we were given.
func TestDownloadStaysInside(t *testing.T) {
	bkt, _ := openBucket(t)
	ctx := context.Background()
	require.NoError(t, bkt.Upload(ctx, "a/evil", strings.NewReader("x")))
	dir := t.TempDir()
	err := Download(ctx, bkt, "a", ulid.ULID{}, []schema.BlockFile{{Path: "../evil"}}, filepath.Join(dir, "in"))
	require.ErrorIs(t, err, ErrCorrupt)
	require.NoFileExists(t, filepath.Join(dir, "evil"))
}
