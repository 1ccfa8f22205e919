package e2e

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/internal/kafkatest"
)

// fault is one bad thing that happens to a cluster, and how it ends.
type fault struct {
	kind  string
	on    []string // who is hit: of two faults at once no two hit the same
	zone  string   // whose consumers are hit; empty = none
	hard  bool     // no other zone can help: the log or the bucket is hit
	hold  time.Duration
	begin func()
	end   func() // returns when everything works again

	from, to time.Time // guarded by nemesis.mu; to is zero while it lasts
}

// last is the place of a fault among those that end: first what no zone can replace, and in the end a consumer that is to
// hand over to others.
func (f *fault) last() int {
	switch {
	case f.hard:
		return 0
	case f.kind == "consumer-added":
		return 2
	}
	return 1
}

// nemesis does things to a cluster, by a seed.
type nemesis struct {
	c     *cluster
	kafka *kafkatest.Cluster
	admin *kadm.Client
	raw   *kgo.Client
	store *s3
	rng   *rand.Rand
	grown int // consumers added so far
	most  int // partitions, at most

	kinds []string // what is to happen

	mu       sync.Mutex // guards the rest
	history  []*fault
	done     map[string]int
	recovery map[string]time.Duration // longest, by kind: from the end of the fault until everything is ready
}

// kinds are all that can happen; a run does each at least once.
var kinds = []string{
	"kill-producer", "kill-consumer", "kill-compactor", "kill-reader", "stop-producer", "stop-consumer", "stop-compactor", "stop-reader",
	"kill-leader", "kill-controller", "bucket-away", "consumer-added", "partitions-added", "zone-down", "disk-lost",
}

// kindsWanted are those of SLUICE_CLUSTER_FAULTS, separated by commas, or all.
func kindsWanted() []string {
	if s := os.Getenv("SLUICE_CLUSTER_FAULTS"); s != "" {
		return strings.Split(s, ",")
	}
	return kinds
}

// aftermath is how long a broker or the bucket may be felt after it is back: connections are made anew.
const aftermath = 3 * time.Second

// during implements circumstances.
func (n *nemesis) during(from, to time.Time) (faults []string, excused bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	zones := map[string]bool{}
	for _, f := range n.history {
		end := f.to
		if f.hard && !end.IsZero() {
			end = end.Add(aftermath)
		}
		if f.from.After(to) || !end.IsZero() && end.Before(from) {
			continue
		}
		if !slices.Contains(faults, f.kind) {
			faults = append(faults, f.kind)
		}
		excused = excused || f.hard
		if f.zone != "" {
			zones[f.zone] = true
		}
	}
	slices.Sort(faults)
	return faults, excused || len(zones) > 1
}

// run does each kind once, in random order, then pairs, until the time is over; never less than each once and two pairs.
func (n *nemesis) run(long time.Duration) {
	n.c.t.Helper()
	begun := time.Now()
	order := slices.Clone(n.kinds)
	n.rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for _, kind := range order {
		n.do(n.make(kind))
	}
	for pair := 0; pair < 2 || time.Since(begun) < long; pair++ {
		a := n.make(n.kinds[n.rng.IntN(len(n.kinds))])
		b := n.make(n.kinds[n.rng.IntN(len(n.kinds))])
		switch {
		case pair%3 == 2:
			n.do(a)
		case !slices.ContainsFunc(a.on, func(s string) bool { return slices.Contains(b.on, s) }):
			n.do(a, b)
		default:
			n.do(b)
		}
	}
}

