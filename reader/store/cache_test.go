package store

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/internal/trace"
	"sluice/reader/store/disk"
)

// running is a store with a cache on disk, until stop is called.
func running(t testing.TB, bkt *bucket, dir string) (s *Store, stop func()) {
	s = newStore(t, bkt, Config{PageBytes: 4096, Disk: disk.Config{Dir: dir, Bytes: disk.MinBytes}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	require.Eventually(t, s.pages.disk.On, 10*time.Second, time.Millisecond)
	return s, func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		s.Close()
	}
}

// TestDiskTier asks, restarts and asks again: the second time nothing comes from the bucket, and the answers are the same;
// also after every byte on the disk has been made another.
func TestDiskTier(t *testing.T) {
	dir, entry := makeBlock(t, 100, 240)
	addHeader(t, dir, entry)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	cache := t.TempDir()
	s, stop := running(t, bkt, cache)
	right, err := answers(s, entry)
	require.NoError(t, err)
	gets := bkt.gets.Load()
	require.Positive(t, gets)
	for range 3 { // what was read is written a moment later, or was left out
		require.Eventually(t, func() bool { return s.pages.disk.Idle() }, 10*time.Second, time.Millisecond)
		stop()
		s, stop = running(t, bkt, cache)
		_, err = answers(s, entry)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool { return s.pages.disk.Idle() }, 10*time.Second, time.Millisecond)
	stop()

	s, stop = running(t, bkt, cache)
	gets = bkt.gets.Load()
	q := trace.New("test", nil)
	got, err := answersWith(trace.With(context.Background(), q), s, entry)
	require.NoError(t, err)
	require.Equal(t, right, got)
	require.Equal(t, gets, bkt.gets.Load())
	require.Positive(t, q.Counts()[trace.DiskHits])
	require.Zero(t, q.Counts()[trace.BucketRequests])
	stop()

	require.NoError(t, filepath.WalkDir(cache, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".pages") {
			return err
		}
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		for i := 50; i < len(b); i += 1000 { // the heads too
			b[i] ^= 0x10
		}
		return os.WriteFile(p, b, 0o644)
	}))
	s, stop = running(t, bkt, cache)
	q = trace.New("test", nil)
	got, err = answersWith(trace.With(context.Background(), q), s, entry)
	require.NoError(t, err)
	require.Equal(t, right, got)
	require.Positive(t, q.Counts()[trace.BucketRequests])
	require.Positive(t, q.Counts()[trace.BucketBytes])
	stop()
}

// TestRottenFetch has the bucket give a wrong byte once: it does not stay, neither in memory nor on disk.
func TestRottenFetch(t *testing.T) {
	dir, entry := makeBlock(t, 100, 240)
	addHeader(t, dir, entry)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	for _, file := range []string{"/index", "/chunks/000001", "/sluice-header"} {
		s, stop := running(t, bkt, t.TempDir())
		bkt.set(nil, func(name string, off int64, b []byte) []byte {
			if strings.HasSuffix(name, file) {
				for i := 0; i < len(b); i += 100 {
					b[i] ^= 1
				}
			}
			return b
		})
		_, err := answers(s, entry)
		require.Equal(t, file != "/sluice-header", err != nil, "%s: %v", file, err)
		bkt.set(nil, nil)
		require.Eventually(t, func() bool { _, err = answers(s, entry); return err == nil }, 10*time.Second, time.Millisecond, "%s: %v", file, err)
		stop()
	}
}
