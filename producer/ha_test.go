package producer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"

	"sluice/internal/ha"
	"sluice/internal/log"
	"sluice/schema"
)

const haLimits = "default: {accept_ha_samples: true, ha_max_clusters: 3}\n"

// haFixture is a producer with a tracker on a real log. Its clock, the log's and the tracker's are one.
type haFixture struct {
	*fixture
	clock atomic.Int64
}

func newHAFixture(t testing.TB, cfg Config, limitsYAML string) *haFixture {
	f := &haFixture{fixture: newFixture(t, cfg, limitsYAML, 4)}
	f.clock.Store(testNow.UnixNano())
	f.now = func() time.Time { return time.Unix(0, f.clock.Load()) }
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: 1, Fsync: log.FsyncOff, Now: f.now}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	control := log.NewTable(l, log.TopicControl)
	tracker, err := ha.New(ha.Config{Instance: "p"}, l, control, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	tracker.SetClock(f.now)
	f.TrackHA(tracker)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- control.Run(ctx) }()
	go func() { done <- tracker.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, errors.Join(<-done, <-done))
		require.NoError(t, l.Close())
	})
	return f
}

func (f *haFixture) advance(d time.Duration) { f.clock.Add(int64(d)) }

// sample is one of now.
func (f *haFixture) sample(v float64) prompb.Sample {
	return prompb.Sample{Value: v, Timestamp: f.now().UnixMilli()}
}

// of makes n series of a replica, with a sample each.
func (f *haFixture) of(cluster, replica string, n int) (all []prompb.TimeSeries) {
	for i := range n {
		all = append(all, withSamples(series("__name__", "up", "__replica__", replica, "cluster", cluster, "i", fmt.Sprint(i)), f.sample(float64(i))))
	}
	return all
}

// sender sends series in one of the versions of the protocol.
type sender func(t testing.TB, f *haFixture, ts []prompb.TimeSeries) *httptest.ResponseRecorder

func send1(t testing.TB, f *haFixture, ts []prompb.TimeSeries) *httptest.ResponseRecorder {
	return f.push(t, request1(ts...))
}

func send2(t testing.TB, f *haFixture, ts []prompb.TimeSeries) *httptest.ResponseRecorder {
	bld := newBuilder()
	for _, s := range ts {
		ls := labels.NewScratchBuilder(4)
		for _, l := range s.Labels {
			ls.Add(l.Name, l.Value)
		}
		into := bld.add(ls.Labels())
		for _, smp := range s.Samples {
			into.Samples = append(into.Samples, writev2.Sample{Value: smp.Value, Timestamp: smp.Timestamp})
		}
	}
	return f.post(encode(t, bld.request()), "Content-Type", contentTypeV2, "Content-Encoding", "snappy", "X-Scope-OrgID", "team-a")
}

// eachVersion runs a test with both versions of the protocol and of records.
func eachVersion(t *testing.T, f func(t *testing.T, cfg Config, send sender)) {
	for _, version := range []int{schema.RecordV1, schema.RecordV2} {
		for protocol, send := range map[string]sender{"1.0": send1, "2.0": send2} {
			t.Run(fmt.Sprintf("protocol %s, records %d", protocol, version), func(t *testing.T) {
				f(t, Config{RecordVersion: version}, send)
			})
		}
	}
}

// names returns the labels of what was written since the last reset, each series once, and how many samples.
func (f *haFixture) names(t testing.TB) (all map[string]bool, samples int) {
	all = map[string]bool{}
	for _, ts := range f.log.content(t).Timeseries {
		text := []string{}
		for _, l := range ts.Labels {
			text = append(text, l.Name+"="+l.Value)
		}
		all[strings.Join(text, ",")] = true
		samples += len(ts.Samples)
	}
	f.log.reset()
	return all, samples
}

