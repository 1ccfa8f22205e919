package front

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql"
)

// A matrix is kept as the number of its series and then each series: its labels, its floats, its histograms, and all of it
// through snappy. Times are varints of how the distance to the one before differs from the distance before that, which
// is 0 for steps without gaps; values are varints of the bits that differ from the value before, the last bit first.

// encodeMatrix returns the bytes of m.
func encodeMatrix(m promql.Matrix) []byte {
	b := binary.AppendUvarint(nil, uint64(len(m)))
	for i := range m {
		s := &m[i]
		b = binary.AppendUvarint(b, uint64(s.Metric.Len()))
		s.Metric.Range(func(l labels.Label) {
			b = appendString(appendString(b, l.Name), l.Value)
		})
		drop := uint64(0)
		if s.DropName {
			drop = 1
		}
		b = binary.AppendUvarint(b, uint64(len(s.Floats))<<1|drop)
		var clock times
		last := uint64(0)
		for _, p := range s.Floats {
			b = binary.AppendVarint(b, clock.next(p.T))
			v := math.Float64bits(p.F)
			b = binary.AppendUvarint(b, bits.Reverse64(v^last))
			last = v
		}
		b = binary.AppendUvarint(b, uint64(len(s.Histograms)))
		clock = times{}
		for _, p := range s.Histograms {
			b = binary.AppendVarint(b, clock.next(p.T))
			h := prompb.FromFloatHistogram(0, p.H)
			text, err := h.Marshal()
			if err != nil { // never of numbers
				return nil
			}
			b = appendString(b, string(text))
		}
	}
	return snappy.Encode(nil, b)
}

// times turns times into how their distances differ, and back.
type times struct{ last, delta int64 }

func (c *times) next(t int64) int64 {
	delta := t - c.last
	d := delta - c.delta
	c.last, c.delta = t, delta
	return d
}

func (c *times) back(d int64) int64 {
	c.delta += d
	c.last += c.delta
	return c.last
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errMatrix = errors.New("matrix is cut short or has wrong lengths")

// maxMatrixBytes is what a matrix may unpack to.
const maxMatrixBytes = 1 << 30

// decodeMatrix is encodeMatrix' inverse.
func decodeMatrix(data []byte) (promql.Matrix, error) {
	if n, err := snappy.DecodedLen(data); err != nil || n > maxMatrixBytes {
		return nil, errMatrix
	}
	raw, err := snappy.Decode(nil, data)
	if err != nil {
		return nil, errMatrix
	}
	d := &decoder{b: raw}
	m := make(promql.Matrix, 0, d.count(3))
	builder := labels.NewScratchBuilder(8)
	for range cap(m) {
		builder.Reset()
		for range d.count(2) {
			name, value := d.text(), d.text()
			builder.Add(string(name), string(value))
		}
		s := promql.Series{Metric: builder.Labels()}
		head := d.uvarint()
		s.DropName = head&1 == 1
		if n := d.most(head>>1, 2); n > 0 {
			s.Floats = make([]promql.FPoint, n)
		}
		var clock times
		last := uint64(0)
		for i := range s.Floats {
			t := clock.back(d.varint())
			last ^= bits.Reverse64(d.uvarint())
			s.Floats[i] = promql.FPoint{T: t, F: math.Float64frombits(last)}
		}
		if n := d.count(2); n > 0 {
			s.Histograms = make([]promql.HPoint, n)
		}
		clock = times{}
		for i := range s.Histograms {
			t := clock.back(d.varint())
			var h prompb.Histogram
			if err := h.Unmarshal(d.text()); err != nil {
				return nil, errMatrix
			}
			s.Histograms[i] = promql.HPoint{T: t, H: h.ToFloatHistogram()}
		}
		if d.bad {
			return nil, errMatrix
		}
		m = append(m, s)
	}
	if d.bad || len(d.b) > 0 {
		return nil, errMatrix
	}
	return m, nil
}

// decoder reads from b; bad says that something was not there.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads a number of things that have at least size bytes each.
func (d *decoder) count(size int) int { return d.most(d.uvarint(), size) }

func (d *decoder) most(n uint64, size int) int {
	if n > uint64(len(d.b)/size) {
		d.bad, d.b = true, nil
		return 0
	}
	return int(n)
}

func (d *decoder) text() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	text := d.b[:n]
	d.b = d.b[n:]
	return text
}
