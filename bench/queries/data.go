// Package queries makes samples of every kind and PromQL over them, the same ones for the same seed: what two databases that
// hold the same samples must answer alike. In goes a seed and a time; out come samples in the order in which they are to be
// written, the request that writes them, and queries with the times to ask them for. It knows no answers, and nothing of the databases.
package queries

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
)

// Sample is a value of a series at a time: a float, or a histogram of one of the two kinds.
type Sample struct {
	Series labels.Labels
	ST, T  int64 // start timestamp (0 = none) and time, ms
	V      float64
	H      *histogram.Histogram
	FH     *histogram.FloatHistogram
}

// Histogram tells whether the sample is one.
func (s *Sample) Histogram() bool { return s.H != nil || s.FH != nil }

// The shape of the data.
const (
	Length   = 150 * time.Minute // from the first sample to the last
	interval = 30 * time.Second
)

// target is who exposes metrics.
type target struct{ job, instance, region string }

var targets = []target{
	{"api", "10.0.0.1:80", "eu"}, {"api", "10.0.0.2:80", "eu"}, {"api", "10.0.0.3:80", "us"},
	{"db", "10.0.1.1:5432", "eu"}, {"db", "10.0.1.2:5432", "us"},
	{"batch", "worker", "us"},
}

// Samples returns the samples from start on, in the order of their times; the last ones are late.
func Samples(seed uint64, start time.Time) []Sample {
	d := &data{rnd: rand.New(rand.NewPCG(seed, 1)), start: start.UnixMilli()}
	for _, t := range targets {
		d.add(d.gauge(200+100*d.rnd.Float64()), "memory_bytes", "job", t.job, "instance", t.instance, "region", t.region)
		d.add(d.gauge(5), "load", "job", t.job, "instance", t.instance)
		for _, code := range []string{"200", "404", "500"} {
			for _, method := range []string{"GET", "POST"} {
				if code == "404" && t.job == "db" || code == "500" && method == "POST" && t.region == "us" {
					continue // not everybody has everything: matching must find no partner now and then
				}
				d.add(d.counter(), "requests_total", "job", t.job, "instance", t.instance, "code", code, "method", method)
			}
		}
		d.add(d.constant(1), "target_info", "job", t.job, "instance", t.instance, "region", t.region, "version", "1."+strconv.Itoa(len(t.job)))
		d.classic(t)
		d.native(t)
	}
	d.odd()
	return d.inOrder()
}

// data is series under construction, each as a function of the step.
type data struct {
	rnd    *rand.Rand
	start  int64
	series []madeSeries
	late   []Sample
}

type madeSeries struct {
	lset labels.Labels
	at   func(step int, s *Sample) bool // fills in what the series has at a step; false = nothing
}

const steps = int(Length / interval)

func (d *data) add(at func(int, *Sample) bool, name string, more ...string) {
	d.series = append(d.series, madeSeries{labels.FromStrings(append([]string{labels.MetricName, name}, more...)...), at})
}

func (d *data) time(step int) int64 { return d.start + int64(step)*interval.Milliseconds() }

// inOrder lets every series speak at each step, some milliseconds apart.
func (d *data) inOrder() []Sample {
	var all []Sample
	for step := range steps {
		for i := range d.series {
			s := Sample{Series: d.series[i].lset, T: d.time(step) + int64(i%7)*113}
			if d.series[i].at(step, &s) {
				all = append(all, s)
			}
		}
	}
	return append(all, d.late...)
}

func (d *data) gauge(mean float64) func(int, *Sample) bool {
	v := mean
	return func(_ int, s *Sample) bool {
		v += (mean-v)*0.05 + mean*0.1*d.rnd.NormFloat64()
		s.V = v
		return true
	}
}

func (d *data) constant(v float64) func(int, *Sample) bool {
	return func(_ int, s *Sample) bool { s.V = v; return true }
}

// counter grows, begins again now and then, has gaps, and knows when it began.
func (d *data) counter() func(int, *Sample) bool {
	v, speed, began, gap := 1000*d.rnd.Float64(), 20*d.rnd.Float64(), d.start-60_000, 0
	return func(step int, s *Sample) bool {
		if gap > 0 {
			gap--
			return false
		}
		switch d.rnd.IntN(100) {
		case 0:
			v, began = 0, s.T-1000
		case 1:
			gap = d.rnd.IntN(15)
			s.V = math.Float64frombits(value.StaleNaN)
			return true
		}
		v += math.Round(speed * d.rnd.ExpFloat64())
		s.V, s.ST = v, began
		return true
	}
}

// classic makes a histogram of many series.
func (d *data) classic(t target) {
	bounds := []string{"0.1", "0.5", "1", "2.5", "10", "+Inf"}
	counts := make([]float64, len(bounds))
	sum := 0.0
	for i, le := range bounds {
		d.add(func(_ int, s *Sample) bool {
			if i == 0 { // the first one moves them all
				for range d.rnd.IntN(20) {
					seconds := d.rnd.ExpFloat64()
					sum += seconds
					for j, bound := range bounds {
						if f, _ := strconv.ParseFloat(bound, 64); seconds <= f {
							counts[j]++
						}
					}
				}
			}
			s.V = counts[i]
			return true
		}, "latency_seconds_bucket", "job", t.job, "instance", t.instance, "le", le)
	}
	d.add(func(_ int, s *Sample) bool { s.V = sum; return true }, "latency_seconds_sum", "job", t.job, "instance", t.instance)
	d.add(func(_ int, s *Sample) bool { s.V = counts[len(counts)-1]; return true }, "latency_seconds_count", "job", t.job, "instance", t.instance)
}

