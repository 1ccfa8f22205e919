// Package families keeps what senders say of metric families (type, help, unit) in the bucket, where it outlives the memory of
// consumers and the log: one object for each tenant and partition, <tenant>/metadata/<partition>.json.gz. In go families with
// the log time at which they were last told of, out come all that are not older than Kept. It never grows without bound: what
// nobody has told of for so long goes, and of more than the limit those that were told of longest ago.
package families

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/metadata"
	"github.com/thanos-io/objstore"
	"golang.org/x/sync/errgroup"

	"sluice/schema"
)

const (
	// Kept is how long a family is kept after it was last told of.
	Kept = 7 * 24 * time.Hour
	// Refreshed is how old the time of a family in the bucket may be before it is written anew.
	Refreshed = 24 * time.Hour

	suffix   = ".json.gz"
	version  = 1
	maxBytes = 256 << 20 // of one object, unpacked
	together = 16        // objects read at one time
)

// ErrCorrupt is returned for an object that is not what Write writes.
var ErrCorrupt = errors.New("metadata in the bucket is damaged")

// Family is what is said of a metric family.
type Family struct {
	metadata.Metadata
	Seen int64 `json:"seen"` // log time, ms
}

// file is the content of an object.
type file struct {
	Version  int               `json:"version"`
	Families map[string]Family `json:"families"`
}

// Key returns the name of the object.
func Key(tenant schema.Tenant, partition int32) string {
	return path.Join(string(tenant), schema.MetadataDir, strconv.Itoa(int(partition))+suffix)
}

// Merge adds the families of more to known, the newest of each, and takes out those that are older than Kept at the log time
// now (ms) or too many for limit (0 = any number).
func Merge(known, more map[string]Family, now int64, limit int) map[string]Family {
	out := make(map[string]Family, len(known)+len(more))
	for _, from := range []map[string]Family{known, more} {
		for name, f := range from {
			if now-f.Seen > Kept.Milliseconds() {
				continue
			}
			if have, ok := out[name]; !ok || have.Seen <= f.Seen {
				out[name] = f
			}
		}
	}
	if limit <= 0 || len(out) <= limit {
		return out
	}
	names := slices.SortedFunc(maps.Keys(out), func(a, b string) int {
		return cmp.Or(cmp.Compare(out[b].Seen, out[a].Seen), cmp.Compare(a, b))
	})
	for _, name := range names[limit:] {
		delete(out, name)
	}
	return out
}

// Encode returns the bytes of an object.
func Encode(all map[string]Family) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if err := json.NewEncoder(w).Encode(file{version, all}); err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress metadata: %w", err)
	}
	return out.Bytes(), nil
}

// Decode is Encode's inverse.
func Decode(raw []byte) (map[string]Family, error) {
	r, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	var f file
	if err := json.NewDecoder(io.LimitReader(r, maxBytes)).Decode(&f); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	if f.Version != version {
		return nil, fmt.Errorf("%w: version %d is not known", ErrCorrupt, f.Version)
	}
	return f.Families, nil
}

// Write replaces an object.
func Write(ctx context.Context, bkt objstore.Bucket, tenant schema.Tenant, partition int32, all map[string]Family) error {
	raw, err := Encode(all)
	if err != nil {
		return err
	}
	key := Key(tenant, partition)
	if err := bkt.Upload(ctx, key, bytes.NewReader(raw)); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// Read returns the families of one partition, none if there is no object. ErrCorrupt: it cannot be read.
func Read(ctx context.Context, bkt objstore.BucketReader, tenant schema.Tenant, partition int32) (map[string]Family, error) {
	return read(ctx, bkt, Key(tenant, partition))
}

func read(ctx context.Context, bkt objstore.BucketReader, key string) (map[string]Family, error) {
	r, err := bkt.Get(ctx, key)
	if err != nil {
		if bkt.IsObjNotFoundErr(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxBytes))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	all, err := Decode(raw)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return all, nil
}

// ReadAll returns the tenant's families of all partitions, the newest of each name. What it could read comes with an error,
// too.
func ReadAll(ctx context.Context, bkt objstore.BucketReader, tenant schema.Tenant) (map[string]Family, error) {
	all := map[string]Family{}
	var keys []string
	err := bkt.Iter(ctx, path.Join(string(tenant), schema.MetadataDir)+objstore.DirDelim, func(name string) error {
		if strings.HasSuffix(name, suffix) {
			keys = append(keys, name)
		}
		return nil
	})
	if err != nil && !bkt.IsObjNotFoundErr(err) {
		return all, fmt.Errorf("list metadata of tenant %s: %w", tenant, err)
	}
	var mu sync.Mutex // guards all and errs
	var errs []error
	var g errgroup.Group
	g.SetLimit(together)
	for _, key := range keys {
		g.Go(func() error {
			found, err := read(ctx, bkt, key)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
			for name, f := range found {
				if have, ok := all[name]; !ok || have.Seen < f.Seen {
					all[name] = f
				}
			}
			return nil
		})
	}
	_ = g.Wait() // its errors are in errs
	return all, errors.Join(errs...)
}
