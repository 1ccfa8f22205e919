package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"
	"strings"
	"unsafe"

	layout "sluice/internal/block"
)

// An index file (format 2 and 3 of tsdb/docs/format/index.md):
//
//	magic, version | symbols | series | label indices | postings | label offset table | postings offset table | TOC
//
// In memory is its header (internal/block/header.go), which says where in the tables to look; everything else is read by
// ranges when a query needs it, and held against the checksums of the header, of postings and of series.
//
// TSDB's own index.Reader expects the whole file as memory and knows no context, so that it could neither plan its reads
// nor stop them.

const seriesAlign = 16

// blockIndex is an opened index; it does not change.
type blockIndex struct {
	*layout.Header
	file  *file
	pages *pages

	names       map[uint32]string // symbols that are label names, as far as they are known
	seriesGuess int64             // bytes that most series' entries do not exceed
}

func newIndex(p *pages, f *file, h *layout.Header, series int64) *blockIndex {
	x := &blockIndex{Header: h, file: f, pages: p, names: make(map[uint32]string, len(h.Labels)), seriesGuess: h.LongestSeries}
	if x.seriesGuess == 0 {
		x.seriesGuess = max(2*(h.SeriesTo-h.SeriesFrom)/max(series, 1), 128)
	}
	x.seriesGuess = min(x.seriesGuess, 16<<10)
	for i := range h.Labels {
		if l := &h.Labels[i]; l.HasRef {
			x.names[l.Ref] = l.Name
		}
	}
	return x
}

func (x *blockIndex) bytes() int64 { return x.Bytes() + int64(64*len(x.names)) + 256 }

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // the same table each time

// rows gives the entries of a stretch, whose bytes are b, to f until f returns false. The value is only good for the call.
func (x *blockIndex) rows(l *layout.HeaderLabel, s *layout.TableStretch, b []byte, f func(value []byte, list span) bool) error {
	if crc32.Checksum(b, castagnoli()) != s.Sum {
		return fmt.Errorf("postings offset table at %d: %w", s.From, errSum)
	}
	d := numbers{b: b}
	var value []byte
	list := span{s.Lists, s.Lists}
	for i := range s.Values + 1 {
		next, off := []byte(nil), s.End
		if i < s.Values {
			keys, name := d.uvarint(), d.bytes()
			next, off = d.bytes(), int64(d.uvarint())
			if d.failed || keys != 2 || string(name) != l.Name || off < list.from || off > s.End-8 {
				return fmt.Errorf("postings offset table at %d: entry %d makes no sense", s.From, i)
			}
		}
		if i > 0 && !f(value, span{list.from, off}) {
			return nil
		}
		value, list.from = next, off
	}
	return nil
}

// stretches returns those in which the values with the given prefix are.
func stretches(l *layout.HeaderLabel, prefix string) []layout.TableStretch {
	all := l.Stretches
	if prefix == "" {
		return all
	}
	from := max(sort.Search(len(all), func(i int) bool { return all[i].First > prefix })-1, 0)
	to := from + sort.Search(len(all)-from, func(i int) bool {
		first := all[from+i].First
		return first > prefix && !strings.HasPrefix(first, prefix)
	})
	return all[from:to]
}

