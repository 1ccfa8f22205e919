package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"sluice/internal/log"
)

const ttl = 30 * time.Second

var errCut = errors.New("cut off")

// process is one holder on a log that it can be cut off from.
type process struct {
	*Leases
	reg     *prometheus.Registry
	cut     atomic.Bool
	appends atomic.Int64
	stop    func()
}

type cuttable struct {
	log.Log
	p *process
}

func (c cuttable) Append(ctx context.Context, topic string, recs []log.Record) error {
	if c.p.cut.Load() {
		return errCut
	}
	c.p.appends.Add(int64(len(recs)))
	return c.Log.Append(ctx, topic, recs)
}

func start(t *testing.T, l log.Log, name string) *process {
	p := &process{reg: prometheus.NewPedanticRegistry()}
	control := log.NewTable(l, log.TopicControl)
	p.Leases = New(cuttable{l, p}, control, name, slog.New(slog.DiscardHandler), p.reg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- control.Run(ctx) }()
	go func() { done <- p.Run(ctx) }()
	stopped := false
	p.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(t, errors.Join(<-done, <-done))
		}
	}
	t.Cleanup(p.stop)
	return p
}

func (p *process) acquire(t *testing.T, name string) (*Lease, bool) {
	t.Helper()
	require.NoError(t, p.Sync(context.Background()))
	l, ok, err := p.Acquire(context.Background(), name, ttl)
	require.NoError(t, err)
	return l, ok
}

// inTime runs a test on an embedded log in fake time: log time and the processes' time are the same, and pass when all wait.
func inTime(t *testing.T, f func(t *testing.T, l log.Log)) {
	synctest.Test(t, func(t *testing.T) {
		l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: 1, Fsync: log.FsyncOff}, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, l.Close()) })
		f(t, l)
	})
}

// tick lets log time advance, as the announcements of members do.
func tick(t *testing.T, l log.Log) {
	require.NoError(t, l.Append(context.Background(), log.TopicControl, []log.Record{{Key: []byte("member/x"), Value: []byte("{}")}}))
}

func TestOneHolder(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		a, b := start(t, l, "same"), start(t, l, "same")
		require.NotEqual(t, a.Holder(), b.Holder(), "two processes under one name are two")
		held, ok := a.acquire(t, "x")
		require.True(t, ok)
		require.Equal(t, "x", held.Name())
		_, ok = a.acquire(t, "x")
		require.False(t, ok, "not even its own process gets it twice")
		_, ok = b.acquire(t, "x")
		require.False(t, ok)
		require.Zero(t, b.appends.Load(), "nothing is written for what another has")
		_, ok = b.acquire(t, "y")
		require.True(t, ok)

		time.Sleep(10 * ttl)
		require.NoError(t, held.Err(), "renewed")
		require.LessOrEqual(t, a.appends.Load(), int64(31), "three records in a ttl")
		_, ok = b.acquire(t, "x")
		require.False(t, ok)

		held.Release()
		require.ErrorIs(t, context.Cause(held.Context()), errReleased)
		require.Error(t, held.Err())
		held.Release()
		taken, ok := b.acquire(t, "x")
		require.True(t, ok, "at once")
		held.Release()
		require.NoError(t, a.Sync(t.Context()))
		_, ok = a.acquire(t, "x")
		require.False(t, ok)
		require.NoError(t, taken.Err())
		require.EqualValues(t, 2, testutil.ToFloat64(b.metrics.held))
	})
}

func TestTakeOverAfterDeath(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		a, b := start(t, l, "a"), start(t, l, "b")
		held, ok := a.acquire(t, "x")
		require.True(t, ok)
		a.cut.Store(true)
		a.stop()
		require.ErrorIs(t, held.Err(), ErrLost)
		held.Release()
		time.Sleep(ttl - time.Millisecond)
		tick(t, l)
		_, ok = b.acquire(t, "x")
		require.False(t, ok, "not before its end")
		time.Sleep(2 * time.Millisecond)
		tick(t, l)
		_, ok = b.acquire(t, "x")
		require.True(t, ok)
	})
}

// TestIdleLog: where nothing is written log time stands still, and the claim itself brings the time.
func TestIdleLog(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		a, b := start(t, l, "a"), start(t, l, "b")
		_, ok := a.acquire(t, "x")
		require.True(t, ok)
		require.NoError(t, b.Sync(t.Context()))
		a.cut.Store(true)
		time.Sleep(ttl - time.Second)
		_, ok = b.acquire(t, "x")
		require.False(t, ok)
		require.Zero(t, b.appends.Load())
		time.Sleep(2 * time.Second)
		_, ok = b.acquire(t, "x")
		require.True(t, ok)
	})
}

