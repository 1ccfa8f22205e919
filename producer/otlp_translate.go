package producer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote/otlptranslator/prometheusremotewrite"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"sluice/schema"
)

// translation is what Prometheus' translator has made of an OTLP request: series as payloads of 1.0, one after the other.
// It is the appender that the translator writes to.
type translation struct {
	q         *request
	converter *prometheusremotewrite.PrometheusConverter
	stop      context.CancelFunc

	payloads []byte
	reserved int64
	series   []translated
	metas    []schema.Metadata

	points     int              // data points seen
	afterSum   bool             // the last series was the sum of a histogram or of a summary
	targetInfo int              // samples of target_info since the last data point
	opts       storage.AOptions // of the last series
	err        error            // ends the request
}

// translated is a series.
type translated struct {
	end   int   // of its payload
	point int32 // number of its data point, from 1; 0 = target_info
	meta  int32 // place in metas
}

const (
	// maxTargetInfo bounds how many samples of target_info a resource gets, one each 150 seconds that its data points span:
	// they may be decades apart.
	maxTargetInfo   = 1000
	targetInfo      = "target_info"
	targetInfoHelp  = "Target metadata" // by which it differs from a metric of the sender's of that name
	translatedBytes = 24                // of a translated
)

var errTargetInfoSpan = errors.New("the data points of a resource are too far apart")

func (t *translation) memory() int {
	return cap(t.payloads) + translatedBytes*cap(t.series) + 100*cap(t.metas)
}

// reset lets go of everything but the memory.
func (t *translation) reset() {
	clear(t.metas)
	*t = translation{converter: t.converter, payloads: t.payloads[:0], series: t.series[:0], metas: t.metas[:0]}
}

// translate makes series out of md. An error ends the request.
func (q *request) translate(ctx context.Context, md pmetric.Metrics) error {
	t := &q.otlp
	t.q = q
	if t.converter == nil {
		t.converter = prometheusremotewrite.NewPrometheusConverter(nil)
	}
	ctx, t.stop = context.WithCancel(ctx)
	defer t.stop()
	settings := q.translationSettings()
	p := pruner{q: q}
	p.namer.UTF8Allowed = settings.AllowUTF8
	//lint:ignore SA1019 the translator does it by this field
	p.namer.UnderscoreLabelSanitization = settings.LabelNameUnderscoreSanitization
	p.namer.PreserveMultipleUnderscores = settings.LabelNamePreserveMultipleUnderscores
	p.prune(md)
	q.dataPoints, q.pointsRefused = p.points, p.pruned

	t.converter.Reset(t)
	defer t.converter.Reset(nil)
	_, err := t.converter.FromMetrics(ctx, md, settings)
	switch {
	case t.err != nil:
		return t.err
	case err == nil:
	case ctx.Err() != nil:
		return fmt.Errorf("translate OTLP: %w", ctx.Err()) // 499
	default:
		if lost := p.points - p.pruned - t.points; lost > 0 {
			q.pointsRefused += lost
			if first := q.refused.add(schema.ErrOTLPDataPoint, lost); first != nil {
				first.message = fmt.Sprintf("not translatable: %.300v", err)
			}
		}
	}
	return nil
}

func (q *request) translationSettings() prometheusremotewrite.Settings {
	lim := q.limits
	escape, suffixes := lim.OTelNames()
	promote := config.OTLPConfig{PromoteResourceAttributes: lim.PromoteOTelResourceAttributes.Names()}
	if slices.Contains(promote.PromoteResourceAttributes, "*") {
		promote = config.OTLPConfig{PromoteAllResourceAttributes: true}
	}
	return prometheusremotewrite.Settings{
		AddMetricSuffixes: suffixes, AllowUTF8: !escape,
		PromoteResourceAttributes:            prometheusremotewrite.NewPromoteResourceAttributes(promote),
		KeepIdentifyingResourceAttributes:    lim.OTelKeepIdentifyingResourceAttributes,
		ConvertHistogramsToNHCB:              lim.OTelConvertHistogramsToNHCB,
		PromoteScopeMetadata:                 lim.OTelPromoteScopeMetadata,
		LabelNameUnderscoreSanitization:      lim.OTelLabelNameUnderscoreSanitization,
		LabelNamePreserveMultipleUnderscores: lim.OTelLabelNamePreserveMultipleUnderscores,
	}
}

// Append takes a series with one sample, as storage.AppenderV2 has it.
func (t *translation) Append(_ storage.SeriesRef, ls labels.Labels, st, at int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AOptions) (storage.SeriesRef, error) {
	if t.err != nil {
		return 0, context.Canceled
	}
	point, err := t.pointOf(ls, st, v, h != nil || fh != nil, &opts)
	if err != nil {
		return 0, err
	}
	start := len(t.payloads)
	b := appendLabelSet(t.payloads, ls)
	switch {
	case fh != nil:
		b, err = appendHistogram(b, new(writev2.FromFloatHistogram(st, at, fh)))
	case h != nil:
		b, err = appendHistogram(b, new(writev2.FromIntHistogram(st, at, h)))
	default:
		b = schema.AppendSample(b, at, st, v)
	}
	for i := range opts.Exemplars {
		b = appendExemplarOf(b, &opts.Exemplars[i], at)
	}
	if err != nil {
		return 0, err
	}
	t.payloads = b
	if err := t.room(len(b) - start); err != nil {
		t.err = err
		t.stop() // so that the translator ends
		return 0, context.Canceled
	}
	t.series = append(t.series, translated{end: len(b), point: int32(point), meta: t.metaOf(&opts)})
	return 0, nil
}

