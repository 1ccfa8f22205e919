package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"sluice/consumer"
	"sluice/internal/bucket"
	"sluice/internal/catalog"
	"sluice/internal/check"
	"sluice/internal/deadletter"
	"sluice/internal/limits"
	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/producer"
	"sluice/schema"
)

// logCommand looks into the log, and seals.
func logCommand() *cli.Command {
	partition := &cli.IntFlag{Name: "partition", Value: -1, Usage: "only this partition; -1 = all"}
	topic := &cli.StringFlag{Name: "topic", Value: log.TopicSamples, Usage: "which topic"}
	return &cli.Command{
		Name: "log", Usage: "look into the log, or seal it",
		Subcommands: []*cli.Command{
			{
				Name: "seal", Usage: "end the live generations, so that everything so far becomes blocks",
				Flags: append(join(storageFlags(), urlFlags("a running producer; not needed with Kafka")),
					&cli.BoolFlag{Name: "wait", Usage: "return when the blocks are in the bucket"}),
				Action: seal,
			},
			{
				Name: "status", Usage: "print start, end and committed offset of every partition",
				Flags:  storageFlags(),
				Action: logStatus,
			},
			{
				Name: "dump", Usage: "print the records of a topic, one line each",
				Flags: append(storageFlags(), topic, partition,
					&cli.Int64Flag{Name: "from", Value: -1, Usage: "first offset; -1 = the oldest"},
					&cli.IntFlag{Name: "limit", Value: 100, Usage: "most records per partition; 0 = all"}),
				Action: logDump,
			},
			{
				Name: "dead-letter", Usage: "look at records that could not be applied, or give them another try",
				Subcommands: []*cli.Command{
					{
						Name: "list", Usage: "print the dead letters, one line each",
						Flags: append(storageFlags(), deadLetterFlags()...),
						Action: func(c *cli.Context) error {
							return withLog(c, true, func(l log.Log) error { return deadletter.List(c.Context, l, os.Stdout, deadLetterOptions(c)) })
						},
					},
					{
						Name: "replay", Usage: "append dead letters to the partition they came from once more (an embedded log must not be in use)",
						Flags: append(storageFlags(), deadLetterFlags()...),
						Action: func(c *cli.Context) error {
							return withLog(c, false, func(l log.Log) error {
								n, err := deadletter.Replay(c.Context, l, deadLetterOptions(c))
								fmt.Printf("%d records replayed\n", n)
								return err
							})
						},
					},
				},
			},
			{
				Name: "accept-gap", Usage: "make queries over records that were lost for good answer with a warning instead of an error (an embedded log must not be in use)",
				Flags: append(storageFlags(),
					&cli.IntFlag{Name: "partition", Required: true, Usage: "partition of the gap"},
					&cli.Int64Flag{Name: "from", Required: true, Usage: "first offset of the gap, as the error says"}),
				Action: acceptGap,
			},
			{
				Name: "rebuild", Usage: "build the blocks of a range of the log into another bucket, without committing: after a bucket was lost, or to prove that blocks are a function of the log",
				Flags: append(storageFlags(), partition,
					&cli.StringFlag{Name: "out", Usage: "folder of the new bucket"},
					&cli.StringFlag{Name: "out.config-file", Usage: "YAML file of the new bucket, like --objstore.config-file, instead of --out"},
					&cli.Int64Flag{Name: "from", Value: -1, Usage: "first offset, where a generation began; -1 = the oldest"},
					&cli.Int64Flag{Name: "to", Value: -1, Usage: "end offset; -1 = the end"}),
				Action: rebuild,
			},
		},
	}
}

