package reader

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"sluice/internal/merge"
)

// Federation, as Prometheus does it: the newest sample of each series that matches, for another Prometheus to scrape. Types
// are told of native histograms only, which have to be in protobuf; with text they are left out, but for those with custom
// buckets, which become classic ones.

// point is the newest sample of a series.
type point struct {
	labels labels.Labels
	name   string
	time   int64 // ms
	value  float64
	hist   *histogram.FloatHistogram // instead of value
}

// serveFederate answers /federate.
func (r *Reader) serveFederate(w http.ResponseWriter, req *http.Request) {
	var sets [][]*labels.Matcher
	language := parser.NewParser(parser.Options{})
	for _, selector := range req.Form["match[]"] {
		ms, err := language.ParseMetricSelector(selector)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		sets = append(sets, ms)
	}
	now := time.Now()
	points, err := r.newest(req.Context(), now.Add(-lookback).UnixMilli(), now.UnixMilli(), sets)
	if err != nil {
		respondError(w, req, err)
		return
	}
	format := expfmt.NegotiateAccept(req.Header, expfmt.NewFormat(expfmt.TypeProtoDelim), expfmt.NewFormat(expfmt.TypeProtoText),
		expfmt.NewFormat(expfmt.TypeProtoCompact), expfmt.NewFormat(expfmt.TypeTextPlain)) // OpenMetrics is not federated by Prometheus either
	w.Header().Set("Content-Type", string(format))
	enc := expfmt.NewEncoder(w, format)
	native := format.FormatType() != expfmt.TypeTextPlain
	for len(points) > 0 {
		n := 1
		for n < len(points) && points[n].sameFamily(&points[0]) {
			n++
		}
		if f := family(points[:n], native); f != nil {
			if err := enc.Encode(f); err != nil {
				r.logger.Debug("federation broke off", "err", err)
				return // the client has gone
			}
		}
		points = points[n:]
	}
}

// newest selects the newest sample in [mint, maxt] of every series, sorted by name. Series whose newest sample says that they
// have ended, or without a name, are left out.
func (r *Reader) newest(ctx context.Context, mint, maxt int64, sets [][]*labels.Matcher) (points []point, err error) {
	q, err := r.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	defer q.Close() // reading has no more to say
	hints := &storage.SelectHints{Start: mint, End: maxt}
	var found []storage.SeriesSet
	for _, ms := range sets {
		found = append(found, q.Select(ctx, true, hints, ms...))
	}
	set := storage.NewMergeSeriesSet(found, 0, merge.Series)
	var it chunkenc.Iterator
	for set.Next() {
		s := set.At()
		it = s.Iterator(it)
		p, ok := last(it, maxt)
		if it.Err() != nil {
			return nil, it.Err()
		}
		if p.labels = s.Labels(); !ok || p.stale() {
			continue
		}
		if p.name = p.labels.Get(model.MetricNameLabel); p.name != "" {
			points = append(points, p)
		}
	}
	if set.Err() != nil {
		return nil, set.Err()
	}
	slices.SortStableFunc(points, func(a, b point) int { return strings.Compare(a.name, b.name) })
	return points, nil
}

// last reads the last sample up to maxt.
func last(it chunkenc.Iterator, maxt int64) (p point, ok bool) {
	for kind := it.Next(); kind != chunkenc.ValNone && it.AtT() <= maxt; kind = it.Next() {
		switch kind {
		case chunkenc.ValFloat:
			p.time, p.value = it.At()
			p.hist = nil
		default:
			p.time, p.hist = it.AtFloatHistogram(nil)
		}
		ok = true
	}
	return p, ok
}

func (p *point) stale() bool {
	if p.hist != nil {
		return value.IsStaleNaN(p.hist.Sum)
	}
	return value.IsStaleNaN(p.value)
}

// sameFamily tells whether two points may be in one family, which has one type.
func (p *point) sameFamily(o *point) bool {
	return p.name == o.name && p.kind() == o.kind()
}

func (p *point) kind() dto.MetricType {
	switch {
	case p.hist == nil:
		return dto.MetricType_UNTYPED
	case p.hist.CounterResetHint == histogram.GaugeType:
		return dto.MetricType_GAUGE_HISTOGRAM
	}
	return dto.MetricType_HISTOGRAM
}

// family makes the family of points that are of one; nil if nothing of it can be said.
func family(points []point, native bool) *dto.MetricFamily {
	f := &dto.MetricFamily{Name: new(points[0].name), Type: points[0].kind().Enum()}
	for i := range points {
		p := &points[i]
		if p.hist != nil && !native && !p.hist.UsesCustomBuckets() {
			continue
		}
		m := &dto.Metric{TimestampMs: new(p.time)}
		instance := false
		p.labels.Range(func(l labels.Label) {
			if l.Name != model.MetricNameLabel {
				m.Label = append(m.Label, &dto.LabelPair{Name: new(l.Name), Value: new(l.Value)})
				instance = instance || l.Name == model.InstanceLabel
			}
		})
		if !instance { // so that the one who scrapes does not put us there
			m.Label = append(m.Label, &dto.LabelPair{Name: new(string(model.InstanceLabel)), Value: new("")})
		}
		switch {
		case p.hist == nil:
			m.Untyped = &dto.Untyped{Value: new(p.value)}
		case p.hist.UsesCustomBuckets():
			m.Histogram = classic(p.hist)
		default:
			m.Histogram = exponential(p.hist)
		}
		f.Metric = append(f.Metric, m)
	}
	if len(f.Metric) == 0 {
		return nil
	}
	return f
}

// exponential is a native histogram as it was.
func exponential(h *histogram.FloatHistogram) *dto.Histogram {
	spans := func(in []histogram.Span) (out []*dto.BucketSpan) {
		for _, s := range in {
			out = append(out, &dto.BucketSpan{Offset: new(s.Offset), Length: new(s.Length)})
		}
		return out
	}
	return &dto.Histogram{
		SampleCountFloat: new(h.Count), SampleSum: new(h.Sum),
		Schema: new(h.Schema), ZeroThreshold: new(h.ZeroThreshold), ZeroCountFloat: new(h.ZeroCount),
		PositiveSpan: spans(h.PositiveSpans), PositiveCount: h.PositiveBuckets,
		NegativeSpan: spans(h.NegativeSpans), NegativeCount: h.NegativeBuckets,
	}
}

// classic is a histogram with custom buckets as one with cumulative buckets.
func classic(h *histogram.FloatHistogram) *dto.Histogram {
	out := &dto.Histogram{SampleCountFloat: new(h.Count), SampleSum: new(h.Sum)}
	var sum float64
	at := 0 // in h.PositiveBuckets
	counts := make([]float64, len(h.CustomValues)+1)
	bucket := 0
	for _, s := range h.PositiveSpans {
		bucket += int(s.Offset)
		for range s.Length {
			if bucket >= 0 && bucket < len(counts) && at < len(h.PositiveBuckets) {
				counts[bucket] = h.PositiveBuckets[at]
			}
			bucket, at = bucket+1, at+1
		}
	}
	for i, upper := range h.CustomValues { // the last, +Inf, is what the count says
		sum += counts[i]
		out.Bucket = append(out.Bucket, &dto.Bucket{CumulativeCountFloat: new(sum), UpperBound: new(upper)})
	}
	return out
}