// Commit and Rollback belong to the interface; the request is committed by whoever has it.
func (t *translation) Commit() error   { return nil }
func (t *translation) Rollback() error { return nil }

// pointOf returns the number of the data point that a series belongs to: the translator does not tell, but it writes the
// series of one after the other, those of histograms and summaries with sum and count first.
func (t *translation) pointOf(ls labels.Labels, st int64, v float64, native bool, opts *storage.AOptions) (int, error) {
	if !native && st == 0 && v == 1 && opts.MetricFamilyName == targetInfo && opts.Metadata.Help == targetInfoHelp {
		if t.targetInfo++; t.targetInfo > maxTargetInfo {
			return 0, errTargetInfoSpan
		}
		return 0, nil
	}
	t.targetInfo = 0
	if kind := opts.Metadata.Type; !native && (kind == model.MetricTypeHistogram || kind == model.MetricTypeSummary) {
		suffix := strings.TrimPrefix(ls.Get(model.MetricNameLabel), opts.MetricFamilyName)
		switch {
		case suffix == "_sum":
			t.points++
		case suffix == "_count" && !t.afterSum: // the sum may be missing
			t.points++
		}
		t.afterSum = suffix == "_sum"
		return t.points, nil
	}
	t.afterSum = false
	t.points++
	return t.points, nil
}

// metaOf returns the place of what is said about a series' family.
func (t *translation) metaOf(opts *storage.AOptions) int32 {
	if len(t.metas) == 0 || opts.MetricFamilyName != t.opts.MetricFamilyName || opts.Metadata != t.opts.Metadata {
		t.opts = storage.AOptions{MetricFamilyName: opts.MetricFamilyName, Metadata: opts.Metadata}
		t.metas = append(t.metas, schema.Metadata{
			Type: uint64(writev2.FromMetadataType(opts.Metadata.Type)), Name: []byte(opts.MetricFamilyName),
			Help: []byte(opts.Metadata.Help), Unit: []byte(opts.Metadata.Unit),
		})
	}
	return int32(len(t.metas) - 1)
}

// room holds memory for n more bytes of payload.
func (t *translation) room(n int) error {
	need, limit := int64(len(t.payloads)), t.q.p.cfg.MaxDecodedBytes
	if n > maxRawSeries || need > limit {
		return bodyTooLarge("request translated into series", need, limit)
	}
	if need += translatedBytes * int64(len(t.series)+1); need <= t.reserved {
		return nil
	}
	more := max(need-t.reserved, min(t.reserved, limit), firstRead)
	t.reserved += more
	return t.q.hold(more)
}

func appendLabelSet(dst []byte, ls labels.Labels) []byte {
	ls.Range(func(l labels.Label) {
		size := 2 + uvarintSize(len(l.Name)) + len(l.Name) + uvarintSize(len(l.Value)) + len(l.Value)
		dst = append(dst, 1<<3|2)
		dst = binary.AppendUvarint(dst, uint64(size))
		dst = append(dst, 1<<3|2)
		dst = binary.AppendUvarint(dst, uint64(len(l.Name)))
		dst = append(dst, l.Name...)
		dst = append(dst, 2<<3|2)
		dst = binary.AppendUvarint(dst, uint64(len(l.Value)))
		dst = append(dst, l.Value...)
	})
	return dst
}

func uvarintSize(n int) (size int) {
	for size = 1; n >= 0x80; size++ {
		n >>= 7
	}
	return size
}

// appendHistogram appends h as a field of a TimeSeries. Its message is the same in 1.0 and 2.0, but for the start time.
func appendHistogram(dst []byte, h *writev2.Histogram) ([]byte, error) {
	size := h.Size()
	dst = append(dst, 4<<3|2)
	dst = binary.AppendUvarint(dst, uint64(size))
	at := len(dst)
	dst = slices.Grow(dst, size)[:at+size]
	_, err := h.MarshalToSizedBuffer(dst[at:])
	return dst, err
}

// appendExemplarOf appends an exemplar; one without a time has that of its sample.
func appendExemplarOf(dst []byte, e *exemplar.Exemplar, at int64) []byte {
	if e.HasTs {
		at = e.Ts
	}
	b := appendLabelSet(nil, e.Labels)
	b = append(b, 2<<3|1)
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(e.Value))
	b = append(b, 3<<3)
	b = binary.AppendUvarint(b, uint64(at))
	return schema.AppendExemplar(dst, b)
}
