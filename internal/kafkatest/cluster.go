package kafkatest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

// The users of a cluster with SASL. Admin may do everything; without ACLs so may the others.
const (
	AdminUser, AdminPassword   = "admin", "admin-secret"
	SluiceUser, SluicePassword = "sluice", "sluice-secret"
)

// startTimeout bounds how long a broker may take to answer: a loaded machine takes ten times as long as an idle one.
const startTimeout = 90 * time.Second

// Config says what a cluster is like.
type Config struct {
	// Version is "3.9" or "4"; empty = "4".
	Version string
	// Nodes is 1 or 3, each a broker and a controller; 0 = 1. Topics that name no replication factor get one replica on
	// each, and with three nodes need two in sync.
	Nodes int
	// Dir holds data and logs; empty = t.TempDir.
	Dir string
	// TLS: clients speak TLS, see TLSConfig, CAFile and ClientCert.
	TLS bool
	// SASL: clients authenticate as one of the users above, by PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
	SASL bool
	// ACL: who is not AdminUser may do nothing that no ACL allows. Needs SASL.
	ACL bool
	// Properties are added to server.properties of every node.
	Properties map[string]string
}

// Cluster is a running cluster. Its methods may be called from many goroutines; what fails fails the test.
type Cluster struct {
	t     testing.TB
	cfg   Config
	dir   string
	java  string
	id    string
	ca    *authority // nil without TLS
	nodes []*node
}

// Start returns a cluster that is ready, or skips the test (fails it where SLUICE_REQUIRE_ALL=1) if Java or the jars are
// missing. The cluster is gone at the end of the test.
func Start(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	if cfg.Version == "" {
		cfg.Version = "4"
	}
	if cfg.Nodes == 0 {
		cfg.Nodes = 1
	}
	if cfg.ACL && !cfg.SASL {
		t.Fatal("kafkatest: ACLs without SASL: everybody would be the same user")
	}
	c := &Cluster{t: t, cfg: cfg, dir: cfg.Dir}
	if c.dir == "" {
		c.dir = t.TempDir()
	}
	jars, java := require(t, cfg.Version)
	c.java = java
	begin := time.Now()
	var id [16]byte
	_, _ = rand.Read(id[:])
	id[0] &= 0x7f // the text must not begin with a dash, as kafka-storage takes that for an option
	c.id = base64.RawURLEncoding.EncodeToString(id[:])
	if cfg.TLS {
		var err error
		if c.ca, err = newAuthority(c.dir); err != nil {
			t.Fatalf("kafkatest: make certificates: %v", err)
		}
	}
	ports := FreePorts(t, 3*cfg.Nodes)
	for i := range cfg.Nodes {
		c.nodes = append(c.nodes, &node{
			index: i, dir: filepath.Join(c.dir, fmt.Sprintf("node-%d", i)), jars: jars, java: java,
			client: ports[3*i], internal: ports[3*i+1], controller: ports[3*i+2],
		})
	}
	t.Cleanup(c.stop)
	if err := c.each(func(n *node) error { return n.format(c) }); err != nil {
		t.Fatalf("kafkatest: %v", err)
	}
	if err := c.each(func(n *node) error { return n.start() }); err != nil {
		t.Fatalf("kafkatest: %v", err)
	}
	if err := c.each(func(n *node) error { return c.ready(n, cfg.Nodes) }); err != nil {
		t.Fatalf("kafkatest: %v", err)
	}
	t.Logf("Kafka %s, %d node(s), ready after %s", cfg.Version, cfg.Nodes, time.Since(begin).Round(time.Millisecond))
	return c
}

