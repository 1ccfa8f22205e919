// Package bucket opens the object store: in goes objstore's YAML (the file Thanos' users have) or a directory, out comes
// a bucket with metrics. A directory bucket is made crash-safe here: an object is there whole and on disk, or not at
// all. It knows nothing of blocks.
package bucket

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	kitlog "github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/thanos-io/objstore"
	"github.com/thanos-io/objstore/client"
	"github.com/thanos-io/objstore/providers/filesystem"
	"go.yaml.in/yaml/v3"
)

// Open opens the bucket that conf describes, or the directory dir when conf is empty.
func Open(conf []byte, dir string, logger *slog.Logger, reg prometheus.Registerer) (objstore.InstrumentedBucket, error) {
	var bkt objstore.Bucket
	var typ struct {
		Type   string `yaml:"type"`
		Config struct {
			Directory string `yaml:"directory"`
		} `yaml:"config"`
		Prefix string `yaml:"prefix"`
	}
	if len(conf) > 0 {
		if err := yaml.Unmarshal(conf, &typ); err != nil {
			return nil, fmt.Errorf("read objstore configuration: %w", err)
		}
		if strings.EqualFold(typ.Type, string(objstore.FILESYSTEM)) && typ.Prefix == "" {
			dir, conf = typ.Config.Directory, nil
		}
	}
	if len(conf) == 0 {
		d, err := newDirectory(dir)
		if err != nil {
			return nil, err
		}
		bkt = d
	} else {
		b, err := client.NewBucket(slogAdapter{logger}, conf, "sluice", nil)
		if err != nil {
			return nil, fmt.Errorf("open bucket: %w", err)
		}
		bkt = b
	}
	return objstore.WrapWithMetrics(bkt, prometheus.WrapRegistererWithPrefix("sluice_", reg), bkt.Name()), nil
}

// tmpDir holds uploads under way, inside of the bucket's directory so that a rename is enough to publish them.
const tmpDir = ".tmp"

// directory is objstore's filesystem bucket with uploads that survive a crash: written beside, synced, renamed, and the
// folders synced. Objstore's own writes in place and leaves the disk's cache to its luck, but the log may be trimmed
// as soon as Upload has returned.
type directory struct {
	*filesystem.Bucket
	root string
}

func newDirectory(root string) (*directory, error) {
	if root == "" {
		return nil, fmt.Errorf("open bucket: no directory given")
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(root, tmpDir), 0o755); err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	b, err := filesystem.NewBucket(root)
	if err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	return &directory{Bucket: b, root: root}, nil
}

// Upload writes the object durably: after the return it survives a power cut; before, nobody sees it.
func (d *directory) Upload(ctx context.Context, name string, r io.Reader, _ ...objstore.ObjectUploadOption) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Join(d.root, tmpDir), "upload-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if _, err := io.Copy(tmp, r); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	dst := filepath.Join(d.root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), dst); err != nil {
		return err
	}
	// The folders up to the root: any of them may be new.
	for dir := filepath.Dir(dst); len(dir) >= len(d.root); dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Iter lists like objstore's, without the uploads under way.
func (d *directory) Iter(ctx context.Context, dir string, f func(string) error, opts ...objstore.IterOption) error {
	return d.Bucket.Iter(ctx, dir, func(name string) error {
		if hidden(name) {
			return nil
		}
		return f(name)
	}, opts...)
}

// IterWithAttributes lists like objstore's, without the uploads under way.
func (d *directory) IterWithAttributes(ctx context.Context, dir string, f func(objstore.IterObjectAttributes) error, opts ...objstore.IterOption) error {
	return d.Bucket.IterWithAttributes(ctx, dir, func(a objstore.IterObjectAttributes) error {
		if hidden(a.Name) {
			return nil
		}
		return f(a)
	}, opts...)
}

func hidden(name string) bool { return strings.HasPrefix(name, tmpDir+objstore.DirDelim) }

// slogAdapter lets objstore's providers, which speak go-kit/log, write to slog.
type slogAdapter struct{ *slog.Logger }

func (l slogAdapter) Log(kv ...any) error {
	msg := "bucket"
	args := make([]any, 0, len(kv))
	for i := 0; i+1 < len(kv); i += 2 {
		if key := fmt.Sprint(kv[i]); key == "msg" {
			msg = fmt.Sprint(kv[i+1])
		} else if key != "level" {
			args = append(args, key, kv[i+1])
		}
	}
	l.Debug(msg, args...)
	return nil
}

var _ kitlog.Logger = slogAdapter{}
