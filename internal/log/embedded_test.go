package log

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

func openTest(t *testing.T, cfg EmbeddedConfig) *Embedded {
	t.Helper()
	if cfg.Partitions == 0 {
		cfg.Partitions = 1
	}
	e, err := OpenEmbedded(cfg, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// crashed returns a copy of a log's directory: what a process that dies now leaves.
func crashed(t *testing.T, dir string) string {
	t.Helper()
	c := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.CopyFS(c, os.DirFS(dir)))
	return c
}

func put(t *testing.T, e *Embedded, topic string, values ...string) []Record {
	t.Helper()
	recs := make([]Record, len(values))
	for i, v := range values {
		recs[i] = Record{Key: []byte("k"), Value: []byte(v)}
	}
	require.NoError(t, e.Append(t.Context(), topic, recs))
	return recs
}

// readTo returns the values by offset of what can be read from an offset to the end.
func readTo(t *testing.T, l Log, topic string, from int64) map[int64]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	b, err := l.Bounds(ctx, topic, 0)
	require.NoError(t, err)
	r, err := l.Reader(topic, 0, from)
	require.NoError(t, err)
	defer r.Close()
	out := map[int64]string{}
	for last := from - 1; last < b.End-1; {
		recs, err := r.Next(ctx)
		require.NoError(t, err)
		for i := range recs {
			require.Greater(t, recs[i].Offset, last)
			last = recs[i].Offset
			out[last] = string(recs[i].Value)
		}
	}
	return out
}

func onlySegment(t *testing.T, dir, topic string) string {
	t.Helper()
	segs, err := listSegments(partitionDir(dir, topic, 0))
	require.NoError(t, err)
	require.Len(t, segs, 1)
	return segs[0].path
}

// TestTornTail cuts the last group off at every byte, and damages every byte of it: what was acknowledged before it is
// there in each case, what is there is what was written, and the log goes on.
func TestTornTail(t *testing.T) {
	for _, topic := range []string{TopicSamples, TopicDeadLetter} {
		dir := t.TempDir()
		e := openTest(t, EmbeddedConfig{Dir: dir})
		put(t, e, topic, "first", strings.Repeat("second", 6000))
		path := onlySegment(t, dir, topic)
		info, err := os.Stat(path)
		require.NoError(t, err)
		safe := info.Size()
		put(t, e, topic, "third", "fourth")
		require.NoError(t, e.Close())
		whole, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Less(t, safe, int64(len(whole)))
		check := func(b []byte, what string) {
			require.NoError(t, os.WriteFile(path, b, 0o666))
			ro := openTest(t, EmbeddedConfig{Dir: dir, ReadOnly: true})
			n := len(readTo(t, ro, topic, 0))
			require.GreaterOrEqual(t, n, 2, what)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, string(b) == string(after), "reading only must not write: %s", what)

			e := openTest(t, EmbeddedConfig{Dir: dir})
			got := readTo(t, e, topic, 0)
			require.Len(t, got, n, what)
			for off, v := range got {
				want := []string{"first", strings.Repeat("second", 6000), "third", "fourth"}[off]
				require.True(t, want == v, what)
			}
			recs := put(t, e, topic, "next")
			require.Equal(t, int64(n), recs[0].Offset, what)
			require.NoError(t, e.Close())
			e = openTest(t, EmbeddedConfig{Dir: dir})
			got = readTo(t, e, topic, 0)
			require.Len(t, got, n+1, what)
			require.Equal(t, "next", got[int64(n)], what)
			require.NoError(t, e.Close())
		}
		for i := safe; i <= int64(len(whole)); i++ {
			check(whole[:i], fmt.Sprintf("cut at %d of %d", i, len(whole)))
		}
		for i := safe; i < int64(len(whole)); i++ {
			b := append([]byte{}, whole...)
			b[i] ^= 0x5a
			check(b, fmt.Sprintf("byte %d of %d", i, len(whole)))
		}
		check(append(whole[:safe:safe], make([]byte, 100_000)...), "zeros")
	}
}

