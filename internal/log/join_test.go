package log_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/internal/kafkatest"
	"sluice/internal/log"
)

const joinPartitions = 12

// patient is the session time-out of a member that must not be taken for dead however busy the machine is, short that of
// one that shall be.
const (
	patient = 20 * time.Second
	short   = 2 * time.Second
)

func TestJoin(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "1000"}))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	testJoin(t, cluster.ListenAddrs(), true)
}

func TestRealJoin(t *testing.T) {
	for _, version := range []string{"3.9", "4"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			testJoin(t, realKafka(t, kafkatest.Config{Version: version}).Brokers(), false)
		})
	}
}

func testJoin(t *testing.T, brokers []string, fake bool) {
	l, err := log.NewKafka(log.KafkaConfig{Brokers: brokers, Partitions: joinPartitions}, quiet(), nil)
	require.NoError(t, err)
	require.NoError(t, l.EnsureTopics(t.Context()))
	require.NoError(t, l.Close())
	t.Run("Group", func(t *testing.T) { // returns when all of them have
		for name, test := range map[string]func(*testing.T, *joinGroup){
			"OnlyWhatMustMoves": testJoinMoves, "Restart": testJoinRestart, "Death": testJoinDeath, "Leave": testJoinLeave,
			"Pause": testJoinPause, "SameName": testJoinSameName,
		} {
			if name == "Leave" && fake { // kfake waits for a static member that has left until its session ends
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, &joinGroup{brokers: brokers, name: t.Name()})
			})
		}
	})
	t.Run("MorePartitions", func(t *testing.T) { testJoinMorePartitions(t, &joinGroup{brokers: brokers, name: t.Name()}) })
}

// joinGroup is a group of members, each with a log of its own, as if each were a process.
type joinGroup struct {
	brokers []string
	name    string
}

type joinMember struct {
	brokers    []string
	log        *log.Kafka
	membership log.Membership
	gate       *gate
	cancel     context.CancelFunc
	done       chan struct{}
	err        error // once done is closed

	mu    sync.Mutex // guards the rest
	calls [][]int32
}

func (g *joinGroup) join(t *testing.T, instance string, session time.Duration) *joinMember {
	t.Helper()
	m := &joinMember{brokers: g.brokers, gate: &gate{}, done: make(chan struct{}), membership: log.Membership{Group: g.name, Instance: instance, SessionTimeout: session}}
	var err error
	m.log, err = log.NewKafka(log.KafkaConfig{Brokers: g.brokers, Options: []kgo.Opt{kgo.Dialer(m.gate.dial)}}, quiet(), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() {
		defer close(m.done)
		m.err = m.log.Join(ctx, m.membership, log.TopicSamples, func(partitions []int32) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.calls = append(m.calls, partitions)
		})
	}()
	t.Cleanup(func() {
		m.stop()
		_ = m.log.Close()
	})
	return m
}

// stop ends the membership, without leaving.
func (m *joinMember) stop() {
	m.cancel()
	<-m.done
}

// history returns every call, the last one last.
func (m *joinMember) history() [][]int32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

func (m *joinMember) has() []int32 {
	if h := m.history(); len(h) > 0 {
		return h[len(h)-1]
	}
	return nil
}

// settled waits until the members have all partitions among them, each has one owner, and they are shared out evenly.
func settled(t *testing.T, partitions int, members ...*joinMember) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(members[0].brokers...))
	require.NoError(t, err)
	defer client.Close()
	eventually(t, time.Minute, "the partitions are shared out", func(ctx context.Context) error {
		var all []int32
		for _, m := range members {
			has := m.has()
			if len(has) < partitions/len(members) || len(has) > (partitions+len(members)-1)/len(members) {
				return fmt.Errorf("%s has %v", m.membership.Instance, has)
			}
			all = append(all, has...)
		}
		slices.Sort(all)
		if len(all) != partitions || len(slices.Compact(all)) != partitions {
			return fmt.Errorf("together they have %v", all)
		}
		groups, err := kadm.NewClient(client).DescribeGroups(ctx, members[0].membership.Group)
		if err == nil {
			err = groups.Error()
		}
		if state := groups[members[0].membership.Group].State; err == nil && state != "Stable" {
			err = fmt.Errorf("the group is %s", state)
		}
		return err
	})
}

// testJoinMoves: a third member gets what is its, and the others keep the rest without a break.
func testJoinMoves(t *testing.T, g *joinGroup) {
	a := g.join(t, "a", patient)
	settled(t, joinPartitions, a)
	b := g.join(t, "b", patient)
	settled(t, joinPartitions, a, b)
	calls := map[*joinMember]int{a: len(a.history()), b: len(b.history())}
	c := g.join(t, "c", patient)
	settled(t, joinPartitions, a, b, c)
	for m, n := range calls {
		kept := m.has()
		require.Len(t, kept, joinPartitions/3)
		for _, has := range m.history()[n-1:] {
			for _, p := range kept {
				require.Contains(t, has, p, "%s had %v and then %v", m.membership.Instance, m.history()[n-1], has)
			}
		}
	}
}

