package catalog

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/promslog"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

func openLog(t testing.TB) log.Log {
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: 2, Fsync: log.FsyncOff}, promslog.NewNopLogger(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// start runs a catalogue until the test ends.
func start(t testing.TB, l log.Log, reg prometheus.Registerer) *Catalog {
	c := New(l, promslog.NewNopLogger(), reg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
	})
	return c
}

func TestCatalog(t *testing.T) {
	ctx, l, reg := context.Background(), openLog(t), prometheus.NewPedanticRegistry()
	c := start(t, l, reg)
	require.NoError(t, c.Sync(ctx), "an empty topic")
	require.Empty(t, c.Blocks("t"))
	_, ok := c.Partition(0)
	require.False(t, ok)

	require.NoError(t, c.Add(ctx, []schema.BlockEntry{entry(t, "t", "b live sources=b"), entry(t, "t", "a live sources=a"), entry(t, "u", "a live")},
		map[int32]schema.PartitionState{1: {From: 3, To: 9}}))
	require.NoError(t, c.Sync(ctx))
	blocks, shipped := c.Snapshot("t")
	require.Equal(t, []string{id('a').String(), id('b').String()}, []string{blocks[0].ID.String(), blocks[1].ID.String()})
	require.Equal(t, map[int32]int64{1: 9}, shipped)
	require.Equal(t, []schema.Tenant{"t", "u"}, c.Tenants())
	require.Len(t, c.All(), 3)

	m := entry(t, "t", "m live replaces=ab sources=ab")
	m.At = 7
	require.NoError(t, c.Add(ctx, []schema.BlockEntry{m}, nil))
	require.NoError(t, c.Sync(ctx))
	require.Len(t, blocks, 2, "a snapshot never changes")
	require.Len(t, c.Blocks("t"), 1)
	by, ok := c.Replacer("t", id('a'))
	require.True(t, ok)
	require.Equal(t, m.ID, by.ID)
	require.Equal(t, Replaced, c.Status("t", id('b')))
	require.Equal(t, Absent, c.Status("v", id('b')))
	e, ok := c.Entry("t", id('m'))
	require.True(t, ok)
	require.EqualValues(t, 7, e.At)

	require.NoError(t, c.Add(ctx, []schema.BlockEntry{entry(t, "u", "a deleted")}, nil))
	require.NoError(t, l.Append(ctx, log.TopicBlocks, []log.Record{{Key: []byte("block/t/x"), Value: []byte("{")}}))
	require.NoError(t, c.Sync(ctx))
	require.Equal(t, map[string]float64{
		"sluice_catalog_blocks": 1, "sluice_catalog_tenants": 2, "sluice_catalog_replaced_blocks": 2,
		"sluice_catalog_tombstones": 1, "sluice_catalog_undecodable_total": 1,
	}, gather(t, reg))

	require.NoError(t, c.Forget(ctx, "u", id('a')))
	require.NoError(t, c.Sync(ctx))
	require.Equal(t, []schema.Tenant{"t"}, c.Tenants())

	loaded, err := Load(ctx, l, promslog.NewNopLogger())
	require.NoError(t, err)
	require.Equal(t, c.All(), loaded.All())
	require.Equal(t, c.Partitions(), loaded.Partitions())
}

func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	families, err := reg.Gather()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		out[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
	return out
}

// failingLog fails the n-th append.
type failingLog struct {
	log.Log
	n int
}

func (f *failingLog) Append(ctx context.Context, topic string, recs []log.Record) error {
	if f.n--; f.n == 0 {
		return errors.New("log is down")
	}
	return f.Log.Append(ctx, topic, recs)
}

func TestAddNeverShipsAheadOfItsBlocks(t *testing.T) {
	ctx, l := context.Background(), openLog(t)
	for n := 1; n <= 2; n++ {
		c := New(&failingLog{l, n}, promslog.NewNopLogger(), nil)
		require.Error(t, c.Add(ctx, []schema.BlockEntry{entry(t, "t", "a live")}, map[int32]schema.PartitionState{0: {To: 5}}))
		got, err := Load(ctx, l, promslog.NewNopLogger())
		require.NoError(t, err)
		require.Empty(t, got.Partitions())
		require.Len(t, got.Blocks("t"), n-1)
	}
}

func TestAddRefusesWhatNobodyCouldRead(t *testing.T) {
	c := New(openLog(t), promslog.NewNopLogger(), nil)
	bad := entry(t, "t", "a live")
	bad.Tenant = "../u"
	require.Error(t, c.Add(context.Background(), []schema.BlockEntry{bad}, nil))
	require.Error(t, c.Add(context.Background(), nil, map[int32]schema.PartitionState{0: {From: 3, To: 1}}))
}

// BenchmarkApply is one event in a catalogue of 5,000 tenants with 80 blocks each.
func BenchmarkApply(b *testing.B) {
	c := New(openLog(b), promslog.NewNopLogger(), nil)
	rec := func(i int) *log.Record {
		e := entry(b, schema.Tenant(fmt.Sprintf("tenant-%d", i%5000)), "a live")
		e.ID[0], e.ID[1], e.ID[2] = byte(i), byte(i>>8), byte(i>>16)
		e.Sources = append(e.Sources, e.ID)
		r, err := encodeBlock(&e)
		require.NoError(b, err)
		return &r
	}
	for i := range 400_000 {
		c.apply(rec(i))
	}
	recs := make([]*log.Record, 5000)
	for i := range recs {
		recs[i] = rec(400_000 + i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		c.apply(recs[i%len(recs)])
	}
}

// BenchmarkSnapshot is what every query pays.
func BenchmarkSnapshot(b *testing.B) {
	c := New(openLog(b), promslog.NewNopLogger(), nil)
	for i := range 1000 {
		e := entry(b, "t", "a live")
		e.ID[0], e.ID[1] = byte(i), byte(i>>8)
		r, err := encodeBlock(&e)
		require.NoError(b, err)
		c.apply(&r)
	}
	for p := range int32(64) {
		r, err := encodePartition(p, schema.PartitionState{To: 5})
		require.NoError(b, err)
		c.apply(&r)
	}
	b.ReportAllocs()
	for b.Loop() {
		c.Snapshot("t")
	}
}
