package block

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/thanos-io/objstore"

	"sluice/schema"
)

// Verify reads every file of the block that e describes and returns what is wrong with it: a missing file, a size or a
// hash that differs. deep also downloads the block into a folder below scratch and reads every series and chunk: order of
// labels and chunks, CRC of each chunk, the counts that the catalogue promises, and whether the header is that of the index.
func Verify(ctx context.Context, bkt objstore.BucketReader, e *schema.BlockEntry, deep bool, scratch string) []error {
	if !deep {
		var errs []error
		for _, f := range e.Files {
			if err := readFile(ctx, bkt, Key(e.Tenant, e.ID, f.Path), f, io.Discard); err != nil {
				errs = append(errs, err)
			}
		}
		if _, err := ReadMeta(ctx, bkt, e.Tenant, e.ID); err != nil {
			errs = append(errs, err)
		}
		return errs
	}
	dir, err := os.MkdirTemp(scratch, "verify-")
	if err != nil {
		return []error{fmt.Errorf("verify block %s: %w", e.ID, err)}
	}
	defer os.RemoveAll(dir)
	if err := Download(ctx, bkt, e.Tenant, e.ID, e.Files, dir); err != nil {
		return []error{err}
	}
	if err := verifyHeader(dir, e); err != nil {
		return []error{err}
	}
	series, samples, err := Walk(ctx, dir)
	if err != nil {
		return []error{fmt.Errorf("read block %s of tenant %s: %w", e.ID, e.Tenant, err)}
	}
	if series != e.Series || samples != e.Samples {
		return []error{fmt.Errorf("block %s of tenant %s holds %d series and %d samples, the catalogue says %d and %d: %w",
			e.ID, e.Tenant, series, samples, e.Series, e.Samples, ErrCorrupt)}
	}
	return nil
}

// verifyHeader holds the header of the block in dir, if it has one, against its index.
func verifyHeader(dir string, e *schema.BlockEntry) error {
	var index *schema.BlockFile
	has := false
	for i, f := range e.Files {
		switch f.Path {
		case schema.IndexFile:
			index = &e.Files[i]
		case schema.HeaderFile:
			has = true
		}
	}
	if !has || index == nil {
		return nil
	}
	is, err := os.ReadFile(filepath.Join(dir, schema.HeaderFile))
	if err != nil {
		return fmt.Errorf("verify header of block %s: %w", e.ID, err)
	}
	should, err := LocalHeader(dir, *index)
	if err != nil {
		return fmt.Errorf("verify header of block %s of tenant %s: %w", e.ID, e.Tenant, err)
	}
	if !bytes.Equal(is, should) {
		return fmt.Errorf("header of block %s of tenant %s is not that of its index: %w", e.ID, e.Tenant, ErrCorrupt)
	}
	return nil
}

// Walk reads every series and every chunk of the block in dir, and counts them. It returns an error for labels or chunks
// out of order and for a chunk whose CRC is wrong.
func Walk(ctx context.Context, dir string) (series, samples uint64, err error) {
	b, err := tsdb.OpenBlock(promslog.NewNopLogger(), dir, nil, nil)
	if err != nil {
		return 0, 0, fmt.Errorf("open block: %w", err)
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	idx, err := b.Index()
	if err != nil {
		return 0, 0, fmt.Errorf("open index: %w", err)
	}
	defer func() { err = errors.Join(err, idx.Close()) }()
	chunkr, err := b.Chunks()
	if err != nil {
		return 0, 0, fmt.Errorf("open chunks: %w", err)
	}
	defer func() { err = errors.Join(err, chunkr.Close()) }()

	var (
		builder labels.ScratchBuilder
		metas   []chunks.Meta
		before  labels.Labels
	)
	p := tsdb.AllSortedPostings(ctx, idx)
	for ; p.Next(); series++ {
		if err := ctx.Err(); err != nil {
			return series, samples, err
		}
		if err := idx.Series(p.At(), &builder, &metas); err != nil {
			return series, samples, fmt.Errorf("read series %d: %w", p.At(), err)
		}
		lset := builder.Labels()
		if series > 0 && labels.Compare(before, lset) >= 0 {
			return series, samples, fmt.Errorf("series %s does not come after %s: %w", lset, before, ErrCorrupt)
		}
		before = lset.Copy()
		for i, m := range metas {
			if i > 0 && m.MinTime <= metas[i-1].MaxTime {
				return series, samples, fmt.Errorf("chunks of series %s overlap: %w", lset, ErrCorrupt)
			}
			c, _, err := chunkr.ChunkOrIterable(m)
			if err != nil {
				return series, samples, fmt.Errorf("read chunk of series %s: %w", lset, err)
			}
			samples += uint64(c.NumSamples())
		}
	}
	return series, samples, p.Err()
}