// TestPair: what is written is one replica's, without its label, and it is the same series whoever is elected.
func TestPair(t *testing.T) {
	eachVersion(t, func(t *testing.T, cfg Config, send sender) {
		f := newHAFixture(t, cfg, haLimits)
		var first map[string]bool
		for round := range 3 { // the second time the series are known
			w := send(t, f, f.of("eu", "a", 10))
			require.Equal(t, 204, w.Code, w.Body)
			names, samples := f.names(t)
			require.Len(t, names, 10)
			require.Equal(t, 10, samples)
			require.Contains(t, names, "__name__=up,cluster=eu,i=7")
			if round == 0 {
				first = names
			}
			require.Equal(t, first, names)

			w = send(t, f, f.of("eu", "b", 10))
			require.Equal(t, 202, w.Code)
			require.Equal(t, "deduplicated: 10 samples are not written, replica \"b\" of HA cluster \"eu\" is not the elected one\n", w.Body.String())
			if len(w.Header()[headerSamplesWritten]) > 0 {
				require.Equal(t, "10", w.Header().Get(headerSamplesWritten), "a sender would take less for failed")
			}
			names, _ = f.names(t)
			require.Empty(t, names)
			f.advance(10 * time.Second)
		}
		require.EqualValues(t, 30, testutil.ToFloat64(f.metrics.deduplicated.WithLabelValues("team-a")))

		f.advance(20*time.Second - time.Millisecond) // just before the time-out
		require.Equal(t, 202, send(t, f, f.of("eu", "b", 10)).Code)
		f.advance(time.Millisecond)
		require.Equal(t, 204, send(t, f, f.of("eu", "b", 10)).Code)
		names, _ := f.names(t)
		require.Equal(t, first, names)
		require.Equal(t, 204, send(t, f, f.of("eu", "b", 10)).Code)
		names, _ = f.names(t)
		require.Equal(t, first, names)

		require.Equal(t, 202, send(t, f, f.of("eu", "a", 10)).Code, "it does not take over again")
		f.advance(30 * time.Second)
		require.Equal(t, 204, send(t, f, f.of("eu", "a", 10)).Code)
		names, _ = f.names(t)
		require.Equal(t, first, names)
	})
}

// TestMixedBatch: every series is judged by its own labels, whatever stands first.
func TestMixedBatch(t *testing.T) {
	eachVersion(t, func(t *testing.T, cfg Config, send sender) {
		f := newHAFixture(t, cfg, haLimits)
		require.Equal(t, 204, send(t, f, f.of("eu", "a", 1)).Code)
		require.Equal(t, 204, send(t, f, f.of("us", "b", 1)).Code)
		f.log.reset()
		plain := func() []prompb.TimeSeries {
			return []prompb.TimeSeries{
				withSamples(series("__name__", "plain", "cluster", "eu"), f.sample(1)),
				withSamples(series("__name__", "plain", "__replica__", "x"), f.sample(1)),
				withSamples(series("__name__", "plain"), f.sample(1)),
			}
		}
		for range 3 {
			var batch []prompb.TimeSeries
			for i := range 5 {
				batch = append(batch, f.of("eu", "b", 5)[i], f.of("us", "b", 5)[i], f.of("eu", "a", 5)[i], f.of("us", "a", 5)[i])
			}
			w := send(t, f, append(batch, plain()...))
			require.Equal(t, 202, w.Code, w.Body)
			require.Contains(t, w.Body.String(), "deduplicated: 10 samples")
			names, samples := f.names(t)
			require.Equal(t, 13, samples)
			require.Len(t, names, 13)
			require.Contains(t, names, "__name__=up,cluster=us,i=4")
			require.Contains(t, names, "__name__=plain,cluster=eu")
			require.Contains(t, names, "__name__=plain,__replica__=x")
			require.Contains(t, names, "__name__=plain")
		}
		// Refused series make it a 400, and count as before.
		bad := withSamples(series("__name__", "up", "__replica__", "a", "cluster", "eu", "zz", strings.Repeat("x", 5000)), f.sample(1))
		w := send(t, f, append(f.of("eu", "b", 2), append(f.of("eu", "a", 2), bad)...))
		requireRefused(t, w, 400, schema.ErrLabelValueTooLong)
		_, samples := f.names(t)
		require.Equal(t, 2, samples)
	})
}

