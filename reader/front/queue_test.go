package front

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// enterLater lets a request wait and returns once it does.
func enterLater(t *testing.T, q *Queue, tenant schema.Tenant, got func(leave func())) (cancel func()) {
	ctx, cancel := context.WithCancel(context.Background())
	before := q.length()
	go func() {
		leave, err := q.Enter(ctx, tenant, 0)
		if err != nil {
			leave = nil
		}
		got(leave)
	}()
	require.Eventually(t, func() bool { return q.length() == before+1 }, waitFor, tick)
	return cancel
}

func (q *Queue) length() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range q.order {
		n += len(t.waiting)
	}
	return n
}

func TestTenantsTakeTurns(t *testing.T) {
	q := NewQueue(1, nil)
	leave, err := q.Enter(context.Background(), "hog", 0)
	require.NoError(t, err)
	order := make(chan string, 100)
	var wg sync.WaitGroup
	wait := func(tenant schema.Tenant, name string) {
		wg.Add(1)
		enterLater(t, q, tenant, func(leave func()) {
			defer wg.Done()
			order <- name
			leave()
		})
	}
	for i := range 3 {
		wait("hog", fmt.Sprint("hog", i))
	}
	for i := range 2 {
		wait("mouse", fmt.Sprint("mouse", i))
	}
	leave()
	leave() // twice is once
	wg.Wait()
	close(order)
	var got []string
	for name := range order {
		got = append(got, name)
	}
	require.Equal(t, []string{"hog0", "mouse0", "hog1", "mouse1", "hog2"}, got)
	require.Empty(t, q.tenants)
	require.Zero(t, q.busy)
}

// One tenant never has all places, and a place that somebody waits for is not spare.
func TestPlacesAreLeftForOthers(t *testing.T) {
	q := NewQueue(4, nil)
	for range 3 {
		_, err := q.Enter(context.Background(), "hog", 0)
		require.NoError(t, err)
	}
	_, ok := q.Spare("hog")
	require.False(t, ok)
	cancel := enterLater(t, q, "hog", func(func()) {})
	leave, err := q.Enter(context.Background(), "mouse", 0)
	require.NoError(t, err)
	_, ok = q.Spare("mouse")
	require.False(t, ok)
	leave()
	cancel()
	require.Eventually(t, func() bool { return q.length() == 0 }, waitFor, tick)
	leave, err = q.Enter(context.Background(), "mouse", 0)
	require.NoError(t, err)
	leave()
}

func TestQueueIsBounded(t *testing.T) {
	q := NewQueue(1, nil)
	leave, err := q.Enter(context.Background(), "acme", 1)
	require.NoError(t, err)
	cancel := enterLater(t, q, "acme", func(func()) {})
	_, err = q.Enter(context.Background(), "acme", 1)
	var se *schema.Error
	require.ErrorAs(t, err, &se)
	require.Equal(t, schema.ErrTooManyOutstanding, se.ID)
	require.Equal(t, 429, se.Status)
	require.NotZero(t, se.RetryAfter)
	require.Contains(t, se.Message, "limit is 1")
	cancel() // who gives up leaves the queue
	require.Eventually(t, func() bool { return q.length() == 0 }, waitFor, tick)
	leave()
	require.Empty(t, q.tenants)
}

// Requests come, wait, give up and leave in any order: never more than the places work, and in the end nothing is left.
func TestQueueUnderLoad(t *testing.T) {
	const places = 3
	q := NewQueue(places, nil)
	var working, most, done atomic.Int64
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			for range 300 {
				ctx, cancel := context.WithCancel(context.Background())
				if rng.IntN(3) == 0 {
					go cancel()
				}
				tenant := schema.Tenant(fmt.Sprint("t", rng.IntN(4)))
				if leave, err := q.Enter(ctx, tenant, 0); err == nil {
					n := working.Add(1)
					if n > most.Load() {
						most.Store(n)
					}
					if more, ok := q.Spare(tenant); ok {
						more()
					}
					working.Add(-1)
					leave()
					done.Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, most.Load(), int64(places))
	require.NotZero(t, done.Load())
	require.Empty(t, q.tenants)
	require.Empty(t, q.order)
	require.Zero(t, q.busy)
}
