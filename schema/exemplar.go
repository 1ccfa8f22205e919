package schema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
)

// ErrExemplarLabels is returned by DecodeExemplar for labels that Prometheus would not keep: an empty or repeated name,
// text that is not UTF-8, or more than 128 characters in all.
var ErrExemplarLabels = errors.New("exemplar labels invalid")

// DecodeExemplar reads the payload of an Exemplar field. No labels at all are allowed. Nothing that is returned points
// into payload.
func DecodeExemplar(payload []byte) (exemplar.Exemplar, error) {
	var e exemplar.Exemplar
	b := labels.NewScratchBuilder(2)
	runes := 0
	for rest := payload; len(rest) > 0; {
		var f wireField
		var err error
		if f, rest, err = nextWireField(rest); err != nil {
			return exemplar.Exemplar{}, err
		}
		switch {
		case f.number == 1 && f.wire == wireBytes:
			l, err := parseLabel(f.bytes)
			if err != nil {
				return exemplar.Exemplar{}, err
			}
			runes += utf8.RuneCount(l.Name) + utf8.RuneCount(l.Value)
			switch {
			case runes > exemplar.ExemplarMaxLabelSetLength:
				return exemplar.Exemplar{}, fmt.Errorf("%w: more than %d characters", ErrExemplarLabels, exemplar.ExemplarMaxLabelSetLength)
			case len(l.Name) == 0:
				return exemplar.Exemplar{}, fmt.Errorf("%w: empty label name", ErrExemplarLabels)
			case !utf8.Valid(l.Name) || !utf8.Valid(l.Value):
				return exemplar.Exemplar{}, fmt.Errorf("%w: not UTF-8", ErrExemplarLabels)
			}
			b.Add(string(l.Name), string(l.Value))
		case f.number == 2 && f.wire == wireFixed64:
			e.Value = math.Float64frombits(f.value)
		case f.number == 3 && f.wire == wireVarint:
			e.Ts = int64(f.value)
		case f.number <= 3:
			return exemplar.Exemplar{}, fmt.Errorf("field %d: %w", f.number, ErrWireType)
		}
	}
	e.HasTs = e.Ts != 0
	b.Sort()
	e.Labels = b.Labels()
	if name, dup := e.Labels.HasDuplicateLabelNames(); dup {
		return exemplar.Exemplar{}, fmt.Errorf("%w: label name %q twice", ErrExemplarLabels, name)
	}
	return e, nil
}

// ErrMetadataText is returned by DecodeMetadata for an entry without a metric name or with text that is not UTF-8.
var ErrMetadataText = errors.New("metadata invalid")

// Its cases, made once: a request may have millions of them.
var (
	errMetadataName = fmt.Errorf("%w: no metric name", ErrMetadataText)
	errMetadataUTF8 = fmt.Errorf("%w: not UTF-8", ErrMetadataText)
)

// metadataType names a value of the type field, the same in remote write 1.0 and 2.0.
func metadataType(v uint64) model.MetricType {
	switch v {
	case 1:
		return model.MetricTypeCounter
	case 2:
		return model.MetricTypeGauge
	case 3:
		return model.MetricTypeHistogram
	case 4:
		return model.MetricTypeGaugeHistogram
	case 5:
		return model.MetricTypeSummary
	case 6:
		return model.MetricTypeInfo
	case 7:
		return model.MetricTypeStateset
	}
	return model.MetricTypeUnknown
}

// Metadata is a MetricMetadata message as slices of the bytes it was read from.
type Metadata struct {
	Type             uint64 // the enum of the wire
	Name, Help, Unit []byte
}

// Parse reads payload, a MetricMetadata, and holds it to the rules of DecodeMetadata.
func (m *Metadata) Parse(payload []byte) error {
	*m = Metadata{}
	for b := payload; len(b) > 0; {
		f, rest, err := nextWireField(b)
		if err != nil {
			return err
		}
		b = rest
		switch {
		case f.number == 1 && f.wire == wireVarint:
			m.Type = f.value
		case f.number == 2 && f.wire == wireBytes:
			m.Name = f.bytes
		case f.number == 4 && f.wire == wireBytes:
			m.Help = f.bytes
		case f.number == 5 && f.wire == wireBytes:
			m.Unit = f.bytes
		case f.number <= 5 && f.number != 3:
			return fmt.Errorf("field %d: %w", f.number, ErrWireType)
		}
	}
	switch {
	case len(m.Name) == 0:
		return errMetadataName
	case !utf8.Valid(m.Name) || !utf8.Valid(m.Help) || !utf8.Valid(m.Unit):
		return errMetadataUTF8
	}
	return nil
}

// AppendPayload appends m as the payload of a MetricMetadata: what AppendMetadata takes and Parse reads.
func (m *Metadata) AppendPayload(dst []byte) []byte {
	if m.Type != 0 {
		dst = append(dst, 1<<3|wireVarint)
		dst = binary.AppendUvarint(dst, m.Type)
	}
	dst = AppendField(dst, 2, m.Name)
	if len(m.Help) > 0 {
		dst = AppendField(dst, 4, m.Help)
	}
	if len(m.Unit) > 0 {
		dst = AppendField(dst, 5, m.Unit)
	}
	return dst
}

// DecodeMetadata reads the payload of a MetricMetadata field: the name of the metric family and what is said of it. An
// unknown type is model.MetricTypeUnknown. Nothing that is returned points into payload.
func DecodeMetadata(payload []byte) (name string, md metadata.Metadata, err error) {
	var m Metadata
	if err := m.Parse(payload); err != nil {
		return "", metadata.Metadata{}, err
	}
	return string(m.Name), metadata.Metadata{Type: metadataType(m.Type), Help: string(m.Help), Unit: string(m.Unit)}, nil
}
