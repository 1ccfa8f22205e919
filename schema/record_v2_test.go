package schema

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

type refBytes struct {
	ref uint32
	b   string
}

// contents is everything in a record.
type contents struct {
	epoch                 uint64
	defs, hists, exemplar []refBytes
	floats                []Float
	meta                  []string
}

func (c *contents) encode() []byte {
	var w RecordWriter
	w.Reset()
	for _, d := range c.defs {
		w.Define(d.ref, []byte(d.b))
	}
	for _, f := range c.floats {
		w.Float(f.Ref, f.Time, f.Start, f.Value)
	}
	for _, h := range c.hists {
		w.Histogram(h.ref, []byte(h.b))
	}
	for _, e := range c.exemplar {
		w.Exemplar(e.ref, []byte(e.b))
	}
	for _, m := range c.meta {
		w.Metadata([]byte(m))
	}
	return w.Append(nil, c.epoch)
}

func decodeColumns(value []byte) (c contents, err error) {
	var r Columns
	if err := r.Parse(value); err != nil {
		return c, err
	}
	c.epoch = r.Epoch
	for _, s := range []struct {
		next func() (uint32, []byte, bool, error)
		into *[]refBytes
	}{{r.NextDefinition, &c.defs}, {r.NextHistogram, &c.hists}, {r.NextExemplar, &c.exemplar}} {
		for {
			ref, b, ok, err := s.next()
			if err != nil {
				return c, err
			}
			if !ok {
				break
			}
			*s.into = append(*s.into, refBytes{ref, string(b)})
		}
	}
	for {
		var f Float
		ok, err := r.NextFloat(&f)
		if err != nil {
			return c, err
		}
		if !ok {
			break
		}
		c.floats = append(c.floats, f)
	}
	for {
		m, ok, err := r.NextMetadata()
		if err != nil {
			return c, err
		}
		if !ok {
			return c, nil
		}
		c.meta = append(c.meta, string(m))
	}
}

// same compares values by their bits.
func (c contents) same(t testing.TB, got contents) {
	t.Helper()
	require.Len(t, got.floats, len(c.floats))
	for i := range c.floats {
		require.Equal(t, math.Float64bits(c.floats[i].Value), math.Float64bits(got.floats[i].Value), "float %d", i)
		c.floats[i].Value, got.floats[i].Value = 0, 0
	}
	require.Equal(t, c, got)
}

var oddValues = []float64{
	0, math.Copysign(0, -1), 1, -1, 0.5, math.Pi, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64,
	1 << 53, -(1 << 53), 1<<53 - 1, -(1<<53 - 1), 1 << 62, math.MaxInt64, math.MinInt64, 63, 64, 31, 32, -32, -33,
	math.Float64frombits(0x7ff0000000000002), math.Float64frombits(0x7ff8000000000001), math.Float64frombits(1),
}

func TestRecordV2(t *testing.T) {
	contents{}.same(t, must(decodeColumns((&contents{}).encode())))
	all := contents{epoch: math.MaxUint64, defs: []refBytes{{0, "x"}, {MaxRef, ""}}, hists: []refBytes{{1, "h"}}, exemplar: []refBytes{{2, "e"}}, meta: []string{"m", ""}}
	for i, v := range oddValues {
		all.floats = append(all.floats, Float{Ref: uint32(i*7919) & MaxRef, Time: int64(i-3) * 1e12, Value: v})
	}
	all.floats = append(all.floats, Float{Time: math.MaxInt64}, Float{Time: math.MinInt64}, Float{Ref: MaxRef})
	all.same(t, must(decodeColumns(all.encode())))
	for i := range all.floats { // the first start comes late, some are odd
		all.floats[i].Start = []int64{0, 0, 0, all.floats[i].Time, all.floats[i].Time - 1, all.floats[i].Time + 1, 0, 1}[i%8]
	}
	all.same(t, must(decodeColumns(all.encode())))

	raw := all.encode()
	for n := range raw {
		if got, err := decodeColumns(raw[:n]); err == nil {
			require.NotEqual(t, len(all.meta)+len(all.floats), len(got.meta)+len(got.floats), "cut at %d of %d", n, len(raw))
		}
	}
}

func must(c contents, err error) contents {
	if err != nil {
		panic(err)
	}
	return c
}

