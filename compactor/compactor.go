// Package compactor keeps the bucket small and tidy. In go the blocks that the catalogue has; out come fewer, larger
// blocks with the same samples, and deletions of what was replaced or has outlived its tenant's retention. It never
// changes a block, never deletes one that queries still need, and never stops for a bad one: that is set aside, told, and
// left where it is.
//
// Compactors share the work through leases in the log. All that they do can be done twice, late, or by two at once: the
// ID of a merged block follows from its inputs, one event swaps it for them, and every deletion is a tombstone first and
// files later. share.go says why, step by step.
package compactor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/thanos-io/objstore"

	"sluice/internal/catalog"
	"sluice/internal/failpoint"
	"sluice/internal/lease"
	"sluice/internal/log"
	"sluice/internal/plan"
	"sluice/internal/processes"
	"sluice/schema"
)

// Config of a Compactor. The zero value of a field is its default; Scratch has none.
type Config struct {
	// Instance names this process to the others. Default "compactor".
	Instance string
	// Scratch is a local directory for the blocks being merged: up to twice MaxJobBytes times Concurrency. What a former
	// process left there is removed.
	Scratch string
	// Interval between two passes over all tenants; each shard of them is tidied once in it by whichever compactor comes
	// first. Default 1 m.
	Interval time.Duration
	// Ranges are the lengths of blocks that are aimed at, ascending, each a multiple of the one before. Default 2 h, 12 h, 24 h.
	Ranges []time.Duration
	// Settle is how long after the end of a time range its blocks are waited for: the length of a generation and what
	// shipping takes. Default 2 h 30 m.
	Settle time.Duration
	// DeletionDelay is how long the files of a block stay after queries have stopped using it; longer than the longest
	// query and than a reader may be behind. Default 15 m.
	DeletionDelay time.Duration
	// TombstoneRetention is how long a deleted block is remembered; it must be longer than the retention of the log,
	// whose replay would bring the block back. Default 8 days.
	TombstoneRetention time.Duration
	// OrphanDelay is the age from which on objects that the catalogue does not know are no upload under way any more.
	// Default 12 h.
	OrphanDelay time.Duration
	// ReconcileInterval between two listings of the bucket, by whichever compactor. Default 1 h.
	ReconcileInterval time.Duration
	// LeaseTTL is how long what a compactor was at when it died is left to it. The same for all compactors. Default half of
	// Interval, 3 s to 30 s.
	LeaseTTL time.Duration
	// Concurrency is how many merges run at once. Default 1.
	Concurrency int
	// MaxJobBytes bounds the inputs of one merge; what is larger stays unmerged (in smaller time ranges, if those fit) and
	// is told by sluice_compactor_too_large_windows. Default 32 GiB.
	MaxJobBytes int64
	// MaxJobSeries bounds the series of all inputs of one merge, which is what its memory depends on. Default 20 million.
	MaxJobSeries uint64
}

// Validate fills in defaults and refuses what cannot be meant.
func (c *Config) Validate() error {
	if c.Scratch == "" {
		return errors.New("compactor: no scratch directory given")
	}
	if c.Instance == "" {
		c.Instance = "compactor"
	}
	def := plan.Default()
	for _, d := range []struct {
		name string
		v    *time.Duration
		def  time.Duration
	}{
		{"interval", &c.Interval, time.Minute},
		{"settle time", &c.Settle, time.Duration(def.Settle) * time.Millisecond},
		{"deletion delay", &c.DeletionDelay, 15 * time.Minute},
		{"tombstone retention", &c.TombstoneRetention, 8 * 24 * time.Hour},
		{"orphan delay", &c.OrphanDelay, 12 * time.Hour},
		{"reconcile interval", &c.ReconcileInterval, time.Hour},
		{"lease time", &c.LeaseTTL, 0},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < 0 {
			return fmt.Errorf("compactor: %s is %s, must not be negative", d.name, *d.v)
		}
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = min(max(c.Interval/2, 3*time.Second), 30*time.Second)
	}
	if c.TombstoneRetention <= c.DeletionDelay {
		return fmt.Errorf("compactor: tombstone retention %s must be longer than the deletion delay %s", c.TombstoneRetention, c.DeletionDelay)
	}
	if len(c.Ranges) == 0 {
		for _, r := range def.Ranges {
			c.Ranges = append(c.Ranges, time.Duration(r)*time.Millisecond)
		}
	}
	for i, r := range c.Ranges {
		if r < time.Millisecond || i > 0 && (r <= c.Ranges[i-1] || r%c.Ranges[i-1] != 0) {
			return fmt.Errorf("compactor: ranges %v: each must be a multiple of the one before", c.Ranges)
		}
	}
	if c.Concurrency == 0 {
		c.Concurrency = 1
	}
	if c.MaxJobBytes == 0 {
		c.MaxJobBytes = def.MaxJobBytes
	}
	if c.MaxJobSeries == 0 {
		c.MaxJobSeries = def.MaxJobSeries
	}
	if c.Concurrency < 0 || c.MaxJobBytes < 0 {
		return fmt.Errorf("compactor: concurrency %d and job bytes %d must not be negative", c.Concurrency, c.MaxJobBytes)
	}
	return nil
}

func (c *Config) plan() plan.Config {
	p := plan.Config{Settle: c.Settle.Milliseconds(), MaxJobBytes: c.MaxJobBytes, MaxJobSeries: c.MaxJobSeries}
	for _, r := range c.Ranges {
		p.Ranges = append(p.Ranges, r.Milliseconds())
	}
	return p
}

