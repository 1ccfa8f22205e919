// Package consumer turns the log into blocks. In come the records of the partitions of the samples topic that are
// assigned to this process, of all of them where there is but one; out go, per
// tenant and generation, TSDB blocks in the bucket, their announcement in the topic of blocks, and the committed offset; in between
// it answers queries for what readers do not have blocks of yet. It never accepts a sample from anywhere but the log,
// and it keeps no local state that must survive: its scratch folder may be deleted whenever it is stopped.
package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/thanos-io/objstore"
	"golang.org/x/sync/errgroup"

	"sluice/internal/catalog"
	"sluice/internal/limits"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/internal/usage"
	"sluice/schema"
)

// Config of the consumer.
type Config struct {
	InstanceID string // name in the group and in the control topic, stable over restarts
	Advertise  string // host:port under which readers reach this process
	Scratch    string // folder for heads and sealed blocks; what a restart can still use is used, the rest removed

	// Zone is the failure domain: the consumers of each zone hold every partition between them. "" = there is but one.
	Zone string
	// Ordinal and Count, when Count > 0, assign partitions by number instead of by the group: those whose remainder by
	// Count is Ordinal.
	Ordinal, Count int
	// SessionTimeout is how long a silent member of the group keeps its partitions; default 45 s.
	SessionTimeout time.Duration

	RetainShipped    time.Duration // how long shipped generations are served on, for readers that are behind; default 30 s
	AnnounceInterval time.Duration // how often coverage is announced; default 2 s
	ShipStagger      time.Duration // how long each of several holders of a generation is given to ship it before the next tries; default 15 s
}

var zoneName = regexp.MustCompile(`^[A-Za-z0-9._-]{0,64}$`)

// Validate fills in the defaults and refuses what cannot work.
func (c *Config) Validate() error {
	if c.InstanceID == "" || c.Scratch == "" {
		return errors.New("consumer: instance ID and scratch folder must be set")
	}
	if !zoneName.MatchString(c.Zone) {
		return fmt.Errorf("consumer: zone %q, want at most 64 letters, digits, dots, dashes and underscores", c.Zone)
	}
	if c.Count < 0 || c.Count > 0 && (c.Ordinal < 0 || c.Ordinal >= c.Count) {
		return fmt.Errorf("consumer: ordinal %d of %d consumers", c.Ordinal, c.Count)
	}
	c.SessionTimeout = cmp.Or(c.SessionTimeout, 45*time.Second)
	c.RetainShipped = cmp.Or(c.RetainShipped, 30*time.Second)
	c.AnnounceInterval = cmp.Or(c.AnnounceInterval, 2*time.Second)
	c.ShipStagger = cmp.Or(c.ShipStagger, 15*time.Second)
	return nil
}

// Peers is what the consumer wants of internal/members: who else holds what.
type Peers interface {
	Members() []members.Member
}

// Consumer consumes the partitions that are assigned to it.
type Consumer struct {
	cfg     Config
	log     log.Log
	cat     *catalog.Catalog
	peers   Peers
	logger  *slog.Logger
	build   func(id int32) *partition
	meter   *usageMeter
	metrics *metrics

	mu        sync.RWMutex
	holdings  map[int32]*holding // guarded by mu
	assigned  bool               // guarded by mu; it is known what is ours
	announced []int32            // guarded by mu; the partitions that readers have been told of

	leaving context.Context // ends when everything is to go to others
	leave   context.CancelFunc
}

// New makes a consumer; Run starts it.
func New(cfg Config, l log.Log, cat *catalog.Catalog, peers Peers, bkt objstore.Bucket, lim *limits.Limits, logger *slog.Logger, reg prometheus.Registerer) (*Consumer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m := newMetrics(reg)
	leaving, leave := context.WithCancel(context.Background())
	sealing := make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	c := &Consumer{cfg: cfg, log: l, cat: cat, peers: peers, logger: logger, holdings: map[int32]*holding{}, leaving: leaving, leave: leave, meter: newUsageMeter(m), metrics: m}
	c.build = func(id int32) *partition {
		p := &partition{
			id: id, cfg: &c.cfg, log: l, catalog: cat, peers: peers, bucket: bkt,
			logger: logger.With("partition", id), metrics: m.partition(id), sealing: sealing,
			metadataLimit: func(t schema.Tenant) int { return cmp.Or(lim.For(t).MaxGlobalMetadataPerUser, maxMetadata) },
			dir:           partitionDir(cfg.Scratch, id), side: newSide(), usage: usage.NewTracker(),
			advanced: make(chan struct{}), unmeter: func() { m.forget(id) },
		}
		p.hand = p.freeze
		return p
	}
	return c, nil
}

