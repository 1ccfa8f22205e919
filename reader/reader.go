// Package reader answers queries: the Prometheus HTTP API over one tenant's blocks in the bucket and the samples that the
// consumers hold in memory, as if it were one database. In come PromQL, remote read and the label, series, exemplar and
// metadata endpoints; out come exact answers: every sample that was acknowledged before the query started, each once, and
// of two values for one time always the same one. It never writes, keeps nothing on disk (but a list of the queries under way), and never gives a part for the
// whole: what it cannot reach makes the query fail with 503 (or, when the caller asks for it, a warning).
//
// # A query
//
// One look at the catalogue gives the tenant's blocks and, for each partition, the offset up to which they hold the log.
// The rest of each partition is asked of a consumer, from exactly that offset on, so nothing is missing and nothing is
// read twice. When a consumer has dropped that offset already, the catalogue is behind: it is brought up to date and the
// question is put again.
//
// Several consumers may hold a partition (two zones). A query asks the one that fits best (holders.go) and falls over to
// another when that one fails; it never gets less of the log than was announced or answered before (floors.go).
//
// Several readers share the blocks, so that each page is in one reader's cache: a query asks the owner of each block
// (share.go), and reads the blocks itself where an owner does not answer.
package reader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/features"
	"github.com/thanos-io/objstore"

	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/internal/queried"
	"sluice/internal/trace"
	"sluice/internal/web"
	"sluice/reader/dialect"
	"sluice/reader/front"
	"sluice/reader/store"
	"sluice/schema"
)

// Config of a Reader. Zero values take the defaults.
type Config struct {
	QueryTimeout  time.Duration // of one query; default 2 min
	MaxSamples    int           // that one query may have in memory; default 50 million
	StrongTimeout time.Duration // how long a strong read waits for the log to be applied; default 20 s
	Concurrency   int           // sources that one selector asks at a time; default 16
	ReadGate      int           // remote reads at one time; default 32
	Version       string        // of this program, told by /status/buildinfo

	SlowQuery time.Duration // requests that take longer are logged; 0 = none, negative = all
	Scratch   string        // folder for the file that says which queries are under way; empty = none

	MaxConcurrent     int           // requests that are worked on at one time; default two for each core, at least 4
	ResultsCacheBytes int64         // of what is final in answers; default 128 MiB
	QueryMemory       int64         // bytes that all queries may hold together, estimated; default a quarter of the memory there is
	WritePace         time.Duration // in which a client has to take 64 KiB of its answer; default 10 s

	FreshTimeout time.Duration // how long a read waits for a copy of a partition that is behind what was answered before; default 5 s

	// InstanceID names this process, as its consumer is named if it has one; Advertise is host:port under which other
	// readers reach it. Without them it shares blocks with nobody.
	InstanceID       string
	Advertise        string
	AnnounceInterval time.Duration // default 5 s
	PeerQueries      int           // that it answers for other readers at one time; default 64

	Store store.Config
}

// Validate fills in the defaults and refuses what cannot work.
func (c *Config) Validate() error {
	if c.QueryTimeout == 0 {
		c.QueryTimeout = 2 * time.Minute
	}
	if c.MaxSamples == 0 {
		c.MaxSamples = 50_000_000
	}
	if c.StrongTimeout == 0 {
		c.StrongTimeout = 20 * time.Second
	}
	if c.Concurrency == 0 {
		c.Concurrency = 16
	}
	if c.ReadGate == 0 {
		c.ReadGate = 32
	}
	if c.MaxConcurrent == 0 {
		c.MaxConcurrent = max(2*runtime.GOMAXPROCS(0), 4)
	}
	if c.ResultsCacheBytes == 0 {
		c.ResultsCacheBytes = 128 << 20
	}
	if c.QueryMemory == 0 {
		c.QueryMemory = memoryThereIs() / 4
	}
	if c.WritePace == 0 {
		c.WritePace = 10 * time.Second
	}
	if c.FreshTimeout == 0 {
		c.FreshTimeout = 5 * time.Second
	}
	if c.AnnounceInterval == 0 {
		c.AnnounceInterval = 5 * time.Second
	}
	if c.PeerQueries == 0 {
		c.PeerQueries = 64
	}
	if c.ResultsCacheBytes < 0 || c.MaxConcurrent < 0 || c.QueryMemory < 0 || c.WritePace < 0 || c.FreshTimeout < 0 || c.AnnounceInterval < 0 || c.PeerQueries < 0 || c.QueryTimeout < 0 || c.MaxSamples < 0 || c.StrongTimeout < 0 || c.Concurrency < 0 || c.ReadGate < 0 {
		return errors.New("time-outs and limits of the reader must not be negative")
	}
	return c.Store.Validate()
}

// Catalog is what the reader wants of internal/catalog.
type Catalog interface {
	// Snapshot returns the tenant's blocks and, by partition, the offset up to which blocks hold the log, as of one moment.
	Snapshot(tenant schema.Tenant) (blocks []*schema.BlockEntry, shipped map[int32]int64)
	// Partitions returns what is known of each partition: the incarnation of the topic, the same offset as Snapshot's, and
	// the gaps.
	Partitions() map[int32]schema.PartitionState
	// Entry returns what is known of one block, in whatever state it is.
	Entry(tenant schema.Tenant, id ulid.ULID) (*schema.BlockEntry, bool)
	// Sync waits until everything that was in the catalogue's topic at the time of the call is applied.
	Sync(ctx context.Context) error
}

