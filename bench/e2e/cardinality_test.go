package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// A cardinality bomb against a tenant at its limit: the bomb is refused, the series that are there go on, through kills and
// restarts that empty the producer's memory, until the limit is raised in the file, and then the bomb is data like any other.
func TestCardinalityBomb(t *testing.T) {
	enabled(t)
	t.Parallel()
	const (
		limit  = 5000
		batch  = 500
		bombed = 2000 // series that are tried in each flood
	)
	dir := workDir(t)
	file := filepath.Join(dir, "limits.yaml")
	limits := func(n int) {
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "overrides:\n  shop: {max_global_series_per_user: %d}\n", n), 0o644))
	}
	limits(limit)
	s := newInstance(t, dir, "all", "--log.partitions", "4", "--tenancy.required", "--self-monitoring.tenant", "",
		"--producer.tick-interval", "1s", "--limits.file", file)
	s.start()
	s.ready(time.Minute)

	// send sends a sample of each series and returns how many were refused, and whether the whole was to be sent again.
	send := func(metric string, from, to int) (refused int, again bool) {
		t.Helper()
		now := time.Now()
		var list []prompb.TimeSeries
		for n := from; n < to; n++ {
			list = append(list, series(metric, 1, now, "n", strconv.Itoa(n)))
		}
		r := s.push("shop", list...)
		switch r.status {
		case 204:
			return 0, false
		case 503:
			return 0, true
		}
		require.Equal(t, 400, r.status, string(r.body))
		require.Contains(t, string(r.body), string(schema.ErrMaxSeriesPerUser))
		refused, err := strconv.Atoi(strings.Fields(string(r.body))[0])
		require.NoError(t, err, string(r.body))
		return refused, false
	}
	// all sends from..to-1 in batches, each until it is answered for good.
	all := func(metric string, from, to int) (refused int) {
		t.Helper()
		for at := from; at < to; at += batch {
			eventually(t, "the request is answered for good", 90*time.Second, func() error {
				n, again := send(metric, at, min(at+batch, to))
				refused += n
				if again {
					return fmt.Errorf("503")
				}
				return nil
			})
		}
		return refused
	}
	count := func(metric string) string {
		t.Helper()
		res, err := instant(s.url("/prometheus"), "shop", "count("+metric+") or vector(0)", time.Now())
		require.NoError(t, err)
		return res.one(t)
	}
	counted := func(want float64) {
		t.Helper()
		eventually(t, "the consumers have counted", time.Minute, func() error {
			if n, _, err := s.metric("sluice_consumer_active_series"); err != nil || n != want {
				return fmt.Errorf("%v active series, %v", n, err)
			}
			return nil
		})
	}

	require.Zero(t, all("orders", 0, limit), "up to the limit everything is new and fits")
	require.Equal(t, bombed, all("bomb", 0, bombed))
	counted(limit)
	require.Equal(t, bombed, all("bomb", 0, bombed))
	require.Zero(t, all("orders", 0, limit), "what is there goes on")

	for _, stop := range []func(){s.stop, s.kill, s.kill} {
		stop()
		s.start()
		s.ready(time.Minute)
		require.Equal(t, bombed, all("bomb", 0, bombed), "the first to come after the restart is the bomb")
		require.Zero(t, all("orders", 0, limit), "series that were accepted before are known")
	}
	require.Equal(t, strconv.Itoa(limit), count("orders"))
	require.Equal(t, "0", count("bomb"))
	require.Zero(t, s.mustMetric("sluice_consumer_capped_samples_total"))

	limits(limit + bombed)
	eventually(t, "the raised limit is read", time.Minute, func() error {
		if refused, _ := send("bomb", 0, bombed); refused > 0 {
			return fmt.Errorf("%d refused", refused)
		}
		return nil
	})
	require.Equal(t, strconv.Itoa(bombed), count("bomb"))
	require.Zero(t, all("orders", 0, limit))
	require.Equal(t, 1, all("bomb", bombed-1, bombed+1), "and it is exact again")
	require.Zero(t, s.mustMetric("sluice_consumer_dead_letters_total"))
	s.seal(time.Minute)
	counted(limit + bombed) // the end of a generation is not the end of a series
	require.Zero(t, all("orders", 0, limit))
	report(t, "a cardinality bomb", map[string]any{"limit": limit, "bomb": bombed, "refused_samples": 5 * bombed})
	stopClean(t, s)
}
