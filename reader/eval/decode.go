package eval

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"sluice/internal/merge"
)

// The decoders of plain floats. They read what chunkenc reads (FuzzDecode), a whole chunk at a time: a sample costs no call
// through an interface and no allocation.

var (
	// errNotFloats says that a series has what only Prometheus' engine knows to evaluate: native histograms, or start
	// timestamps where they count.
	errNotFloats = errors.New("series has other samples than plain floats")
	errChunkCut  = errors.New("chunk ends in the middle of a sample")
)

const staleBits = value.StaleNaN

// samples are those of one series, in the order of their times.
type samples struct {
	ts     []int64
	vs     []float64
	padded []byte // scratch space
}

func (s *samples) reset() { s.ts, s.vs = s.ts[:0], s.vs[:0] }

// room makes place for n more.
func (s *samples) room(n int) {
	if need := len(s.ts) + n; need > cap(s.ts) {
		ts, vs := make([]int64, len(s.ts), need+need/2), make([]float64, len(s.vs), need+need/2)
		copy(ts, s.ts)
		copy(vs, s.vs)
		s.ts, s.vs = ts, vs
	}
}

// what is taken of a chunk.
type taking struct {
	from, to int64 // ms, both inclusive
	stale    bool  // stale markers too
	noStarts bool  // errNotFloats if there are start timestamps
}

// add decodes a chunk.
func (s *samples) add(c *merge.Chunk, what taking) error {
	what.from, what.to = max(what.from, c.From), min(what.to, c.To)
	if c.MinTime > what.to || c.MaxTime < what.from {
		return nil
	}
	if len(c.Data) < 3 {
		if len(c.Data) == 2 && c.Data[0] == 0 && c.Data[1] == 0 {
			return nil
		}
		return fmt.Errorf("chunk of %d bytes: %w", len(c.Data), errChunkCut)
	}
	s.room(int(binary.BigEndian.Uint16(c.Data)))
	switch c.Encoding {
	case chunkenc.EncXOR:
		return s.xor(c.Data, what)
	case chunkenc.EncXOR2:
		return s.xor2(c.Data, what)
	}
	return errNotFloats
}

// padding is what stands behind the bytes of a chunk: a sample that begins before their end can be read without looking.
const padding = 64

// reader reads bits. b has padding behind its end, at end bits.
type reader struct {
	b        []byte
	pos, end uint // in bits
}

// newReader begins at the byte from of data, which is copied for the padding.
func (s *samples) newReader(data []byte, from int) reader {
	s.padded = append(append(s.padded[:0], data...), make([]byte, padding)...)
	return reader{b: s.padded, pos: uint(from) * 8, end: uint(len(data)) * 8}
}

// peek returns the next 57 bits, and zeros.
func (r *reader) peek() uint64 {
	return binary.BigEndian.Uint64(r.b[r.pos>>3:]) << (r.pos & 7)
}

// take reads n bits, 1 to 64.
func (r *reader) take(n uint) uint64 {
	at, off := r.pos>>3, r.pos&7
	w := r.b[at : at+9]
	r.pos += n
	return (binary.BigEndian.Uint64(w)<<off | uint64(w[8])>>(8-off)) >> (64 - n)
}

func (r *reader) over() bool { return r.pos > r.end }

// varint reads as binary.ReadVarint does.
func (r *reader) varint() (int64, bool) {
	u, ok := r.uvarint()
	x := int64(u >> 1)
	if u&1 != 0 {
		x = ^x
	}
	return x, ok
}

func (r *reader) uvarint() (x uint64, ok bool) {
	for shift := uint(0); shift < 70; shift += 7 {
		b := r.take(8)
		if b < 0x80 {
			return x | b<<shift, !r.over() && !(shift == 63 && b > 1)
		}
		x |= b & 0x7f << shift
	}
	return 0, false
}