// Run consumes until ctx ends. A partition that cannot go on stops alone: /ready says so, the others work on.
func (c *Consumer) Run(ctx context.Context) error {
	// The catalogue must be whole before the first offset is chosen.
	if err := c.cat.Sync(ctx); err != nil {
		return fmt.Errorf("read catalogue: %w", err)
	}
	var g errgroup.Group
	g.Go(func() error { c.assignLoop(ctx); return nil })
	g.Go(func() error { c.handOverLoop(ctx); return nil })
	g.Go(func() error { c.announceLoop(ctx); return nil })
	g.Go(func() error { c.usageLoop(ctx); return nil })
	g.Go(func() error { c.lagLoop(ctx); return nil })
	err := g.Wait()
	c.releaseAll()
	return errors.Join(err, ctx.Err())
}

// announceLoop tells readers what this consumer holds: at every interval, and at once when a partition has become ready or
// is so no more. At the end it takes everything back.
func (c *Consumer) announceLoop(ctx context.Context) {
	look := time.NewTicker(min(c.cfg.AnnounceInterval, 50*time.Millisecond))
	defer look.Stop()
	var last time.Time
	announced := []int32{-1}
	for {
		held := c.Coverage()
		var ids []int32
		for _, cov := range held {
			ids = append(ids, cov.Partition)
		}
		if !slices.Equal(ids, announced) || time.Since(last) >= c.cfg.AnnounceInterval {
			m := members.Member{
				ID: c.cfg.InstanceID, Addr: c.cfg.Advertise, Kind: members.KindConsumer, Zone: c.cfg.Zone, Partitions: held,
			}
			if err := members.Announce(ctx, c.log, m); err == nil {
				c.mu.Lock()
				c.announced = ids
				c.mu.Unlock()
			} else if ctx.Err() == nil {
				c.logger.Warn("announcing coverage", "err", err)
			}
			announced, last = ids, time.Now()
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			withdraw, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if err := members.Withdraw(withdraw, c.log, c.cfg.InstanceID); err != nil {
				c.logger.Debug("withdrawing from the control topic", "err", err)
			}
			return
		}
	}
}

// Coverage says which partitions can be asked now, and for which offsets, sorted by partition.
func (c *Consumer) Coverage() []members.Coverage {
	var out []members.Coverage
	for _, p := range c.open() {
		if cov, ok := p.coverage(); ok {
			out = append(out, cov)
		}
	}
	return out
}

// Ready is nil when it is known which partitions are ours, every one of them is applied up to where the log was when it
// was opened, readers have been told, and none has stopped since.
func (c *Consumer) Ready() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.assigned {
		return errors.New("consumer: no partitions assigned yet")
	}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(c.holdings)) {
		h := c.holdings[id]
		if h.leaving {
			continue
		}
		err := h.partition.ready()
		if err == nil && !slices.Contains(c.announced, id) {
			err = fmt.Errorf("partition %d: not announced yet", id)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Notes tells what an operator should know although the consumer is ready: what was lost.
func (c *Consumer) Notes() []string {
	var notes []string
	for _, p := range c.open() {
		p.mu.RLock()
		notes = append(notes, p.notes...)
		p.mu.RUnlock()
	}
	return notes
}

// open returns the partitions that are held here, by number.
func (c *Consumer) open() []*partition {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := make([]*partition, 0, len(c.holdings))
	for _, id := range slices.Sorted(maps.Keys(c.holdings)) {
		all = append(all, c.holdings[id].partition)
	}
	return all
}
