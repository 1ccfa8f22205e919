// Package logtest holds the tests that every implementation of log.Log passes. In goes a way to make and open stores,
// out come failures of the test. It never looks behind the interface.
package logtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/internal/log"
)

// Partitions is how many partitions of log.TopicSamples a store under test has.
const Partitions = 3

// Store is a place where a log is kept.
type Store struct {
	// Open opens the log; again after the one that it returned before was closed.
	Open func(t *testing.T) log.Log
	// Compact makes the log compact its compacted topics now, as far as it does.
	Compact func(t *testing.T, l log.Log)
}

// Run runs the suite; each test gets a new store, with Partitions partitions of samples, from newStore.
func Run(t *testing.T, newStore func(t *testing.T) Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s Store)
	}{
		{"AppendRead", testAppendRead},
		{"RoundTrip", testRoundTrip},
		{"Concurrency", testConcurrency},
		{"Reopen", testReopen},
		{"Bounds", testBounds},
		{"OffsetAt", testOffsetAt},
		{"Commit", testCommit},
		{"Trim", testTrim},
		{"OutOfRange", testOutOfRange},
		{"TooLarge", testTooLarge},
		{"Unknown", testUnknown},
		{"Wait", testWait},
		{"Compaction", testCompaction},
		{"Table", testTable},
		{"TableDeletedEnd", testTableDeletedEnd},
		{"Close", testClose},
		{"Metamorphic", testMetamorphic},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newStore(t)) })
	}
}

