package consumer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// A tenant's head costs no file descriptor: thousands of tenants share a process.
func TestHeadsKeepNoFilesOpen(t *testing.T) {
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(fds)
	}
	dir := t.TempDir()
	before := open()
	heads := make([]*head, 50)
	for i := range heads {
		h, err := newHead("a", dir, 1)
		require.NoError(t, err)
		_, err = applyV1(h, benchRecord(10, 1000))
		require.NoError(t, err)
		heads[i] = h
	}
	require.Less(t, open()-before, 10)
	runtime.KeepAlive(heads)
}

func applyV1(h *head, value []byte) (t tally, err error) {
	var scratch schema.Series
	app := h.appender(context.Background())
	err = app.apply(value, &scratch, &t, sinks{})
	return t, errors.Join(err, app.close(), t.err)
}

// BenchmarkNewHead is what a tenant costs before its first sample.
func BenchmarkNewHead(b *testing.B) {
	dir := b.TempDir()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := newHead("a", dir, 1); err != nil {
			b.Fatal(err)
		}
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
	h, err := newHead("a", b.TempDir(), 1)
	if err != nil {
		b.Fatal(err)
	}
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
			if h, err = newHead("a", b.TempDir(), 1); err != nil {
				b.Fatal(err)
			}
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
		h, err := newHead("a", b.TempDir(), 1)
		if err != nil {
			b.Fatal(err)
		}
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
		app := h.appender(context.Background())
		err := errors.Join(app.applyColumns(&p.columns, p.refs.of("a", p.columns.Epoch), 0, &t, sinks{}), app.close(), t.err)
		if err != nil || t.unresolved > 0 {
			b.Fatal(err, t.unresolved)
		}
	}
	i := len(records)
	b.ReportAllocs()
	for b.Loop() {
		if i == len(records) {
			b.StopTimer()
			var err error
			if h, err = newHead("a", b.TempDir(), p.nextHead()); err != nil {
				b.Fatal(err)
			}
			apply(records[0])
			i = 1
			b.StartTimer()
		}
		apply(records[i])
		i++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/sample")
}
