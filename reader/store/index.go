package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/encoding"
	"github.com/prometheus/prometheus/tsdb/index"
)

// An index file (format 2 and 3 of tsdb/docs/format/index.md):
//
//	magic, version | symbols | series | label indices | postings | label offset table | postings offset table | TOC
//
// The symbols and the postings offset table are read when a block is opened, with every checksum, and stay in memory.
// TSDB's own index.Reader expects the whole file as memory and knows no context, so that it could neither plan its reads
// nor stop them; this one is made of the same exported decoders and asks for bytes where it needs them.

const (
	tocBytes    = 6*8 + 4
	seriesAlign = 16
	sampleEvery = 32 // of a label's values, every 32nd is in memory by itself
)

// blockIndex is an opened index; it does not change.
type blockIndex struct {
	file  *file
	pages *pages

	head    memory // the file up to the series: what symbols are looked up in
	table   []byte // entries of the postings offset table
	symbols *index.Symbols
	names   map[uint32]string // symbols that are label names, half of all look-ups
	labels  map[string]*labelTable
	decoder *index.Decoder

	seriesFrom, seriesTo int64
	postingsEnd          int64
	seriesGuess          int64 // bytes that most series' entries do not exceed
}

// labelTable is where a label name stands in the postings offset table.
type labelTable struct {
	from, to int // positions of its first entry and behind its last
	values   int
	samples  []tableSample // every sampleEvery-th entry, from the first on
}

type tableSample struct {
	value string
	pos   int
}

// memory is bytes as TSDB's decoders want them.
type memory []byte

func (m memory) Len() int                    { return len(m) }
func (m memory) Range(start, end int) []byte { return m[start:end] }

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // the same table each time

func openIndex(ctx context.Context, p *pages, f *file, series int64) (x *blockIndex, err error) {
	defer recovered(f, &err)
	if f.size < index.HeaderLen+tocBytes {
		return nil, fmt.Errorf("index of %d bytes is too short", f.size)
	}
	end, err := p.direct(ctx, f, span{max(0, f.size-64<<10), f.size})
	if err != nil {
		return nil, err
	}
	toc, err := index.NewTOCFromByteSlice(memory(end))
	if err != nil {
		return nil, fmt.Errorf("read table of contents: %w", err)
	}
	tableFrom, tableTo := int64(toc.PostingsTable), f.size-tocBytes
	if toc.Symbols < index.HeaderLen || toc.Series < toc.Symbols+8 || int64(toc.Series) > tableFrom || tableFrom < 0 || tableFrom > tableTo-8 {
		return nil, fmt.Errorf("table of contents makes no sense: %+v", *toc)
	}
	x = &blockIndex{file: f, pages: p, labels: map[string]*labelTable{}, names: map[uint32]string{}}
	x.seriesFrom = int64(toc.Series)
	x.seriesTo, x.postingsEnd = tableFrom, tableFrom
	for _, section := range []uint64{toc.LabelIndices, toc.Postings, toc.LabelIndicesTable} {
		if s := int64(section); s > x.seriesFrom && s < x.seriesTo {
			x.seriesTo = s
		}
	}
	if s := int64(toc.LabelIndicesTable); s > int64(toc.Postings) {
		x.postingsEnd = min(x.postingsEnd, s)
	}
	x.seriesGuess = min(max(2*(x.seriesTo-x.seriesFrom)/max(series, 1), 128), 16<<10)

	if x.head, err = p.direct(ctx, f, span{0, x.seriesFrom}); err != nil {
		return nil, err
	}
	if err := x.readHead(int(toc.Symbols)); err != nil {
		return nil, err
	}
	table := memory(end)
	if from := f.size - int64(len(end)); tableFrom >= from {
		table = slices.Clone(table[tableFrom-from : len(table)-tocBytes])
	} else if table, err = p.direct(ctx, f, span{tableFrom, tableTo}); err != nil {
		return nil, err
	}
	return x, x.readTable(table)
}

