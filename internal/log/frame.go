package log

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
)

// A frame is one Record of the embedded log as the bytes of one wlog record (segment.go says how those lie in a file):
//
//	byte  0       format version, 1; 0 is no frame
//	byte  1       flags: bit 0 = the key is not nil, bit 1 = the value is not nil
//	bytes 2-9     offset, uint64, big endian
//	bytes 10-17   log time in ms, int64, big endian
//	bytes 18-21   offset − the first offset of the group that was written and synced at once, uint32, big endian
//	              --- up to here the prefix: filled in last, by whoever writes the group ---
//	uvarint n     length of the key; n bytes: the key
//	uvarint n     number of headers; each: uvarint length and bytes of the name, uvarint 1 + length and bytes of the
//	              value (0 = nil)
//	the rest      the value
//
// There is no checksum: each fragment of a wlog record has one. The group is what lets recovery tell a torn write (the
// frames after the damage are of the same group as what is missing, so none of them was ever acknowledged) from rot
// (they are of a later group, so what is missing had been acknowledged, and so have they).
//
// A compressed frame is one snappy block. Its first element is the prefix as a literal, so that the writer can fill in
// the prefix of a frame that its caller has compressed already.
const (
	frameVersion   = 1
	framePrefix    = 22
	flagKey        = 1 << 0
	flagValue      = 1 << 1
	headerOverhead = 10 // what a header counts towards MaxRecordBytes beyond its bytes: two lengths of up to five bytes

	// maxFrame bounds a frame, and so what a reader allocates for one: the prefix, two lengths, the record.
	maxFrame = framePrefix + 10 + MaxRecordBytes
	// minCompress is the smallest body that compression is tried on.
	minCompress = 64
)

// recordSize is what counts towards MaxRecordBytes.
func recordSize(r *Record) int {
	n := len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value) + headerOverhead
	}
	return n
}

// encodeFrame returns the frame of r with an empty prefix, in a slice of its own, and a copy of r whose key, value and
// header values are parts of it.
func encodeFrame(r *Record) ([]byte, Record) {
	b := make([]byte, framePrefix, framePrefix+10+recordSize(r))
	b[0] = frameVersion
	c := Record{Partition: r.Partition}

	b = binary.AppendUvarint(b, uint64(len(r.Key)))
	if r.Key != nil {
		b[1] |= flagKey
		b = append(b, r.Key...)
		c.Key = b[len(b)-len(r.Key) : len(b) : len(b)]
	}
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	if len(r.Headers) > 0 {
		c.Headers = make([]Header, len(r.Headers))
	}
	for i, h := range r.Headers {
		b = binary.AppendUvarint(b, uint64(len(h.Key)))
		b = append(b, h.Key...)
		c.Headers[i].Key = h.Key
		if h.Value == nil {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(h.Value))+1)
		b = append(b, h.Value...)
		c.Headers[i].Value = b[len(b)-len(h.Value) : len(b) : len(b)]
	}
	if r.Value != nil {
		b[1] |= flagValue
		b = append(b, r.Value...)
		c.Value = b[len(b)-len(r.Value) : len(b) : len(b)]
	}
	return b, c
}

// setPrefix fills in what is known only when the frame is written.
func setPrefix(prefix []byte, offset, time int64, group uint32) {
	binary.BigEndian.PutUint64(prefix[2:], uint64(offset))
	binary.BigEndian.PutUint64(prefix[10:], uint64(time))
	binary.BigEndian.PutUint32(prefix[18:], group)
}

// compressFrame compresses a frame whose prefix is still empty. It returns the snappy block, which is a part of scratch
// (grown if need be), and where its prefix stands, or nil if compression does not pay.
func compressFrame(scratch, frame []byte) (block []byte, prefix int, _ []byte) {
	body := frame[framePrefix:]
	if len(body) < minCompress {
		return nil, 0, scratch
	}
	const room = 2*binary.MaxVarintLen32 + 1 + framePrefix
	if need := room + s2.MaxEncodedLen(len(body)); cap(scratch) < need {
		scratch = make([]byte, need)
	}
	scratch = scratch[:cap(scratch)]
	enc := s2.EncodeSnappy(scratch[room:], body)
	if len(enc) > len(body)-len(body)/16 {
		return nil, 0, scratch
	}
	// The block of the body is its length and its elements. Put the length of the whole and the literal in the place
	// of the former, ending where the elements begin.
	var head [binary.MaxVarintLen32 + 1]byte
	n := binary.PutUvarint(head[:], uint64(len(frame)))
	head[n] = (framePrefix - 1) << 2 // a literal of framePrefix bytes
	n++
	_, skip := binary.Uvarint(enc)
	start := room + skip - n - framePrefix
	copy(scratch[start:], head[:n])
	copy(scratch[start+n:], frame[:framePrefix])
	return scratch[start : room+len(enc)], n, scratch
}