// TestCutOffHolderStops: it knows that its time is over before anybody else can have the lease.
func TestCutOffHolderStops(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		a, b := start(t, l, "a"), start(t, l, "b")
		held, ok := a.acquire(t, "x")
		require.True(t, ok)
		time.Sleep(ttl)
		require.NoError(t, held.Err())
		a.cut.Store(true)
		begun := time.Now()
		var taken *Lease
		for taken == nil {
			time.Sleep(100 * time.Millisecond)
			tick(t, l)
			if got, ok := b.acquire(t, "x"); ok {
				require.ErrorIs(t, held.Err(), ErrLost)
				require.ErrorIs(t, context.Cause(held.Context()), ErrLost)
				taken = got
			}
			require.Less(t, time.Since(begun), 2*ttl)
		}
		require.EqualValues(t, 1, testutil.ToFloat64(a.metrics.lost))
		a.cut.Store(false)
		held.Release()
		time.Sleep(ttl)
		require.NoError(t, taken.Err(), "a late release changes nothing")
		_, ok = a.acquire(t, "x")
		require.False(t, ok)
	})
}

// TestStoodStill: a process whose timers have not fired yet asks the clock.
func TestStoodStill(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		var ahead atomic.Int64
		control := log.NewTable(l, log.TopicControl)
		a := New(l, control, "a", slog.New(slog.DiscardHandler), nil)
		a.SetClock(func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 2)
		go func() { done <- control.Run(ctx) }()
		go func() { done <- a.Run(ctx) }()
		held, ok, err := a.Acquire(ctx, "x", ttl)
		require.NoError(t, err)
		require.True(t, ok)
		require.NoError(t, held.Err())
		ahead.Store(int64(ttl))
		require.ErrorIs(t, held.Err(), ErrLost)
		cancel()
		require.NoError(t, errors.Join(<-done, <-done))
		_, _, err = a.Acquire(context.Background(), "y", ttl)
		require.Error(t, err, "Run has ended")
	})
}

func TestForeignRecordIsRepaired(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		a := start(t, l, "a")
		held, ok := a.acquire(t, "x")
		require.True(t, ok)
		for _, text := range []string{"0 0 loser claims 30000", "0 0 loser releases since=0 until=0"} {
			before := a.appends.Load()
			require.NoError(t, l.Append(t.Context(), log.TopicControl, []log.Record{*parse(t, text)}))
			time.Sleep(time.Second) // no renewal is due yet
			require.Equal(t, before+1, a.appends.Load(), "the last record under the key is the holder's")
			require.NoError(t, held.Err())
		}
		require.NoError(t, l.Append(t.Context(), log.TopicControl, []log.Record{*parse(t, "0 0 - releases")}))
		time.Sleep(time.Second)
		require.ErrorIs(t, held.Err(), ErrLost, "an operator takes it away")
	})
}

// TestGrantThatNobodyWaitsFor: a claim whose append was reported as failed is in the log all the same.
func TestGrantThatNobodyWaitsFor(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		a, b := start(t, l, "a"), start(t, l, "b")
		rec, err := encodeClaim("x", claim{Version: version, Holder: a.Holder(), TTL: ttl.Milliseconds(), Seq: 99})
		require.NoError(t, err)
		require.NoError(t, l.Append(t.Context(), log.TopicControl, []log.Record{rec}))
		time.Sleep(time.Second)
		_, ok := b.acquire(t, "x")
		require.True(t, ok, "given up at once")
	})
}

func TestSweep(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		a := start(t, l, "a")
		for i := range 3 {
			_, ok := a.acquire(t, fmt.Sprintf("job/%d", i))
			require.True(t, ok)
		}
		a.cut.Store(true)
		a.stop()
		b := start(t, l, "b")
		held, ok := b.acquire(t, "alive")
		require.True(t, ok)
		time.Sleep(2 * sweepAfter)
		require.NoError(t, held.Err())
		b.mu.Lock()
		require.Len(t, b.entries, 1, "what nobody will claim again is forgotten")
		b.mu.Unlock()
		c := start(t, l, "c")
		require.NoError(t, c.Sync(t.Context()))
		c.mu.Lock()
		defer c.mu.Unlock()
		require.Len(t, c.entries, 1, "in the topic too")
	})
}

