package ha

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/internal/log"
	"sluice/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const timeout = 30 * time.Second

var terms = Terms{MaxClusters: 100, Timeout: timeout}

// process is one tracker on a log that it can be cut off from, or slow to write to.
type process struct {
	*Tracker
	cut   atomic.Bool
	delay atomic.Int64
	stop  func()
}

type faulty struct {
	log.Log
	p *process
}

func (f faulty) Append(ctx context.Context, topic string, recs []log.Record) error {
	time.Sleep(time.Duration(f.p.delay.Load()))
	if f.p.cut.Load() {
		return errors.New("cut off")
	}
	return f.Log.Append(ctx, topic, recs)
}

func start(t testing.TB, l log.Log, name string) *process {
	p := &process{}
	var err error
	control := log.NewTable(l, log.TopicControl)
	p.Tracker, err = New(Config{Instance: name}, faulty{l, p}, control, slog.New(slog.DiscardHandler), prometheus.NewPedanticRegistry())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- control.Run(ctx) }()
	go func() { done <- p.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, errors.Join(<-done, <-done))
	})
	t.Cleanup(p.stop)
	return p
}

// push is what a producer does with a series of a replica: judge, and elect where that is needed.
func (p *process) push(t testing.TB, cluster, replica string) Verdict {
	t.Helper()
	return p.pushAs(t, "team-a", cluster, replica, terms)
}

func (p *process) pushAs(t testing.TB, tenant schema.Tenant, cluster, replica string, terms Terms) Verdict {
	t.Helper()
	v := p.Judge(tenant, cluster, replica, terms)
	if v == Unknown {
		require.NoError(t, p.Elect(context.Background(), tenant, []Candidate{{cluster, replica}}, terms))
		v = p.Judge(tenant, cluster, replica, terms)
	}
	return v
}

// heard is how many producers the tracker has heard of.
func (p *process) heard() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.told)
}

func (p *process) elected(cluster string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.tenants["team-a"][cluster]; c != nil {
		return c.replica
	}
	return ""
}

// agree waits until all know all, and returns whom they take for elected.
func agree(t testing.TB, cluster string, all ...*process) string {
	t.Helper()
	for _, p := range all {
		require.NoError(t, p.Sync(context.Background()))
	}
	for _, p := range all {
		require.Equal(t, all[0].elected(cluster), p.elected(cluster))
	}
	return all[0].elected(cluster)
}

// inTime runs a test on an embedded log in fake time: log time and the processes' time are the same, and pass when all wait.
func inTime(t *testing.T, f func(t *testing.T, l log.Log)) { onClock(t, nil, f) }

// onClock is inTime with a log that has a clock of its own.
func onClock(t *testing.T, now func() time.Time, f func(t *testing.T, l log.Log)) {
	synctest.Test(t, func(t *testing.T) {
		l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: 1, Fsync: log.FsyncOff, Now: now}, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, l.Close()) })
		f(t, l)
	})
}

// TestOneIsElected: whoever comes first, in every process, and at once.
func TestOneIsElected(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p, q := start(t, l, "p"), start(t, l, "q")
		require.Equal(t, Unknown, p.Judge("team-a", "eu", "a", terms), "nothing is decided before the log is read")
		require.Equal(t, Accept, p.push(t, "eu", "a"))
		require.Equal(t, Drop, p.push(t, "eu", "b"))
		require.Equal(t, Drop, q.push(t, "eu", "b"))
		require.Equal(t, Accept, q.push(t, "eu", "a"))
		require.Equal(t, Accept, q.push(t, "us", "b"), "another cluster")
		require.Equal(t, Accept, p.pushAs(t, "team-b", "eu", "b", terms), "another tenant")
		require.Equal(t, Drop, q.pushAs(t, "team-b", "eu", "a", terms))
		require.Equal(t, "a", agree(t, "eu", p, q))
	})
}

// TestRace: of claims made at the same time one wins, whoever looks.
func TestRace(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		var all []*process
		for i := range 4 {
			all = append(all, start(t, l, fmt.Sprint(i)))
			require.NoError(t, all[i].Elect(t.Context(), "team-a", nil, terms)) // has read the log
		}
		for round := range 20 {
			cluster := fmt.Sprint("c", round)
			accepted := make(chan string, 8)
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					replica := fmt.Sprint("r", i)
					if all[i%4].push(t, cluster, replica) == Accept {
						accepted <- replica
					}
				})
			}
			wg.Wait()
			require.Len(t, accepted, 1)
			require.Equal(t, <-accepted, agree(t, cluster, all...))
		}
	})
}

