package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"sluice/internal/bucket"
	"sluice/internal/log"
	"sluice/internal/usage"
	"sluice/schema"
)

// numbered writes records of one partition for tenants whose series have numbers.
type numbered struct {
	s       *system
	version byte
	epoch   uint64
	now     int64
}

func numberedLabels(n int) labels.Labels {
	return labels.FromStrings("__name__", fmt.Sprintf("m%d", n%3), "n", fmt.Sprint(n))
}

func numberedHash(tenant schema.Tenant, n int) uint64 {
	var lbls []schema.Label
	numberedLabels(n).Range(func(l labels.Label) { lbls = append(lbls, schema.Label{Name: []byte(l.Name), Value: []byte(l.Value)}) })
	hash, _ := schema.SeriesHash(tenant, lbls, nil)
	return hash
}

// write appends one record to partition 0: a sample of each of the series, defined in this very record.
func (w *numbered) write(tenant schema.Tenant, limit schema.SeriesLimit, series ...int) {
	w.now += 1000
	var value []byte
	var cols schema.RecordWriter
	cols.Reset()
	for _, n := range series {
		payload, err := (&prompb.TimeSeries{
			Labels: prompb.FromLabels(numberedLabels(n), nil), Samples: []prompb.Sample{{Timestamp: w.now, Value: float64(n)}},
		}).Marshal()
		require.NoError(w.s.t, err)
		value = schema.AppendTimeSeries(value, payload)
		var parsed schema.Series
		require.NoError(w.s.t, parsed.Parse(payload))
		cols.Define(uint32(n), parsed.LabelBytes)
		cols.Float(uint32(n), w.now, 0, float64(n))
	}
	if w.version == schema.RecordV2 {
		value = cols.Append(nil, w.epoch+uint64(tenant[0]))
	}
	headers := []log.Header{{Key: schema.HeaderVersion, Value: []byte{w.version}}}
	if limit != (schema.SeriesLimit{}) {
		headers = append(headers, log.Header{Key: schema.HeaderSeriesLimit, Value: limit.Append(nil)})
	}
	w.s.append(log.Record{Key: []byte(tenant), Value: value, Headers: headers})
}

func upTo(from, to int) (all []int) {
	for n := from; n < to; n++ {
		all = append(all, n)
	}
	return all
}

// applied waits until everything in the log is applied.
func (s *system) applied() {
	s.t.Helper()
	s.eventually(func() error {
		ends, err := s.log.Ends(context.Background(), log.TopicSamples)
		for _, cov := range s.consumer.Coverage() {
			if cov.Applied < ends[cov.Partition] {
				err = errors.Join(err, fmt.Errorf("partition %d at %d of %d", cov.Partition, cov.Applied, ends[cov.Partition]))
			}
		}
		return err
	})
}

// The cap lets everything through that a tenant had before it was met, and nothing new, and a raised limit counts from its
// record on. What comes of it follows from the log alone.
func TestCapFollowsTheLog(t *testing.T) {
	for _, version := range []byte{schema.RecordV1, schema.RecordV2} {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			w := &numbered{s: s, version: version, epoch: 7, now: 1_700_000_000_000}
			limit := schema.SeriesLimit{MaxSeries: 20, Partitions: 2, Producer: 1}
			require.EqualValues(t, 1020, limit.Cap(0))
			count := func(tenant schema.Tenant) int { s.applied(); return len(s.read(tenant)) }

			w.write("a", limit, upTo(0, 1000)...)
			w.write("a", limit, upTo(1000, 1019)...)
			require.Equal(t, 1019, count("a"))
			require.Zero(t, counter(t, s.reg, "sluice_consumer_capped_samples_total"))
			w.write("a", limit, 1019)
			require.Equal(t, 1020, count("a"))
			require.Zero(t, counter(t, s.reg, "sluice_consumer_capped_samples_total"))
			w.write("a", limit, upTo(1015, 1100)...)
			require.Equal(t, 1020, count("a"))
			require.EqualValues(t, 80, counter(t, s.reg, "sluice_consumer_capped_samples_total"))
			require.Len(t, s.read("a")[numberedLabels(1015).String()], 2, "what was there goes on")

			w.write("b", limit, 1, 2, 3) // another tenant is not concerned
			require.Equal(t, 3, count("b"))
			limit.MaxSeries = 22
			w.write("a", limit, upTo(1000, 1100)...)
			require.Equal(t, 1022, count("a"))
			w.write("a", schema.SeriesLimit{}, upTo(1050, 1060)...)
			require.Equal(t, 1032, count("a"), "a record without a limit has none")
			limit.MaxSeries = 1
			w.write("a", limit, upTo(0, 2000)...)
			require.Equal(t, 1032, count("a"))

			table := follow(t, s.log)
			s.eventually(func() error { // those above the cap are not active
				if v := table.View("a"); v.Series != 1032 || !v.Complete {
					return fmt.Errorf("%d series", v.Series)
				}
				return nil
			})
			require.True(t, table.Known("a", numberedHash("a", 1019), 0))
			require.False(t, table.Known("a", numberedHash("a", 1999), 0))

			s.seal()
			w.write("a", limit, upTo(1990, 2000)...) // a generation begins anew
			require.Equal(t, 1042, count("a"))
			s.seal()
			files := blockFiles(t, filepath.Join(dir, "bucket"))
			for _, batch := range []int{0, 1, 3} {
				rebuilt := t.TempDir()
				out, err := bucket.Open(nil, rebuilt, slog.New(slog.DiscardHandler), nil)
				require.NoError(t, err)
				for p := range int32(testPartitions) {
					cfg := RebuildConfig{Partition: p, From: -1, To: -1, Scratch: t.TempDir()}
					_, err := Rebuild(context.Background(), cfg, batchLog{s.log, batch}, out, slog.New(slog.DiscardHandler))
					require.NoError(t, err)
				}
				require.Equal(t, files, blockFiles(t, rebuilt))
			}
			require.Zero(t, counter(t, s.reg, "sluice_consumer_dead_letters_total"))
		})
	}
}

