package block

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/prometheus/prometheus/tsdb/index"

	"sluice/schema"
)

// IndexSource gives the bytes [from, to) of an index file, in order. The reader of one range is read to its end, or not at
// all any more.
type IndexSource func(ctx context.Context, from, to int64) io.Reader

const (
	tocBytes    = 6*8 + 4
	seriesAlign = 16
	maxText     = 16 << 20 // the longest symbol that is believed
)

// BuildHeader derives the header from an index of size bytes, reading its tables once in bounded memory and checking their
// checksums and their order, on which every search relies. withSeries reads the series too, for the longest entry and chunk.
// The caller sets IndexSum. Errors say what is wrong with the index, or are those of the source.
func BuildHeader(ctx context.Context, src IndexSource, size int64, withSeries bool) (*Header, error) {
	if size < index.HeaderLen+tocBytes {
		return nil, fmt.Errorf("index of %d bytes is too short", size)
	}
	end := make([]byte, tocBytes)
	if _, err := io.ReadFull(src(ctx, size-tocBytes, size), end); err != nil {
		return nil, fmt.Errorf("read table of contents: %w", err)
	}
	toc, err := index.NewTOCFromByteSlice(wholeFile(end))
	if err != nil {
		return nil, fmt.Errorf("read table of contents: %w", err)
	}
	table := int64(toc.PostingsTable)
	if toc.Symbols < index.HeaderLen || toc.Series < toc.Symbols+8 || toc.Series > toc.PostingsTable || table < 0 || table > size-tocBytes-8 {
		return nil, fmt.Errorf("table of contents makes no sense: %+v", *toc)
	}
	b := &headerBuilder{ctx: ctx, src: src, Header: Header{IndexSize: size, byName: map[string]int{}}}
	b.SeriesFrom, b.SeriesTo = int64(toc.Series), table
	for _, section := range []uint64{toc.LabelIndices, toc.Postings, toc.LabelIndicesTable} {
		if s := int64(section); s > b.SeriesFrom && s < b.SeriesTo {
			b.SeriesTo = s
		}
	}
	postingsEnd := table
	if s := int64(toc.LabelIndicesTable); s > int64(toc.Postings) {
		postingsEnd = min(postingsEnd, s)
	}
	if err := b.readTable(table, size-tocBytes, postingsEnd); err != nil {
		return nil, err
	}
	if err := b.readSymbols(int64(toc.Symbols), b.SeriesFrom); err != nil {
		return nil, err
	}
	if withSeries {
		if err := b.readSeries(); err != nil {
			return nil, err
		}
	}
	b.measure(64 * len(b.Labels))
	return &b.Header, nil
}

// wholeFile is bytes as TSDB's decoders want them.
type wholeFile []byte

func (m wholeFile) Len() int                    { return len(m) }
func (m wholeFile) Range(start, end int) []byte { return m[start:end] }

type headerBuilder struct {
	ctx context.Context
	src IndexSource
	Header
	last []byte // value in the table
}

// section reads a section of the index: length, content, checksum.
type section struct {
	r    *bufio.Reader
	left int64 // of the content
	sum  hash.Hash32
	tail io.Reader
	raw  []byte // what was read since the last call of next
	err  error
}

// open begins to read the section that src stands at, whose content with length and checksum has most bytes at most.
func open(what string, src io.Reader, most int64) (*section, error) {
	var head [4]byte
	if _, err := io.ReadFull(src, head[:]); err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	length := int64(binary.BigEndian.Uint32(head[:]))
	if length < 4 || length > most-8 {
		return nil, fmt.Errorf("%s of %d bytes in %d", what, length, most)
	}
	s := &section{left: length, sum: crc32.New(castagnoli()), tail: src}
	s.r = bufio.NewReaderSize(io.TeeReader(io.LimitReader(src, length), s.sum), 64<<10)
	return s, nil
}

// close reads the rest and holds the checksum against the content.
func (s *section) close(what string) error {
	if s.err != nil {
		return fmt.Errorf("read %s: %w", what, s.err)
	}
	if _, err := io.Copy(io.Discard, s.r); err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	var sum [4]byte
	if _, err := io.ReadFull(s.tail, sum[:]); err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	if binary.BigEndian.Uint32(sum[:]) != s.sum.Sum32() {
		return fmt.Errorf("read %s: checksum does not fit", what)
	}
	return nil
}

var errSection = errors.New("it ends in the middle of an entry")

// next begins another entry in the memory of buf.
func (s *section) next(buf []byte) { s.raw = buf[:0] }

func (s *section) fixed(n int) []byte {
	from := len(s.raw)
	if s.err == nil && (n > maxText || int64(n) > s.left) {
		s.err = errSection
	}
	if s.err != nil {
		return make([]byte, min(n, 8))
	}
	s.raw = slices.Grow(s.raw, n)[:from+n]
	if _, err := io.ReadFull(s.r, s.raw[from:]); err != nil {
		s.err = err
	}
	s.left -= int64(n)
	return s.raw[from:]
}

