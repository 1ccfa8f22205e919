package compactor

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"

	"sluice/schema"
)

// bucketIndex is <tenant>/bucket-index.json.gz, version 1: what Cortex and Mimir read instead of listing the bucket. We
// write it for them and for people; nothing of ours reads it. Times are unix seconds unless said otherwise.
type bucketIndex struct {
	Version   int           `json:"version"`
	Blocks    []indexBlock  `json:"blocks"`
	Marks     []indexedMark `json:"block_deletion_marks"`
	UpdatedAt int64         `json:"updated_at"`
}

type indexBlock struct {
	ID             ulid.ULID `json:"block_id"`
	MinTime        int64     `json:"min_time"` // ms
	MaxTime        int64     `json:"max_time"` // ms
	SegmentsFormat string    `json:"segments_format,omitempty"`
	SegmentsNum    int       `json:"segments_num,omitempty"`
	UploadedAt     int64     `json:"uploaded_at"`
}

type indexedMark struct {
	ID           ulid.ULID `json:"block_id"`
	DeletionTime int64     `json:"deletion_time"`
}

// segmentsFormat is the name for chunk files called 000001, 000002, …
const segmentsFormat = "1b6d"

// buildIndex describes the tenant's blocks that are live or replaced; the replaced ones are marked for deletion too.
func (c *Compactor) buildIndex(tenant schema.Tenant, entries []*schema.BlockEntry) bucketIndex {
	idx := bucketIndex{Version: 1, Blocks: []indexBlock{}, Marks: []indexedMark{}}
	for _, e := range entries {
		if e.State != schema.BlockLive {
			continue
		}
		b := indexBlock{ID: e.ID, MinTime: e.MinTime, MaxTime: e.MaxTime, UploadedAt: e.At / 1000}
		if n := segments(e.Files); n > 0 {
			b.SegmentsFormat, b.SegmentsNum = segmentsFormat, n
		}
		idx.Blocks = append(idx.Blocks, b)
		if by, ok := c.cat.Replacer(tenant, e.ID); ok {
			idx.Marks = append(idx.Marks, indexedMark{ID: e.ID, DeletionTime: by.At / 1000})
		}
	}
	return idx
}

// segments counts the chunk files if they have the usual names, else 0.
func segments(files []schema.BlockFile) (n int) {
	for _, f := range files {
		if name, ok := strings.CutPrefix(f.Path, schema.ChunksDir+"/"); ok {
			if n++; name != fmt.Sprintf("%06d", n) {
				return 0
			}
		}
	}
	return n
}

// writeIndex writes the bucket index of the tenant if it is not what was written last.
func (c *Compactor) writeIndex(ctx context.Context, tenant schema.Tenant, entries []*schema.BlockEntry) error {
	idx := c.buildIndex(tenant, entries)
	raw, err := json.Marshal(idx)
	if err != nil {
		return fmt.Errorf("encode bucket index: %w", err)
	}
	sum := sha256.Sum256(raw)
	if c.indexes[tenant] == sum {
		return nil
	}
	idx.UpdatedAt = c.now().Unix()
	if raw, err = json.Marshal(idx); err != nil {
		return fmt.Errorf("encode bucket index: %w", err)
	}
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := z.Write(raw); err != nil {
		return fmt.Errorf("compress bucket index: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("compress bucket index: %w", err)
	}
	if err := c.bkt.Upload(ctx, string(tenant)+"/"+schema.BucketIndexFile, &buf); err != nil {
		return fmt.Errorf("upload bucket index: %w", err)
	}
	c.indexes[tenant] = sum
	return nil
}
