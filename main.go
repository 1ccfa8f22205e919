// Command sluice is a multi-tenant, long-term Prometheus backend as a pipeline over a durable log. Each subcommand runs
// one stage, `all` runs every stage in one process; they are put together here, in the open.
//
//	             POST /api/v1/push                                     GET /prometheus/api/v1/query
//	                    │                                                        │
//	┌───────────────────▼──┐                                         ┌───────────▼──────────┐
//	│ producer             │                                         │ reader               │──┐ fetch: what is not
//	│ validate, cut, route │                                         │ PromQL, block store  │  │ in blocks yet
//	└───────────────────┬──┘                                         └──┬─────────▲───────┬─┘  │
//	                    │ samples                                blocks │ control │       │ranged reads
//	┌───────────────────▼──────────────────── log ──────────────────────┴─────────┴───┐   │    │
//	│ embedded (a folder) or Kafka: topics samples, blocks, control, dead-letter      │   │    │
//	└───────────────────┬──────▲──────────────────────────────────────────▲────┬──────┘   │    │
//	            samples │      │ blocks, control, committed offset        │    │ blocks   │    │
//	┌───────────────────▼──────┴──┐                                  ┌────┴────▼───┐      │    │
//	│ consumer: heads → blocks    │                                  │ compactor   │      │    │
//	└───────────────────┬─────────┘                                  └────▲───┬────┘      │    │
//	                    │ blocks                                          │   │ merged    │    │
//	┌───────────────────▼──────────────── bucket ─────────────────────────┴───▼───────────▼┐   │
//	│ a folder, S3, GCS, Azure: <tenant>/<ulid>/{meta.json, index, chunks/}                │   │
//	└──────────────────────────────────────────────────────────────────────────────────────┘   │
//	           consumer ◀────────────────────────────────────────────────────────────────────────┘
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/thanos-io/objstore"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"sluice/compactor"
	"sluice/consumer"
	"sluice/internal/auth"
	"sluice/internal/bucket"
	"sluice/internal/catalog"
	"sluice/internal/fetch"
	"sluice/internal/ha"
	"sluice/internal/limits"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/internal/page"
	"sluice/internal/processes"
	"sluice/internal/queried"
	"sluice/internal/usage"
	"sluice/internal/web"
	"sluice/internal/writes"
	"sluice/producer"
	"sluice/reader"
	"sluice/reader/store"
	"sluice/reader/store/disk"
	"sluice/schema"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := app().RunContext(ctx, os.Args)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "sluice:", err)
		os.Exit(1)
	}
}

func app() *cli.App {
	stage := func(name, usage string, flags ...[]cli.Flag) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usage, Flags: join(append([][]cli.Flag{storageFlags(), serverFlags(), gatewayFlags(), selfFlags("")}, flags...)...),
			Action: func(c *cli.Context) error { return runStages(c, name, selfMonitoring) },
		}
	}
	return &cli.App{
		Name:  "sluice",
		Usage: "a multi-tenant, long-term Prometheus backend over a durable log",
		// A mistyped flag or command is an error, not a silent default.
		Suggest: true,
		Version: version(),
		Commands: []*cli.Command{
			{
				Name: "all", Usage: "run every stage in one process",
				Flags: join(storageFlags(), serverFlags(), gatewayFlags(), producerFlags(), tenancyWriteFlags(), generationFlags(), consumerFlags(), compactorFlags(), readerFlags(), tenancyReadFlags(), selfFlags("anonymous")),
				Action: func(c *cli.Context) error {
					return runStages(c, "producer", "consumer", "compactor", "reader", selfMonitoring)
				},
			},
			stage("producer", "take remote_write requests and write them to the log", producerFlags(), tenancyWriteFlags(), generationFlags()),
			stage("consumer", "turn the log into heads, and heads into blocks in the bucket", consumerFlags()),
			stage("compactor", "merge blocks and delete what is old", compactorFlags()),
			stage("reader", "answer PromQL and remote_read", readerFlags(), tenancyReadFlags()),
			logCommand(),
			checkCommand(),
			readyCommand(),
			authCommand(),
			benchCommand(),
			explainCommand(),
		},
	}
}