func context10(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, s Store) log.Log {
	l := s.Open(t)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// Read returns copies of n records from an offset on, or fails the test.
func Read(t *testing.T, l log.Log, topic string, partition int32, from int64, n int) []log.Record {
	t.Helper()
	ctx := context10(t)
	r, err := l.Reader(topic, partition, from)
	require.NoError(t, err)
	defer r.Close()
	var out []log.Record
	for len(out) < n {
		recs, err := r.Next(ctx)
		require.NoError(t, err, "after %d of %d records", len(out), n)
		require.NotEmpty(t, recs)
		for i := range recs {
			out = append(out, Clone(recs[i]))
		}
		require.Equal(t, recs[len(recs)-1].Offset+1, r.Position())
	}
	return out
}

// Clone returns a copy that shares no bytes.
func Clone(r log.Record) log.Record {
	c := r
	c.Key, c.Value = clone(r.Key), clone(r.Value)
	c.Headers = nil
	for _, h := range r.Headers {
		c.Headers = append(c.Headers, log.Header{Key: strings.Clone(h.Key), Value: clone(h.Value)})
	}
	return c
}

func clone(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

func record(partition int32, value string) log.Record {
	return log.Record{Partition: partition, Key: []byte("t"), Value: []byte(value)}
}

func testAppendRead(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	recs := []log.Record{record(0, "a"), record(1, "b"), record(0, "c"), record(2, "d"), record(0, "e")}
	require.NoError(t, l.Append(ctx, log.TopicSamples, recs))
	require.Equal(t, []int64{0, 0, 1, 0, 2}, []int64{recs[0].Offset, recs[1].Offset, recs[2].Offset, recs[3].Offset, recs[4].Offset})
	for i := range recs {
		require.InDelta(t, time.Now().UnixMilli(), recs[i].Time, 60_000)
	}
	got := Read(t, l, log.TopicSamples, 0, 0, 3)
	require.Equal(t, "a", string(got[0].Value))
	require.Equal(t, "c", string(got[1].Value))
	require.Equal(t, "e", string(got[2].Value))
	require.Equal(t, int32(0), got[2].Partition)
	require.Equal(t, "e", string(Read(t, l, log.TopicSamples, 0, 2, 1)[0].Value))
	require.Equal(t, "d", string(Read(t, l, log.TopicSamples, 2, 0, 1)[0].Value))
	require.NoError(t, l.Append(ctx, log.TopicSamples, nil))
}

func testRoundTrip(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	big := make([]byte, 300_000)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	in := []log.Record{
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte("k"), Value: nil},
		{Key: nil, Value: []byte("v"), Headers: []log.Header{{Key: "v", Value: []byte{1}}, {Key: "", Value: nil}, {Key: "v", Value: []byte{}}}},
		{Key: []byte{0, 255}, Value: []byte(strings.Repeat("sample", 50_000)), Headers: []log.Header{{Key: "x", Value: big[:100]}}},
		{Key: []byte("big"), Value: big},
	}
	want := make([]log.Record, len(in))
	for i := range in {
		want[i] = Clone(in[i])
	}
	require.NoError(t, l.Append(ctx, log.TopicSamples, in))
	for i := range in { // the caller may reuse what it passed
		for k := range in[i].Value {
			in[i].Value[k] = 'x'
		}
	}
	check := func(l log.Log) {
		got := Read(t, l, log.TopicSamples, 0, 0, len(want))
		for i := range want {
			require.Equal(t, int64(i), got[i].Offset)
			require.Equal(t, want[i].Key, got[i].Key, "key of record %d", i)
			require.True(t, string(want[i].Value) == string(got[i].Value), "value of record %d", i)
			require.Equal(t, want[i].Value == nil, got[i].Value == nil, "value of record %d", i)
			require.Equal(t, want[i].Headers, got[i].Headers, "headers of record %d", i)
		}
		v, ok := got[3].Header("v")
		require.True(t, ok)
		require.Equal(t, []byte{1}, v)
		_, ok = got[3].Header("none")
		require.False(t, ok)
	}
	check(l)
	require.NoError(t, l.Close())
	check(open(t, s))
}

func testConcurrency(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				recs := make([]log.Record, 0, 2*Partitions)
				for p := range int32(Partitions) {
					recs = append(recs, record(p, fmt.Sprintf("%d %d", w, 2*i)), record(p, fmt.Sprintf("%d %d", w, 2*i+1)))
				}
				if err := l.Append(ctx, log.TopicSamples, recs); err != nil {
					t.Errorf("append: %v", err)
					return
				}
				for p := range Partitions {
					if recs[2*p].Offset >= recs[2*p+1].Offset {
						t.Errorf("offsets %d, %d", recs[2*p].Offset, recs[2*p+1].Offset)
					}
				}
			}
		})
	}
	// Readers run beside the writers.
	got := make([][]log.Record, Partitions)
	for p := range int32(Partitions) {
		wg.Go(func() { got[p] = Read(t, l, log.TopicSamples, p, 0, 2*writers*each) })
	}
	wg.Wait()
	for p := range got {
		next := map[int]int{}
		for i, r := range got[p] {
			require.Equal(t, int64(i), r.Offset)
			var w, seq int
			_, err := fmt.Sscanf(string(r.Value), "%d %d", &w, &seq)
			require.NoError(t, err)
			require.Equal(t, next[w], seq, "order of writer %d", w)
			next[w]++
		}
		require.Len(t, next, writers)
	}
}

func testReopen(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	id, err := l.TopicID(ctx, log.TopicSamples)
	require.NoError(t, err)
	require.NotEmpty(t, id)
	other, err := l.TopicID(ctx, log.TopicBlocks)
	require.NoError(t, err)
	require.NotEqual(t, id, other)
	for round := range 3 {
		for i := range 5 {
			require.NoError(t, l.Append(ctx, log.TopicSamples, []log.Record{record(1, fmt.Sprint(round*5+i))}))
		}
		require.NoError(t, l.Close())
		l = open(t, s)
		got := Read(t, l, log.TopicSamples, 1, 0, 5*(round+1))
		require.Len(t, got, 5*(round+1))
		for i := range got {
			require.Equal(t, int64(i), got[i].Offset)
			require.Equal(t, fmt.Sprint(i), string(got[i].Value))
		}
	}
	again, err := l.TopicID(ctx, log.TopicSamples)
	require.NoError(t, err)
	require.Equal(t, id, again)
	n, err := l.Partitions(ctx, log.TopicSamples)
	require.NoError(t, err)
	require.Equal(t, int32(Partitions), n)
}