func seal(c *cli.Context) error {
	kafka, err := kafkaConfig(c)
	if err != nil {
		return err
	}
	if kafka == nil {
		target := strings.TrimSuffix(c.String("url"), "/") + "/-/seal?wait=" + fmt.Sprint(c.Bool("wait"))
		req, err := http.NewRequestWithContext(c.Context, http.MethodPost, target, nil)
		if err != nil {
			return fmt.Errorf("--url: %w", err)
		}
		resp, err := askURL(c, req)
		if err != nil {
			return fmt.Errorf("ask the running process to seal: %w", err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("%s answered %s: %s", (&url.URL{Path: target}).Path, resp.Status, strings.TrimSpace(string(body)))
		}
		_, err = os.Stdout.Write(body)
		return err
	}
	return withLog(c, false, func(l log.Log) error {
		logger, err := newLogger(c)
		if err != nil {
			return err
		}
		lim, err := limits.New(limits.Config{}, logger, nil)
		if err != nil {
			return err
		}
		p, err := producer.New(producer.Config{}, l, nil, lim, web.Tenancy{}, logger, nil)
		if err != nil {
			return err
		}
		offsets, err := p.Seal(c.Context)
		if err != nil {
			return err
		}
		for part, offset := range offsets {
			fmt.Printf("partition %d sealed at offset %d\n", part, offset)
		}
		if c.Bool("wait") {
			return waitCommitted(c.Context, l, offsets)
		}
		return nil
	})
}

// withLog opens the log for f. The embedded log is opened read-only, so that it may be in use.
func withLog(c *cli.Context, readOnly bool, f func(l log.Log) error) (err error) {
	logger, err := newLogger(c)
	if err != nil {
		return err
	}
	l, err := openLog(c, logger, nil, readOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return f(l)
}

func logStatus(c *cli.Context) error {
	return withLog(c, true, func(l log.Log) error {
		committed, err := l.Committed(c.Context, schema.ConsumerGroup, log.TopicSamples)
		if err != nil {
			return err
		}
		for _, topic := range []string{log.TopicSamples, log.TopicBlocks, log.TopicControl, log.TopicDeadLetter} {
			n, err := l.Partitions(c.Context, topic)
			if err != nil {
				return err
			}
			for p := range n {
				b, err := l.Bounds(c.Context, topic, p)
				if err != nil {
					return err
				}
				fmt.Printf("%-20s partition %-4d start %-12d end %-12d", topic, p, b.Start, b.End)
				if offset, ok := committed[p]; ok && topic == log.TopicSamples {
					fmt.Printf(" committed %-12d not yet in blocks %d", offset, b.End-offset)
				}
				fmt.Println()
			}
		}
		return nil
	})
}

func logDump(c *cli.Context) error {
	return withLog(c, true, func(l log.Log) error {
		n, err := l.Partitions(c.Context, c.String("topic"))
		if err != nil {
			return err
		}
		for p := range n {
			if only := c.Int("partition"); only >= 0 && int32(only) != p {
				continue
			}
			if err := dumpPartition(c, l, p); err != nil {
				return err
			}
		}
		return nil
	})
}

func deadLetterFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "tenant", Usage: "only this tenant's"},
		&cli.StringFlag{Name: "reason", Usage: "only those whose reason contains this"},
		&cli.Int64Flag{Name: "from", Usage: "first offset in the dead-letter topic"},
		&cli.Int64Flag{Name: "to", Usage: "end offset; 0 = the end"},
		&cli.IntFlag{Name: "limit", Usage: "most records; 0 = all"},
	}
}

func deadLetterOptions(c *cli.Context) deadletter.Options {
	return deadletter.Options{
		Tenant: c.String("tenant"), Reason: c.String("reason"), From: c.Int64("from"), To: c.Int64("to"), Limit: c.Int("limit"),
	}
}

func acceptGap(c *cli.Context) error {
	return withLog(c, false, func(l log.Log) error {
		logger, err := newLogger(c)
		if err != nil {
			return err
		}
		cat, err := catalog.Load(c.Context, l, logger)
		if err != nil {
			return err
		}
		return cat.AcceptGap(c.Context, int32(c.Int("partition")), c.Int64("from"))
	})
}

