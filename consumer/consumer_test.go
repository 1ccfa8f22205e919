package consumer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"
	"golang.org/x/sync/errgroup"

	"sluice/internal/block"
	"sluice/internal/bucket"
	"sluice/internal/catalog"
	"sluice/internal/fetch"
	"sluice/internal/limits"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/schema"
)

const testPartitions = 2

// system is a log, a bucket and a consumer between them, all real.
type system struct {
	t        *testing.T
	dir      string
	log      log.Log
	bucket   objstore.InstrumentedBucket
	catalog  *catalog.Catalog
	consumer *Consumer
	reg      *prometheus.Registry
	definers map[schema.Tenant]*definer // of those who write records of version 2
	stop     func()
}

// definer makes records of version 2, as a producer does that gets every record acknowledged: each series is defined when
// it first comes, now and then again, and now and then the producer starts anew.
type definer struct {
	rnd   *rand.Rand
	epoch uint64
	refs  [testPartitions]map[string]uint32
}

func (d *definer) record(partition int32, series *schema.Series) []byte {
	if d.rnd.IntN(100) == 0 {
		d.epoch, d.refs = d.rnd.Uint64(), [testPartitions]map[string]uint32{}
	}
	if d.refs[partition] == nil {
		d.refs[partition] = map[string]uint32{}
	}
	var w schema.RecordWriter
	key := string(series.LabelBytes)
	ref, known := d.refs[partition][key]
	if !known {
		ref = uint32(len(d.refs[partition])) * uint32(1+d.rnd.IntN(300))
		for _, taken := range d.refs[partition] {
			ref = max(ref, taken+1)
		}
		d.refs[partition][key] = ref
	}
	if !known || d.rnd.IntN(10) == 0 {
		w.Define(ref, series.LabelBytes)
	}
	for _, s := range series.Samples {
		w.Float(ref, s.Time, s.Start, s.Value)
	}
	for _, h := range series.Histograms {
		w.Histogram(ref, h)
	}
	for _, e := range series.Exemplars {
		w.Exemplar(ref, e)
	}
	return w.Append(nil, d.epoch)
}

// open starts a system on dir, or again on what an earlier one left there.
func open(t *testing.T, dir string, change ...func(*Config)) *system {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s := &system{t: t, dir: dir, reg: prometheus.NewRegistry()}
	var err error
	s.log, err = log.OpenEmbedded(log.EmbeddedConfig{Dir: filepath.Join(dir, "log"), Partitions: testPartitions, Fsync: log.FsyncOff}, logger, nil)
	require.NoError(t, err)
	s.run(Config{InstanceID: "c", Scratch: filepath.Join(dir, "scratch"), RetainShipped: time.Nanosecond}, logger, change)
	s.eventually(s.consumer.Ready)
	return s
}

// run puts a consumer on the system's log and its folder's bucket, and starts it.
func (s *system) run(cfg Config, logger *slog.Logger, change []func(*Config)) {
	t := s.t
	t.Helper()
	var err error
	s.bucket, err = bucket.Open(nil, filepath.Join(s.dir, "bucket"), logger, nil)
	require.NoError(t, err)
	s.catalog = catalog.New(s.log, logger, nil)
	lim, err := limits.New(limits.Config{}, logger, nil)
	require.NoError(t, err)
	for _, f := range change {
		f(&cfg)
	}
	control := log.NewTable(s.log, log.TopicControl)
	directory := members.NewDirectory(control, logger)
	s.consumer, err = New(cfg, s.log, s.catalog, directory, s.bucket, lim, logger, s.reg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return s.catalog.Run(ctx) })
	g.Go(func() error { return control.Run(ctx) })
	g.Go(func() error { return s.consumer.Run(ctx) })
	s.stop = func() {
		cancel()
		_ = g.Wait()
		require.NoError(t, s.log.Close())
		s.stop = func() {}
	}
	t.Cleanup(func() { s.stop() })
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// eventually waits for f to return nil.
func (s *system) eventually(f func() error) {
	s.t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	require.NoError(s.t, err)
}

// sample is one sample of a series, as it goes in and as it must come out.
type sample struct {
	st int64 // start timestamp
	t  int64
	v  float64
	h  *histogram.Histogram
}

// ledger is the plain map that everything is held against: tenant, series, time → the first value.
type ledger map[schema.Tenant]map[string]map[int64]sample

func (l ledger) add(tenant schema.Tenant, lset labels.Labels, smp sample) {
	if l[tenant] == nil {
		l[tenant] = map[string]map[int64]sample{}
	}
	series := l[tenant][lset.String()]
	if series == nil {
		series = map[int64]sample{}
		l[tenant][lset.String()] = series
	}
	if _, have := series[smp.t]; !have {
		series[smp.t] = smp
	}
}

