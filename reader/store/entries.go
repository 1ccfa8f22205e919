package store

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// entries are series as they stand in the index: their labels are numbers of symbols until resolve has read those.
type entries struct {
	series []entry
	pairs  []uint32      // symbols of names and values, in turn
	metas  []chunks.Meta // of chunks in the range that was asked for

	symbols []uint32 // sorted; after resolve
	texts   []string // of symbols
}

type entry struct {
	ref                uint32
	pairFrom, pairTo   int
	metasFrom, metasTo int
}

// entries reads the entries of refs, which must be sorted, with the chunks that have a part in [mint, maxt]; none for an
// empty range.
func (x *blockIndex) entries(ctx context.Context, refs []uint32, mint, maxt int64) (*entries, error) {
	spans := make([]span, len(refs))
	for i, ref := range refs {
		from := int64(ref) * seriesAlign
		if from < x.SeriesFrom || from > x.SeriesTo-5 {
			return nil, fmt.Errorf("series %d is outside of the series", ref)
		}
		spans[i] = span{from, min(from+x.seriesGuess, x.SeriesTo)}
	}
	e := &entries{series: make([]entry, len(refs))}
	err := x.pages.framed(ctx, x.file, forSeries, spans, 0, func(i int, b []byte) error {
		e.series[i].ref = refs[i]
		return e.decode(&e.series[i], b, mint, maxt)
	})
	return e, err
}

var errEntry = errors.New("entry makes no sense")

func (e *entries) decode(s *entry, b []byte, mint, maxt int64) error {
	d := numbers{b: b}
	n := d.uvarint()
	if n > uint64(len(b)) {
		return fmt.Errorf("series %d: %w", s.ref, errEntry)
	}
	s.pairFrom = len(e.pairs)
	for range 2 * n {
		e.pairs = append(e.pairs, uint32(d.uvarint()))
	}
	s.pairTo = len(e.pairs)
	s.metasFrom, s.metasTo = len(e.metas), len(e.metas)
	if n = d.uvarint(); mint <= maxt {
		var m chunks.Meta
		var ref, before int64
		for i := range n {
			if d.failed {
				break
			}
			if i == 0 {
				m.MinTime = d.varint()
				m.MaxTime = m.MinTime + int64(d.uvarint())
				ref = int64(d.uvarint())
			} else {
				m.MinTime = before + int64(d.uvarint())
				m.MaxTime = m.MinTime + int64(d.uvarint())
				ref += d.varint()
			}
			before = m.MaxTime
			if m.Ref = chunks.ChunkRef(ref); m.OverlapsClosedInterval(mint, maxt) && !d.failed {
				e.metas = append(e.metas, m)
			}
		}
		s.metasTo = len(e.metas)
	}
	if d.failed {
		return fmt.Errorf("series %d: %w", s.ref, errEntry)
	}
	return nil
}

// resolve reads the symbols of all labels, or of the names alone, of which most are known.
func (x *blockIndex) resolve(ctx context.Context, e *entries, namesOnly bool) error {
	step := 1
	if namesOnly {
		step = 2
	}
	need := make([]uint32, 0, min(len(e.pairs), 1<<16))
	for i := 0; i < len(e.pairs); i += step {
		need = append(need, e.pairs[i])
	}
	slices.Sort(need)
	e.symbols = slices.Compact(need)
	e.texts = make([]string, len(e.symbols))

	var read []symbolRun
	var spans []span
	for i, ref := range e.symbols {
		if ref >= x.SymbolCount {
			return fmt.Errorf("symbol %d of %d", ref, x.SymbolCount)
		}
		if name, ok := x.names[ref]; ok {
			e.texts[i] = name
			continue
		}
		if n := len(read); n == 0 || ref >= x.endOfStretch(read[n-1].stretch) {
			at := sort.Search(len(x.Symbols), func(j int) bool { return x.Symbols[j].First > ref }) - 1
			read = append(read, symbolRun{stretch: at, from: i})
			spans = append(spans, span{x.Symbols[at].From, x.Symbols[at].To})
		}
		read[len(read)-1].to = i + 1
	}
	return x.pages.read(ctx, x.file, forSymbols, spans, func(i int, b []byte) error {
		return x.readSymbols(e, read[i], b)
	})
}

// symbolRun is the symbols [from, to) of entries that are in one stretch, unless they are known names.
type symbolRun struct{ stretch, from, to int }

func (x *blockIndex) endOfStretch(i int) uint32 {
	if i+1 < len(x.Symbols) {
		return x.Symbols[i+1].First
	}
	return x.SymbolCount
}

func (x *blockIndex) readSymbols(e *entries, r symbolRun, b []byte) error {
	s := &x.Symbols[r.stretch]
	if crc32.Checksum(b, castagnoli()) != s.Sum {
		return fmt.Errorf("symbols at %d: %w", s.From, errSum)
	}
	d := numbers{b: b}
	at := s.First
	for i := r.from; i < r.to; i++ {
		if e.texts[i] != "" {
			continue
		}
		for ; at < e.symbols[i]; at++ {
			d.bytes()
		}
		e.texts[i] = string(d.bytes())
		at++
	}
	if d.failed {
		return fmt.Errorf("symbols at %d: %w", s.From, errEntry)
	}
	return nil
}

func (e *entries) text(symbol uint32) string {
	i, _ := slices.BinarySearch(e.symbols, symbol)
	return e.texts[i]
}

// labels returns the labels of a series, after resolve.
func (e *entries) labels(s *entry, b *labels.ScratchBuilder) labels.Labels {
	b.Reset()
	for i := s.pairFrom; i < s.pairTo; i += 2 {
		b.Add(e.text(e.pairs[i]), e.text(e.pairs[i+1]))
	}
	return b.Labels()
}

// each reads the labels of refs, batch by batch, and gives them to use; names alone have empty values.
func (x *blockIndex) each(ctx context.Context, refs []uint32, use func(ref uint32, ls labels.Labels)) error {
	var b labels.ScratchBuilder
	for batch := range slices.Chunk(refs, batchSeries) {
		e, err := x.entries(ctx, batch, 1, 0)
		if err != nil {
			return err
		}
		if err := x.resolve(ctx, e, false); err != nil {
			return err
		}
		for i := range e.series {
			use(e.series[i].ref, e.labels(&e.series[i], &b))
		}
	}
	return nil
}

// filter keeps the series whose labels match.
func (x *blockIndex) filter(ctx context.Context, refs []uint32, ms []*labels.Matcher) ([]uint32, error) {
	if len(ms) == 0 {
		return refs, nil
	}
	kept := make([]uint32, 0, min(len(refs), batchSeries))
	err := x.each(ctx, refs, func(ref uint32, ls labels.Labels) {
		if matches(ls, ms) {
			kept = append(kept, ref)
		}
	})
	return kept, err
}

func matches(ls labels.Labels, ms []*labels.Matcher) bool {
	for _, m := range ms {
		if !m.Matches(ls.Get(m.Name)) {
			return false
		}
	}
	return true
}