// readHead reads magic, version and symbols.
func (x *blockIndex) readHead(symbols int) error {
	if magic := binary.BigEndian.Uint32(x.head); magic != index.MagicIndex {
		return fmt.Errorf("invalid magic number %x", magic)
	}
	version := int(x.head[4])
	if version != index.FormatV2 && version != index.FormatV3 {
		return fmt.Errorf("index format %d is not supported", version)
	}
	// The number of symbols is used to allocate, so it is held against the bytes that there are.
	if length, count := binary.BigEndian.Uint32(x.head[symbols:]), binary.BigEndian.Uint32(x.head[symbols+4:]); count > length {
		return fmt.Errorf("symbol table of %d bytes claims %d symbols", length, count)
	}
	var err error
	if x.symbols, err = index.NewSymbols(x.head, version, symbols); err != nil {
		return fmt.Errorf("read symbols: %w", err)
	}
	x.decoder = &index.Decoder{LookupSymbol: x.lookupSymbol, DecodePostings: index.DecodePostingsRaw}
	return nil
}

// readTable reads the postings offset table and checks its order, on which every search relies.
func (x *blockIndex) readTable(table memory) error {
	d := encoding.NewDecbufAt(table, 0, castagnoli())
	if d.Err() != nil {
		return fmt.Errorf("read postings offset table: %w", d.Err())
	}
	count := d.Be32int()
	x.table = d.Get()
	var (
		cur       *labelTable
		name, val string
		lastOff   int64
	)
	pos := 0
	for i := range count {
		e, err := x.entry(pos)
		if err != nil {
			return err
		}
		switch {
		case cur == nil || string(e.name) != name:
			if cur != nil && string(e.name) < name {
				return fmt.Errorf("postings offset table: label %q comes after %q", e.name, name)
			}
			name = string(e.name)
			cur = &labelTable{from: pos}
			x.labels[name] = cur
		case string(e.value) <= val:
			return fmt.Errorf("postings offset table: value %q of %q comes after %q", e.value, name, val)
		}
		if e.off <= lastOff || e.off > x.postingsEnd-8 {
			return fmt.Errorf("postings offset table: offset %d of entry %d is out of order", e.off, i)
		}
		val, lastOff = string(e.value), e.off
		if cur.values%sampleEvery == 0 {
			cur.samples = append(cur.samples, tableSample{val, pos})
		}
		cur.values++
		pos = e.next
		cur.to = pos
	}
	x.table = x.table[:pos]
	for name := range x.labels {
		if name == "" { // all series
			continue
		}
		ref, err := x.symbols.ReverseLookup(name)
		if err != nil {
			return fmt.Errorf("look up label name: %w", err)
		}
		x.names[ref] = name
	}
	return nil
}

// tableEntry is one entry of the postings offset table.
type tableEntry struct {
	name, value []byte
	off         int64
	next        int // position of the next entry
}

func (x *blockIndex) entry(pos int) (tableEntry, error) {
	d := encoding.Decbuf{B: x.table[pos:]}
	keys := d.Uvarint()
	e := tableEntry{name: d.UvarintBytes(), value: d.UvarintBytes(), off: int64(d.Uvarint64())}
	if d.Err() != nil {
		return tableEntry{}, fmt.Errorf("read postings offset table: %w", d.Err())
	}
	if keys != 2 {
		return tableEntry{}, fmt.Errorf("entry of postings offset table has %d keys", keys)
	}
	e.next = len(x.table) - d.Len()
	return e, nil
}

func (x *blockIndex) bytes() int64 {
	n := len(x.head) + len(x.table) + x.symbols.Size()
	for name, l := range x.labels {
		n += 2*len(name) + 64 + len(l.samples)*32
	}
	return int64(n)
}

func (x *blockIndex) lookupSymbol(_ context.Context, ref uint32) (string, error) {
	if name, ok := x.names[ref]; ok {
		return name, nil
	}
	return x.symbols.Lookup(ref)
}

// walk calls f for the entries of a label from position pos on, until f returns false.
func (x *blockIndex) walk(ctx context.Context, l *labelTable, pos int, f func(value string, list span) bool) error {
	for i := 0; pos < l.to; i++ {
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		e, err := x.entry(pos)
		if err != nil {
			return err
		}
		end := x.postingsEnd // of the list: where the next one starts
		if e.next < len(x.table) {
			after, err := x.entry(e.next)
			if err != nil {
				return err
			}
			end = after.off
		}
		if !f(string(e.value), span{e.off, end}) {
			return nil
		}
		pos = e.next
	}
	return nil
}

