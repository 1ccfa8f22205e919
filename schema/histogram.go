package schema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
)

// What a histogram has to keep to, beyond Prometheus' own rules.
var (
	// ErrHistogramWire is returned by DecodeHistogram for bytes that are no Histogram message.
	ErrHistogramWire = errors.New("malformed histogram message")
	// ErrHistogramIndex is returned by DecodeHistogram for spans that lead to a bucket index outside of 32 bits.
	ErrHistogramIndex = errors.New("bucket index out of range")
	// ErrHistogramThreshold is returned by DecodeHistogram for a zero threshold that is negative, infinite or NaN: with
	// these no histogram equals the one before, nor can be merged with it.
	ErrHistogramThreshold = errors.New("zero threshold must be a number and not negative")
)

// Field numbers of a Histogram, the same in remote write 1.0 and 2.0; 17 exists in 2.0 only.
const (
	histCountInt       = 1
	histCountFloat     = 2
	histSum            = 3
	histSchema         = 4
	histZeroThreshold  = 5
	histZeroCountInt   = 6
	histZeroCountFloat = 7
	histNegSpans       = 8
	histNegDeltas      = 9
	histNegCounts      = 10
	histPosSpans       = 11
	histPosDeltas      = 12
	histPosCounts      = 13
	histResetHint      = 14
	histTime           = 15
	histCustomValues   = 16
	histStart          = 17
)

// histogramWire is a Histogram message, both of its kinds in one.
type histogramWire struct {
	isFloat    bool // the count is a float: the rest is read as a float histogram
	count      uint64
	countFloat float64
	sum        float64
	schema     int32
	zeroThresh float64
	zero       uint64
	zeroFloat  float64
	neg, pos   histogramSide
	custom     []float64
	hint       uint64
	t, start   int64
}

type histogramSide struct {
	spans  []histogram.Span
	deltas []int64
	counts []float64
}

// DecodeHistogram reads the payload of a Histogram field. Exactly one of h (integer counts) and fh (float counts) is not
// nil unless err is. t and start are in ms, start 0 = unknown. What it returns has passed Prometheus' own validation;
// a resolution finer than Prometheus stores is reduced as Prometheus does. Memory used is proportional to len(payload),
// whatever the spans claim. Nothing that is returned points into payload.
func DecodeHistogram(payload []byte) (h *histogram.Histogram, fh *histogram.FloatHistogram, t, start int64, err error) {
	var w histogramWire
	if err := w.parse(payload); err != nil {
		return nil, nil, 0, 0, fmt.Errorf("%w: %w", ErrHistogramWire, err)
	}
	if !(w.zeroThresh >= 0) || math.IsInf(w.zeroThresh, 0) {
		return nil, nil, 0, 0, fmt.Errorf("zero threshold %v: %w", w.zeroThresh, ErrHistogramThreshold)
	}
	for _, side := range []*histogramSide{&w.pos, &w.neg} {
		buckets := len(side.deltas)
		if w.isFloat {
			buckets = len(side.counts)
		}
		if err := checkSpans(side.spans, buckets); err != nil {
			return nil, nil, 0, 0, err
		}
	}
	reduce := histogram.IsExponentialSchemaReserved(w.schema) && w.schema > histogram.ExponentialSchemaMax
	if w.isFloat {
		fh = w.float()
		if reduce {
			if err := fh.ReduceResolution(histogram.ExponentialSchemaMax); err != nil {
				return nil, nil, 0, 0, err
			}
		}
		if err := fh.Validate(); err != nil {
			return nil, nil, 0, 0, err
		}
		return nil, fh, w.t, w.start, nil
	}
	h = w.integer()
	if reduce {
		if err := h.ReduceResolution(histogram.ExponentialSchemaMax); err != nil {
			return nil, nil, 0, 0, err
		}
	}
	if err := h.Validate(); err != nil {
		return nil, nil, 0, 0, err
	}
	return h, nil, w.t, w.start, nil
}