// write appends one record with the samples to the series' partition.
func (s *system) write(tenant schema.Tenant, lset labels.Labels, samples ...sample) {
	s.t.Helper()
	var lbls []schema.Label
	lset.Range(func(l labels.Label) {
		lbls = append(lbls, schema.Label{Name: []byte(l.Name), Value: []byte(l.Value)})
	})
	payload := schema.AppendLabels(nil, lbls)
	for _, smp := range samples {
		if smp.h == nil {
			payload = schema.AppendSample(payload, smp.t, smp.st, smp.v)
			continue
		}
		h := prompb.FromIntHistogram(smp.t, smp.h)
		raw, err := h.Marshal()
		require.NoError(s.t, err)
		if smp.st != 0 { // field 17 of 2.0, which 1.0 does not have
			raw = binary.AppendUvarint(append(raw, 0x88, 0x01), uint64(smp.st))
		}
		payload = schema.AppendHistogram(payload, raw)
	}
	if len(samples) > 0 && samples[0].t%3 == 0 { // blocks carry exemplars
		e := prompb.Exemplar{Labels: []prompb.Label{{Name: "trace", Value: fmt.Sprint(samples[0].t)}}, Value: 1, Timestamp: samples[0].t}
		raw, err := e.Marshal()
		require.NoError(s.t, err)
		payload = schema.AppendExemplar(payload, raw)
	}
	var parsed schema.Series
	require.NoError(s.t, parsed.Parse(payload))
	hash, _ := schema.SeriesHash(tenant, parsed.Labels, nil)
	rec := log.Record{
		Partition: schema.ShardOf(tenant, testPartitions, 0).Partition(hash), Key: []byte(tenant),
		Value:   schema.AppendTimeSeries(nil, payload),
		Headers: []log.Header{{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}},
	}
	if d := s.definers[tenant]; d != nil {
		rec.Value, rec.Headers[0].Value = d.record(rec.Partition, &parsed), []byte{schema.RecordV2}
	}
	s.append(rec)
}

func (s *system) append(recs ...log.Record) {
	s.t.Helper()
	require.NoError(s.t, s.log.Append(context.Background(), log.TopicSamples, recs))
}

// mark appends a record without samples to every partition.
func (s *system) mark(kind string) []log.Record {
	s.t.Helper()
	recs := make([]log.Record, testPartitions)
	for p := range recs {
		recs[p] = log.Record{Partition: int32(p), Headers: []log.Header{
			{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}, {Key: schema.HeaderKind, Value: []byte(kind)},
		}}
	}
	s.append(recs...)
	return recs
}

// seal ends the generations and waits until they are committed.
func (s *system) seal() {
	s.t.Helper()
	recs := s.mark(schema.KindSeal)
	s.eventually(func() error {
		committed, err := s.log.Committed(context.Background(), schema.ConsumerGroup, log.TopicSamples)
		for _, rec := range recs {
			if committed[rec.Partition] <= rec.Offset {
				err = errors.Join(err, fmt.Errorf("partition %d has committed %d of %d", rec.Partition, committed[rec.Partition], rec.Offset+1))
			}
		}
		return err
	})
}

// read returns everything that a reader would see of a tenant: blocks of the catalogue, and the consumer for the rest.
func (s *system) read(tenant schema.Tenant) map[string][]sample {
	s.t.Helper()
	ctx := context.Background()
	require.NoError(s.t, s.catalog.Sync(ctx))
	entries, shipped := s.catalog.Snapshot(tenant)
	slices.SortFunc(entries, func(a, b *schema.BlockEntry) int { return int(a.LogFrom - b.LogFrom) })
	var queriers []storage.Querier
	for _, e := range entries {
		dir := filepath.Join(s.t.TempDir(), e.ID.String())
		require.NoError(s.t, block.Download(ctx, s.bucket, tenant, e.ID, e.Files, dir))
		b, err := tsdb.OpenBlock(nil, dir, nil, nil)
		require.NoError(s.t, err)
		s.t.Cleanup(func() { b.Close() })
		q, err := tsdb.NewBlockQuerier(b, math.MinInt64/2, math.MaxInt64/2)
		require.NoError(s.t, err)
		queriers = append(queriers, q)
	}
	var asks []fetch.Ask
	for p := range int32(testPartitions) {
		b, err := s.log.Bounds(ctx, log.TopicSamples, p)
		require.NoError(s.t, err)
		asks = append(asks, fetch.Ask{Partition: p, From: shipped[p], Wait: b.End})
	}
	s.checkTimes(tenant, asks)
	q, err := s.consumer.Querier(ctx, tenant, math.MinInt64/2, math.MaxInt64/2, asks)
	require.NoError(s.t, err)
	merged := newRankedQuerier(append(queriers, q))
	defer merged.Close()
	out := map[string][]sample{}
	set := merged.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	for set.Next() {
		it := set.At().Iterator(nil)
		key := set.At().Labels().String()
		for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
			if typ == chunkenc.ValHistogram {
				ts, h := it.AtHistogram(nil)
				out[key] = append(out[key], sample{st: it.AtST(), t: ts, h: h})
			} else {
				ts, v := it.At()
				out[key] = append(out[key], sample{st: it.AtST(), t: ts, v: v})
			}
		}
		require.NoError(s.t, it.Err())
	}
	require.NoError(s.t, set.Err())
	return out
}