func testBounds(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	b, err := l.Bounds(ctx, log.TopicSamples, 1)
	require.NoError(t, err)
	require.Equal(t, log.Bounds{}, b)
	for i := range 3 {
		require.NoError(t, l.Append(ctx, log.TopicSamples, []log.Record{record(1, "x")}))
		b, err = l.Bounds(ctx, log.TopicSamples, 1)
		require.NoError(t, err)
		require.Equal(t, log.Bounds{Start: 0, End: int64(i) + 1}, b)
	}
	b, err = l.Bounds(ctx, log.TopicSamples, 0)
	require.NoError(t, err)
	require.Equal(t, log.Bounds{}, b)
}

func testOffsetAt(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	off, err := l.OffsetAt(ctx, log.TopicSamples, 0, time.Unix(0, 0))
	require.NoError(t, err)
	require.Equal(t, int64(0), off)
	for range 5 {
		require.NoError(t, l.Append(ctx, log.TopicSamples, []log.Record{record(0, "x")}))
		time.Sleep(3 * time.Millisecond) // not to wait for anything: to have different log times
	}
	got := Read(t, l, log.TopicSamples, 0, 0, 5)
	require.Less(t, got[0].Time, got[4].Time)
	for _, r := range got {
		want := r.Offset
		for want > 0 && got[want-1].Time == r.Time {
			want--
		}
		off, err := l.OffsetAt(ctx, log.TopicSamples, 0, time.UnixMilli(r.Time))
		require.NoError(t, err)
		require.Equal(t, want, off)
	}
	off, err = l.OffsetAt(ctx, log.TopicSamples, 0, time.UnixMilli(got[0].Time-1000))
	require.NoError(t, err)
	require.Equal(t, int64(0), off)
	off, err = l.OffsetAt(ctx, log.TopicSamples, 0, time.UnixMilli(got[4].Time+1))
	require.NoError(t, err)
	require.Equal(t, int64(5), off)
}

func testCommit(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	require.NoError(t, l.Append(ctx, log.TopicSamples, []log.Record{record(0, "a"), record(2, "b"), record(2, "c")}))
	c, err := l.Committed(ctx, "g", log.TopicSamples)
	require.NoError(t, err)
	require.Empty(t, c)
	require.NoError(t, l.Commit(ctx, "g", log.TopicSamples, 2, 1))
	require.NoError(t, l.Commit(ctx, "g", log.TopicSamples, 2, 2))
	require.NoError(t, l.Commit(ctx, "g", log.TopicSamples, 0, 0))
	require.NoError(t, l.Commit(ctx, "other", log.TopicSamples, 1, 0))
	want := map[int32]int64{0: 0, 2: 2}
	c, err = l.Committed(ctx, "g", log.TopicSamples)
	require.NoError(t, err)
	require.Equal(t, want, c)
	require.NoError(t, l.Close())
	l = open(t, s)
	c, err = l.Committed(ctx, "g", log.TopicSamples)
	require.NoError(t, err)
	require.Equal(t, want, c)
}