func (s *section) uvarint() uint64 {
	var n uint64
	for shift := 0; s.err == nil && shift < 64; shift += 7 {
		if s.left == 0 {
			s.err = errSection
			return 0
		}
		c, err := s.r.ReadByte()
		if err != nil {
			s.err = err
			return 0
		}
		s.left--
		s.raw = append(s.raw, c)
		n |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return n
		}
	}
	if s.err == nil {
		s.err = errors.New("a number does not end")
	}
	return 0
}

func (s *section) text() []byte {
	n := s.uvarint()
	if n > maxText {
		s.err = errSection
		return nil
	}
	if n == 0 || s.err != nil {
		return nil
	}
	return s.fixed(int(n))
}

// tableRow is one entry of the postings offset table; the strings are parts of raw.
type tableRow struct {
	raw, name, value []byte
	off              int64
	pos              int64 // of the entry in the index
}

func (b *headerBuilder) readTable(from, to, postingsEnd int64) error {
	const what = "postings offset table"
	s, err := open(what, b.src(b.ctx, from, to), to-from)
	if err != nil {
		return err
	}
	count := binary.BigEndian.Uint32(s.fixed(4))
	pos := from + 8
	var cur, before tableRow // the one before waits for where its list ends
	for i := range count {
		if i%4096 == 0 && b.ctx.Err() != nil {
			return b.ctx.Err()
		}
		s.next(cur.raw)
		keys := s.uvarint()
		name := s.text()
		value := s.text()
		off := s.uvarint()
		if s.err != nil {
			return fmt.Errorf("read %s: %w", what, s.err)
		}
		if keys != 2 {
			return fmt.Errorf("%s: entry with %d keys", what, keys)
		}
		if off > uint64(postingsEnd)-8 || i > 0 && int64(off) <= before.off {
			return fmt.Errorf("%s: offset %d of entry %d is out of order", what, off, i)
		}
		cur = tableRow{raw: s.raw, name: name, value: value, off: int64(off), pos: pos}
		pos += int64(len(s.raw))
		if i > 0 {
			if c := bytes.Compare(before.name, cur.name); c > 0 || c == 0 && bytes.Compare(before.value, cur.value) >= 0 {
				return fmt.Errorf("%s: %q of %q comes after %q of %q", what, cur.value, cur.name, before.value, before.name)
			}
			b.addRow(&before, cur.off)
		}
		cur, before = before, cur
	}
	if count > 0 {
		b.addRow(&before, postingsEnd)
		b.endLabel()
	}
	return s.close(what)
}

// addRow takes an entry whose list ends at end, at the latest.
func (b *headerBuilder) addRow(row *tableRow, end int64) {
	n := len(b.Labels)
	if n == 0 || b.Labels[n-1].Name != string(row.name) {
		b.endLabel()
		b.Labels = append(b.Labels, HeaderLabel{Name: string(row.name)})
		b.byName[b.Labels[n].Name] = n
		n++
	}
	l := &b.Labels[n-1]
	m := len(l.Stretches)
	to := row.pos + int64(len(row.raw))
	if m == 0 || to-l.Stretches[m-1].From > stretchBytes || end-l.Stretches[m-1].Lists > stretchPostings {
		l.Stretches = append(l.Stretches, TableStretch{First: string(row.value), From: row.pos, Lists: row.off})
		m++
	}
	t := &l.Stretches[m-1]
	t.Values++
	t.To, t.End = to, end
	t.Sum = crc32.Update(t.Sum, castagnoli(), row.raw)
	l.Values++
	b.last = append(b.last[:0], row.value...)
}

// endLabel notes the last value of the last label.
func (b *headerBuilder) endLabel() {
	if n := len(b.Labels); n > 0 {
		b.Labels[n-1].Last = string(b.last)
	}
}

func (b *headerBuilder) readSymbols(from, to int64) error {
	const what = "symbols"
	var head [5]byte
	src := b.src(b.ctx, 0, to)
	if _, err := io.ReadFull(src, head[:]); err != nil {
		return fmt.Errorf("read magic number: %w", err)
	}
	if magic := binary.BigEndian.Uint32(head[:]); magic != index.MagicIndex {
		return fmt.Errorf("invalid magic number %x", magic)
	}
	b.IndexFormat = int(head[4])
	if b.IndexFormat != index.FormatV2 && b.IndexFormat != index.FormatV3 {
		return fmt.Errorf("index format %d is not supported", b.IndexFormat)
	}
	if _, err := io.CopyN(io.Discard, src, from-int64(len(head))); err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	s, err := open(what, src, to-from)
	if err != nil {
		return err
	}
	b.SymbolCount = binary.BigEndian.Uint32(s.fixed(4))
	pos := from + 8
	var raw []byte
	for i := range b.SymbolCount {
		if i%4096 == 0 && b.ctx.Err() != nil {
			return b.ctx.Err()
		}
		s.next(raw)
		symbol := s.text()
		raw = s.raw
		if s.err != nil {
			return fmt.Errorf("read %s: %w", what, s.err)
		}
		n := len(b.Symbols)
		if n == 0 || pos+int64(len(raw))-b.Symbols[n-1].From > stretchBytes {
			b.Symbols = append(b.Symbols, SymbolStretch{First: i, From: pos})
			n++
		}
		t := &b.Symbols[n-1]
		pos += int64(len(raw))
		t.To = pos
		t.Sum = crc32.Update(t.Sum, castagnoli(), raw)
		if at, ok := b.byName[string(symbol)]; ok {
			b.Labels[at].Ref, b.Labels[at].HasRef = i, true
		}
	}
	return s.close(what)
}