// TestRotInLastSegment damages a group that was acknowledged before others: those others stay.
func TestRotInLastSegment(t *testing.T) {
	dir := t.TempDir()
	e := openTest(t, EmbeddedConfig{Dir: dir})
	for i := range 10 {
		put(t, e, TopicDeadLetter, fmt.Sprint("value ", i))
	}
	require.NoError(t, e.Close())
	path := onlySegment(t, dir, TopicDeadLetter)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	i := strings.Index(string(b), "value 4")
	b[i] = 'V'
	require.NoError(t, os.WriteFile(path, b, 0o666))
	e = openTest(t, EmbeddedConfig{Dir: dir})
	require.Equal(t, 1.0, testutil.ToFloat64(e.metrics.corruptions))
	got := readTo(t, e, TopicDeadLetter, 0)
	require.Len(t, got, 9)
	require.NotContains(t, got, int64(4))
	require.Equal(t, int64(10), put(t, e, TopicDeadLetter, "next")[0].Offset)
}

// TestDamagedMiddle damages pages and a whole segment in the middle of the log: readers go on behind it.
func TestDamagedMiddle(t *testing.T) {
	dir := t.TempDir()
	cfg := EmbeddedConfig{Dir: dir, SegmentBytes: 256 << 10, TailBytes: -1}
	e := openTest(t, cfg)
	for i := range 200 {
		put(t, e, TopicDeadLetter, fmt.Sprint(i, strings.Repeat(" x", 4000)))
	}
	require.NoError(t, e.Close())
	segs, err := listSegments(partitionDir(dir, TopicDeadLetter, 0))
	require.NoError(t, err)
	require.Greater(t, len(segs), 5)
	b, err := os.ReadFile(segs[2].path)
	require.NoError(t, err)
	copy(b[3*pageSize+100:], strings.Repeat("damage", 100))
	require.NoError(t, os.WriteFile(segs[2].path, b, 0o666))
	require.NoError(t, os.WriteFile(segs[4].path, make([]byte, 1000), 0o666))
	require.NoError(t, os.Truncate(segs[0].path, segs[0].size-100))

	e = openTest(t, cfg)
	got := readTo(t, e, TopicDeadLetter, 0)
	require.Contains(t, got, int64(0))
	require.Contains(t, got, int64(199))
	missing := 0
	for i := range int64(200) {
		v, ok := got[i]
		if !ok {
			missing++
			continue
		}
		require.True(t, v == fmt.Sprint(i, strings.Repeat(" x", 4000)))
	}
	perSegment := 200/len(segs) + 2
	require.Greater(t, missing, perSegment-4)
	require.Less(t, missing, perSegment+8)
	require.Positive(t, testutil.ToFloat64(e.metrics.corruptions))
	// From the middle of the hole, too.
	require.Len(t, readTo(t, e, TopicDeadLetter, 199), 1)
}

// TestCrashes copies the directory while writers write and readers read, and looks for what was acknowledged by then.
func TestCrashes(t *testing.T) {
	dir := t.TempDir()
	e := openTest(t, EmbeddedConfig{Dir: dir, SegmentBytes: 128 << 10})
	var mu sync.Mutex
	acked := map[int64]string{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				recs := []Record{{Value: []byte(fmt.Sprint(w, " ", i, strings.Repeat(" y", i%5000)))}}
				if err := e.Append(t.Context(), TopicSamples, recs); err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				acked[recs[0].Offset] = string(recs[0].Value)
				mu.Unlock()
			}
		})
	}
	for range 10 {
		mu.Lock()
		want := make(map[int64]string, len(acked))
		for k, v := range acked {
			want[k] = v
		}
		mu.Unlock()
		c := openTest(t, EmbeddedConfig{Dir: crashed(t, dir), SegmentBytes: 128 << 10})
		got := readTo(t, c, TopicSamples, 0)
		for off, v := range want {
			require.True(t, got[off] == v, "offset %d: %d bytes, want %d", off, len(got[off]), len(v))
		}
		require.NoError(t, c.Close())
	}
	close(stop)
	wg.Wait()
	require.Len(t, readTo(t, e, TopicSamples, 0), len(acked))
}