func TestAcquireRefuses(t *testing.T) {
	s := New(nil, log.NewTable(nil, log.TopicControl), "a", slog.New(slog.DiscardHandler), nil)
	for _, c := range []struct {
		name string
		ttl  time.Duration
	}{{"", ttl}, {"x", 0}, {"x", 48 * time.Hour}} {
		_, _, err := s.Acquire(t.Context(), c.name, c.ttl)
		require.Error(t, err)
	}
}

// TestNeverTwo lets processes take, keep, give up, lose, die and come back at random: at no moment two of them hold one.
func TestNeverTwo(t *testing.T) {
	for seed := range uint64(20) {
		inTime(t, func(t *testing.T, l log.Log) {
			rng := rand.New(rand.NewPCG(seed, 1))
			procs := []*process{start(t, l, "p0"), start(t, l, "p1"), start(t, l, "p2")}
			var all []*Lease
			won := 0
			for range 300 {
				i := rng.IntN(len(procs))
				p := procs[i]
				switch rng.IntN(10) {
				case 0:
					p.cut.Store(true)
				case 1:
					p.cut.Store(false)
				case 2:
					p.stop()
					procs[i] = start(t, l, fmt.Sprintf("p%d", i))
				case 3, 4:
					if len(all) > 0 {
						all[rng.IntN(len(all))].Release()
					}
				case 5:
					tick(t, l)
				default:
					if h, ok, err := p.Acquire(t.Context(), fmt.Sprint(rng.IntN(3)), ttl); ok {
						won++
						all = append(all, h)
					} else if err != nil {
						require.ErrorIs(t, err, errCut)
					}
				}
				time.Sleep(time.Duration(rng.Int64N(int64(ttl / 2))))
				holders := map[string]string{}
				for _, h := range all {
					if h.Err() == nil {
						require.Empty(t, holders[h.Name()], "seed %d: lease %s has two holders", seed, h.Name())
						holders[h.Name()] = h.leases.Holder()
					}
				}
			}
			require.Greater(t, won, 10, "seed %d", seed)
		})
	}
}

// TestKafka: contention, release and take-over in real time.
func TestKafka(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	open := func() log.Log {
		l, err := log.NewKafka(log.KafkaConfig{Brokers: cluster.ListenAddrs(), Partitions: 1}, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		require.NoError(t, l.EnsureTopics(t.Context()))
		t.Cleanup(func() { require.NoError(t, l.Close()) })
		return l
	}
	a, b := start(t, open(), "a"), start(t, open(), "b")
	const names = 20
	type result struct{ held []*Lease }
	results := make(chan result)
	for _, p := range []*process{a, b} {
		go func() {
			var r result
			for i := range names {
				if h, ok, err := p.Acquire(t.Context(), fmt.Sprint(i), time.Hour); err == nil && ok {
					r.held = append(r.held, h)
				}
			}
			results <- r
		}()
	}
	one, two := (<-results).held, (<-results).held
	require.Equal(t, names, len(one)+len(two), "each has one holder")
	for _, h := range append(one, two...) {
		require.NoError(t, h.Err())
		h.Release()
	}
	cluster.Compact()
	c := start(t, open(), "c") // sees what compaction has left, losers' claims among it
	for i := range names {
		_, ok, err := c.Acquire(t.Context(), fmt.Sprint(i), time.Hour)
		require.NoError(t, err)
		require.True(t, ok)
	}

	var dead *Lease
	require.Eventually(t, func() bool { // on a busy machine its time may be over before it is known to be granted
		var ok bool
		dead, ok, err = a.Acquire(t.Context(), "dead", 200*time.Millisecond)
		return err == nil && ok
	}, time.Minute, 10*time.Millisecond)
	a.cut.Store(true)
	<-dead.Context().Done()
	require.ErrorIs(t, dead.Err(), ErrLost)
	require.Eventually(t, func() bool {
		_, ok, err := b.Acquire(t.Context(), "dead", 200*time.Millisecond)
		return err == nil && ok
	}, time.Minute, 10*time.Millisecond)
}

func TestMetricsLint(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	New(nil, log.NewTable(nil, log.TopicControl), "a", slog.New(slog.DiscardHandler), reg)
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}
