package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/bench/ledger"
)

// cluster is every stage of Sluice as processes of their own, on one log and one bucket.
type cluster struct {
	t      *testing.T
	dir    string
	shared []string // flags of every process, and of the tools: where log and bucket are

	members []*member
	write   *pool // the producers behind a load balancer
	read    *pool // the readers
}

// member is a process of a cluster.
type member struct {
	*instance
	stage, zone string
	backend     *backend // nil = no load balancer sends anything to it
}

func newCluster(t *testing.T, dir string, shared ...string) *cluster {
	c := &cluster{t: t, dir: dir, shared: shared, write: newPool(), read: newPool()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, p := range []*pool{c.write, c.read} {
		wg.Go(func() { p.run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return c
}

// prepare makes a process of a stage; start starts it. Its name is its identity in the cluster.
func (c *cluster) prepare(stage, zone, name string, args ...string) *member {
	s := &instance{t: c.t, dir: c.dir, data: filepath.Join(c.dir, name), addr: freeAddr(c.t), name: name}
	s.args = slices.Concat([]string{stage, "--data-dir", s.data, "--http.listen", s.addr, "--instance", name}, args, c.shared)
	return &member{instance: s, stage: stage, zone: zone}
}

// add prepares a process that belongs to the cluster from now on, and starts it.
func (c *cluster) add(stage, zone, name string, args ...string) *member {
	m := c.prepare(stage, zone, name, args...)
	switch stage {
	case "producer":
		m.backend = c.write.add("http://" + m.addr)
	case "reader":
		m.backend = c.read.add("http://" + m.addr)
	}
	c.members = append(c.members, m)
	m.start()
	return m
}

// clusterFlags put many seals, compactions and deletions into a short run.
func clusterFlags(stage string) []string {
	switch stage {
	case "producer":
		return []string{"--tenancy.required", "--producer.tick-interval", "1s", "--consumer.generation", "15s"}
	case "consumer":
		return []string{"--consumer.retain-shipped", "5s", "--consumer.session-timeout", "10s"}
	case "compactor":
		return []string{
			"--compactor.interval", "2s", "--compactor.settle", "2s", "--compactor.deletion-delay", "15s",
			"--compactor.orphan-delay", "30s", "--compactor.reconcile-interval", "10s",
		}
	}
	return []string{"--tenancy.required"}
}

// crowd is three tenants whose samples lie close together, so that a generation is few blocks: what is tested is the
// cluster, and it has the machine to itself.
func crowd(seed uint64) ledger.Spec {
	s := ledger.Spec{Seed: seed}
	for i := range 3 {
		s.Tenants = append(s.Tenants, ledger.Tenant{
			Name: fmt.Sprintf("team-%c", 'a'+i), Slots: 100, Start: time.Now().Add(-4 * time.Hour).UnixMilli(), Step: 2 * time.Second,
			Late: [2]int64{20, 300}, // up to ten minutes
		})
	}
	return s
}

// of returns the members of a stage; zone "" = of all zones.
func (c *cluster) of(stage, zone string) []*member {
	var out []*member
	for _, m := range c.members {
		if m.stage == stage && (zone == "" || m.zone == zone) {
			out = append(out, m)
		}
	}
	return out
}

// doubled starts two of every stage, the consumers two in each of two zones, and waits until all are ready.
func (c *cluster) doubled() {
	c.t.Helper()
	for i := range 2 {
		for _, stage := range []string{"producer", "compactor", "reader"} {
			c.add(stage, "", fmt.Sprintf("%s-%d", stage, i), clusterFlags(stage)...)
		}
		for _, zone := range []string{"a", "b"} {
			c.add("consumer", zone, fmt.Sprintf("consumer-%s-%d", zone, i), append(clusterFlags("consumer"), "--consumer.zone", zone)...)
		}
	}
	c.ready(2 * time.Minute)
	c.held()
}

// held waits until every reader has heard that each partition is held: consumers announce themselves after they are ready.
func (c *cluster) held() {
	c.t.Helper()
	for _, m := range c.of("reader", "") {
		eventually(c.t, m.name+" knows who holds what", time.Minute, func() error {
			_, err := instant(m.url("/prometheus"), "team-a", "count(up)", time.Now())
			return err
		})
	}
}

func (c *cluster) ready(within time.Duration) {
	c.t.Helper()
	for _, m := range c.members {
		m.ready(within)
	}
	for _, m := range c.members { // and the load balancers have found out
		if m.backend != nil {
			eventually(c.t, "the load balancer knows "+m.name, 10*time.Second, func() error {
				if up, _, _ := m.backend.state(); up == nil {
					return errors.New("not up")
				}
				return nil
			})
		}
	}
}

// alive demands that nobody has died by itself.
func (c *cluster) alive(after string) {
	c.t.Helper()
	for _, m := range c.members {
		require.True(c.t, m.running(), "%s died by itself, after %s: %v", m.name, after, m.err)
	}
}

func (m *member) start() {
	if m.backend != nil {
		m.backend.reborn()
	}
	m.instance.start()
}

// wipe removes what a stopped process has on disk.
func (m *member) wipe() { require.NoError(m.t, os.RemoveAll(m.data)) }

// sealSome ends the live generations by one of the producers, if that is there to hear it.
func (c *cluster) sealSome(ctx context.Context) error {
	b, _ := c.write.pick(nil)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := post(ctx, b.url+"/-/seal", "", "", nil)
	if err == nil && r.status/100 != 2 {
		err = fmt.Errorf("status %d: %s", r.status, r.body)
	}
	return err
}

// pool is a load balancer: it asks /ready and sends to those that answer, in turn. A request that gets no answer goes to
// the next one, as writes and reads may be repeated; a request to one that hangs is cut off when its checks fail.
type pool struct {
	transport *http.Transport

	mu       sync.Mutex // guards the rest
	backends []*backend
	turn     int
	again    int // requests sent once more to another one
}

// backend is one process behind a pool.
type backend struct {
	url string

	mu    sync.Mutex // guards the rest
	up    context.Context
	fail  context.CancelFunc // of up
	life  int                // which life of the process this is
	floor *ledger.Floor      // what it has returned in this life
}

func newPool() *pool {
	return &pool{transport: &http.Transport{MaxIdleConnsPerHost: 64, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext}}
}

func (p *pool) add(url string) *backend {
	b := &backend{url: url, floor: &ledger.Floor{}}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.backends = append(p.backends, b)
	return b
}

// checkEvery and checkTimeout are those of the health checks.
const (
	checkEvery   = 100 * time.Millisecond
	checkTimeout = 2 * time.Second
)

func (p *pool) run(ctx context.Context) {
	defer p.transport.CloseIdleConnections()
	checked := map[*backend]bool{}
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		p.mu.Lock()
		all := slices.Clone(p.backends)
		p.mu.Unlock()
		for _, b := range all {
			if !checked[b] {
				checked[b] = true
				wg.Go(func() { b.check(ctx) })
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *backend) check(ctx context.Context) {
	client := &http.Client{Timeout: checkTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	for ctx.Err() == nil {
		_, life, _ := b.state()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/ready", nil)
		if err != nil {
			return
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		b.mu.Lock()
		switch ok := err == nil && resp.StatusCode == http.StatusOK; {
		case life != b.life: // that was said by another one
		case ok && b.up == nil:
			b.up, b.fail = context.WithCancel(ctx)
		case !ok && b.up != nil:
			if !errors.Is(err, syscall.ECONNREFUSED) && err != nil { // it hangs; one that refuses may be finishing what it has
				b.fail()
			}
			b.up, b.fail = nil, nil
		}
		b.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(checkEvery):
		}
	}
}

// reborn is told before a process is started again: a load balancer that was refused once waits for /ready.
func (b *backend) reborn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.life, b.floor, b.up = b.life+1, &ledger.Floor{}, nil
}

// state returns a context that ends when the process hangs (nil while it is not up), its life, and what it has returned in it.
func (b *backend) state() (context.Context, int, *ledger.Floor) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.up, b.life, b.floor
}

// pick returns the next one that is up and was not tried; when there is none, any that was not tried; nil after that.
func (p *pool) pick(tried []*backend) (*backend, context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn++
	if len(tried) > 0 {
		p.again++
	}
	var last *backend
	for i := range p.backends {
		b := p.backends[(p.turn+i)%len(p.backends)]
		if slices.Contains(tried, b) {
			continue
		}
		if up, _, _ := b.state(); up != nil {
			return b, up
		}
		last = b
	}
	return last, context.Background()
}

// RoundTrip implements http.RoundTripper: the host of the request does not matter.
func (p *pool) RoundTrip(req *http.Request) (*http.Response, error) {
	var tried []*backend
	var last error
	for {
		b, up := p.pick(tried)
		if b == nil {
			return nil, fmt.Errorf("nobody answers: %w", last)
		}
		tried = append(tried, b)
		ctx, cancel := context.WithCancel(req.Context())
		context.AfterFunc(up, cancel)
		r := req.Clone(ctx)
		body, err := req.GetBody()
		if err != nil {
			cancel()
			return nil, err
		}
		r.Body = body
		r.URL.Host = b.url[len("http://"):]
		resp, err := p.transport.RoundTrip(r)
		if err == nil {
			resp.Body = &cancelled{resp.Body, cancel}
			return resp, nil
		}
		cancel()
		if last = err; req.Context().Err() != nil {
			return nil, err
		}
	}
}

// cancelled is a body whose end ends the request's context.
type cancelled struct {
	body   io.ReadCloser
	cancel context.CancelFunc
}

func (c *cancelled) Read(p []byte) (int, error) { return c.body.Read(p) }

func (c *cancelled) Close() error {
	defer c.cancel()
	return c.body.Close()
}