// TestFailedWrites fails writes and syncs: those appends fail, others do not, and nobody reads what was not acknowledged.
func TestFailedWrites(t *testing.T) {
	dir := t.TempDir()
	e := openTest(t, EmbeddedConfig{Dir: dir, TailBytes: -1})
	p := e.topics[TopicDeadLetter].parts[0]
	errDisk := errors.New("the disk is ill")
	syncFile, writeAt := p.syncFile, p.writeAt
	want := map[int64]string{}
	for i := range 30 {
		v := fmt.Sprint("value ", i)
		switch i % 5 {
		case 1:
			p.syncFile = func(*os.File) error { return errDisk }
		case 2:
			p.writeAt = func(f *os.File, b []byte, at int64) error { // a part of it gets there
				return errors.Join(writeAt(f, b[:len(b)/2], at), errDisk)
			}
		}
		recs := []Record{{Value: []byte(v)}}
		err := e.Append(t.Context(), TopicDeadLetter, recs)
		p.syncFile, p.writeAt = syncFile, writeAt
		if m := i % 5; m == 1 || m == 2 {
			require.ErrorIs(t, err, errDisk)
		} else {
			require.NoError(t, err)
			require.Equal(t, int64(len(want)), recs[0].Offset)
			want[recs[0].Offset] = v
		}
		require.Equal(t, want, readTo(t, e, TopicDeadLetter, 0))
	}
	require.Equal(t, 12.0, testutil.ToFloat64(e.metrics.appendErrors.WithLabelValues(TopicDeadLetter)))
	c := openTest(t, EmbeddedConfig{Dir: crashed(t, dir)})
	require.Equal(t, want, readTo(t, c, TopicDeadLetter, 0))
	require.NoError(t, e.Close())
	e = openTest(t, EmbeddedConfig{Dir: dir})
	require.Equal(t, want, readTo(t, e, TopicDeadLetter, 0))
}

// TestDiskFull fills a small file system: appends fail, nothing acknowledged is lost, and it goes on when there is room.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("mounting a small tmpfs needs root: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	e := openTest(t, EmbeddedConfig{Dir: dir, SegmentBytes: 512 << 10, Retention: time.Nanosecond})
	acked := 0
	for failures := 0; failures < 20; {
		err := e.Append(t.Context(), TopicDeadLetter, []Record{{Value: []byte(fmt.Sprint(acked, strings.Repeat("z", 100_000)))}})
		if err == nil {
			require.Zero(t, failures)
			acked++
			continue
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
		failures++
	}
	require.Greater(t, acked, 30)
	require.Len(t, readTo(t, e, TopicDeadLetter, 0), acked)
	segs, err := listSegments(partitionDir(dir, TopicDeadLetter, 0))
	require.NoError(t, err)
	require.LessOrEqual(t, len(segs), 10, "an attempt must not leave a file")
	require.NoError(t, e.Maintain())
	recs := put(t, e, TopicDeadLetter, "room again")
	require.Equal(t, int64(acked), recs[0].Offset)
	require.NoError(t, e.Close())
	e = openTest(t, EmbeddedConfig{Dir: dir})
	b, err := e.Bounds(t.Context(), TopicDeadLetter, 0)
	require.NoError(t, err)
	require.Equal(t, int64(acked)+1, b.End)
}

func TestQueue(t *testing.T) {
	e := openTest(t, EmbeddedConfig{Dir: t.TempDir(), MaxQueuedBytes: 3000})
	p := e.topics[TopicSamples].parts[0]
	syncing, release := make(chan struct{}, 10), make(chan struct{})
	p.syncFile = func(f *os.File) error {
		syncing <- struct{}{}
		<-release
		return f.Sync()
	}
	value := []byte(strings.Repeat("v", 1000))
	var wg sync.WaitGroup
	errs := make([]error, 3)
	leave, cancel := context.WithCancel(t.Context())
	wg.Go(func() { errs[0] = e.Append(t.Context(), TopicSamples, []Record{{Value: value}}) })
	<-syncing // the first is under way, the others wait for it
	left := make(chan error)
	go func() { left <- e.Append(leave, TopicSamples, []Record{{Value: value}}) }()
	require.Eventually(t, func() bool { p.qmu.Lock(); defer p.qmu.Unlock(); return len(p.queue) == 1 }, 10*time.Second, time.Millisecond)
	require.ErrorIs(t, e.Append(t.Context(), TopicSamples, []Record{{Value: append(value, value...)}}), ErrOverloaded)
	require.Equal(t, 1.0, testutil.ToFloat64(e.metrics.overloads))
	cancel()
	require.ErrorIs(t, <-left, context.Canceled)
	wg.Go(func() { errs[1] = e.Append(t.Context(), TopicSamples, []Record{{Value: value}}) })
	close(release)
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Zero(t, e.queued.Load())
	require.Len(t, readTo(t, e, TopicSamples, 0), 2, "one left before its turn")
}

