package watch

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type counted struct{ good, bad int }

func open(t *testing.T, path string, c *counted) (*File[string], error) {
	return Open(Config[string]{
		Path: path, Every: time.Hour,
		Parse: func(content []byte, before *string) (*string, error) {
			if string(content) == "bad" {
				return nil, errors.New("it is bad")
			}
			s := string(content)
			if before != nil {
				s += " after " + *before
			}
			return &s, nil
		},
		Good: func() { c.good++ }, Bad: func() { c.bad++ },
	}, slog.New(slog.DiscardHandler))
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write := func(s string) { require.NoError(t, os.WriteFile(path, []byte(s), 0o600)) }
	var c counted
	_, err := open(t, path, &c)
	require.ErrorIs(t, err, os.ErrNotExist)
	write("bad")
	_, err = open(t, path, &c)
	require.ErrorContains(t, err, "it is bad")
	write("one")
	f, err := open(t, path, &c)
	require.NoError(t, err)
	require.Equal(t, counted{good: 1, bad: 2}, c)

	write("tw")
	require.NoError(t, f.Reload())
	write("two")
	require.NoError(t, f.Reload())
	require.Equal(t, "one", *f.Load(), "seen once only")
	require.NoError(t, f.Reload())
	require.Equal(t, "two after one", *f.Load())
	require.NoError(t, f.Reload())
	require.Equal(t, "two after one", *f.Load(), "the same content is not parsed again")

	for _, broken := range []func(){
		func() { write("bad") },
		func() { require.NoError(t, os.Truncate(path, maxFile+1)) },
		func() { require.NoError(t, os.Remove(path)) },
	} {
		broken()
		_ = f.Reload() // the first look may not tell
		bad := c.bad
		require.Error(t, f.Reload())
		require.Equal(t, bad+1, c.bad)
		require.Equal(t, "two after one", *f.Load())
	}
}

func TestFixed(t *testing.T) {
	v := 5
	f := Fixed(&v)
	require.Equal(t, 5, *f.Load())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, f.Run(ctx), context.Canceled)
}
