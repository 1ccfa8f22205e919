package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"sluice/internal/exemplars"
	"sluice/schema"
)

func applyV1(h *head, value []byte) (t tally, err error) {
	var scratch schema.Series
	app := h.appender()
	err = app.apply(value, &scratch, &t, sinks{})
	app.close()
	return t, errors.Join(err, t.err)
}

// BenchmarkNewHead is what a tenant costs before its first sample.
func BenchmarkNewHead(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		_ = newHead("a", 1)
	}
}

// benchRecord is a record of n series with 12 labels and one sample each at time ts.
func benchRecord(n int, ts int64) []byte {
	var value []byte
	for i := range n {
		var lbls []schema.Label
		lbls = append(lbls, schema.Label{Name: []byte("__name__"), Value: []byte("http_request_duration_seconds_bucket")})
		for j := range 11 {
			lbls = append(lbls, schema.Label{Name: fmt.Appendf(nil, "label_%02d", j), Value: fmt.Appendf(nil, "value-%d-%d", j, i)})
		}
		value = schema.AppendTimeSeries(value, schema.AppendSample(schema.AppendLabels(nil, lbls), ts, 0, float64(ts+int64(i))))
	}
	return value
}

// BenchmarkApply is the consumer's hot path: a v1 record of known series into a head.
func BenchmarkApply(b *testing.B) {
	const n = 500
	h := newHead("a", 1)
	records := make([][]byte, 200)
	for i := range records {
		records[i] = benchRecord(n, int64(i)*15_000)
	}
	apply := func(value []byte) {
		if _, err := applyV1(h, value); err != nil {
			b.Fatal(err)
		}
	}
	apply(records[0])
	b.ReportAllocs()
	i := 1
	for b.Loop() {
		if i == len(records) {
			b.StopTimer()
			h = newHead("a", 1)
			apply(records[0])
			i = 1
			b.StartTimer()
		}
		apply(records[i])
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/sample")
}

// BenchmarkApplyNewSeries is the first record of a generation: every series is new.
func BenchmarkApplyNewSeries(b *testing.B) {
	const n = 5000
	value := benchRecord(n, 1000)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		h := newHead("a", 1)
		b.StartTimer()
		if _, err := applyV1(h, value); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/series")
}

// benchColumns is benchRecord in version 2.
func benchColumns(n int, ts int64, define bool) []byte {
	var w schema.RecordWriter
	rest := benchRecord(n, ts)
	for ref := range uint32(n) {
		f, next, _ := schema.NextField(rest)
		rest = next
		var s schema.Series
		if err := s.Cut(f.Payload); err != nil {
			panic(err)
		}
		if define {
			w.Define(ref, s.LabelBytes)
		}
		w.Float(ref, s.Samples[0].Time, 0, s.Samples[0].Value)
	}
	return w.Append(nil, 7)
}

// BenchmarkApplyColumns is BenchmarkApply for records of version 2.
func BenchmarkApplyColumns(b *testing.B) {
	const n = 500
	records := make([][]byte, 200)
	for i := range records {
		records[i] = benchColumns(n, int64(i)*15_000, i == 0)
	}
	var p partition
	var h *head
	p.refs = newRefs()
	apply := func(value []byte) {
		var t tally
		if err := p.columns.Parse(value); err != nil {
			b.Fatal(err)
		}
		if err := p.refs.define("a", &p.columns, 0, &p.scratch); err != nil {
			b.Fatal(err)
		}
		app := h.appender()
		err := errors.Join(app.applyColumns(&p.columns, p.refs.of("a", p.columns.Epoch), 0, &t, sinks{}), t.err)
		app.close()
		if err != nil || t.unresolved > 0 {
			b.Fatal(err, t.unresolved)
		}
	}
	i := len(records)
	b.ReportAllocs()
	for b.Loop() {
		if i == len(records) {
			b.StopTimer()
			h = newHead("a", p.nextHead())
			apply(records[0])
			i = 1
			b.StartTimer()
		}
		apply(records[i])
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/sample")
}

// BenchmarkGeneration is what a series costs in a generation of two hours with a scrape every 15 s: memory, replay and seal. The
// rule for partition_shard_size follows from it.
func BenchmarkGeneration(b *testing.B) {
	const series, scrapes, perRecord = 20_000, 480, 2000
	var replay, sealing time.Duration
	var memory, bytes uint64
	for b.Loop() {
		var p partition
		p.refs = newRefs()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		h := newHead("a", p.nextHead())
		var tl tally
		for scrape := range int64(scrapes) {
			for from := 0; from < series; from += perRecord {
				var w schema.RecordWriter
				for i := from; i < from+perRecord; i++ {
					if scrape == 0 {
						w.Define(uint32(i), schema.AppendLabels(nil, benchLabels(i)))
					}
					w.Float(uint32(i), 1_000_000_000_000+scrape*15_000, 0, float64(scrape*int64(i%97)))
				}
				value := w.Append(nil, 7)
				began := time.Now()
				if err := errors.Join(p.columns.Parse(value), p.refs.define("a", &p.columns, 0, &p.scratch)); err != nil {
					b.Fatal(err)
				}
				app := h.appender()
				err := app.applyColumns(&p.columns, p.refs.of("a", 7), 0, &tl, sinks{})
				app.close()
				if replay += time.Since(began); err != nil {
					b.Fatal(err)
				}
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		memory += after.HeapAlloc - before.HeapAlloc
		began := time.Now()
		blocks, err := h.writeBlocks(context.Background(), b.TempDir(), schema.BlockOrigin{Tenant: "a"}, &exemplars.Set{})
		if sealing += time.Since(began); err != nil {
			b.Fatal(err)
		}
		for _, blk := range blocks {
			for _, f := range blk.meta.Thanos.Files {
				bytes += uint64(f.Size)
			}
		}
	}
	per := func(what uint64, unit string) { b.ReportMetric(float64(what)/float64(b.N)/series, unit) }
	per(uint64(replay.Microseconds()), "replay-µs/series")
	per(uint64(sealing.Microseconds()), "seal-µs/series")
	per(memory, "heap-B/series")
	per(bytes, "block-B/series")
	b.ReportMetric(float64(replay.Nanoseconds())/float64(b.N)/series/scrapes, "replay-ns/sample")
}

func benchLabels(i int) []schema.Label {
	lbls := []schema.Label{{Name: []byte("__name__"), Value: []byte("http_request_duration_seconds_bucket")}}
	for j := range 11 {
		lbls = append(lbls, schema.Label{Name: fmt.Appendf(nil, "label_%02d", j), Value: fmt.Appendf(nil, "value-%d-%d", j, i>>j)})
	}
	return lbls
}

// BenchmarkApplyMany is BenchmarkApplyColumns with as many series as a partition has, which no cache of a processor holds.
func BenchmarkApplyMany(b *testing.B) {
	const series, perRecord = 200_000, 500
	var p partition
	var h *head
	p.refs = newRefs()
	record := func(from int, ts int64, define bool) []byte {
		var w schema.RecordWriter
		for i := from; i < from+perRecord; i++ {
			if define {
				w.Define(uint32(i), schema.AppendLabels(nil, benchLabels(i)))
			}
			w.Float(uint32(i), ts, 0, float64(ts+int64(i)))
		}
		return w.Append(nil, 7)
	}
	apply := func(value []byte) {
		var t tally
		if err := errors.Join(p.columns.Parse(value), p.refs.define("a", &p.columns, 0, &p.scratch)); err != nil {
			b.Fatal(err)
		}
		app := h.appender()
		err := errors.Join(app.applyColumns(&p.columns, p.refs.of("a", p.columns.Epoch), 0, &t, sinks{}), t.err)
		app.close()
		if err != nil || t.unresolved > 0 {
			b.Fatal(err, t.unresolved)
		}
	}
	h = newHead("a", p.nextHead())
	for from := 0; from < series; from += perRecord {
		apply(record(from, 0, true))
	}
	ts := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		ts += 15_000
		var records [][]byte
		for from := 0; from < series; from += perRecord {
			records = append(records, record(from, ts, false))
		}
		rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		b.StartTimer()
		for _, r := range records {
			apply(r)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*series), "ns/sample")
}
