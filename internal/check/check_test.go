package check

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"

	"sluice/internal/block"
	"sluice/internal/catalog"
	"sluice/internal/log"
	"sluice/schema"
)

const hour = int64(3600 * 1000)

// site is a log and a bucket with two tenants' blocks in it, all as it should be.
type site struct {
	t       testing.TB
	dir     string
	log     log.Log
	topicID string
	bkt     *objstore.InMemBucket
	cat     *catalog.Catalog // writes only
	blocks  []*schema.BlockMeta
}

func newSite(t testing.TB) *site {
	dir := t.TempDir()
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: dir, Partitions: 2, Fsync: log.FsyncOff}, promslog.NewNopLogger(), nil)
	require.NoError(t, err)
	ctx := context.Background()
	s := &site{t: t, dir: dir, log: l, bkt: objstore.NewInMemBucket(), cat: catalog.New(l, promslog.NewNopLogger(), nil)}
	s.topicID, err = l.TopicID(ctx, log.TopicSamples)
	require.NoError(t, err)
	for p := range int32(2) {
		for range 30 {
			require.NoError(t, l.Append(ctx, log.TopicSamples, []log.Record{{Partition: p, Key: []byte("t"), Value: []byte("x")}}))
		}
	}
	s.block("t", 0, 0, 10, 0)
	s.block("t", 1, 0, 10, 0)
	s.block("t", 0, 10, 20, 2*hour)
	s.block("u", 0, 0, 10, 0)
	// One that was merged from the first two, which are still there, and one that was deleted.
	merged := s.write("t", "a", 0, 100, schema.BlockOrigin{Tenant: "t", LogTime: hour, Replaces: []ulid.ULID{s.blocks[0].ULID, s.blocks[1].ULID},
		Ranges: []schema.LogRange{{TopicID: s.topicID, From: 0, To: 10}, {TopicID: s.topicID, Partition: 1, From: 0, To: 10}}},
		2, []ulid.ULID{s.blocks[0].ULID, s.blocks[1].ULID})
	s.add(merged.Entry(1))
	gone := s.block("u", 0, 20, 21, 0).Entry(1)
	gone.State = schema.BlockDeleted
	s.add(gone)
	s.put("t/"+schema.BucketIndexFile, "x")
	s.put("t/markers/x-deletion-mark.json", "x")
	s.put(block.Key("t", s.blocks[0].ULID, schema.DeletionMarkFile), "{}")
	require.NoError(t, s.cat.Add(ctx, nil, map[int32]schema.PartitionState{0: {TopicID: s.topicID, To: 20}, 1: {TopicID: s.topicID, To: 10}}))
	require.NoError(t, l.Commit(ctx, schema.ConsumerGroup, log.TopicSamples, 0, 20))
	return s
}

type sample struct{ t int64 }

func (s sample) T() int64                      { return s.t }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return 1 }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Copy() chunks.Sample           { return s }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }

// write makes a block of one series with n samples and uploads it.
func (s *site) write(tenant schema.Tenant, name string, from int64, n int, origin schema.BlockOrigin, level int, sources []ulid.ULID) *schema.BlockMeta {
	ctx := context.Background()
	var list []chunks.Sample
	for i := range n {
		list = append(list, sample{from + int64(i)*1000})
	}
	dir := s.t.TempDir()
	set := storage.NewSeriesSetToChunkSet(storage.TestSeriesSet(storage.NewListSeries(labels.FromStrings("__name__", name), list)))
	c, err := block.Write(ctx, filepath.Join(dir, "new"), index.NewStringListIter([]string{"__name__", name}), &once{ChunkSeriesSet: set})
	require.NoError(s.t, err)
	meta, final, err := block.Finish(filepath.Join(dir, "new"), c, origin, "test", level, sources)
	require.NoError(s.t, err)
	require.NoError(s.t, block.Upload(ctx, s.bkt, final, meta))
	return meta
}

// once ends a set after its first series.
type once struct {
	storage.ChunkSeriesSet
	done bool
}

func (o *once) Next() bool {
	if o.done {
		return false
	}
	o.done = true
	return o.ChunkSeriesSet.Next()
}