// checkTimes holds the times that the consumer tells against what it has.
func (s *system) checkTimes(tenant schema.Tenant, asks []fetch.Ask) {
	s.t.Helper()
	ctx := context.Background()
	held, applied, err := s.consumer.Held(ctx, tenant, asks)
	require.NoError(s.t, err)
	require.Len(s.t, applied, len(asks))
	q, err := s.consumer.Querier(ctx, tenant, math.MinInt64/2, math.MaxInt64/2, asks)
	require.NoError(s.t, err)
	defer q.Close()
	set := q.Select(ctx, true, nil, labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+"))
	mint, maxt := int64(math.MaxInt64), int64(math.MinInt64)
	for set.Next() {
		it := set.At().Iterator(nil)
		for it.Next() != chunkenc.ValNone {
			at := it.AtT()
			mint, maxt = min(mint, at), max(maxt, at)
			require.True(s.t, slices.ContainsFunc(held, func(h fetch.Interval) bool { return h.Mint <= at && at <= h.Maxt }), "%d is in none of %v", at, held)
		}
	}
	require.NoError(s.t, set.Err())
	for _, h := range held {
		require.True(s.t, mint <= h.Mint && h.Maxt <= maxt, "%v has nothing at its ends, there is %d to %d", held, mint, maxt)
	}
}

// verify holds what can be read against the ledger, sample by sample.
func (s *system) verify(l ledger) {
	s.t.Helper()
	for tenant, want := range l {
		got := s.read(tenant)
		require.Len(s.t, got, len(want), "series of %s", tenant)
		for key, series := range want {
			require.Len(s.t, got[key], len(series), "samples of %s %s", tenant, key)
			last := int64(math.MinInt64)
			for _, smp := range got[key] {
				require.Greater(s.t, smp.t, last)
				last = smp.t
				first, ok := series[smp.t]
				require.True(s.t, ok, "invented: %s %s at %d", tenant, key, smp.t)
				require.Equal(s.t, first.st, smp.st, "start timestamp of %s %s at %d", tenant, key, smp.t)
				if first.h != nil {
					require.NotNil(s.t, smp.h)
					require.True(s.t, first.h.Equals(smp.h), "%s %s at %d", tenant, key, smp.t)
				} else {
					require.Equal(s.t, math.Float64bits(first.v), math.Float64bits(smp.v), "%s %s at %d", tenant, key, smp.t)
				}
			}
		}
	}
}

// traffic makes samples in order, late, repeated, with another value for a time, of new series, and histograms.
func traffic(rnd *rand.Rand, now *int64) (tenant schema.Tenant, lset labels.Labels, samples []sample) {
	tenant = schema.Tenant(fmt.Sprintf("tenant-%d", rnd.IntN(3)))
	n := rnd.IntN(20) + int(*now/3_600_000%5)
	lset = labels.FromStrings("__name__", "m", "n", fmt.Sprint(n))
	for range 1 + rnd.IntN(5) {
		*now += rnd.Int64N(20_000)
		smp := sample{t: *now, v: rnd.Float64()}
		switch rnd.IntN(8) {
		case 0: // late, up to five hours
			smp.t -= rnd.Int64N(2 * 3_600_000)
		case 1: // on a grid, so that times repeat
			smp.t -= smp.t % 600_000
		case 2:
			smp.v = math.Float64frombits(0x7ff0000000000002) // stale marker
		}
		if n%3 == 2 && rnd.IntN(20) > 0 {
			smp.st = smp.t - rnd.Int64N(100_000)
		}
		if n%5 == 4 {
			smp.h, smp.v = tsdbutil.GenerateTestHistogram(rnd.Int64N(1000)), 0
		}
		samples = append(samples, smp)
	}
	return tenant, lset, samples
}

func TestEverySampleOnceThroughSealsAndRestarts(t *testing.T) {
	for seed := range uint64(4) { // the even ones by records of version 1, 3 with tenants of both
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			dir := t.TempDir()
			definers := map[schema.Tenant]*definer{}
			for i := range seed % 2 * (4 - seed) { // tenants 0, 1 and 2, or 0
				definers[schema.Tenant(fmt.Sprintf("tenant-%d", i))] = &definer{rnd: rand.New(rand.NewPCG(seed, i)), epoch: i}
			}
			s := open(t, dir)
			s.definers = definers
			l := ledger{}
			now := int64(1_700_000_000_000)
			for round := range 6 {
				for range 150 {
					tenant, lset, samples := traffic(rnd, &now)
					s.write(tenant, lset, samples...)
					floats, hists := samples[:0:0], samples[:0:0]
					for _, smp := range samples {
						if smp.h == nil {
							floats = append(floats, smp)
						} else {
							hists = append(hists, smp)
						}
					}
					for _, smp := range append(floats, hists...) { // the order inside of a TimeSeries
						l.add(tenant, lset, smp)
					}
				}
				switch round % 4 {
				case 1, 3:
					s.seal()
				case 2:
					s.stop()
					require.NoError(t, os.RemoveAll(filepath.Join(dir, "scratch")))
					s = open(t, dir)
					s.definers = definers
				}
				s.verify(l)
			}
			for _, e := range s.catalog.All() {
				require.Empty(t, block.Verify(context.Background(), s.bucket, e, true, t.TempDir()))
			}
			require.Zero(t, counter(t, s.reg, "sluice_consumer_dead_letters_total"))
			require.Zero(t, counter(t, s.reg, "sluice_consumer_missed_offsets_total"))
			require.Zero(t, counter(t, s.reg, "sluice_consumer_unresolved_refs_total"))
		})
	}
}

