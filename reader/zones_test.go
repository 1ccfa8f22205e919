package reader

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"
	"go.uber.org/goleak"

	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/internal/web"
	"sluice/schema"
)

// cluster is a world whose members are announced in a real log.
type cluster struct {
	*world
	control log.Log
	dir     *members.Directory
}

func newCluster(t testing.TB) *cluster {
	logger := slog.New(slog.DiscardHandler)
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: 1, Fsync: log.FsyncOff}, logger, nil)
	require.NoError(t, err)
	control := log.NewTable(l, log.TopicControl)
	c := &cluster{newWorld(t, nil, web.Tenancy{}), l, members.NewDirectory(control, logger)}
	c.reader.dir = c.dir
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		require.NoError(t, l.Close())
	})
	return c
}

// announce puts a consumer of a zone into the log.
func (c *cluster) announce(t testing.TB, id, zone string, held ...members.Coverage) {
	ctx := context.Background()
	require.NoError(t, members.Announce(ctx, c.control, members.Member{ID: id, Zone: zone, Kind: members.KindConsumer, Partitions: held}))
	require.NoError(t, c.dir.Sync(ctx))
}

// stopped is a process that is stopped: its kernel takes connections, and nothing comes.
func stopped(t testing.TB) (addr string, connections *atomic.Int32) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	connections = &atomic.Int32{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var open []net.Conn
		for {
			c, err := ln.Accept()
			if err != nil {
				break
			}
			connections.Add(1)
			open = append(open, c)
		}
		for _, c := range open {
			c.Close()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return ln.Addr().String(), connections
}

func client(t testing.TB, addr string, silence time.Duration) *fetch.Client {
	transport := fetch.NewTransport()
	t.Cleanup(transport.CloseIdleConnections)
	return fetch.NewClient(addr, &http.Client{Transport: transport}, silence)
}

// TestZoneStops: all consumers of a zone are stopped at once. That costs one silence, and the next query none.
func TestZoneStops(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	c := newCluster(t)
	c.log.bounds = make([]log.Bounds, 4)
	addr, connections := stopped(t)
	for p := range int32(4) {
		c.log.bounds[p].End = 100
		id := "a" + strconv.Itoa(int(p))
		c.announce(t, id, "a", members.Coverage{Partition: p, Applied: 5000}) // the freshest by far
		c.sources[id] = client(t, addr, 20*time.Millisecond)
	}
	both := []members.Coverage{{Partition: 0, Applied: 90}, {Partition: 1, Applied: 90}, {Partition: 2, Applied: 90}, {Partition: 3, Applied: 90}}
	c.announce(t, "b", "b", both...)
	good := &fakeSource{held: map[int32]int64{0: 0, 1: 0, 2: 0, 3: 0}, data: newData(t, map[string][]sample{"a": {{1, 1}}})}
	c.sources["b"] = good

	for range 3 {
		got, _, err := c.selectAll(asTenant("acme"))
		require.NoError(t, err)
		require.Equal(t, map[string][]sample{"a": {{1, 1}}}, got)
		require.Eventually(t, func() bool { return connections.Load() >= 4 }, 10*time.Second, time.Millisecond, "each of them is asked")
		require.EqualValues(t, 4, connections.Load(), "and none twice")
	}
	require.Equal(t, 1.0, testutil.ToFloat64(c.reader.metrics.retries), "they are found out together")
	require.Len(t, good.asked, 3)
	require.Len(t, good.asked[0], 4, "one question for all partitions")

	// One of them is back. It says so, and is asked again.
	back := &fakeSource{held: map[int32]int64{2: 0}, data: newData(t, map[string][]sample{"b": {{2, 2}}})}
	c.sources["a2"] = back
	for c.dir.Holders(2)[0].ID != "a2" { // until the clock of the log has moved
		c.announce(t, "a2", "a", members.Coverage{Partition: 2, Applied: 6000})
	}
	got, _, err := c.selectAll(asTenant("acme"))
	require.NoError(t, err)
	require.Equal(t, map[string][]sample{"a": {{1, 1}}, "b": {{2, 2}}}, got)
	require.Len(t, back.asked, 1)
}

// TestMemberDiesInMidStream: what it has sent by then is not mixed with what another sends.
func TestMemberDiesInMidStream(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}}
	data := map[string][]sample{}
	for i := range 50 {
		data["s"+strconv.Itoa(i)] = []sample{{1, float64(i)}}
	}
	db := newData(t, data)
	whole := fetch.Handler(fetch.HandlerConfig{Source: &fakeSource{held: map[int32]int64{0: 0}, data: db}}, slog.New(slog.DiscardHandler))
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		whole.ServeHTTP(rec, r)
		_, _ = rw.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(srv.Close)
	w.sources["dies"] = client(t, srv.URL, time.Minute)
	w.sources["lives"] = &fakeSource{held: map[int32]int64{0: 0}, data: db}
	w.dir[0] = []string{"dies", "lives"}
	got, _, err := w.selectAll(asTenant("acme"))
	require.NoError(t, err)
	require.Equal(t, data, got)
	require.Equal(t, 1.0, testutil.ToFloat64(w.reader.metrics.retries))
}