func testTrim(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	value := strings.Repeat("v", 50_000)
	for range 12 {
		require.NoError(t, l.Append(ctx, log.TopicDeadLetter, []log.Record{record(0, value)}))
	}
	r, err := l.Reader(log.TopicDeadLetter, 0, 0)
	require.NoError(t, err)
	defer r.Close()
	require.NoError(t, l.Trim(ctx, log.TopicDeadLetter, 0, 8))
	b, err := l.Bounds(ctx, log.TopicDeadLetter, 0)
	require.NoError(t, err)
	require.LessOrEqual(t, b.Start, int64(8))
	require.Positive(t, b.Start)
	require.Equal(t, int64(12), b.End)
	got := Read(t, l, log.TopicDeadLetter, 0, b.Start, int(b.End-b.Start))
	require.Equal(t, b.Start, got[0].Offset)

	_, err = r.Next(ctx)
	var out *log.OutOfRangeError
	require.ErrorAs(t, err, &out)
	require.Equal(t, log.OutOfRangeError{Topic: log.TopicDeadLetter, Partition: 0, Offset: 0, Bounds: b}, *out)

	// All of it, and then some: offsets go on.
	require.NoError(t, l.Trim(ctx, log.TopicDeadLetter, 0, 100))
	require.NoError(t, l.Close())
	l = open(t, s)
	recs := []log.Record{record(0, "next")}
	require.NoError(t, l.Append(ctx, log.TopicDeadLetter, recs))
	require.Equal(t, int64(12), recs[0].Offset)
}

func testOutOfRange(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	require.NoError(t, l.Append(ctx, log.TopicSamples, []log.Record{record(0, "a"), record(0, "b")}))
	r, err := l.Reader(log.TopicSamples, 0, 3)
	require.NoError(t, err)
	defer r.Close()
	for range 2 { // it stays there
		_, err = r.Next(ctx)
		var out *log.OutOfRangeError
		require.ErrorAs(t, err, &out)
		require.Equal(t, log.Bounds{Start: 0, End: 2}, out.Bounds)
		require.Equal(t, int64(3), r.Position())
	}
	require.NoError(t, l.Append(ctx, log.TopicSamples, []log.Record{record(0, "c"), record(0, "d")}))
	recs, err := r.Next(ctx)
	require.NoError(t, err)
	require.Equal(t, "d", string(recs[0].Value))
}

func testTooLarge(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	big := make([]byte, log.MaxRecordBytes-1)
	err := l.Append(ctx, log.TopicSamples, []log.Record{record(0, "small"), {Partition: 0, Key: []byte("kk"), Value: big}})
	require.ErrorIs(t, err, log.ErrTooLarge)
	b, err := l.Bounds(ctx, log.TopicSamples, 0)
	require.NoError(t, err)
	require.Equal(t, log.Bounds{}, b)
	for i := range big {
		big[i] = byte(rand.Uint32())
	}
	require.NoError(t, l.Append(ctx, log.TopicSamples, []log.Record{{Partition: 0, Key: []byte("k"), Value: big}}))
	require.True(t, string(big) == string(Read(t, l, log.TopicSamples, 0, 0, 1)[0].Value))
}

func testUnknown(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	for _, c := range []struct {
		topic     string
		partition int32
	}{{"no.such.topic", 0}, {log.TopicSamples, Partitions}, {log.TopicSamples, -1}} {
		_, err := l.Bounds(ctx, c.topic, c.partition)
		require.ErrorIs(t, err, log.ErrUnknownPartition, c)
		_, err = l.OffsetAt(ctx, c.topic, c.partition, time.Now())
		require.ErrorIs(t, err, log.ErrUnknownPartition, c)
		err = l.Append(ctx, c.topic, []log.Record{record(c.partition, "x")})
		require.ErrorIs(t, err, log.ErrUnknownPartition, c)
		require.ErrorIs(t, l.Commit(ctx, "g", c.topic, c.partition, 0), log.ErrUnknownPartition, c)
		require.ErrorIs(t, l.Trim(ctx, c.topic, c.partition, 0), log.ErrUnknownPartition, c)
		_, err = l.Reader(c.topic, c.partition, 0)
		require.ErrorIs(t, err, log.ErrUnknownPartition, c)
	}
	_, err := l.Partitions(ctx, "no.such.topic")
	require.ErrorIs(t, err, log.ErrUnknownPartition)
	_, err = l.TopicID(ctx, "no.such.topic")
	require.ErrorIs(t, err, log.ErrUnknownPartition)
	_, err = l.Committed(ctx, "g", "no.such.topic")
	require.ErrorIs(t, err, log.ErrUnknownPartition)
	require.Error(t, l.Append(ctx, log.TopicBlocks, []log.Record{{Value: []byte("no key")}}))
}