// version is the module's version or commit, as the Go tool noted it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

func join(lists ...[]cli.Flag) []cli.Flag {
	var out []cli.Flag
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// process is what the stages of one process share.
type process struct {
	cli       *cli.Context
	logger    *slog.Logger
	reg       *prometheus.Registry
	log       log.Log
	bucket    objstore.InstrumentedBucket
	catalog   *catalog.Catalog
	control   *log.Table // of the control topic, for all that is known through it
	directory *members.Directory
	limits    *limits.Limits
	auth      *auth.Auth
	tenancy   web.Tenancy
	instance  string
	advertise string // host:port
	scheme    string // under which it is served, http or https
	mux       *http.ServeMux

	producer  *producer.Producer // those that run here
	consumer  *consumer.Consumer
	compactor *compactor.Compactor
	reader    *reader.Reader

	// What producers and readers know through the control topic, once for both.
	usage  *usage.Table
	writes *writes.Table
	ha     *ha.Tracker

	processes *processes.Directory // what all processes do; nil without a reader

	tellEvery time.Duration      // how often the producer tells what it writes, for tests; 0 = as writes.Config has it
	own       *producer.Producer // that this process writes its own metrics with; nil = it does not
	ownTenant string             // and for whom

	running []task
	ready   []func() error
}

// task is something that runs until its context ends.
type task struct {
	name string
	run  func(context.Context) error
}

// runStages builds the named stages on one log, one bucket and one port, and runs them until the process is told to stop.
func runStages(c *cli.Context, stages ...string) error {
	return runProcess(c, stages, (*process).build)
}

// runProcess is runStages with the building left to the caller, for tests that want their hands on the parts.
func runProcess(c *cli.Context, stages []string, build func(p *process, stages []string) error) (err error) {
	logger, err := newLogger(c)
	if err != nil {
		return err
	}
	p := &process{
		cli: c, logger: logger, reg: prometheus.NewRegistry(), mux: http.NewServeMux(),
	}
	p.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if p.instance, err = instance(c); err != nil {
		return err
	}

	if err := p.openGateway(stages); err != nil {
		return err
	}

	// The port first: an address that is taken is found out before anything else is touched.
	server := web.New(web.Config{Listen: c.String("http.listen"), WebConfig: c.String("web.config-file")}, p.gateway(), logger)
	if err := server.Listen(); err != nil {
		return err
	}
	if p.advertise = c.String("http.advertise"); p.advertise == "" {
		p.advertise = server.Addr()
	}
	p.scheme = server.Scheme()
	// The log next, for everything else agrees through it; it is closed last, so that what is under way can be acked.
	if p.log, err = openLog(c, logger, p.reg, false); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.log.Close()) }()
	if p.bucket, err = openBucket(c, logger, p.reg); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.bucket.Close()) }()
	if p.limits, err = limits.New(limits.Config{Path: c.String("limits.file")}, logger, p.reg); err != nil {
		return err
	}
	p.catalog = catalog.New(p.log, logger, p.reg)
	p.control = log.NewTable(p.log, log.TopicControl)
	p.directory = members.NewDirectory(p.control, logger)
	p.running = []task{
		{"auth", p.auth.Run}, {"log", p.log.Run}, {"limits", p.limits.Run}, {"catalogue", p.catalog.Run}, {"control topic", p.control.Run},
	}
	if err := build(p, stages); err != nil {
		return err
	}
	logger.Info("sluice is starting", "stages", stages, "listen", server.Addr(), "instance", p.instance, "bucket", p.bucket.Name())
	if p.producer != nil && p.reader != nil {
		printWelcome(os.Stdout, p.scheme+"://"+server.Addr())
	}
	return p.run(c.Context, server)
}