// counter sums a metric over its labels.
func counter(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// tick appends a tick with the generation's settings to every partition.
func (s *system) tick(g schema.Generation) {
	recs := make([]log.Record, testPartitions)
	for p := range recs {
		recs[p] = log.Record{Partition: int32(p), Headers: []log.Header{
			{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}, {Key: schema.HeaderKind, Value: []byte(schema.KindTick)},
			{Key: schema.HeaderGeneration, Value: g.Encode()},
		}}
	}
	s.append(recs...)
}

// blockFiles reads every file below root.
func blockFiles(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			rel, _ := filepath.Rel(root, path)
			out[rel] = string(b)
		}
		return err
	}))
	return out
}

// Two replays of one log by fresh processes, and a rebuild, make the same blocks, byte for byte.
func TestBlocksAreAFunctionOfTheLog(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	rnd := rand.New(rand.NewPCG(7, 7))
	now := int64(1_700_000_000_000)
	for i := range 600 {
		if i%20 == 0 { // whatever the settings on the day of a replay, these hold
			s.tick(schema.Generation{Length: 3_600_000, MaxBytes: 1 << 20, MaxSeries: 20 + i/100})
		}
		tenant, lset, samples := traffic(rnd, &now)
		s.write(tenant, lset, samples...)
	}
	s.seal()
	ids := func(s *system) (ids []ulid.ULID) {
		require.NoError(t, s.catalog.Sync(context.Background()))
		for _, e := range s.catalog.All() {
			ids = append(ids, e.ID)
		}
		slices.SortFunc(ids, ulid.ULID.Compare)
		return ids
	}
	want := ids(s)
	require.Greater(t, len(want), 12)
	files := blockFiles(t, filepath.Join(dir, "bucket"))
	require.True(t, slices.ContainsFunc(slices.Collect(maps.Keys(files)), func(name string) bool { return filepath.Base(name) == schema.ExemplarsFile }))

	for _, batch := range []int{0, 1, 7} { // as the log has it, and in batches of other sizes
		rebuilt := t.TempDir()
		out, err := bucket.Open(nil, rebuilt, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		for p := range int32(testPartitions) {
			cfg := RebuildConfig{Partition: p, From: -1, To: -1, Scratch: t.TempDir()}
			_, err := Rebuild(context.Background(), cfg, batchLog{s.log, batch}, out, slog.New(slog.DiscardHandler))
			require.NoError(t, err)
		}
		require.Equal(t, files, blockFiles(t, rebuilt))
	}
	s.stop()

	// The same log, nothing committed, no catalogue, an empty bucket.
	again := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(again, "log"), os.DirFS(filepath.Join(dir, "log"))))
	require.NoError(t, os.RemoveAll(filepath.Join(again, "log", "commits.json")))
	require.NoError(t, os.RemoveAll(filepath.Join(again, "log", log.TopicBlocks, "0")))
	require.NoError(t, os.Mkdir(filepath.Join(again, "log", log.TopicBlocks, "0"), 0o755))
	r := open(t, again)
	r.seal()
	require.Equal(t, want, ids(r))
	require.Equal(t, files, blockFiles(t, filepath.Join(again, "bucket")))
}