// native makes histograms of all kinds: with integers, with floats, of a gauge, and with bounds of their own.
func (d *data) native(t target) {
	ints := &histogram.Histogram{Schema: 2, ZeroThreshold: 1e-3, PositiveSpans: []histogram.Span{{Offset: -8, Length: 20}}, PositiveBuckets: make([]int64, 20)}
	began := d.start - 30_000
	d.add(func(step int, s *Sample) bool {
		if d.rnd.IntN(80) == 0 {
			*ints = histogram.Histogram{Schema: 2, ZeroThreshold: 1e-3, PositiveSpans: ints.PositiveSpans, PositiveBuckets: make([]int64, 20)}
			began = s.T - 500
		}
		if step == steps/2 && t.job == "db" {
			ints.Schema = 1 // from here on in coarser buckets
		}
		for range d.rnd.IntN(30) {
			observe(ints, d.rnd.IntN(20), d.rnd.Float64())
		}
		s.H, s.ST = ints.Copy(), began
		return true
	}, "duration_seconds", "job", t.job, "instance", t.instance)

	floats := &histogram.FloatHistogram{
		Schema: 0, ZeroThreshold: 0.01, PositiveSpans: []histogram.Span{{Offset: 0, Length: 3}, {Offset: 2, Length: 2}}, PositiveBuckets: make([]float64, 5),
		NegativeSpans: []histogram.Span{{Offset: 1, Length: 2}}, NegativeBuckets: make([]float64, 2),
	}
	d.add(func(_ int, s *Sample) bool {
		grow(floats, d.rnd)
		s.FH = floats.Copy()
		return true
	}, "size_bytes", "job", t.job, "region", t.region, "instance", t.instance)

	d.add(func(_ int, s *Sample) bool {
		h := &histogram.FloatHistogram{
			CounterResetHint: histogram.GaugeType, Schema: 1, ZeroThreshold: 0.01,
			PositiveSpans: []histogram.Span{{Offset: int32(d.rnd.IntN(3)), Length: 4}}, PositiveBuckets: make([]float64, 4),
		}
		grow(h, d.rnd)
		s.FH = h
		return true
	}, "queue_ages", "job", t.job, "instance", t.instance)

	custom := &histogram.FloatHistogram{
		Schema: histogram.CustomBucketsSchema, CustomValues: []float64{0.1, 0.5, 1, 2.5, 10},
		PositiveSpans: []histogram.Span{{Offset: 0, Length: 6}}, PositiveBuckets: make([]float64, 6),
	}
	if t.job == "db" {
		custom.CustomValues = []float64{0.1, 0.25, 1, 5, 10}
	}
	d.add(func(_ int, s *Sample) bool {
		grow(custom, d.rnd)
		s.FH = custom.Copy()
		return true
	}, "wait_seconds", "job", t.job, "instance", t.instance)
}

// observe adds an observation to a bucket, whose counts are kept as differences.
func observe(h *histogram.Histogram, bucket int, v float64) {
	h.PositiveBuckets[bucket]++
	if bucket+1 < len(h.PositiveBuckets) {
		h.PositiveBuckets[bucket+1]--
	}
	h.Count++
	h.Sum += v
}

// grow adds to every bucket.
func grow(h *histogram.FloatHistogram, rnd *rand.Rand) {
	for _, buckets := range [][]float64{h.PositiveBuckets, h.NegativeBuckets} {
		for i := range buckets {
			n := float64(rnd.IntN(8)) / 2
			buckets[i] += n
			h.Count += n
			h.Sum += n * rnd.Float64()
		}
	}
	if h.Schema != histogram.CustomBucketsSchema {
		h.ZeroCount++
		h.Count++
	}
}

// odd makes what nobody thinks of.
func (d *data) odd() {
	// No negative zero: remote write's own encoder makes a plain one of it.
	for kind, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64, -12.5} {
		d.add(func(step int, s *Sample) bool {
			s.V = v
			if step%5 == 0 {
				s.V = float64(step)
			}
			return true
		}, "odd", "kind", strconv.Itoa(kind))
	}
	d.add(func(step int, s *Sample) bool { s.V = float64(step); return step%23 == 0 }, "sparse", "every", "690s")
	d.add(func(step int, s *Sample) bool { s.V = 42; return step == steps/3 }, "once")
	d.add(func(step int, s *Sample) bool {
		s.V = float64(step % 17)
		if step%17 == 16 {
			s.V = math.Float64frombits(value.StaleNaN)
		}
		return step%40 < 25
	}, "comes_and_goes", "job", "batch")
	mixed := &histogram.FloatHistogram{PositiveSpans: []histogram.Span{{Offset: 1, Length: 2}}, PositiveBuckets: make([]float64, 2)}
	d.add(func(step int, s *Sample) bool {
		if step/20%2 == 0 {
			s.V = float64(step)
			return true
		}
		grow(mixed, d.rnd)
		s.FH = mixed.Copy()
		return true
	}, "mixed", "job", "api")
	for i, name := range []string{"ünï.metric", "with space", "emoji😀"} {
		d.add(d.gauge(float64(i+1)), name, "label.with.dots", "ä😀", "quoted", `a"b\c`, "newline", "x\ny")
	}
	for i := range 12 {
		d.add(d.gauge(50), "shard_load", "shard", fmt.Sprintf("s%02d", i), "zone", string(rune('a'+i%3)))
	}
	// Samples that come after newer ones of their series.
	late := labels.FromStrings(labels.MetricName, "late", "job", "batch")
	d.add(func(step int, s *Sample) bool { s.V = float64(step); return step%2 == 0 }, "late", "job", "batch")
	for step := 1; step < steps; step += 4 {
		d.late = append(d.late, Sample{Series: late, T: d.time(step), V: float64(step) + 0.5})
	}
}
