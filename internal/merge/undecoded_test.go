package merge

import (
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
)

type chunkPoint struct {
	t int64
	v float64
}

func chunkPoints(t *testing.T, it chunkenc.Iterator) (out []chunkPoint) {
	t.Helper()
	for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
		p := chunkPoint{t: it.AtT()}
		if typ == chunkenc.ValFloat {
			_, p.v = it.At()
		} else {
			_, h := it.AtFloatHistogram(nil)
			p.v = -h.Sum
		}
		out = append(out, p)
	}
	require.NoError(t, it.Err())
	return out
}

// randomParts makes chunks from the time from on, some of histograms, and what is in them.
func randomParts(t *testing.T, rnd *rand.Rand, from int64) (parts []Chunk, all []chunkPoint) {
	t.Helper()
	for range rnd.IntN(4) {
		enc := []chunkenc.Encoding{chunkenc.EncXOR, chunkenc.EncXOR2, chunkenc.EncFloatHistogram}[rnd.IntN(3)]
		c, err := chunkenc.NewEmptyChunk(enc)
		require.NoError(t, err)
		app, err := c.Appender()
		require.NoError(t, err)
		part := Chunk{MinTime: from, Encoding: enc}
		for range 1 + rnd.IntN(10) {
			p := chunkPoint{from, rnd.Float64()}
			if enc == chunkenc.EncFloatHistogram {
				h := tsdbutil.GenerateTestFloatHistogram(from)
				_, _, app, err = app.AppendFloatHistogram(nil, 0, from, h, true)
				require.NoError(t, err)
				p.v = -h.Sum
			} else {
				app.Append(0, p.t, p.v)
			}
			all = append(all, p)
			part.MaxTime = from
			from += 1 + rnd.Int64N(20)
		}
		part.Data = c.Bytes()
		parts = append(parts, part)
	}
	return parts, all
}

// TestChunksSeries: the samples within the bounds, by Next and Seek in any order.
func TestChunksSeries(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var it chunkenc.Iterator
	for range 3000 {
		parts, all := randomParts(t, rnd, 100)
		from, to := rnd.Int64N(300), rnd.Int64N(600)
		var want []chunkPoint
		for _, p := range all {
			if p.t >= from && p.t <= to {
				want = append(want, p)
			}
		}
		for i := range parts {
			parts[i].From, parts[i].To = from, to
		}
		s := OfChunks(labels.FromStrings("a", "b"), parts)
		it = s.Iterator(it)
		require.Equal(t, want, chunkPoints(t, it))
		require.Equal(t, chunkenc.ValNone, it.Next())
		require.Equal(t, chunkenc.ValNone, it.Seek(0))

		it = s.Iterator(it)
		at := -1
		for range 20 {
			var typ chunkenc.ValueType
			if rnd.IntN(2) == 0 {
				typ = it.Next()
				at++
			} else {
				to := rnd.Int64N(600)
				typ = it.Seek(to)
				for at = max(at, 0); at < len(want) && want[at].t < to; at++ {
				}
			}
			if at >= len(want) {
				require.Equal(t, chunkenc.ValNone, typ)
				break
			}
			require.NotEqual(t, chunkenc.ValNone, typ)
			require.Equal(t, want[at].t, it.AtT())
		}

		n := 0
		for chunks := s.Chunks(nil); chunks.Next(); n++ {
			require.Equal(t, parts[n].Data, chunks.At().Chunk.Bytes())
		}
		require.Len(t, parts, n)
	}
	broken := OfChunks(labels.EmptyLabels(), []Chunk{{MaxTime: 5, To: 5, Encoding: 99, Data: []byte{0, 1, 2}}})
	it = broken.Iterator(it)
	require.Equal(t, chunkenc.ValNone, it.Next())
	require.Error(t, it.Err())
	require.Equal(t, chunkenc.ValNone, it.Next())
	require.Error(t, broken.Chunks(nil).Err())
}

// TestMergedChunks: several parts give their chunks as long as they are as good as merged samples.
func TestMergedChunks(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 1))
	given := 0
	for range 2000 {
		var series []storage.Series
		from := int64(0)
		for rank := range 2 + rnd.IntN(3) {
			if rnd.IntN(4) > 0 { // else they overlap
				from += 700
			}
			parts, _ := randomParts(t, rnd, from)
			for i := range parts {
				parts[i].From, parts[i].To = 0, 5000
			}
			s := OfChunks(labels.FromStrings("a", "b"), parts)
			series = append(series, Ranked(s, rank))
			if rnd.IntN(3) == 0 { // another zone has built the same
				series = append(series, Ranked(OfChunks(s.Labels(), parts), rank+10))
			}
		}
		rnd.Shuffle(len(series), func(i, j int) { series[i], series[j] = series[j], series[i] })
		m := Series(series...)
		if rnd.IntN(2) == 0 {
			m = Group(series...)
		}
		keep := []Chunk{{MinTime: -1}}
		out, ok := ChunksOf(m, keep)
		if !ok {
			require.Equal(t, keep, out)
			continue
		}
		given++
		require.Equal(t, keep, out[:1])
		require.Equal(t, chunkPoints(t, m.Iterator(nil)), chunkPoints(t, OfChunks(m.Labels(), out[1:]).Iterator(nil)))
		for i := range out[1:] {
			require.True(t, i == 0 || out[i+1].MinTime > out[i].MaxTime)
		}
	}
	require.Greater(t, given, 500)
	_, ok := ChunksOf(Series(OfChunks(labels.EmptyLabels(), nil), storage.NewListSeries(labels.EmptyLabels(), nil)), nil)
	require.False(t, ok)
}

// A consumer ranks its partitions and a reader its consumers: the chunks are there all the same.
func TestChunksOfRanked(t *testing.T) {
	parts, _ := randomParts(t, rand.New(rand.NewPCG(1, 2)), 100)
	inner := Ranked(OfChunks(labels.FromStrings("a", "b"), parts), 3)
	got, ok := ChunksOf(Ranked(Series(inner), 1), nil)
	require.True(t, ok)
	require.Equal(t, parts, got)
}
