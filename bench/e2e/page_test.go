package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
)

// browse runs the browser's part of a scenario, browser/SPEC.spec.ts, against base. The spec may ask for what is in world
// (`world('stop')` in page.ts); it is done by the test's own goroutine. SLUICE_PAGE_SCREENSHOTS is a folder for pictures of every view.
func browse(t *testing.T, spec, base string, env []string, world map[string]func()) {
	t.Helper()
	node := tool(t, "node", aptHint)
	cli := filepath.Join(repo, "bench", "e2e", "browser", "node_modules", "@playwright", "test", "cli.js")
	if _, err := os.Stat(cli); err != nil {
		skip(t, "Playwright is not installed; make tools installs it")
	}
	chromium := tool(t, "chromium", aptHint)

	asked := make(chan func())
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		do, done := world[strings.TrimPrefix(r.URL.Path, "/")], make(chan struct{})
		if do == nil {
			http.NotFound(w, r)
			return
		}
		select {
		case asked <- func() { defer close(done); do() }:
		case <-ctx.Done():
		}
		select {
		case <-done:
		case <-ctx.Done():
		}
	})
	door := httptest.NewServer(handler)
	defer door.Close()
	defer cancel() // before the door waits for who stands in it

	cmd := exec.CommandContext(ctx, node, append([]string{cli, "test", spec + ".spec.ts"}, strings.Fields(os.Getenv("SLUICE_PAGE_ARGS"))...)...)
	cmd.Dir = filepath.Join(repo, "bench", "e2e", "browser")
	cmd.Env = append(os.Environ(), "BASE_URL="+base+"/", "WORLD="+door.URL, "CHROMIUM="+chromium, "PAGE_SCENARIO="+spec,
		"PAGE_SCREENSHOTS="+os.Getenv("SLUICE_PAGE_SCREENSHOTS"), "PAGE_OUTPUT="+filepath.Join(workDir(t), "playwright"), "FORCE_COLOR=0")
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the browser too
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	for {
		select {
		case do := <-asked:
			do()
		case err := <-exited:
			for line := range strings.Lines(out.String()) {
				if strings.HasPrefix(line, "SLUICE-FIGURES ") {
					fmt.Print(line)
				}
			}
			require.NoError(t, err, "%s", out.String())
			t.Logf("%s", out.String())
			return
		}
	}
}

// TestPageWithoutData: each view says what to do, and nothing throws.
func TestPageWithoutData(t *testing.T) {
	enabled(t)
	t.Parallel()
	s := newInstance(t, workDir(t), "all", "--self-monitoring.tenant", "")
	s.start()
	s.ready(time.Minute)
	browse(t, "nodata", s.url(""), nil, nil)
}

// TestPageFirstView: how long the first screen takes after `make run` is ready. It has the machine for itself.
func TestPageFirstView(t *testing.T) {
	enabled(t)
	s := newInstance(t, workDir(t), "all")
	begun := time.Now()
	s.start()
	s.ready(time.Minute)
	browse(t, "first", s.url(""), []string{fmt.Sprintf("READY_SECONDS=%.2f", time.Since(begun).Seconds())}, nil)
}

// fillPage pushes what the scenario of one tenant looks for: a counter of ten series over the last hour, a gauge and a native histogram, an HA
// pair, a metric that nobody asks for; blocks of hours ago that are merged; and samples that are refused.
func fillPage(t *testing.T, s *instance) {
	t.Helper()
	now := time.Now().Truncate(time.Second)
	accept := func(r reply) {
		t.Helper()
		require.Equal(t, 204, r.status, string(r.body))
	}
	old := now.Add(-10 * time.Hour).Truncate(2 * time.Hour)
	for part := range 2 { // two blocks of one window, which are merged, and one of the next
		var batch []prompb.TimeSeries
		for i := range 40 {
			at := old.Add(time.Duration(part*30+i) * time.Minute)
			batch = append(batch, series("page_old_total", float64(i), at, "part", fmt.Sprint(part)))
		}
		batch = append(batch, series("page_old_total", 1, old.Add(3*time.Hour), "part", "next"))
		accept(s.push("", grouped(batch)...))
		s.seal(time.Minute)
	}
	counter := make([]prompb.TimeSeries, 10)
	for i := range counter {
		counter[i] = series("page_requests_total", 0, now, "instance", fmt.Sprintf("host-%d", i), "job", "web")
		counter[i].Samples = nil
		for at := now.Add(-time.Hour); !at.After(now); at = at.Add(15 * time.Second) {
			counter[i].Samples = append(counter[i].Samples, prompb.Sample{Timestamp: at.UnixMilli(), Value: float64(i+1) * at.Sub(now.Add(-time.Hour)).Seconds()})
		}
	}
	accept(s.push("", counter...))
	native := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "page_latency_seconds"}, {Name: "job", Value: "web"}}}
	for i := range 20 {
		h := tsdbutil.GenerateTestHistogram(int64(i + 1))
		h.CounterResetHint = histogram.UnknownCounterReset
		native.Histograms = append(native.Histograms, prompb.FromIntHistogram(now.Add(time.Duration(i-20)*15*time.Second).UnixMilli(), h))
	}
	accept(s.push("", native, series("page_temperature_celsius", 21.5, now, "room", "server"), series("page_forgotten", 1, now)))
	for _, replica := range []string{"replica-a", "replica-b"} {
		r := s.push("", series("page_pair", 1, now, "cluster", "pair", "__replica__", replica))
		require.Less(t, r.status, 300, string(r.body))
	}
	require.Equal(t, 400, s.push("", labelled("job", "nameless")).status)
}

