package e2e

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/bench/read"
)

// TestMonth asks for all of a long time in the bucket: blocks of many days in which pods came and went, so that there are far
// more series in the whole than at any moment. With SLUICE_MONTH_DAYS=30 SLUICE_MONTH_SERIES=1000000 it is a month of a
// million series. Every query is asked right after a start and once more; the answer must be complete, and memory bounded.
func TestMonth(t *testing.T) {
	enabled(t)
	h := &read.History{
		Start: time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -40), Interval: 5 * time.Minute,
		Days: number(t, "SLUICE_MONTH_DAYS", 3), Series: number(t, "SLUICE_MONTH_SERIES", 3000),
	}
	dir := workDir(t)
	lim := filepath.Join(dir, "limits.yaml")
	require.NoError(t, os.WriteFile(lim, []byte("default: {max_fetched_chunks_per_query: 0}\n"), 0o644))
	memory := int64(number(t, "SLUICE_MONTH_MEMORY_MB", 1024)) << 20
	s := newInstance(t, dir, "all", "--self-monitoring.tenant", "", "--limits.file", lim, "--compactor.orphan-delay", "1ms", "--compactor.interval", "1s",
		"--reader.cache-bytes", fmt.Sprint(memory/4), "--reader.query-timeout", "10m")
	s.env = []string{fmt.Sprintf("GOMEMLIMIT=%d", memory)}
	began := time.Now()
	w, err := h.Write(context.Background(), filepath.Join(s.data, "bucket", "anonymous"))
	require.NoError(t, err)
	fig := map[string]any{
		"days": h.Days, "series": w.Series, "series_of_blocks": w.SeriesOfBlocks, "samples": w.Samples, "bucket_mb": w.Bytes >> 20,
		"written_seconds": time.Since(began).Seconds(), "memory_limit_mb": memory >> 20,
	}
	s.start()
	s.ready(60 * time.Second)
	eventually(t, "the blocks are known", 2*time.Minute, func() error {
		if n := s.mustMetric("sluice_catalog_blocks"); int(n) != h.Days {
			return fmt.Errorf("%v blocks", n)
		}
		return nil
	})
	store := func() (gets, size float64) { // of this life of the process
		gets, _, err := s.metric("sluice_store_requests_total") // there is none before the first
		require.NoError(t, err)
		size, _, err = s.metric("sluice_store_fetched_bytes_total")
		require.NoError(t, err)
		return gets, size
	}
	steps := h.Days*24 + 1
	for _, q := range []struct {
		name, expr string
		series     int // of the answer; -1 = many
	}{
		{"one_namespace", `sum by (namespace) (rate(http_requests_total{namespace="customer-facing-07"}[30m]))`, 1},
		{"counters_by_namespace", `sum by (namespace) (rate(http_requests_total[30m]))`, -1},
		{"counters_by_pod", `sum by (pod) (rate(http_requests_total[30m]))`, -1},
		{"everything_by_namespace", `sum by (namespace) ({__name__=~".+"})`, -1},
	} {
		s.stop()
		s.start()
		s.ready(60 * time.Second)
		form := url.Values{"query": {q.expr}, "start": {seconds(h.Start)}, "end": {seconds(h.End())}, "step": {"3600"}}
		var answers [2]result
		for i, when := range []string{"cold", "warm"} {
			gets, size := store()
			begun := time.Now()
			e, err := apiWithin(10*time.Minute, s.url("/prometheus"), "", "/api/v1/query_range", form, map[string]string{"Cache-Control": "no-store"})
			require.NoError(t, err, q.expr)
			fig[q.name+"_"+when+"_s"] = time.Since(begun).Seconds()
			getsNow, sizeNow := store()
			fig[q.name+"_"+when+"_gets"], fig[q.name+"_"+when+"_mb"] = getsNow-gets, (sizeNow-size)/(1<<20)
			answers[i], err = decode(e.Data)
			require.NoError(t, err)
		}
		_, peak := s.memory()
		fig[q.name+"_peak_rss_mb"] = peak >> 20
		require.NoError(t, equal(answers[0], answers[1]), q.expr)
		if q.series >= 0 {
			require.Len(t, answers[0], q.series)
		}
		most := 0
		for _, points := range answers[0] {
			most = max(most, len(points))
		}
		require.GreaterOrEqual(t, most, min(24, steps-2), "%s: points of the longest series of the answer", q.expr)
		require.Less(t, peak, memory*2, "%s: bytes of memory, with a limit of %d for Go's heap", q.expr, memory)
		t.Logf("%s: %d series, RSS %d MB, %.1f s cold", q.name, len(answers[0]), peak>>20, fig[q.name+"_cold_s"])
	}
	report(t, "a long range in the bucket", fig)
	s.stop()
}