// TestNeverBackInTime: what was answered or announced once is the least that a later answer has.
func TestNeverBackInTime(t *testing.T) {
	c := newCluster(t)
	c.log.bounds = []log.Bounds{{End: 2000}}
	c.log.topicID = "this"
	a := &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, map[string][]sample{"s": {{1, 1}, {2, 2}}}), applied: fetch.Applied{0: 1000}}
	b := &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, map[string][]sample{"s": {{1, 1}}}), applied: fetch.Applied{0: 800}}
	c.sources["a"], c.sources["b"] = a, b
	c.announce(t, "a", "east", members.Coverage{TopicID: "this", Applied: 900})
	ask := func() (map[string][]sample, error) {
		got, _, err := c.selectAll(asTenant("acme"))
		return got, err
	}
	got, err := ask()
	require.NoError(t, err)
	require.Equal(t, map[string][]sample{"s": {{1, 1}, {2, 2}}}, got)
	require.Equal(t, []fetch.Ask{{Wait: 900}}, a.asked[0])

	// a is gone and b not as far: an answer from b would take back what was seen.
	require.NoError(t, members.Withdraw(context.Background(), c.control, "a"))
	c.announce(t, "b", "west", members.Coverage{TopicID: "this", Applied: 800})
	c.reader.cfg.FreshTimeout = time.Millisecond
	_, err = ask()
	requireID(t, err, schema.ErrPartitionUnavailable)
	require.ErrorContains(t, err, "partition 0 ")
	require.ErrorContains(t, err, "offset 1000")
	require.ErrorContains(t, err, "member b of zone west: partition 0 is applied up to 800")
	require.Equal(t, []fetch.Ask{{Wait: 1000}}, b.asked[0])
	_, set, err := c.selectAll(withOptions(context.Background(), &options{tenant: "acme", partial: true}))
	require.NoError(t, err)
	require.Len(t, set.Warnings(), 1)

	b.applied = fetch.Applied{0: 1000} // it has caught up
	_, err = ask()
	require.NoError(t, err)

	// What another process announced counts as well, and what is said about another topic does not.
	c.announce(t, "c", "east", members.Coverage{TopicID: "this", Applied: 1500})
	c.announce(t, "d", "east", members.Coverage{TopicID: "former", Applied: 9000})
	c.sources["c"] = &fakeSource{err: errors.New("connection refused")}
	b.applied, b.asked = fetch.Applied{0: 1500}, nil
	_, err = ask()
	require.NoError(t, err)
	require.Equal(t, []fetch.Ask{{Wait: 1500}}, b.asked[0])
}

// TestTopicMadeAnew: offsets of the former topic are not waited for, even if nobody says of which topic they are.
func TestTopicMadeAnew(t *testing.T) {
	for _, told := range []string{"", "new"} {
		c := newCluster(t)
		c.log.bounds = []log.Bounds{{End: 1000}}
		c.log.topicID = "old"
		a := &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, map[string][]sample{"s": {{1, 1}}}), applied: fetch.Applied{0: 1000}}
		c.sources["a"] = a
		c.announce(t, "a", "", members.Coverage{Applied: 1000})
		_, _, err := c.selectAll(asTenant("acme"))
		require.NoError(t, err)

		c.log.topicID, c.log.bounds[0].End = "new", 20 // the reader has heard nothing of it
		a.applied = fetch.Applied{0: 20}
		c.reader.cfg.FreshTimeout = time.Millisecond
		applied := int64(1000) // announced before
		if told != "" {
			applied = 20
		}
		c.announce(t, "a", "", members.Coverage{TopicID: told, Applied: applied})
		got, _, err := c.selectAll(asTenant("acme"))
		require.NoError(t, err)
		require.Equal(t, map[string][]sample{"s": {{1, 1}}}, got)
	}
}