// TestManyClustersAtOnce: a request whose clusters are all new is written as a whole; above the limit, only those above
// it are refused.
func TestManyClustersAtOnce(t *testing.T) {
	eachVersion(t, func(t *testing.T, cfg Config, send sender) {
		f := newHAFixture(t, cfg, haLimits)
		bad := withSamples(series("__name__", "up", "__replica__", "a", "cluster", "1", "zz", strings.Repeat("x", 5000)), f.sample(1))
		w := send(t, f, append(f.of("1", "a", 2), bad))
		requireRefused(t, w, 400, schema.ErrLabelValueTooLong)
		require.Contains(t, w.Body.String(), "1 of 3 series were refused")
		f.log.reset()
		for range 2 {
			w := send(t, f, append(f.of("1", "a", 2), append(f.of("2", "a", 2), f.of("3", "a", 2)...)...))
			require.Equal(t, 204, w.Code, w.Body)
			_, samples := f.names(t)
			require.Equal(t, 6, samples)

			w = send(t, f, append(f.of("4", "a", 2), append(f.of("3", "a", 2), f.of("1", "b", 2)...)...))
			requireRefused(t, w, 400, schema.ErrTooManyHAClusters)
			require.Contains(t, w.Body.String(), "2 of 6 series were refused")
			if len(w.Header()[headerSamplesWritten]) > 0 {
				require.Equal(t, "4", w.Header().Get(headerSamplesWritten))
			}
			names, samples := f.names(t)
			require.Equal(t, 2, samples)
			require.Contains(t, names, "__name__=up,cluster=3,i=0")
		}
	})
}

// TestPairsAndRelabelling: the tenant's rules see series of the elected replica, without its label, and whatever they drop stays dropped
// after a failover.
func TestPairsAndRelabelling(t *testing.T) {
	eachVersion(t, func(t *testing.T, cfg Config, send sender) {
		f := newHAFixture(t, cfg, `default:
  accept_ha_samples: true
  metric_relabel_configs:
    - {source_labels: [i], regex: "[3-9]", action: drop}
    - {source_labels: [__replica__], regex: ".+", action: drop}
    - {source_labels: [i], regex: "0", target_label: zero, replacement: "yes"}
`)
		want := map[string]bool{"__name__=up,cluster=eu,i=0,zero=yes": true, "__name__=up,cluster=eu,i=1": true, "__name__=up,cluster=eu,i=2": true}
		for _, elected := range []string{"a", "b", "a"} {
			other := map[string]string{"a": "b", "b": "a"}[elected]
			for range 3 {
				require.Equal(t, 204, send(t, f, f.of("eu", elected, 10)).Code)
				names, samples := f.names(t)
				require.Equal(t, want, names)
				require.Equal(t, 3, samples)
				require.Equal(t, 202, send(t, f, f.of("eu", other, 10)).Code)
			}
			f.advance(30 * time.Second)
		}
		require.EqualValues(t, 3*3*7, testutil.ToFloat64(f.metrics.dropped.WithLabelValues("team-a")))
		require.EqualValues(t, 3*3*10, testutil.ToFloat64(f.metrics.deduplicated.WithLabelValues("team-a")))
	})
}

// TestPairsOfManyTenants: a stream that is split by a label has pairs in each part.
func TestPairsOfManyTenants(t *testing.T) {
	eachVersion(t, func(t *testing.T, cfg Config, send sender) {
		cfg.TenantLabel, cfg.StripTenantLabel = "tenant", true
		f := newHAFixture(t, cfg, haLimits)
		batch := func(replicas map[string]string) (all []prompb.TimeSeries) {
			for i := range 5 {
				for _, tenant := range []string{"one", "two"} {
					all = append(all, withSamples(series("__name__", "up", "__replica__", replicas[tenant], "cluster", "eu", "i", fmt.Sprint(i), "tenant", tenant), f.sample(1)))
				}
			}
			return all
		}
		for range 2 {
			require.Equal(t, 204, send(t, f, batch(map[string]string{"one": "a", "two": "b"})).Code)
			_, samples := f.names(t)
			require.Equal(t, 10, samples)
			w := send(t, f, batch(map[string]string{"one": "a", "two": "a"}))
			require.Equal(t, 202, w.Code, w.Body)
			require.Contains(t, w.Body.String(), "deduplicated: 5 samples are not written, replica \"a\" of HA cluster \"eu\"")
			if len(w.Header()[headerSamplesWritten]) > 0 {
				require.Equal(t, "10", w.Header().Get(headerSamplesWritten))
			}
			_, samples = f.names(t)
			require.Equal(t, 5, samples)
		}
	})
}

