package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"
	"github.com/urfave/cli/v2"

	"sluice/bench/queries"
	"sluice/internal/log"
	"sluice/internal/plan"
	"sluice/reader"
	"sluice/schema"
)

// installation is every stage in this process, put together by main's own builders from main's own flags, with a bucket that
// a test can hold up, and with a second reader for which the consumer is another process.
type installation struct {
	t       *testing.T
	process *process
	gate    *gate // uploads of blocks pass it
	merging *gate // the compactor waits for it; shut at first
	// near asks the consumer in Go; far asks it, and near for blocks, over HTTP.
	near, far *reader.Reader
	farMux    *http.ServeMux
}

// startInstallation starts it on dir and returns once it is ready. It ends with the test, or by stop.
func startInstallation(t *testing.T, dir, limits string, flags ...string) (in *installation, stop func()) {
	t.Helper()
	in = &installation{t: t, gate: &gate{}, merging: &gate{}}
	in.merging.shut()
	file := filepath.Join(dir, "limits.yaml")
	require.NoError(t, os.WriteFile(file, []byte(limits), 0o600))
	args := append([]string{
		"sluice", "all", "--data-dir", filepath.Join(dir, "data"), "--http.listen", "127.0.0.1:0", "--instance", "near", "--log.level", "error",
		"--limits.file", file, "--self-monitoring.tenant", "", "--log.fsync", string(log.FsyncOff), "--log.partitions", "2",
		"--consumer.generation", unendingGeneration(time.Now(), 2).String(), "--producer.tick-interval", "1s", // the first tick tells of it
	}, flags...)
	main := app()
	main.Command("all").Action = func(c *cli.Context) error {
		return runProcess(c, []string{"producer", "consumer", "compactor"}, in.build)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- main.RunContext(ctx, args) }()
	stop = sync.OnceFunc(func() {
		cancel()
		in.gate.open()
		in.merging.open()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			require.NoError(t, err)
		}
	})
	t.Cleanup(stop)
	in.eventually(func() error {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the installation has stopped: %v", err)
		default:
		}
		return in.ready()
	})
	return in, stop
}

// unendingGeneration is a length that ends no generation of the partitions within the next hour, whatever the time of day: a
// test that looks at heads must not find them sealed because it is midnight.
func unendingGeneration(now time.Time, partitions int32) time.Duration {
	for length := 24 * time.Hour; ; length -= time.Hour {
		ends := false
		for p := range partitions {
			end := schema.Generation{Length: length.Milliseconds()}.Boundary(now.UnixMilli(), p)
			ends = ends || end < now.Add(time.Hour).UnixMilli()
		}
		if !ends {
			return length
		}
	}
}

// build builds the stages, and the second reader in a process of its own, as far as it knows.
func (in *installation) build(p *process, stages []string) error {
	p.bucket = gatedBucket{p.bucket, in.gate}
	p.tellEvery = 10 * time.Millisecond
	for _, stage := range []func() error{p.buildProducer, p.buildConsumer, p.buildReader, p.buildCompactor} {
		if err := stage(); err != nil {
			return err
		}
	}
	merge := &p.running[len(p.running)-1].run
	run := *merge
	*merge = func(ctx context.Context) error {
		if err := in.merging.pass(ctx); err != nil {
			return err
		}
		return run(ctx)
	}
	apart := *p
	apart.mux, apart.reg, apart.instance, apart.consumer, apart.producer = http.NewServeMux(), prometheus.NewRegistry(), "far", nil, nil
	apart.usage, apart.writes, apart.ha = nil, nil, nil
	if err := apart.buildReader(); err != nil {
		return err
	}
	p.running = apart.running
	p.mountFetch()
	p.mountCommon()
	in.gate.mu.Lock() // ready looks at the rest
	defer in.gate.mu.Unlock()
	in.process, in.near, in.far, in.farMux = p, p.reader, apart.reader, apart.mux
	return nil
}

func (in *installation) ready() error {
	in.gate.mu.Lock()
	p := in.process
	in.gate.mu.Unlock()
	if p == nil {
		return errors.New("not built yet")
	}
	for _, check := range append(p.ready, in.far.Ready) {
		if err := check(); err != nil {
			return err
		}
	}
	if readers := p.directory.Readers(); len(readers) < 2 {
		return fmt.Errorf("%d readers have announced themselves", len(readers))
	}
	return nil
}