func testWait(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	r, err := l.Reader(log.TopicSamples, 0, 0)
	require.NoError(t, err)
	defer r.Close()
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	_, err = r.Next(short)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			if err := l.Append(ctx, log.TopicSamples, []log.Record{record(0, "x")}); err != nil {
				t.Errorf("append: %v", err)
			}
		})
		recs, err := r.Next(ctx)
		require.NoError(t, err)
		require.Len(t, recs, 1)
		require.Equal(t, int64(i), recs[0].Offset)
		wg.Wait()
	}
}

func testClose(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	r, err := l.Reader(log.TopicSamples, 0, 0)
	require.NoError(t, err)
	defer r.Close()
	var wg sync.WaitGroup
	var waiting error
	wg.Go(func() { _, waiting = r.Next(ctx) })
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	require.NoError(t, l.Append(ctx, log.TopicSamples, []log.Record{record(1, "x")}))
	require.NoError(t, l.Close())
	wg.Wait()
	require.ErrorIs(t, waiting, log.ErrClosed)
	require.NoError(t, <-ran)
	_, err = r.Next(ctx)
	require.ErrorIs(t, err, log.ErrClosed)
	require.ErrorIs(t, l.Append(ctx, log.TopicSamples, []log.Record{record(0, "x")}), log.ErrClosed)
	require.NoError(t, l.Close())
}

// testMetamorphic does random things to the log and to a slice, and compares them.
func testMetamorphic(t *testing.T, s Store) {
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	l, ctx := open(t, s), context10(t)
	var model []string
	start := int64(0)
	var r log.Reader
	pos := int64(0)
	for step := range 120 {
		switch k := rnd.IntN(10); {
		case k < 5:
			recs := make([]log.Record, 1+rnd.IntN(4))
			for i := range recs {
				recs[i] = record(0, fmt.Sprint(len(model)+i, strings.Repeat("z", rnd.IntN(40_000))))
			}
			require.NoError(t, l.Append(ctx, log.TopicSamples, recs), "seed %d, step %d", seed, step)
			for i := range recs {
				require.Equal(t, int64(len(model)), recs[i].Offset, "seed %d, step %d", seed, step)
				model = append(model, string(recs[i].Value))
			}
		case k < 8:
			if r == nil {
				var err error
				pos = start + rnd.Int64N(int64(len(model))-start+1)
				r, err = l.Reader(log.TopicSamples, 0, pos)
				require.NoError(t, err)
			}
			if pos >= int64(len(model)) {
				continue
			}
			recs, err := r.Next(ctx)
			var out *log.OutOfRangeError
			if errors.As(err, &out) && pos < start {
				require.NoError(t, r.Close())
				r = nil
				continue
			}
			require.NoError(t, err, "seed %d, step %d", seed, step)
			for i := range recs {
				require.Equal(t, pos, recs[i].Offset, "seed %d, step %d", seed, step)
				require.True(t, model[pos] == string(recs[i].Value), "seed %d, step %d", seed, step)
				pos++
			}
		case k < 9:
			require.NoError(t, l.Trim(ctx, log.TopicSamples, 0, rnd.Int64N(int64(len(model)+1))))
			b, err := l.Bounds(ctx, log.TopicSamples, 0)
			require.NoError(t, err)
			require.GreaterOrEqual(t, b.Start, start)
			require.Equal(t, int64(len(model)), b.End)
			start = b.Start
		default:
			if r != nil {
				require.NoError(t, r.Close())
				r = nil
			}
			require.NoError(t, l.Close())
			l = open(t, s)
		}
	}
	if r != nil {
		require.NoError(t, r.Close())
	}
}
