package compactor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/promslog"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"
	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/internal/block"
	"sluice/internal/catalog"
	"sluice/internal/log"
	"sluice/internal/plan"
	"sluice/schema"
)

// member is a compactor as a process of its own: what it knows it has read itself, and it can be killed or stopped while
// the others go on.
type member struct {
	*Compactor
	w    *world
	dead atomic.Bool // nothing that it writes arrives

	mu   sync.Mutex
	op   func(what string) // called before each change of bucket or log, and after each look at the bucket: what was seen is old
	gate chan struct{}     // open = nil; it stands still until this is closed
}

// member makes one, with a catalogue and a scratch directory of its own.
func (w *world) member(name string) *member {
	m := &member{w: w}
	l := memberLog{hookedLog{w.log, w}, m}
	cat := catalog.New(l, promslog.NewNopLogger(), nil)
	w.run(cat.Run)
	cfg := w.cfg
	cfg.Instance, cfg.Scratch = name, w.t.TempDir()
	var err error
	control := log.NewTable(l, log.TopicControl)
	m.Compactor, err = New(cfg, l, control, cat, memberBucket{hookedBucket{w.bkt, w}, m}, w, promslog.NewNopLogger(), prometheus.NewPedanticRegistry())
	require.NoError(w.t, err)
	m.SetClock(w.now)
	w.run(control.Run)
	w.run(m.leases.Run)
	w.t.Cleanup(m.resume)
	return m
}

func (m *member) onOp(f func(what string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.op = f
}

// stop makes it stand still, as a signal would: what is under way gets no further, what it follows is not read.
func (m *member) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gate == nil {
		m.gate = make(chan struct{})
	}
}

func (m *member) resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gate != nil {
		close(m.gate)
		m.gate = nil
	}
}

func (m *member) wait() {
	m.mu.Lock()
	gate := m.gate
	m.mu.Unlock()
	if gate != nil {
		<-gate
	}
}

func (m *member) do(what string) error {
	m.mu.Lock()
	op := m.op
	m.mu.Unlock()
	if op != nil {
		op(what)
	}
	m.wait()
	if m.dead.Load() {
		return errCrash
	}
	return nil
}

func (m *member) jobs(result string) int {
	return int(testutil.ToFloat64(m.metrics.jobs.WithLabelValues(result)))
}

func (m *member) tidied(result string) int {
	return int(testutil.ToFloat64(m.metrics.shards.WithLabelValues(result)))
}

type memberLog struct {
	hookedLog
	m *member
}

func (l memberLog) Append(ctx context.Context, topic string, recs []log.Record) error {
	if err := l.m.do("append " + string(recs[0].Key)); err != nil {
		return err
	}
	return l.hookedLog.Append(ctx, topic, recs)
}

func (l memberLog) Reader(topic string, partition int32, offset int64) (log.Reader, error) {
	r, err := l.hookedLog.Reader(topic, partition, offset)
	return memberReader{r, l.m}, err
}

type memberReader struct {
	log.Reader
	m *member
}

func (r memberReader) Next(ctx context.Context) ([]log.Record, error) {
	recs, err := r.Reader.Next(ctx)
	r.m.wait()
	return recs, err
}

type memberBucket struct {
	hookedBucket
	m *member
}

func (b memberBucket) Upload(ctx context.Context, name string, r io.Reader, o ...objstore.ObjectUploadOption) error {
	if err := b.m.do("upload " + name); err != nil {
		return err
	}
	return b.hookedBucket.Bucket.Upload(ctx, name, r, o...) // late, whatever its context says
}

func (b memberBucket) Delete(ctx context.Context, name string) error {
	if err := b.m.do("delete " + name); err != nil {
		return err
	}
	return b.hookedBucket.Delete(ctx, name)
}

func (b memberBucket) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	r, err := b.hookedBucket.Get(ctx, name)
	return r, errors.Join(err, b.m.do("get "+name))
}

func (b memberBucket) Attributes(ctx context.Context, name string) (objstore.ObjectAttributes, error) {
	attrs, err := b.hookedBucket.Attributes(ctx, name)
	return attrs, errors.Join(err, b.m.do("look up "+name))
}

func (b memberBucket) Iter(ctx context.Context, dir string, f func(string) error, o ...objstore.IterOption) error {
	return errors.Join(b.hookedBucket.Iter(ctx, dir, f, o...), b.m.do("list "+dir))
}

