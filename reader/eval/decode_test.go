package eval

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/stretchr/testify/require"

	"sluice/internal/merge"
)

// someChunk encodes samples as they come, and some that nobody sends.
func someChunk(tb testing.TB, rnd *rand.Rand, enc chunkenc.Encoding) chunkenc.Chunk {
	tb.Helper()
	c, err := chunkenc.NewEmptyChunk(enc)
	require.NoError(tb, err)
	app, err := c.Appender()
	require.NoError(tb, err)
	ts, v, st := rnd.Int64N(1<<42)-1<<20, 0.0, int64(0)
	for range rnd.IntN(200) {
		switch rnd.IntN(8) {
		case 0:
			ts += rnd.Int64N(1 << (1 + rnd.IntN(40)))
		case 1, 2:
			ts += 15_000 + rnd.Int64N(20)
		default:
			ts += 15_000
		}
		switch rnd.IntN(9) {
		case 0:
			v = math.Float64frombits(value.StaleNaN)
		case 1:
			v = math.Float64frombits(rnd.Uint64())
		case 2:
			v = []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, math.Copysign(0, -1)}[rnd.IntN(5)]
		case 3, 4:
			v = float64(rnd.IntN(1000))
		case 5, 6:
			v += float64(rnd.IntN(100))
		}
		if enc == chunkenc.EncXOR2 && rnd.IntN(20) == 0 {
			st = ts - rnd.Int64N(1<<(1+rnd.IntN(50)))
		}
		app.Append(st, ts, v)
	}
	return c
}

// compare holds the decoder against chunkenc's iterator. What the iterator cannot read, the decoder must not read.
func compare(t *testing.T, enc chunkenc.Encoding, data []byte) {
	t.Helper()
	c, err := chunkenc.FromData(enc, data)
	require.NoError(t, err)
	var want samples
	it := c.Iterator(nil)
	for it.Next() != chunkenc.ValNone {
		ts, v := it.At()
		want.ts, want.vs = append(want.ts, ts), append(want.vs, v)
	}
	var got samples
	err = got.add(whole(enc, data), taking{from: math.MinInt64, to: math.MaxInt64, stale: true})
	if it.Err() != nil {
		require.Error(t, err)
		return
	}
	if err != nil { // a window of no bits, which no encoder writes
		return
	}
	require.Len(t, got.ts, len(want.ts))
	for i := range want.ts {
		require.Equal(t, want.ts[i], got.ts[i], "time %d", i)
		require.Equal(t, math.Float64bits(want.vs[i]), math.Float64bits(got.vs[i]), "value %d", i)
	}
}

func whole(enc chunkenc.Encoding, data []byte) *merge.Chunk {
	return &merge.Chunk{
		MinTime: math.MinInt64, MaxTime: math.MaxInt64, From: math.MinInt64, To: math.MaxInt64, Encoding: enc, Data: data,
	}
}

var encodings = []chunkenc.Encoding{chunkenc.EncXOR, chunkenc.EncXOR2}

func TestDecode(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		for _, enc := range encodings {
			c := someChunk(t, rnd, enc)
			var got samples
			require.NoError(t, got.add(whole(enc, c.Bytes()), taking{from: math.MinInt64, to: math.MaxInt64, stale: true}))
			require.Len(t, got.ts, c.NumSamples())
			compare(t, enc, c.Bytes())
		}
	}
}

// TestDecodeTakes: times outside and stale markers are left out, start timestamps are seen.
func TestDecodeTakes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 1))
	for range 500 {
		for _, enc := range encodings {
			c := someChunk(t, rnd, enc)
			var all, got samples
			require.NoError(t, all.add(whole(enc, c.Bytes()), taking{from: math.MinInt64, to: math.MaxInt64, stale: true}))
			if len(all.ts) == 0 {
				continue
			}
			what := taking{from: all.ts[rnd.IntN(len(all.ts))], to: all.ts[rnd.IntN(len(all.ts))], stale: rnd.IntN(2) == 0}
			var want samples
			for i, ts := range all.ts {
				if ts >= what.from && ts <= what.to && (what.stale || !value.IsStaleNaN(all.vs[i])) {
					want.ts, want.vs = append(want.ts, ts), append(want.vs, all.vs[i])
				}
			}
			require.NoError(t, got.add(whole(enc, c.Bytes()), what))
			require.Equal(t, len(want.ts), len(got.ts))
			for i := range want.ts {
				require.Equal(t, want.ts[i], got.ts[i])
				require.Equal(t, math.Float64bits(want.vs[i]), math.Float64bits(got.vs[i]))
			}
			err := got.add(whole(enc, c.Bytes()), taking{from: math.MinInt64, to: math.MaxInt64, noStarts: true})
			if enc == chunkenc.EncXOR2 && c.Bytes()[2] != 0 {
				require.ErrorIs(t, err, errNotFloats)
			} else {
				require.NoError(t, err)
			}
		}
	}
	h := chunkenc.NewHistogramChunk()
	require.ErrorIs(t, new(samples).add(whole(h.Encoding(), append([]byte{0, 1}, h.Bytes()...)), taking{to: math.MaxInt64}), errNotFloats)
}

func FuzzDecode(f *testing.F) {
	rnd := rand.New(rand.NewPCG(3, 1))
	for range 20 {
		f.Add(someChunk(f, rnd, chunkenc.EncXOR).Bytes(), false)
		f.Add(someChunk(f, rnd, chunkenc.EncXOR2).Bytes(), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, two bool) {
		enc := chunkenc.EncXOR
		if two {
			enc = chunkenc.EncXOR2
		}
		if len(data) < 3 {
			_ = new(samples).add(whole(enc, data), taking{to: math.MaxInt64})
			return
		}
		compare(t, enc, data)
	})
}

// BenchmarkDecode is a chunk of 120 samples of a counter scraped every 15 seconds.
func BenchmarkDecode(b *testing.B) {
	for _, enc := range encodings {
		b.Run(enc.String(), func(b *testing.B) {
			rnd := rand.New(rand.NewPCG(4, 1))
			c, err := chunkenc.NewEmptyChunk(enc)
			require.NoError(b, err)
			app, err := c.Appender()
			require.NoError(b, err)
			v := 0.0
			for i := range int64(120) {
				v += float64(rnd.IntN(50))
				app.Append(0, 1_700_000_000_000+i*15_000+rnd.Int64N(5), v)
			}
			require.Equal(b, uint16(120), binary.BigEndian.Uint16(c.Bytes()))
			chunk := whole(enc, c.Bytes())
			var s samples
			b.ReportAllocs()
			for b.Loop() {
				s.reset()
				if err := s.add(chunk, taking{from: math.MinInt64, to: math.MaxInt64}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*120), "ns/sample")
		})
	}
}