// TestFailover: after the time-out without a sample, not before, and the one that comes back stays out.
func TestFailover(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p, q := start(t, l, "p"), start(t, l, "q")
		for range 20 { // each replica reaches one producer only
			require.Equal(t, Accept, p.push(t, "eu", "a"))
			require.Equal(t, Drop, q.push(t, "eu", "b"))
			time.Sleep(15 * time.Second)
		}
		require.Equal(t, Accept, p.push(t, "eu", "a"), "its last sample")
		time.Sleep(timeout - 300*time.Millisecond)
		require.Equal(t, Drop, q.push(t, "eu", "b"))
		time.Sleep(300 * time.Millisecond)
		// q knows of the last sample by a record that counts ages in tenths of a second.
		if q.push(t, "eu", "b") != Accept {
			time.Sleep(ageUnit * time.Millisecond)
			require.Equal(t, Accept, q.push(t, "eu", "b"))
		}
		require.Equal(t, "b", agree(t, "eu", p, q))
		require.EqualValues(t, 1, testutil.ToFloat64(p.metrics.failovers))
		for range 20 {
			require.Equal(t, Drop, p.push(t, "eu", "a"), "it is back, and too late")
			require.Equal(t, Accept, q.push(t, "eu", "b"))
			time.Sleep(15 * time.Second)
		}
		require.Equal(t, "b", agree(t, "eu", p, q))
		require.Zero(t, testutil.ToFloat64(p.metrics.invalid)+testutil.ToFloat64(q.metrics.invalid))
	})
}

// TestFailoverHere: one process sees both replicas and is exact.
func TestFailoverHere(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p := start(t, l, "p")
		require.Equal(t, Accept, p.push(t, "eu", "a"))
		time.Sleep(timeout - time.Millisecond)
		require.Equal(t, Drop, p.push(t, "eu", "b"))
		time.Sleep(time.Millisecond)
		require.Equal(t, Accept, p.push(t, "eu", "b"))
		require.Equal(t, Drop, p.push(t, "eu", "a"))
	})
}

// TestLogClockJumps: a log whose clock is set forward elects nobody, and neither does one whose clock was set back.
func TestLogClockJumps(t *testing.T) {
	var offset atomic.Int64
	onClock(t, func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }, func(t *testing.T, l log.Log) {
		p, q := start(t, l, "p"), start(t, l, "q")
		heard := func(replica string, rounds int) {
			for range rounds {
				require.Equal(t, Accept, p.push(t, "eu", replica))
				time.Sleep(5 * time.Second)
			}
		}
		heard("a", 5)
		require.Equal(t, Drop, q.push(t, "eu", "b"))
		time.Sleep(time.Second) // no sign of life is written at this moment
		offset.Store(int64(time.Hour))
		require.Equal(t, Accept, p.push(t, "us", "a")) // a record, so that the new time is known
		require.NoError(t, q.Sync(t.Context()))
		require.Equal(t, Drop, q.push(t, "eu", "b"))
		time.Sleep(timeout + ageUnit*time.Millisecond)
		require.Equal(t, Accept, q.push(t, "eu", "b"), "it is really silent")
		require.Equal(t, "b", agree(t, "eu", p, q))

		// Set back, log time stands still for an hour. Claims would not count, so there are none.
		heard("b", 5)
		offset.Store(0)
		claims := testutil.ToFloat64(p.metrics.claims)
		for range 20 {
			tick(t, l)
			require.NoError(t, p.Sync(t.Context()))
			require.Equal(t, Drop, p.push(t, "eu", "a"))
			time.Sleep(5 * time.Second)
		}
		require.Equal(t, claims, testutil.ToFloat64(p.metrics.claims))
		time.Sleep(time.Hour)
		tick(t, l)
		require.NoError(t, p.Sync(t.Context()))
		require.Equal(t, Accept, p.push(t, "eu", "a"))
	})
}

// tick lets log time advance, as the announcements of members do.
func tick(t *testing.T, l log.Log) {
	require.NoError(t, l.Append(context.Background(), log.TopicControl, []log.Record{{Key: []byte("member/x"), Value: []byte("{}")}}))
}

// TestFlapping: a replica that is away for less than the time-out, again and again, loses nothing.
func TestFlapping(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p, q := start(t, l, "p"), start(t, l, "q")
		for range 10 {
			require.Equal(t, Accept, p.push(t, "eu", "a"))
			for range 8 {
				time.Sleep(3 * time.Second)
				require.Equal(t, Drop, q.push(t, "eu", "b"))
			}
		}
	})
}