// batchLog gives its records in batches of at most n.
type batchLog struct {
	log.Log
	n int
}

func (l batchLog) Reader(topic string, partition int32, offset int64) (log.Reader, error) {
	r, err := l.Log.Reader(topic, partition, offset)
	if l.n == 0 {
		return r, err
	}
	return &batchReader{Reader: r, n: l.n}, err
}

type batchReader struct {
	log.Reader
	n    int
	left []log.Record
}

func (r *batchReader) Next(ctx context.Context) (recs []log.Record, err error) {
	if len(r.left) == 0 {
		if r.left, err = r.Reader.Next(ctx); err != nil {
			return nil, err
		}
	}
	n := min(r.n, len(r.left))
	recs, r.left = r.left[:n], r.left[n:]
	return recs, nil
}

// The bounds of generations, for all that a log may hold: what comes out must follow from these lines alone.
func TestCutsFollowTheLog(t *testing.T) {
	const hour = int64(3_600_000)
	tick := func(g schema.Generation) []log.Header {
		return []log.Header{
			{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}, {Key: schema.HeaderKind, Value: []byte(schema.KindTick)},
			{Key: schema.HeaderGeneration, Value: g.Encode()},
		}
	}
	kind := func(k string) []log.Header {
		return []log.Header{{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}, {Key: schema.HeaderKind, Value: []byte(k)}}
	}
	series := func(n int) log.Record {
		var value []byte
		for i := range n {
			lbls := []schema.Label{{Name: []byte("__name__"), Value: fmt.Appendf(nil, "m%d", i)}}
			value = schema.AppendTimeSeries(value, schema.AppendSample(schema.AppendLabels(nil, lbls), 1, 0, 1))
		}
		return log.Record{Key: []byte("a"), Value: value, Headers: []log.Header{{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}}}
	}
	at := func(ms int64, r log.Record) log.Record { r.Time = ms; return r }
	mark := func(ms int64, h []log.Header) log.Record { return log.Record{Time: ms, Headers: h} }
	short := schema.Generation{Length: hour}
	for name, tc := range map[string]struct {
		recs []log.Record
		skip map[int]int64 // offsets missing before the record
		cuts []string
	}{
		"a quiet partition is cut by ticks": {
			recs: []log.Record{mark(0, tick(short)), mark(hour/2, tick(short)), mark(hour, tick(short)), mark(2*hour, tick(short))},
			cuts: []string{"[0,2)", "[2,3)"},
		},
		"without a tick the defaults hold": {
			recs: []log.Record{at(0, series(1)), at(hour, series(1)), at(2*hour-1, series(1)), at(2*hour, series(1))},
			cuts: []string{"[0,3)"},
		},
		"the first tick of a generation decides, later ones do not": {
			recs: []log.Record{at(0, series(1)), mark(1, tick(short)), mark(2, tick(schema.Generation{Length: 2 * hour})), at(hour, series(1)), at(3*hour/2, series(1)), at(2*hour, series(1))},
			cuts: []string{"[0,3)", "[3,5)"},
		},
		"time that goes back does not count": {
			recs: []log.Record{mark(hour-10, tick(short)), at(5, series(1)), at(hour-1, series(1)), at(hour+5, series(1)), at(hour-7, series(1)), at(2*hour, series(1))},
			cuts: []string{"[0,3)", "[3,5)"},
		},
		"a jump of a day cuts once": {
			recs: []log.Record{mark(0, tick(short)), at(24*hour, series(1)), at(1, series(1)), at(24*hour+1, series(1))},
			cuts: []string{"[0,1)"},
		},
		"a seal ends the generation with itself": {
			recs: []log.Record{at(0, series(1)), mark(1, kind(schema.KindSeal)), mark(2, kind(schema.KindSeal)), at(3, series(1))},
			cuts: []string{"[0,2)", "[2,3)"},
		},
		"distinct series, not samples": {
			recs: []log.Record{mark(0, tick(schema.Generation{MaxSeries: 3})), at(1, series(2)), at(2, series(2)), at(3, series(3)), at(4, series(1))},
			cuts: []string{"[0,4)"},
		},
		"what is lost belongs to the generation before it": {
			recs: []log.Record{mark(0, tick(short)), at(hour, series(1)), mark(hour+1, kind(schema.KindSeal))},
			skip: map[int]int64{1: 5},
			cuts: []string{"[0,6) lost 5", "[6,8)"},
		},
		"a record read twice is passed over": {
			recs: []log.Record{at(0, series(1)), at(0, series(1)), mark(1, kind(schema.KindSeal))},
			skip: map[int]int64{1: -1},
			cuts: []string{"[0,2)"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var cuts []string
			p := &partition{
				readOnly: true, logger: slog.New(slog.DiscardHandler), metrics: newMetrics(nil).partition(0), dir: t.TempDir(),
				side: newSide(), advanced: make(chan struct{}), metadataLimit: func(schema.Tenant) int { return 0 },
			}
			p.hand = func(_ context.Context, g *generation) error {
				cut := fmt.Sprintf("[%d,%d)", g.from, g.to)
				for _, gap := range g.gaps {
					cut += fmt.Sprintf(" lost %d", gap.To-gap.From)
				}
				cuts = append(cuts, cut)
				return nil
			}
			p.gens = []*generation{p.newGeneration(0)}
			offset := int64(0)
			for i := range tc.recs {
				offset += tc.skip[i]
				tc.recs[i].Offset = offset
				require.NoError(t, p.take(context.Background(), &tc.recs[i]))
				offset++
			}
			require.Equal(t, tc.cuts, cuts)
		})
	}
}

