package block

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/thanos-io/objstore"

	"sluice/schema"
)

// Key returns the bucket key of a part of a block: <tenant>/<ulid>/<part>….
func Key(tenant schema.Tenant, id ulid.ULID, parts ...string) string {
	return path.Join(append([]string{string(tenant), id.String()}, parts...)...)
}

// ErrNotFound is returned for a block that has no whole meta.json in the bucket.
var ErrNotFound = errors.New("block not in the bucket")

// ErrCorrupt is returned for a file whose size or hash is not what the block's meta says.
var ErrCorrupt = errors.New("block file differs from its meta")

// Upload puts the block in dir into the bucket: its files, their sizes looked up again, meta.json last. Doing it twice is harmless;
// stopping anywhere leaves a folder without meta.json, which is no block. Each after is called with the path (inside of
// the block) of every file that has arrived.
func Upload(ctx context.Context, bkt objstore.Bucket, dir string, meta *schema.BlockMeta, after ...func(path string)) error {
	tenant := meta.Sluice.Tenant
	for _, f := range meta.Thanos.Files {
		key := Key(tenant, meta.ULID, f.Path)
		if err := uploadFile(ctx, bkt, filepath.Join(dir, filepath.FromSlash(f.Path)), key); err != nil {
			return err
		}
		attrs, err := bkt.Attributes(ctx, key)
		if err != nil {
			return fmt.Errorf("look up %s: %w", key, err)
		}
		if attrs.Size != f.Size {
			return fmt.Errorf("upload %s: %d bytes arrived of %d: %w", key, attrs.Size, f.Size, ErrCorrupt)
		}
		tell(after, f.Path)
	}
	if err := uploadFile(ctx, bkt, filepath.Join(dir, schema.MetaFile), Key(tenant, meta.ULID, schema.MetaFile)); err != nil {
		return err
	}
	tell(after, schema.MetaFile)
	return nil
}

func tell(after []func(path string), path string) {
	for _, f := range after {
		f(path)
	}
}

func uploadFile(ctx context.Context, bkt objstore.Bucket, file, key string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("upload %s: %w", key, err)
	}
	defer f.Close()
	if err := bkt.Upload(ctx, key, f); err != nil {
		return fmt.Errorf("upload %s: %w", key, err)
	}
	return nil
}

// ReadMeta reads meta.json. ErrNotFound: there is none, or half of one (an upload that was cut).
func ReadMeta(ctx context.Context, bkt objstore.BucketReader, tenant schema.Tenant, id ulid.ULID) (*schema.BlockMeta, error) {
	key := Key(tenant, id, schema.MetaFile)
	r, err := bkt.Get(ctx, key)
	if err != nil {
		if bkt.IsObjNotFoundErr(err) {
			return nil, fmt.Errorf("read %s: %w", key, ErrNotFound)
		}
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, 64<<20))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	var meta schema.BlockMeta
	if err := json.Unmarshal(raw, &meta); err != nil {
		return nil, fmt.Errorf("read %s: %w: %v", key, ErrNotFound, err)
	}
	if meta.ULID != id {
		return nil, fmt.Errorf("read %s: it names block %s: %w", key, meta.ULID, ErrCorrupt)
	}
	return &meta, nil
}

// Download fetches the files of a block, and a meta.json if it has one, into dir/<path>. ErrCorrupt: a file's size or
// hash is not what files says; files without a hash (foreign blocks) are checked for size only, those without a size not at all.
func Download(ctx context.Context, bkt objstore.BucketReader, tenant schema.Tenant, id ulid.ULID, files []schema.BlockFile, dir string) error {
	for _, f := range files {
		if f.Path == schema.MetaFile {
			continue
		}
		if err := downloadFile(ctx, bkt, Key(tenant, id, f.Path), f, dir); err != nil {
			return err
		}
	}
	return downloadFile(ctx, bkt, Key(tenant, id, schema.MetaFile), schema.BlockFile{Path: schema.MetaFile}, dir)
}

func downloadFile(ctx context.Context, bkt objstore.BucketReader, key string, f schema.BlockFile, dir string) (err error) {
	local := filepath.FromSlash(f.Path)
	if !filepath.IsLocal(local) {
		return fmt.Errorf("download %s: path leaves the block: %w", key, ErrCorrupt)
	}
	dst := filepath.Join(dir, local)
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return fmt.Errorf("download %s: %w", key, err)
	}
	out, err := os.Create(dst)
	if err != nil {
		return fmt.Errorf("download %s: %w", key, err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return readFile(ctx, bkt, key, f, out)
}

// readFile copies an object to w and holds it against size and hash.
func readFile(ctx context.Context, bkt objstore.BucketReader, key string, f schema.BlockFile, w io.Writer) error {
	r, err := bkt.Get(ctx, key)
	if err != nil {
		if bkt.IsObjNotFoundErr(err) {
			return fmt.Errorf("read %s: %w", key, ErrNotFound)
		}
		return fmt.Errorf("read %s: %w", key, err)
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), r)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if f.Size > 0 && n != f.Size {
		return fmt.Errorf("read %s: %d bytes, should be %d: %w", key, n, f.Size, ErrCorrupt)
	}
	if f.Hash != nil && f.Hash.Func == "SHA256" && hex.EncodeToString(h.Sum(nil)) != f.Hash.String {
		return fmt.Errorf("read %s: SHA256 differs: %w", key, ErrCorrupt)
	}
	return nil
}

// Delete removes a block from the bucket, meta.json first, so that what is left after a crash is no block any more. A
// block that is not there is no error. Each after is called with the path (inside of the block) of every file that is gone.
func Delete(ctx context.Context, bkt objstore.Bucket, tenant schema.Tenant, id ulid.ULID, after ...func(path string)) error {
	folder := Key(tenant, id) + objstore.DirDelim
	remove := func(key string) error {
		if err := bkt.Delete(ctx, key); err != nil && !bkt.IsObjNotFoundErr(err) {
			return fmt.Errorf("delete %s: %w", key, err)
		}
		tell(after, strings.TrimPrefix(key, folder))
		return nil
	}
	if err := remove(Key(tenant, id, schema.MetaFile)); err != nil {
		return err
	}
	var keys []string
	err := bkt.Iter(ctx, folder, func(name string) error {
		if !strings.HasSuffix(name, objstore.DirDelim) {
			keys = append(keys, name)
		}
		return nil
	}, objstore.WithRecursiveIter())
	if err != nil && !bkt.IsObjNotFoundErr(err) {
		return fmt.Errorf("list block %s of tenant %s: %w", id, tenant, err)
	}
	for _, key := range keys {
		if err := remove(key); err != nil {
			return err
		}
	}
	return nil
}
