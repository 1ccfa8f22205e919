package bucket

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"
)

func TestDirectoryKeepsObjstoresContract(t *testing.T) {
	bkt, err := Open(nil, t.TempDir(), slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	objstore.AcceptanceTest(t, bkt)
}

// An upload that breaks off leaves what was there before, and nothing in a listing.
func TestTornUploadIsNotSeen(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	bkt, err := Open([]byte("type: FILESYSTEM\nconfig:\n  directory: "+dir+"\n"), "", slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	require.NoError(t, bkt.Upload(ctx, "t/a", strings.NewReader("whole")))
	broken := io.MultiReader(strings.NewReader("ha"), errReader{})
	require.Error(t, bkt.Upload(ctx, "t/a", broken))
	got, err := os.ReadFile(filepath.Join(dir, "t", "a"))
	require.NoError(t, err)
	require.Equal(t, "whole", string(got))

	// What a crash leaves behind stays out of sight.
	require.NoError(t, os.WriteFile(filepath.Join(dir, tmpDir, "upload-1"), []byte("x"), 0o644))
	var names []string
	require.NoError(t, bkt.Iter(ctx, "", func(n string) error { names = append(names, n); return nil }, objstore.WithRecursiveIter()))
	require.Equal(t, []string{"t/a"}, names)
	names = nil
	require.NoError(t, bkt.Iter(ctx, "", func(n string) error { names = append(names, n); return nil }))
	require.Equal(t, []string{"t/"}, names)
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("cut") }

func TestBadConfigurationIsAnError(t *testing.T) {
	for _, conf := range []string{"type: NOPE\n", "::", "type: S3\nconfig: {}\n"} {
		_, err := Open([]byte(conf), "", slog.New(slog.DiscardHandler), nil)
		require.Error(t, err, conf)
	}
	_, err := Open(nil, "", slog.New(slog.DiscardHandler), nil)
	require.Error(t, err)
}
