package compactor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"

	"sluice/internal/block"
	"sluice/internal/catalog"
	"sluice/internal/log"
	"sluice/schema"
)

const hour = int64(3600 * 1000)

// midnight lies in the future of the machine that runs the tests, so that what the bucket calls the time of an object is
// old for the tests' clock.
var midnight = (time.Now().UnixMilli()/(24*hour) + 2) * 24 * hour

// sample is a chunks.Sample.
type sample struct {
	t  int64
	f  float64
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
}

func (s sample) T() int64                      { return s.t }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.f }
func (s sample) H() *histogram.Histogram       { return s.h }
func (s sample) FH() *histogram.FloatHistogram { return s.fh }
func (s sample) Copy() chunks.Sample           { return s }
func (s sample) Type() chunkenc.ValueType {
	switch {
	case s.h != nil:
		return chunkenc.ValHistogram
	case s.fh != nil:
		return chunkenc.ValFloatHistogram
	}
	return chunkenc.ValFloat
}

// data is the samples of a block by series, written {"a": …} for {__name__="a"}.
type data map[string][]sample

// floats makes samples from (from, to, step) with one value.
func floats(from, to, step int64, v float64) (out []sample) {
	for t := from; t < to; t += step {
		out = append(out, sample{t: t, f: v})
	}
	return out
}

type listSet struct {
	series []storage.Series
	i      int
}

func (s *listSet) Next() bool                      { s.i++; return s.i <= len(s.series) }
func (s *listSet) At() storage.Series              { return s.series[s.i-1] }
func (*listSet) Err() error                        { return nil }
func (*listSet) Warnings() annotations.Annotations { return nil }

// writeBlock writes d below dir.
func writeBlock(t testing.TB, dir string, d data, origin schema.BlockOrigin) (*schema.BlockMeta, string) {
	symbols := []string{"__name__"}
	set := &listSet{}
	for _, name := range slices.Sorted(maps.Keys(d)) {
		symbols = append(symbols, name)
		var list []chunks.Sample
		for _, s := range d[name] {
			list = append(list, s)
		}
		set.series = append(set.series, storage.NewListSeries(labels.FromStrings("__name__", name), list))
	}
	slices.Sort(symbols)
	c, err := block.Write(context.Background(), filepath.Join(dir, "new"), index.NewStringListIter(symbols), storage.NewSeriesSetToChunkSet(set))
	require.NoError(t, err)
	meta, final, err := block.Finish(filepath.Join(dir, "new"), c, origin, "sluice.consumer", 1, nil)
	require.NoError(t, err)
	return meta, final
}

// world is a log, a catalogue, a bucket and a clock, with hooks on everything that changes the log or the bucket.
type world struct {
	t     testing.TB
	log   log.Log
	bkt   *objstore.InMemBucket
	cat   *catalog.Catalog
	reg   *prometheus.Registry
	clock atomic.Int64 // ms; of the log and of the compactors
	lim   schema.Limits
	cfg   Config

	mu     sync.Mutex
	change func(what string, effect func() error) error // nil = just do it
	offset int64                                        // of the next generation
	mute   atomic.Bool                                  // compactors cannot write to the control topic, not even to give leases up

	contents map[ulid.ULID]map[string]string
}

func newWorld(t testing.TB) *world {
	return newWorldOn(t, func(w *world) log.Log {
		l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: 4, Fsync: log.FsyncOff, Now: w.now}, promslog.NewNopLogger(), nil)
		require.NoError(t, err)
		return l
	})
}

func newWorldOn(t testing.TB, open func(w *world) log.Log) *world {
	w := &world{t: t, bkt: objstore.NewInMemBucket(), cfg: Config{Scratch: t.TempDir()}, contents: map[ulid.ULID]map[string]string{}}
	w.clock.Store(midnight)
	w.log = open(w)
	t.Cleanup(func() { require.NoError(t, w.log.Close()) })
	w.cat = w.catalogue()
	return w
}

// catalogue follows the topic of blocks until the end of the test.
func (w *world) catalogue() *catalog.Catalog {
	cat := catalog.New(hookedLog{w.log, w}, promslog.NewNopLogger(), nil)
	w.run(cat.Run)
	return cat
}

// run runs something until the end of the test, or until stop is called.
func (w *world) run(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	w.t.Cleanup(stop)
	return stop
}

func (w *world) now() time.Time { return time.UnixMilli(w.clock.Load()) }

func (w *world) setClock(t time.Time) { w.clock.Store(t.UnixMilli()) }

func (w *world) do(what string, effect func() error) error {
	w.mu.Lock()
	change := w.change
	w.mu.Unlock()
	if change == nil {
		return effect()
	}
	return change(what, effect)
}

