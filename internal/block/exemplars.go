package block

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/thanos-io/objstore"

	"sluice/internal/exemplars"
	"sluice/schema"
)

// WriteExemplars writes the file of exemplars into dir, a block that is not finished yet; none for an empty set.
func WriteExemplars(dir string, set *exemplars.Set) error {
	if set.Len() == 0 {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, schema.ExemplarsFile), set.Append(nil), 0o644); err != nil {
		return fmt.Errorf("write exemplars: %w", err)
	}
	return nil
}

// LocalExemplars reads the exemplars of the block in dir, an empty set if it has none. exemplars.ErrCorrupt: they are damaged.
func LocalExemplars(dir string) (*exemplars.Set, error) {
	raw, err := os.ReadFile(filepath.Join(dir, schema.ExemplarsFile))
	if errors.Is(err, os.ErrNotExist) {
		return &exemplars.Set{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read exemplars: %w", err)
	}
	return decodeExemplars(raw, dir)
}

func decodeExemplars(raw []byte, name string) (*exemplars.Set, error) {
	set, err := exemplars.Decode(raw)
	if err != nil {
		return nil, fmt.Errorf("decode exemplars of %s: %w", name, err)
	}
	return set, nil
}

// HasExemplars tells whether a block has a file of exemplars.
func HasExemplars(e *schema.BlockEntry) bool {
	return slices.ContainsFunc(e.Files, func(f schema.BlockFile) bool { return f.Path == schema.ExemplarsFile })
}

// ReadExemplars reads the exemplars of a block in the bucket that has some. ErrNotFound: they are not there any more.
func ReadExemplars(ctx context.Context, bkt objstore.BucketReader, e *schema.BlockEntry) (*exemplars.Set, error) {
	key := Key(e.Tenant, e.ID, schema.ExemplarsFile)
	r, err := bkt.Get(ctx, key)
	if err != nil {
		if bkt.IsObjNotFoundErr(err) {
			return nil, fmt.Errorf("read %s: %w", key, ErrNotFound)
		}
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, exemplars.MaxBytes))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return decodeExemplars(raw, key)
}