// TestColdStart: a process that starts reads first. What is long dead is replaced at once, what lives is left alone.
func TestColdStart(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p := start(t, l, "p")
		require.Equal(t, Accept, p.push(t, "eu", "a"))
		time.Sleep(5 * time.Minute)
		for range 10 {
			require.Equal(t, Accept, p.push(t, "us", "a"))
			time.Sleep(5 * time.Second)
		}
		p.stop()
		time.Sleep(time.Second)

		q := start(t, l, "q")
		require.Equal(t, Drop, q.push(t, "us", "b"), "it was heard of seconds ago, by a process that is no more")
		require.Equal(t, Accept, q.push(t, "eu", "b"), "it was not heard of for minutes")
		time.Sleep(timeout)
		require.Equal(t, Accept, q.push(t, "us", "b"))
		q.stop()

		time.Sleep(time.Minute) // and once all are away for longer than the time-out
		r := start(t, l, "r")
		require.Equal(t, Accept, r.push(t, "us", "a"))
	})
}

// TestLogAway: without the log nothing can be decided, and nothing that was decided is forgotten.
func TestLogAway(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p := start(t, l, "p")
		require.Equal(t, Accept, p.push(t, "eu", "a"))
		p.cut.Store(true)
		require.Equal(t, Accept, p.push(t, "eu", "a"))
		require.ErrorContains(t, p.Elect(t.Context(), "team-a", []Candidate{{"us", "a"}}, terms), "cut off")
		require.Equal(t, Unknown, p.Judge("team-a", "us", "a", terms))
		time.Sleep(timeout)
		require.ErrorContains(t, p.Elect(t.Context(), "team-a", []Candidate{{"eu", "b"}}, terms), "cut off")
		p.cut.Store(false)
		require.Equal(t, Accept, p.push(t, "eu", "b"))
		require.Equal(t, Accept, p.push(t, "us", "a"))
	})
}

// TestClusterLimit: at the bound, one below and one above it, and when it changes.
func TestClusterLimit(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p, q := start(t, l, "p"), start(t, l, "q")
		few := Terms{MaxClusters: 2, Timeout: timeout}
		require.Equal(t, Accept, p.pushAs(t, "team-a", "1", "a", few))
		require.Equal(t, Accept, p.pushAs(t, "team-a", "2", "a", few))
		require.Equal(t, TooMany, p.pushAs(t, "team-a", "3", "a", few))
		agree(t, "2", p, q)
		require.NoError(t, q.Elect(t.Context(), "team-a", []Candidate{{"3", "a"}}, few))
		require.Equal(t, TooMany, q.Judge("team-a", "3", "a", few))
		require.Equal(t, Accept, p.pushAs(t, "team-b", "3", "a", few), "another tenant has its own")
		require.Equal(t, Accept, p.pushAs(t, "team-a", "2", "a", few), "what is known stays")
		few.MaxClusters = 1
		require.Equal(t, Accept, p.pushAs(t, "team-a", "2", "a", few), "also when the limit falls")
		require.Equal(t, TooMany, p.pushAs(t, "team-a", "3", "a", few))
		few.MaxClusters = 3
		require.Equal(t, Accept, p.pushAs(t, "team-a", "3", "a", few))
		require.Equal(t, TooMany, p.pushAs(t, "team-a", "4", "a", few))
		few.MaxClusters = 0
		require.Equal(t, Accept, p.pushAs(t, "team-a", "4", "a", few), "0 is no limit")

		// Many at once, in one process: never more than allowed.
		few.MaxClusters = 10
		var cands []Candidate
		for i := range 30 {
			cands = append(cands, Candidate{fmt.Sprint(i), "a"})
		}
		require.NoError(t, p.Elect(t.Context(), "team-a", cands, few))
		p.mu.Lock()
		require.Len(t, p.tenants["team-a"], 10)
		p.mu.Unlock()
	})
}

// TestForgotten: clusters and processes of which nobody has heard for an hour are forgotten, and the log with them.
func TestForgotten(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p, q := start(t, l, "p"), start(t, l, "q")
		require.Equal(t, Accept, p.push(t, "eu", "a"))
		require.Equal(t, Accept, q.push(t, "us", "a"))
		time.Sleep(10 * time.Second)
		require.Equal(t, 2, p.heard())
		p.stop()
		for range 70 {
			require.Equal(t, Accept, q.push(t, "us", "a"))
			time.Sleep(time.Minute)
		}
		agree(t, "us", q)
		require.Equal(t, "", q.elected("eu"))
		require.Equal(t, 1, q.heard())
		require.Equal(t, Accept, q.push(t, "eu", "b"))
	})
}