// TestRecordV2Golden: records in logs must stay readable.
func TestRecordV2Golden(t *testing.T) {
	c := contents{
		epoch: 0x0102030405060708, defs: []refBytes{{5, "ab"}}, hists: []refBytes{{6, "h"}}, exemplar: []refBytes{{7, "e"}}, meta: []string{"m"},
		floats: []Float{{5, 1000, 0, 1}, {6, 1000, 900, 0.5}, {4, 990, 0, -3}},
	}
	require.Equal(t, "0807060504030201"+ // epoch
		"010405026162"+ // 5 = ab
		"02030a0203"+ // refs
		"0304d00f0013"+ // times
		"040401c80101"+ // starts
		"050504053fe00a"+ // values
		"0603060168"+
		"0703070165"+
		"0802016d", hexOf(c.encode()))
}

func TestRecordV2Rejects(t *testing.T) {
	for name, value := range map[string]string{
		"empty":             "",
		"short":             "1234567",
		"section 0":         "12345678\x00\x00",
		"section 9":         "12345678\x09\x00",
		"twice":             "12345678\x01\x00\x01\x00",
		"out of order":      "12345678\x02\x00\x01\x00",
		"length":            "12345678\x01\x05abc",
		"ref too large":     "12345678\x01\x06\xff\xff\xff\xff\x0f\x00",
		"float without t":   "12345678\x02\x01\x00",
		"float without v":   "12345678\x02\x01\x00\x03\x01\x00",
		"more times":        "12345678\x02\x01\x00\x03\x02\x00\x00\x05\x01\x00",
		"more values":       "12345678\x02\x01\x00\x03\x01\x00\x05\x02\x00\x00",
		"negative ref":      "12345678\x02\x01\x01\x03\x01\x00\x05\x01\x00",
		"value of 0 bytes":  "12345678\x02\x01\x00\x03\x01\x00\x05\x01\x01",
		"value of 9 bytes":  "12345678\x02\x01\x00\x03\x01\x00\x05\x0a\x13123456789",
		"value cut":         "12345678\x02\x01\x00\x03\x01\x00\x05\x02\x11\x01",
		"metadata cut":      "12345678\x08\x02\x05a",
		"histogram cut":     "12345678\x06\x02\x05\x09",
		"unterminated uint": "12345678\x01\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		_, err := decodeColumns([]byte(value))
		require.ErrorIs(t, err, ErrRecord, name)
	}
}

func FuzzRecordV2(f *testing.F) {
	f.Add((&contents{epoch: 1, defs: []refBytes{{1, "x"}}, floats: []Float{{1, 2, 3, 4}, {1, 5, 0, math.Pi}}, hists: []refBytes{{1, "h"}}}).encode())
	f.Add([]byte("12345678"))
	f.Fuzz(func(t *testing.T, value []byte) {
		c, err := decodeColumns(value)
		if err != nil {
			return
		}
		again, err := decodeColumns(c.encode())
		require.NoError(t, err)
		c.same(t, again)
	})
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

// scrape makes values as an exporter has them: counters that are whole numbers, seconds, ratios, and many that stay zero.
func scrape(rnd *rand.Rand, n int) []Float {
	floats := make([]Float, n)
	for i := range floats {
		f := &floats[i]
		f.Ref, f.Time = uint32(i*3/2), 1_700_000_000_000
		switch rnd.IntN(10) {
		case 0, 1, 2:
		case 3, 4, 5:
			f.Value = float64(rnd.IntN(100_000))
		case 6, 7:
			f.Value = float64(rnd.Int64N(1 << 33))
		case 8:
			f.Value = math.Round(rnd.Float64()*1e6) / 1e3
		default:
			f.Value = rnd.NormFloat64()
		}
	}
	return floats
}

func BenchmarkRecordV2(b *testing.B) {
	floats := scrape(rand.New(rand.NewPCG(1, 2)), 2000)
	var w RecordWriter
	var raw []byte
	encode := func() {
		w.Reset()
		for i := range floats {
			f := &floats[i]
			w.Float(f.Ref, f.Time, 0, f.Value)
		}
		raw = w.Append(raw[:0], 42)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			encode()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(floats)), "ns/sample")
	})
	encode()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	require.NoError(b, err)
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		var c Columns
		var f Float
		for b.Loop() {
			if err := c.Parse(raw); err != nil {
				b.Fatal(err)
			}
			for {
				ok, err := c.NextFloat(&f)
				if err != nil {
					b.Fatal(err)
				}
				if !ok {
					break
				}
			}
		}
		n := float64(len(floats))
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/sample")
		b.ReportMetric(float64(len(raw))/n, "bytes/sample")
		b.ReportMetric(float64(len(snappy.Encode(nil, raw)))/n, "snappy-bytes/sample")
		b.ReportMetric(float64(len(enc.EncodeAll(raw, nil)))/n, "zstd-bytes/sample")
	})
}