func (w *world) onChange(f func(what string, effect func() error) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.change = f
}

func (w *world) For(schema.Tenant) *schema.Limits { return &w.lim }

func (w *world) retain(d time.Duration) { w.lim.BlocksRetentionPeriod = model.Duration(d) }

type hookedLog struct {
	log.Log
	w *world
}

func (l hookedLog) Append(ctx context.Context, topic string, recs []log.Record) error {
	what := "append"
	if topic == log.TopicControl {
		if l.w.mute.Load() {
			return errCrash
		}
		what = "say " + string(recs[0].Key)
	}
	return l.w.do(what, func() error { return l.Log.Append(ctx, topic, recs) })
}

type hookedBucket struct {
	objstore.Bucket
	w *world
}

func (b hookedBucket) Upload(ctx context.Context, name string, r io.Reader, o ...objstore.ObjectUploadOption) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.w.do("upload "+name, func() error { return b.Bucket.Upload(ctx, name, r, o...) })
}

func (b hookedBucket) Delete(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.w.do("delete "+name, func() error { return b.Bucket.Delete(ctx, name) })
}

// compactor makes a new one, as after a restart.
func (w *world) compactor() *Compactor {
	c := w.idle()
	w.run(c.leases.Run)
	return c
}

// idle makes a new one that only Run can be called of.
func (w *world) idle() *Compactor {
	w.reg = prometheus.NewPedanticRegistry()
	l := hookedLog{w.log, w}
	control := log.NewTable(l, log.TopicControl)
	c, err := New(w.cfg, l, control, w.cat, hookedBucket{w.bkt, w}, w, promslog.NewNopLogger(), w.reg)
	require.NoError(w.t, err)
	c.SetClock(w.now)
	w.run(control.Run)
	return c
}

// ship does what a consumer does at the end of a generation [from, to) of a partition, for one block of a tenant. hours
// is the log time of its start, relative to midnight; it lasts two hours.
func (w *world) ship(tenant schema.Tenant, partition int32, hours int64, d data) schema.BlockEntry {
	w.offset += 10
	start := midnight + hours*hour
	meta, dir := writeBlock(w.t, w.t.TempDir(), d, schema.BlockOrigin{
		Tenant: tenant, LogFrom: start, LogTime: start + 2*hour,
		Ranges: []schema.LogRange{{TopicID: "x", Partition: partition, From: w.offset - 10, To: w.offset}},
	})
	ctx := context.Background()
	require.NoError(w.t, block.Upload(ctx, w.bkt, dir, meta))
	e := meta.Entry(start + 2*hour)
	require.NoError(w.t, w.cat.Add(ctx, []schema.BlockEntry{e}, map[int32]schema.PartitionState{partition: {TopicID: "x", To: w.offset}}))
	require.NoError(w.t, w.cat.Sync(ctx))
	return e
}

// at moves the clock to hours after midnight and makes a pass.
func (w *world) at(c *Compactor, hours float64) {
	w.setClock(time.UnixMilli(midnight + int64(hours*float64(hour))))
	require.NoError(w.t, c.RunOnce(context.Background()))
	require.NoError(w.t, w.cat.Sync(context.Background()))
}

// requireView compares views and tells the first differences only.
func requireView(t testing.TB, want, got map[string]string, when string) {
	t.Helper()
	var diff []string
	for k, v := range want {
		if got[k] != v {
			diff = append(diff, fmt.Sprintf("%s is %q, want %q", k, got[k], v))
		}
	}
	for k, v := range got {
		if _, ok := want[k]; !ok {
			diff = append(diff, fmt.Sprintf("%s is %q, want nothing", k, v))
		}
	}
	slices.Sort(diff)
	require.Empty(t, diff[:min(len(diff), 5)], "%s: %d differences", when, len(diff))
}

// view is what a reader sees: "series@time" (ms since midnight) to the value, from the live blocks by rank.
func (w *world) view(tenant schema.Tenant, blocks []*schema.BlockEntry) map[string]string {
	out := map[string]string{}
	for _, e := range slices.SortedFunc(slices.Values(blocks), catalog.CompareRank) {
		got := w.content(tenant, e)
		for k, v := range got {
			if _, ok := out[k]; !ok {
				out[k] = v
			}
		}
		require.EqualValues(w.t, e.Samples, len(got))
	}
	return out
}

