package write

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
)

// TestLoad: both protocols carry the same series, each once per scrape, always in the same request.
func TestLoad(t *testing.T) {
	loads := map[int]*Load{}
	for _, version := range []int{1, 2} {
		l := &Load{Series: 100, Scrapes: 3, PerRequest: 30, Tenants: 3, Version: version}
		require.NoError(t, l.Build())
		require.Len(t, l.requests, 3)
		loads[version] = l
	}
	seen := map[string]int{}
	for scrape := range 3 {
		require.Len(t, loads[1].requests[scrape], 4)
		for i := range loads[1].requests[scrape] {
			r1, r2 := loads[1].requests[scrape][i], loads[2].requests[scrape][i]
			require.Equal(t, r1.tenant, r2.tenant)
			raw, err := snappy.Decode(nil, r1.body)
			require.NoError(t, err)
			var one prompb.WriteRequest
			require.NoError(t, one.Unmarshal(raw))
			raw, err = snappy.Decode(nil, r2.body)
			require.NoError(t, err)
			var two writev2.Request
			require.NoError(t, two.Unmarshal(raw))
			require.Len(t, one.Timeseries, r1.n)
			require.Len(t, two.Timeseries, r1.n)
			for j, ts := range one.Timeseries {
				require.Len(t, ts.Labels, 12)
				var text strings.Builder
				for k, l := range ts.Labels {
					require.Equal(t, l.Name, two.Symbols[two.Timeseries[j].LabelsRefs[2*k]])
					require.Equal(t, l.Value, two.Symbols[two.Timeseries[j].LabelsRefs[2*k+1]])
					text.WriteString(l.Name + "=" + l.Value + ",")
				}
				seen[text.String()]++
				require.Equal(t, ts.Samples[0].Value, two.Timeseries[j].Samples[0].Value)
				require.Equal(t, ts.Samples[0].Timestamp, two.Timeseries[j].Samples[0].Timestamp)
			}
		}
	}
	require.Len(t, seen, 100)
	for series, n := range seen {
		require.Equal(t, 3, n, series)
	}
}

// TestLoadOTLP: the same series, as OTLP has them.
func TestLoadOTLP(t *testing.T) {
	l := &Load{Series: 200, Scrapes: 2, PerRequest: 60, Version: ProtocolOTLP}
	require.NoError(t, l.Build())
	seen := map[string]int{}
	for _, requests := range l.requests {
		for _, r := range requests {
			z, err := gzip.NewReader(bytes.NewReader(r.body))
			require.NoError(t, err)
			raw, err := io.ReadAll(z)
			require.NoError(t, err)
			req := pmetricotlp.NewExportRequest()
			require.NoError(t, req.UnmarshalProto(raw))
			require.Equal(t, r.n, req.Metrics().DataPointCount())
			for _, rm := range req.Metrics().ResourceMetrics().All() {
				require.Equal(t, 2, rm.Resource().Attributes().Len())
				for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
					d := m.Sum().DataPoints().At(0)
					require.Equal(t, 9, d.Attributes().Len())
					pod, _ := d.Attributes().Get("pod")
					seen[m.Name()+pod.Str()]++
				}
			}
		}
	}
	require.Len(t, seen, 200)
	for series, n := range seen {
		require.Equal(t, 2, n, series)
	}
}

// TestPrint: medians, and ratios of the first target to the others.
func TestPrint(t *testing.T) {
	var all []Figures
	for i, cpu := range []float64{100, 900, 120, 1000, 500, 1000} {
		all = append(all, Figures{Target: []string{"ours", "theirs"}[i%2], Round: 1 + i/2, CPU: cpu, Peak: 3000, Idle: 1000, series: 10})
	}
	var out bytes.Buffer
	require.NoError(t, Print(&out, all))
	lines := strings.Split(out.String(), "\n")
	require.Equal(t, []string{"ours", "120"}, strings.Fields(lines[1])[:2])
	require.Equal(t, []string{"theirs", "1000"}, strings.Fields(lines[2])[:2])
	require.Contains(t, lines[1], "200", "bytes a series")
	require.Equal(t, []string{"ours", "/", "theirs", "0.12"}, strings.Fields(lines[3])[:4])
	require.Equal(t, 6, strings.Count(out.String(), `"target"`))
	require.NoError(t, Print(&out, nil))
}
