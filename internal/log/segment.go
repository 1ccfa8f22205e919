package log

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// A segment is a file in the format of Prometheus' write-ahead log (tsdb/wlog), so that a tool for one reads the other:
//
//	pages of 32 KiB; a record is one or more fragments, none of which crosses the end of a page
//	fragment:  byte 0     type in the low three bits: 1 whole record, 2 first, 3 middle, 4 last fragment of one;
//	                      bit 3: the record (not the fragment) is compressed by snappy
//	           bytes 1-2  length of the data, big endian
//	           bytes 3-6  CRC-32C of the data, big endian
//	           the data
//	a zero in the place of a type: the rest of the page is zeros
//
// The bytes are written here and not by wlog.WL because a WL cannot be given up: after a failed write it only closes if
// another write succeeds, and that write lands behind whatever was repaired meanwhile. Here a group is one write whose
// failure leaves the published part of the file as it was. The reader is ours because it has to go on after damage, and
// because it reads many records at a time. Tests hold both against package wlog.
//
// The files of a partition are named by eight digits, growing; numbers may be missing.
const (
	pageSize       = 32 * 1024
	fragmentHeader = 7
	windowSize     = 8 * pageSize // what a scanner reads at once

	fragmentFull   = 1
	fragmentFirst  = 2
	fragmentMiddle = 3
	fragmentLast   = 4
	typeMask       = 7
	snappyFlag     = 1 << 3
)

// segment is one file of a partition. Everything but index and path is guarded by the partition's mu.
type segment struct {
	index int
	path  string
	first int64 // offset of the first record; the file holds [first, first of the next segment)
	time  int64 // log time, ms, of the first record
	size  int64 // bytes that may be read
}

func segmentPath(dir string, index int) string {
	return filepath.Join(dir, fmt.Sprintf("%08d", index))
}

// listSegments returns the segments in dir by index, with their sizes and nothing else filled in.
func listSegments(dir string) ([]*segment, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segs []*segment
	for _, f := range files {
		i, err := strconv.Atoi(f.Name())
		if err != nil || i < 0 || segmentPath(dir, i) != filepath.Join(dir, f.Name()) {
			continue
		}
		info, err := f.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue // trimmed by the process that owns the log, while this one only reads
		}
		if err != nil {
			return nil, err
		}
		segs = append(segs, &segment{index: i, path: segmentPath(dir, i), size: info.Size()})
	}
	slices.SortFunc(segs, func(a, b *segment) int { return a.index - b.index })
	return segs, nil
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	zeros      [pageSize]byte
)

// appendFragments appends a record as fragments to buf, the first byte of which will stand at position base of a file.
func appendFragments(buf []byte, base int64, rec []byte, compressed bool) []byte {
	var flags byte
	if compressed {
		flags = snappyFlag
	}
	for first := true; first || len(rec) > 0; first = false {
		left := pageSize - int((base+int64(len(buf)))%pageSize)
		if left <= fragmentHeader { // no room for a byte of data
			buf = append(buf, zeros[:left]...)
			left = pageSize
		}
		part := rec[:min(len(rec), left-fragmentHeader)]
		rec = rec[len(part):]
		typ := byte(fragmentMiddle)
		switch {
		case first && len(rec) == 0:
			typ = fragmentFull
		case first:
			typ = fragmentFirst
		case len(rec) == 0:
			typ = fragmentLast
		}
		buf = append(buf, typ|flags)
		buf = binary.BigEndian.AppendUint16(buf, uint16(len(part)))
		buf = binary.BigEndian.AppendUint32(buf, crc32.Checksum(part, castagnoli))
		buf = append(buf, part...)
	}
	return buf
}

// fragmentsSize is the most that a record of n bytes adds to a file.
func fragmentsSize(n int) int64 {
	return int64(n) + int64(fragmentHeader*(2+n/(pageSize-fragmentHeader))) + fragmentHeader
}

// corruption is what scanner.next returns for bytes that are no record. The scanner stands at the next place where one
// can begin.
type corruption struct {
	pos int64 // of the first bad byte's record
	why string
}

func (c *corruption) Error() string { return fmt.Sprintf("corrupt at byte %d: %s", c.pos, c.why) }

// scanner reads the records of a segment in order.
type scanner struct {
	src   io.ReaderAt
	limit int64 // end of what may be read; may grow between calls
	pos   int64 // of the next fragment
	start int64 // of the record that next returned

	win    []byte // bytes of the file from winPos on
	winPos int64
	block  []byte // the compressed record, put together
	lost   bool   // after damage: fragments that continue a record belong to the lost one
}

// reset makes the scanner read another file, keeping its buffers.
func (s *scanner) reset(src io.ReaderAt, pos, limit int64) {
	s.src, s.pos, s.limit, s.winPos, s.lost = src, pos, limit, 0, false
	s.win = s.win[:0]
}