// build makes the stages and mounts what they serve.
func (p *process) build(stages []string) error {
	builders := map[string]func() error{
		"producer": p.buildProducer, "consumer": p.buildConsumer, "compactor": p.buildCompactor, "reader": p.buildReader,
		selfMonitoring: p.buildSelfMonitoring,
	}
	for _, stage := range stages {
		if err := builders[stage](); err != nil {
			return err
		}
	}
	p.running = append(p.running, task{"processes", processes.NewAnnouncer(p.log, processes.Interval, p.status(stages), p.logger).Run})
	if p.reader != nil {
		p.buildPipeline(stages)
	}
	p.mountFetch()
	p.mountCommon()
	return nil
}

// run runs every task. When ctx ends the port closes first and requests under way finish, while the stages still work
// for them; then the stages stop. A task that ends by itself stops the process.
func (p *process) run(ctx context.Context, server *web.Server) error {
	stages, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, stages := errgroup.WithContext(stages)
	for _, t := range p.running {
		g.Go(func() error {
			if err := t.run(stages); stages.Err() == nil {
				return fmt.Errorf("%s has stopped: %w", t.name, err)
			}
			return nil
		})
	}
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(stages, cancel) // a stage that fails takes the server with it
	g.Go(func() error {
		defer stop()
		if err := server.Run(serving); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	return g.Wait()
}

// openLog opens Kafka or the embedded log.
func openLog(c *cli.Context, logger *slog.Logger, reg prometheus.Registerer, readOnly bool) (log.Log, error) {
	cfg, err := kafkaConfig(c)
	if err != nil {
		return nil, err
	}
	if cfg != nil {
		name, err := instance(c)
		if err != nil {
			return nil, err
		}
		cfg.ClientID = "sluice-" + name
		k, err := log.NewKafka(*cfg, logger, reg)
		if err != nil {
			return nil, err
		}
		if err := k.EnsureTopics(c.Context); err != nil {
			return nil, errors.Join(err, k.Close())
		}
		return k, nil
	}
	partitions := 0 // a log that is there keeps as many as it has, unless somebody has asked for more
	if c.IsSet("log.partitions") {
		partitions = c.Int("log.partitions")
	}
	return log.OpenEmbedded(log.EmbeddedConfig{
		Dir: dataPath(c, "log"), Partitions: int32(partitions), Fsync: log.FsyncMode(c.String("log.fsync")),
		Retention: c.Duration("log.retention"), MaxBytes: c.Int64("log.max-bytes"), ReadOnly: readOnly,
	}, logger, reg)
}

func openBucket(c *cli.Context, logger *slog.Logger, reg prometheus.Registerer) (objstore.InstrumentedBucket, error) {
	conf, err := bucketYAML(c)
	if err != nil {
		return nil, err
	}
	return bucket.Open(conf, dataPath(c, "bucket"), logger, reg)
}

func (p *process) buildProducer() (err error) {
	p.producer, err = producer.New(producer.Config{
		MaxBodyBytes:     p.cli.Int64("producer.max-body-bytes"),
		MaxDecodedBytes:  p.cli.Int64("producer.max-decoded-bytes"),
		MaxInflightBytes: p.cli.Int64("producer.max-inflight-bytes"),
		TickInterval:     p.cli.Duration("producer.tick-interval"),
		RecordVersion:    p.cli.Int("producer.record-version"),
		MaxKnownSeries:   p.cli.Int64("producer.max-known-series"),
		TenantLabel:      p.cli.String("tenancy.label"),
		StripTenantLabel: p.cli.Bool("tenancy.label-strip"),
		Generation: schema.Generation{
			Length:    p.cli.Duration("consumer.generation").Milliseconds(),
			MaxBytes:  p.cli.Int64("consumer.max-generation-bytes"),
			MaxSeries: p.cli.Int("consumer.max-generation-series"),
		},
	}, p.log, partitionsInUse{p.log, p.catalog, p.directory}, p.limits, p.tenancy, p.logger, p.reg)
	if err != nil {
		return err
	}
	p.usage = usage.NewTable(p.control, p.logger) // what consumers say of the tenants' series
	p.producer.LimitSeries(p.usage)
	if err := p.trackHA(p.reg); err != nil {
		return err
	}
	p.producer.TrackHA(p.ha)
	p.producer.Register(p.mux)
	p.ha.Register(p.mux)
	p.mux.HandleFunc("POST /-/seal", p.serveSeal)
	p.followWrites()
	teller, err := writes.NewTeller(writes.Config{Instance: p.instance, Interval: p.tellEvery}, p.log, p.producer, p.writes, p.logger)
	if err != nil {
		return err
	}
	p.running = append(p.running, task{"producer", p.producer.Run}, task{"teller of writes", teller.Run})
	return nil
}

// partitionsInUse tells the producer what the log and the topics of blocks and of members say of partitions.
type partitionsInUse struct {
	log       log.Log
	catalog   *catalog.Catalog
	directory *members.Directory
}

func (u partitionsInUse) Known(ctx context.Context) (known int32, err error) {
	if err := errors.Join(u.catalog.Sync(ctx), u.directory.Sync(ctx)); err != nil {
		return 0, err
	}
	limited, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	ends, err := u.log.Ends(limited, log.TopicSamples) // fails where one partition has no leader: then others are written to all the same
	for p, end := range ends {
		if end > 0 {
			known = int32(p) + 1
		}
	}
	if err == nil && known == 0 { // the first start of all: that consumers have announced a part of the partitions by now says nothing
		return 0, nil
	}
	for p := range u.catalog.Partitions() {
		known = max(known, p+1)
	}
	for _, m := range u.directory.Members() {
		for _, cov := range m.Partitions {
			known = max(known, cov.Partition+1)
		}
	}
	return known, nil
}

func (u partitionsInUse) Held(partition int32) bool { return len(u.directory.Holders(partition)) > 0 }

func (p *process) buildConsumer() (err error) {
	ordinal, count, err := assignment(p.cli, p.instance)
	if err != nil {
		return err
	}
	p.consumer, err = consumer.New(consumer.Config{
		InstanceID: p.instance, Advertise: p.address(), Scratch: dataPath(p.cli, "scratch", "consumer"),
		Zone: p.cli.String("consumer.zone"), SessionTimeout: p.cli.Duration("consumer.session-timeout"),
		Ordinal: ordinal, Count: count,
		RetainShipped: p.cli.Duration("consumer.retain-shipped"),
	}, p.log, p.catalog, p.directory, p.bucket, p.limits, p.logger, p.reg)
	if err != nil {
		return err
	}
	p.mux.HandleFunc("POST /-/leave", p.serveLeave)
	p.running = append(p.running, task{"consumer", p.consumer.Run})
	p.ready = append(p.ready, p.consumer.Ready)
	return nil
}

func (p *process) buildCompactor() error {
	if tomb, kept := p.cli.Duration("compactor.tombstone-retention"), p.cli.Duration("log.retention"); tomb <= kept {
		return fmt.Errorf("--compactor.tombstone-retention of %s must be longer than --log.retention of %s: a replay could bring deleted blocks back", tomb, kept)
	}
	var err error
	p.compactor, err = compactor.New(compactor.Config{
		Instance:           p.instance,
		Scratch:            dataPath(p.cli, "scratch", "compactor"),
		Interval:           p.cli.Duration("compactor.interval"),
		Settle:             p.cli.Duration("compactor.settle"),
		DeletionDelay:      p.cli.Duration("compactor.deletion-delay"),
		OrphanDelay:        p.cli.Duration("compactor.orphan-delay"),
		ReconcileInterval:  p.cli.Duration("compactor.reconcile-interval"),
		TombstoneRetention: p.cli.Duration("compactor.tombstone-retention"),
	}, p.log, p.control, p.catalog, p.bucket, p.limits, p.logger, p.reg)
	if err != nil {
		return err
	}
	p.running = append(p.running, task{"compactor", p.compactor.Run})
	return nil
}

func (p *process) buildReader() (err error) {
	client, err := p.peers()
	if err != nil {
		return err
	}
	dial := func(m members.Member) fetch.Source {
		if p.consumer != nil && m.ID == p.instance {
			return p.consumer // in this very process: no detour over the network
		}
		return fetch.NewClient(m.Addr, client, 0)
	}
	p.reader, err = reader.New(reader.Config{
		Store: store.Config{
			CacheBytes: p.cli.Int64("reader.cache-bytes"),
			Disk:       disk.Config{Dir: dataPath(p.cli, "pages"), Bytes: p.cli.Int64("reader.disk-cache-bytes")},
		},
		QueryTimeout: p.cli.Duration("reader.query-timeout"),
		MaxSamples:   p.cli.Int("reader.max-samples"),
		SlowQuery:    p.cli.Duration("reader.slow-query-log"),
		Scratch:      dataPath(p.cli, "scratch", "reader"),

		MaxConcurrent:     p.cli.Int("reader.max-concurrent"),
		QueryMemory:       p.cli.Int64("reader.query-memory"),
		ResultsCacheBytes: p.cli.Int64("reader.results-cache-bytes"),

		Version:    version(),
		InstanceID: p.instance,
		Advertise:  p.address(),
	}, p.log, p.catalog, p.bucket, p.directory, dial, p.limits, p.tenancy, p.logger, p.reg)
	if err != nil {
		return err
	}
	if err := p.showTenants(); err != nil {
		return err
	}
	asked := queried.New(queried.Config{Instance: p.instance}, p.log, p.control, p.logger)
	p.reader.TrackQueried(asked)
	p.reader.Register(p.mux)
	site, err := page.New(http.HandlerFunc(p.serveIndex))
	if err != nil {
		return err
	}
	site.Register(p.mux)
	p.running = append(p.running, task{"queried metrics", asked.Run}, task{"reader", p.reader.Run})
	p.ready = append(p.ready, p.reader.Ready)
	if p.consumer != nil {
		p.ready = append(p.ready, p.readerKnowsConsumer)
	}
	return nil
}

// readerKnowsConsumer is nil once the reader of this process has heard what its consumer holds: through the log, like any other reader.
func (p *process) readerKnowsConsumer() error {
	for _, held := range p.consumer.Coverage() {
		holders := p.directory.Holders(held.Partition)
		if !slices.ContainsFunc(holders, func(h members.Holder) bool { return h.ID == p.instance }) {
			return fmt.Errorf("the reader does not know yet that partition %d is held here", held.Partition)
		}
	}
	return nil
}

// mountFetch mounts what the other processes of the cluster ask: the consumer's partitions, the reader's share of the blocks.
func (p *process) mountFetch() {
	var cfg fetch.HandlerConfig
	if p.consumer != nil {
		cfg.Source = p.consumer
	}
	if p.reader != nil {
		cfg.Blocks = p.reader
	}
	if cfg != (fetch.HandlerConfig{}) {
		p.mux.Handle("/fetch/", fetch.Handler(cfg, p.logger))
	}
}

// mountCommon mounts what every process has.
func (p *process) mountCommon() {
	p.mux.Handle("GET /metrics", promhttp.HandlerFor(p.reg, promhttp.HandlerOpts{Registry: p.reg}))
	ready := func(w http.ResponseWriter, r *http.Request) {
		for _, check := range p.ready {
			if err := check(); err != nil {
				web.Error(w, r, schema.Unavailable(schema.ErrNotReady, err, "not ready"))
				return
			}
		}
		fmt.Fprintln(w, "ready")
		if p.consumer != nil {
			for _, note := range p.consumer.Notes() {
				fmt.Fprintln(w, "warning:", note)
			}
		}
	}
	p.mux.HandleFunc("GET /ready", ready)
	p.mux.HandleFunc("GET /-/ready", ready)
	p.mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "healthy") })
	p.mux.HandleFunc("GET /config", p.serveConfig)
	if p.reader == nil { // else the page is there
		p.mux.HandleFunc("GET /{$}", p.serveIndex)
	}
	p.mux.HandleFunc("/debug/pprof/", pprof.Index)
	p.mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	p.mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	p.mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	p.mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}