// eventually waits for f to be nil.
func (in *installation) eventually(f func() error) {
	in.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for err := f(); err != nil; err = f() {
		if time.Now().After(deadline) {
			in.t.Fatalf("still after a minute: %v", err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// push writes samples through the producer, in one request of remote write 2.0.
func (in *installation) push(tenant schema.Tenant, samples []queries.Sample) {
	in.t.Helper()
	body, err := queries.Request(samples)
	require.NoError(in.t, err)
	req := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(snappy.Encode(nil, body)))
	req.Header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "2.0.0")
	req.Header.Set(schema.TenantHeader, string(tenant))
	w := httptest.NewRecorder()
	in.process.mux.ServeHTTP(w, req)
	require.Equal(in.t, http.StatusNoContent, w.Code, w.Body.String())
}

// settle waits until what was pushed can be asked for.
func (in *installation) settle() {
	in.t.Helper()
	ctx := context.Background()
	ends := map[int32]int64{}
	n, err := in.process.log.Partitions(ctx, log.TopicSamples)
	require.NoError(in.t, err)
	for p := range n {
		b, err := in.process.log.Bounds(ctx, log.TopicSamples, p)
		require.NoError(in.t, err)
		ends[p] = b.End
	}
	in.eventually(func() error {
		applied := map[int32]int64{}
		for _, c := range in.process.consumer.Coverage() {
			applied[c.Partition] = c.Applied
		}
		for p, end := range ends {
			if applied[p] < end {
				return fmt.Errorf("partition %d is applied up to %d of %d", p, applied[p], end)
			}
		}
		return nil
	})
}

// seal ends the live generations and returns once all of them are blocks on the consumer's disk.
func (in *installation) seal() (offsets map[int32]int64) {
	in.t.Helper()
	before := in.sealed()
	offsets, err := in.process.producer.Seal(context.Background())
	require.NoError(in.t, err)
	in.eventually(func() error {
		if n := in.sealed() - before; n < uint64(len(offsets)) {
			return fmt.Errorf("%d generations are sealed, want %d", n, len(offsets))
		}
		return nil
	})
	return offsets
}

// ship returns once everything before the seals is in the bucket and the readers know.
func (in *installation) ship(offsets map[int32]int64) {
	in.t.Helper()
	in.gate.open()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(in.t, waitCommitted(ctx, in.process.log, offsets))
	require.NoError(in.t, in.process.catalog.Sync(ctx))
}

// compact lets the compactor work, and returns once nothing of the tenants is left to merge.
func (in *installation) compact(tenants []schema.Tenant) {
	in.t.Helper()
	in.merging.open()
	cfg := plan.Default()
	cfg.Settle = 1
	in.eventually(func() error {
		for _, tenant := range tenants {
			blocks, _ := in.process.catalog.Snapshot(tenant)
			if jobs, _ := plan.Jobs(time.Now().UnixMilli(), blocks, cfg); len(jobs) > 0 {
				return fmt.Errorf("%d merges of tenant %s are left", len(jobs), tenant)
			}
		}
		return nil
	})
}

// sealed is how many generations the consumer has sealed.
func (in *installation) sealed() uint64 {
	in.t.Helper()
	families, err := in.process.reg.Gather()
	require.NoError(in.t, err)
	for _, f := range families {
		if f.GetName() == "sluice_consumer_seal_seconds" {
			return f.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	in.t.Fatal("no metric sluice_consumer_seal_seconds")
	return 0
}

// gate holds up uploads while it is shut.
type gate struct {
	mu      sync.Mutex
	waiting chan struct{} // guarded by mu; nil = open
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting == nil {
		g.waiting = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting != nil {
		close(g.waiting)
		g.waiting = nil
	}
}

func (g *gate) pass(ctx context.Context) error {
	g.mu.Lock()
	waiting := g.waiting
	g.mu.Unlock()
	if waiting == nil {
		return nil
	}
	select {
	case <-waiting:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type gatedBucket struct {
	objstore.InstrumentedBucket
	gate *gate
}

func (b gatedBucket) Upload(ctx context.Context, name string, r io.Reader, opts ...objstore.ObjectUploadOption) error {
	if err := b.gate.pass(ctx); err != nil {
		return err
	}
	return b.InstrumentedBucket.Upload(ctx, name, r, opts...)
}
