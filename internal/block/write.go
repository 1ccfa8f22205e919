// Package block makes blocks and moves them between a local folder and the bucket. In goes a sorted set of chunk series,
// out comes a folder with index, chunks and meta.json whose ID follows from its content and its place in the log, and
// the same folder in the bucket, complete or not there. It never decides which samples belong into a block, and it never
// changes a block that has an ID.
package block

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"sluice/schema"
)

// Contents is what a written folder holds. MaxTime is exclusive, as in tsdb.BlockMeta.
type Contents struct {
	MinTime, MaxTime int64
	Stats            tsdb.BlockStats
}

// Write writes index and chunks into dir, which must not exist. symbols are all strings of the labels in set, sorted and
// unique (more than needed is allowed); the series of set are sorted by labels, their chunks by time. No series with
// samples leaves no folder and Stats.NumSamples == 0.
func Write(ctx context.Context, dir string, symbols index.StringIter, set storage.ChunkSeriesSet) (c Contents, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return c, fmt.Errorf("create block folder: %w", err)
	}
	defer func() {
		if err != nil || c.Stats.NumSamples == 0 {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	chunkw, err := chunks.NewWriter(filepath.Join(dir, schema.ChunksDir))
	if err != nil {
		return c, fmt.Errorf("create chunk files: %w", err)
	}
	indexw, err := index.NewWriter(ctx, filepath.Join(dir, schema.IndexFile))
	if err != nil {
		return c, errors.Join(fmt.Errorf("create index: %w", err), chunkw.Close())
	}
	c, err = populate(ctx, indexw, chunkw, symbols, set)
	return c, errors.Join(err, chunkw.Close(), indexw.Close())
}

func populate(ctx context.Context, indexw *index.Writer, chunkw *chunks.Writer, symbols index.StringIter, set storage.ChunkSeriesSet) (Contents, error) {
	c := Contents{MinTime: math.MaxInt64, MaxTime: math.MinInt64}
	for symbols.Next() {
		if err := indexw.AddSymbol(symbols.At()); err != nil {
			return c, fmt.Errorf("add symbol: %w", err)
		}
	}
	if err := symbols.Err(); err != nil {
		return c, fmt.Errorf("read symbols: %w", err)
	}
	var (
		ref  storage.SeriesRef
		it   chunks.Iterator
		chks []chunks.Meta
	)
	for set.Next() {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		s := set.At()
		chks = chks[:0]
		for it = s.Iterator(it); it.Next(); {
			chks = append(chks, it.At())
		}
		if err := it.Err(); err != nil {
			return c, fmt.Errorf("read chunks of %s: %w", s.Labels(), err)
		}
		if len(chks) == 0 {
			continue
		}
		if err := chunkw.WriteChunks(chks...); err != nil {
			return c, fmt.Errorf("write chunks: %w", err)
		}
		if err := indexw.AddSeries(ref, s.Labels(), chks...); err != nil {
			return c, fmt.Errorf("add series: %w", err)
		}
		ref++
		c.add(chks)
	}
	if err := set.Err(); err != nil {
		return c, fmt.Errorf("read series: %w", err)
	}
	return c, nil
}

// add counts the chunks of one series.
func (c *Contents) add(chks []chunks.Meta) {
	c.Stats.NumSeries++
	c.Stats.NumChunks += uint64(len(chks))
	for _, m := range chks {
		n := uint64(m.Chunk.NumSamples())
		c.Stats.NumSamples += n
		switch m.Chunk.Encoding() {
		case chunkenc.EncXOR, chunkenc.EncXOR2:
			c.Stats.NumFloatSamples += n
		default:
			c.Stats.NumHistogramSamples += n
		}
		c.MinTime = min(c.MinTime, m.MinTime)
		c.MaxTime = max(c.MaxTime, m.MaxTime+1)
	}
}

// Finish makes the folder dir, written by Write, a block: it hashes the files, derives the ID from them and from origin,
// writes meta.json and renames dir to its ID beside itself. sources are the blocks of level 1 that it is made of; none
// makes it one of level 1, whose only source is itself. source names the writer (sluice.consumer, sluice.compactor). The
// same folder and origin always give the same block, byte for byte.
func Finish(dir string, c Contents, origin schema.BlockOrigin, source string, level int, sources []ulid.ULID) (*schema.BlockMeta, string, error) {
	files, err := hashFiles(dir)
	if err != nil {
		return nil, "", fmt.Errorf("hash block files: %w", err)
	}
	origin.Version = 1
	meta := &schema.BlockMeta{Sluice: origin}
	meta.Version = 1
	meta.MinTime, meta.MaxTime, meta.Stats = c.MinTime, c.MaxTime, c.Stats
	meta.Compaction.Level = level
	meta.Compaction.Sources = sources
	meta.Thanos.Version = 1
	meta.Thanos.Labels = map[string]string{"__org_id__": string(origin.Tenant)} // the name that Cortex and Mimir use
	meta.Thanos.Source = source
	meta.Thanos.Files = files
	if meta.ULID, err = deriveID(meta); err != nil {
		return nil, "", err
	}
	if len(sources) == 0 {
		meta.Compaction.Sources = []ulid.ULID{meta.ULID}
	}
	// After the ID: the header follows from the index, and a block has the same ID without it.
	header, err := writeHeader(dir, files)
	if err != nil {
		return nil, "", fmt.Errorf("write header of the index: %w", err)
	}
	if header != nil {
		meta.Thanos.Files = append(slices.Clone(files), *header)
		slices.SortFunc(meta.Thanos.Files, comparePaths)
	}
	raw, err := json.MarshalIndent(meta, "", "\t")
	if err != nil {
		return nil, "", fmt.Errorf("encode meta.json: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, schema.MetaFile), raw, 0o644); err != nil {
		return nil, "", fmt.Errorf("write meta.json: %w", err)
	}
	final := filepath.Join(filepath.Dir(dir), meta.ULID.String())
	if err := os.RemoveAll(final); err != nil {
		return nil, "", fmt.Errorf("replace block folder: %w", err)
	}
	if err := os.Rename(dir, final); err != nil {
		return nil, "", fmt.Errorf("name block folder: %w", err)
	}
	return meta, final, nil
}

// deriveID makes the ULID: the log time of the end of the block's range, and 80 bits of a hash over everything else that
// makes the block what it is: origin (topic ID, partition, offsets, tenant), sample range, sources, and size and hash of
// each file but the header. Two writers can therefore never put different files under one ID.
func deriveID(meta *schema.BlockMeta) (ulid.ULID, error) {
	h := sha256.New()
	err := json.NewEncoder(h).Encode([]any{
		meta.Sluice, meta.MinTime, meta.MaxTime, meta.Compaction.Level, meta.Compaction.Sources,
		meta.Thanos.Downsample.Resolution, meta.Thanos.Files,
	})
	if err != nil {
		return ulid.ULID{}, fmt.Errorf("hash block identity: %w", err)
	}
	var id ulid.ULID
	if err := id.SetTime(uint64(max(meta.Sluice.LogTime, 0))); err != nil {
		return ulid.ULID{}, fmt.Errorf("block time %d ms: %w", meta.Sluice.LogTime, err)
	}
	return id, id.SetEntropy(h.Sum(nil)[:10])
}

// hashFiles lists the files of a block folder but meta.json, sorted by path.
func hashFiles(dir string) ([]schema.BlockFile, error) {
	var files []schema.BlockFile
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == schema.MetaFile {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		size, sum, err := hashFile(path)
		if err != nil {
			return err
		}
		files = append(files, schema.BlockFile{
			Path: filepath.ToSlash(rel), Size: size, Hash: &schema.FileHash{Func: "SHA256", String: sum},
		})
		return nil
	})
	slices.SortFunc(files, comparePaths)
	return files, err
}

func comparePaths(a, b schema.BlockFile) int { return strings.Compare(a.Path, b.Path) }

func hashFile(path string) (size int64, sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return size, hex.EncodeToString(h.Sum(nil)), err
}

// ReadLocal reads the meta.json of the block in dir, a folder named by the block's ID, and holds every file against the
// size and hash in it. ErrCorrupt: something differs.
func ReadLocal(dir string) (*schema.BlockMeta, error) {
	raw, err := os.ReadFile(filepath.Join(dir, schema.MetaFile))
	if err != nil {
		return nil, fmt.Errorf("read block meta: %w", err)
	}
	var meta schema.BlockMeta
	if err := json.Unmarshal(raw, &meta); err != nil {
		return nil, fmt.Errorf("decode %s: %w: %v", filepath.Join(dir, schema.MetaFile), ErrCorrupt, err)
	}
	files, err := hashFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("hash block files: %w", err)
	}
	same := slices.EqualFunc(files, meta.Thanos.Files, func(a, b schema.BlockFile) bool {
		return a.Path == b.Path && a.Size == b.Size && a.Hash != nil && b.Hash != nil && *a.Hash == *b.Hash
	})
	if !same || meta.ULID.String() != filepath.Base(dir) {
		return nil, fmt.Errorf("block in %s: %w", dir, ErrCorrupt)
	}
	return &meta, nil
}