// readSeries looks for the longest entry and the longest chunk. Chunks lie in the order of series, so one ends where the
// next begins.
func (b *headerBuilder) readSeries() error {
	r := bufio.NewReaderSize(b.src(b.ctx, b.SeriesFrom, b.SeriesTo), 64<<10)
	var entry []byte
	var before uint64
	for pos := b.SeriesFrom; ; {
		if pad := (seriesAlign - pos%seriesAlign) % seriesAlign; pad > 0 {
			if _, err := r.Discard(int(pad)); err != nil {
				return endOfSeries(err)
			}
			pos += pad
		}
		length, err := binary.ReadUvarint(r)
		if err != nil {
			return endOfSeries(err)
		}
		if length == 0 { // what is left is padding
			return nil
		}
		if length > uint64(b.SeriesTo-pos) {
			return fmt.Errorf("series entry at %d has %d bytes", pos, length)
		}
		entry = slices.Grow(entry[:0], int(length)+crc32.Size)[:int(length)+crc32.Size]
		if _, err := io.ReadFull(r, entry); err != nil {
			return fmt.Errorf("read series at %d: %w", pos, err)
		}
		frame := int64(len(binary.AppendUvarint(nil, length)) + len(entry))
		b.LongestSeries = max(b.LongestSeries, frame)
		pos += frame
		before = b.chunksOf(entry[:length], before)
	}
}

func endOfSeries(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("read series: %w", err)
}

// chunksOf goes through the refs of a series' chunks; before is the last ref of the series before.
func (b *headerBuilder) chunksOf(entry []byte, before uint64) uint64 {
	d := entryDecoder(entry)
	for n := 2 * d.uvarint(); n > 0 && len(d) > 0; n-- {
		d.uvarint()
	}
	var ref uint64
	n := d.uvarint()
	for i := uint64(0); i < n && len(d) > 0; i++ {
		d.uvarint()
		d.uvarint()
		if i == 0 {
			ref = d.uvarint()
		} else {
			u := d.uvarint()
			ref += uint64(int64(u>>1) ^ -int64(u&1))
		}
		if ref>>32 == before>>32 && ref > before && before > 0 {
			b.LongestChunk = max(b.LongestChunk, int64(ref-before))
		}
		before = ref
	}
	return before
}

// entryDecoder reads numbers; at the end it gives zeros.
type entryDecoder []byte

func (d *entryDecoder) uvarint() uint64 {
	v, n := binary.Uvarint(*d)
	if n <= 0 {
		*d = nil
		return 0
	}
	*d = (*d)[n:]
	return v
}

// writeHeader puts the header beside the index in dir and describes it; nil if the index is too small for one. files are
// the block's.
func writeHeader(dir string, files []schema.BlockFile) (*schema.BlockFile, error) {
	at := slices.IndexFunc(files, func(f schema.BlockFile) bool { return f.Path == schema.IndexFile })
	if at < 0 || files[at].Size < HeaderFrom {
		return nil, nil
	}
	b, err := LocalHeader(dir, files[at])
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, schema.HeaderFile)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return nil, err
	}
	size, sum, err := hashFile(path)
	if err != nil {
		return nil, err
	}
	return &schema.BlockFile{Path: schema.HeaderFile, Size: size, Hash: &schema.FileHash{Func: "SHA256", String: sum}}, nil
}

// LocalHeader derives the bytes of the header from the index in dir, which is described by f.
func LocalHeader(dir string, f schema.BlockFile) ([]byte, error) {
	file, err := os.Open(filepath.Join(dir, schema.IndexFile))
	if err != nil {
		return nil, fmt.Errorf("derive header: %w", err)
	}
	defer file.Close()
	h, err := BuildHeader(context.Background(), func(_ context.Context, from, to int64) io.Reader {
		return io.NewSectionReader(file, from, to-from)
	}, f.Size, true)
	if err != nil {
		return nil, fmt.Errorf("derive header: %w", err)
	}
	h.IndexSum = SumOf(f)
	return h.Append(nil), nil
}

// SumOf returns the SHA-256 of a file, zeros if it is not known.
func SumOf(f schema.BlockFile) (sum [32]byte) {
	if f.Hash != nil && f.Hash.Func == "SHA256" && len(f.Hash.String) == hex.EncodedLen(len(sum)) {
		if b, err := hex.DecodeString(f.Hash.String); err == nil {
			copy(sum[:], b)
		}
	}
	return sum
}