// HistogramTime returns the time of a Histogram payload without decoding the rest.
func HistogramTime(payload []byte) (t int64, err error) {
	for b := payload; len(b) > 0; {
		f, rest, err := nextWireField(b)
		if err != nil {
			return 0, err
		}
		if f.number == histTime && f.wire == wireVarint {
			t = int64(f.value)
		}
		b = rest
	}
	return t, nil
}

// checkSpans holds the spans to the buckets that are really there, and the indexes to what the readers count with.
func checkSpans(spans []histogram.Span, buckets int) error {
	var sum, index int64
	for i, s := range spans {
		if i > 0 && s.Offset < 0 {
			return fmt.Errorf("span number %d with offset %d: %w", i+1, s.Offset, histogram.ErrHistogramSpanNegativeOffset)
		}
		sum += int64(s.Length)
		index += int64(s.Offset) + int64(s.Length)
		if index > math.MaxInt32 || index < math.MinInt32 {
			return fmt.Errorf("span number %d ends at index %d: %w", i+1, index, ErrHistogramIndex)
		}
	}
	if sum != int64(buckets) {
		return fmt.Errorf("spans need %d buckets, have %d buckets: %w", sum, buckets, histogram.ErrHistogramSpansBucketsMismatch)
	}
	return nil
}

func (w *histogramWire) integer() *histogram.Histogram {
	return &histogram.Histogram{
		CounterResetHint: w.resetHint(), Schema: w.schema, ZeroThreshold: w.zeroThresh, ZeroCount: w.zero,
		Count: w.count, Sum: w.sum,
		PositiveSpans: w.pos.spans, PositiveBuckets: w.pos.deltas,
		NegativeSpans: w.neg.spans, NegativeBuckets: w.neg.deltas,
		CustomValues: w.custom,
	}
}

func (w *histogramWire) float() *histogram.FloatHistogram {
	return &histogram.FloatHistogram{
		CounterResetHint: w.resetHint(), Schema: w.schema, ZeroThreshold: w.zeroThresh, ZeroCount: w.zeroFloat,
		Count: w.countFloat, Sum: w.sum,
		PositiveSpans: w.pos.spans, PositiveBuckets: w.pos.counts,
		NegativeSpans: w.neg.spans, NegativeBuckets: w.neg.counts,
		CustomValues: w.custom,
	}
}

// resetHint reads values that we do not know as "unknown", as protobuf asks of enums.
func (w *histogramWire) resetHint() histogram.CounterResetHint {
	if w.hint > uint64(histogram.GaugeType) {
		return histogram.UnknownCounterReset
	}
	return histogram.CounterResetHint(w.hint)
}

func (w *histogramWire) parse(b []byte) error {
	for len(b) > 0 {
		f, rest, err := nextWireField(b)
		if err != nil {
			return err
		}
		b = rest
		if err := w.set(f); err != nil {
			return fmt.Errorf("field %d: %w", f.number, err)
		}
	}
	return nil
}

func (w *histogramWire) set(f wireField) (err error) {
	want := wireFixed64
	switch f.number {
	case histCountInt, histSchema, histZeroCountInt, histResetHint, histTime, histStart:
		want = wireVarint
	case histNegSpans, histPosSpans:
		want = wireBytes
	case histNegDeltas, histPosDeltas, histNegCounts, histPosCounts, histCustomValues:
		want = f.wire // packed or not, checked where they are read
	}
	if f.number <= histStart && f.wire != want {
		return ErrWireType
	}
	switch f.number {
	case histCountInt:
		w.count, w.isFloat = f.value, false
	case histCountFloat:
		w.countFloat, w.isFloat = math.Float64frombits(f.value), true
	case histSum:
		w.sum = math.Float64frombits(f.value)
	case histSchema:
		w.schema = int32(zigzag(f.value & math.MaxUint32))
	case histZeroThreshold:
		w.zeroThresh = math.Float64frombits(f.value)
	case histZeroCountInt:
		w.zero, w.zeroFloat = f.value, 0
	case histZeroCountFloat:
		w.zero, w.zeroFloat = 0, math.Float64frombits(f.value)
	case histNegSpans:
		w.neg.spans, err = appendSpan(w.neg.spans, f.bytes)
	case histNegDeltas:
		w.neg.deltas, err = appendDeltas(w.neg.deltas, f)
	case histNegCounts:
		w.neg.counts, err = appendFloats(w.neg.counts, f)
	case histPosSpans:
		w.pos.spans, err = appendSpan(w.pos.spans, f.bytes)
	case histPosDeltas:
		w.pos.deltas, err = appendDeltas(w.pos.deltas, f)
	case histPosCounts:
		w.pos.counts, err = appendFloats(w.pos.counts, f)
	case histResetHint:
		w.hint = f.value
	case histTime:
		w.t = int64(f.value)
	case histCustomValues:
		w.custom, err = appendFloats(w.custom, f)
	case histStart:
		w.start = int64(f.value)
	}
	return err
}