// block writes, uploads and announces a block of level 1.
func (s *site) block(tenant schema.Tenant, partition int32, from, to, mint int64) *schema.BlockMeta {
	m := s.write(tenant, "a", mint, 100, schema.BlockOrigin{Tenant: tenant, LogTime: hour,
		Ranges: []schema.LogRange{{TopicID: s.topicID, Partition: partition, From: from, To: to}}}, 1, nil)
	s.blocks = append(s.blocks, m)
	s.add(m.Entry(1))
	return m
}

func (s *site) add(e schema.BlockEntry) {
	require.NoError(s.t, s.cat.Add(context.Background(), []schema.BlockEntry{e}, nil))
}

func (s *site) put(name, content string) {
	require.NoError(s.t, s.bkt.Upload(context.Background(), name, strings.NewReader(content)))
}

func (s *site) delete(name string) { require.NoError(s.t, s.bkt.Delete(context.Background(), name)) }

func (s *site) flip(name string, at int) {
	raw := slices.Clone(s.bkt.Objects()[name])
	raw[at] ^= 1
	require.NoError(s.t, s.bkt.Upload(context.Background(), name, bytes.NewReader(raw)))
}

// remeta changes meta.json of a block in the bucket.
func (s *site) remeta(folder schema.Tenant, m schema.BlockMeta, change func(*schema.BlockMeta)) {
	change(&m)
	raw, err := json.Marshal(m)
	require.NoError(s.t, err)
	s.put(block.Key(folder, m.ULID, schema.MetaFile), string(raw))
}

func (s *site) check(opts Options) []Finding {
	found, err := Run(context.Background(), s.log, s.bkt, opts)
	require.NoError(s.t, err)
	return found
}

func TestCleanSiteHasNoFindings(t *testing.T) {
	s := newSite(t)
	require.Empty(t, s.check(Options{}))
	require.Empty(t, s.check(Options{Deep: true, Scratch: t.TempDir()}))
	require.NoError(t, s.log.Close())
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: s.dir, ReadOnly: true}, promslog.NewNopLogger(), nil)
	require.NoError(t, err)
	s.log = l
	require.Empty(t, s.check(Options{}), "read-only")
	require.NoError(t, l.Close())
}