// Directory is what the reader wants of internal/members.
type Directory interface {
	// Holders returns who announced the partition, the best to ask first.
	Holders(partition int32) []members.Holder
	// Readers returns the readers that can be asked, this one among them or not.
	Readers() []members.Member
	// Suspect notes that a member gave no answer, Trust that it gave one.
	Suspect(id string)
	Trust(id string)
	Sync(ctx context.Context) error
}

// BlockStore opens blocks; store.Store is one.
type BlockStore interface {
	Querier(ctx context.Context, entry *schema.BlockEntry, mint, maxt int64) (storage.Querier, error)
	CountLabels(ctx context.Context, entry *schema.BlockEntry, distinct bool) (*store.Counts, error)
	CountValues(ctx context.Context, entry *schema.BlockEntry, label string) (*store.Counts, error)
}

// Limits tells what a tenant may do. internal/limits implements it.
type Limits interface {
	For(tenant schema.Tenant) *schema.Limits
}

// Dial returns how to ask a member; for a reader it must be a fetch.Blocks too.
type Dial func(members.Member) fetch.Source

// Reader is the stage.
type Reader struct {
	cfg      Config
	log      log.Log
	cat      Catalog
	dir      Directory
	dial     Dial
	blocks   BlockStore
	store    *store.Store // the same as blocks outside of tests; closed at the end of Run
	limits   Limits
	bucket   objstore.BucketReader // for what lies beside the blocks' samples
	tenancy  web.Tenancy
	logger   *slog.Logger
	metrics  *metrics
	api      http.Handler
	engine   promql.QueryEngine
	ready    atomic.Bool
	topic    atomic.Pointer[topicSeen]
	floors   floors
	front    *front.Front // closed at the end of Run
	queue    *front.Queue
	memory   *trace.Budget
	now      func() time.Time
	registry *registry
	tracker  atomic.Pointer[tracker] // nil while Run does not run
	known    *known                  // nil: nothing is told about tenants
	queried  *queried.Tracker        // nil = nothing is counted
	peers    chan struct{}           // one for each question of another reader that is being answered

	language parser.Parser
	features features.Collector // those of a tenant without limits of its own
}

var (
	_ storage.SampleAndChunkQueryable = (*Reader)(nil)
	_ storage.ExemplarQueryable       = (*Reader)(nil)
	_ fetch.Blocks                    = (*Reader)(nil)
)

// New makes a Reader that starts nothing. cat and dir are run by the caller.
func New(cfg Config, l log.Log, cat Catalog, bkt objstore.BucketReader, dir Directory, dial Dial, lim Limits, tenancy web.Tenancy, logger *slog.Logger, reg prometheus.Registerer) (*Reader, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("reader: %w", err)
	}
	st, err := store.New(bkt, cfg.Store, logger, reg)
	if err != nil {
		return nil, fmt.Errorf("reader: %w", err)
	}
	r := &Reader{
		cfg: cfg, log: l, cat: cat, dir: dir, dial: dial, blocks: st, store: st, limits: lim, bucket: bkt,
		tenancy: tenancy, logger: logger, metrics: newMetrics(reg), peers: make(chan struct{}, cfg.PeerQueries),
		language: dialect.NewParser(),
		queue:    front.NewQueue(cfg.MaxConcurrent, reg), memory: trace.NewBudget(cfg.QueryMemory, "--reader.query-memory"), now: time.Now,
	}
	r.registry = newRegistry()
	if r.api, err = r.newAPI(reg); err != nil {
		return nil, fmt.Errorf("reader: %w", err)
	}
	return r, nil
}

// TrackQueried makes the reader count which metrics are queried. It is called before Run, and t is run by the caller.
func (r *Reader) TrackQueried(t *queried.Tracker) { r.queried = t }

// Run makes the reader ready once the catalogue and the directory of members have caught up, and announces it to the
// other readers until ctx ends.
// Queries still under way when it returns are finished without the cache.
func (r *Reader) Run(ctx context.Context) error {
	defer r.store.Close()
	defer r.front.Close()
	disk := make(chan struct{})
	defer func() { <-disk }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(disk)
		_ = r.store.Run(ctx) // ends with ctx, and never else
	}()
	defer r.ready.Store(false)
	if err := r.cat.Sync(ctx); err != nil {
		return endOf(ctx, fmt.Errorf("catch up with the catalogue: %w", err))
	}
	if err := r.dir.Sync(ctx); err != nil {
		return endOf(ctx, fmt.Errorf("catch up with the members: %w", err))
	}
	if r.cfg.Scratch != "" {
		t, err := openTracker(r.cfg.Scratch, r.logger)
		if err != nil { // what it is good for is not worth a reader
			r.logger.Warn("queries under way are not written down", "err", err)
		}
		r.tracker.Store(t)
		defer func() {
			if err := t.close(); err != nil {
				r.logger.Warn("closing the list of queries under way", "err", err)
			}
		}()
	}
	m := r.member()
	r.ready.Store(true)
	r.announce(ctx, m)
	return ctx.Err()
}

func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Ready returns nil once the reader may be asked.
func (r *Reader) Ready() error {
	if !r.ready.Load() {
		return schema.Unavailable(schema.ErrNotReady, nil, "the reader is still catching up with the catalogue")
	}
	return nil
}

// Querier returns a querier for [mint, maxt] (ms, both inclusive). It takes the tenant, or the tenants, from the context of its first call.
func (r *Reader) Querier(mint, maxt int64) (storage.Querier, error) {
	if r.tenancy.MaxFederated > 0 {
		return &federated{reader: r, mint: mint, maxt: maxt}, nil
	}
	return &querier{reader: r, mint: mint, maxt: maxt}, nil
}

// ChunkQuerier is Querier with the samples as chunks.
func (r *Reader) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	q, err := r.Querier(mint, maxt)
	return chunkQuerier{q}, err
}