func TestTailIsBounded(t *testing.T) {
	e := openTest(t, EmbeddedConfig{Dir: t.TempDir(), TailBytes: 10_000})
	p := e.topics[TopicSamples].parts[0]
	for i := range 50 {
		put(t, e, TopicSamples, fmt.Sprint(i, strings.Repeat("v", 999)))
	}
	require.LessOrEqual(t, p.tailSize, int64(10_000))
	require.Len(t, p.tail, 9)
	got := readTo(t, e, TopicSamples, 0) // from disk into the tail
	require.Len(t, got, 50)
	put(t, e, TopicSamples, strings.Repeat("v", 20_000)) // larger than all of it
	require.Empty(t, p.tail)
	require.Len(t, readTo(t, e, TopicSamples, 45), 6)
}

// TestTailToDisk: a reader in the tail that falls behind goes on in the right place on disk.
func TestTailToDisk(t *testing.T) {
	e := openTest(t, EmbeddedConfig{Dir: t.TempDir(), TailBytes: 5_000, SegmentBytes: 128 << 10})
	r, err := e.Reader(TopicSamples, 0, 0)
	require.NoError(t, err)
	defer r.Close()
	n, next := 0, int64(0)
	for round := range 60 {
		for range 1 + round%9 {
			put(t, e, TopicDeadLetter, "other")
			put(t, e, TopicSamples, fmt.Sprint(n, strings.Repeat("w", 999)))
			n++
		}
		for next < int64(n) {
			recs, err := r.Next(t.Context())
			require.NoError(t, err)
			for _, rec := range recs {
				require.Equal(t, next, rec.Offset)
				require.Equal(t, fmt.Sprint(next), strings.TrimRight(string(rec.Value), "w"))
				next++
			}
			if round%4 == 0 {
				break
			}
		}
	}
}

