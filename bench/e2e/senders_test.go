package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// samplesOf returns the raw samples of the one series that the selector names, in order of time.
func samplesOf(t *testing.T, s *instance, tenant, selector string) (values []string) {
	t.Helper()
	r, err := instant(s.url("/prometheus"), tenant, selector+"[1h]", time.Now().Add(time.Minute))
	require.NoError(t, err, selector)
	require.Len(t, r, 1, selector)
	for _, points := range r {
		var times []int64
		for at := range points {
			times = append(times, at)
		}
		slices.Sort(times)
		for _, at := range times {
			values = append(values, points[at])
		}
	}
	return values
}

// sdkSeries are the samples that testdata/otel.cjs exports in its three rounds. Its shutdown exports the last once more.
var sdkSeries = map[string][]string{
	`orders_placed_total{http_route="/cart",job="eu/shop",instance="js"}`: {"3", "9", "18"},
	`queue_depth{job="eu/shop"}`:                                          {"4", "-1", "3"},
	`temperature_celsius{room="é"}`:                                       {"20.5", "21", "21.5"},
	`req_latency_seconds_count{http_route="/cart"}`:                       {"4", "8", "12"},
	`req_latency_seconds_sum{http_route="/cart"}`:                         {"55.55", "166.64999999999998", "333.29999999999995"},
	`req_latency_seconds_bucket{le="0.1"}`:                                {"1", "2", "2"},
	`req_latency_seconds_bucket{le="1"}`:                                  {"2", "4", "5"},
	`req_latency_seconds_bucket{le="10"}`:                                 {"3", "6", "8"},
	`req_latency_seconds_bucket{le="+Inf"}`:                               {"4", "8", "12"},
	`target_info{job="eu/shop",host_name="node-7"}`:                       {"1", "1", "1"},
	`exp_latency_seconds{job="eu/shop"}`:                                  nil, // see requireExponential
}

// TestOTelSDK: what a real OpenTelemetry SDK exports is there, sample by sample, in both encodings.
func TestOTelSDK(t *testing.T) {
	enabled(t)
	node := tool(t, "node", "make test installs what it runs")
	modules := filepath.Join(repo, ".cache", "senders", "node_modules")
	if _, err := os.Stat(filepath.Join(modules, "@opentelemetry", "sdk-metrics")); err != nil {
		skip(t, "the OpenTelemetry SDK is not in "+modules+"; make test installs it where npm is at hand")
	}
	dir := workDir(t)
	s := newInstance(t, dir, "all", "--self-monitoring.tenant", "self")
	s.start()
	s.ready(60 * time.Second)
	for _, tc := range []struct{ encoding, compression, path string }{
		{"proto", "gzip", "/otlp/v1/metrics"},
		{"json", "none", "/api/v1/otlp/v1/metrics"},
	} {
		t.Run(tc.encoding, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			t.Setenv("NODE_PATH", modules)
			out, exit := execute(t, ctx, node, filepath.Join("testdata", "otel.cjs"), s.url(tc.path), tc.encoding, tc.compression)
			require.Zero(t, exit, out)
			for _, state := range []string{"heads", "blocks"} {
				for selector, want := range sdkSeries {
					got := samplesOf(t, s, tc.encoding, selector)
					if want == nil {
						requireExponential(t, got)
						continue
					}
					require.GreaterOrEqual(t, len(got), 3, selector)
					require.Equal(t, want, got[:3], "%s from %s", selector, state)
					for _, again := range got[3:] {
						require.Equal(t, want[2], again, selector)
					}
				}
				if state == "heads" {
					s.seal(time.Minute)
				}
			}
			req, err := http.NewRequest(http.MethodGet, s.url("/prometheus/api/v1/metadata?metric=orders_placed_total"), nil)
			require.NoError(t, err)
			r, err := send(context.Background(), req, tc.encoding)
			require.NoError(t, err)
			require.Contains(t, string(r.body), "Orders so far.")
			require.Contains(t, string(r.body), "counter")
		})
	}
	s.stop()
}

// requireExponential checks the native histogram of three rounds.
func requireExponential(t *testing.T, got []string) {
	t.Helper()
	require.GreaterOrEqual(t, len(got), 3)
	for i, sum := range []float64{55.55, 166.65, 333.3} {
		var h struct {
			Count, Sum string
			Buckets    [][]any
		}
		require.NoError(t, json.Unmarshal([]byte(got[i]), &h), got[i])
		require.Equal(t, strconv.Itoa(4*(i+1)), h.Count)
		v, err := strconv.ParseFloat(h.Sum, 64)
		require.NoError(t, err)
		require.InDelta(t, sum, v, 1e-9)
		require.GreaterOrEqual(t, len(h.Buckets), 4)
	}
}

// scraped is an exporter that remembers what it has told. Values differ from scrape to scrape.
type scraped struct {
	*httptest.Server
	mu     sync.Mutex // guards told
	told   [][]string // by scrape, the values of each of its series
	series []string
}

func startScraped(t *testing.T) *scraped {
	s := &scraped{series: []string{
		`probe_total{code="200"}`, `probe_seconds{quantile="0.5"}`, `probe_state`, `probe_size_bucket{le="+Inf"}`, `probe_size_count`, `probe_size_sum`,
	}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		n := len(s.told) + 1
		values := []string{
			strconv.Itoa(7 * n), strconv.FormatFloat(1/float64(n), 'g', -1, 64), strconv.Itoa(n % 2), strconv.Itoa(n), strconv.Itoa(n), strconv.FormatFloat(0.1*float64(n), 'g', -1, 64),
		}
		s.told = append(s.told, values)
		fmt.Fprintf(w, "# HELP probe_total Probes.\n# TYPE probe_total counter\n")
		for i, name := range s.series {
			fmt.Fprintf(w, "%s %s\n", name, values[i])
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *scraped) scrapes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.told)
}