// TestWithoutPairs: a tenant that does not accept pairs gets its series as they are, and other labels can be chosen.
func TestWithoutPairs(t *testing.T) {
	eachVersion(t, func(t *testing.T, cfg Config, send sender) {
		f := newHAFixture(t, cfg, "")
		require.Equal(t, 204, send(t, f, f.of("eu", "a", 1)).Code)
		require.Equal(t, 204, send(t, f, f.of("eu", "b", 1)).Code)
		names, _ := f.names(t)
		require.Equal(t, map[string]bool{"__name__=up,__replica__=a,cluster=eu,i=0": true, "__name__=up,__replica__=b,cluster=eu,i=0": true}, names)

		f = newHAFixture(t, cfg, "default: {accept_ha_samples: true, ha_cluster_label: i, ha_replica_label: cluster}\n")
		require.Equal(t, 204, send(t, f, f.of("eu", "a", 1)).Code)
		require.Equal(t, 202, send(t, f, f.of("us", "a", 1)).Code)
		names, _ = f.names(t)
		require.Equal(t, map[string]bool{"__name__=up,__replica__=a,i=0": true}, names)
	})
}

// TestHALabelsAtTheEdge: what is empty, there twice, too long or not UTF-8.
func TestHALabelsAtTheEdge(t *testing.T) {
	f := newHAFixture(t, Config{}, "default: {accept_ha_samples: true, max_label_value_length: 0}\n")
	for _, c := range []struct {
		name   string
		labels []string
		id     schema.ErrorID
		want   string
	}{
		{"no cluster", []string{"__name__", "up", "__replica__", "a", "cluster", ""}, "", "__name__=up,__replica__=a"},
		{"no replica", []string{"__name__", "up", "__replica__", "", "cluster", "eu"}, "", "__name__=up,cluster=eu"},
		{"two replicas", []string{"__name__", "up", "__replica__", "a", "__replica__", "b", "cluster", "eu"}, schema.ErrDuplicateLabelNames, ""},
		{"two clusters", []string{"__name__", "up", "__replica__", "a", "cluster", "eu", "cluster", "us"}, schema.ErrDuplicateLabelNames, ""},
		{"replica not UTF-8", []string{"__name__", "up", "__replica__", "\xff", "cluster", "eu"}, schema.ErrLabelValueInvalid, ""},
		{"longest cluster", []string{"__name__", "up", "__replica__", "a", "cluster", strings.Repeat("x", ha.MaxNameBytes)}, "", "__name__=up,cluster=" + strings.Repeat("x", ha.MaxNameBytes)},
		{"cluster too long", []string{"__name__", "up", "__replica__", "a", "cluster", strings.Repeat("x", ha.MaxNameBytes+1)}, schema.ErrLabelValueTooLong, ""},
		{"nothing else", []string{"__replica__", "a", "cluster", "eu"}, schema.ErrMissingMetricName, ""},
	} {
		w := send1(t, f, []prompb.TimeSeries{withSamples(series(c.labels...), f.sample(1))})
		names, _ := f.names(t)
		if c.id != "" {
			requireRefused(t, w, 400, c.id)
			require.Empty(t, names, c.name)
			continue
		}
		require.Equal(t, 204, w.Code, "%s: %s", c.name, w.Body)
		require.Equal(t, map[string]bool{c.want: true}, names, c.name)
	}
}

// TestMoreReplicasThanNumbers: a tenant with more replicas than are numbered is slower and nothing else. Clusters that are refused
// take no numbers.
func TestMoreReplicasThanNumbers(t *testing.T) {
	eachVersion(t, func(t *testing.T, cfg Config, send sender) {
		f := newHAFixture(t, cfg, haLimits)
		require.Equal(t, 204, send(t, f, f.of("eu", "a", 2)).Code)
		for i := range 20 {
			want := 204
			if i >= 2 {
				want = 400
			}
			require.Equal(t, want, send(t, f, f.of(fmt.Sprint(i), "a", 2)).Code)
		}
		groups := f.tenants.states["team-a"].ha
		require.Len(t, groups.list, 3)
		groups.bytes = maxGroupBytes
		f.log.reset()
		for range 3 {
			require.Equal(t, 202, send(t, f, f.of("eu", "b", 2)).Code)
			require.Equal(t, 204, send(t, f, f.of("eu", "a", 2)).Code)
		}
		f.advance(30 * time.Second)
		for range 3 {
			require.Equal(t, 204, send(t, f, f.of("eu", "b", 2)).Code)
			require.Equal(t, 202, send(t, f, f.of("eu", "a", 2)).Code)
		}
		f.advance(30 * time.Second)
		for range 3 {
			require.Equal(t, 204, send(t, f, f.of("eu", "a", 2)).Code)
			require.Equal(t, 202, send(t, f, f.of("eu", "b", 2)).Code)
		}
		names, samples := f.names(t)
		require.Len(t, names, 2)
		require.Equal(t, 18, samples)
		require.Len(t, groups.list, 3)
	})
}