func TestLockAndReadOnly(t *testing.T) {
	dir := t.TempDir()
	_, err := OpenEmbedded(EmbeddedConfig{Dir: dir, ReadOnly: true}, slog.New(slog.DiscardHandler), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	e := openTest(t, EmbeddedConfig{Dir: dir, Partitions: 2})
	_, err = OpenEmbedded(EmbeddedConfig{Dir: dir}, slog.New(slog.DiscardHandler), nil)
	require.ErrorContains(t, err, "another process")
	put(t, e, TopicSamples, "a", "b")
	require.NoError(t, e.Commit(t.Context(), "g", TopicSamples, 0, 1))

	ro := openTest(t, EmbeddedConfig{Dir: dir, ReadOnly: true})
	require.Equal(t, map[int64]string{0: "a", 1: "b"}, readTo(t, ro, TopicSamples, 0))
	put(t, e, TopicSamples, "c")
	require.Len(t, readTo(t, ro, TopicSamples, 0), 2, "it sees what there was")
	c, err := ro.Committed(t.Context(), "g", TopicSamples)
	require.NoError(t, err)
	require.Equal(t, map[int32]int64{0: 1}, c)
	for _, err := range []error{
		ro.Append(t.Context(), TopicSamples, []Record{{}}), ro.Commit(t.Context(), "g", TopicSamples, 0, 0),
		ro.Trim(t.Context(), TopicSamples, 0, 0), ro.Run(t.Context()), ro.Maintain(),
	} {
		require.ErrorIs(t, err, errReadOnly)
	}
}

func TestLostFiles(t *testing.T) {
	dir := t.TempDir()
	e := openTest(t, EmbeddedConfig{Dir: dir})
	put(t, e, TopicSamples, "a")
	require.NoError(t, e.Close())
	logger := slog.New(slog.DiscardHandler)

	c := crashed(t, dir)
	require.NoError(t, os.Remove(filepath.Join(c, topicsFile)))
	_, err := OpenEmbedded(EmbeddedConfig{Dir: c}, logger, nil)
	require.ErrorContains(t, err, "does not know it")

	c = crashed(t, dir)
	require.NoError(t, os.RemoveAll(filepath.Join(c, TopicSamples)))
	_, err = OpenEmbedded(EmbeddedConfig{Dir: c}, logger, nil)
	require.ErrorContains(t, err, "is gone")

	for _, name := range []string{topicsFile, commitsFile} {
		c = crashed(t, dir)
		require.NoError(t, os.WriteFile(filepath.Join(c, name), []byte(`{"version":2}`), 0o666))
		_, err = OpenEmbedded(EmbeddedConfig{Dir: c}, logger, nil)
		require.ErrorContains(t, err, "newer Sluice")
		require.NoError(t, os.WriteFile(filepath.Join(c, name), []byte(`{`), 0o666))
		_, err = OpenEmbedded(EmbeddedConfig{Dir: c}, logger, nil)
		require.ErrorContains(t, err, name)
	}
}

func TestEmbeddedConfig(t *testing.T) {
	c := EmbeddedConfig{Dir: "x"}
	require.NoError(t, c.Validate())
	for _, bad := range []EmbeddedConfig{
		{}, {Dir: "x", Partitions: -1}, {Dir: "x", Fsync: "sometimes"}, {Dir: "x", Retention: -1},
		{Dir: "x", SegmentBytes: 1}, {Dir: "x", MaxBytes: -1},
	} {
		require.Error(t, bad.Validate())
	}
}

// TestMorePartitions: a log grows when it is opened, keeps what it has, and never shrinks.
func TestMorePartitions(t *testing.T) {
	dir := t.TempDir()
	open := func(partitions int32) *Embedded {
		e, err := OpenEmbedded(EmbeddedConfig{Dir: dir, Partitions: partitions}, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		return e
	}
	count := func(e *Embedded) int32 {
		n, err := e.Partitions(t.Context(), TopicSamples)
		require.NoError(t, err)
		return n
	}
	e := open(2)
	put(t, e, TopicSamples, "a", "b")
	id, err := e.TopicID(t.Context(), TopicSamples)
	require.NoError(t, err)
	require.NoError(t, e.Close())

	// As if the process had died between making the directories and naming them.
	require.NoError(t, os.Mkdir(filepath.Join(dir, TopicSamples, "2"), 0o777))
	for _, c := range []struct{ configured, want int32 }{{0, 2}, {5, 5}, {3, 5}, {0, 5}} {
		e = open(c.configured)
		require.Equal(t, c.want, count(e), "configured %d", c.configured)
		again, err := e.TopicID(t.Context(), TopicSamples)
		require.NoError(t, err)
		require.Equal(t, id, again)
		require.Equal(t, map[int64]string{0: "a", 1: "b"}, readTo(t, e, TopicSamples, 0))
		require.NoError(t, e.Close())
	}
	e = open(0)
	require.NoError(t, e.Append(t.Context(), TopicSamples, []Record{{Partition: 4, Value: []byte("new")}}))
	require.NoError(t, e.Close())
	e = open(0)
	ends, err := e.Ends(t.Context(), TopicSamples)
	require.NoError(t, err)
	require.Equal(t, []int64{2, 0, 0, 0, 1}, ends)
	require.NoError(t, e.Close())

	// A partition that topics.json does not know but that holds records is somebody's mistake.
	require.NoError(t, os.CopyFS(filepath.Join(dir, TopicSamples, "5"), os.DirFS(filepath.Join(dir, TopicSamples, "4"))))
	_, err = OpenEmbedded(EmbeddedConfig{Dir: dir, Partitions: 6}, slog.New(slog.DiscardHandler), nil)
	require.ErrorContains(t, err, "does not know it")
}