// content is the samples of a block. Its files must all be in the bucket; what they say is read once, since a block never
// changes.
func (w *world) content(tenant schema.Tenant, e *schema.BlockEntry) map[string]string {
	for _, f := range append(slices.Clone(e.Files), schema.BlockFile{Path: schema.MetaFile}) {
		ok, err := w.bkt.Exists(context.Background(), block.Key(tenant, e.ID, f.Path))
		require.NoError(w.t, err)
		require.True(w.t, ok, "%s of live block %s is not in the bucket", f.Path, e.ID)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if got, ok := w.contents[e.ID]; ok {
		return got
	}
	dir := w.t.TempDir()
	require.NoError(w.t, block.Download(context.Background(), w.bkt, tenant, e.ID, e.Files, dir))
	w.contents[e.ID] = readBlock(w.t, dir)
	return w.contents[e.ID]
}

func readBlock(t testing.TB, dir string) map[string]string {
	b, err := tsdb.OpenBlock(promslog.NewNopLogger(), dir, nil, nil)
	require.NoError(t, err)
	q, err := tsdb.NewBlockQuerier(b, b.MinTime(), b.MaxTime())
	require.NoError(t, err)
	out := map[string]string{}
	set := q.Select(context.Background(), true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	for set.Next() {
		name := set.At().Labels().Get("__name__")
		it := set.At().Iterator(nil)
		for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
			k := fmt.Sprintf("%s@%d", name, it.AtT()-midnight)
			require.NotContains(t, out, k)
			switch typ {
			case chunkenc.ValFloat:
				_, v := it.At()
				out[k] = fmt.Sprint(v)
			case chunkenc.ValHistogram:
				_, h := it.AtHistogram(nil)
				out[k] = h.String()
			default:
				_, h := it.AtFloatHistogram(nil)
				out[k] = "float " + h.String()
			}
		}
		require.NoError(t, it.Err())
	}
	require.NoError(t, set.Err())
	require.NoError(t, q.Close())
	require.NoError(t, b.Close())
	return out
}

func (w *world) live(tenant schema.Tenant) []*schema.BlockEntry {
	require.NoError(w.t, w.cat.Sync(context.Background()))
	return w.cat.Blocks(tenant)
}

// expect is the view that inputs must give for ever.
func expect(inputs ...data) map[string]string {
	out := map[string]string{}
	for _, d := range inputs {
		for name, list := range d {
			for _, s := range list {
				k := fmt.Sprintf("%s@%d", name, s.t-midnight)
				if _, ok := out[k]; ok {
					continue
				}
				switch {
				case s.h != nil:
					out[k] = s.h.String()
				case s.fh != nil:
					out[k] = "float " + s.fh.String()
				default:
					out[k] = fmt.Sprint(s.f)
				}
			}
		}
	}
	return out
}

// watch checks after every change of log or bucket that readers still see want.
func (w *world) watch(tenant schema.Tenant, want map[string]string) (changes *int) {
	changes = new(int)
	w.onChange(func(what string, effect func() error) error {
		if err := effect(); err != nil {
			return err
		}
		if strings.HasPrefix(what, "say ") {
			return nil // compactors among themselves
		}
		*changes++
		cat, err := catalog.Load(context.Background(), w.log, promslog.NewNopLogger())
		require.NoError(w.t, err)
		requireView(w.t, want, w.view(tenant, cat.Blocks(tenant)), "after "+what)
		return nil
	})
	return changes
}

// folders lists the block folders in the bucket.
func (w *world) folders(tenant schema.Tenant) []string {
	set := map[string]bool{}
	for name := range w.bkt.Objects() {
		if rest, ok := strings.CutPrefix(name, string(tenant)+"/"); ok && strings.Contains(rest, "/") {
			set[rest[:ulid.EncodedSize]] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func (w *world) metric(name string, labels ...string) float64 {
	families, err := w.reg.Gather()
	require.NoError(w.t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetValue())
			}
			if slices.Equal(got, labels) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	w.t.Fatalf("no metric %s %v", name, labels)
	return 0
}

func (w *world) put(name string, content []byte) {
	require.NoError(w.t, w.bkt.Upload(context.Background(), name, bytes.NewReader(content)))
}

func (w *world) flip(name string, at int) {
	raw := slices.Clone(w.bkt.Objects()[name])
	require.NotEmpty(w.t, raw, name)
	raw[at] ^= 0x40
	w.put(name, raw)
}

var errCrash = errors.New("crash")

func TestMetricsLint(t *testing.T) {
	w := newWorld(t)
	w.compactor()
	problems, err := testutil.GatherAndLint(w.reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestScratchIsCleaned(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, os.MkdirAll(filepath.Join(w.cfg.Scratch, scratchPrefix+"old", "x"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(w.cfg.Scratch, "other"), 0o755))
	w.at(w.compactor(), 0)
	names, err := os.ReadDir(w.cfg.Scratch)
	require.NoError(t, err)
	require.Len(t, names, 1)
	require.Equal(t, "other", names[0].Name())
}
