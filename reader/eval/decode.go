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
	ts []int64
	vs []float64
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

// reader reads bits.
type reader struct {
	b   []byte
	pos uint // in bits
}

// peek returns the next 64 bits; behind the end there are zeros.
func (r *reader) peek() uint64 {
	at, off := r.pos>>3, r.pos&7
	if at+9 <= uint(len(r.b)) {
		w := r.b[at : at+9 : at+9]
		return binary.BigEndian.Uint64(w)<<off | uint64(w[8])>>(8-off)
	}
	return r.peekEnd(at, off)
}

func (r *reader) peekEnd(at, off uint) uint64 {
	var w [9]byte
	if at < uint(len(r.b)) {
		copy(w[:], r.b[at:])
	}
	return binary.BigEndian.Uint64(w[:])<<off | uint64(w[8])>>(8-off)
}

// take reads n bits, 1 to 64.
func (r *reader) take(n uint) uint64 {
	v := r.peek() >> (64 - n)
	r.pos += n
	return v
}

func (r *reader) over() bool { return r.pos > uint(len(r.b))*8 }

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
	r := reader{b: data, pos: 16}
	n := len(s.ts)
	ts, vs := s.ts[:n+left], s.vs[:n+left]
	t, ok := r.varint()
	v := r.take(64)
	if !ok || r.over() {
		return errChunkCut
	}
	var (
		delta      uint64
		lead, tail uint8
	)
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
		} else if w := r.peek(); w>>62 == 0 { // same delta, same value
			r.pos += 2
			if r.over() {
				return errChunkCut
			}
			t += int64(delta)
			continue
		} else {
			switch bits.LeadingZeros64(^w) {
			case 0:
				r.pos++
			case 1:
				delta += uint64(signed(w<<2>>50, 14))
				r.pos += 16
			case 2:
				delta += uint64(signed(w<<3>>47, 17))
				r.pos += 20
			case 3:
				delta += uint64(signed(w<<4>>44, 20))
				r.pos += 24
			default:
				r.pos += 4
				delta += r.take(64)
			}
		}
		t += int64(delta)
		w := r.peek()
		switch {
		case w>>63 == 0:
			r.pos++
		default:
			if w>>62 == 2 {
				r.pos += 2
			} else {
				lead = uint8(w << 2 >> 59)
				size := uint8(w << 7 >> 58)
				if size == 0 {
					size = 64
				}
				tail = 64 - lead - size
				r.pos += 13
			}
			size := 64 - lead - tail
			if size-1 > 63 {
				return errChunkCut
			}
			v ^= r.take(uint(size)) << tail
		}
		if r.over() {
			return errChunkCut
		}
	}
	s.ts, s.vs = ts[:n], vs[:n]
	return nil
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
	r := reader{b: data, pos: 24}
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