// lists returns where the postings of the given values (sorted) are; values that the block does not have are left out.
func (x *blockIndex) lists(ctx context.Context, name string, values []string) ([]span, error) {
	l := x.labels[name]
	if l == nil {
		return nil, nil
	}
	var out []span
	for len(values) > 0 {
		i := sort.Search(len(l.samples), func(i int) bool { return l.samples[i].value > values[0] }) - 1
		if i < 0 { // before the first value
			values = values[1:]
			continue
		}
		next := ""
		if i+1 < len(l.samples) {
			next = l.samples[i+1].value
		}
		err := x.walk(ctx, l, l.samples[i].pos, func(value string, list span) bool {
			for len(values) > 0 && values[0] < value {
				values = values[1:]
			}
			for len(values) > 0 && values[0] == value {
				if n := len(out); n == 0 || out[n-1] != list {
					out = append(out, list)
				}
				values = values[1:]
			}
			return len(values) > 0 && (next == "" || values[0] < next)
		})
		if err != nil {
			return nil, err
		}
		if next == "" { // that was the last stretch
			return out, nil
		}
	}
	return out, nil
}

// postings reads the lists and merges them.
func (x *blockIndex) postings(ctx context.Context, lists []span) (index.Postings, error) {
	its := make([]index.Postings, len(lists))
	err := x.pages.read(ctx, x.file, lists, func(i int, b []byte) error {
		d := encoding.NewDecbufAt(memory(b), 0, castagnoli())
		if d.Err() != nil {
			return fmt.Errorf("postings at %d: %w", lists[i].from, d.Err())
		}
		var err error
		if _, its[i], err = x.decoder.DecodePostings(d); err != nil {
			return fmt.Errorf("postings at %d: %w", lists[i].from, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(its) == 0 {
		return index.EmptyPostings(), nil
	}
	return index.Merge(ctx, its...), nil
}

// series reads the entries of refs, which must be sorted, and gives each to use: its labels in builder, its chunks in
// metas unless withChunks is false. use must not keep metas.
func (x *blockIndex) series(ctx context.Context, refs []storage.SeriesRef, withChunks bool, use func(ref storage.SeriesRef, builder *labels.ScratchBuilder, metas []chunks.Meta) error) error {
	spans := make([]span, len(refs))
	for i, ref := range refs {
		from := int64(ref) * seriesAlign
		if uint64(ref) > uint64(x.seriesTo) || from < x.seriesFrom || from > x.seriesTo-5 {
			return fmt.Errorf("series %d is outside of the series", ref)
		}
		spans[i] = span{from, min(from+x.seriesGuess, x.seriesTo)}
	}
	var builder labels.ScratchBuilder
	var metas []chunks.Meta
	var dst *[]chunks.Meta
	if withChunks {
		dst = &metas
	}
	return x.pages.framed(ctx, x.file, spans, 0, func(i int, b []byte) error {
		builder.Reset()
		if err := x.decoder.Series(b, &builder, dst); err != nil {
			return fmt.Errorf("series %d: %w", refs[i], err)
		}
		return use(refs[i], &builder, metas)
	})
}

var errFrame = errors.New("length or checksum does not fit")

// framed reads frames of the form
//
//	length (uvarint) | extra bytes | length bytes | CRC32 (Castagnoli) of extra and length bytes
//
// and gives extra and length bytes to use. The spans say where frames start and how far they are thought to go; a frame
// that is longer is read again. The order of calls is not the order of spans.
func (p *pages) framed(ctx context.Context, f *file, spans []span, extra int, use func(i int, b []byte) error) error {
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
	err := p.read(ctx, f, spans, func(i int, b []byte) error {
		need, err := check(i, b)
		if need > 0 {
			again, longer = append(again, i), append(longer, span{spans[i].from, spans[i].from + need})
		}
		return err
	})
	if err != nil || len(again) == 0 {
		return err
	}
	return p.read(ctx, f, longer, func(j int, b []byte) error {
		need, err := check(again[j], b)
		if need > 0 {
			return fmt.Errorf("frame at %d: %w", longer[j].from, errFrame)
		}
		return err
	})
}

// maxFrame is the longest series entry or chunk that is believed.
const maxFrame = 64 << 20