// testJoinRestart: whoever comes back under its name gets what it had, and nobody else notices.
func testJoinRestart(t *testing.T, g *joinGroup) {
	a, b, c := g.join(t, "a", patient), g.join(t, "b", patient), g.join(t, "c", patient)
	settled(t, joinPartitions, a, b, c)
	for _, m := range []*joinMember{a, b, c} { // one of them is the group's leader
		calls := map[*joinMember]int{a: len(a.history()), b: len(b.history()), c: len(c.history())}
		had := m.has()
		m.stop()
		require.ErrorIs(t, m.err, context.Canceled)
		require.Equal(t, had, m.has(), "the end of a membership is no change")
		again := g.join(t, m.membership.Instance, patient)
		eventually(t, time.Minute, "it is told what it has", func(context.Context) error {
			if len(again.history()) == 0 {
				return fmt.Errorf("it is told nothing")
			}
			return nil
		})
		require.Equal(t, [][]int32{had}, again.history())
		for other, n := range calls {
			require.Len(t, other.history(), n, other.membership.Instance)
		}
		switch m {
		case a:
			a = again
		case b:
			b = again
		case c:
			c = again
		}
	}
}

// testJoinDeath: what a member had goes to the others when its session has ended.
func testJoinDeath(t *testing.T, g *joinGroup) {
	a, b, c := g.join(t, "a", patient), g.join(t, "b", patient), g.join(t, "c", short)
	settled(t, joinPartitions, a, b, c)
	c.stop()
	settled(t, joinPartitions, a, b)
	c = g.join(t, "c", short)
	settled(t, joinPartitions, a, b, c)
}

// testJoinLeave: a member that leaves does not leave its partitions waiting for the end of its session.
func testJoinLeave(t *testing.T, g *joinGroup) {
	a, b := g.join(t, "a", patient), g.join(t, "b", time.Hour/4)
	settled(t, joinPartitions, a, b)
	b.stop()
	require.NoError(t, b.log.Leave(t.Context(), b.membership))
	require.NoError(t, b.log.Leave(t.Context(), b.membership), "again")
	settled(t, joinPartitions, a)
}

// testJoinPause: a member that was stopped for longer than its session keeps what it had until it runs again, and learns
// then what is left for it.
func testJoinPause(t *testing.T, g *joinGroup) {
	a, b := g.join(t, "a", patient), g.join(t, "b", short)
	settled(t, joinPartitions, a, b)
	had := b.has()
	b.gate.close()
	settled(t, joinPartitions, a)
	require.Equal(t, had, b.has())
	b.gate.open()
	settled(t, joinPartitions, a, b)
	for _, has := range b.history() {
		require.True(t, slices.IsSorted(has))
	}
	select {
	case <-b.done:
		require.NoError(t, b.err)
	default:
	}
}

// testJoinSameName: of two processes with one name the older one is told so.
func testJoinSameName(t *testing.T, g *joinGroup) {
	a := g.join(t, "a", patient)
	settled(t, joinPartitions, a)
	had := a.has()
	again := g.join(t, "a", patient)
	<-a.done
	require.ErrorIs(t, a.err, log.ErrReplaced)
	require.Equal(t, had, a.has())
	settled(t, joinPartitions, again)
}

// testJoinMorePartitions: partitions that are added get an owner, and the others keep theirs.
func testJoinMorePartitions(t *testing.T, g *joinGroup) {
	a, b := g.join(t, "a", patient), g.join(t, "b", patient)
	settled(t, joinPartitions, a, b)
	had := map[*joinMember][]int32{a: a.has(), b: b.has()}
	client, err := kgo.NewClient(kgo.SeedBrokers(g.brokers...))
	require.NoError(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).UpdatePartitions(t.Context(), joinPartitions+4, log.TopicSamples)
	require.NoError(t, err)
	begin := time.Now()
	settled(t, joinPartitions+4, a, b)
	t.Logf("new partitions were shared out after %s", time.Since(begin).Round(time.Millisecond))
	for m, kept := range had {
		for _, p := range kept {
			require.Contains(t, m.has(), p)
		}
	}
}

// gate is a way to the brokers that can be closed, as if the process were stopped (SIGSTOP): connections stay, and nothing
// comes through.
type gate struct{ mu sync.RWMutex }

func (g *gate) close() { g.mu.Lock() }
func (g *gate) open()  { g.mu.Unlock() }

func (g *gate) pass() {
	g.mu.RLock()
	defer g.mu.RUnlock()
}

func (g *gate) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	g.pass()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &gatedConn{Conn: conn, gate: g}, nil
}

type gatedConn struct {
	net.Conn
	gate *gate
}

func (c *gatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.gate.pass()
	return n, err
}

func (c *gatedConn) Write(b []byte) (int, error) {
	c.gate.pass()
	return c.Conn.Write(b)
}
