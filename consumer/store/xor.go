package store

import (
	"encoding/binary"
	"math/bits"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// The encoder of plain floats, which writes what chunkenc.XORChunk writes, bit for bit (TestXOR): a header with the number of
// samples, the first time and value whole, then differences of differences of times, and of values what differs between
// their bits. It writes up to 64 bits at a time, where the other one goes byte by byte.

const (
	encFloat   = chunkenc.EncXOR
	headerBits = 16
	noLead     = 0xff // no window of bits yet

	// sampleRoom is the most that a sample takes, and what a write of 64 bits may touch behind it, in bytes.
	sampleRoom = 32
	// firstSize and maxSize are the memory of an open chunk, in bytes.
	firstSize = 64
	maxSize   = 1024 + sampleRoom
	// maxChunkBits is where a chunk is full: with one more sample it has at most 1024 bytes.
	maxChunkBits = (1024 - 19) * 8
)

// append writes a sample. b has room for it, and is zero from s.pos on.
func (s *series) append(b []byte, t int64, v uint64) {
	pos := uint(s.pos)
	switch s.count {
	case 0:
		pos += 8 * uint(binary.PutVarint(b[pos/8:], t))
		pos = put(b, pos, v, 64)
	case 1:
		s.delta = uint64(t - s.newest)
		pos += 8 * uint(binary.PutUvarint(b[pos/8:], s.delta))
		pos = s.putValue(b, pos, v)
	default:
		delta := uint64(t - s.newest)
		switch dod := int64(delta - s.delta); {
		case dod == 0:
			pos++
		case fits(dod, 14):
			pos = put(b, pos, 0b10<<14|uint64(dod)&(1<<14-1), 16)
		case fits(dod, 17):
			pos = put(b, pos, 0b110<<17|uint64(dod)&(1<<17-1), 20)
		case fits(dod, 20):
			pos = put(b, pos, 0b1110<<20|uint64(dod)&(1<<20-1), 24)
		default:
			pos = put(b, pos, 0b1111, 4)
			pos = put(b, pos, uint64(dod), 64)
		}
		s.delta = delta
		pos = s.putValue(b, pos, v)
	}
	s.newest, s.bits = t, v
	s.count++
	s.pos = uint16(pos)
}

// putValue writes how v differs from the value before it.
func (s *series) putValue(b []byte, pos uint, v uint64) uint {
	diff := v ^ s.bits
	if diff == 0 {
		return pos + 1
	}
	lead := min(uint8(bits.LeadingZeros64(diff)), 31)
	trail := uint8(bits.TrailingZeros64(diff))
	if s.lead != noLead && lead >= s.lead && trail >= s.trail {
		pos = put(b, pos, 0b10, 2)
		return put(b, pos, diff>>s.trail, uint(64-s.lead-s.trail))
	}
	s.lead, s.trail = lead, trail
	n := uint(64 - lead - trail)
	pos = put(b, pos, 0b11<<11|uint64(lead)<<6|uint64(n&63), 13)
	return put(b, pos, diff>>trail, n)
}

// fits tells whether x has a place among the differences of n bits.
func fits(x int64, n uint8) bool {
	return -(1<<(n-1)-1) <= x && x <= 1<<(n-1)
}

// put writes the low n bits of u, 1 to 64, at the bit pos, and returns where they end. It may touch nine bytes.
func put(b []byte, pos uint, u uint64, n uint) uint {
	at, off := pos>>3, pos&7
	u <<= 64 - n
	word := b[at : at+9 : at+9]
	binary.BigEndian.PutUint64(word, binary.BigEndian.Uint64(word)|u>>off)
	if off+n > 64 {
		word[8] = byte(u << (64 - off) >> 56)
	}
	return pos + n
}

// bytes returns the open chunk's bytes, the header up to date.
func (s *series) bytes(a *arena) []byte {
	b := a.bytes(s.at, int(s.pos+7)/8)
	binary.BigEndian.PutUint16(b, s.count)
	return b
}

// firstTime is that of the first sample of a chunk of plain floats.
func firstTime(b []byte) int64 {
	t, _ := binary.Varint(b[headerBits/8:])
	return t
}
