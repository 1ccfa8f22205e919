package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func key(n int) (k Key) {
	sum := sha256.Sum256([]byte(fmt.Sprint("file", n/10)))
	copy(k.File[:], sum[:])
	k.Page = uint32(n % 10)
	return k
}

// content is a page of 64 KiB that follows from its number.
func content(n int) []byte {
	b := make([]byte, 64<<10)
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	for i := 0; i < len(b); i += 64 {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// start runs a cache until stop is called.
func start(t testing.TB, dir string, size int64) (c *Cache, stop func()) {
	c, err := New(Config{Dir: dir, Bytes: size}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	require.Eventually(t, c.On, 10*time.Second, time.Millisecond)
	return c, sync.OnceFunc(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.False(t, c.On())
	})
}

// put writes pages and waits until they are there, or have been left out.
func put(t testing.TB, c *Cache, numbers ...int) {
	for _, n := range numbers {
		c.Put(key(n), content(n))
		require.Eventually(t, func() bool { return c.queued.Load() == 0 }, 10*time.Second, time.Millisecond)
	}
	c.Put(key(-1), []byte("the last"))
	require.Eventually(t, func() bool { return c.Get(key(-1)) != nil }, 10*time.Second, time.Millisecond)
}

func count(t testing.TB, m prometheus.Metric) float64 {
	var out dto.Metric
	require.NoError(t, m.Write(&out))
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

func TestPagesSurviveARestart(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := filepath.Join(t.TempDir(), "deep", "cache")
	c, stop := start(t, dir, MinBytes)
	defer stop()
	put(t, c, 1, 2, 3, 17)
	for round := range 3 {
		for _, n := range []int{1, 2, 3, 17} {
			require.Equal(t, content(n), c.Get(key(n)), "round %d", round)
		}
		require.Nil(t, c.Get(key(4)))
		stop()
		require.Nil(t, c.Get(key(1)))
		c, stop = start(t, dir, MinBytes)
		defer stop()
	}
	c.Drop(key(2))
	require.Nil(t, c.Get(key(2)))
	put(t, c, 2)
	require.Equal(t, content(2), c.Get(key(2)))
}

func TestBound(t *testing.T) {
	dir := t.TempDir()
	c, stop := start(t, dir, MinBytes)
	defer stop()
	const n = 1000 // 64 MB into 16
	put(t, c, 0)
	for i := range n {
		put(t, c, i)
		require.NotNil(t, c.Get(key(0)), "a page that is read stays")
	}
	check := func() {
		onDisk := int64(0)
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, f := range files {
			info, err := f.Info()
			require.NoError(t, err)
			onDisk += info.Size()
		}
		require.LessOrEqual(t, onDisk, int64(MinBytes))
		require.Greater(t, onDisk, int64(MinBytes/2))
		require.EqualValues(t, onDisk, count(t, c.size))
	}
	check()
	has := 0
	for i := range n {
		if b := c.Get(key(i)); b != nil {
			require.Equal(t, content(i), b)
			has++
		}
	}
	require.Greater(t, has, 100)
	require.NotNil(t, c.Get(key(n-1)))
	require.Positive(t, count(t, c.evicted))
	stop()
	c, stop = start(t, dir, MinBytes)
	defer stop()
	require.NotNil(t, c.Get(key(n-1)))
	check()
}

// TestRottenPages changes bytes of slabs, under a running cache and before a start: a page is what was put in, or missing.
func TestRottenPages(t *testing.T) {
	dir := t.TempDir()
	c, stop := start(t, dir, MinBytes)
	defer stop()
	numbers := []int{1, 2, 3, 4, 5}
	put(t, c, numbers...)
	files, err := filepath.Glob(filepath.Join(dir, "*"+slabSuffix))
	require.NoError(t, err)
	require.Len(t, files, 1)
	clean, err := os.ReadFile(files[0])
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(2, 2))
	missed := 0
	for range 40 {
		rotten := slices.Clone(clean)
		at := rng.IntN(len(rotten))
		if rng.IntN(2) == 0 {
			at = rng.IntN(5)*(headBytes+64<<10) + rng.IntN(headBytes)
		}
		if rng.IntN(4) == 0 {
			rotten = rotten[:at]
		} else {
			rotten[at] ^= 1 << rng.IntN(8)
		}
		if rng.IntN(2) == 0 { // running
			f, err := os.OpenFile(files[0], os.O_WRONLY|os.O_TRUNC, 0)
			require.NoError(t, err)
			_, err = f.Write(rotten)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		} else {
			stop()
			require.NoError(t, os.WriteFile(files[0], rotten, 0o644))
			c, stop = start(t, dir, MinBytes)
			defer stop()
		}
		for _, n := range numbers {
			if b := c.Get(key(n)); b == nil {
				missed++
			} else {
				require.True(t, bytes.Equal(content(n), b))
			}
		}
		stop()
		require.NoError(t, os.WriteFile(files[0], clean, 0o644))
		c, stop = start(t, dir, MinBytes)
		defer stop()
	}
	require.Positive(t, missed)
}

func TestTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	first, stop := start(t, dir, MinBytes)
	defer stop()
	put(t, first, 1)
	second, err := New(Config{Dir: dir, Bytes: MinBytes}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- second.Run(ctx) }()
	require.Eventually(t, func() bool { return count(t, second.failed.WithLabelValues("read")) == 1 }, 10*time.Second, time.Millisecond)
	second.Put(key(2), content(2))
	require.Nil(t, second.Get(key(1)))
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.NotNil(t, first.Get(key(1)))
}

// TestFolderDeleted takes the folder away while it is in use, and then puts a file in its place.
func TestFolderDeleted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c, stop := start(t, dir, MinBytes)
	defer stop()
	put(t, c, 1)
	require.NoError(t, os.RemoveAll(dir))
	for i := range 300 { // more than a slab
		put(t, c, i)
	}
	require.Equal(t, content(299), c.Get(key(299)))
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.WriteFile(dir, nil, 0o644))
	for i := range 600 {
		c.Put(key(1000+i), content(1))
	}
	require.Eventually(t, func() bool { return count(t, c.failed.WithLabelValues("write")) > 0 }, 10*time.Second, time.Millisecond)
	require.NotNil(t, c.Get(key(299)))
}

func TestNone(t *testing.T) {
	var c *Cache
	require.Nil(t, c.Get(key(1)))
	c.Put(key(1), content(1))
	c.Drop(key(1))
	require.Error(t, (&Config{Bytes: 5, Dir: "x"}).Validate())
	require.Error(t, (&Config{Bytes: MinBytes}).Validate())
	require.NoError(t, (&Config{}).Validate())
}

// FuzzSlab starts on a slab of arbitrary bytes.
func FuzzSlab(f *testing.F) {
	f.Add(append(appendHead(nil, key(1), []byte("page")), "page"...))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "0000000000000001"+slabSuffix), b, 0o644))
		c, stop := start(t, dir, MinBytes)
		defer stop()
		if got := c.Get(key(1)); got != nil {
			require.True(t, bytes.Contains(b, got))
		}
	})
}

func BenchmarkGet(b *testing.B) {
	c, stop := start(b, b.TempDir(), MinBytes)
	defer stop()
	put(b, c, 1)
	b.ReportAllocs()
	b.SetBytes(64 << 10)
	for b.Loop() {
		c.Get(key(1))
	}
}
