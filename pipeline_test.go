package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"
	"github.com/urfave/cli/v2"

	"sluice/bench/queries"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/internal/processes"
)

// pipelineAnswer is what GET /-/pipeline says, as far as the test looks.
type pipelineAnswer struct {
	Health struct {
		State, Summary string
		Problems       []struct{ Severity, What, Process string }
	}
	Processes []struct {
		ID, Zone string
		Silent   bool
		Stages   []string
		Producer struct {
			Samples float64 `json:"samples_per_second"`
		}
		Consumer struct{ Ready bool }
	}
	Partitions []struct {
		Start, End, Committed int64
		BlocksTo              int64 `json:"blocks_to"`
		Holders               []struct {
			ID, Zone, State, Failure string
			HeldUp                   string `json:"held_up"`
			Doubtful                 bool
			Applied                  int64
			Lag                      *float64 `json:"lag_seconds"`
			Shipping                 int
			LastShipped              int64 `json:"last_shipped"`
			Generation               struct {
				Samples int64
				Ended   string `json:"end_reason"`
			}
		}
	}
	Zones []struct {
		Zone   string
		Held   int `json:"partitions_held"`
		Silent bool
	}
}

// problem returns an error unless one of the problems has the text.
func (a *pipelineAnswer) problem(text string) error {
	for _, p := range a.Health.Problems {
		if strings.Contains(p.What, text) {
			return nil
		}
	}
	return fmt.Errorf("no problem is about %q: %+v", text, a.Health)
}

// cutLog takes no record any more once it is cut: as if its process had been killed.
type cutLog struct {
	log.Log
	cut atomic.Bool
}

func (l *cutLog) Append(ctx context.Context, topic string, recs []log.Record) error {
	if l.cut.Load() {
		return errors.New("cut off")
	}
	return l.Log.Append(ctx, topic, recs)
}

// laterLog makes what is read of the control topic later than it is.
type laterLog struct {
	log.Log
	by atomic.Int64 // ms
}

func (l *laterLog) Reader(topic string, partition int32, offset int64) (log.Reader, error) {
	r, err := l.Log.Reader(topic, partition, offset)
	if topic != log.TopicControl {
		return r, err
	}
	return laterReader{r, &l.by}, err
}

type laterReader struct {
	log.Reader
	by *atomic.Int64
}

func (r laterReader) Next(ctx context.Context) ([]log.Record, error) {
	recs, err := r.Reader.Next(ctx)
	for i := range recs {
		recs[i].Time += r.by.Load()
	}
	return recs, err
}

// awayBucket refuses uploads while it is away.
type awayBucket struct {
	objstore.InstrumentedBucket
	away *atomic.Bool
}

func (b awayBucket) Upload(ctx context.Context, name string, r io.Reader, opts ...objstore.ObjectUploadOption) error {
	if b.away.Load() {
		return errors.New("no route to the bucket")
	}
	return b.InstrumentedBucket.Upload(ctx, name, r, opts...)
}