// signed makes a number of n bits what the encoder had; XOR's highest one is positive.
func signed(v uint64, n uint) int64 {
	if v > 1<<(n-1) {
		v -= 1 << n
	}
	return int64(v)
}

// xor decodes chunkenc.EncXOR: a header with the number of samples, the first time and value, then differences of
// differences of times and what differs between the bits of values.
func (s *samples) xor(data []byte, what taking) error {
	left := int(binary.BigEndian.Uint16(data))
	if left == 0 {
		return nil
	}
	r := s.newReader(data, 2)
	n := len(s.ts)
	ts, vs := s.ts[:n+left], s.vs[:n+left]
	t, ok := r.varint()
	v := r.take(64)
	if !ok || r.over() {
		return errChunkCut
	}
	if s.put(ts, vs, &n, t, v, what); left == 1 || t > what.to {
		s.ts, s.vs = ts[:n], vs[:n]
		return nil
	}
	delta, ok := r.uvarint()
	if !ok {
		return errChunkCut
	}
	t += int64(delta)
	var (
		pos, b    = r.pos, r.b
		tail, num = uint(0), uint(64) // of the window of bits that the last value took
		w         = r.peek()          // what comes next
	)
	for i := 1; ; i++ {
		// The value: w has 57 bits or, behind a time of up to 24 bits, 33.
		switch {
		case w>>63 == 0:
			pos++
		default:
			if w>>62 == 2 {
				pos += 2
				w <<= 2
			} else {
				lead := uint(w << 2 >> 59)
				num = (uint(w<<7>>58)-1)&63 + 1
				if lead+num > 64 {
					return errChunkCut
				}
				tail = 64 - lead - num
				pos += 13
				w <<= 13
			}
			if num > 20 {
				at, off := pos>>3, pos&7
				if at+9 > uint(len(b)) {
					return errChunkCut
				}
				w = binary.BigEndian.Uint64(b[at:])<<off | uint64(b[at+8])>>(8-off)
			}
			pos += num
			v ^= w >> (64 - num) << tail
		}
		if pos > r.end {
			return errChunkCut
		}
		if s.put(ts, vs, &n, t, v, what); i+1 == left || t > what.to {
			break
		}
		// The next time.
		w = binary.BigEndian.Uint64(b[pos>>3:]) << (pos & 7)
		for w>>62 == 0 { // same delta, same value
			pos += 2
			if pos > r.end {
				return errChunkCut
			}
			t += int64(delta)
			i++
			if s.put(ts, vs, &n, t, v, what); i+1 == left || t > what.to {
				s.ts, s.vs = ts[:n], vs[:n]
				return nil
			}
			w = binary.BigEndian.Uint64(b[pos>>3:]) << (pos & 7)
		}
		switch bits.LeadingZeros64(^w) {
		case 0:
			pos++
			w <<= 1
		case 1:
			delta += uint64(signed(w<<2>>50, 14))
			pos += 16
			w <<= 16
		case 2:
			delta += uint64(signed(w<<3>>47, 17))
			pos += 20
			w <<= 20
		case 3:
			delta += uint64(signed(w<<4>>44, 20))
			pos += 24
			w <<= 24
		default:
			r.pos = pos + 4
			delta += r.take(64)
			pos = r.pos
			w = r.peek()
		}
		t += int64(delta)
	}
	s.ts, s.vs = ts[:n], vs[:n]
	return nil
}

// put puts a sample at the place n, if it is to be taken.
func (s *samples) put(ts []int64, vs []float64, n *int, t int64, v uint64, what taking) {
	if uint(*n) < uint(len(ts)) && uint(*n) < uint(len(vs)) {
		ts[*n], vs[*n] = t, math.Float64frombits(v)
	}
	if t >= what.from && t <= what.to && (v != staleBits || what.stale) {
		*n++
	}
}

