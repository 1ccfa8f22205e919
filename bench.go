package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"sluice/bench/delay"
	"sluice/bench/loopback"
	"sluice/bench/read"
	"sluice/bench/shards"
	"sluice/bench/write"
)

// benchCommand measures a running installation, or starts one to be measured.
func benchCommand() *cli.Command {
	return &cli.Command{
		Name: "bench", Usage: "measure a running installation, or start one on this machine to try it out",
		Subcommands: []*cli.Command{
			{
				Name: "delay", Usage: "measure how long an acked sample takes until a query shows it: a table, and a line of JSON",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "write.url", Value: "http://127.0.0.1:9009/api/v1/push", Usage: "where to write: a producer's remote_write"},
					&cli.StringFlag{Name: "read.url", Value: "http://127.0.0.1:9009/prometheus", Usage: "where to ask: a reader's Prometheus API, as Grafana has it"},
					&cli.StringFlag{Name: "tenant", Usage: "tenant to write to and to ask; default is to send none"},
					&cli.DurationFlag{Name: "duration", Value: 30 * time.Second, Usage: "how long to write"},
					&cli.DurationFlag{Name: "interval", Value: 100 * time.Millisecond, Usage: "between two samples"},
					&cli.IntFlag{Name: "series", Value: 16, Usage: "series that are written in turn; with more than there are partitions, each is likely to be measured"},
				},
				Action: benchDelay,
			},
			{
				Name: "write", Usage: "start Sluice and, where they are installed, Prometheus and VictoriaMetrics, send them the same remote write and compare what it costs them",
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "series", Value: 200_000, Usage: "series, of twelve labels and some 340 bytes"},
					&cli.IntFlag{Name: "scrapes", Value: 21, Usage: "samples of each series; the first is measured apart"},
					&cli.IntFlag{Name: "per-request", Value: 2000, Usage: "samples in a request"},
					&cli.StringFlag{Name: "protocol", Value: "1", Usage: "version of remote write, 1 or 2, which Debian's peers do not know; or otlp, which Prometheus 3 knows (make bench-write ARGS='--protocol otlp' builds it)"},
					&cli.IntFlag{Name: "tenants", Usage: "spread the requests over so many tenants; 0 = name none"},
					&cli.IntFlag{Name: "rounds", Value: 3, Usage: "how often each is measured, in turn"},
					&cli.IntFlag{Name: "connections", Value: 4, Usage: "requests at a time"},
					&cli.StringFlag{Name: "dir", Value: "data/bench-write", Usage: "folder for their data, emptied after each"},
				},
				Action: benchWrite,
			},
			{
				Name: "read", Usage: "bring the same data into Sluice and, where they are installed, Prometheus and VictoriaMetrics, ask them what dashboards ask and compare what it costs them",
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "series", Value: 200_000, Usage: "series, of twelve labels and some 340 bytes"},
					&cli.DurationFlag{Name: "length", Value: 6 * time.Hour, Usage: "time that the samples span"},
					&cli.DurationFlag{Name: "interval", Value: time.Minute, Usage: "between two samples of a series"},
					&cli.StringFlag{Name: "places", Value: strings.Join(read.Places(), ","), Usage: "where to ask, comma-separated"},
					&cli.StringFlag{Name: "only", Usage: "regular expression: only queries whose names match"},
					&cli.IntFlag{Name: "rounds", Value: 5, Usage: "how often each query is measured at each place, in turn"},
					&cli.BoolFlag{Name: "cold", Value: true, Usage: "measure each query right after a start, too"},
					&cli.IntFlag{Name: "connections", Value: 4, Usage: "requests at a time, while the data is loaded"},
					&cli.DurationFlag{Name: "delay", Value: 20 * time.Millisecond, Usage: "added to each request to the S3 server"},
					&cli.StringFlag{Name: "dir", Value: "data/bench-read", Usage: "folder for their data; what a run finds there it does not load again"},
					&cli.StringFlag{Name: "sluice.args", Usage: "more arguments for Sluice, separated by spaces"},
				},
				Action: benchRead,
			},
			{
				Name: "shards", Usage: "recommend the partition_shard_size of a tenant: a line for the limits file and what it means, and a line of JSON",
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "series", Value: 100_000, Usage: "active series of the tenant"},
					&cli.IntFlag{Name: "partitions", Value: 52, Usage: "partitions of the samples topic"},
				},
				Action: benchShards,
			},
			{
				Name: "cluster", Usage: "run a whole installation on this machine: Kafka, S3, every stage doubled, two zones",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "dir", Value: "data/cluster", Usage: "folder for data, configuration and logs"},
					stringFlag("kafka.brokers", "", "comma-separated brokers of a Kafka that runs already; default is to start one"),
					stringFlag("kafka.jars", ".cache/kafka", "folder with Kafka's jars, where make tools puts them"),
					&cli.StringFlag{Name: "java", Value: "java", Usage: "program that runs them, version 17 or newer"},
					&cli.StringFlag{Name: "s3.server", Usage: "program of the S3 server versitygw; default is .cache/bin/versitygw, and a folder as the bucket if there is none"},
					intFlag("log.partitions", 4, "partitions of the samples topic when it is created"),
					&cli.IntFlag{Name: "first-port", Value: 9010, Usage: "first of some sixty ports on 127.0.0.1"},
				},
				Action: benchCluster,
			},
		},
	}
}

