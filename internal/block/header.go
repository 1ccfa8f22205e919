package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/prometheus/prometheus/tsdb/index"
)

// The header of an index: all that a reader must have in memory to find its way in a block of any size, so that it opens
// the block with one GET and reads the rest by ranges. It lies beside the index as schema.HeaderFile, follows from the
// index alone, and is a help: a block without one, or with a broken one, is the same block, and takes more reads to open.
//
// The symbols and the postings offset table of the index are cut into stretches of some KiB. The header says where each
// begins and what its checksum is, so that one stretch can be read and believed without the others. A stretch of the table
// never has more than one label name in it, and no more than 64 KiB of postings unless it has a single value: so the list
// of a frequent value is found in the header, and the lists of rare ones can be fetched before one knows which it is.
//
// Version 1, numbers are uvarints unless said otherwise, strings are a uvarint length and bytes:
//
//	magic "SLHD", 4 bytes | version, 1 byte
//	size of the index | its SHA-256, 32 bytes, zeros if not known | format of the index
//	series: from, length | longest entry with its frame, 0 = not known | longest chunk with its frame, 0 = not known
//	symbols: first byte of the first symbol, number of stretches, and of each
//	    symbols, bytes, CRC32 (Castagnoli) as 4 bytes big-endian
//	labels: first byte of the first table entry, first byte of the postings, number of labels, and of each, in order of names
//	    name | ref of its symbol plus 1, 0 = not known | last value | number of stretches, and of each
//	        first value, values, bytes of the table, bytes of postings, CRC32 of the bytes of the table as above
//	CRC32 of everything before, 4 bytes big-endian
//
// The label with the empty name is first, as in the table: its one list is that of all series.

const (
	headerMagic   = "SLHD"
	headerVersion = 1

	stretchBytes    = 8 << 10
	stretchPostings = 64 << 10

	// HeaderFrom is the size of an index, in bytes, from which on it gets a header: a smaller one is read with one GET itself.
	HeaderFrom = 64 << 10
	// MaxHeader is the largest header that is believed, in bytes.
	MaxHeader = 256 << 20
)

// Header is a decoded header. It does not change.
type Header struct {
	IndexSize   int64
	IndexSum    [32]byte // SHA-256, zeros = not known
	IndexFormat int

	SeriesFrom, SeriesTo int64 // bytes of the index
	LongestSeries        int64 // bytes of the longest entry with its frame, 0 = not known
	LongestChunk         int64 // bytes, likewise

	Symbols     []SymbolStretch
	SymbolCount uint32

	Labels []HeaderLabel // in order of names
	byName map[string]int
	bytes  int64
}

// SymbolStretch is a part of the symbols.
type SymbolStretch struct {
	First    uint32 // the first symbol's number
	From, To int64  // bytes of the index
	Sum      uint32
}

// HeaderLabel is a label name, and where its values and their postings are.
type HeaderLabel struct {
	Name      string
	Ref       uint32 // its symbol, if HasRef
	HasRef    bool
	Last      string // its last value
	Values    int
	Stretches []TableStretch
}

// TableStretch is a part of the entries of one label in the postings offset table.
type TableStretch struct {
	First      string // value
	Values     int
	From, To   int64 // bytes of the index: the entries
	Lists, End int64 // bytes of the index: their postings
	Sum        uint32
}

// Label returns what is known of a label name, nil if the block does not have it.
func (h *Header) Label(name string) *HeaderLabel {
	i, ok := h.byName[name]
	if !ok {
		return nil
	}
	return &h.Labels[i]
}

// Bytes estimates the memory that the header takes.
func (h *Header) Bytes() int64 { return h.bytes }