// rebuild runs the consumer's code over a range of the log, into the folder --out.
func rebuild(c *cli.Context) error {
	only := c.Int("partition")
	if only < 0 && (c.Int64("from") >= 0 || c.Int64("to") >= 0) {
		return errors.New("--from and --to are offsets of one partition: --partition must be given")
	}
	logger, err := newLogger(c)
	if err != nil {
		return err
	}
	var conf []byte
	switch file := c.String("out.config-file"); {
	case (file == "") == (c.String("out") == ""):
		return errors.New("one of --out and --out.config-file must be given")
	case file != "":
		if conf, err = os.ReadFile(file); err != nil {
			return fmt.Errorf("--out.config-file: %w", err)
		}
	}
	out, err := bucket.Open(conf, c.String("out"), logger, nil)
	if err != nil {
		return err
	}
	defer out.Close()
	scratch, err := os.MkdirTemp("", "sluice-rebuild-")
	if err != nil {
		return fmt.Errorf("create scratch folder: %w", err)
	}
	defer os.RemoveAll(scratch)
	return withLog(c, true, func(l log.Log) error {
		n, err := l.Partitions(c.Context, log.TopicSamples)
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(c.Context)
		g.SetLimit(runtime.GOMAXPROCS(0))
		for p := range n {
			if only >= 0 && int32(only) != p {
				continue
			}
			g.Go(func() error {
				cfg := consumer.RebuildConfig{Partition: p, From: c.Int64("from"), To: c.Int64("to"), Scratch: scratch}
				r, err := consumer.Rebuild(ctx, cfg, l, out, logger)
				if err != nil {
					return fmt.Errorf("rebuild partition %d: %w", p, err)
				}
				fmt.Printf("partition %d: %d generations, %d blocks, %d samples\n", p, r.Generations, r.Blocks, r.Samples)
				return nil
			})
		}
		return g.Wait()
	})
}

func dumpPartition(c *cli.Context, l log.Log, p int32) (err error) {
	topic := c.String("topic")
	b, err := l.Bounds(c.Context, topic, p)
	if err != nil {
		return err
	}
	from := max(c.Int64("from"), b.Start)
	r, err := l.Reader(topic, p, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for printed := 0; from < b.End; {
		recs, err := r.Next(c.Context)
		if err != nil {
			return err
		}
		for i := range recs {
			rec := &recs[i]
			from = rec.Offset + 1
			if limit := c.Int("limit"); limit > 0 && printed == limit {
				return nil
			}
			printed++
			fmt.Printf("%s/%d offset=%d time=%d key=%q bytes=%d", topic, p, rec.Offset, rec.Time, rec.Key, len(rec.Value))
			for _, h := range rec.Headers {
				fmt.Printf(" %s=%q", h.Key, h.Value)
			}
			if topic == log.TopicBlocks || topic == log.TopicControl {
				fmt.Printf(" %s", rec.Value)
			}
			fmt.Println()
		}
	}
	return nil
}

// readyCommand asks a running process, where there is no curl to do it: in a container of nothing but this program.
func readyCommand() *cli.Command {
	return &cli.Command{
		Name: "ready", Usage: "exit with 0 if a running process is ready, for health checks of containers",
		Flags: urlFlags("the process to ask"),
		Action: func(c *cli.Context) error {
			ctx, cancel := context.WithTimeout(c.Context, 5*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.String("url"), "/")+"/ready", nil)
			if err != nil {
				return fmt.Errorf("--url: %w", err)
			}
			resp, err := askURL(c, req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
			if err != nil {
				return fmt.Errorf("read the answer: %w", err)
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
			}
			_, err = os.Stdout.Write(body)
			return err
		},
	}
}

// checkCommand holds log, catalogue and bucket against each other.
func checkCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "walk log offsets, catalogue and bucket and report gaps, overlaps, unreadable blocks and orphans",
		Flags: append(storageFlags(), &cli.BoolFlag{Name: "deep", Usage: "read every series and chunk of every block"}),
		Action: func(c *cli.Context) error {
			return withLog(c, true, func(l log.Log) error {
				logger, err := newLogger(c)
				if err != nil {
					return err
				}
				bkt, err := openBucket(c, logger, nil)
				if err != nil {
					return err
				}
				defer bkt.Close()
				coverage, err := check.Coverage(c.Context, l, nil)
				if err != nil {
					return err
				}
				for i := range coverage {
					fmt.Println(coverage[i].String())
				}
				findings, err := check.Run(c.Context, l, bkt, check.Options{Deep: c.Bool("deep")})
				if err != nil {
					return err
				}
				for _, f := range findings {
					fmt.Println(f)
				}
				if len(findings) > 0 {
					return cli.Exit(fmt.Sprintf("%d findings", len(findings)), 1)
				}
				fmt.Println("no findings")
				return nil
			})
		},
	}
}