// watched is a proxy that notes how the senders send.
type watched struct {
	*httptest.Server
	mu   sync.Mutex // guards seen
	seen map[string]int
}

func startWatched(t *testing.T, target string) *watched {
	t.Helper()
	to, err := url.Parse(target)
	require.NoError(t, err)
	w := &watched{seen: map[string]int{}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ModifyResponse: func(resp *http.Response) error {
			h := resp.Request.Header
			w.mu.Lock()
			defer w.mu.Unlock()
			w.seen[fmt.Sprintf("%d %s %s version=%s", resp.StatusCode, h.Get("Content-Type"), h.Get("Content-Encoding"), h.Get("X-Prometheus-Remote-Write-Version"))]++
			return nil
		},
	}
	w.Server = httptest.NewServer(proxy)
	t.Cleanup(w.Close)
	return w
}

// requests returns what was seen, sorted.
func (w *watched) requests() (all []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, n := range w.seen {
		all = append(all, fmt.Sprintf("%s: %d", what, n))
	}
	sort.Strings(all)
	return all
}

// TestScrapers: what vmagent and Debian's Prometheus scrape is there, sample by sample and nothing twice.
func TestScrapers(t *testing.T) {
	enabled(t)
	beside(t, others)
	for _, sender := range []struct {
		name  string
		start func(t *testing.T, dir, config, target, push string) *process
		// header: it sends a tenant. Debian's Prometheus 2.42 shows the headers of its configuration and does not send them.
		header bool
	}{
		{"vmagent", func(t *testing.T, dir, config, _, push string) *process {
			return launch(t, dir, "vmagent", nil, tool(t, "vmagent", aptHint), "-promscrape.config="+config, "-remoteWrite.url="+push+"/api/v1/push",
				"-remoteWrite.headers=X-Scope-OrgID:vmagent", "-remoteWrite.tmpDataPath="+filepath.Join(dir, "vmagent"), "-remoteWrite.flushInterval=200ms", "-httpListenAddr="+freeAddr(t))
		}, true},
		{"prometheus", func(t *testing.T, dir, config, _, push string) *process {
			return launch(t, dir, "prometheus", nil, tool(t, "prometheus", aptHint), "--config.file="+config,
				"--storage.tsdb.path="+filepath.Join(dir, "prometheus"), "--web.listen-address="+freeAddr(t), "--log.level=warn")
		}, false},
	} {
		t.Run(sender.name, func(t *testing.T) {
			dir := workDir(t)
			s := newInstance(t, dir, "all", "--self-monitoring.tenant", "self")
			s.start()
			s.ready(60 * time.Second)
			push := startWatched(t, s.url(""))
			exporter := startScraped(t)
			target := strings.TrimPrefix(exporter.URL, "http://")
			config := filepath.Join(dir, "scrape.yml")
			text := fmt.Sprintf("global: {scrape_interval: 300ms, scrape_timeout: 250ms}\nscrape_configs: [{job_name: probe, static_configs: [{targets: ['%s']}]}]\n", target)
			tenant := "vmagent"
			if !sender.header {
				tenant = ""
				text += fmt.Sprintf("remote_write: [{url: '%s/api/v1/push', queue_config: {batch_send_deadline: 200ms}}]\n", push.URL)
			}
			require.NoError(t, os.WriteFile(config, []byte(text), 0o644))
			p := sender.start(t, dir, config, target, push.URL)
			const enough = 30
			eventually(t, "scrapes", 40*time.Second, func() error {
				if n := exporter.scrapes(); n < enough {
					return fmt.Errorf("%d scrapes", n)
				}
				return nil
			})
			// On a busy machine the sender gives some scrapes up. It says so: up is 0 then.
			failed := func() (n int) {
				for _, v := range samplesOf(t, s, tenant, `up{job="probe"}`) {
					if v == "0" {
						n++
					}
				}
				return n
			}
			eventually(t, "delivered", time.Minute, func() error {
				for _, name := range append([]string{`up{job="probe"}`}, exporter.series...) {
					r, err := instant(s.url("/prometheus"), tenant, name+"[1h]", time.Now())
					if err != nil {
						return err
					}
					points := 0
					for _, all := range r {
						points = len(all)
					}
					if points == 0 || points+failed() < enough-2 {
						return fmt.Errorf("%d samples of %s", points, name)
					}
				}
				return nil
			})
			p.kill()
			var taken []int // which scrapes, by the value of the first series, which tells their number
			for _, v := range samplesOf(t, s, tenant, exporter.series[0]) {
				n := slices.IndexFunc(exporter.told, func(values []string) bool { return values[0] == v })
				if v == "NaN" { // a stale marker at the end, if it was quick
					continue
				}
				require.GreaterOrEqual(t, n, 0, "nobody has told %s", v)
				if len(taken) > 0 {
					require.Greater(t, n, taken[len(taken)-1], "in order, and none twice")
				}
				taken = append(taken, n)
			}
			require.NotEmpty(t, taken)
			for i, name := range exporter.series {
				got := samplesOf(t, s, tenant, name)
				require.GreaterOrEqual(t, len(got)+failed(), enough-2, name)
				for n, v := range got[:min(len(got), len(taken))] {
					if v != "NaN" || n < len(got)-1 {
						require.Equal(t, exporter.told[taken[n]][i], v, "%s, scrape %d", name, taken[n])
					}
				}
			}
			requests := push.requests()
			t.Logf("%s sent: %s", sender.name, strings.Join(requests, "; "))
			for _, r := range requests {
				require.True(t, strings.HasPrefix(r, "204 "), r)
			}
			s.stop()
		})
	}
}