func TestFindings(t *testing.T) {
	ctx := context.Background()
	for _, tc := range []struct {
		name  string
		plant func(s *site) Finding
		deep  bool
	}{
		{name: "committed beyond the blocks", plant: func(s *site) Finding {
			require.NoError(s.t, s.log.Commit(ctx, schema.ConsumerGroup, log.TopicSamples, 1, 25))
			return Finding{Kind: KindGap, Partition: 1, From: 10, To: 25, Detail: "committed up to 25, but blocks end at 10"}
		}},
		{name: "another incarnation of the topic", plant: func(s *site) Finding {
			require.NoError(s.t, s.cat.Add(ctx, nil, map[int32]schema.PartitionState{0: {TopicID: "other", To: 99}}))
			return Finding{Kind: KindGap, Partition: 0, From: 0, To: 20, Detail: "committed up to 20, but blocks end at 0"}
		}},
		{name: "recorded gap", plant: func(s *site) Finding {
			require.NoError(s.t, s.cat.Add(ctx, nil, map[int32]schema.PartitionState{1: {TopicID: s.topicID, To: 10, Gaps: []schema.Gap{{LogRange: schema.LogRange{TopicID: "x", Partition: 1, From: 3, To: 5}}}}}))
			return Finding{Kind: KindGap, Partition: 1, From: 3, To: 5, Detail: "never read by a consumer"}
		}},
		{name: "the log starts behind the blocks", plant: func(s *site) Finding {
			s.log = startsAt{s.log, 1, 17}
			return Finding{Kind: KindGap, Partition: 1, From: 10, To: 17, Detail: "neither in blocks nor in the log"}
		}},
		{name: "same log range twice", plant: func(s *site) Finding {
			a := s.blocks[2]
			b := s.write("t", "a", 2*hour, 50, schema.BlockOrigin{Tenant: "t", LogTime: hour, Ranges: []schema.LogRange{{TopicID: s.topicID, From: 15, To: 20}}}, 1, nil)
			s.add(b.Entry(1))
			return Finding{Kind: KindOverlap, Tenant: "t", Block: b.ULID.String(), Partition: 0, From: 15, To: 20, Detail: "also in block " + a.ULID.String()}
		}},
		{name: "source and merged block both live", plant: func(s *site) Finding {
			c, err := catalog.Load(ctx, s.log, promslog.NewNopLogger())
			require.NoError(s.t, err)
			e := *c.Blocks("t")[0]
			require.Equal(s.t, 2, e.Level)
			e.Replaces = []ulid.ULID{s.blocks[0].ULID}
			s.add(e)
			return Finding{Kind: KindOverlap, Tenant: "t", Block: s.blocks[1].ULID.String(), Partition: 1, From: 0, To: 10, Detail: "also in block " + e.ID.String()}
		}},
		{name: "block missing", plant: func(s *site) Finding {
			require.NoError(s.t, block.Delete(ctx, s.bkt, "u", s.blocks[3].ULID))
			return Finding{Kind: KindMissing, Tenant: "u", Block: s.blocks[3].ULID.String(), Partition: -1, Detail: "100 samples"}
		}},
		{name: "meta.json cut", plant: func(s *site) Finding {
			s.put(block.Key("u", s.blocks[3].ULID, schema.MetaFile), "{")
			return Finding{Kind: KindMissing, Tenant: "u", Block: s.blocks[3].ULID.String(), Partition: -1, Detail: "100 samples"}
		}},
		{name: "meta.json of another block", plant: func(s *site) Finding {
			s.put(block.Key("u", s.blocks[3].ULID, schema.MetaFile), string(s.bkt.Objects()[block.Key("t", s.blocks[2].ULID, schema.MetaFile)]))
			return Finding{Kind: KindUnreadable, Tenant: "u", Block: s.blocks[3].ULID.String(), Partition: -1, Detail: "it names block"}
		}},
		{name: "file missing", plant: func(s *site) Finding {
			s.delete(block.Key("u", s.blocks[3].ULID, "index"))
			return Finding{Kind: KindUnreadable, Tenant: "u", Block: s.blocks[3].ULID.String(), Partition: -1, Detail: "index"}
		}},
		{name: "file cut", plant: func(s *site) Finding {
			s.put(block.Key("u", s.blocks[3].ULID, "index"), "short")
			return Finding{Kind: KindUnreadable, Tenant: "u", Block: s.blocks[3].ULID.String(), Partition: -1, Detail: "5 bytes"}
		}},
		{name: "rotten file", plant: func(s *site) Finding {
			s.flip(block.Key("u", s.blocks[3].ULID, "chunks", "000001"), 20)
			return Finding{Kind: KindUnreadable, Tenant: "u", Block: s.blocks[3].ULID.String(), Partition: -1, Detail: "SHA256"}
		}},
		{name: "rotten chunk of a block without hashes", deep: true, plant: func(s *site) Finding {
			e := s.blocks[3].Entry(1)
			e.Files = slices.Clone(e.Files)
			for i := range e.Files {
				e.Files[i].Hash = nil
			}
			s.add(e)
			require.Empty(s.t, s.check(Options{}))
			s.flip(block.Key("u", s.blocks[3].ULID, "chunks", "000001"), 20)
			require.Empty(s.t, s.check(Options{}), "only deep looks into chunks")
			return Finding{Kind: KindUnreadable, Tenant: "u", Block: s.blocks[3].ULID.String(), Partition: -1, Detail: "read chunk"}
		}},
		{name: "counts differ", plant: func(s *site) Finding {
			e := s.blocks[3].Entry(1)
			e.Samples++
			s.add(e)
			return Finding{Kind: KindUnreadable, Tenant: "u", Block: s.blocks[3].ULID.String(), Partition: -1, Detail: "100 samples"}
		}},
		{name: "unknown block", plant: func(s *site) Finding {
			m := s.write("v", "a", 0, 7, schema.BlockOrigin{Tenant: "v"}, 1, nil)
			return Finding{Kind: KindOrphan, Tenant: "v", Block: m.ULID.String(), Partition: -1, Detail: "whole block with 7 samples"}
		}},
		{name: "partial upload", plant: func(s *site) Finding {
			m := s.write("u", "a", 0, 7, schema.BlockOrigin{Tenant: "u"}, 1, nil)
			s.delete(block.Key("u", m.ULID, schema.MetaFile))
			return Finding{Kind: KindOrphan, Tenant: "u", Block: m.ULID.String(), Partition: -1, Detail: "part of an upload: 2 objects"}
		}},
		{name: "object at the top", plant: func(s *site) Finding {
			s.put("notes.txt", "x")
			return Finding{Kind: KindOrphan, Partition: -1, Detail: "notes.txt is no tenant's folder"}
		}},
		{name: "object beside the blocks", plant: func(s *site) Finding {
			s.put("t/notes.txt", "x")
			return Finding{Kind: KindOrphan, Tenant: "t", Partition: -1, Detail: "t/notes.txt is no block's folder"}
		}},
		{name: "folder beside the blocks", plant: func(s *site) Finding {
			s.put("t/debug/x", "x")
			return Finding{Kind: KindOrphan, Tenant: "t", Partition: -1, Detail: "t/debug/ is no block's folder"}
		}},
		{name: "live block of another tenant", plant: func(s *site) Finding {
			s.remeta("u", *s.blocks[3], func(m *schema.BlockMeta) { m.Sluice.Tenant = "t" })
			return Finding{Kind: KindForeignTenant, Tenant: "u", Block: s.blocks[3].ULID.String(), Partition: -1, Detail: "meta.json names tenant t"}
		}},
		{name: "copied block of another tenant", plant: func(s *site) Finding {
			for name, content := range s.bkt.Objects() {
				if rest, ok := strings.CutPrefix(name, "u/"+s.blocks[3].ULID.String()); ok {
					s.put("t/"+s.blocks[3].ULID.String()+rest, string(content))
				}
			}
			return Finding{Kind: KindForeignTenant, Tenant: "t", Block: s.blocks[3].ULID.String(), Partition: -1, Detail: "meta.json names tenant u"}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			want := tc.plant(s)
			found := s.check(Options{Deep: tc.deep, Scratch: t.TempDir()})
			require.Len(t, found, 1, "%v", found)
			require.Contains(t, found[0].Detail, want.Detail)
			want.Detail = found[0].Detail
			require.Equal(t, want, found[0])
			require.True(t, strings.HasPrefix(found[0].String(), want.Kind))
		})
	}
}

