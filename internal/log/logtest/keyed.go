package logtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/internal/log"
)

// testCompaction writes a few keys many times, compacts, and expects the latest of each and the offsets unchanged.
func testCompaction(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	latest := map[string]log.Record{}
	put := func(key string, value []byte) {
		recs := []log.Record{{Key: []byte(key), Value: value}}
		require.NoError(t, l.Append(ctx, log.TopicBlocks, recs))
		latest[key] = Clone(recs[0])
	}
	for i := range 14 {
		for k := range 2 {
			put(fmt.Sprint("key", k), []byte(strings.Repeat(fmt.Sprint(i, k, " "), 150_000)))
		}
	}
	put("once", []byte("only"))
	put("gone", []byte("x"))
	put("gone", nil)
	put("last", []byte("y"))
	before, err := l.Bounds(ctx, log.TopicBlocks, 0)
	require.NoError(t, err)
	check := func() {
		got := map[string]log.Record{}
		b, err := l.Bounds(ctx, log.TopicBlocks, 0)
		require.NoError(t, err)
		last := b.Start - 1
		n := 0
		for last != before.End-1 {
			for _, r := range Read(t, l, log.TopicBlocks, 0, last+1, 1) {
				require.Greater(t, r.Offset, last)
				last = r.Offset
				got[string(r.Key)] = r
				n++
			}
		}
		require.Less(t, n, int(before.End))
		for k, want := range latest {
			require.Equal(t, want.Offset, got[k].Offset, k)
			require.True(t, string(want.Value) == string(got[k].Value), k)
			require.Equal(t, want.Value == nil, got[k].Value == nil, k)
		}
		after, err := l.Bounds(ctx, log.TopicBlocks, 0)
		require.NoError(t, err)
		require.Equal(t, before.End, after.End)
	}
	s.Compact(t, l)
	check()
	s.Compact(t, l)
	require.NoError(t, l.Close())
	l = open(t, s)
	check()
	put("key0", []byte("new"))
	require.Equal(t, before.End, latest["key0"].Offset)
	require.NoError(t, l.Trim(ctx, log.TopicBlocks, 0, before.End)) // does nothing
	check2 := Read(t, l, log.TopicBlocks, 0, before.End, 1)
	require.Equal(t, "new", string(check2[0].Value))
}

func testTable(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	state := map[string]string{}
	var mu sync.Mutex
	table := log.NewTable(l, log.TopicControl, func(r *log.Record) {
		mu.Lock()
		defer mu.Unlock()
		if r.Value == nil {
			delete(state, string(r.Key))
			return
		}
		state[string(r.Key)] = string(r.Value)
	})
	other := map[string]string{} // as another part of the process knows it
	table.On(func(r *log.Record) {
		mu.Lock()
		defer mu.Unlock()
		other[string(r.Key)] = string(r.Value)
	})
	value := func(k string) string {
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, other[k], state[k])
		return state[k]
	}
	put := func(k string, v []byte) {
		require.NoError(t, l.Append(ctx, log.TopicControl, []log.Record{{Key: []byte(k), Value: v}}))
	}
	require.NoError(t, table.Sync(ctx), "of an empty topic, before Run")
	put("a", []byte("1"))

	run, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var early error
	wg.Go(func() { early = table.Sync(ctx) }) // from before Run
	ended := make(chan error, 1)
	go func() { ended <- table.Run(run) }()
	wg.Wait()
	require.NoError(t, early)
	require.NoError(t, table.Sync(ctx))
	require.Panics(t, func() { table.On(func(*log.Record) {}) }, "it would have missed the beginning")
	require.Equal(t, "1", value("a"))
	for i := range 20 {
		put("a", []byte(fmt.Sprint(i)))
		require.NoError(t, table.Sync(ctx))
		require.Equal(t, fmt.Sprint(i), value("a"))
	}
	put("a", nil)
	require.NoError(t, table.Sync(ctx))
	require.Empty(t, value("a"))
	stop()
	require.NoError(t, <-ended)
	put("b", []byte("x"))
	require.Error(t, table.Sync(ctx), "after Run has ended")

	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, log.NewTable(l, log.TopicControl, func(*log.Record) {}).Sync(short), context.DeadlineExceeded, "nobody runs it")
}

// testTableDeletedEnd: all that a topic held is gone, so that its last offset has no record.
func testTableDeletedEnd(t *testing.T, s Store) {
	l, ctx := open(t, s), context10(t)
	for range 3 {
		require.NoError(t, l.Append(ctx, log.TopicDeadLetter, []log.Record{record(0, strings.Repeat("x", 60_000))}))
	}
	require.NoError(t, l.Trim(ctx, log.TopicDeadLetter, 0, 3))
	table := log.NewTable(l, log.TopicDeadLetter, func(*log.Record) {})
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- table.Run(run) }()
	require.NoError(t, table.Sync(ctx))
	stop()
	require.NoError(t, <-ended)
}
