package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
)

// outcomes counts the answers to one kind of request by status; 0 stands for no answer at all.
type outcomes struct {
	mu       sync.Mutex
	byStatus map[int]int    // guarded by mu
	said     map[int]string // guarded by mu: an example
}

func newOutcomes() *outcomes { return &outcomes{byStatus: map[int]int{}, said: map[int]string{}} }

func (o *outcomes) add(status int, said string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byStatus[status]++; o.said[status] == "" {
		o.said[status] = said[:min(len(said), 300)]
	}
}

// unexpected returns the statuses that no query of a tenant may get, whatever it is: all but answers, refusals, and "not now".
func (o *outcomes) unexpected() (bad []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for status, n := range o.byStatus {
		if status != 200 && status/100 != 4 && status != 503 {
			bad = append(bad, fmt.Sprintf("%d times status %d: %s", n, status, o.said[status]))
		}
	}
	return bad
}

const (
	isolationSpan = time.Hour
	isolationStep = 15 * time.Second
)

// tenantData writes an hour of a tenant's series: request counters of pods in namespaces, and buckets of their durations.
func tenantData(t *testing.T, s *instance, tenant string, pods int, from, to time.Time) {
	t.Helper()
	var batch []prompb.TimeSeries
	flush := func() {
		r := s.push(tenant, batch...)
		require.Less(t, r.status, 300, "%s", r.body)
		batch = batch[:0]
	}
	add := func(pod int, rate float64, pairs ...string) {
		ts := series("", 0, from, append(pairs, "namespace", fmt.Sprintf("ns-%02d", pod%20), "pod", fmt.Sprintf("pod-%05d", pod))...)
		ts.Labels, ts.Samples = ts.Labels[1:], nil
		for at := from; at.Before(to); at = at.Add(isolationStep) {
			ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: at.UnixMilli(), Value: rate * float64(at.Unix()%1e6)})
		}
		if batch = append(batch, ts); len(batch) == 500 {
			flush()
		}
	}
	for pod := range pods {
		for i, code := range []string{"200", "404", "500"} {
			add(pod, float64(10-i), "__name__", "http_requests_total", "code", code)
		}
		for i, le := range []string{"0.1", "0.5", "1", "5", "+Inf"} {
			add(pod, float64(i+1), "__name__", "http_request_duration_seconds_bucket", "le", le)
		}
		add(pod, 0.1, "__name__", "process_resident_memory_bytes")
	}
	flush()
}

// dashboard asks a tenant's few queries over and over until ctx ends.
func dashboard(ctx context.Context, t *testing.T, s *instance, tenant string, end time.Time) *latencies {
	l := &latencies{}
	fresh := map[string]string{"Cache-Control": "no-store"} // what was answered before is no measure
	over := url.Values{"start": {seconds(end.Add(-isolationSpan))}, "end": {seconds(end)}, "step": {"60"}}
	for ctx.Err() == nil {
		for _, q := range []string{
			"sum by (namespace) (rate(http_requests_total[5m]))",
			"histogram_quantile(0.99, sum by (le) (rate(http_request_duration_seconds_bucket[5m])))",
			`topk(5, process_resident_memory_bytes{namespace="ns-03"})`,
			`sum(rate(http_requests_total{code="500"}[5m])) / sum(rate(http_requests_total[5m]))`,
		} {
			form := url.Values{"query": {q}}
			for k, v := range over {
				form[k] = v
			}
			began := time.Now()
			e, err := api(s.url("/prometheus"), tenant, "/api/v1/query_range", form, fresh)
			if err == nil && len(e.Data) < 100 {
				err = fmt.Errorf("%s: empty answer %s", q, e.Data)
			}
			l.add(time.Since(began), err)
		}
	}
	return l
}

// deaths are queries that would take all of a machine for minutes.
func deaths(end time.Time) []url.Values {
	query := func(q string, span, step time.Duration) url.Values {
		return url.Values{"query": {q}, "start": {seconds(end.Add(-span))}, "end": {seconds(end)}, "step": {fmt.Sprint(step.Seconds())}}
	}
	all, year := `{__name__=~".+"}`, 365*24*time.Hour
	return []url.Values{
		query(all, year, time.Millisecond),
		query(all, year, time.Hour),
		query(all, isolationSpan, time.Second),
		query(`count_values("v", `+all+`)`, isolationSpan, time.Second),
		query("max_over_time(sum_over_time(sum_over_time("+all+"[1h:1s])[1h:1s])[1h:1s])", isolationSpan, time.Second),
		query("sum(rate("+all+"[30d])) by (__name__, pod, le)", isolationSpan, time.Second),
		query(`sort_desc(label_join(`+all+`, "x", "-", "pod", "namespace", "le", "code"))`, isolationSpan, time.Second),
		query("http_requests_total * on (namespace) group_left () sum by (namespace) (http_requests_total) + on (pod) group_left () (http_requests_total)", isolationSpan, time.Second),
	}
}