// grouped puts samples of equal labels into one series.
func grouped(list []prompb.TimeSeries) []prompb.TimeSeries {
	var out []prompb.TimeSeries
	at := map[string]int{}
	for _, ts := range list {
		key := fmt.Sprint(ts.Labels)
		if i, ok := at[key]; ok {
			out[i].Samples = append(out[i].Samples, ts.Samples...)
			continue
		}
		at[key] = len(out)
		out = append(out, ts)
	}
	return out
}

// TestPageOneTenant: what every view shows is what was pushed and what the API says, with and without a mouse.
func TestPageOneTenant(t *testing.T) {
	enabled(t)
	t.Parallel()
	dir := workDir(t)
	limits := filepath.Join(dir, "limits.yaml")
	require.NoError(t, os.WriteFile(limits, []byte("default: {accept_ha_samples: true}\n"), 0o644))
	s := newInstance(t, dir, "all", "--limits.file", limits, "--self-monitoring.interval", "1s", "--producer.tick-interval", "1s",
		"--compactor.interval", "1s", "--compactor.settle", "1m")
	s.start()
	s.ready(time.Minute)
	fillPage(t, s)
	more := 0
	browse(t, "onetenant", s.url(""), nil, map[string]func(){
		"push": func() { // so that something is live
			more++
			r := s.push("", series("page_live_total", float64(more), time.Now(), "job", "live"))
			require.Equal(t, 204, r.status, string(r.body))
		},
	})
}

// TestPageThousandTenants: a tenant is found among 1,000.
func TestPageThousandTenants(t *testing.T) {
	enabled(t)
	t.Parallel()
	s := newInstance(t, workDir(t), "all", "--self-monitoring.tenant", "", "--tenancy.federation", "--producer.tick-interval", "1s")
	s.start()
	s.ready(time.Minute)
	now := time.Now()
	for i := range 1000 {
		list := []prompb.TimeSeries{series("tenant_number", float64(i), now)}
		if i == 777 { // the heaviest
			for k := range 50 {
				list = append(list, series("tenant_many", 1, now, "k", fmt.Sprint(k)))
			}
		}
		r := s.push(fmt.Sprintf("tenant-%03d", i), list...)
		require.Equal(t, 204, r.status, string(r.body))
	}
	browse(t, "thousand", s.url(""), nil, nil)
}

// TestPageZoneDown: with one of two zones away the page says so and queries are answered; without both it says what is missing.
func TestPageZoneDown(t *testing.T) {
	enabled(t)
	t.Parallel()
	_, shared := kafka(t)
	dir := workDir(t)
	conf, bucket := filepath.Join(dir, "objstore.yaml"), filepath.Join(dir, "bucket")
	require.NoError(t, os.MkdirAll(bucket, 0o755))
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, "type: FILESYSTEM\nconfig:\n  directory: %s\n", bucket), 0o644))
	c := newCluster(t, dir, append(shared, "--objstore.config-file", conf, "--log.partitions", "2", "--self-monitoring.tenant", "")...)
	producer := c.add("producer", "", "producer-0", "--producer.tick-interval", "1s")
	zones := map[string]*member{}
	for _, zone := range []string{"zone-a", "zone-b"} {
		zones[zone] = c.add("consumer", zone, "consumer-"+zone, "--consumer.zone", zone, "--consumer.session-timeout", "10s")
	}
	c.add("compactor", "", "compactor-0")
	reader := c.add("reader", "", "reader-0")
	c.ready(time.Minute)
	r := producer.push("", series("zoned", 7, time.Now()), series("zoned_too", 8, time.Now()))
	require.Equal(t, 204, r.status, string(r.body))
	eventually(t, "the reader answers", time.Minute, func() error {
		r, err := instant(reader.url("/prometheus"), "", "zoned", time.Now())
		if err == nil && len(r) != 1 {
			err = fmt.Errorf("%d series", len(r))
		}
		return err
	})
	browse(t, "zonedown", reader.url(""), nil, map[string]func(){
		"stop-a": func() { zones["zone-a"].kill() },
		"stop-b": func() { zones["zone-b"].kill() },
		"start": func() {
			for _, m := range zones {
				if !m.running() {
					m.start()
				}
			}
			for _, m := range zones {
				m.ready(time.Minute)
			}
		},
	})
}

