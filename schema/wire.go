package schema

import (
	"encoding/binary"
	"math"
)

// uvarint is binary.Uvarint with the common short cases in front.
func uvarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	if len(b) > 1 && b[1] < 0x80 {
		return uint64(b[0]&0x7f) | uint64(b[1])<<7, 2
	}
	return binary.Uvarint(b)
}

func float64At(b []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b)) }

// AppendField appends a length-delimited field: tag, length, payload.
func AppendField(dst []byte, number int, payload []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(number)<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(payload)))
	return append(dst, payload...)
}

// AppendTimeSeries appends payload as the TimeSeries field of a record.
func AppendTimeSeries(dst, payload []byte) []byte { return AppendField(dst, 1, payload) }

// AppendMetadata appends payload as the MetricMetadata field of a record.
func AppendMetadata(dst, payload []byte) []byte { return AppendField(dst, 3, payload) }

// AppendLabels appends labels as the label fields of a TimeSeries.
func AppendLabels(dst []byte, labels []Label) []byte {
	for _, l := range labels {
		dst = append(dst, tagLabel)
		dst = binary.AppendUvarint(dst, uint64(bytesFieldSize(len(l.Name))+bytesFieldSize(len(l.Value))))
		dst = AppendField(dst, 1, l.Name)
		dst = AppendField(dst, 2, l.Value)
	}
	return dst
}

// AppendSample appends a sample field of a TimeSeries; start 0 = unknown.
func AppendSample(dst []byte, t, start int64, v float64) []byte {
	size := 9 + 1 + uvarintSize(uint64(t))
	if start != 0 {
		size += 1 + uvarintSize(uint64(start))
	}
	dst = append(dst, tagSample, byte(size), 1<<3|1)
	dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
	dst = append(dst, 2<<3)
	dst = binary.AppendUvarint(dst, uint64(t))
	if start != 0 {
		dst = append(dst, 3<<3)
		dst = binary.AppendUvarint(dst, uint64(start))
	}
	return dst
}

// AppendExemplar appends payload as an exemplar field of a TimeSeries.
func AppendExemplar(dst, payload []byte) []byte { return AppendField(dst, 3, payload) }

// AppendHistogram appends payload as a histogram field of a TimeSeries.
func AppendHistogram(dst, payload []byte) []byte { return AppendField(dst, 4, payload) }

func bytesFieldSize(n int) int { return 1 + uvarintSize(uint64(n)) + n }

func uvarintSize(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}