// What was sealed when the bucket was away is not replayed after a stop: the blocks on disk are shipped as they are.
func TestSealedBlocksSurviveAStop(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "bucket")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bucket"), nil, 0o644)) // no folder, so no upload
	l := ledger{}
	for i := range int64(10) {
		s.write("a", labels.FromStrings("__name__", "m", "i", fmt.Sprint(i)), sample{t: 1000 + i, v: float64(i)})
		l.add("a", labels.FromStrings("__name__", "m", "i", fmt.Sprint(i)), sample{t: 1000 + i, v: float64(i)})
	}
	s.mark(schema.KindSeal)
	sealed := func() error {
		found, err := filepath.Glob(filepath.Join(dir, "scratch", "*", "*", sealedFile))
		require.NoError(t, err)
		if len(found) < testPartitions {
			return fmt.Errorf("%d sealed", len(found))
		}
		return nil
	}
	s.eventually(sealed)
	s.verify(l)
	s.stop()
	require.NoError(t, sealed())
	require.NoError(t, os.Remove(filepath.Join(dir, "bucket")))

	s = open(t, dir)
	for _, p := range s.consumer.open() {
		p.mu.RLock()
		require.Zero(t, p.replay.End-p.replay.Start, "nothing is replayed")
		p.mu.RUnlock()
	}
	s.verify(l)
	s.seal()
	s.verify(l)
	require.Positive(t, counter(t, s.reg, "sluice_consumer_shipped_blocks_total"))
	require.Zero(t, counter(t, s.reg, "sluice_consumer_samples_total"))

	s.eventually(func() error { // shipped ones are released
		if sealed() == nil {
			return errors.New("still there")
		}
		return nil
	})

	// A file that a crash has torn makes the whole generation useless, and only that.
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "bucket")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bucket"), nil, 0o644))
	s.write("a", labels.FromStrings("__name__", "m", "i", "x"), sample{t: 5000, v: 5})
	s.mark(schema.KindSeal)
	s.eventually(sealed)
	s.stop()
	indexes, err := filepath.Glob(filepath.Join(dir, "scratch", "*", "*", "blocks", "*", "*", "index"))
	require.NoError(t, err)
	require.Len(t, indexes, 1)
	require.NoError(t, os.Truncate(indexes[0], 10))
	require.NoError(t, os.Remove(filepath.Join(dir, "bucket")))
	s = open(t, dir)
	s.seal()
	require.Equal(t, 1.0, counter(t, s.reg, "sluice_consumer_samples_total"), "replayed")
}

// Records that the log has lost are told everywhere, and the rest goes on.
func TestLossIsLoud(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	s.write("a", labels.FromStrings("__name__", "m"), sample{t: 1000, v: 1})
	s.seal()
	state, _ := s.catalog.Partition(0)
	s.stop()
	g := (&partition{}).newGeneration(state.To)
	g.gaps = []schema.Gap{{LogRange: schema.LogRange{Partition: 0, From: 5, To: 9}, FromTime: 3, Reason: schema.GapRetention}}
	before := slices.Clone(g.gaps)
	require.True(t, g.closeGaps(77))
	require.False(t, g.closeGaps(78))
	require.Equal(t, int64(77), g.gaps[0].ToTime)
	require.Equal(t, g.gaps, withGaps(before, g.gaps))

	s = open(t, dir)
	p := s.consumer.open()[0]
	start, gap, err := p.startOffset(context.Background(), log.Bounds{Start: state.To + 10, End: state.To + 20})
	require.NoError(t, err)
	require.Equal(t, state.To+10, start)
	require.Equal(t, schema.GapRetention, gap.Reason)
	require.Equal(t, [2]int64{state.To, state.To + 10}, [2]int64{gap.From, gap.To})
	start, gap, err = p.startOffset(context.Background(), log.Bounds{Start: 0, End: state.To - 1})
	require.NoError(t, err)
	require.Zero(t, start)
	require.Equal(t, schema.GapReplaced, gap.Reason)
	was := p.topicID
	p.topicID = "another"
	_, gap, err = p.startOffset(context.Background(), log.Bounds{Start: 0, End: state.To + 5})
	require.NoError(t, err)
	require.Equal(t, schema.GapReplaced, gap.Reason)
	require.Equal(t, was, gap.TopicID)
	p.topicID = was
	told := p.newGeneration(0)
	p.lost(told, *gap)
	require.True(t, told.closeGaps(99))
	p.tellGaps(context.Background(), told)
	require.NoError(t, s.catalog.Sync(context.Background()))
	now, _ := s.catalog.Partition(0)
	require.Equal(t, told.gaps, now.Gaps)
	require.Equal(t, state.To, now.To)
	require.Len(t, s.consumer.Notes(), 1)
	require.Contains(t, s.consumer.Notes()[0], "partition 0")
}

