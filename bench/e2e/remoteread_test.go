package e2e

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
)

// startReader runs a Prometheus that has nothing but a remote_read at readURL.
func startReader(t *testing.T, dir, name, readURL string, recent bool) (base string) {
	t.Helper()
	binary := tool(t, name, aptHint)
	addr := freeAddr(t)
	folder := filepath.Join(dir, fmt.Sprint(name, recent))
	require.NoError(t, os.MkdirAll(folder, 0o755))
	cfg := filepath.Join(folder, "prometheus.yml")
	require.NoError(t, os.WriteFile(cfg, fmt.Appendf(nil, `global:
  external_labels: {cluster: here}
remote_read:
  - url: %s
    read_recent: %t
    filter_external_labels: true
`, readURL, recent), 0o644))
	launch(t, dir, fmt.Sprint(name, recent), nil, binary, "--config.file="+cfg, "--storage.tsdb.path="+filepath.Join(folder, "data"),
		"--web.listen-address="+addr, "--log.level=warn")
	base = "http://" + addr
	eventually(t, "Prometheus is ready", 30*time.Second, func() error { return expect(context.Background(), base+"/-/ready", "", 200) })
	return base
}

// TestPrometheusReadsFromUs: Prometheus 2 and 3 answer PromQL from what is here alone, over a week, from heads and from blocks,
// floats and native histograms, and only of series with their external labels. The tenant is anonymous: 2.42 does not send the
// headers of a remote_read.
func TestPrometheusReadsFromUs(t *testing.T) {
	enabled(t)
	dir := workDir(t)
	s := newInstance(t, dir, "all")
	s.start()
	s.ready(60 * time.Second)
	now := time.Now().Truncate(time.Minute)
	from := now.Add(-7 * 24 * time.Hour)
	var all []prompb.TimeSeries
	for _, cluster := range []string{"here", "there"} {
		floats := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "far_total"}, {Name: "cluster", Value: cluster}}}
		native := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "far_seconds"}, {Name: "cluster", Value: cluster}}}
		n := 0
		for at := from; !at.After(now); at = at.Add(4 * time.Minute) {
			floats.Samples = append(floats.Samples, prompb.Sample{Timestamp: at.UnixMilli(), Value: float64(n)})
			if n%15 == 0 {
				h := tsdbutil.GenerateTestHistogram(int64(n))
				h.CounterResetHint = histogram.UnknownCounterReset
				native.Histograms = append(native.Histograms, prompb.FromIntHistogram(at.UnixMilli(), h))
			}
			n++
		}
		all = append(all, native, floats)
	}
	raw, err := (&prompb.WriteRequest{Timeseries: all}).Marshal()
	require.NoError(t, err)
	r := s.pushBody("", snappy.Encode(nil, raw), nil)
	require.Less(t, r.status, 300, string(r.body))
	_, err = instant(s.url("/prometheus"), "", "far_total", now) // a strong read: from here on all have it
	require.NoError(t, err)

	readers := map[string]string{}
	for _, name := range []string{"prometheus", "prometheus3"} {
		for _, recent := range []bool{true, false} {
			readers[fmt.Sprint(name, ", read_recent ", recent)] = startReader(t, dir, name, s.url("/prometheus/api/v1/read"), recent)
		}
	}
	for _, state := range []string{"heads", "blocks"} {
		for name, base := range readers {
			for _, q := range []struct{ read, ours string }{
				{`far_total`, `label_replace(far_total{cluster="here"}, "cluster", "", "", "")`},
				{`sum(rate(far_total[1h]))`, `sum(rate(far_total{cluster="here"}[1h]))`},
				{`far_total{cluster="there"}`, `far_total{cluster="there"}`},
				{`histogram_quantile(0.9, sum(rate(far_seconds[3h])))`, `histogram_quantile(0.9, sum(rate(far_seconds{cluster="here"}[3h])))`},
				{`histogram_count(far_seconds)`, `histogram_count(sum without (cluster) (far_seconds{cluster="here"}))`},
				{`max_over_time(far_total[6d])`, `max without (cluster) (max_over_time(far_total{cluster="here"}[6d]))`},
			} {
				if name[:11] == "prometheus," && q.read[:9] == "histogram" { // 2.42 has native histograms behind a flag
					continue
				}
				want, err := ranged(s.url("/prometheus"), "", q.ours, from.Add(4*time.Hour), now, time.Hour)
				require.NoError(t, err)
				got, err := ranged(base, "", q.read, from.Add(4*time.Hour), now, time.Hour)
				require.NoError(t, err, "%s, %s: %s", state, name, q.read)
				require.NotEmpty(t, want, q.ours)
				if err := equal(want, got); err != nil {
					e, _ := api(base, "", "/api/v1/query", url.Values{"query": {q.read}, "time": {seconds(now)}}, nil)
					t.Fatalf("%s, %s: %s: %v; it says %+v", state, name, q.read, err, e)
				}
			}
		}
		if state == "heads" {
			s.seal(time.Minute)
		}
	}
	s.stop()
}