// startsAt is a log whose retention has gone ahead of the consumer.
type startsAt struct {
	log.Log
	partition int32
	start     int64
}

func (l startsAt) Bounds(ctx context.Context, topic string, p int32) (log.Bounds, error) {
	b, err := l.Log.Bounds(ctx, topic, p)
	if topic == log.TopicSamples && p == l.partition {
		b.Start = l.start
	}
	return b, err
}

func TestOrphanAge(t *testing.T) {
	s := newSite(t)
	s.write("v", "a", 0, 7, schema.BlockOrigin{Tenant: "v"}, 1, nil)
	require.Empty(t, s.check(Options{OrphanAge: time.Hour}), "may be an upload under way")
	require.Len(t, s.check(Options{OrphanAge: time.Nanosecond}), 1)
}

// TestBlocksOfOneGenerationMayMeet: a generation made blocks of two windows; one was merged into a large block that spans
// the other's window, which holds other samples of the same offsets.
func TestBlocksOfOneGenerationMayMeet(t *testing.T) {
	s := newSite(t)
	late := s.block("t", 1, 10, 20, hour)
	merged := s.write("t", "a", 0, 10_000, schema.BlockOrigin{Tenant: "t", LogTime: hour, Ranges: []schema.LogRange{{TopicID: s.topicID, Partition: 1, From: 0, To: 30}}}, 3, []ulid.ULID{{1}, {2}})
	s.add(merged.Entry(1))
	require.Empty(t, s.check(Options{}))
	e := merged.Entry(1)
	e.Sources = append(e.Sources, late.ULID)
	s.add(e)
	require.Len(t, s.check(Options{}), 1)
}

func TestCancelled(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Run(ctx, s.log, s.bkt, Options{})
	require.ErrorIs(t, err, context.Canceled)
}