func TestReplayProgress(t *testing.T) {
	began := time.Unix(100, 0)
	r := replay{log.Bounds{Start: 1000, End: 2000}, began}
	require.Equal(t, "0 % of 1000 records", r.progress(1000, began))
	require.Equal(t, "84 %, 12 s left", r.progress(1840, began.Add(63*time.Second)))
}

// A tenant that only sends metadata has no head and no block.
func TestIdleTenantsCostNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	md := prompb.MetricMetadata{MetricFamilyName: "m", Help: "h"}
	meta, err := md.Marshal()
	require.NoError(t, err)
	s.append(log.Record{
		Key: []byte("quiet"), Value: schema.AppendMetadata(nil, meta),
		Headers: []log.Header{{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}},
	})
	require.NoError(t, s.consumer.open()[0].wait(context.Background(), 1))
	mds, err := s.consumer.Metadata(context.Background(), "quiet", "")
	require.NoError(t, err)
	require.Len(t, mds, 1)
	require.Empty(t, s.consumer.open()[0].gens[0].names())
	s.seal()
	there, err := os.ReadDir(filepath.Join(dir, "bucket", "quiet"))
	require.NoError(t, err)
	require.Len(t, there, 1, "what it said, and no block")
	require.Equal(t, schema.MetadataDir, there[0].Name())
}

// A replay of what was announced but not committed uploads nothing and announces nothing.
func TestReplayAfterAnnounceOnlyCommits(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	s.write("a", labels.FromStrings("__name__", "m"), sample{t: 1000, v: 1})
	s.seal()
	s.stop()
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "log", "commits.json")))
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "bucket", "a"))) // so that an upload would be seen
	s = open(t, dir)
	s.seal()
	require.Zero(t, counter(t, s.reg, "sluice_consumer_shipped_blocks_total"))
	require.NoDirExists(t, filepath.Join(dir, "bucket", "a"))
}

func TestBadRecordsAreDeadLetteredAndPassedOver(t *testing.T) {
	s := open(t, t.TempDir())
	v1 := log.Header{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}
	good := func(tenant schema.Tenant) {
		s.write(tenant, labels.FromStrings("__name__", "m"), sample{t: 1000, v: 1})
	}
	good("a")
	bad := []log.Record{
		{Key: []byte("a"), Value: []byte("x"), Headers: []log.Header{{Key: schema.HeaderVersion, Value: []byte{99}}}},
		{Key: []byte("a"), Value: []byte("x")},
		{Key: []byte("a"), Value: []byte{0x0a, 0xff}, Headers: []log.Header{v1}},
		{Key: []byte("../a"), Value: nil, Headers: []log.Header{v1}},
		{Key: []byte("a"), Headers: []log.Header{v1, {Key: schema.HeaderKind, Value: []byte("odd")}}},
		{Key: []byte("a"), Value: schema.AppendTimeSeries(nil, schema.AppendSample(nil, 1, 0, 1)), Headers: []log.Header{v1}},
	}
	for _, rec := range bad {
		for p := range int32(testPartitions) {
			rec.Partition = p
			s.append(rec)
		}
	}
	good("b")
	l := ledger{}
	l.add("a", labels.FromStrings("__name__", "m"), sample{t: 1000, v: 1})
	l.add("b", labels.FromStrings("__name__", "m"), sample{t: 1000, v: 1})
	s.verify(l)
	require.Equal(t, float64(len(bad)*testPartitions), counter(t, s.reg, "sluice_consumer_dead_letters_total"))
	b, err := s.log.Bounds(context.Background(), log.TopicDeadLetter, 0)
	require.NoError(t, err)
	require.Equal(t, int64(len(bad)*testPartitions), b.End-b.Start)
	s.seal()
	s.verify(l)
}

