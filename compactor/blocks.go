package compactor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"sluice/internal/block"
	"sluice/internal/exemplars"
	"sluice/internal/merge"
	"sluice/schema"
)

// contents is what a merge has written, with what its inputs allow it to be.
type contents struct {
	block.Contents
	tombstones bool // an input (a foreign one) has deleted samples in it
}

// plausible holds the samples written against those read: merging drops samples that several inputs have and nothing else.
func (c contents) plausible(inputs []*schema.BlockEntry) error {
	var sum, largest uint64
	for _, e := range inputs {
		sum += e.Samples
		largest = max(largest, e.Samples)
	}
	if n := c.Stats.NumSamples; n > sum || n == 0 || n < largest && !c.tombstones {
		return fmt.Errorf("merged block has %d samples, its %d inputs have %d in all and %d in the largest: refuse to replace them", n, len(inputs), sum, largest)
	}
	return nil
}

// input is one open block. It remembers what went wrong in it, since the merged series do not tell where they come from.
type input struct {
	block  *tsdb.Block
	idx    tsdb.IndexReader
	chunkr tsdb.ChunkReader
	bad    error
}

// mergeBlocks merges the blocks in dir/<ulid>, which are in order of rank, into the new folder out. bad tells, by place,
// which inputs could not be read.
func mergeBlocks(ctx context.Context, dir string, blocks []*schema.BlockEntry, out string) (c contents, bad map[int]error, err error) {
	inputs := make([]*input, len(blocks))
	defer func() {
		for i, in := range inputs {
			if in == nil {
				continue
			}
			err = errors.Join(err, in.close())
			if in.bad != nil {
				if bad == nil {
					bad = map[int]error{}
				}
				bad[i] = in.bad
			}
		}
	}()
	var (
		symbols index.StringIter
		sets    []storage.ChunkSeriesSet
	)
	for i, e := range blocks {
		inputs[i] = &input{}
		set, deleted, err := inputs[i].open(ctx, filepath.Join(dir, e.ID.String()))
		if err != nil {
			inputs[i].note(err)
			return c, nil, fmt.Errorf("open block %s: %w", e.ID, err)
		}
		c.tombstones = c.tombstones || deleted
		sets = append(sets, merge.RankChunkSeriesSet(set, i))
		if s := inputs[i].idx.Symbols(); symbols == nil {
			symbols = s
		} else {
			symbols = tsdb.NewMergedStringIter(symbols, s)
		}
	}
	c.Contents, err = block.Write(ctx, out, symbols, storage.NewMergeChunkSeriesSet(sets, 0, merge.ChunkSeries))
	if err != nil {
		return c, nil, fmt.Errorf("write merged block: %w", err)
	}
	if err := mergeExemplars(dir, blocks, out); err != nil {
		return c, nil, fmt.Errorf("merge exemplars: %w", err)
	}
	return c, nil, nil
}

// maxMergedExemplars is how many exemplars a merged block has at most, the newest: some 60 MB while they are merged.
const maxMergedExemplars = 250_000

// mergeExemplars writes the exemplars of the blocks in dir/<ulid> beside the merged samples in out.
func mergeExemplars(dir string, blocks []*schema.BlockEntry, out string) error {
	var all exemplars.Set
	for _, e := range blocks {
		found, err := block.LocalExemplars(filepath.Join(dir, e.ID.String()))
		if err != nil {
			return err
		}
		all.AddAll(found, maxMergedExemplars)
	}
	return block.WriteExemplars(out, &all)
}

// open opens the block in dir and returns all its series; deleted says that it has samples marked as deleted.
func (in *input) open(ctx context.Context, dir string) (set storage.ChunkSeriesSet, deleted bool, err error) {
	if in.block, err = tsdb.OpenBlock(promslog.NewNopLogger(), dir, nil, nil); err != nil {
		return nil, false, err
	}
	if in.idx, err = in.block.Index(); err != nil {
		return nil, false, fmt.Errorf("open index: %w", err)
	}
	if in.chunkr, err = in.block.Chunks(); err != nil {
		return nil, false, fmt.Errorf("open chunks: %w", err)
	}
	stones, err := in.block.Tombstones()
	if err != nil {
		return nil, false, fmt.Errorf("open tombstones: %w", err)
	}
	deleted = stones.Total() > 0
	meta := in.block.Meta()
	set = tsdb.NewBlockChunkSeriesSet(meta.ULID, in.idx, notingChunks{in.chunkr, in}, stones, tsdb.AllSortedPostings(ctx, in.idx), meta.MinTime, meta.MaxTime-1, false)
	return &notingSet{set, in}, deleted, stones.Close()
}

func (in *input) close() error {
	var errs []error
	if in.chunkr != nil {
		errs = append(errs, in.chunkr.Close())
	}
	if in.idx != nil {
		errs = append(errs, in.idx.Close())
	}
	if in.block != nil {
		errs = append(errs, in.block.Close())
	}
	return errors.Join(errs...)
}

// note remembers the first error that speaks of the block. What speaks of us or of this machine (no memory, no file
// descriptors, a full disk) says nothing about the block; a file that is not there does.
func (in *input) note(err error) {
	var errno syscall.Errno
	switch {
	case in.bad != nil, err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	case errors.As(err, &errno) && errno != syscall.ENOENT:
	default:
		in.bad = err
	}
}

// notingSet notes which input an error of the index comes from.
type notingSet struct {
	storage.ChunkSeriesSet
	in *input
}

func (s *notingSet) Err() error {
	err := s.ChunkSeriesSet.Err()
	s.in.note(err)
	return err
}

// notingChunks notes which input an unreadable chunk comes from.
type notingChunks struct {
	tsdb.ChunkReader
	in *input
}

func (r notingChunks) ChunkOrIterable(m chunks.Meta) (chunkenc.Chunk, chunkenc.Iterable, error) {
	c, it, err := r.ChunkReader.ChunkOrIterable(m)
	r.in.note(err)
	return c, it, err
}

// union sorts ranges and joins those that touch or overlap, so that the entry of a block of many generations stays small.
func union(ranges []schema.LogRange) []schema.LogRange {
	slices.SortFunc(ranges, func(a, b schema.LogRange) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), strings.Compare(a.TopicID, b.TopicID), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
	})
	var out []schema.LogRange
	for _, r := range ranges {
		if n := len(out) - 1; n >= 0 && out[n].TopicID == r.TopicID && out[n].Partition == r.Partition && r.From <= out[n].To {
			out[n].To = max(out[n].To, r.To)
		} else {
			out = append(out, r)
		}
	}
	return out
}
