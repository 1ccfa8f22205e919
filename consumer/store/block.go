package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	tsdbindex "github.com/prometheus/prometheus/tsdb/index"
	"github.com/prometheus/prometheus/tsdb/tombstones"
)

// Block shows the head's samples in [mint, maxt] as a block, as they are at each moment that it is asked.
func (h *Head) Block(mint, maxt int64) tsdb.BlockReader { return &block{h, mint, maxt} }

type block struct {
	head       *Head
	mint, maxt int64
}

func (b *block) Index() (tsdb.IndexReader, error)     { return &indexReader{b}, nil }
func (*block) Chunks() (tsdb.ChunkReader, error)      { return chunkReader{}, nil }
func (*block) Tombstones() (tombstones.Reader, error) { return tombstones.NewMemTombstones(), nil }
func (*block) Size() int64                            { return 0 }
func (b *block) Meta() tsdb.BlockMeta                 { return tsdb.BlockMeta{MinTime: b.mint, MaxTime: b.maxt} }

// chunkReader hands out the chunks that Series has put into their metas.
type chunkReader struct{}

func (chunkReader) ChunkOrIterable(m chunks.Meta) (chunkenc.Chunk, chunkenc.Iterable, error) {
	if m.Chunk == nil {
		return nil, nil, fmt.Errorf("chunk %d: %w", m.Ref, storage.ErrNotFound)
	}
	return m.Chunk, nil, nil
}

func (chunkReader) Close() error { return nil }

// indexReader takes the lock for each question and never for longer: the appender waits for none that is slow.
type indexReader struct{ *block }

func (*indexReader) Close() error { return nil }

// empty tells whether no sample is in the block's range.
func (r *indexReader) empty() bool { return r.maxt < r.head.mint || r.mint > r.head.maxt }

// Symbols implements tsdb.IndexReader.
func (r *indexReader) Symbols() tsdbindex.StringIter {
	h := r.head
	h.mu.RLock()
	defer h.mu.RUnlock()
	seen := map[string]struct{}{}
	for name, values := range h.index.names {
		seen[name] = struct{}{}
		for value := range values {
			seen[value] = struct{}{}
		}
	}
	return tsdbindex.NewStringListIter(sortedKeys(seen))
}

// SortedLabelValues implements tsdb.IndexReader.
func (r *indexReader) SortedLabelValues(ctx context.Context, name string, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, error) {
	if len(matchers) > 0 {
		return r.LabelValues(ctx, name, hints, matchers...) // sorted as well
	}
	r.head.mu.RLock()
	empty := r.empty()
	r.head.mu.RUnlock()
	if empty {
		return nil, nil
	}
	return limited(r.head.sortedValues(name), hints), nil
}

// LabelValues implements tsdb.IndexReader.
func (r *indexReader) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, matchers ...*labels.Matcher) ([]string, error) {
	seen := map[string]struct{}{}
	if len(matchers) == 0 {
		r.head.mu.RLock()
		defer r.head.mu.RUnlock()
		if r.empty() {
			return nil, nil
		}
		values := make([]string, 0, len(r.head.index.names[name]))
		for v := range r.head.index.names[name] {
			values = append(values, v)
		}
		return limited(values, hints), nil
	}
	err := r.each(ctx, matchers, func(lset labels.Labels) {
		if v := lset.Get(name); v != "" {
			seen[v] = struct{}{}
		}
	})
	return limited(sortedKeys(seen), hints), err
}

func limited(values []string, hints *storage.LabelHints) []string {
	if hints != nil && hints.Limit > 0 && len(values) > hints.Limit {
		return values[:hints.Limit]
	}
	return values
}

// LabelNames implements tsdb.IndexReader.
func (r *indexReader) LabelNames(ctx context.Context, matchers ...*labels.Matcher) ([]string, error) {
	if len(matchers) == 0 {
		r.head.mu.RLock()
		defer r.head.mu.RUnlock()
		if r.empty() {
			return nil, nil
		}
		return sortedKeys(r.head.index.names), nil
	}
	seen := map[string]struct{}{}
	err := r.each(ctx, matchers, func(lset labels.Labels) { note(lset, seen) })
	return sortedKeys(seen), err
}

func note(lset labels.Labels, names map[string]struct{}) {
	lset.Range(func(l labels.Label) { names[l.Name] = struct{}{} })
}

// each calls f with the labels of the series that match.
func (r *indexReader) each(ctx context.Context, matchers []*labels.Matcher, f func(labels.Labels)) error {
	p, err := tsdb.PostingsForMatchers(ctx, r, matchers...)
	if err != nil {
		return err
	}
	return r.walk(ctx, p, f)
}

