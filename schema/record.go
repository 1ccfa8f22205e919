package schema

import (
	"errors"
	"fmt"
	"math"
)

// Record v1, the value of a record in the topic of samples.
//
//	Kafka key      tenant ID; empty for ticks and seals
//	header "v"     one byte, the format version: 1
//	header "kind"  absent = samples; "tick" or "seal" = a mark without a value
//	value          fields of a remote-write 1.0 WriteRequest, concatenated:
//
//	    0x0a len TimeSeries       (field 1) any number, all of one tenant and of one partition
//	    0x1a len MetricMetadata   (field 3) any number
//
//	TimeSeries:  1 Label*  2 Sample*  3 Exemplar*  4 Histogram*
//	Sample:      1 value (fixed64)  2 timestamp (ms)  3 start timestamp (ms; ours, as in RW 2.0)
//	Histogram:   as in RW 1.0, 16 custom_values and 17 start timestamp as in RW 2.0
//
// Protobuf concatenates: so a remote-write 1.0 body is cut at its fields and the pieces are put into the partitions'
// records, without decoding and encoding again. What RW 2.0 knows and RW 1.0 does not (start timestamps) sits in field
// numbers that RW 1.0 leaves free. Labels are sorted by name, unique, and never empty: the producer refuses all else.
//
// An unknown version or kind, or a value that does not parse, goes to the dead-letter topic.
const (
	RecordV1 = 1

	HeaderVersion = "v"
	HeaderKind    = "kind"

	KindTick = "tick" // so that log time advances in a quiet partition
	KindSeal = "seal" // end the generation with this record
)

// Headers of a dead-lettered record; the original key, value and headers come with it.
const (
	HeaderDeadReason    = "reason"
	HeaderDeadPartition = "partition" // decimal
	HeaderDeadOffset    = "offset"    // decimal
)

// Field tags of the messages in a record, and of remote-write 1.0.
const (
	tagTimeSeries = 1<<3 | 2
	tagMetadata   = 3<<3 | 2

	tagLabel     = 1<<3 | 2
	tagSample    = 2<<3 | 2
	tagExemplar  = 3<<3 | 2
	tagHistogram = 4<<3 | 2
)

// ErrTruncated is returned when a length points behind the end of the bytes.
var ErrTruncated = errors.New("truncated message")

// Label is one label as slices of the bytes it was read from.
type Label struct{ Name, Value []byte }

// Field is one length-delimited field of a WriteRequest: a TimeSeries, or a MetricMetadata.
type Field struct {
	Raw     []byte // tag, length and payload: what a slicer copies
	Payload []byte
	Meta    bool // a MetricMetadata
}

// ErrWireType is returned for a field that we know with a wire type that it cannot have.
var ErrWireType = errors.New("unexpected wire type")

// NextField cuts the next TimeSeries or MetricMetadata off b, a WriteRequest, and returns the rest. Fields of other
// numbers are skipped as protobuf asks. At the end of b it returns an empty field (Raw == nil) and no error.
func NextField(b []byte) (f Field, rest []byte, err error) {
	for len(b) > 0 {
		tag, n := uvarint(b)
		if n <= 0 {
			return Field{}, nil, ErrTruncated
		}
		if tag == tagTimeSeries || tag == tagMetadata {
			l, m := uvarint(b[n:])
			if m <= 0 || l > uint64(len(b)-n-m) {
				return Field{}, nil, ErrTruncated
			}
			end := n + m + int(l)
			return Field{Raw: b[:end], Payload: b[n+m : end], Meta: tag == tagMetadata}, b[end:], nil
		}
		if tag>>3 == tagTimeSeries>>3 || tag>>3 == tagMetadata>>3 {
			return Field{}, nil, ErrWireType
		}
		skip, err := skipField(b, tag, n)
		if err != nil {
			return Field{}, nil, err
		}
		b = b[skip:]
	}
	return Field{}, nil, nil
}

// Series is one TimeSeries cut into its fields, without a copy. Cut and Parse reuse the slices, so that a walk over a
// request allocates nothing once they have grown.
type Series struct {
	Labels     []Label // after Parse or ParseLabels
	LabelBytes []byte  // the label fields as received (tags included): the key under which a known series is remembered
	Samples    []Sample
	Histograms [][]byte // payloads: see DecodeHistogram
	Exemplars  [][]byte // payloads: see DecodeExemplar

	scattered []byte // LabelBytes of a series whose label fields do not lie together
}

// Sample is one float sample; times in ms, Start 0 = unknown.
type Sample struct {
	Time  int64
	Start int64
	Value float64
	Raw   []byte // tag, length and payload
}

// Parse cuts payload, a TimeSeries, into s. All slices point into payload and are good as long as it is.
func (s *Series) Parse(payload []byte) error {
	if err := s.Cut(payload); err != nil {
		return err
	}
	return s.ParseLabels()
}

// ParseLabels fills Labels from LabelBytes, once.
func (s *Series) ParseLabels() error {
	if len(s.Labels) > 0 {
		return nil
	}
	for rest := s.LabelBytes; len(rest) > 0; {
		// Cut has seen that tag and length are whole.
		_, n := uvarint(rest)
		l, m := uvarint(rest[n:])
		end := n + m + int(l)
		lb, err := parseLabel(rest[n+m : end])
		if err != nil {
			s.Labels = s.Labels[:0]
			return err
		}
		s.Labels = append(s.Labels, lb)
		rest = rest[end:]
	}
	return nil
}