func TestGenerationBoundsFollowLogTime(t *testing.T) {
	const hour = int64(time.Hour / time.Millisecond)
	for _, tc := range []struct{ logTime, length, shift, boundary int64 }{
		{0, 2 * hour, 0, 2 * hour},
		{2*hour - 1, 2 * hour, 0, 2 * hour},
		{2 * hour, 2 * hour, 0, 4 * hour},
		{5, 2 * hour, hour, hour},
		{hour, 2 * hour, hour, 3 * hour},
	} {
		g := &generation{settings: schema.Generation{Length: tc.length}}
		g.start(tc.logTime, int32(16*tc.shift/tc.length))
		require.Equal(t, tc.boundary, g.boundary, "%+v", tc)
	}
}

func TestRangesStayFew(t *testing.T) {
	h := &head{windows: map[int64]struct{}{}, windowEnd: math.MinInt64 + window}
	rnd := rand.New(rand.NewPCG(1, 1))
	times := []int64{0, -1, window - 1, window, 4_000_000_000_000}
	for range 10_000 {
		times = append(times, rnd.Int64N(4_000_000_000_000)-1_000_000_000_000)
	}
	for _, ts := range times {
		h.occupy(ts)
	}
	ranges := h.ranges()
	require.LessOrEqual(t, len(ranges), maxBlocksPerHead)
	for _, ts := range times {
		n := 0
		for _, r := range ranges {
			if ts >= r.mint && ts <= r.maxt {
				n++
			}
		}
		require.Equal(t, 1, n, "time %d", ts)
	}
}

// A foreign producer may encode the same labels in other bytes: it is the same series all the same.
func TestSameLabelsInOtherBytes(t *testing.T) {
	h := newHead("a", 1)
	lbl := []schema.Label{{Name: []byte("__name__"), Value: []byte("m")}}
	plain := schema.AppendLabels(nil, lbl)
	long := []byte{0x0a, 0x8d, 0x00} // the length 13 as two bytes
	long = append(long, plain[2:]...)
	add := func(raw []byte, ts int64, v float64) tally {
		value := schema.AppendTimeSeries(nil, schema.AppendSample(slices.Clone(raw), ts, 0, v))
		tl, err := applyV1(h, value)
		require.NoError(t, err)
		return tl
	}
	require.Equal(t, 1, add(plain, 1000, 1).newSeries)
	require.Equal(t, tally{duplicates: 1}, add(long, 1000, 2))
	require.Equal(t, tally{floats: 1}, add(long, 2000, 2))
	require.Equal(t, tally{floats: 1, late: 1}, add(plain, 1500, 3))
	require.Equal(t, 1, h.series.Len())
}

func TestHoleIsToldNotServed(t *testing.T) {
	s := open(t, t.TempDir())
	ctx := context.Background()
	s.write("a", labels.FromStrings("__name__", "m"), sample{t: 1000, v: 1})
	s.seal()
	s.eventually(func() error { // shipped generations are released
		_, err := s.consumer.Querier(ctx, "a", 0, 10_000, []fetch.Ask{{Partition: 0, From: 0}, {Partition: 1, From: 0}})
		var hole *fetch.HoleError
		if !errors.As(err, &hole) {
			return fmt.Errorf("no hole yet: %v", err)
		}
		return nil
	})
	_, err := s.consumer.Querier(ctx, "a", 0, 10_000, []fetch.Ask{{Partition: 77}})
	var hole *fetch.HoleError
	require.ErrorAs(t, err, &hole)
	require.Equal(t, int64(-1), hole.Held)
	l := ledger{}
	l.add("a", labels.FromStrings("__name__", "m"), sample{t: 1000, v: 1})
	s.verify(l)
}

// A generation that is let go while a query is on its way to it is a hole, not an empty answer.
func TestDroppedGenerationIsAHole(t *testing.T) {
	s := open(t, t.TempDir())
	s.write("a", labels.FromStrings("__name__", "m"), sample{t: 1000, v: 1})
	ask := []fetch.Ask{{Partition: 0, Wait: 1}, {Partition: 1}}
	if b, err := s.log.Bounds(context.Background(), log.TopicSamples, 1); err == nil && b.End > 0 {
		ask = []fetch.Ask{{Partition: 1, Wait: 1}, {Partition: 0}}
	}
	q, err := s.consumer.Querier(context.Background(), "a", 0, 2000, ask)
	require.NoError(t, err)
	require.NoError(t, q.Close())
	p := s.consumer.open()[ask[0].Partition]
	require.NoError(t, p.live().drop(true)) // as forget does, after the partition was asked what it holds
	_, err = s.consumer.Querier(context.Background(), "a", 0, 2000, ask)
	var hole *fetch.HoleError
	require.ErrorAs(t, err, &hole)
}