// Limits tells a tenant's retention; internal/limits is one.
type Limits interface {
	For(tenant schema.Tenant) *schema.Limits
}

// Compactor merges and deletes. The catalogue that it is given must be running.
type Compactor struct {
	cfg     Config
	cat     *catalog.Catalog
	leases  *lease.Leases
	notes   *notes
	bkt     objstore.Bucket
	lim     Limits
	logger  *slog.Logger
	metrics *metrics
	now     func() time.Time
	// step is called after each step that a crash may follow, with the step's name: a failpoint. Tests put in one whose error
	// ends the work like a crash.
	step func(name string) error

	pass    sync.Mutex // one pass at a time; guards the fields up to mu
	cleaned bool       // the scratch directory is ours
	listed  map[schema.Tenant]bool
	gone    map[blockKey]bool // deleted blocks without files in the bucket
	indexes map[schema.Tenant][32]byte

	mu      sync.Mutex        // guards the fields below, which the workers share
	marked  map[blockKey]bool // blocks that have their deletion mark
	failed  map[jobKey]failure
	looked  looked
	running map[string]processes.Job // by the job's ID
}

type blockKey = plan.BlockKey

type jobKey struct {
	tenant     schema.Tenant
	start, end int64
}

type failure struct {
	times int
	until time.Time
}

// New makes a compactor. l is where it finds the others, by control, the table of the control topic. reg may be nil.
func New(cfg Config, l log.Log, control *log.Table, cat *catalog.Catalog, bkt objstore.Bucket, lim Limits, logger *slog.Logger, reg prometheus.Registerer) (*Compactor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Compactor{
		cfg: cfg, cat: cat, leases: lease.New(l, control, cfg.Instance, logger, reg), notes: newNotes(l, control, logger), bkt: bkt, lim: lim, logger: logger, metrics: newMetrics(reg),
		now: time.Now, step: func(name string) error { failpoint.Hit(name); return nil },
		listed: map[schema.Tenant]bool{}, gone: map[blockKey]bool{}, marked: map[blockKey]bool{}, indexes: map[schema.Tenant][32]byte{},
		failed: map[jobKey]failure{}, running: map[string]processes.Job{},
	}, nil
}

// Settings is what decides about merges here.
func (c *Compactor) Settings() plan.Config { return c.cfg.plan() }

// SetClock replaces the wall clock. Only before Run and RunOnce.
func (c *Compactor) SetClock(now func() time.Time) {
	c.now = now
	c.leases.SetClock(now)
}

// Run makes a pass over all tenants every Interval until ctx ends. What fails is logged and tried again. It may be called once.
func (c *Compactor) Run(ctx context.Context) error {
	// The leases outlive the passes, so that they can be given up.
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	kept := make(chan error, 1)
	go func() { kept <- c.leases.Run(keep) }()
	err := c.passes(ctx)
	stop()
	<-kept
	return err
}

func (c *Compactor) passes(ctx context.Context) error {
	t := time.NewTicker(c.cfg.Interval)
	defer t.Stop()
	for {
		if err := c.RunOnce(ctx); err != nil && ctx.Err() == nil {
			c.logger.Error("compactor pass had errors", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// RunOnce makes one pass: merge what can be merged, then, shard by shard, what is due of reconciling, deletions and the
// bucket index. What other compactors are at is left to them. It goes as far as it can and returns what failed on the way.
func (c *Compactor) RunOnce(ctx context.Context) error {
	c.pass.Lock()
	defer c.pass.Unlock()
	errs := c.runOnce(ctx)
	if err := ctx.Err(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	if err := errors.Join(errs...); err != nil {
		c.metrics.passes.WithLabelValues("failed").Inc()
		return err
	}
	c.metrics.passes.WithLabelValues("ok").Inc()
	c.metrics.lastPass.Set(float64(c.now().UnixMilli()) / 1000)
	return nil
}

func (c *Compactor) runOnce(ctx context.Context) (errs []error) {
	if err := c.cleanScratch(); err != nil {
		return []error{err}
	}
	if err := c.cat.Sync(ctx); err != nil {
		return []error{fmt.Errorf("read the catalogue: %w", err)}
	}
	if err := c.notes.control.Sync(ctx); err != nil {
		return []error{fmt.Errorf("read the notes of other compactors: %w", err)}
	}
	errs = append(c.mergeAll(ctx), c.tidyAll(ctx)...)
	c.metrics.missing.Set(float64(c.notes.missing()))
	c.metrics.quarantined.Set(float64(c.notes.aside.Count(c.now())))
	return errs
}

// scratchPrefix starts the names of all that the compactor makes in its scratch directory; the rest is not ours.
const scratchPrefix = "compact-"

// cleanScratch removes what a former process left, once.
func (c *Compactor) cleanScratch() error {
	if c.cleaned {
		return nil
	}
	if err := os.MkdirAll(c.cfg.Scratch, 0o755); err != nil {
		return fmt.Errorf("create scratch directory: %w", err)
	}
	names, err := os.ReadDir(c.cfg.Scratch)
	if err != nil {
		return fmt.Errorf("list scratch directory: %w", err)
	}
	for _, n := range names {
		if !strings.HasPrefix(n.Name(), scratchPrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(c.cfg.Scratch, n.Name())); err != nil {
			return fmt.Errorf("clean scratch directory: %w", err)
		}
	}
	c.cleaned = true
	return nil
}