// Append writes the header behind b.
func (h *Header) Append(b []byte) []byte {
	start := len(b)
	number := func(n int64) { b = binary.AppendUvarint(b, uint64(n)) }
	text := func(s string) { number(int64(len(s))); b = append(b, s...) }
	b = append(b, headerMagic...)
	b = append(b, headerVersion)
	number(h.IndexSize)
	b = append(b, h.IndexSum[:]...)
	number(int64(h.IndexFormat))
	number(h.SeriesFrom)
	number(h.SeriesTo - h.SeriesFrom)
	number(h.LongestSeries)
	number(h.LongestChunk)

	symbolsFrom := int64(0)
	if len(h.Symbols) > 0 {
		symbolsFrom = h.Symbols[0].From
	}
	number(symbolsFrom)
	number(int64(len(h.Symbols)))
	for i, s := range h.Symbols {
		next := h.SymbolCount
		if i+1 < len(h.Symbols) {
			next = h.Symbols[i+1].First
		}
		number(int64(next - s.First))
		number(s.To - s.From)
		b = binary.BigEndian.AppendUint32(b, s.Sum)
	}

	var table, lists int64
	if len(h.Labels) > 0 {
		table, lists = h.Labels[0].Stretches[0].From, h.Labels[0].Stretches[0].Lists
	}
	number(table)
	number(lists)
	number(int64(len(h.Labels)))
	for _, l := range h.Labels {
		text(l.Name)
		if l.HasRef {
			number(int64(l.Ref) + 1)
		} else {
			number(0)
		}
		text(l.Last)
		number(int64(len(l.Stretches)))
		for _, s := range l.Stretches {
			text(s.First)
			number(int64(s.Values))
			number(s.To - s.From)
			number(s.End - s.Lists)
			b = binary.BigEndian.AppendUint32(b, s.Sum)
		}
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli()))
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // the same table each time

// ErrHeader is in the chain of every error about a header that cannot be used.
var ErrHeader = errors.New("header of the index cannot be used")

// DecodeHeader reads a header. It keeps parts of b. ErrHeader: it is cut, changed, of another version or makes no sense.
func DecodeHeader(b []byte) (*Header, error) {
	if len(b) < len(headerMagic)+1+crc32.Size || string(b[:len(headerMagic)]) != headerMagic {
		return nil, fmt.Errorf("%w: %d bytes that do not begin like one", ErrHeader, len(b))
	}
	body := b[:len(b)-crc32.Size]
	if crc32.Checksum(body, castagnoli()) != binary.BigEndian.Uint32(b[len(body):]) {
		return nil, fmt.Errorf("%w: checksum does not fit", ErrHeader)
	}
	if v := b[len(headerMagic)]; v != headerVersion {
		return nil, fmt.Errorf("%w: version %d", ErrHeader, v)
	}
	d := headerDecoder{text: string(body), at: len(headerMagic) + 1}
	h := &Header{byName: map[string]int{}}
	h.IndexSize = d.number()
	copy(h.IndexSum[:], d.take(int64(len(h.IndexSum))))
	h.IndexFormat = int(d.number())
	h.SeriesFrom = d.number()
	h.SeriesTo = h.SeriesFrom + d.number()
	h.LongestSeries, h.LongestChunk = d.number(), d.number()
	d.symbols(h)
	d.labels(h)
	if d.err == nil && d.at != len(d.text) {
		d.fail("%d bytes too many", len(d.text)-d.at)
	}
	if d.err == nil {
		d.check(h)
	}
	if d.err != nil {
		return nil, d.err
	}
	h.measure(len(b))
	return h, nil
}

func (h *Header) measure(encoded int) {
	h.bytes = int64(encoded + 24*len(h.Symbols) + 64)
	for _, l := range h.Labels {
		h.bytes += int64(128 + 64*len(l.Stretches))
	}
}

// headerDecoder reads on until the first error. Strings share the memory of text.
type headerDecoder struct {
	text string
	at   int
	err  error
}

func (d *headerDecoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: "+format, append([]any{ErrHeader}, args...)...)
		d.at = len(d.text)
	}
}

// number reads a uvarint below 2^48, so that sums of a few do not overflow.
func (d *headerDecoder) number() int64 {
	var n uint64
	for shift := 0; shift < 49; shift += 7 {
		if d.at >= len(d.text) {
			d.fail("it is cut")
			return 0
		}
		c := d.text[d.at]
		d.at++
		n |= uint64(c&0x7f) << shift
		if c < 0x80 {
			if n >= 1<<48 {
				break
			}
			return int64(n)
		}
	}
	d.fail("a number is too large")
	return 0
}