// TestNoElectionWithoutLog: if nothing can be decided the sender keeps its samples.
func TestNoElectionWithoutLog(t *testing.T) {
	f := newFixture(t, Config{AppendTimeout: 10 * time.Millisecond}, haLimits, 4)
	tracker, err := ha.New(ha.Config{Instance: "p"}, f.log, log.NewTable(f.log, log.TopicControl), slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	f.TrackHA(tracker) // and nobody runs it
	h := &haFixture{fixture: f}
	h.clock.Store(testNow.UnixNano())
	w := send1(t, h, []prompb.TimeSeries{withSamples(series("__name__", "up", "__replica__", "a", "cluster", "eu"), one(1))})
	requireRefused(t, w, 503, schema.ErrLogDown)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
}

// TestDefinedOnceAfterFailover: a series that was only dropped so far is known after it was written once, like any other.
func TestDefinedOnceAfterFailover(t *testing.T) {
	f := newHAFixture(t, Config{}, haLimits)
	require.Equal(t, 204, send1(t, f, f.of("eu", "a", 10)).Code)
	require.Equal(t, 202, send1(t, f, f.of("eu", "b", 10)).Code)
	f.advance(30 * time.Second)
	for _, want := range []int{10, 0, 0} {
		f.log.reset()
		require.Equal(t, 204, send1(t, f, f.of("eu", "b", 10)).Code)
		n, _ := f.log.defs(t)
		require.Equal(t, want, n)
	}
}

// TestDroppedCostNothing: what is not written has no ref, no definition and no record, and allocates nothing.
func TestDroppedCostNothing(t *testing.T) {
	f := newHAFixture(t, Config{}, haLimits)
	require.Equal(t, 204, send1(t, f, f.of("eu", "a", 1)).Code)
	body := marshal(t, request1(f.of("eu", "b", 1000)...))
	push := func() { require.NoError(t, f.Push(t.Context(), "team-a", body)) }
	push()
	before := f.log.appends
	require.Less(t, testing.AllocsPerRun(20, push), 100.0)
	require.Equal(t, before, f.log.appends)
	c := f.tenants.states["team-a"].cache
	for i := range c.next {
		require.LessOrEqual(t, c.next[i].Load(), uint32(1))
	}
}

// BenchmarkHA is the walk over known series without HA pairs, with an elected replica, and with one that is not. The three take
// turns, so that what else the machine does disturbs them alike; the ratios are to the first.
func BenchmarkHA(b *testing.B) {
	kinds := []struct{ name, limits, replica string }{{"off", "", "a"}, {"elected", haLimits, "a"}, {"deduplicated", haLimits, "b"}}
	var pushes []func()
	for _, k := range kinds {
		f := newHAFixture(b, Config{}, k.limits)
		f.log.discard = true
		require.NoError(b, f.Push(b.Context(), "team-a", haBody(b, "a")))
		body := haBody(b, k.replica)
		pushes = append(pushes, func() { require.NoError(b, f.Push(b.Context(), "team-a", body)) })
		pushes[len(pushes)-1]()
	}
	took := make([]time.Duration, len(kinds))
	for b.Loop() {
		for i, push := range pushes {
			begun := time.Now()
			push()
			took[i] += time.Since(begun)
		}
	}
	for i, k := range kinds {
		b.ReportMetric(float64(took[i].Nanoseconds())/float64(b.N)/benchSeries, k.name+"-ns/sample")
		b.ReportMetric(float64(took[i])/float64(took[0]), k.name+"/off")
	}
}

func haBody(b *testing.B, replica string) (body []byte) {
	for i := range benchSeries {
		var ls []schema.Label
		labels.NewBuilder(benchLabels(i)).Set("__replica__", replica).Labels().Range(func(l labels.Label) {
			ls = append(ls, schema.Label{Name: []byte(l.Name), Value: []byte(l.Value)})
		})
		body = schema.AppendTimeSeries(body, schema.AppendSample(schema.AppendLabels(nil, ls), testNow.UnixMilli(), 0, float64(i)))
	}
	return body
}
