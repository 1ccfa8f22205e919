package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"sluice/internal/log"
)

// The flags, in one place: name, environment variable, default, unit. Each has a word on who turns it and when; what
// nobody needs to turn is a constant beside the code.

// env names a flag's environment variable: --log.max-bytes is SLUICE_LOG_MAX_BYTES.
func env(flag string) []string {
	return []string{"SLUICE_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(flag))}
}

func stringFlag(name, value, usage string) cli.Flag {
	return &cli.StringFlag{Name: name, Value: value, Usage: usage, EnvVars: env(name)}
}

func durationFlag(name string, value time.Duration, usage string) cli.Flag {
	return &cli.DurationFlag{Name: name, Value: value, Usage: usage, EnvVars: env(name)}
}

func intFlag(name string, value int, usage string) cli.Flag {
	return &cli.IntFlag{Name: name, Value: value, Usage: usage, EnvVars: env(name)}
}

func int64Flag(name string, value int64, usage string) cli.Flag {
	return &cli.Int64Flag{Name: name, Value: value, Usage: usage, EnvVars: env(name)}
}

func boolFlag(name, usage string) cli.Flag {
	return &cli.BoolFlag{Name: name, Usage: usage, EnvVars: env(name)}
}

// storageFlags say where the log and the bucket are: every command that touches data has them.
func storageFlags() []cli.Flag {
	return []cli.Flag{
		stringFlag("data-dir", "data", "folder for what this process keeps on disk: log/ and bucket/ unless they are elsewhere, and scratch/, which may be deleted while stopped"),
		stringFlag("kafka.brokers", "", "comma-separated seed brokers; set, the log is in Kafka instead of --data-dir: for everything that runs on more than one machine"),
		stringFlag("kafka.config-file", "", "YAML file with how to reach Kafka: brokers, TLS, SASL, rack, time-outs (docs/kafka.md); --kafka.brokers overrides its brokers"),
		stringFlag("objstore.config-file", "", "YAML file of the bucket, as Thanos' users have it (type S3, GCS, AZURE, FILESYSTEM, …); default is a directory in --data-dir"),
		stringFlag("objstore.config", "", "the same YAML, inline"),
		intFlag("log.partitions", 4, "partitions of the samples topic when it is created, and the least that an embedded log has from then on; more spread the work over more cores and machines and make more, smaller blocks"),
		stringFlag("log.fsync", string(log.FsyncGroup), "group: an ack survives a power cut; off: only the death of the process (embedded log)"),
		durationFlag("log.retention", 24*time.Hour, "how long the log is kept for replays; what is not committed yet is kept in any case (embedded log)"),
		int64Flag("log.max-bytes", 0, "size beyond which committed parts of the log go earlier, 0 = no bound: for small disks (embedded log)"),
		stringFlag("log.level", "info", "debug, info, warn or error"),
	}
}

// serverFlags belong to every command that serves HTTP.
func serverFlags() []cli.Flag {
	return []cli.Flag{
		stringFlag("http.listen", "127.0.0.1:9009", "address to serve on, host:port; loopback only until you say otherwise"),
		stringFlag("http.advertise", "", "host:port under which other processes of Sluice reach this one; default is --http.listen"),
		stringFlag("instance", "", "name of this process, stable over restarts; default is the host name"),
		boolFlag("tenancy.required", "refuse requests without an X-Scope-OrgID header instead of taking them as tenant anonymous: set it when several tenants share the installation"),
		stringFlag("limits.file", "", "YAML file with the limits of tenants, read again when it changes"),
	}
}

func producerFlags() []cli.Flag {
	return []cli.Flag{
		int64Flag("producer.max-body-bytes", 32<<20, "largest compressed request body: raise it for senders with huge batches"),
		int64Flag("producer.max-decoded-bytes", 64<<20, "largest decompressed request body"),
		int64Flag("producer.max-inflight-bytes", 384<<20, "memory of all requests at once, beyond which new ones get 503: the producer's memory bound"),
		intFlag("producer.record-version", 2, "2: records carry the labels of a series once and then refs, a tenth of the bytes; 1: with every sample, for consumers older than this version"),
		int64Flag("producer.max-known-series", 5_000_000, "series that are remembered so that their labels need not be looked at again, some 70 bytes each; more are written with their labels every time"),
		durationFlag("producer.tick-interval", 15*time.Second, "how often a quiet partition is told that time passes: shorten it together with --consumer.generation in tests"),
	}
}

// generationFlags belong to the producer, which writes them into the log: there they hold for every consumer and every
// later replay, whatever flags that has.
func generationFlags() []cli.Flag {
	return []cli.Flag{
		durationFlag("consumer.generation", 2*time.Hour, "log time after which samples become blocks: shorter means shorter replays and more, smaller blocks"),
		int64Flag("consumer.max-generation-bytes", 4<<30, "record bytes after which a generation ends early: with the next flag, the bound of memory and replay"),
		intFlag("consumer.max-generation-series", 3_000_000, "distinct series in a partition after which a generation ends early"),
	}
}

func consumerFlags() []cli.Flag {
	return []cli.Flag{
		stringFlag("consumer.zone", "", "failure domain of this consumer: the consumers of each zone hold every partition between them, so that readers can do without any one zone"),
		stringFlag("consumer.assignment", "group", "group: the consumers of a zone share out the partitions, and move them when one comes or goes; ordinal: by number, nothing moves by itself"),
		intFlag("consumer.ordinal", -1, "with ordinal assignment: this consumer's number, from 0; default is the number at the end of --instance, as a StatefulSet gives it"),
		intFlag("consumer.count", 0, "with ordinal assignment: how many consumers the zone has"),
		durationFlag("consumer.session-timeout", 45*time.Second, "how long a consumer that is gone keeps its partitions: longer than a restart takes, as a restart within it moves nothing (Kafka)"),
		durationFlag("consumer.retain-shipped", 30*time.Second, "how long shipped samples are still served by the consumer, for readers that lag behind"),
	}
}

func compactorFlags() []cli.Flag {
	return []cli.Flag{
		durationFlag("compactor.interval", time.Minute, "how often to look for work"),
		durationFlag("compactor.settle", 150*time.Minute, "how long after its end a window of time waits for late blocks before it is merged: a generation and what its shipping takes"),
		durationFlag("compactor.deletion-delay", 15*time.Minute, "how long replaced and expired blocks stay in the bucket: longer than any query"),
		durationFlag("compactor.orphan-delay", 12*time.Hour, "age from which a folder that the catalogue does not know is adopted or deleted: longer than any upload"),
		durationFlag("compactor.reconcile-interval", time.Hour, "how often the bucket is listed and held against the catalogue"),
		durationFlag("compactor.tombstone-retention", 8*24*time.Hour, "how long deleted blocks are remembered, so that no replay brings them back: longer than --log.retention"),
	}
}

func readerFlags() []cli.Flag {
	return []cli.Flag{
		int64Flag("reader.cache-bytes", 512<<20, "memory for pages of blocks in the bucket"),
		int64Flag("reader.disk-cache-bytes", 0, "bytes of the local disk for pages of blocks, in --data-dir/pages, which survive a restart; 0 = none: set it where the bucket is far and the disk is near"),
		durationFlag("reader.query-timeout", 2*time.Minute, "longest time for a query"),
		int64Flag("reader.results-cache-bytes", 128<<20, "memory for parts of answers that are final; more for many dashboards over long times"),
		int64Flag("reader.query-memory", 0, "memory that all queries may hold together, estimated: what would take more is refused; 0 = a quarter of what there is"),
		intFlag("reader.max-concurrent", 0, "queries that are worked on at one time, the tenants take turns; 0 = two for each core, at least four. More where the bucket is slow"),
		durationFlag("reader.slow-query-log", 10*time.Second, "requests that take longer are logged with where their time went (docs/query.md): lower it to look for what loads the readers; 0 = none, negative = all"),
		intFlag("reader.max-samples", 50_000_000, "most samples a query may hold in memory"),
	}
}

// selfFlags belong to every process. By default one that does everything has its own metrics, and a stage of a cluster leaves
// them to whoever scrapes it: writing them needs the right to write samples, which but a producer has.
func selfFlags(tenant string) []cli.Flag {
	return []cli.Flag{
		stringFlag("self-monitoring.tenant", tenant, "tenant that this process writes its own metrics to, for the web page's graphs; empty = nowhere, as where a Prometheus scrapes it"),
		durationFlag("self-monitoring.interval", 15*time.Second, "how often it does"),
	}
}

// newLogger makes the process' logger.
func newLogger(c *cli.Context) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.String("log.level"))); err != nil {
		return nil, fmt.Errorf("--log.level: %w", err)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), nil
}

