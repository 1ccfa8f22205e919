package front

import (
	"cmp"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
)

const (
	floatBytes  = 16
	seriesBytes = 100 // without its labels
)

// memoryOf estimates what a matrix holds, in bytes.
func memoryOf(m promql.Matrix) (bytes int64) {
	for i := range m {
		s := &m[i]
		bytes += seriesBytes + int64(s.Metric.ByteSize()) + int64(len(s.Floats))*floatBytes
		for _, p := range s.Histograms {
			bytes += floatBytes + int64(p.H.Size())
		}
	}
	return bytes
}

// slice returns the points of m from first to last (ms, both inclusive), without series that have none. The points are
// m's own.
func slice(m promql.Matrix, first, last int64) promql.Matrix {
	out := make(promql.Matrix, 0, len(m))
	for _, s := range m {
		from, _ := slices.BinarySearchFunc(s.Floats, first, floatAt)
		to, _ := slices.BinarySearchFunc(s.Floats, last+1, floatAt)
		s.Floats = s.Floats[from:to:to]
		from, _ = slices.BinarySearchFunc(s.Histograms, first, histogramAt)
		to, _ = slices.BinarySearchFunc(s.Histograms, last+1, histogramAt)
		s.Histograms = s.Histograms[from:to:to]
		if len(s.Floats)+len(s.Histograms) > 0 {
			out = append(out, s)
		}
	}
	return out
}

func floatAt(p promql.FPoint, t int64) int     { return cmp.Compare(p.T, t) }
func histogramAt(p promql.HPoint, t int64) int { return cmp.Compare(p.T, t) }

// join puts parts together that follow each other in time, each sorted by labels as the engine leaves it. The points are
// copied. It is false if a part has two series with the same labels, which could not be told apart.
func join(parts []promql.Matrix) (promql.Matrix, bool) {
	type place struct{ part, series int }
	total := 0
	for _, m := range parts {
		total += len(m)
	}
	places := make([]place, 0, total)
	for p, m := range parts {
		for s := range m {
			places = append(places, place{p, s})
		}
	}
	at := func(p place) *promql.Series { return &parts[p.part][p.series] }
	slices.SortStableFunc(places, func(a, b place) int { return labels.Compare(at(a).Metric, at(b).Metric) })
	out := promql.Matrix{}
	for len(places) > 0 {
		n, floats, histograms := 0, 0, 0
		first := at(places[0])
		for n < len(places) && labels.Equal(at(places[n]).Metric, first.Metric) {
			if n > 0 && places[n].part == places[n-1].part {
				return nil, false
			}
			floats, histograms = floats+len(at(places[n]).Floats), histograms+len(at(places[n]).Histograms)
			n++
		}
		s := promql.Series{Metric: first.Metric, DropName: first.DropName}
		if floats > 0 {
			s.Floats = make([]promql.FPoint, 0, floats)
		}
		if histograms > 0 {
			s.Histograms = make([]promql.HPoint, 0, histograms)
		}
		for _, p := range places[:n] {
			s.Floats, s.Histograms = append(s.Floats, at(p).Floats...), append(s.Histograms, at(p).Histograms...)
		}
		out = append(out, s)
		places = places[n:]
	}
	return out, true
}