func (d *headerDecoder) take(n int64) string {
	if n > int64(len(d.text)-d.at) {
		d.fail("it is cut")
		return ""
	}
	s := d.text[d.at : d.at+int(n)]
	d.at += int(n)
	return s
}

func (d *headerDecoder) sum() uint32 {
	s := d.take(crc32.Size)
	if len(s) < crc32.Size {
		return 0
	}
	return uint32(s[0])<<24 | uint32(s[1])<<16 | uint32(s[2])<<8 | uint32(s[3])
}

// count reads how many things of at least size bytes follow.
func (d *headerDecoder) count(size int) int {
	n := d.number()
	if n*int64(size) > int64(len(d.text)-d.at) {
		d.fail("it is cut")
		return 0
	}
	return int(n)
}

func (d *headerDecoder) symbols(h *Header) {
	pos := d.number()
	var first int64
	h.Symbols = make([]SymbolStretch, 0, d.count(2+crc32.Size))
	for range cap(h.Symbols) {
		n, length := d.number(), d.number()
		if n == 0 || n > length || first+n > math.MaxUint32 {
			d.fail("a stretch of %d bytes has %d symbols", length, n)
			return
		}
		h.Symbols = append(h.Symbols, SymbolStretch{First: uint32(first), From: pos, To: pos + length, Sum: d.sum()})
		first, pos = first+n, pos+length
	}
	h.SymbolCount = uint32(first)
}

func (d *headerDecoder) labels(h *Header) {
	table, lists := d.number(), d.number()
	h.Labels = make([]HeaderLabel, 0, d.count(4))
	for range cap(h.Labels) {
		l := HeaderLabel{Name: d.take(d.number())}
		ref := d.number()
		if l.HasRef = ref > 0; l.HasRef {
			l.Ref = uint32(ref - 1)
		}
		l.Last = d.take(d.number())
		l.Stretches = make([]TableStretch, 0, d.count(4+crc32.Size))
		for range cap(l.Stretches) {
			s := TableStretch{First: d.take(d.number()), Values: int(d.number()), From: table, Lists: lists}
			table, lists = table+d.number(), lists+d.number()
			s.To, s.End, s.Sum = table, lists, d.sum()
			if n := len(l.Stretches); n > 0 && s.First <= l.Stretches[n-1].First {
				d.fail("values of label %q are out of order", l.Name)
			}
			if s.Values == 0 || int64(s.Values) > s.To-s.From || int64(s.Values) > (s.End-s.Lists)/8 {
				d.fail("stretch of label %q with %d values in %d bytes", l.Name, s.Values, s.To-s.From)
			}
			l.Stretches = append(l.Stretches, s)
			l.Values += s.Values
		}
		if n := len(l.Stretches); d.err == nil && (n == 0 || l.Last < l.Stretches[n-1].First || ref > int64(h.SymbolCount)) {
			d.fail("label %q makes no sense", l.Name)
		}
		if n := len(h.Labels); d.err == nil && n > 0 && l.Name <= h.Labels[n-1].Name {
			d.fail("label %q is out of order", l.Name)
		}
		if d.err != nil {
			return
		}
		h.byName[l.Name] = len(h.Labels)
		h.Labels = append(h.Labels, l)
	}
}

// check holds the parts against each other: whatever a header says, nothing is read outside of the index.
func (d *headerDecoder) check(h *Header) {
	if h.IndexFormat != index.FormatV2 && h.IndexFormat != index.FormatV3 {
		d.fail("index format %d", h.IndexFormat)
	}
	if h.SeriesTo > h.IndexSize || h.LongestSeries > h.SeriesTo-h.SeriesFrom {
		d.fail("series end at %d of %d", h.SeriesTo, h.IndexSize)
	}
	if n := len(h.Symbols); n > 0 && h.Symbols[n-1].To > h.IndexSize {
		d.fail("symbols end at %d of %d", h.Symbols[n-1].To, h.IndexSize)
	}
	if n := len(h.Labels); n > 0 {
		last := h.Labels[n-1].Stretches
		if s := last[len(last)-1]; s.To > h.IndexSize || s.End > h.IndexSize {
			d.fail("tables end at %d and %d of %d", s.To, s.End, h.IndexSize)
		}
	}
}