// do lets faults happen, one a little after the other, and ends them: what no zone can replace comes back first.
func (n *nemesis) do(faults ...*fault) {
	n.c.t.Helper()
	var names []string
	var hold time.Duration
	for i, f := range faults {
		if i > 0 {
			n.pause(f.hold / 4)
		}
		n.mu.Lock()
		f.from = time.Now()
		n.history = append(n.history, f)
		n.done[f.kind]++
		n.mu.Unlock()
		n.c.t.Logf("%s fault %s on %s for %s", time.Now().Format("15:04:05.000"), f.kind, strings.Join(f.on, " "), f.hold.Round(100*time.Millisecond))
		f.begin()
		hold = max(hold, f.hold)
		names = append(names, f.kind)
	}
	n.pause(hold)
	slices.SortStableFunc(faults, func(a, b *fault) int { return cmp.Compare(a.last(), b.last()) })
	for _, f := range faults {
		begun := time.Now()
		f.end()
		n.mu.Lock()
		f.to = time.Now()
		n.recovery[f.kind] = max(n.recovery[f.kind], f.to.Sub(begun))
		n.mu.Unlock()
	}
	n.c.alive(strings.Join(names, " and "))
	n.pause(time.Duration(500+n.rng.IntN(1500)) * time.Millisecond)
}

// pause lets a fault last: nothing is waited for here.
func (n *nemesis) pause(d time.Duration) { <-time.After(d) }

func (n *nemesis) between(from, to time.Duration) time.Duration {
	return from + time.Duration(n.rng.Int64N(int64(to-from)))
}

// make prepares a fault of a kind, on somebody at random.
func (n *nemesis) make(kind string) *fault {
	f := &fault{kind: kind, begin: func() {}, end: func() {}}
	verb, stage, _ := strings.Cut(kind, "-")
	if list := n.c.of(stage, ""); len(list) > 0 && (verb == "kill" || verb == "stop") {
		m := list[n.rng.IntN(len(list))]
		if f.on, f.zone = []string{m.stage}, m.zone; m.zone != "" {
			f.on = []string{m.name}
		}
		if verb == "kill" {
			f.hold = n.between(200*time.Millisecond, 3*time.Second)
			f.begin, f.end = m.kill, func() { m.start(); m.ready(time.Minute) }
			return f
		}
		f.hold = n.between(3*time.Second, 6*time.Second)
		if n.rng.IntN(4) == 0 {
			f.hold = n.between(6*time.Second, 15*time.Second)
		}
		f.begin = func() { m.signal(syscall.SIGSTOP) }
		f.end = func() { m.signal(syscall.SIGCONT); m.ready(time.Minute) }
		return f
	}
	switch kind {
	case "kill-leader", "kill-controller":
		f.on, f.hard, f.hold = []string{"kafka"}, true, n.between(6*time.Second, 9*time.Second)
		node := 0
		f.begin = func() {
			if node = n.leader(); kind == "kill-controller" {
				node = n.controller()
			}
			n.c.t.Logf("broker %d is killed", node)
			n.kafka.Kill(node)
		}
		f.end = func() { n.kafka.Restart(node); n.replicated() }
	case "bucket-away":
		f.on, f.hard, f.hold = []string{"bucket"}, true, n.between(5*time.Second, 10*time.Second)
		f.begin, f.end = n.store.kill, n.store.start
	case "consumer-added":
		n.grown++
		f.zone = n.anyZone()
		m := n.c.prepare("consumer", f.zone, fmt.Sprintf("consumer-%s-added-%d", f.zone, n.grown), append(clusterFlags("consumer"), "--consumer.zone", f.zone)...)
		f.on, f.hold = []string{m.name}, n.between(3*time.Second, 6*time.Second)
		f.begin = func() { m.start(); m.ready(time.Minute) }
		f.end = func() {
			n.leave(m)
			m.stop()
		}
	case "partitions-added":
		f.on, f.hold = []string{"kafka"}, time.Second
		f.begin = n.morePartitions
	case "zone-down":
		f.zone = n.anyZone()
		f.hold = 15 * time.Second
		all := n.c.of("consumer", f.zone)
		for _, m := range all {
			f.on = append(f.on, m.name)
		}
		f.begin = func() {
			for _, m := range all {
				m.kill()
			}
		}
		f.end = func() {
			for _, m := range all {
				m.start()
			}
			for _, m := range all {
				m.ready(time.Minute)
			}
		}
	case "disk-lost":
		list := n.c.of("consumer", "")
		m := list[n.rng.IntN(len(list))]
		f.on, f.zone, f.hold = []string{m.name}, m.zone, time.Second
		f.begin = func() { m.kill(); m.wipe() }
		f.end = func() { m.start(); m.ready(time.Minute) }
	default:
		require.Fail(n.c.t, "no such fault", kind)
	}
	return f
}