// kafkaConfig returns how to reach Kafka; nil means the embedded log.
func kafkaConfig(c *cli.Context) (*log.KafkaConfig, error) {
	var cfg log.KafkaConfig
	file := c.String("kafka.config-file")
	if file != "" {
		var err error
		if cfg, err = log.LoadKafka(file); err != nil {
			return nil, fmt.Errorf("--kafka.config-file: %w", err)
		}
	}
	var seeds []string
	for _, b := range strings.Split(c.String("kafka.brokers"), ",") {
		if b = strings.TrimSpace(b); b != "" {
			seeds = append(seeds, b)
		}
	}
	if len(seeds) > 0 {
		cfg.Brokers = seeds
	}
	if file == "" && len(seeds) == 0 {
		return nil, nil
	}
	cfg.Partitions, cfg.Retention = int32(c.Int("log.partitions")), c.Duration("log.retention")
	return &cfg, nil
}

// bucketYAML returns the bucket's configuration; nil means the directory in --data-dir.
func bucketYAML(c *cli.Context) ([]byte, error) {
	file, inline := c.String("objstore.config-file"), c.String("objstore.config")
	switch {
	case file != "" && inline != "":
		return nil, errors.New("--objstore.config and --objstore.config-file exclude each other")
	case file != "":
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--objstore.config-file: %w", err)
		}
		return raw, nil
	case inline != "":
		return []byte(inline), nil
	}
	return nil, nil
}

// instance names this process.
func instance(c *cli.Context) (string, error) {
	if name := c.String("instance"); name != "" {
		return name, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("--instance is not set, and the host has no name: %w", err)
	}
	return name, nil
}

// assignment is the number of this consumer and of how many it is one; 0 of 0 when the group assigns.
func assignment(c *cli.Context, instance string) (ordinal, count int, err error) {
	switch mode := c.String("consumer.assignment"); mode {
	case "group":
		return 0, 0, nil
	case "ordinal":
	default:
		return 0, 0, fmt.Errorf("--consumer.assignment: %q, want group or ordinal", mode)
	}
	if ordinal = c.Int("consumer.ordinal"); ordinal < 0 {
		digits := instance[len(strings.TrimRight(instance, "0123456789")):]
		if ordinal, err = strconv.Atoi(digits); err != nil {
			return 0, 0, fmt.Errorf("--consumer.ordinal is not set, and --instance %q does not end in a number", instance)
		}
	}
	if count = c.Int("consumer.count"); count <= 0 {
		return 0, 0, errors.New("--consumer.assignment=ordinal needs --consumer.count")
	}
	return ordinal, count, nil
}

// dataPath is a path below --data-dir.
func dataPath(c *cli.Context, elem ...string) string {
	return filepath.Join(append([]string{c.String("data-dir")}, elem...)...)
}
