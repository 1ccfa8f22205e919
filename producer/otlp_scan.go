package producer

import (
	"encoding/binary"
	"net/http"

	"sluice/schema"
)

// OTLP is decoded by a library that makes a tree of Go structs out of the body, up to a hundred times its size, by recursion.
// So the body is looked through first: how deep it goes and what the tree will take, which then is held.

// maxOTLPDepth is how deep messages may be nested: 9 levels down to an attribute, and two for each level of a value that is
// a list or a map.
const maxOTLPDepth = 64

// otlpMessage is a kind of message: what one takes in memory, and which of its fields are messages.
type otlpMessage struct {
	size   int64
	fields [13]otlpKind // by field number, 0 = not a message
	factor int64        // of what its other fields carry: text stays what it is (0), numbers are translated through several forms
}

type otlpKind uint8

const (
	otlpNone otlpKind = iota
	otlpRequest
	otlpResourceMetrics
	otlpResource
	otlpEntityRef
	otlpScopeMetrics
	otlpScope
	otlpMetric
	otlpGauge
	otlpSum
	otlpHistogram
	otlpExponential
	otlpSummary
	otlpNumberPoint
	otlpHistogramPoint
	otlpExponentialPoint
	otlpBuckets
	otlpSummaryPoint
	otlpQuantile
	otlpExemplar
	otlpKeyValue
	otlpAnyValue
	otlpArray
	otlpKeyValueList
	otlpKinds
)

// The sizes are those of the structs with what hangs on them in any case; what stands in a slice by value counts three
// times, as a slice that grows has its old self beside it. otlpTree is never written to.
var otlpTree = [otlpKinds]otlpMessage{
	otlpRequest:          {size: 64, fields: [13]otlpKind{1: otlpResourceMetrics}},
	otlpResourceMetrics:  {size: 200, fields: [13]otlpKind{1: otlpResource, 2: otlpScopeMetrics}},
	otlpResource:         {size: 32, fields: [13]otlpKind{1: otlpKeyValue, 3: otlpEntityRef}},
	otlpEntityRef:        {size: 160},
	otlpScopeMetrics:     {size: 200, fields: [13]otlpKind{1: otlpScope, 2: otlpMetric}},
	otlpScope:            {size: 32, fields: [13]otlpKind{3: otlpKeyValue}},
	otlpMetric:           {size: 180, fields: [13]otlpKind{5: otlpGauge, 7: otlpSum, 9: otlpHistogram, 10: otlpExponential, 11: otlpSummary, 12: otlpKeyValue}},
	otlpGauge:            {size: 64, fields: [13]otlpKind{1: otlpNumberPoint}},
	otlpSum:              {size: 64, fields: [13]otlpKind{1: otlpNumberPoint}},
	otlpHistogram:        {size: 64, fields: [13]otlpKind{1: otlpHistogramPoint}},
	otlpExponential:      {size: 64, fields: [13]otlpKind{1: otlpExponentialPoint}},
	otlpSummary:          {size: 64, fields: [13]otlpKind{1: otlpSummaryPoint}},
	otlpNumberPoint:      {size: 160, fields: [13]otlpKind{5: otlpExemplar, 7: otlpKeyValue}},
	otlpHistogramPoint:   {size: 240, fields: [13]otlpKind{8: otlpExemplar, 9: otlpKeyValue}, factor: 4},
	otlpExponentialPoint: {size: 320, fields: [13]otlpKind{1: otlpKeyValue, 8: otlpBuckets, 9: otlpBuckets, 11: otlpExemplar}},
	otlpBuckets:          {size: 64, factor: 32},
	otlpSummaryPoint:     {size: 160, fields: [13]otlpKind{6: otlpQuantile, 7: otlpKeyValue}},
	otlpQuantile:         {size: 48},
	otlpExemplar:         {size: 3 * 112, fields: [13]otlpKind{7: otlpKeyValue}},
	otlpKeyValue:         {size: 3 * 40, fields: [13]otlpKind{2: otlpAnyValue}},
	otlpAnyValue:         {size: 3 * 24, fields: [13]otlpKind{5: otlpArray, 6: otlpKeyValueList}},
	otlpArray:            {size: 48, fields: [13]otlpKind{1: otlpAnyValue}},
	otlpKeyValueList:     {size: 48, fields: [13]otlpKind{1: otlpKeyValue}},
}

// otlpTextSize is that of a string or of a pointer in a slice, beside what it points to.
const otlpTextSize = 24

// otlpDeprecatedScopes is a field of ResourceMetrics that old senders have instead of 2, and that is still decoded.
const otlpDeprecatedScopes = 1000

// otlpProtoCost is about what the tree of a protobuf body takes in memory, in bytes. The body need not be well-formed.
func otlpProtoCost(body []byte) (int64, error) { return otlpCost(body, otlpRequest, 1) }

func otlpCost(b []byte, kind otlpKind, depth int) (cost int64, err error) {
	if depth > maxOTLPDepth {
		return 0, tooDeep()
	}
	m := &otlpTree[kind]
	cost = m.size
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, undecodable(schema.ErrTruncated)
		}
		b = b[n:]
		size := uint64(0)
		switch tag & 7 {
		case 0:
			if _, n = binary.Uvarint(b); n <= 0 {
				return 0, undecodable(schema.ErrTruncated)
			}
			size = uint64(n)
		case 1:
			size = 8
		case 5:
			size = 4
		case 2:
			if size, n = binary.Uvarint(b); n <= 0 {
				return 0, undecodable(schema.ErrTruncated)
			}
			b = b[n:]
		default:
			return 0, undecodable(schema.ErrWireType)
		}
		if size > uint64(len(b)) {
			return 0, undecodable(schema.ErrTruncated)
		}
		payload := b[:size]
		b = b[size:]
		cost += otlpTextSize
		number := tag >> 3
		if number == otlpDeprecatedScopes && kind == otlpResourceMetrics {
			number = 2
		}
		switch {
		case tag&7 != 2:
			cost += 8
		case number < uint64(len(m.fields)) && m.fields[number] != otlpNone:
			below, err := otlpCost(payload, m.fields[number], depth+1)
			if err != nil {
				return 0, err
			}
			cost += below
		default:
			cost += max(1, m.factor) * int64(len(payload))
		}
	}
	return cost, nil
}

// otlpObjectSize is what an object of JSON may become at most: the largest of the structs above.
const otlpObjectSize = 3 * 112

// otlpJSONCost is the same for a JSON body. It knows no more of it than where strings are.
func otlpJSONCost(body []byte) (cost int64, err error) {
	depth := 0
	cost = int64(len(body))
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '"':
			for i++; i < len(body) && body[i] != '"'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			if depth++; depth > 2*maxOTLPDepth { // a message is an object, and stands in an array of them
				return 0, tooDeep()
			}
			cost += otlpObjectSize
		case '}', ']':
			depth--
		case ',': // a number, in the forms that it is translated through
			cost += 32
		case 'n': // null may stand for an object
			cost += otlpObjectSize
		}
	}
	return cost, nil
}

func tooDeep() error {
	return schema.NewError(schema.ErrDecode, http.StatusBadRequest, "the body is nested deeper than %d messages", maxOTLPDepth)
}
