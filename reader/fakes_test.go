package reader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"

	"sluice/internal/cardinality"
	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/internal/web"
	"sluice/schema"
)

// fakeLog knows the bounds of its partitions and nothing else.
type fakeLog struct {
	log.Log
	bounds  []log.Bounds
	topicID string
	err     error
}

func (l *fakeLog) TopicID(context.Context, string) (string, error) { return l.topicID, l.err }

func (l *fakeLog) Partitions(context.Context, string) (int32, error) {
	return int32(len(l.bounds)), l.err
}

func (l *fakeLog) Ends(context.Context, string) ([]int64, error) {
	var ends []int64
	for _, b := range l.bounds {
		ends = append(ends, b.End)
	}
	return ends, l.err
}

func (l *fakeLog) Bounds(_ context.Context, _ string, p int32) (log.Bounds, error) {
	return l.bounds[p], l.err
}

// fakeCat shows one snapshot, and after a Sync the next.
type fakeCat struct {
	mu        sync.Mutex
	snapshots []snapshot
	syncs     int
}

type snapshot struct {
	blocks  []*schema.BlockEntry
	shipped map[int32]int64
	topicID string // of shipped
	gaps    []schema.Gap
}

func (c *fakeCat) Snapshot(schema.Tenant) ([]*schema.BlockEntry, map[int32]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.snapshots[0]
	shipped := maps.Clone(s.shipped)
	for _, g := range s.gaps { // a partition that is known has an offset
		if shipped == nil {
			shipped = map[int32]int64{}
		}
		shipped[g.Partition] += 0
	}
	return s.blocks, shipped
}

func (c *fakeCat) Partitions() map[int32]schema.PartitionState {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.snapshots[0]
	out := map[int32]schema.PartitionState{}
	for p, to := range s.shipped {
		out[p] = schema.PartitionState{TopicID: s.topicID, To: to}
	}
	for _, g := range s.gaps {
		ps := out[g.Partition]
		ps.Gaps = append(ps.Gaps, g)
		out[g.Partition] = ps
	}
	return out
}

func (c *fakeCat) Entry(_ schema.Tenant, id ulid.ULID) (*schema.BlockEntry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.snapshots[0].blocks {
		if e.ID == id {
			return e, true
		}
	}
	return nil, false
}

func (c *fakeCat) Sync(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.syncs++
	if len(c.snapshots) > 1 {
		c.snapshots = c.snapshots[1:]
	}
	return nil
}

type fakeDir map[int32][]string

func (d fakeDir) Sync(context.Context) error { return nil }
func (d fakeDir) Holders(p int32) []members.Holder {
	var out []members.Holder
	for i, id := range d[p] {
		h := members.Holder{Member: members.Member{ID: id}}
		h.Partition, h.Doubtful = p, i > 0 // in this order
		out = append(out, h)
	}
	return out
}

func (fakeDir) Readers() []members.Member { return nil }
func (fakeDir) Suspect(string)            {}
func (fakeDir) Trust(string)              {}

// fakeSource holds partitions from an offset on.
type fakeSource struct {
	held  map[int32]int64
	data  storage.Queryable
	err   error
	stuck bool // never applies what a strong read waits for
	// applied is told with the answers, and waited for in vain beyond; nil = nothing is told.
	applied fetch.Applied
	late    bool // errors come from the querier's calls, as they do over HTTP

	mu       sync.Mutex
	asked    [][]fetch.Ask
	found    []exemplar.QueryResult
	meta     map[string][]metadata.Metadata
	released int
}