// next appends the next record, decompressed, to dst. It returns io.EOF at the limit, *corruption, or what the file
// returned.
func (s *scanner) next(dst []byte) ([]byte, error) {
	at := len(dst)
	inside := false // a record has begun
	compressed := false
	s.block = s.block[:0]
	for {
		left := pageSize - s.pos%pageSize
		avail := s.limit - s.pos
		if avail <= 0 {
			if inside {
				return dst[:at], s.damaged("the file ends inside of a record", s.pos)
			}
			return dst[:at], io.EOF
		}
		if left < fragmentHeader {
			s.pos += left
			continue
		}
		head, err := s.peek(min(left, avail))
		if err != nil {
			return dst[:at], err
		}
		if !inside {
			s.start = s.pos
		}
		if head[0] == 0 {
			if !isZero(head) {
				return dst[:at], s.damaged("bytes after the end of a page", s.pos+int64(len(head)))
			}
			s.pos += int64(len(head))
			continue
		}
		data, why := checkFragment(head)
		if why != "" {
			return dst[:at], s.damaged(why, s.resync(head))
		}
		typ := head[0] & typeMask
		begins := typ == fragmentFull || typ == fragmentFirst
		switch {
		case inside && begins:
			return dst[:at], s.damaged("a record does not end", s.pos)
		case !inside && !begins:
			end := s.pos + int64(fragmentHeader+len(data))
			if s.lost {
				s.pos = end
				continue
			}
			return dst[:at], s.damaged("a record does not begin", end)
		case begins:
			compressed = head[0]&snappyFlag != 0
		}
		inside, s.lost = true, false
		s.pos += int64(fragmentHeader + len(data))
		if len(dst)-at+len(s.block)+len(data) > maxFrame {
			return dst[:at], s.damaged("a record is too large", s.pos)
		}
		if compressed {
			s.block = append(s.block, data...)
		} else {
			dst = append(grow(dst, len(data)), data...)
		}
		if typ == fragmentFirst || typ == fragmentMiddle {
			continue
		}
		if compressed {
			if dst, err = decompressFrame(dst, s.block); err != nil {
				return dst[:at], s.damaged(err.Error(), s.pos)
			}
		}
		return dst, nil
	}
}

// damaged returns the corruption at the present record and goes on at pos.
func (s *scanner) damaged(why string, pos int64) *corruption {
	s.pos, s.lost = pos, true
	return &corruption{pos: s.start, why: why}
}

// checkFragment returns the data of the fragment that page, the rest of a page, begins with, or what is wrong with it.
func checkFragment(page []byte) (data []byte, why string) {
	if len(page) < fragmentHeader {
		return nil, "a fragment is cut short"
	}
	if typ := page[0] & typeMask; page[0]&^(typeMask|snappyFlag) != 0 || typ < fragmentFull || typ > fragmentLast {
		return nil, fmt.Sprintf("fragment type %#x", page[0])
	}
	n := int(binary.BigEndian.Uint16(page[1:]))
	if n > len(page)-fragmentHeader {
		return nil, "a fragment is cut short"
	}
	data = page[fragmentHeader : fragmentHeader+n]
	if crc32.Checksum(data, castagnoli) != binary.BigEndian.Uint32(page[3:]) {
		return nil, "checksum"
	}
	return data, ""
}

// resync returns where to go on after the bad fragment that page begins with: behind it, if its length leads to a good
// one, else at the next page.
func (s *scanner) resync(page []byte) int64 {
	if len(page) >= fragmentHeader {
		n := fragmentHeader + int(binary.BigEndian.Uint16(page[1:]))
		if n < len(page) {
			if _, why := checkFragment(page[n:]); why == "" || isZero(page[n:]) {
				return s.pos + int64(n)
			}
		}
	}
	return s.pos + int64(len(page))
}

// peek returns the n bytes at pos; they do not cross a page.
func (s *scanner) peek(n int64) ([]byte, error) {
	if s.pos < s.winPos || s.pos+n > s.winPos+int64(len(s.win)) {
		if s.win == nil {
			s.win = make([]byte, windowSize)
		}
		s.winPos = s.pos - s.pos%pageSize
		s.win = s.win[:min(windowSize, s.limit-s.winPos)]
		k, err := s.src.ReadAt(s.win, s.winPos)
		s.win = s.win[:k]
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if s.winPos+int64(k) < s.pos+n {
			// Shorter than it was: what is missing is damage, reported when the limit is reached.
			s.limit = s.winPos + int64(k)
			if s.limit <= s.pos {
				s.start = s.pos
				return nil, s.damaged("the file is shorter than it was", s.limit)
			}
			n = s.limit - s.pos
		}
	}
	i := s.pos - s.winPos
	return s.win[i : i+n], nil
}

func isZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), pageSize)
		if string(b[:n]) != string(zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