// TestTooLate: a claim that is held up on its way does not count, and the one that is made instead does.
func TestTooLate(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p, q := start(t, l, "p"), start(t, l, "q")
		require.Equal(t, Accept, p.push(t, "eu", "a"))
		require.Equal(t, Drop, q.push(t, "eu", "b"))
		time.Sleep(timeout)
		q.delay.Store(int64(time.Minute))
		begun := time.Now()
		done := make(chan error, 1)
		go func() {
			done <- q.Elect(context.Background(), "team-a", []Candidate{{"eu", "b"}}, terms)
		}()
		synctest.Wait()
		q.delay.Store(0)
		require.Equal(t, Accept, p.push(t, "eu", "a"), "it has come back meanwhile")
		for time.Since(begun) < 70*time.Second {
			time.Sleep(5 * time.Second)
			require.Equal(t, Accept, p.push(t, "eu", "a"))
		}
		require.NoError(t, <-done)
		require.Equal(t, "a", agree(t, "eu", p, q))
		require.EqualValues(t, 1, testutil.ToFloat64(p.metrics.invalid))
		time.Sleep(2 * stateWithin)

		// The claim that did not count was the last record of its key: somebody has stated what was decided.
		r := start(t, lastOfKeys(t, l), "r")
		require.NoError(t, r.Elect(t.Context(), "team-a", nil, terms))
		require.Equal(t, "a", r.elected("eu"))
	})
}

// lastOfKeys is a log with what compaction leaves of the topic control.
func lastOfKeys(t testing.TB, l log.Log) log.Log {
	return &compacted{Log: l, recs: survivors(readAll(t, l))}
}

type compacted struct {
	log.Log
	recs []log.Record
}

func (c *compacted) Reader(topic string, partition int32, offset int64) (log.Reader, error) {
	next := offset
	if len(c.recs) > 0 {
		next = c.recs[len(c.recs)-1].Offset + 1
	}
	r, err := c.Log.Reader(topic, partition, next)
	return &compactedReader{Reader: r, recs: c.recs}, err
}

type compactedReader struct {
	log.Reader
	recs []log.Record
}

func (r *compactedReader) Next(ctx context.Context) ([]log.Record, error) {
	if recs := r.recs; recs != nil {
		r.recs = nil
		return recs, nil
	}
	return r.Reader.Next(ctx)
}

func readAll(t testing.TB, l log.Log) (all []log.Record) {
	b, err := l.Bounds(context.Background(), log.TopicControl, 0)
	require.NoError(t, err)
	r, err := l.Reader(log.TopicControl, 0, b.Start)
	require.NoError(t, err)
	defer r.Close()
	for r.Position() < b.End {
		recs, err := r.Next(context.Background())
		require.NoError(t, err)
		for _, rec := range recs {
			rec.Key, rec.Value = append([]byte{}, rec.Key...), append([]byte(nil), rec.Value...)
			all = append(all, rec)
		}
	}
	return all
}

func survivors(recs []log.Record) (left []log.Record) {
	last := map[string]int{}
	for i := range recs {
		last[string(recs[i].Key)] = i
	}
	for i := range recs {
		if last[string(recs[i].Key)] == i {
			left = append(left, recs[i])
		}
	}
	return left
}

// TestTraffic: ten thousand clusters cost the log kilobytes a second, in few records.
func TestTraffic(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p := start(t, l, "p")
		const clusters = 10_000
		var cands []Candidate
		for i := range clusters {
			cands = append(cands, Candidate{fmt.Sprintf("cluster-%05d", i), "a"})
		}
		all := Terms{Timeout: timeout}
		require.NoError(t, p.Elect(t.Context(), "team-a", cands, all))
		before, claims := len(readAll(t, l)), testutil.ToFloat64(p.metrics.bytes)
		const seconds = 60
		for range seconds {
			for _, c := range cands {
				if p.Judge("team-a", c.Cluster, "a", all) != Accept {
					t.Fatal("not accepted")
				}
			}
			time.Sleep(time.Second)
		}
		bytes, records := testutil.ToFloat64(p.metrics.bytes)-claims, len(readAll(t, l))-before
		t.Logf("%d clusters: %.0f bytes each to elect, then %.0f bytes/s in %d records a minute, %.1f bytes per cluster and record",
			clusters, claims/clusters, bytes/seconds, records, bytes/clusters/float64(records))
		require.LessOrEqual(t, records, 12)
		require.Less(t, bytes/seconds, 10_000.0)
	})
}
