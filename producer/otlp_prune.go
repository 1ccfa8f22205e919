package producer

import (
	"fmt"
	"math"

	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"sluice/schema"
)

// The translator gives up the rest of a metric at the first data point that it cannot translate, and says too little of why.
// So what is wrong with a data point is found out before, and it goes alone.

const (
	// maxAttributes bounds the attributes of a resource, a scope or a data point: the translator's work grows with their square.
	maxAttributes = 1024
	// minExponentialScale is the coarsest resolution of a native histogram.
	minExponentialScale = -4
)

// pruner takes from a request what cannot become series.
type pruner struct {
	q      *request
	namer  otlptranslator.LabelNamer
	points int // seen
	pruned int // of them, those that are gone
}

// fault is what is wrong with something; the zero value is nothing.
type fault struct {
	id      schema.ErrorID
	message string
}

func (f fault) is() bool { return f.id != "" }

// prune takes from md what cannot become series, and counts it in q.refused.
func (p *pruner) prune(md pmetric.Metrics) {
	md.ResourceMetrics().RemoveIf(func(rm pmetric.ResourceMetrics) bool {
		f := p.attributesFault(rm.Resource().Attributes(), maxAttributes)
		rm.ScopeMetrics().RemoveIf(func(sm pmetric.ScopeMetrics) bool {
			f := f
			if !f.is() {
				f = p.attributesFault(sm.Scope().Attributes(), maxAttributes)
			}
			sm.Metrics().RemoveIf(func(m pmetric.Metric) bool { return p.metric(m, f) })
			return f.is()
		})
		return f.is()
	})
}

// metric prunes the data points of a metric, all of them if there is something wrong above them.
func (p *pruner) metric(m pmetric.Metric, above fault) (remove bool) {
	temporality := pmetric.AggregationTemporalityCumulative
	switch m.Type() {
	case pmetric.MetricTypeSum:
		temporality = m.Sum().AggregationTemporality()
	case pmetric.MetricTypeHistogram:
		temporality = m.Histogram().AggregationTemporality()
	case pmetric.MetricTypeExponentialHistogram:
		temporality = m.ExponentialHistogram().AggregationTemporality()
	}
	if f := temporalityFault(temporality); !above.is() {
		above = f
	}
	check := func(f fault) bool {
		p.points++
		if above.is() {
			f = above
		}
		if !f.is() {
			return false
		}
		p.pruned++
		if first := p.q.refused.add(f.id, 1); first != nil {
			first.message = fmt.Sprintf("%s: metric %.200q", f.message, m.Name())
		}
		return true
	}
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		m.Gauge().DataPoints().RemoveIf(func(d pmetric.NumberDataPoint) bool { return check(p.number(d)) })
	case pmetric.MetricTypeSum:
		m.Sum().DataPoints().RemoveIf(func(d pmetric.NumberDataPoint) bool { return check(p.number(d)) })
	case pmetric.MetricTypeHistogram:
		m.Histogram().DataPoints().RemoveIf(func(d pmetric.HistogramDataPoint) bool { return check(p.histogram(d)) })
	case pmetric.MetricTypeExponentialHistogram:
		m.ExponentialHistogram().DataPoints().RemoveIf(func(d pmetric.ExponentialHistogramDataPoint) bool { return check(p.exponential(d)) })
	case pmetric.MetricTypeSummary:
		m.Summary().DataPoints().RemoveIf(func(d pmetric.SummaryDataPoint) bool { return check(p.point(d.Timestamp(), d.Attributes())) })
	default:
		return true
	}
	return above.is()
}

func temporalityFault(t pmetric.AggregationTemporality) fault {
	switch t {
	case pmetric.AggregationTemporalityCumulative:
		return fault{}
	case pmetric.AggregationTemporalityDelta:
		return fault{schema.ErrOTLPTemporality, "the temporality is delta, and Prometheus' counters are cumulative; set the exporter to cumulative, or convert in a collector"}
	}
	return fault{schema.ErrOTLPTemporality, "the temporality is not said, and has to be cumulative"}
}

func (p *pruner) number(d pmetric.NumberDataPoint) fault {
	if d.ValueType() == pmetric.NumberDataPointValueTypeEmpty && !d.Flags().NoRecordedValue() {
		return fault{schema.ErrOTLPDataPoint, "a data point has no value"}
	}
	p.exemplars(d.Exemplars())
	return p.point(d.Timestamp(), d.Attributes())
}