var errFrame = errors.New("malformed frame")

// decodeFrame fills r from a frame: its slices are parts of b. headers is reused for the headers. It returns the first
// offset of the group that the frame was written in.
func decodeFrame(b []byte, r *Record, headers []Header) (group int64, _ []Header, err error) {
	if len(b) < framePrefix || len(b) > maxFrame {
		return 0, headers, fmt.Errorf("%w: %d bytes", errFrame, len(b))
	}
	if b[0] != frameVersion {
		return 0, headers, fmt.Errorf("%w: version %d", errFrame, b[0])
	}
	flags := b[1]
	if flags&^(flagKey|flagValue) != 0 {
		return 0, headers, fmt.Errorf("%w: flags %#x", errFrame, flags)
	}
	r.Offset = int64(binary.BigEndian.Uint64(b[2:]))
	r.Time = int64(binary.BigEndian.Uint64(b[10:]))
	group = r.Offset - int64(binary.BigEndian.Uint32(b[18:]))
	if r.Offset < 0 || group < 0 {
		return 0, headers, fmt.Errorf("%w: offset %d, group %d", errFrame, r.Offset, group)
	}
	b = b[framePrefix:]

	r.Key, r.Value, r.Headers = nil, nil, nil
	key, b, ok := cut(b, 0)
	if !ok || (flags&flagKey == 0 && len(key) > 0) {
		return 0, headers, fmt.Errorf("%w: key", errFrame)
	}
	if flags&flagKey != 0 {
		r.Key = key
	}
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k)/2 { // a header takes two bytes or more: checked before anything grows
		return 0, headers, fmt.Errorf("%w: number of headers", errFrame)
	}
	b = b[k:]
	first := len(headers)
	for range n {
		var name, value []byte
		if name, b, ok = cut(b, 0); !ok {
			return 0, headers[:first], fmt.Errorf("%w: header name", errFrame)
		}
		if value, b, ok = cut(b, 1); !ok {
			return 0, headers[:first], fmt.Errorf("%w: header value", errFrame)
		}
		headers = append(headers, Header{Key: string(name), Value: value})
	}
	if n > 0 {
		r.Headers = headers[first:len(headers):len(headers)]
	}
	switch {
	case flags&flagValue != 0:
		r.Value = b[:len(b):len(b)]
	case len(b) > 0:
		return 0, headers[:first], fmt.Errorf("%w: bytes after a nil value", errFrame)
	}
	return group, headers, nil
}

// cut takes a length, less bias, and as many bytes off b. A length below bias is nil.
func cut(b []byte, bias uint64) (v, rest []byte, ok bool) {
	n, k := binary.Uvarint(b)
	if k <= 0 {
		return nil, b, false
	}
	b = b[k:]
	if n < bias {
		return nil, b, true
	}
	if n -= bias; n > uint64(len(b)) {
		return nil, b, false
	}
	return b[:n:n], b[n:], true
}

// decompressFrame appends the frame in a snappy block to dst.
func decompressFrame(dst, block []byte) ([]byte, error) {
	n, err := s2.DecodedLen(block)
	if err != nil {
		return dst, fmt.Errorf("%w: %w", errFrame, err)
	}
	if n > maxFrame {
		return dst, fmt.Errorf("%w: %d bytes", errFrame, n)
	}
	at := len(dst)
	dst = grow(dst, n)
	if _, err := s2.Decode(dst[at:at+n], block); err != nil {
		return dst, fmt.Errorf("%w: %w", errFrame, err)
	}
	return dst[:at+n], nil
}

// grow returns b with room for n more bytes. If it has to move, then to twice the size, and what points into the old
// bytes stays valid.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	c := make([]byte, len(b), max(2*cap(b), len(b)+n))
	copy(c, b)
	return c
}