// shipMany ships two blocks for each of n jobs and returns what tenants must show.
func shipMany(w *world, n int, place func(i int) (tenant schema.Tenant, day int64)) map[schema.Tenant]map[string]string {
	inputs := map[schema.Tenant][]data{}
	for i := range n {
		tenant, day := place(i)
		start := midnight + day*24*hour
		for p, d := range []data{
			{"a": floats(start, start+hour, 60_000, float64(i))},
			{"a": floats(start+hour/2, start+2*hour, 60_000, -1), "b": floats(start, start+hour, 60_000, 2)},
		} {
			w.ship(tenant, int32(p), day*24, d)
			inputs[tenant] = append(inputs[tenant], d)
		}
	}
	want := map[schema.Tenant]map[string]string{}
	for tenant, list := range inputs {
		want[tenant] = expect(list...)
	}
	return want
}

// TestTwoShareTheJobs: each job is done once, and both do some, be it of many tenants or of one large one.
func TestTwoShareTheJobs(t *testing.T) {
	noLeaks(t)
	const jobs = 16
	many := func(i int) (schema.Tenant, int64) { return schema.Tenant(fmt.Sprintf("t%d", i)), 0 }
	one := func(i int) (schema.Tenant, int64) { return "t", int64(i) }
	kafka := func(t testing.TB) *world {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
		require.NoError(t, err)
		t.Cleanup(cluster.Close)
		return newWorldOn(t, func(*world) log.Log {
			l, err := log.NewKafka(log.KafkaConfig{Brokers: cluster.ListenAddrs(), Partitions: 4}, promslog.NewNopLogger(), nil)
			require.NoError(t, err)
			require.NoError(t, l.EnsureTopics(context.Background()))
			return l
		})
	}
	for name, c := range map[string]struct {
		open  func(testing.TB) *world
		place func(i int) (schema.Tenant, int64)
	}{
		"many tenants": {newWorld, many}, "one tenant": {newWorld, one}, "many tenants on Kafka": {kafka, many}, "one tenant on Kafka": {kafka, one},
	} {
		t.Run(name, func(t *testing.T) {
			w := c.open(t)
			want := shipMany(w, jobs, c.place)
			w.setClock(time.UnixMilli(midnight + 24*30*hour))
			a, b := w.member("a"), w.member("b")
			// Neither gets on with its first job before the other has one too: it is not a question of speed.
			var both sync.WaitGroup
			both.Add(2)
			var running sync.WaitGroup
			for _, m := range []*member{a, b} {
				var first sync.Once
				m.step = func(name string) error {
					if name == stepDownloaded {
						first.Do(func() {
							both.Done()
							both.Wait()
						})
					}
					return nil
				}
				running.Go(func() {
					if err := m.RunOnce(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			running.Wait()
			t.Logf("%d jobs: %d by one, %d by the other; left to the other %d and %d times, found done %d and %d times; shards tidied %d and %d",
				jobs, a.jobs(resultDone), b.jobs(resultDone), a.jobs(resultLeased), b.jobs(resultLeased), a.jobs(resultStale), b.jobs(resultStale),
				a.tidied(resultTidied), b.tidied(resultTidied))
			require.Equal(t, jobs, a.jobs(resultDone)+b.jobs(resultDone), "each once")
			require.Positive(t, a.jobs(resultDone))
			require.Positive(t, b.jobs(resultDone))
			for tenant, view := range want {
				requireView(t, view, w.view(tenant, w.live(tenant)), string(tenant))
			}
			require.Equal(t, shards, a.tidied(resultTidied)+b.tidied(resultTidied), "each shard once in an interval")
		})
	}
}

// TestTakeOver: a compactor dies in the middle of a merge and says nothing any more. The other one leaves the job alone
// for as long as the lease lasts, and then does it.
func TestTakeOver(t *testing.T) {
	w := newWorld(t)
	want := expect(generations(w)...)
	w.setClock(time.UnixMilli(midnight + 27*hour))
	a, b := w.member("a"), w.member("b")
	ctx, kill := context.WithCancel(context.Background())
	a.step = func(string) error {
		a.dead.Store(true)
		kill()
		return ctx.Err()
	}
	require.ErrorIs(t, a.RunOnce(ctx), context.Canceled)
	require.NoError(t, b.RunOnce(t.Context()))
	require.Len(t, w.live("t"), 6)
	require.Equal(t, 1, b.jobs(resultLeased))
	w.setClock(w.now().Add(29 * time.Second))
	require.NoError(t, b.RunOnce(t.Context()))
	require.Len(t, w.live("t"), 6)
	w.setClock(w.now().Add(2 * time.Second))
	require.NoError(t, b.RunOnce(t.Context()))
	require.Len(t, w.live("t"), 1)
	require.Equal(t, 1, b.jobs(resultDone))
	requireView(t, want, w.view("t", w.live("t")), "")
}

// TestStopAndGoOn lets a compactor stand still before each thing that it does to log or bucket in turn, or with what it has
// just read there, while another one merges everything, deletes what was replaced, and days go by; then it goes on with what it was about to do. Readers
// see every sample at every moment, and in the end there is one block and nothing else.
func TestStopAndGoOn(t *testing.T) {
	clean := newWorld(t)
	want := expect(generations(clean)...)
	step := 1
	if testing.Short() { // under the race detector: who runs beside whom is the same before each operation
		step = 4
	}
	for _, pass := range []float64{4.5, 5} {
		var ops []string
		for n := 0; n == 0 || n <= len(ops); n += step {
			w := newWorld(t)
			generations(w)
			a, b := w.member("a"), w.member("b")
			if pass > 4.5 {
				w.setClock(time.UnixMilli(midnight + int64(4.5*float64(hour))))
				require.NoError(t, a.RunOnce(t.Context()))
			}
			w.watch("t", want)
			var seen []string
			stopped, resumed := make(chan struct{}), atomic.Bool{}
			a.onOp(func(what string) {
				if resumed.Load() || strings.HasPrefix(what, "append lease/compactor/shard") || strings.HasPrefix(what, "append compactor/shard") {
					return
				}
				if seen = append(seen, what); len(seen) == n {
					a.stop()
					close(stopped)
				}
			})
			w.setClock(time.UnixMilli(midnight + int64(pass*float64(hour))))
			done := make(chan error, 1)
			go func() { done <- a.RunOnce(context.Background()) }()
			if n == 0 {
				require.NoError(t, <-done)
				ops = seen
				require.Greater(t, len(ops), 10)
				continue
			}
			<-stopped
			for _, h := range []float64{5.5, 26.5, 27, 27.5, 28, 24 * 3} {
				w.setClock(time.UnixMilli(midnight + int64(h*float64(hour))))
				require.NoError(t, b.RunOnce(t.Context()), "stopped before %s", ops[n-1])
			}
			require.Len(t, w.live("t"), 1, "stopped before %s", ops[n-1])
			resumed.Store(true)
			a.resume()
			<-done // an error or none, but nothing wrong
			requireView(t, want, w.view("t", w.live("t")), "went on with "+ops[n-1])
			for _, h := range []float64{24 * 4, 24*4 + 1, 24 * 12, 24*12 + 1, 24 * 21, 24*21 + 1} {
				w.setClock(time.UnixMilli(midnight + int64(h*float64(hour))))
				require.NoError(t, b.RunOnce(t.Context()))
			}
			blocks := w.live("t")
			require.Len(t, blocks, 1, "went on with %s", ops[n-1])
			requireView(t, want, w.view("t", blocks), "went on with "+ops[n-1])
			require.Equal(t, []string{blocks[0].ID.String()}, w.folders("t"), "went on with %s", ops[n-1])
			require.Len(t, w.cat.All(), 1, "went on with %s", ops[n-1])
		}
		t.Logf("pass at %vh: stopped before each of %d operations", pass, len(ops))
	}
}

// TestOrphanComesBack: a compactor has seen a folder to be removed, and stands still. Meanwhile whoever had left it comes
// back, finishes the upload and tells the catalogue. Nothing of it is removed, whether the lease was lost or not.
func TestOrphanComesBack(t *testing.T) {
	one := data{"a": floats(midnight, midnight+hour, 1000, 1)}
	for _, stand := range []time.Duration{0, time.Hour} {
		for _, at := range []string{"list t/", "look up t/", "get t/"} {
			t.Run(fmt.Sprintf("%s for %s", strings.Fields(at)[0], stand), func(t *testing.T) {
				w := newWorld(t)
				w.cfg.Settle = 1000 * time.Hour
				meta := w.upload("t", one, nil)
				require.NoError(t, w.bkt.Delete(t.Context(), block.Key("t", meta.ULID, schema.MetaFile)))
				a := w.member("a")
				stopped := make(chan struct{})
				left := 2 // of the folder, the second look is the last one
				if at == "list t/" {
					left = 3
				}
				a.onOp(func(what string) {
					if strings.HasPrefix(what, at) {
						if left--; left == 0 {
							a.stop()
							close(stopped)
						}
					}
				})
				w.setClock(time.Now().Add(13 * time.Hour))
				done := make(chan error, 1)
				go func() { done <- a.RunOnce(context.Background()) }()
				<-stopped
				again := w.upload("t", one, nil)
				require.Equal(t, meta.ULID, again.ULID)
				require.NoError(t, w.cat.Add(t.Context(), []schema.BlockEntry{again.Entry(w.now().UnixMilli())}, nil))
				w.setClock(w.now().Add(stand))
				a.resume()
				require.NoError(t, <-done)
				if stand > 0 {
					require.Equal(t, 1, a.tidied(resultLost))
				}
				requireView(t, expect(one), w.view("t", w.live("t")), "")
				require.Len(t, w.live("t"), 1)
			})
		}
	}
}

// TestListedOncePerInterval: whoever comes first lists the bucket for all, and what was found is known to all.
func TestListedOncePerInterval(t *testing.T) {
	w := newWorld(t)
	generations(w)
	e := w.cat.Blocks("t")[0]
	require.NoError(t, block.Delete(t.Context(), w.bkt, "t", e.ID))
	a, b := w.member("a"), w.member("b")
	lists := 0
	for _, m := range []*member{a, b} {
		m.onOp(func(what string) {
			if what == "list t/" {
				lists++
			}
		})
	}
	w.setClock(time.UnixMilli(midnight + hour))
	for _, m := range []*member{a, b, w.member("c")} {
		require.NoError(t, m.RunOnce(t.Context()))
		require.EqualValues(t, 1, testutil.ToFloat64(m.metrics.missing))
	}
	require.Equal(t, 1, lists)
	w.setClock(w.now().Add(time.Hour))
	require.NoError(t, b.RunOnce(t.Context()))
	require.NoError(t, a.RunOnce(t.Context()))
	require.Equal(t, 2, lists)
}

// TestQuarantineIsKept: a block that one compactor could not read is left alone by all, also after a restart, for a day.
func TestQuarantineIsKept(t *testing.T) {
	w := newWorld(t)
	generations(w)
	bad := w.cat.Blocks("t")[1]
	name := block.Key("t", bad.ID, "index")
	good := w.bkt.Objects()[name]
	w.flip(name, 40)
	w.setClock(time.UnixMilli(midnight + 27*hour))
	require.Error(t, w.member("a").RunOnce(t.Context()))
	require.Len(t, w.live("t"), 2)
	b := w.member("b")
	tried := 0
	b.onOp(func(what string) {
		if what == "get "+name {
			tried++
		}
	})
	w.setClock(w.now().Add(23 * time.Hour))
	require.NoError(t, b.RunOnce(t.Context()))
	require.Zero(t, tried)
	require.EqualValues(t, 1, testutil.ToFloat64(b.metrics.quarantined))
	w.setClock(w.now().Add(2 * time.Hour))
	require.Error(t, b.RunOnce(t.Context()), "tried again, and still bad")
	require.Equal(t, 1, tried)
	w.put(name, good)
	w.setClock(w.now().Add(25 * time.Hour))
	require.NoError(t, b.RunOnce(t.Context()))
	require.Len(t, w.live("t"), 1)
	require.Zero(t, b.notes.aside.Count(w.now()))
	require.NoError(t, b.notes.control.Sync(t.Context()))
	require.Empty(t, b.notes.aside.Noted("t"), "forgotten with the block")
}

func TestShards(t *testing.T) {
	// Golden: two versions at work at once must agree.
	require.Equal(t, []int{20, 19, 16}, []int{shardOf("anonymous"), shardOf("team-a"), shardOf("team-b")})
	seen := map[int]bool{}
	for _, i := range shardOrder("x") {
		seen[i] = true
	}
	require.Len(t, seen, shards)
	j := tenantJob{tenant: "t"}
	require.NotEqual(t, plan.ID("t", j.Blocks), plan.ID("u", j.Blocks))
}

func FuzzNotes(f *testing.F) {
	f.Add("compactor/shard/3", []byte(`{"by":"a","tidied":1,"reconciled":2,"missing":3}`))
	f.Add("compactor/shard/03", []byte(nil))
	f.Fuzz(func(t *testing.T, key string, value []byte) { // what is set aside is fuzzed in internal/plan
		n := newNotes(nil, log.NewTable(nil, log.TopicControl), promslog.NewNopLogger())
		if err := n.take(key, value); err != nil {
			require.Zero(t, n.shards)
		}
	})
}