// TestPipelineTellsTheTruth breaks one thing after the other in a cluster of two zones, and looks at what the page is told.
func TestPipelineTellsTheTruth(t *testing.T) {
	dir := t.TempDir()
	// A file where a folder should be: partition 1 of zone a cannot be opened.
	broken := filepath.Join(dir, "data", "scratch", "consumer", "1")
	require.NoError(t, os.MkdirAll(filepath.Dir(broken), 0o755))
	require.NoError(t, os.WriteFile(broken, nil, 0o600))

	var away atomic.Bool
	var far *cutLog
	var later *laterLog
	in := &installation{t: t, gate: &gate{}, merging: &gate{}}
	build := func(p *process, stages []string) error {
		later = &laterLog{Log: p.log}
		p.log, p.bucket = later, awayBucket{p.bucket, &away}
		p.control = log.NewTable(p.log, log.TopicControl)
		p.directory = members.NewDirectory(p.control, p.logger)
		p.running = append(p.running, task{"control topic, later", p.control.Run})
		if err := p.build(stages); err != nil {
			return err
		}
		far = &cutLog{Log: p.log}
		apart := *p
		apart.log, apart.mux, apart.reg, apart.instance = far, http.NewServeMux(), prometheus.NewRegistry(), "far"
		apart.cli = cliContext(t, "consumer", "--data-dir", filepath.Join(dir, "far"), "--consumer.zone", "b")
		apart.producer, apart.consumer, apart.compactor, apart.reader = nil, nil, nil, nil
		if err := apart.buildConsumer(); err != nil {
			return err
		}
		p.running = apart.running
		for _, of := range []struct {
			*process
			stages []string
		}{{p, stages}, {&apart, []string{"consumer"}}} {
			p.running = append(p.running, task{"processes, often", processes.NewAnnouncer(of.log, 50*time.Millisecond, of.status(of.stages), p.logger).Run})
		}
		in.gate.mu.Lock()
		defer in.gate.mu.Unlock()
		in.process = p
		return nil
	}
	main := app()
	main.Command("all").Action = func(c *cli.Context) error {
		return runProcess(c, []string{"producer", "consumer", "compactor", "reader"}, build)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- main.RunContext(ctx, []string{
			"sluice", "all", "--data-dir", filepath.Join(dir, "data"), "--http.listen", "127.0.0.1:0", "--instance", "near", "--log.level", "error",
			"--consumer.zone", "a", "--log.fsync", string(log.FsyncOff), "--log.partitions", "2",
			"--consumer.generation", unendingGeneration(time.Now(), 2).String(),
		})
	}()
	t.Cleanup(sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			require.NoError(t, err)
		}
	}))
	look := func() (a pipelineAnswer, err error) {
		in.gate.mu.Lock()
		p := in.process
		in.gate.mu.Unlock()
		if p == nil {
			return a, errors.New("not built yet")
		}
		w := httptest.NewRecorder()
		p.mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/-/pipeline", nil))
		err = json.Unmarshal(w.Body.Bytes(), &struct{ Data *pipelineAnswer }{&a})
		if err == nil && len(a.Partitions) != 2 {
			err = fmt.Errorf("%d partitions", len(a.Partitions))
		}
		return a, err
	}
	until := func(what string, right func(a *pipelineAnswer) error) {
		t.Helper()
		in.eventually(func() error {
			a, err := look()
			if err == nil {
				err = right(&a)
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", what, err)
			}
			return err
		})
	}

	until("a partition that fails", func(a *pipelineAnswer) error {
		holders := a.Partitions[1].Holders
		if len(holders) != 2 || holders[0].ID != "near" || holders[0].State != "failed" || !strings.Contains(holders[0].Failure, "scratch folder") || holders[1].State != "live" {
			return fmt.Errorf("%+v", holders)
		}
		if len(a.Zones) != 2 || a.Zones[0].Held != 1 || a.Zones[1].Held != 2 {
			return fmt.Errorf("%+v", a.Zones)
		}
		return errors.Join(a.problem("it has stopped in near"), a.problem("Zone a answers for 1 of 2 partitions"))
	})
	require.NoError(t, os.Remove(broken))
	until("all is well", func(a *pipelineAnswer) error {
		if a.Health.State != "ok" || len(a.Processes) != 2 || a.Processes[0].ID != "far" || !a.Processes[0].Consumer.Ready {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})

	samples := int64(0)
	for i := range 10 {
		var batch []queries.Sample
		for j := range 100 {
			batch = append(batch, queries.Sample{Series: labels.FromStrings("__name__", "m", "i", strconv.Itoa(j)), T: time.Now().UnixMilli() + int64(i), V: 1})
		}
		in.push("a", batch)
		samples += int64(len(batch))
	}
	until("what was written", func(a *pipelineAnswer) error {
		for _, h := range []int{0, 1} {
			sum := int64(0)
			for _, p := range a.Partitions {
				if p.Holders[h].Applied != p.End || p.Holders[h].Lag == nil || *p.Holders[h].Lag != 0 {
					return fmt.Errorf("end %d, %+v", p.End, p.Holders[h])
				}
				sum += p.Holders[h].Generation.Samples
			}
			if sum != samples {
				return fmt.Errorf("holder %d has %d samples of %d", h, sum, samples)
			}
		}
		if a.Processes[1].Producer.Samples == 0 {
			return errors.New("the producer is at rest")
		}
		return nil
	})

	away.Store(true)
	offsets, err := in.process.producer.Seal(t.Context())
	require.NoError(t, err)
	until("the bucket is away", func(a *pipelineAnswer) error {
		shipping := 0
		for _, p := range a.Partitions {
			for _, h := range p.Holders {
				shipping += h.Shipping
			}
			if p.Committed != 0 {
				return fmt.Errorf("%d is committed", p.Committed)
			}
		}
		if shipping != 4 {
			return fmt.Errorf("%d generations are on their way", shipping)
		}
		return a.problem("is held up, and tried again: upload: ")
	})
	away.Store(false)
	until("it is back", func(a *pipelineAnswer) error {
		for id, p := range a.Partitions {
			if end := offsets[int32(id)] + 1; p.Committed != end || p.BlocksTo != end {
				return fmt.Errorf("partition %d is sealed up to %d: %+v", id, end, p)
			}
			for _, h := range p.Holders {
				if h.Shipping != 0 || h.LastShipped == 0 || h.Generation.Samples != 0 || h.Generation.Ended != "seal" || h.HeldUp != "" {
					return fmt.Errorf("%+v", h)
				}
			}
		}
		if a.Health.State != "ok" {
			return fmt.Errorf("%+v", a.Health)
		}
		return nil
	})

	far.cut.Store(true)
	later.by.Store((processes.SilentAfter + time.Second).Milliseconds())
	until("a consumer that is gone", func(a *pipelineAnswer) error {
		if !a.Processes[0].Silent || a.Processes[1].Silent {
			return fmt.Errorf("%+v", a.Processes)
		}
		for _, p := range a.Partitions {
			if len(p.Holders) != 2 || !p.Holders[1].Doubtful || p.Holders[0].Doubtful {
				return fmt.Errorf("%+v", p.Holders)
			}
		}
		if !a.Zones[1].Silent || a.Zones[1].Held != 0 || a.Zones[0].Silent {
			return fmt.Errorf("%+v", a.Zones)
		}
		return errors.Join(a.problem("Process far (consumer) has said nothing"), a.problem("Zone b is silent"))
	})
}