func (r *indexReader) walk(ctx context.Context, p tsdbindex.Postings, f func(labels.Labels)) error {
	for p.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if lset, ok := r.labels(p.At()); ok {
			f(lset)
		}
	}
	return p.Err()
}

// labels of a series.
func (r *indexReader) labels(ref storage.SeriesRef) (labels.Labels, bool) {
	h := r.head
	h.mu.RLock()
	defer h.mu.RUnlock()
	if r.empty() || ref == 0 || uint64(ref) > uint64(len(h.labels)) {
		return labels.EmptyLabels(), false
	}
	return h.labels[ref-1], true
}

// LabelNamesFor implements tsdb.IndexReader.
func (r *indexReader) LabelNamesFor(ctx context.Context, p tsdbindex.Postings) ([]string, error) {
	seen := map[string]struct{}{}
	err := r.walk(ctx, p, func(lset labels.Labels) { note(lset, seen) })
	return sortedKeys(seen), err
}

// Postings implements tsdb.IndexReader.
func (r *indexReader) Postings(_ context.Context, name string, values ...string) (tsdbindex.Postings, error) {
	h := r.head
	h.mu.RLock()
	defer h.mu.RUnlock()
	if key, empty := tsdbindex.AllPostingsKey(); name == key && slices.Equal(values, []string{empty}) {
		return &all{last: uint32(len(h.labels))}, nil
	}
	if len(values) == 1 {
		if found, ok := h.index.names[name][values[0]]; ok {
			return &ofOne{refs: found, at: -1}, nil
		}
		return tsdbindex.EmptyPostings(), nil
	}
	var out []uint32
	for _, v := range values {
		if found, ok := h.index.names[name][v]; ok {
			out = found.appendTo(out)
		}
	}
	slices.Sort(out)
	return newList(slices.Compact(out)), nil // for a value that is asked for twice
}

// PostingsForLabelMatching implements tsdb.IndexReader.
func (r *indexReader) PostingsForLabelMatching(_ context.Context, name string, match func(string) bool) tsdbindex.Postings {
	h := r.head
	h.mu.RLock()
	values := make([]string, 0, len(h.index.names[name]))
	for v := range h.index.names[name] {
		values = append(values, v)
	}
	h.mu.RUnlock()
	values = slices.DeleteFunc(values, func(v string) bool { return !match(v) }) // a million times a regular expression: not under the lock
	h.mu.RLock()
	defer h.mu.RUnlock()
	var out []uint32
	for _, v := range values {
		out = h.index.names[name][v].appendTo(out)
	}
	slices.Sort(out) // a series has one value: no ref comes twice
	return newList(out)
}

// PostingsForAllLabelValues implements tsdb.IndexReader.
func (r *indexReader) PostingsForAllLabelValues(ctx context.Context, name string) tsdbindex.Postings {
	return r.PostingsForLabelMatching(ctx, name, func(string) bool { return true })
}

// SortedPostings implements tsdb.IndexReader.
func (r *indexReader) SortedPostings(p tsdbindex.Postings) tsdbindex.Postings {
	refs, err := expand(p)
	if err != nil {
		return tsdbindex.ErrPostings(err)
	}
	r.head.sort(refs)
	return &byLabels{list{refs: refs, at: -1}}
}

// byLabels are postings in another order than that of refs: nobody may seek in them.
type byLabels struct{ list }

func (l *byLabels) Seek(v storage.SeriesRef) bool {
	for l.at < 0 || l.at < len(l.refs) && l.At() < v {
		if !l.Next() {
			return false
		}
	}
	return l.at < len(l.refs)
}

// ShardedPostings implements tsdb.IndexReader.
func (r *indexReader) ShardedPostings(p tsdbindex.Postings, shard, count uint64) tsdbindex.Postings {
	var refs []uint32
	for p.Next() {
		if lset, ok := r.labels(p.At()); ok && labels.StableHash(lset)%count == shard {
			refs = append(refs, uint32(p.At()))
		}
	}
	if err := p.Err(); err != nil {
		return tsdbindex.ErrPostings(err)
	}
	return newList(refs)
}

// Series implements tsdb.IndexReader. The metas hold their chunks.
func (r *indexReader) Series(ref storage.SeriesRef, builder *labels.ScratchBuilder, chks *[]chunks.Meta) error {
	h := r.head
	h.mu.RLock()
	defer h.mu.RUnlock()
	if ref == 0 || uint64(ref) > uint64(len(h.labels)) {
		return storage.ErrNotFound
	}
	builder.Assign(h.labels[ref-1])
	if chks == nil {
		return nil
	}
	var err error
	*chks, err = h.appendChunks(h.series(uint32(ref)), r.mint, r.maxt, (*chks)[:0])
	return err
}