// TestPageBucketAway: what needs the bucket is an error with a way to try again, and then an answer.
func TestPageBucketAway(t *testing.T) {
	enabled(t)
	t.Parallel()
	dir := workDir(t)
	store := startS3(t, dir, seed(t))
	store.retries(2) // as what the page does while it waits is the same for one second as for ten
	limits := filepath.Join(dir, "limits.yaml")
	require.NoError(t, os.WriteFile(limits, []byte("default: {max_fetched_series_per_query: 20}\n"), 0o644))
	s := newInstance(t, dir, "all", append(never(), "--limits.file", limits, "--objstore.config-file", store.yaml, "--self-monitoring.tenant", "",
		"--consumer.retain-shipped", "1s", "--log.partitions", "1")...)
	s.start()
	s.ready(time.Minute)
	old := time.Now().Add(-5 * time.Hour)
	for i := range 30 {
		r := s.push("", series("page_stored", float64(i), old.Add(time.Duration(i)*time.Second), "i", fmt.Sprint(i%10)), series("page_many", 1, time.Now(), "i", fmt.Sprint(i)))
		require.Equal(t, 204, r.status, string(r.body))
	}
	s.seal(time.Minute)
	s.stop() // and with it what it remembers of the block
	s.start()
	s.ready(time.Minute)
	browse(t, "errors", s.url(""), nil, map[string]func(){
		"bucket-away": store.kill,
		"bucket-back": store.start,
		"stop":        s.kill,
		"start":       func() { s.start(); s.ready(time.Minute) },
	})
}

// TestPageRights: everybody sees what they may, and is told why not.
func TestPageRights(t *testing.T) {
	enabled(t)
	t.Parallel()
	dir := workDir(t)
	g := newGuarded(t, dir)
	g.users(t, map[string]string{
		"operator": "tenants: ['*'], rights: [read, write, admin]",
		"admin":    "rights: [admin]",
		"reader":   "tenants: [team-a], rights: [read]",
		"writer":   "tenants: [team-a], rights: [write]",
		"several":  "tenants: ['team-*', own], default_tenant: own, rights: [read, write]",
	})
	s := newInstance(t, dir, "all", "--auth.users-file", g.path("users.yaml"), "--self-monitoring.tenant", "team-self", "--self-monitoring.interval", "1s")
	s.start()
	s.ready(time.Minute)
	for _, tenant := range []string{"team-a", "team-b", "other", "own"} {
		r := g.do(t, http.MethodPost, s.url("/api/v1/push"), "operator", tenant, writeRequest(t, series("page_whose", 1, time.Now(), "tenant", tenant)))
		require.Equal(t, 204, r.status, string(r.body))
	}
	browse(t, "rights", s.url(""), []string{"PASSWORD=right", "READER_TOKEN=" + token("reader")}, nil)
}

// TestPageSmooth: frame times of a graph of 200 series with 2,000 points each. It has the machine for itself.
func TestPageSmooth(t *testing.T) {
	enabled(t)
	s := newInstance(t, workDir(t), "all", "--self-monitoring.tenant", "")
	s.start()
	s.ready(time.Minute)
	now := time.Now().Truncate(time.Second)
	for from := 0; from < 200; from += 20 {
		var list []prompb.TimeSeries
		for i := from; i < from+20; i++ {
			ts := series("page_wave", 0, now, "i", fmt.Sprintf("%03d", i))
			ts.Samples = nil
			for k := range 2000 {
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: now.Add(time.Duration(k-2000) * time.Second).UnixMilli(), Value: float64(i) + float64((k*(i+7))%97)/97})
			}
			list = append(list, ts)
		}
		r := s.push("", list...)
		require.Equal(t, 204, r.status, string(r.body))
	}
	browse(t, "smooth", s.url(""), []string{fmt.Sprintf("NOW=%d", now.Unix())}, nil)
}