func (p *pruner) histogram(d pmetric.HistogramDataPoint) fault {
	bounds, counts := d.ExplicitBounds(), d.BucketCounts().Len()
	if n := bounds.Len(); counts != n+1 && (counts != 0 || n != 0) {
		return fault{schema.ErrOTLPDataPoint, fmt.Sprintf("a histogram has %d bounds and %d buckets, must be one more", n, counts)}
	}
	for i := range bounds.Len() {
		if b := bounds.At(i); math.IsNaN(b) || i > 0 && b <= bounds.At(i-1) {
			return fault{schema.ErrOTLPDataPoint, "the bounds of a histogram do not ascend"}
		}
	}
	p.exemplars(d.Exemplars())
	return p.point(d.Timestamp(), d.Attributes())
}

func (p *pruner) exponential(d pmetric.ExponentialHistogramDataPoint) fault {
	if s := d.Scale(); s < minExponentialScale {
		return fault{schema.ErrHistogramInvalid, fmt.Sprintf("the scale of an exponential histogram is %d, the coarsest of native histograms is %d", s, minExponentialScale)}
	}
	p.exemplars(d.Exemplars())
	return p.point(d.Timestamp(), d.Attributes())
}

// exemplars takes away those that have no value.
func (p *pruner) exemplars(list pmetric.ExemplarSlice) {
	if list.Len() == 0 {
		return
	}
	list.RemoveIf(func(e pmetric.Exemplar) bool {
		bad := e.ValueType() == pmetric.ExemplarValueTypeEmpty || e.FilteredAttributes().Len() > maxAttributes
		if bad {
			if first := p.q.refused.add(schema.ErrExemplarInvalid, 1); first != nil {
				first.message, first.harmless = "an exemplar has no value or too many attributes", true
			}
		}
		return bad
	})
}

// point checks what all data points have.
func (p *pruner) point(at pcommon.Timestamp, attributes pcommon.Map) fault {
	if at == 0 {
		return fault{schema.ErrOTLPDataPoint, "a data point has no time"}
	}
	t := int64(math.MaxInt64)
	if at <= math.MaxInt64 {
		t = int64(at) / 1e6
	}
	if id := p.q.timeFault(t); id != "" {
		return fault{id, p.q.explainTime(t, id)}
	}
	limit := maxAttributes
	if m := p.q.limits.MaxLabelNamesPerSeries; m > 0 {
		limit = min(limit, m)
	}
	return p.attributesFault(attributes, limit)
}

func (p *pruner) attributesFault(attributes pcommon.Map, limit int) (f fault) {
	if n := attributes.Len(); n > limit {
		return fault{schema.ErrTooManyLabels, fmt.Sprintf("%d attributes, more than max_label_names_per_series or what can be translated: %d", n, limit)}
	}
	size := 0
	for key, v := range attributes.All() {
		if !p.goodName(key) {
			return fault{schema.ErrLabelNameInvalid, fmt.Sprintf("attribute name %.200q cannot become the name of a label", key)}
		}
		if size += len(key) + valueSize(v); size > maxRawSeries {
			return fault{schema.ErrRecordTooLarge, fmt.Sprintf("attributes of more than a record, %d bytes", maxRawSeries)}
		}
	}
	return fault{}
}

// goodName says that the translator makes a name out of key.
func (p *pruner) goodName(key string) bool {
	for i := range len(key) {
		if c := key[i] | 0x20; 'a' <= c && c <= 'z' {
			return true
		}
	}
	_, err := p.namer.Build(key)
	return err == nil
}

// valueSize is about what a value takes as text, of one byte or more for each part.
func valueSize(v pcommon.Value) (n int) {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		return len(v.Str())
	case pcommon.ValueTypeBytes:
		return 2 * v.Bytes().Len()
	case pcommon.ValueTypeMap:
		for key, v := range v.Map().All() {
			n += 4 + len(key) + valueSize(v)
		}
	case pcommon.ValueTypeSlice:
		for _, v := range v.Slice().All() {
			n += 1 + valueSize(v)
		}
	}
	return n + 8
}