// TestNobodyAnswers: the error says what is missing and who was asked.
func TestNobodyAnswers(t *testing.T) {
	c := newCluster(t)
	c.log.bounds = []log.Bounds{{}, {End: 70}}
	c.cat.snapshots[0].shipped = map[int32]int64{1: 30}
	addr, _ := stopped(t)
	c.sources["a"], c.sources["b"] = client(t, addr, time.Millisecond), &fakeSource{err: schema.Unavailable(schema.ErrPartitionUnavailable, nil, "partition 1 is replaying")}
	c.announce(t, "a", "east", members.Coverage{Partition: 1})
	c.announce(t, "b", "west", members.Coverage{Partition: 1})
	_, _, err := c.selectAll(asTenant("acme"))
	requireID(t, err, schema.ErrPartitionUnavailable)
	for _, part := range []string{"partition 1,", "offset 30 to 70", "member a of zone east: ", "nothing came for 1ms", "member b of zone west: partition 1 is replaying"} {
		require.ErrorContains(t, err, part)
	}
	require.NotContains(t, err.Error(), "\n")
}

// choice returns which members are asked for which partitions.
func (c *cluster) choice(t testing.TB, v *view) map[string][]int32 {
	sources, missing, err := c.reader.memberSources(context.Background(), v)
	require.NoError(t, err)
	require.Empty(t, missing)
	got := map[string][]int32{}
	for _, s := range sources {
		for _, a := range s.asks {
			got[s.member.ID] = append(got[s.member.ID], a.Partition)
		}
		slices.Sort(got[s.member.ID])
	}
	return got
}

func TestWhoIsAsked(t *testing.T) {
	c := newCluster(t)
	c.log.bounds = make([]log.Bounds, 4)
	v := &view{partitions: 4, avoid: map[avoidKey]error{}}
	all := func(applied int64) (out []members.Coverage) {
		for p := range int32(4) {
			out = append(out, members.Coverage{Partition: p, Applied: applied})
		}
		return out
	}
	c.announce(t, "a", "east", all(9000)...)
	c.announce(t, "b", "west", all(9000-nearRecords)...)
	got := c.choice(t, v)
	require.Len(t, got, 1, "one question is enough")
	seen := map[string]bool{}
	for i := range 20 { // other readers begin with others
		c.reader.cfg.InstanceID = "r" + strconv.Itoa(i)
		for id := range c.choice(t, v) {
			seen[id] = true
		}
	}
	require.Len(t, seen, 2, "load is spread")

	c.announce(t, "b", "west", all(9000-nearRecords-1)...)
	require.Equal(t, map[string][]int32{"a": {0, 1, 2, 3}}, c.choice(t, v), "b is behind")
	c.announce(t, "c", "east", members.Coverage{Partition: 2, Applied: 100_000})
	require.Equal(t, map[string][]int32{"a": {0, 1, 3}, "c": {2}}, c.choice(t, v), "a is behind in 2")
	v.avoid[avoidKey{"a", 3}] = errors.New("failed")
	require.Equal(t, map[string][]int32{"a": {0, 1}, "b": {3}, "c": {2}}, c.choice(t, v))
	c.dir.Suspect("a")
	require.Equal(t, map[string][]int32{"b": {0, 1, 3}, "c": {2}}, c.choice(t, v))

	c.reader.cfg.InstanceID = "own"
	c.announce(t, "own", "west", members.Coverage{Partition: 0, Applied: 9000 - nearRecords - 1})
	require.Equal(t, map[string][]int32{"own": {0}, "b": {1, 3}, "c": {2}}, c.choice(t, v), "the consumer of this process comes first")
}

// TestReadersAnnounceThemselves: a reader is known while it runs.
func TestReadersAnnounceThemselves(t *testing.T) {
	c := newCluster(t)
	r, err := New(Config{InstanceID: "one", Advertise: "host:1", AnnounceInterval: time.Millisecond}, c.control, c.cat, objstore.NewInMemBucket(), c.dir,
		func(members.Member) fetch.Source { return nil }, &fakeLimits{}, web.Tenancy{}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	require.Eventually(t, func() bool { return len(c.dir.Readers()) == 1 }, waitFor, tick)
	m := c.dir.Readers()[0]
	require.Equal(t, "reader/one", m.ID)
	require.Equal(t, "host:1", m.Addr)
	require.Empty(t, c.dir.Holders(0))
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.NoError(t, c.dir.Sync(context.Background()))
	require.Empty(t, c.dir.Readers())
}

var _ storage.Querier = (*shareQuerier)(nil)