// leave lets a consumer hand over what it holds, as one does before it is taken away for good.
func (n *nemesis) leave(m *member) {
	ctx, cancel := n.timeout()
	defer cancel()
	r, err := post(ctx, m.url("/-/leave"), "", "", nil)
	require.NoError(n.c.t, err)
	require.Less(n.c.t, r.status, 300, "%s does not leave: %s", m.name, r.body)
}

func (n *nemesis) anyZone() string { return []string{"a", "b"}[n.rng.IntN(2)] }

func (n *nemesis) timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 90*time.Second)
}

// node is the index of the broker with a host and port.
func (n *nemesis) node(brokers kadm.BrokerDetails, id int32) int {
	for _, b := range brokers {
		if b.NodeID == id {
			if i := slices.Index(n.kafka.Brokers(), fmt.Sprintf("%s:%d", b.Host, b.Port)); i >= 0 {
				return i
			}
		}
	}
	require.Fail(n.c.t, "unknown broker", "node %d of %v", id, brokers)
	return 0
}

// leader is the broker that leads a partition of samples.
func (n *nemesis) leader() int {
	ctx, cancel := n.timeout()
	defer cancel()
	meta, err := n.admin.Metadata(ctx, samplesTopic)
	require.NoError(n.c.t, err)
	parts := meta.Topics[samplesTopic].Partitions.Sorted()
	return n.node(meta.Brokers, parts[n.rng.IntN(len(parts))].Leader)
}

// controller is the broker that leads the quorum. (The controller of a metadata answer is any broker.)
func (n *nemesis) controller() int {
	ctx, cancel := n.timeout()
	defer cancel()
	req := kmsg.NewPtrDescribeQuorumRequest()
	rt := kmsg.NewDescribeQuorumRequestTopic()
	rt.Topic = "__cluster_metadata"
	rt.Partitions = append(rt.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, n.raw)
	require.NoError(n.c.t, err)
	require.Len(n.c.t, resp.Topics, 1)
	meta, err := n.admin.Metadata(ctx, samplesTopic)
	require.NoError(n.c.t, err)
	return n.node(meta.Brokers, resp.Topics[0].Partitions[0].LeaderID)
}

// replicated waits until every partition has all its replicas again: a second broker may then go.
func (n *nemesis) replicated() {
	eventually(n.c.t, "all replicas are in sync", 90*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		meta, err := n.admin.Metadata(ctx)
		if err != nil {
			return err
		}
		for _, t := range meta.Topics {
			for _, p := range t.Partitions {
				if len(p.ISR) < len(p.Replicas) || p.Leader < 0 {
					return fmt.Errorf("%s/%d: in sync %v of %v, leader %d", t.Topic, p.Partition, p.ISR, p.Replicas, p.Leader)
				}
			}
		}
		return nil
	})
}

func (n *nemesis) morePartitions() {
	ctx, cancel := n.timeout()
	defer cancel()
	meta, err := n.admin.Metadata(ctx, samplesTopic)
	require.NoError(n.c.t, err)
	have := len(meta.Topics[samplesTopic].Partitions)
	if have+2 > n.most {
		return
	}
	resp, err := n.admin.CreatePartitions(ctx, 2, samplesTopic)
	require.NoError(n.c.t, err)
	require.NoError(n.c.t, resp.Error())
}
