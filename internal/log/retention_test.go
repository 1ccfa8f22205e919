package log

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time      { return c.t }
func (c *clock) add(d time.Duration) { c.t = c.t.Add(d) }
func newClock() *clock               { return &clock{time.UnixMilli(1_700_000_000_000)} }
func bounds(t *testing.T, e *Embedded, topic string) Bounds {
	t.Helper()
	b, err := e.Bounds(t.Context(), topic, 0)
	require.NoError(t, err)
	return b
}

// fill appends a record of 50 KB, two to a segment, each minute.
func fill(t *testing.T, e *Embedded, c *clock, topic string, n int) {
	t.Helper()
	for i := range n {
		recs := []Record{{Key: []byte(fmt.Sprint(i)), Value: noise(50_000)}}
		require.NoError(t, e.Append(t.Context(), topic, recs))
		require.Equal(t, c.now().UnixMilli(), recs[0].Time)
		c.add(time.Minute)
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	x := uint32(n)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func TestRetention(t *testing.T) {
	c := newClock()
	cfg := EmbeddedConfig{
		Dir: t.TempDir(), SegmentBytes: 110_000, Retention: 30 * time.Minute, LookBack: 10 * time.Minute, Now: c.now,
	}
	e := openTest(t, cfg)
	fill(t, e, c, TopicSamples, 100)
	c.t = newClock().t.Add(100 * time.Minute)
	require.NoError(t, e.Maintain())
	require.Equal(t, Bounds{0, 100}, bounds(t, e, TopicSamples), "nobody has committed")

	require.NoError(t, e.Commit(t.Context(), "a", TopicSamples, 0, 60))
	require.NoError(t, e.Commit(t.Context(), "b", TopicSamples, 0, 40))
	require.NoError(t, e.Maintain())
	b := bounds(t, e, TopicSamples)
	require.LessOrEqual(t, b.Start, int64(30), "what b needs: from 10 minutes before offset 40 on")
	require.GreaterOrEqual(t, b.Start, int64(24))

	require.NoError(t, e.Commit(t.Context(), "a", TopicSamples, 0, 100))
	require.NoError(t, e.Commit(t.Context(), "b", TopicSamples, 0, 100))
	require.NoError(t, e.Maintain())
	b = bounds(t, e, TopicSamples)
	require.LessOrEqual(t, b.Start, int64(70), "30 minutes are kept")
	require.GreaterOrEqual(t, b.Start, int64(65))
	require.Len(t, readTo(t, e, TopicSamples, b.Start), int(b.End-b.Start))

	c.add(10 * time.Hour)
	require.NoError(t, e.Maintain())
	b = bounds(t, e, TopicSamples)
	require.LessOrEqual(t, b.Start, int64(90), "the look-back is kept")
	require.GreaterOrEqual(t, b.Start, int64(84))
	require.NoError(t, e.Close())
	e = openTest(t, cfg)
	require.Equal(t, b, bounds(t, e, TopicSamples))
}

func TestRetentionBySize(t *testing.T) {
	c := newClock()
	e := openTest(t, EmbeddedConfig{
		Dir: t.TempDir(), SegmentBytes: 110_000, MaxBytes: 1_000_000, LookBack: time.Minute, Now: c.now,
	})
	fill(t, e, c, TopicDeadLetter, 50)
	require.NoError(t, e.Maintain())
	b := bounds(t, e, TopicDeadLetter)
	require.GreaterOrEqual(t, b.Start, int64(30))
	require.LessOrEqual(t, b.Start, int64(33))

	fill(t, e, c, TopicSamples, 50)
	require.NoError(t, e.Maintain())
	require.Equal(t, Bounds{0, 50}, bounds(t, e, TopicSamples))
	require.NoError(t, e.Commit(t.Context(), "g", TopicSamples, 0, 10))
	require.NoError(t, e.Maintain())
	b = bounds(t, e, TopicSamples)
	require.Positive(t, b.Start)
	require.LessOrEqual(t, b.Start, int64(9), "what is needed stays, whatever the size")
	require.NoError(t, e.Commit(t.Context(), "g", TopicSamples, 0, 50))
	require.NoError(t, e.Maintain())
	require.GreaterOrEqual(t, bounds(t, e, TopicSamples).Start, int64(30))
}

// TestRetentionUnderReader drops segments that a reader is in the middle of.
func TestRetentionUnderReader(t *testing.T) {
	c := newClock()
	e := openTest(t, EmbeddedConfig{Dir: t.TempDir(), SegmentBytes: 110_000, Retention: time.Minute, TailBytes: -1, Now: c.now})
	fill(t, e, c, TopicDeadLetter, 50)
	r, err := e.Reader(TopicDeadLetter, 0, 0)
	require.NoError(t, err)
	defer r.Close()
	_, err = r.Next(t.Context())
	require.NoError(t, err)
	c.add(time.Hour)
	require.NoError(t, e.Maintain())
	_, err = r.Next(t.Context())
	var out *OutOfRangeError
	require.ErrorAs(t, err, &out)
	require.Equal(t, bounds(t, e, TopicDeadLetter), out.Bounds)
	require.Len(t, readTo(t, e, TopicDeadLetter, out.Bounds.Start), int(out.Bounds.End-out.Bounds.Start))
}

func TestTimeNeverGoesBack(t *testing.T) {
	c := newClock()
	cfg := EmbeddedConfig{Dir: t.TempDir(), Now: c.now}
	e := openTest(t, cfg)
	first := put(t, e, TopicSamples, "a")[0].Time
	c.add(-time.Hour)
	require.Equal(t, first, put(t, e, TopicSamples, "b")[0].Time)
	require.NoError(t, e.Close())
	e = openTest(t, cfg)
	require.Equal(t, first, put(t, e, TopicSamples, "c")[0].Time)
	off, err := e.OffsetAt(t.Context(), TopicSamples, 0, time.UnixMilli(first))
	require.NoError(t, err)
	require.Equal(t, int64(0), off)
}

// fillKeys writes a hundred keys many times, some deleted long ago, and returns what they are.
func fillKeys(t *testing.T, e *Embedded, c *clock) map[string]string {
	t.Helper()
	state := map[string]string{}
	apply := func(k, v string, value []byte) {
		require.NoError(t, e.Append(t.Context(), TopicBlocks, []Record{{Key: []byte(k), Value: value}}))
		if delete(state, k); value != nil {
			state[k] = v
		}
	}
	apply("deleted long ago", "", []byte("x"))
	apply("deleted long ago", "", nil)
	c.add(48 * time.Hour)
	apply("deleted", "", []byte("x"))
	for i := range 130 {
		k := fmt.Sprint("key ", i%10)
		v := fmt.Sprint(i, strings.Repeat("v", 100_000))
		apply(k, v, []byte(v))
		if i == 100 {
			apply("deleted", "", nil)
			apply("rare", "r", []byte("r"))
		}
	}
	return state
}

func tableState(t *testing.T, e *Embedded) (map[string]string, map[string]int64) {
	t.Helper()
	state, offsets := map[string]string{}, map[string]int64{}
	r, err := e.Reader(TopicBlocks, 0, 0)
	require.NoError(t, err)
	defer r.Close()
	last := int64(-1)
	for end := bounds(t, e, TopicBlocks).End; r.Position() < end; {
		recs, err := r.Next(t.Context())
		require.NoError(t, err)
		for _, rec := range recs {
			require.Greater(t, rec.Offset, last)
			last = rec.Offset
			k := string(rec.Key)
			offsets[k] = rec.Offset
			if delete(state, k); rec.Value != nil {
				state[k] = string(rec.Value)
			}
		}
	}
	return state, offsets
}

func TestCompaction(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	cfg := EmbeddedConfig{Dir: dir, SegmentBytes: 1 << 20, Now: c.now}
	e := openTest(t, cfg)
	want := fillKeys(t, e, c)
	end := bounds(t, e, TopicBlocks).End
	p := e.topics[TopicBlocks].parts[0]
	was := p.size()
	r, err := e.Reader(TopicBlocks, 0, 0)
	require.NoError(t, err)
	defer r.Close()
	p.tail, p.tailSize = nil, 0
	_, err = r.Next(t.Context()) // in the middle of a segment that goes
	require.NoError(t, err)
	require.NoError(t, e.Maintain())
	require.Less(t, p.size(), was/5)
	for range 2 {
		require.Equal(t, Bounds{0, end}, bounds(t, e, TopicBlocks))
		got, offsets := tableState(t, e)
		require.Equal(t, want, got)
		require.NotContains(t, offsets, "deleted long ago")
		require.Contains(t, offsets, "deleted")
		require.NoError(t, e.Maintain())
		require.NoError(t, e.Close())
		e = openTest(t, cfg)
	}
	require.Equal(t, end, put(t, e, TopicBlocks, "next")[0].Offset)
	require.NoError(t, e.Maintain(), "nothing to do")
}

// TestCompactionEndsInOldTombstone: the last record stays, so that no offset is given twice.
func TestCompactionEndsInOldTombstone(t *testing.T) {
	c := newClock()
	cfg := EmbeddedConfig{Dir: t.TempDir(), SegmentBytes: 1 << 20, Now: c.now}
	e := openTest(t, cfg)
	fillKeys(t, e, c)
	for i := range 10 {
		require.NoError(t, e.Append(t.Context(), TopicBlocks, []Record{{Key: []byte(fmt.Sprint("key ", i))}}))
	}
	end := bounds(t, e, TopicBlocks).End
	c.add(48 * time.Hour)
	require.NoError(t, e.Maintain())
	got, _ := tableState(t, e)
	require.Equal(t, map[string]string{"rare": "r"}, got)
	require.NoError(t, e.Close())
	e = openTest(t, cfg)
	require.Equal(t, end, bounds(t, e, TopicBlocks).End)
}

// TestCompactionCrashes crashes after each step: what is read is the same, and so it is after the next compaction.
func TestCompactionCrashes(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	cfg := EmbeddedConfig{Dir: dir, SegmentBytes: 1 << 20, Now: c.now}
	e := openTest(t, cfg)
	want := fillKeys(t, e, c)
	end := bounds(t, e, TopicBlocks).End
	require.NoError(t, e.Close())
	errCrash := errors.New("crash")
	for step := 0; ; step++ {
		cfg := cfg
		cfg.Dir = crashed(t, dir)
		e := openTest(t, cfg)
		p := e.topics[TopicBlocks].parts[0]
		n, done := 0, true
		p.crash = func(string) error {
			if n++; n > step {
				done = false
				return errCrash
			}
			return nil
		}
		err := e.Maintain()
		if done {
			require.NoError(t, err)
			require.Greater(t, step, 5)
			break
		}
		require.ErrorIs(t, err, errCrash)
		if got, _ := tableState(t, e); step > 0 { // the process lives on: it was only a removal that failed
			require.Equal(t, want, got)
		}
		cfg.Dir = crashed(t, cfg.Dir)
		after := openTest(t, cfg)
		for range 2 {
			got, _ := tableState(t, after)
			require.Equal(t, want, got, "crash after step %d", step)
			require.Equal(t, end, bounds(t, after, TopicBlocks).End)
			require.NoError(t, after.Maintain())
			if _, err := os.Stat(segmentPath(p.dir, 0)); err != nil {
				t.Fatal(err)
			}
		}
		put(t, after, TopicBlocks, "next")
		require.NoError(t, after.Close())
		after = openTest(t, cfg)
		got, _ := tableState(t, after)
		require.Equal(t, "next", got["k"])
		require.NoError(t, after.Close())
		require.NoError(t, e.Close())
	}
}