// asks sends a tenant's query and reads the answer, unless ctx ends before.
func asks(ctx context.Context, s *instance, tenant string, form url.Values, o *outcomes) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url("/prometheus/api/v1/query_range"), strings.NewReader(form.Encode()))
	if err != nil {
		o.add(0, err.Error())
		return
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Cache-Control", "no-store")
	req.Header.Set("X-Scope-OrgID", tenant)
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		defer resp.Body.Close()
		var said []byte
		if said, err = io.ReadAll(io.LimitReader(resp.Body, 300)); err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		if err == nil {
			o.add(resp.StatusCode, string(said))
			if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
				select { // as it was told to
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		}
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		o.add(0, err.Error())
	}
}

// drips asks for a large answer and takes a byte of it a second.
func drips(ctx context.Context, s *instance, tenant string, form url.Values, o *outcomes) {
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		o.add(0, err.Error())
		return
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4096) // only makes it worse
	body := form.Encode()
	fmt.Fprintf(conn, "POST /prometheus/api/v1/query_range HTTP/1.1\r\nHost: %s\r\nX-Scope-OrgID: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s",
		s.addr, tenant, len(body), body)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	one := make([]byte, 1)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return
		}
		var timeout net.Error
		if _, err := conn.Read(one); err != nil && !(errors.As(err, &timeout) && timeout.Timeout()) {
			return // the server has had enough of it
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// TestIsolation: a tenant's dashboard goes on beside another tenant's queries of death, a thousand of its queries at once, and
// its clients that do not read. How much slower it is, is printed; what must hold is that nothing fails, nothing dies, and
// memory has a bound.
func TestIsolation(t *testing.T) {
	enabled(t)
	long := time.Duration(number(t, "SLUICE_ISOLATION_SECONDS", 5)) * time.Second
	dir := workDir(t)
	s := newInstance(t, dir, "all", "--tenancy.required", "--self-monitoring.tenant", "")
	s.start()
	s.ready(60 * time.Second)
	end := time.Now().Truncate(time.Minute)
	sealed := end.Add(-isolationSpan / 4)
	for tenant, pods := range map[string]int{"calm": 200, "noisy": 1500} {
		tenantData(t, s, tenant, pods, end.Add(-isolationSpan), sealed)
	}
	s.seal(time.Minute)
	for tenant, pods := range map[string]int{"calm": 200, "noisy": 1500} {
		tenantData(t, s, tenant, pods, sealed, end)
	}
	_, err := instant(s.url("/prometheus"), "calm", "count(up)", end) // strong: all of it is there
	require.NoError(t, err)

	// beside runs the dashboard, and n clients of the noisy tenant that each do what they do until it ends.
	beside := func(n int, client func(ctx context.Context, i int)) *latencies {
		ctx, stop := context.WithTimeout(context.Background(), long)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				for ctx.Err() == nil {
					client(ctx, i)
				}
			})
		}
		l := dashboard(ctx, t, s, "calm", end)
		stop()
		wg.Wait()
		require.True(t, s.running(), "died: %v", s.err)
		return l
	}
	beside(0, nil) // caches
	alone := beside(0, nil)
	fig := map[string]any{"alone_p50_ms": alone.quantile(0.5), "alone_p99_ms": alone.quantile(0.99)}
	idle, _ := s.memory()
	killers := deaths(end)
	for _, c := range []struct {
		name    string
		clients int
		does    func(ctx context.Context, i int, o *outcomes)
	}{
		{"queries_of_death", 8, func(ctx context.Context, i int, o *outcomes) {
			asks(ctx, s, "noisy", killers[i%len(killers)], o)
		}},
		{"thousand_queries", 1000, func(ctx context.Context, _ int, o *outcomes) {
			asks(ctx, s, "noisy", url.Values{"query": {"sum by (pod) (rate(http_requests_total[5m]))"},
				"start": {seconds(end.Add(-isolationSpan))}, "end": {seconds(end)}, "step": {"15"}}, o)
		}},
		{"slow_clients", 200, func(ctx context.Context, _ int, o *outcomes) {
			drips(ctx, s, "noisy", url.Values{"query": {`{__name__=~"http.+"}`},
				"start": {seconds(end.Add(-isolationSpan))}, "end": {seconds(end)}, "step": {"60"}}, o)
		}},
	} {
		o := newOutcomes()
		l := beside(c.clients, func(ctx context.Context, i int) { c.does(ctx, i, o) })
		ok, failed := l.counts()
		s.notePeak()
		fig[c.name+"_p50_ms"], fig[c.name+"_p99_ms"] = l.quantile(0.5), l.quantile(0.99)
		fig[c.name+"_factor_p50"], fig[c.name+"_factor_p99"] = l.quantile(0.5)/alone.quantile(0.5), l.quantile(0.99)/alone.quantile(0.99)
		fig[c.name+"_dashboard_queries"], fig[c.name+"_peak_rss_mb"] = ok, s.peak>>20
		fig[c.name+"_statuses"] = o.byStatus
		t.Logf("%s: %v %v", c.name, o.byStatus, o.said)
		require.Zero(t, failed, "%s: the dashboard of the calm tenant: %v", c.name, l.failed)
		require.Positive(t, ok, "%s: no answer for the calm tenant within %s", c.name, long)
		require.Empty(t, o.unexpected(), c.name)
	}
	fig["idle_rss_mb"], fig["peak_rss_mb"] = idle>>20, s.peak>>20
	report(t, "one tenant's queries beside another's", fig)
	require.Less(t, s.peak, int64(6<<30), "bytes of memory")
	s.stop()
}
