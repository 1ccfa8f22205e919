package processes

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
)

func record(t *testing.T, p Process, at int64) *log.Record {
	value, err := json.Marshal(p)
	require.NoError(t, err)
	return &log.Record{Key: p.key(), Value: value, Time: at}
}

func newDirectory() *Directory {
	return NewDirectory(log.NewTable(nil, log.TopicControl), slog.New(slog.DiscardHandler))
}

func ids(all []Process) (out []string) {
	for _, p := range all {
		id := p.ID
		if p.Silent {
			id += "?"
		}
		out = append(out, id)
	}
	return out
}

// Ages are measured by the log's time alone, which any record of the topic moves.
func TestSilentAndForgotten(t *testing.T) {
	d := newDirectory()
	a, b := Process{ID: "a", Stages: []string{"producer"}}, Process{ID: "b", Stages: []string{"reader"}}
	d.apply(record(t, a, 1000))
	d.apply(record(t, b, 1000))
	for _, c := range []struct {
		now  int64
		want []string
	}{
		{1000 + 20_000, []string{"a", "b"}},
		{1000 + 20_001, []string{"a?", "b?"}},
		{1000 + 3_600_000, []string{"a?", "b?"}},
	} {
		d.apply(&log.Record{Key: []byte("member/x"), Value: []byte("{}"), Time: c.now})
		all, now := d.List()
		require.Equal(t, c.want, ids(all))
		require.Equal(t, c.now, now)
	}
	d.apply(record(t, b, 1000+3_600_001))
	all, _ := d.List()
	require.Equal(t, []string{"b"}, ids(all), "an hour of silence is forgotten")
	require.Equal(t, int64(1000+3_600_001), all[0].Told)
	d.apply(&log.Record{Key: b.key(), Time: 1000 + 3_600_002})
	all, _ = d.List()
	require.Empty(t, all, "withdrawn")
}

// Two processes of one name that run other stages are two.
func TestSameNameOtherStages(t *testing.T) {
	d := newDirectory()
	d.apply(record(t, Process{ID: "vm", Stages: []string{"producer"}}, 1))
	d.apply(record(t, Process{ID: "vm", Stages: []string{"compactor"}}, 1))
	all, _ := d.List()
	require.Len(t, all, 2)
}

func TestBounded(t *testing.T) {
	d := newDirectory()
	for i := range maxProcesses + 10 {
		d.apply(record(t, Process{ID: strings.Repeat("x", i%50+1) + string(rune('a'+i%26)) + time.Duration(i).String(), Stages: []string{"reader"}}, int64(i)))
	}
	require.LessOrEqual(t, len(d.all), maxProcesses)

	p := Process{ID: "a", Stages: []string{"consumer"}, Consumer: &Consumer{}, Compactor: &Compactor{}}
	for range 5000 {
		p.Consumer.Partitions = append(p.Consumer.Partitions, Partition{
			State: StateFailed, Failure: strings.Repeat("é", 10_000), HeldUp: strings.Repeat("é", 10_000), From: 1 << 60, Applied: 1 << 60, AppliedTime: 1 << 60,
			Generation: &Generation{From: 1 << 60, Began: 1 << 60, Bytes: 1 << 60, Samples: 1 << 60, Length: 1 << 60}, Unshipped: 1 << 60, LastShipped: 1 << 60,
		})
		p.Consumer.Notes = append(p.Consumer.Notes, strings.Repeat("é", 10_000))
		p.Compactor.Running = append(p.Compactor.Running, Job{Tenant: strings.Repeat("t", 150)})
	}
	value, err := p.encode()
	require.NoError(t, err)
	require.Less(t, len(value), maxValue)
	require.True(t, utf8.ValidString(p.Consumer.Notes[0]))
	back, ours, err := decode(p.key(), value)
	require.NoError(t, err)
	require.True(t, ours)
	require.NotEmpty(t, back.Consumer.Partitions)
}

// topic is a log of which Append alone is used.
type topic struct {
	log.Log
	mu   sync.Mutex
	recs []log.Record
	err  error
	wait chan struct{} // told after each
}

func (l *topic) Append(_ context.Context, name string, recs []log.Record) error {
	if name != log.TopicControl {
		return errors.New("not the control topic")
	}
	l.mu.Lock()
	l.recs = append(l.recs, recs...)
	l.mu.Unlock()
	l.wait <- struct{}{}
	return l.err
}

func TestAnnouncerSaysAndTakesBack(t *testing.T) {
	l := &topic{wait: make(chan struct{}, 10)}
	a := NewAnnouncer(l, Interval, func() Process { return Process{ID: "a", Stages: []string{"reader"}} }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	<-l.wait
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Len(t, l.recs, 2)
	require.Equal(t, "process/a/reader", string(l.recs[0].Key))
	require.NotNil(t, l.recs[0].Value)
	require.Equal(t, l.recs[0].Key, l.recs[1].Key)
	require.Nil(t, l.recs[1].Value)
}

// A rate is left out until there are two totals to make it of, and is taken over half a minute.
func TestRates(t *testing.T) {
	a := NewAnnouncer(nil, Interval, nil, nil)
	start := time.Unix(1000, 0)
	at := func(after time.Duration, total float64) string {
		p := Process{Producer: &Producer{Samples: Of(total)}}
		a.rate(&p, start.Add(after))
		text, err := json.Marshal(p.Producer)
		require.NoError(t, err)
		return string(text)
	}
	require.NotContains(t, at(0, 100), "samples_per_second")
	require.Contains(t, at(5*time.Second, 150), `"samples_per_second":10,`)
	require.Contains(t, at(10*time.Second, 150), `"samples_per_second":5,`)
	for s := 15; s <= 60; s += 5 {
		last := at(time.Duration(s)*time.Second, 150+float64(s-10))
		if s == 60 {
			require.Contains(t, last, `"samples_per_second":1,`, "what was long ago counts no more")
		}
	}
	require.LessOrEqual(t, len(a.before), 8)
}

func TestTotal(t *testing.T) {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "v"}, []string{"code"})
	vec.WithLabelValues("200").Add(3)
	vec.WithLabelValues("500").Add(4)
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "g"})
	gauge.Set(5)
	require.Equal(t, 12.0, Total(vec, gauge))
	require.Equal(t, 4.0, Total(vec.WithLabelValues("500")))
}

func FuzzDecode(f *testing.F) {
	good, err := json.Marshal(Process{ID: "a", Stages: []string{"reader"}, Reader: &Reader{Queries: At(1)}})
	require.NoError(f, err)
	f.Add([]byte("process/a/reader"), good)
	f.Add([]byte("process/a"), []byte("{}"))
	f.Add([]byte("member/a"), []byte("{"))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		p, ours, err := decode(key, value)
		if p == nil {
			return
		}
		if !ours || err != nil || string(p.key()) != string(key) {
			t.Fatalf("%q is taken for %+v, %v", key, p, err)
		}
		d := newDirectory()
		d.apply(&log.Record{Key: key, Value: value, Time: 1})
		d.List()
	})
}