// xor2 decodes chunkenc.EncXOR2: as XOR, with one prefix for time and value, stale markers of a few bits, and, where the
// byte after the header says so, start timestamps behind each sample, which are read over.
func (s *samples) xor2(data []byte, what taking) error {
	left := int(binary.BigEndian.Uint16(data))
	if left == 0 {
		return nil
	}
	if what.noStarts && data[2] != 0 {
		return errNotFloats
	}
	firstStart, startsFrom := data[2]&0x80 != 0, int(data[2]&0x7f)
	r := s.newReader(data, 3)
	n := len(s.ts)
	ts, vs := s.ts[:n+left], s.vs[:n+left]
	t, ok := r.varint()
	v := r.take(64)
	if firstStart && ok {
		_, ok = r.varint()
	}
	if !ok || r.over() {
		return errChunkCut
	}
	var (
		delta uint64
		x     = xor2Value{}
	)
	if v != staleBits {
		x.base = v
	}
	for i := 0; ; i++ {
		if t > what.to {
			break
		}
		ts[n], vs[n] = t, math.Float64frombits(v)
		if t >= what.from && (v != staleBits || what.stale) {
			n++
		}
		if i+1 == left {
			break
		}
		if i == 0 {
			if delta, ok = r.uvarint(); !ok {
				return errChunkCut
			}
			v, ok = x.next(&r)
		} else {
			w := r.peek()
			switch bits.LeadingZeros64(^w) {
			case 0:
				r.pos++
				v = x.base
			case 1:
				r.pos += 2
				v, ok = x.changed(&r)
			case 2:
				delta += uint64(int64(w<<3) >> 51)
				r.pos += 16
				v, ok = x.next(&r)
			case 3:
				delta += uint64(int64(w<<4) >> 44)
				r.pos += 24
				v, ok = x.next(&r)
			case 4:
				r.pos += 5
				delta += r.take(64)
				v, ok = x.next(&r)
			default:
				r.pos += 5
				v = staleBits
			}
		}
		t += int64(delta)
		if ok && startsFrom > 0 && i+1 >= startsFrom {
			ok = r.skipVarbit()
		}
		if !ok || r.over() {
			return errChunkCut
		}
	}
	s.ts, s.vs = ts[:n], vs[:n]
	return nil
}

// xor2Value is what a value refers to: the last one that was no stale marker, and its window of bits.
type xor2Value struct {
	base       uint64
	lead, tail uint8
}

// next reads a value behind a time.
func (x *xor2Value) next(r *reader) (v uint64, ok bool) {
	switch w := r.peek(); {
	case w>>63 == 0:
		r.pos++
		return x.base, true
	case w>>62 == 2:
		r.pos += 2
		return x.same(r)
	case w>>61 == 6:
		r.pos += 3
		return x.window(r)
	}
	r.pos += 3
	return staleBits, true
}

// changed reads a value that is known to differ.
func (x *xor2Value) changed(r *reader) (v uint64, ok bool) {
	if r.take(1) == 0 {
		return x.same(r)
	}
	return x.window(r)
}

func (x *xor2Value) window(r *reader) (v uint64, ok bool) {
	w := r.take(11)
	x.lead = uint8(w >> 6)
	size := uint8(w & 63)
	if size == 0 {
		size = 64
	}
	x.tail = 64 - x.lead - size
	return x.same(r)
}

func (x *xor2Value) same(r *reader) (v uint64, ok bool) {
	size := 64 - x.lead - x.tail
	if size-1 > 63 {
		return 0, false
	}
	x.base ^= r.take(uint(size)) << x.tail
	return x.base, true
}

// varbitSizes are the bits of a number by the ones before it.
var varbitSizes = [9]uint{0, 3, 6, 9, 12, 18, 25, 56, 64}

// skipVarbit reads over a number of variable length.
func (r *reader) skipVarbit() bool {
	ones := min(uint(bits.LeadingZeros64(^r.peek())), 8)
	r.pos += min(ones+1, 8) + varbitSizes[ones]
	return !r.over()
}
