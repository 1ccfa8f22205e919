package loopback

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
)

// Cluster is an installation on loopback.
type Cluster struct {
	cfg    Config
	out    io.Writer
	outMu  sync.Mutex // guards out
	stages []*child
	infra  []*child // what the stages stand on: started before them, stopped after them
}

// New prepares an installation; what it has to say goes to out.
func New(cfg Config, out io.Writer) (*Cluster, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, out: out}
	child := func(p Program) *child { return &child{Program: p, log: cfg.path("logs", p.Name+".log"), say: c.say} }
	if cfg.Brokers == "" {
		c.infra = append(c.infra, child(cfg.kafka()))
	}
	if cfg.S3 != "" {
		c.infra = append(c.infra, child(cfg.s3()))
	}
	for _, p := range cfg.Stages() {
		c.stages = append(c.stages, child(p))
	}
	return c, nil
}

func (c *Cluster) say(format string, args ...any) {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	fmt.Fprintf(c.out, format+"\n", args...)
}

// Run starts everything, prints where it is once all is ready, and keeps it alive until ctx ends. Then it stops the
// stages, and what they stand on after them. ready, if not nil, is called once.
func (c *Cluster) Run(ctx context.Context, ready func()) error {
	if err := c.portsFree(); err != nil {
		return err
	}
	if err := c.cfg.writeFiles(); err != nil {
		return err
	}
	if c.cfg.Brokers == "" {
		if err := c.cfg.formatKafka(ctx); err != nil {
			return err
		}
	}
	below, stopBelow := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBelow()
	infra, below := errgroup.WithContext(below)
	for _, p := range c.infra {
		c.say("starting %s", p.Name)
		infra.Go(func() error { return p.run(below) })
	}
	// Whatever ends first takes the rest with it: the stages are told first, then what is below them.
	up, stopUp := context.WithCancelCause(ctx)
	defer stopUp(nil)
	defer context.AfterFunc(below, func() { stopUp(errors.New("what the stages stand on has ended")) })()
	err := c.runStages(up, ready)
	stopBelow()
	if err = errors.Join(infra.Wait(), err); ctx.Err() != nil {
		return ctx.Err() // told to stop: what was cut short by that is no news
	}
	return err
}

func (c *Cluster) runStages(ctx context.Context, ready func()) error {
	if err := c.cfg.waitKafka(ctx); err != nil {
		return err
	}
	c.say("Kafka serves at %s; starting %d stages", c.cfg.brokers(), len(c.stages))
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range c.stages {
		g.Go(func() error { return p.run(ctx) })
	}
	g.Go(func() error {
		for _, p := range c.stages {
			if err := waitReady(ctx, p); err != nil {
				return nil // only because ctx has ended: whoever ended it says why
			}
			p.settled.Store(true)
		}
		for _, p := range c.infra {
			p.settled.Store(true)
		}
		c.printWhere()
		if ready != nil {
			ready()
		}
		return nil
	})
	return g.Wait()
}

// portsFree refuses to start over something that serves already: it would be taken for ours.
func (c *Cluster) portsFree() error {
	for _, p := range slices.Concat(c.infra, c.stages) {
		ln, err := net.Listen("tcp", p.Addr)
		if err != nil {
			return fmt.Errorf("the port of %s: %w (choose others with --first-port)", p.Name, err)
		}
		if err := ln.Close(); err != nil {
			return fmt.Errorf("give back the port of %s: %w", p.Name, err)
		}
	}
	return nil
}

// waitReady returns once /ready of the program says so, or with ctx' error.
func waitReady(ctx context.Context, p *child) error {
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Addr+"/ready", nil)
		if err != nil {
			return fmt.Errorf("ask %s: %w", p.Name, err)
		}
		if resp, err := client.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// printWhere says what runs where and what one can do with it.
func (c *Cluster) printWhere() {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	fmt.Fprintln(c.out)
	tw := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, p := range slices.Concat(c.infra, c.stages) {
		url := "http://" + p.Addr
		if p.Name == "kafka" {
			url = p.Addr
		}
		fmt.Fprintf(tw, "%s\t%s\tpid %d\t%s\n", p.Name, url, p.pid.Load(), p.log)
	}
	tw.Flush() // as good as the writer is; there is nothing to do about it
	writers, readers := c.cfg.addr(producerPorts), c.cfg.addr(readerPorts)
	fmt.Fprintf(c.out, `
Everything is ready. Kill what you like (kill -9 PID): it comes back, and nothing is lost.

    Prometheus:  prometheus --config.file=%[1]s --storage.tsdb.path=%[2]s
                 remote_write to http://%[3]s/api/v1/push
    Grafana:     a Prometheus data source with the URL http://%[4]s/prometheus
    curl:        curl 'http://%[4]s/prometheus/api/v1/query?query=up'
    delay:       %[5]s bench delay --write.url http://%[3]s/api/v1/push --read.url http://%[4]s/prometheus
    log:         %[5]s log status --kafka.brokers %[6]s
    check:       %[5]s check --kafka.brokers %[6]s --objstore.config-file %[7]s

Ctrl-C stops everything; the data stays in %[8]s, and the next start goes on with it.
`, c.cfg.path("prometheus.yml"), c.cfg.path("prometheus"), writers, readers, c.cfg.Sluice, c.cfg.brokers(), c.cfg.path("objstore.yaml"),
		strings.TrimSuffix(c.cfg.Dir, "/"))
}
