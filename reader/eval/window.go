package eval

import (
	"math"

	"github.com/prometheus/prometheus/util/kahansum"
)

// missing marks a step without a result. No result is a stale marker: those that are read are no values, and what is
// computed is another NaN.
var missing = math.Float64frombits(staleBits)

func isMissing(v float64) bool { return math.Float64bits(v) == staleBits }

// function is what is done with the samples of one series in a window.
type function uint8

const (
	funcSelect function = iota // the newest sample, as a selector without a range
	funcRate
	funcIncrease
	funcDelta
	funcIrate
	funcIdelta
	funcSum
	funcAvg
	funcMin
	funcMax
	funcCount
	funcLast
	funcFirst
	funcPresent
	funcChanges
	funcResets
)

// functions are those known here by their names in PromQL. Their arithmetic is that of Prometheus, operation by operation:
// the answers are the same to the last bit (TestAgainstPrometheus).
var functions = map[string]function{
	"rate": funcRate, "increase": funcIncrease, "delta": funcDelta, "irate": funcIrate, "idelta": funcIdelta,
	"sum_over_time": funcSum, "avg_over_time": funcAvg, "min_over_time": funcMin, "max_over_time": funcMax,
	"count_over_time": funcCount, "last_over_time": funcLast, "first_over_time": funcFirst,
	"present_over_time": funcPresent, "changes": funcChanges, "resets": funcResets,
}

// starts tells whether start timestamps matter to the function, for an engine that looks at them.
func (f function) starts() bool {
	return f == funcRate || f == funcIncrease || f == funcIrate || f == funcResets
}

// keepsName tells whether the function's results keep the name of the metric.
func (f function) keepsName() bool { return f == funcSelect || f == funcLast || f == funcFirst }

// grid are the steps of an evaluation: start, start+interval, …, not after end (ms).
type grid struct{ start, end, interval int64 }

func (g grid) steps() int {
	if g.end < g.start {
		return 0
	}
	return int((g.end-g.start)/g.interval) + 1
}

// counts is what an evaluation adds to the statistics of a query, in samples.
type counts struct {
	results int // points that came out
	total   int64
	read    int64 // the same without those of the window of the step before
	most    int   // in a window
	last    int   // in the last window
}

// windows computes the results of one series: out has a place for each step. readAt, if not nil, has what each step adds to counts.read.
func (e *evaluation) windows(s *samples, out []float64, readAt []int64) (c counts) {
	if e.fn == funcSelect {
		return e.newest(s, out, readAt)
	}
	ts, vs := s.ts, s.vs
	var resets []int // where a value is smaller than the one before it
	if e.fn == funcRate || e.fn == funcIncrease {
		resets = e.scratch.resets(vs)
	}
	lo, hi, before := 0, 0, 0
	maxt := e.grid.start - e.offset
	for k := range out {
		mint := maxt - e.rng
		for hi < len(ts) && ts[hi] <= maxt {
			hi++
		}
		for lo < hi && ts[lo] <= mint {
			lo++
		}
		out[k] = missing
		if n := hi - lo; n > 0 {
			for len(resets) > 0 && resets[0] <= lo {
				resets = resets[1:]
			}
			if v, ok := e.apply(ts[lo:hi], vs[lo:hi], resets, lo, mint, maxt); ok {
				out[k] = v
				c.results++
			}
			news := int64(hi - max(lo, before))
			c.total += int64(n)
			c.read += news
			if readAt != nil {
				readAt[k] += news
			}
			c.most = max(c.most, n)
		}
		c.last = hi - lo
		before = hi
		maxt += e.grid.interval
	}
	return c
}

// newest computes what a selector without a range gives: at each step the newest sample, if it is not older than the
// look-back and no stale marker.
func (e *evaluation) newest(s *samples, out []float64, readAt []int64) (c counts) {
	ts, hi, at := s.ts, 0, e.grid.start-e.offset
	for k := range out {
		for hi < len(ts) && ts[hi] <= at {
			hi++
		}
		out[k] = missing
		if hi > 0 && ts[hi-1] > at-e.lookback && !isMissing(s.vs[hi-1]) {
			out[k] = s.vs[hi-1]
			c.results++
			if readAt != nil {
				readAt[k]++
			}
		}
		at += e.grid.interval
	}
	c.total, c.read = int64(c.results), int64(c.results)
	return c
}