// walk gives the values of a label in the given stretches, in order, to f until f returns false. f must copy a value that
// it keeps. Memory is that of the pages of some stretches.
func (x *blockIndex) walk(ctx context.Context, l *layout.HeaderLabel, in []layout.TableStretch, f func(value string, list span) bool) error {
	var spans []span
	read := in[:0:0] // the stretches that are not in the header as they are
	done := 0
	giveKnown := func(to *layout.TableStretch) bool { // those before to
		for ; done < len(in) && (to == nil || in[done].From < to.From); done++ {
			if s := &in[done]; s.Values == 1 && !f(s.First, span{s.Lists, s.End}) {
				return false
			}
		}
		return true
	}
	for _, s := range in {
		if s.Values > 1 {
			read, spans = append(read, s), append(spans, span{s.From, s.To})
		}
	}
	err := x.pages.read(ctx, x.file, forTable, spans, func(i int, b []byte) error {
		if !giveKnown(&read[i]) {
			return errEnough
		}
		enough := false
		err := x.rows(l, &read[i], b, func(value []byte, list span) bool {
			enough = !f(unsafe.String(unsafe.SliceData(value), len(value)), list)
			return !enough
		})
		if enough {
			return errEnough
		}
		return err
	})
	if err == nil {
		giveKnown(nil)
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// errEnough ends a read early.
var errEnough = errors.New("enough")

var errSum = errors.New("checksum does not fit")

// appendList decodes one list of postings behind refs.
func (x *blockIndex) appendList(refs []uint32, at int64, b []byte) ([]uint32, error) {
	if len(b) < 12 {
		return nil, fmt.Errorf("postings at %d: %w", at, errFrame)
	}
	length, count := int64(binary.BigEndian.Uint32(b)), int64(binary.BigEndian.Uint32(b[4:]))
	if length != 4+4*count || length > int64(len(b))-8 {
		return nil, fmt.Errorf("postings at %d: %w", at, errFrame)
	}
	if crc32.Checksum(b[4:4+length], castagnoli()) != binary.BigEndian.Uint32(b[4+length:]) {
		return nil, fmt.Errorf("postings at %d: %w", at, errFrame)
	}
	refs = slices.Grow(refs, int(count))
	before := int64(-1)
	for b = b[8 : 4+length]; len(b) >= 4; b = b[4:] {
		ref := binary.BigEndian.Uint32(b)
		if int64(ref) <= before {
			return nil, fmt.Errorf("postings at %d: series %d comes after %d", at, ref, before)
		}
		before = int64(ref)
		refs = append(refs, ref)
	}
	return refs, nil
}

// numbers reads uvarints and strings; once it failed it gives zeros.
type numbers struct {
	b      []byte
	failed bool
}

func (d *numbers) uvarint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		n := d.b[0]
		d.b = d.b[1:]
		return uint64(n)
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.b, d.failed = nil, true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *numbers) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *numbers) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.b, d.failed = nil, true
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

var errFrame = errors.New("length or checksum does not fit")

// framed reads frames of the form
//
//	length (uvarint) | extra bytes | length bytes | CRC32 (Castagnoli) of extra and length bytes
//
// and gives extra and length bytes to use. The spans say where frames start and how far they are thought to go; a frame
// that is longer is read again. The order of calls is not the order of spans.
func (p *pages) framed(ctx context.Context, f *file, why reason, spans []span, extra int, use func(i int, b []byte) error) error {
	var again []int
	check := func(i int, b []byte) (need int64, err error) {
		length, n := binary.Uvarint(b)
		if n <= 0 || n > binary.MaxVarintLen32 || length > maxFrame {
			return 0, fmt.Errorf("frame at %d: %w", spans[i].from, errFrame)
		}
		sum := n + extra + int(length)
		if need = int64(sum + crc32.Size); need > int64(len(b)) {
			return need, nil
		}
		if crc32.Checksum(b[n:sum], castagnoli()) != binary.BigEndian.Uint32(b[sum:]) {
			return 0, fmt.Errorf("frame at %d: %w", spans[i].from, errFrame)
		}
		return 0, use(i, b[n:sum])
	}
	var longer []span
	err := p.read(ctx, f, why, spans, func(i int, b []byte) error {
		need, err := check(i, b)
		if need > 0 {
			again, longer = append(again, i), append(longer, span{spans[i].from, spans[i].from + need})
		}
		return err
	})
	if err != nil || len(again) == 0 {
		return err
	}
	return p.read(ctx, f, why, longer, func(j int, b []byte) error {
		need, err := check(again[j], b)
		if need > 0 {
			return fmt.Errorf("frame at %d: %w", longer[j].from, errFrame)
		}
		return err
	})
}

// maxFrame is the longest series entry or chunk that is believed.
const maxFrame = 64 << 20