// Cut is Parse without the labels: whoever knows the series by LabelBytes does not need them.
func (s *Series) Cut(payload []byte) error {
	s.Labels, s.Samples, s.Histograms, s.Exemplars = s.Labels[:0], s.Samples[:0], s.Histograms[:0], s.Exemplars[:0]
	s.LabelBytes = nil
	labelsFrom, labelsTo, together := 0, 0, true
	for at := 0; at < len(payload); {
		b := payload[at:]
		tag, n := uvarint(b)
		if n <= 0 {
			return ErrTruncated
		}
		if tag != tagLabel && tag != tagSample && tag != tagExemplar && tag != tagHistogram {
			if tag>>3 <= tagHistogram>>3 && tag>>3 != 0 {
				return ErrWireType
			}
			skip, err := skipField(b, tag, n)
			if err != nil {
				return err
			}
			at += skip
			continue
		}
		l, m := uvarint(b[n:])
		if m <= 0 || l > uint64(len(b)-n-m) {
			return ErrTruncated
		}
		end := n + m + int(l)
		field := b[n+m : end]
		switch tag {
		case tagLabel:
			switch {
			case labelsTo == 0:
				labelsFrom = at
			case labelsTo != at && together: // only a foreign sender makes this happen
				together = false
				s.scattered = append(s.scattered[:0], payload[labelsFrom:labelsTo]...)
			}
			labelsTo = at + end
			if !together {
				s.scattered = append(s.scattered, b[:end]...)
			}
		case tagSample:
			smp, err := parseSample(field)
			if err != nil {
				return err
			}
			smp.Raw = b[:end]
			s.Samples = append(s.Samples, smp)
		case tagHistogram:
			s.Histograms = append(s.Histograms, field)
		case tagExemplar:
			s.Exemplars = append(s.Exemplars, field)
		}
		at += end
	}
	if together {
		s.LabelBytes = payload[labelsFrom:labelsTo]
	} else {
		s.LabelBytes = s.scattered
	}
	return nil
}

func parseLabel(b []byte) (Label, error) {
	// What every encoder writes, name then value, both shorter than 128 bytes: a third off the time of Parse.
	if len(b) > 2 && b[0] == 1<<3|2 && b[1] < 0x80 {
		if n := 2 + int(b[1]); n+2 <= len(b) && b[n] == 2<<3|2 && b[n+1] < 0x80 && n+2+int(b[n+1]) == len(b) {
			return Label{Name: b[2:n], Value: b[n+2:]}, nil
		}
	}
	var l Label
	for len(b) > 0 {
		tag, n := uvarint(b)
		if n <= 0 {
			return l, ErrTruncated
		}
		if tag != 1<<3|2 && tag != 2<<3|2 {
			if tag>>3 == 1 || tag>>3 == 2 {
				return l, ErrWireType
			}
			skip, err := skipField(b, tag, n)
			if err != nil {
				return l, err
			}
			b = b[skip:]
			continue
		}
		v, m := uvarint(b[n:])
		if m <= 0 || v > uint64(len(b)-n-m) {
			return l, ErrTruncated
		}
		end := n + m + int(v)
		if tag == 1<<3|2 {
			l.Name = b[n+m : end]
		} else {
			l.Value = b[n+m : end]
		}
		b = b[end:]
	}
	return l, nil
}

func parseSample(b []byte) (Sample, error) {
	var s Sample
	for len(b) > 0 {
		tag, n := uvarint(b)
		if n <= 0 {
			return s, ErrTruncated
		}
		switch tag {
		case 1<<3 | 1:
			if len(b) < n+8 {
				return s, ErrTruncated
			}
			s.Value = float64At(b[n:])
			b = b[n+8:]
		case 2 << 3, 3 << 3:
			v, m := uvarint(b[n:])
			if m <= 0 {
				return s, ErrTruncated
			}
			if tag == 2<<3 {
				s.Time = int64(v)
			} else {
				s.Start = int64(v)
			}
			b = b[n+m:]
		default:
			if tag>>3 >= 1 && tag>>3 <= 3 {
				return s, ErrWireType
			}
			skip, err := skipField(b, tag, n)
			if err != nil {
				return s, err
			}
			b = b[skip:]
		}
	}
	return s, nil
}

// skipField returns the length of the field that starts b with tag (of n bytes).
func skipField(b []byte, tag uint64, n int) (int, error) {
	if tag>>3 == 0 || tag > math.MaxUint32 { // decoders that keep a tag in 32 bits must not read another field than we do
		return 0, fmt.Errorf("field number %d", tag>>3)
	}
	switch tag & 7 {
	case 0:
		_, m := uvarint(b[n:])
		if m <= 0 {
			return 0, ErrTruncated
		}
		return n + m, nil
	case 1:
		if len(b) < n+8 {
			return 0, ErrTruncated
		}
		return n + 8, nil
	case 2:
		l, m := uvarint(b[n:])
		if m <= 0 || l > uint64(len(b)-n-m) {
			return 0, ErrTruncated
		}
		return n + m + int(l), nil
	case 5:
		if len(b) < n+4 {
			return 0, ErrTruncated
		}
		return n + 4, nil
	}
	return 0, fmt.Errorf("wire type %d", tag&7)
}
