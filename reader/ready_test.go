package reader

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"

	"sluice/internal/catalog"
	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/internal/web"
	"sluice/schema"
)

// BenchmarkReady is a reader's way from its start to the first query with 100,000 blocks of 100 tenants in the catalogue.
func BenchmarkReady(b *testing.B) {
	const blocks, tenants = 100_000, 100
	logger := slog.New(slog.DiscardHandler)
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: b.TempDir(), Partitions: 4, Fsync: log.FsyncOff}, logger, nil)
	require.NoError(b, err)
	defer l.Close()
	ctx := context.Background()
	var recs []log.Record
	bytes := 0
	for i := range blocks {
		var id ulid.ULID
		require.NoError(b, id.SetTime(uint64(1_700_000_000_000+i)))
		id[15] = byte(i)
		e := schema.BlockEntry{
			ID: id, Tenant: schema.Tenant(fmt.Sprint("tenant-", i%tenants)), MinTime: int64(i/tenants) * 7_200_000, MaxTime: int64(i/tenants+1) * 7_200_000,
			Level: 1, Series: 10_000, Samples: 4_800_000, Bytes: 12_345_678, Sources: []ulid.ULID{id}, State: schema.BlockLive, At: 1_700_000_000_000,
			Ranges: []schema.LogRange{{TopicID: "0123456789abcdef0123456789abcdef", Partition: int32(i % 4), From: int64(i), To: int64(i + 1)}},
		}
		for _, path := range []string{"chunks/000001", "index", "meta.json"} {
			e.Files = append(e.Files, schema.BlockFile{Path: path, Size: 1234567, Hash: &schema.FileHash{Func: "SHA256", String: fmt.Sprintf("%064x", i)}})
		}
		value, err := json.Marshal(e)
		require.NoError(b, err)
		bytes += len(value)
		recs = append(recs, log.Record{Key: fmt.Appendf(nil, "block/%s/%s", e.Tenant, e.ID), Value: value})
		if len(recs) == 1000 {
			require.NoError(b, l.Append(ctx, log.TopicBlocks, recs))
			recs = recs[:0]
		}
	}
	b.Logf("%d bytes an entry", bytes/blocks)
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		run, cancel := context.WithCancel(ctx)
		cat, control := catalog.New(l, logger, nil), log.NewTable(l, log.TopicControl)
		dir := members.NewDirectory(control, logger)
		r, err := New(Config{}, l, cat, objstore.NewInMemBucket(), dir, func(members.Member) fetch.Source { return nil }, &fakeLimits{}, web.Tenancy{}, logger, nil)
		require.NoError(b, err)
		done := make(chan struct{}, 3)
		for _, f := range []func(context.Context) error{cat.Run, control.Run, r.Run} {
			go func() {
				_ = f(run)
				done <- struct{}{}
			}()
		}
		for r.Ready() != nil {
			time.Sleep(time.Millisecond)
		}
		ready := time.Since(start)
		q, err := r.Querier(0, 1)
		require.NoError(b, err)
		_, _, err = q.LabelNames(asTenant("nobody"), nil)
		require.NoError(b, err)
		require.NoError(b, q.Close())
		b.ReportMetric(ready.Seconds(), "s-to-ready")
		b.ReportMetric((time.Since(start) - ready).Seconds(), "s-first-query")
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(int64(after.HeapInuse)-int64(before.HeapInuse))/(1<<20), "MiB")
		cancel()
		for range 3 {
			<-done
		}
	}
}