func (s *fakeSource) check(ctx context.Context, asks []fetch.Ask) error {
	s.mu.Lock()
	s.asked = append(s.asked, asks)
	s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	for _, a := range asks {
		held, ok := s.held[a.Partition]
		if !ok {
			held = -1
		}
		if !ok || a.From < held && !a.All {
			return &fetch.HoleError{Partition: a.Partition, From: a.From, Held: held}
		}
		if a.Wait > 0 && s.stuck {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		if s.applied != nil && a.Wait > s.applied[a.Partition] {
			<-ctx.Done()
			return schema.Unavailable(schema.ErrStrongRead, ctx.Err(), "partition %d is applied up to %d", a.Partition, s.applied[a.Partition])
		}
	}
	return nil
}

func (s *fakeSource) Querier(ctx context.Context, _ schema.Tenant, mint, maxt int64, asks []fetch.Ask) (storage.Querier, error) {
	err := s.check(ctx, asks)
	if err != nil && !s.late {
		return nil, err
	}
	q, qerr := s.data.Querier(mint, maxt)
	return fetch.WithApplied(&fakeQuerier{q, s, err}, s.applied), qerr
}

type fakeQuerier struct {
	storage.Querier
	source *fakeSource
	err    error
}

func (q *fakeQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	if q.err != nil {
		return storage.ErrSeriesSet(q.err)
	}
	return q.Querier.Select(ctx, sorted, hints, ms...)
}

func (q *fakeQuerier) Close() error {
	q.source.mu.Lock()
	defer q.source.mu.Unlock()
	q.source.released++
	return q.Querier.Close()
}

func (s *fakeSource) Exemplars(ctx context.Context, _ schema.Tenant, _, _ int64, _ [][]*labels.Matcher, asks []fetch.Ask) ([]exemplar.QueryResult, error) {
	return s.found, s.check(ctx, asks)
}

func (s *fakeSource) Metadata(_ context.Context, _ schema.Tenant, metric string) (map[string][]metadata.Metadata, error) {
	all := maps.Clone(s.meta)
	maps.DeleteFunc(all, func(name string, _ []metadata.Metadata) bool { return metric != "" && name != metric })
	return all, s.err
}

func (s *fakeSource) Cardinality(ctx context.Context, _ schema.Tenant, query cardinality.Query, asks []fetch.Ask) (*cardinality.Result, error) {
	if err := s.check(ctx, asks); err != nil {
		return nil, err
	}
	q, err := s.data.Querier(query.Since, query.End())
	if err != nil {
		return nil, err
	}
	defer q.Close()
	c := cardinality.NewCounter(query)
	set := q.Select(ctx, true, &storage.SelectHints{Start: query.Since, End: query.End(), Func: "series"}, append(query.Matchers, everything)...)
	for set.Next() {
		c.AddTotal(1)
		if err := c.Add(set.At().Labels()); err != nil {
			return nil, err
		}
	}
	c.AddSamples(7, 60_000, 120_000)
	return c.Result(), set.Err()
}

// fakeBlocks are blocks that are databases, and cannot be counted.
type fakeBlocks struct {
	BlockStore
	mu     sync.Mutex
	data   map[ulid.ULID]storage.Queryable
	errs   map[ulid.ULID]error
	opened int
}

func (b *fakeBlocks) Querier(_ context.Context, e *schema.BlockEntry, mint, maxt int64) (storage.Querier, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened++
	if err := b.errs[e.ID]; err != nil {
		return nil, err
	}
	return b.data[e.ID].Querier(mint, maxt)
}

// world is a reader among fakes.
type world struct {
	reader  *Reader
	log     *fakeLog
	cat     *fakeCat
	dir     fakeDir
	sources map[string]fetch.Source
	blocks  *fakeBlocks
	reg     *prometheus.Registry
	limits  fakeLimits
}

// fakeLimits are those of every tenant.
type fakeLimits struct{ schema.Limits }

func (l *fakeLimits) For(schema.Tenant) *schema.Limits { return &l.Limits }

func newWorld(t testing.TB, bkt objstore.BucketReader, tenancy web.Tenancy) *world {
	w := &world{
		log: &fakeLog{}, cat: &fakeCat{snapshots: []snapshot{{}}}, dir: fakeDir{}, sources: map[string]fetch.Source{},
		blocks: &fakeBlocks{data: map[ulid.ULID]storage.Queryable{}, errs: map[ulid.ULID]error{}}, reg: prometheus.NewRegistry(),
		limits: fakeLimits{schema.DefaultLimits()},
	}
	dial := func(m members.Member) fetch.Source { return w.sources[m.ID] }
	useStore := bkt != nil
	if !useStore {
		bkt = objstore.NewInMemBucket()
	}
	r, err := New(Config{Version: "1.2.3"}, w.log, w.cat, bkt, w.dir, dial, &w.limits, tenancy, slog.New(slog.DiscardHandler), w.reg)
	require.NoError(t, err)
	if !useStore {
		r.blocks = w.blocks
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
	require.Eventually(t, func() bool { return r.Ready() == nil }, waitFor, tick)
	w.reader = r
	w.cat.syncs = 0
	return w
}

// block adds a block to the first snapshot.
func (w *world) block(id byte, logFrom int64, data *tsdb.DB, at ...int) *schema.BlockEntry {
	e := &schema.BlockEntry{ID: ulid.ULID{id}, Tenant: "acme", MinTime: math.MinInt64, MaxTime: math.MaxInt64, LogFrom: logFrom}
	w.blocks.data[e.ID] = data
	for _, i := range append(at, 0)[:max(1, len(at))] {
		w.cat.snapshots[i].blocks = append(w.cat.snapshots[i].blocks, e)
	}
	return e
}

type sample struct {
	t int64
	v float64
}

// newData makes a database of samples by series.
func newData(t testing.TB, series map[string][]sample) *tsdb.DB {
	opts := tsdb.DefaultOptions()
	opts.OutOfOrderTimeWindow = 1 << 40
	db, err := tsdb.Open(t.TempDir(), slog.New(slog.DiscardHandler), nil, opts, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	app := db.Appender(context.Background())
	for name, samples := range series {
		for _, s := range samples {
			_, err := app.Append(0, labels.FromStrings("__name__", "m", "s", name), s.t, s.v)
			require.NoError(t, err)
		}
	}
	require.NoError(t, app.Commit())
	return db
}

var everything = labels.MustNewMatcher(labels.MatchEqual, "__name__", "m")

// selectAll reads everything through the reader.
func (w *world) selectAll(ctx context.Context) (map[string][]sample, storage.SeriesSet, error) {
	q, err := w.reader.Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		return nil, nil, err
	}
	set := q.Select(ctx, true, nil, everything)
	out := map[string][]sample{}
	for set.Next() {
		s := set.At()
		name := s.Labels().Get("s")
		if _, ok := out[name]; ok {
			return nil, nil, fmt.Errorf("series %s twice", name)
		}
		it := s.Iterator(nil)
		for it.Next() != chunkenc.ValNone {
			t, v := it.At()
			out[name] = append(out[name], sample{t, v})
		}
		if it.Err() != nil {
			return nil, nil, it.Err()
		}
	}
	return out, set, errors.Join(set.Err(), q.Close())
}

func asTenant(tenant schema.Tenant) context.Context {
	return web.WithTenant(context.Background(), tenant)
}

// fSample is a sample as TSDB's block writer wants it.
type fSample sample

func (s fSample) ST() int64                     { return 0 }
func (s fSample) T() int64                      { return s.t }
func (s fSample) F() float64                    { return s.v }
func (s fSample) H() *histogram.Histogram       { return nil }
func (s fSample) FH() *histogram.FloatHistogram { return nil }
func (s fSample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s fSample) Copy() chunks.Sample           { return s }