// gauges are the values of a metric by tenant.
func (s *system) gauges(name string) map[string]float64 {
	families, err := s.reg.Gather()
	require.NoError(s.t, err)
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				out[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			}
		}
	}
	return out
}

// The gauges are bounded: of the small tenants there is only the sum.
func TestUsageMeterIsBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newUsageMeter(newMetrics(reg))
	p := &partition{usage: usage.NewTracker()}
	p.usage.Tick(1)
	for n := range maxMeteredTenants + 10 {
		tenant := schema.Tenant(fmt.Sprint("t", n))
		p.usage.Mark(tenant, 1, nil)
		if n >= 10 {
			p.usage.Mark(tenant, 2, nil)
		}
	}
	m.update([]*partition{p})
	got := (&system{t: t, reg: reg}).gauges("sluice_consumer_active_series")
	require.Len(t, got, maxMeteredTenants+1)
	require.EqualValues(t, 10, got["__other__"])
	require.EqualValues(t, 2, got["t10"])
	m.update(nil)
	require.Empty(t, (&system{t: t, reg: reg}).gauges("sluice_consumer_active_series"))
}

// follow runs a table until the test ends.
func follow(t *testing.T, l log.Log) *usage.Table {
	control := log.NewTable(l, log.TopicControl)
	table := usage.NewTable(control, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return table
}

// A header that is no limit makes its record a dead letter, and stops nothing.
func TestBadSeriesLimit(t *testing.T) {
	s := open(t, t.TempDir())
	w := &numbered{s: s, version: schema.RecordV1, now: 1_700_000_000_000}
	w.write("a", schema.SeriesLimit{}, 1)
	s.append(log.Record{Key: []byte("a"), Headers: []log.Header{
		{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}, {Key: schema.HeaderSeriesLimit, Value: []byte{9}},
	}})
	w.write("a", schema.SeriesLimit{}, 2)
	s.applied()
	require.Len(t, s.read("a"), 2)
	require.EqualValues(t, 1, counter(t, s.reg, "sluice_consumer_dead_letters_total"))
}

// What a consumer tells survives the end of a generation and its restart, from which on it knows the series of the last hour.
func TestUsageIsTold(t *testing.T) {
	for _, version := range []byte{schema.RecordV1, schema.RecordV2} {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			w := &numbered{s: s, version: version, epoch: 7, now: 1_700_000_000_000}
			limit := schema.SeriesLimit{MaxSeries: 1000, Partitions: 2, Producer: 5}
			table := follow(t, s.log)
			told := func(table *usage.Table, series, inHeads int64) {
				t.Helper()
				s.eventually(func() error {
					if v := table.View("a"); v.Series != series || v.InHeads != inHeads || !v.Complete {
						return fmt.Errorf("%d series, %d in heads, complete: %v", v.Series, v.InHeads, v.Complete)
					}
					return nil
				})
			}
			w.write("a", limit, upTo(0, 300)...)
			w.write("b", schema.SeriesLimit{}, 1, 2)
			told(table, 300, 300)
			require.Equal(t, []uint32{5}, table.View("a").Producers)
			w.write("a", limit, upTo(290, 310)...)
			told(table, 310, 310)
			s.eventually(func() error {
				if n := s.gauges("sluice_consumer_active_series"); n["a"] != 310 || n["b"] != 2 || len(n) != 2 {
					return fmt.Errorf("active series %v", n)
				}
				return nil
			})
			s.seal()
			w.write("a", limit, upTo(305, 315)...)
			told(table, 315, 10)
			n, top := table.Usage("a", 1)
			require.EqualValues(t, 315, n)
			require.Equal(t, []usage.MetricUsage{{Name: "m0", Series: 105}}, top)

			s.stop()
			s = open(t, dir)
			w.s = s
			again := follow(t, s.log)
			w.write("a", limit, 400)
			told(again, 316, 11)
			for n := range 315 {
				require.True(t, again.Known("a", numberedHash("a", n), 0))
			}
			require.False(t, again.Known("a", numberedHash("a", 315), 0))
			require.EqualValues(t, 2, again.View("b").Series)
		})
	}
}

// The consumers of two zones hold every partition, and each series counts once; so it does while partitions move.
func TestUsageOfZones(t *testing.T) {
	c := newCluster(t)
	a := c.consumer("a0", "a")
	b := c.consumer("b0", "b")
	a.eventuallyHolds(testPartitions)
	b.eventuallyHolds(testPartitions)
	table := follow(t, a.log)
	var l ledger = map[schema.Tenant]map[string]map[int64]sample{}
	now := time.Now().UnixMilli() - 3_600_000
	a.someTraffic(rand.New(rand.NewPCG(1, 2)), l, &now, 300)
	counted := func() {
		t.Helper()
		a.eventually(func() error {
			for tenant, series := range l {
				// Of a tenant without a limit a few more or less are not worth a record.
				if n := table.View(tenant).Series; n == 0 || n > int64(len(series)) || n < int64(len(series))-10 {
					return fmt.Errorf("tenant %s has %d series, %d are told", tenant, len(series), n)
				}
			}
			return nil
		})
	}
	counted()
	a2 := c.consumer("a1", "a")
	a2.eventuallyHolds(1)
	a.eventuallyHolds(1)
	counted()
	b.stop()
	counted()
}