func (c *Cluster) each(do func(*node) error) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() { errs[i] = do(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ready waits until a node answers, and knows of that many brokers, itself among them.
func (c *Cluster) ready(n *node, brokers int) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	// A socket first: it costs nothing to ask for, and the client waits longer from failure to failure.
	var err error
	for {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", n.addr(), time.Second); err == nil {
			conn.Close()
			break
		}
		if err := n.wait(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("broker %d does not listen: %w", n.index, err)
		}
	}
	client, err := kgo.NewClient(append(c.options(AdminUser, AdminPassword), kgo.SeedBrokers(n.addr()))...)
	if err != nil {
		return fmt.Errorf("create client for broker %d: %w", n.index, err)
	}
	defer client.Close()
	for {
		var seen int
		if seen, err = countBrokers(ctx, client, n.index); err == nil && seen >= brokers {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it knows of %d brokers", seen)
		}
		if werr := n.wait(ctx, 20*time.Millisecond); werr != nil {
			return fmt.Errorf("broker %d is not ready (%w): %w", n.index, err, werr)
		}
	}
}

// countBrokers asks a broker how many there are. It is an error if it does not count itself.
func countBrokers(ctx context.Context, client *kgo.Client, index int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // none
	kresp, err := client.SeedBrokers()[0].Request(ctx, req)
	if err != nil {
		return 0, err
	}
	resp := kresp.(*kmsg.MetadataResponse)
	for _, b := range resp.Brokers {
		if int(b.NodeID) == index+1 {
			return len(resp.Brokers), nil
		}
	}
	return 0, errors.New("it is fenced")
}

// options are what a client of this cluster needs beside the brokers' addresses.
func (c *Cluster) options(user, password string) []kgo.Opt {
	opts := []kgo.Opt{kgo.ClientID("kafkatest"), kgo.MetadataMinAge(100 * time.Millisecond)}
	if c.cfg.TLS {
		opts = append(opts, kgo.DialTLSConfig(c.TLSConfig()))
	}
	if c.cfg.SASL {
		opts = append(opts, kgo.SASL(plain.Auth{User: user, Pass: password}.AsMechanism()))
	}
	return opts
}

// Brokers returns the addresses for clients, host:port, one per node.
func (c *Cluster) Brokers() []string {
	out := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		out[i] = n.addr()
	}
	return out
}

// Kill ends a node with SIGKILL and waits for its end. Nodes count from 0; its ID in Kafka is one more.
func (c *Cluster) Kill(node int) {
	c.t.Helper()
	c.nodes[node].kill()
}

// Restart starts a node that was killed on the data that it has. It waits until the node answers, provided that a
// majority of the nodes runs: without one none does.
func (c *Cluster) Restart(node int) {
	c.t.Helper()
	n := c.nodes[node]
	if err := n.start(); err != nil {
		c.t.Errorf("kafkatest: %v", err)
		return
	}
	running := 0
	for _, n := range c.nodes {
		if n.running() {
			running++
		}
	}
	if running <= len(c.nodes)/2 {
		return
	}
	if err := c.ready(n, 1); err != nil {
		c.t.Errorf("kafkatest: %v", err)
	}
}

// Pause stops a node where it is (SIGSTOP): its connections stay open and say nothing.
func (c *Cluster) Pause(node int) { c.nodes[node].pause() }

// Resume lets a paused node go on.
func (c *Cluster) Resume(node int) { c.nodes[node].resume() }

// TLSConfig trusts the cluster's authority; nil without TLS.
func (c *Cluster) TLSConfig() *tls.Config {
	if c.ca == nil {
		return nil
	}
	return &tls.Config{RootCAs: c.ca.pool(), MinVersion: tls.VersionTLS12}
}

// CAFile is the name of a PEM file with the certificate of the cluster's authority; empty without TLS.
func (c *Cluster) CAFile() string {
	if c.ca == nil {
		return ""
	}
	return c.ca.file
}

// Admin returns a client of AdminUser, closed at the end of the test.
func (c *Cluster) Admin(t testing.TB) *kadm.Client {
	t.Helper()
	client, err := kgo.NewClient(append(c.options(AdminUser, AdminPassword), kgo.SeedBrokers(c.Brokers()...))...)
	if err != nil {
		t.Fatalf("kafkatest: create client: %v", err)
	}
	t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// stop kills every node, and shows the end of what each said if the test has failed.
func (c *Cluster) stop() {
	for _, n := range c.nodes {
		n.kill()
		if c.t.Failed() {
			c.t.Logf("end of the log of broker %d:\n%s", n.index, n.tail())
		}
	}
}