// apply computes one window. ts and vs are what is in it, from place lo of the series on; mint is where it begins (not in it) and
// maxt where it ends.
func (e *evaluation) apply(ts []int64, vs []float64, resets []int, lo int, mint, maxt int64) (v float64, ok bool) {
	switch e.fn {
	case funcRate, funcIncrease, funcDelta:
		return e.extrapolated(ts, vs, resets, lo, mint, maxt)
	case funcIrate, funcIdelta:
		return e.lastTwo(ts, vs)
	case funcSum:
		return sumOf(vs), true
	case funcAvg:
		return avgOf(vs), true
	case funcMin:
		return minOf(vs), true
	case funcMax:
		return maxOf(vs), true
	case funcCount:
		return float64(len(vs)), true
	case funcLast:
		return vs[len(vs)-1], true
	case funcFirst:
		return vs[0], true
	case funcPresent:
		return 1, true
	case funcChanges:
		return changesOf(vs), true
	case funcResets:
		return resetsOf(vs), true
	}
	return 0, false
}

// extrapolated is rate, increase and delta.
func (e *evaluation) extrapolated(ts []int64, vs []float64, resets []int, lo int, mint, maxt int64) (float64, bool) {
	n := len(vs) - 1
	if n < 1 {
		return 0, false
	}
	isCounter := e.fn != funcDelta
	result := vs[n] - vs[0]
	for _, at := range resets { // none for delta
		if at > lo+n {
			break
		}
		result += vs[at-lo-1]
	}
	toStart := float64(ts[0]-mint) / 1000
	toEnd := float64(maxt-ts[n]) / 1000
	sampled := float64(ts[n]-ts[0]) / 1000
	average := sampled / float64(n)
	threshold := average * 1.1
	if toStart >= threshold {
		toStart = average / 2
	}
	if isCounter {
		// A counter is not extrapolated below zero.
		toZero := toStart
		if result > 0 && vs[0] >= 0 {
			toZero = sampled * (vs[0] / result)
		}
		if toZero < toStart {
			toStart = toZero
		}
	}
	if toEnd >= threshold {
		toEnd = average / 2
	}
	factor := 1.0
	if sampled != 0 {
		factor = (sampled + toStart + toEnd) / sampled
	}
	if e.fn == funcRate {
		factor /= e.seconds
	}
	return result * factor, true
}

// lastTwo is irate and idelta.
func (e *evaluation) lastTwo(ts []int64, vs []float64) (float64, bool) {
	n := len(vs) - 1
	if n < 1 {
		return 0, false
	}
	interval := ts[n] - ts[n-1]
	if interval == 0 {
		return 0, false
	}
	v := vs[n]
	if e.fn == funcIdelta || !(vs[n] < vs[n-1]) {
		v = vs[n] - vs[n-1]
	}
	if e.fn == funcIrate {
		v /= float64(interval) / 1000
	}
	return v, true
}

func sumOf(vs []float64) float64 {
	var sum, c float64
	for _, v := range vs {
		sum, c = kahansum.Inc(v, sum, c)
	}
	if math.IsInf(sum, 0) {
		return sum
	}
	return sum + c
}

// avgOf is the sum divided, or a running mean once the sum has overflown.
func avgOf(vs []float64) float64 {
	sum, count := vs[0], 1.0
	var mean, c float64
	running := false
	for i, v := range vs[1:] {
		count = float64(i + 2)
		if !running {
			newSum, newC := kahansum.Inc(v, sum, c)
			if !math.IsInf(newSum, 0) {
				sum, c = newSum, newC
				continue
			}
			running = true
			mean = sum / (count - 1)
			c /= count - 1
		}
		q := (count - 1) / count
		mean, c = kahansum.Inc(v/count, q*mean, q*c)
	}
	if running {
		return mean + c
	}
	return sum/count + c/count
}

func minOf(vs []float64) float64 {
	m := vs[0]
	for _, v := range vs {
		if v < m || m != m {
			m = v
		}
	}
	return m
}

func maxOf(vs []float64) float64 {
	m := vs[0]
	for _, v := range vs {
		if v > m || m != m {
			m = v
		}
	}
	return m
}

func changesOf(vs []float64) float64 {
	n := 0
	for i, v := range vs[1:] {
		if p := vs[i]; v != p && !(v != v && p != p) {
			n++
		}
	}
	return float64(n)
}

func resetsOf(vs []float64) float64 {
	n := 0
	for i, v := range vs[1:] {
		if v < vs[i] {
			n++
		}
	}
	return float64(n)
}