func appendSpan(dst []histogram.Span, b []byte) ([]histogram.Span, error) {
	var s histogram.Span
	for len(b) > 0 {
		f, rest, err := nextWireField(b)
		if err != nil {
			return nil, err
		}
		b = rest
		switch {
		case f.number <= 2 && f.wire != wireVarint:
			return nil, ErrWireType
		case f.number == 1:
			s.Offset = int32(zigzag(f.value & math.MaxUint32))
		case f.number == 2:
			s.Length = uint32(f.value)
		}
	}
	return append(dst, s), nil
}

// appendDeltas reads a repeated sint64, packed or not.
func appendDeltas(dst []int64, f wireField) ([]int64, error) {
	switch f.wire {
	case wireVarint:
		return append(dst, zigzag(f.value)), nil
	case wireBytes:
		if dst == nil {
			dst = make([]int64, 0, countVarints(f.bytes))
		}
		for b := f.bytes; len(b) > 0; {
			v, n := uvarint(b)
			if n <= 0 {
				return nil, ErrTruncated
			}
			dst = append(dst, zigzag(v))
			b = b[n:]
		}
		return dst, nil
	}
	return nil, ErrWireType
}

// appendFloats reads a repeated double, packed or not.
func appendFloats(dst []float64, f wireField) ([]float64, error) {
	switch f.wire {
	case wireFixed64:
		return append(dst, math.Float64frombits(f.value)), nil
	case wireBytes:
		if len(f.bytes)%8 != 0 {
			return nil, ErrTruncated
		}
		if dst == nil && len(f.bytes) > 0 {
			dst = make([]float64, 0, len(f.bytes)/8)
		}
		for b := f.bytes; len(b) > 0; b = b[8:] {
			dst = append(dst, float64At(b))
		}
		return dst, nil
	}
	return nil, ErrWireType
}

// countVarints counts the bytes that end a varint.
func countVarints(b []byte) (n int) {
	for _, c := range b {
		if c < 0x80 {
			n++
		}
	}
	return n
}

func zigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// Wire types of protobuf.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// wireField is one protobuf field: value for varint, fixed64 and fixed32, bytes for what has a length.
type wireField struct {
	number int
	wire   int
	value  uint64
	bytes  []byte
}

// nextWireField cuts the first field off b, which is not empty.
func nextWireField(b []byte) (f wireField, rest []byte, err error) {
	tag, n := uvarint(b)
	if n <= 0 {
		return f, nil, ErrTruncated
	}
	end, err := skipField(b, tag, n)
	if err != nil {
		return f, nil, err
	}
	f.number, f.wire = int(tag>>3), int(tag&7)
	switch f.wire {
	case wireVarint:
		f.value, _ = uvarint(b[n:])
	case wireFixed64:
		f.value = binary.LittleEndian.Uint64(b[n:])
	case wireFixed32:
		f.value = uint64(binary.LittleEndian.Uint32(b[n:]))
	case wireBytes:
		_, m := uvarint(b[n:])
		f.bytes = b[n+m : end]
	}
	return f, b[end:], nil
}