func benchWrite(c *cli.Context) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	version, known := map[string]int{"1": 1, "2": 2, "otlp": write.ProtocolOTLP}[c.String("protocol")]
	load := write.Load{
		Series: c.Int("series"), Scrapes: c.Int("scrapes"), PerRequest: c.Int("per-request"), Tenants: c.Int("tenants"), Version: version,
	}
	if load.Series < 1 || load.Scrapes < 2 || load.PerRequest < 1 || load.Tenants < 0 || !known || c.Int("rounds") < 1 || c.Int("connections") < 1 {
		return errors.New("bench write: want at least one series, two scrapes, one sample a request, one round, one connection, and protocol 1, 2 or otlp")
	}
	all, err := write.Run(c.Context, write.Config{
		Load: load, Targets: write.Targets(program, load.Version, load.Tenants), Rounds: c.Int("rounds"), Connections: c.Int("connections"), Dir: c.String("dir"),
	}, os.Stderr)
	return errors.Join(err, write.Print(os.Stdout, all))
}

func benchRead(c *cli.Context) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cfg := read.Config{
		Data:   read.Data{Series: c.Int("series"), Length: c.Duration("length"), Interval: c.Duration("interval")},
		Places: strings.Split(c.String("places"), ","), Rounds: c.Int("rounds"), Cold: c.Bool("cold"), Connections: c.Int("connections"),
		Dir: c.String("dir"), Delay: c.Duration("delay"), Sluice: program, SluiceArgs: strings.Fields(c.String("sluice.args")), S3Server: s3Server(),
	}
	if only := c.String("only"); only != "" {
		if cfg.Only, err = regexp.Compile(only); err != nil {
			return fmt.Errorf("--only: %w", err)
		}
	}
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("bench read: %w", err)
	}
	all, err := read.Run(c.Context, cfg, os.Stderr)
	err = errors.Join(err, read.Print(os.Stdout, all))
	if len(all) > 0 {
		path, serr := read.Save(cfg.Dir, all)
		fmt.Printf("each figure, as a line of JSON: %s\n", path)
		err = errors.Join(err, serr)
	}
	return err
}

// s3Server is the program of the S3 server, where make tools puts it; empty when it is not there.
func s3Server() string {
	installed := filepath.FromSlash(".cache/bin/versitygw")
	if _, err := os.Stat(installed); err != nil {
		return ""
	}
	return installed
}

func benchDelay(c *cli.Context) error {
	report, err := delay.Run(c.Context, delay.Config{
		WriteURL: c.String("write.url"), ReadURL: c.String("read.url"), Tenant: c.String("tenant"),
		Duration: c.Duration("duration"), Interval: c.Duration("interval"), Series: c.Int("series"),
	})
	if report.Written > 0 { // interrupted, it is still worth a look
		err = errors.Join(err, report.Print(os.Stdout))
	}
	if err != nil {
		return err
	}
	return report.Err()
}

func benchCluster(c *cli.Context) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	s3 := c.String("s3.server")
	if s3 == "" {
		s3 = s3Server()
	}
	cluster, err := loopback.New(loopback.Config{
		Sluice: program, Dir: c.String("dir"), Brokers: c.String("kafka.brokers"), Jars: c.String("kafka.jars"), Java: c.String("java"), S3: s3,
		Partitions: c.Int("log.partitions"), FirstPort: c.Int("first-port"),
	}, os.Stdout)
	if err != nil {
		return err
	}
	return cluster.Run(c.Context, nil)
}

func benchShards(c *cli.Context) error {
	series, partitions := c.Int("series"), c.Int("partitions")
	if series < 0 || partitions < 1 {
		return fmt.Errorf("--series=%d --partitions=%d: want none or more and one or more", series, partitions)
	}
	s := shards.Recommend(series, partitions)
	if err := s.Print(c.App.Writer); err != nil {
		return err
	}
	return json.NewEncoder(c.App.Writer).Encode(s)
}
