package producer

import (
	"sluice/internal/log"
	"sluice/schema"
)

const (
	// recordOverhead is room in a record for its headers and what a log adds to them.
	recordOverhead = 128
	// maxRawSeries is the largest series, as a field with its tag: it has to fit into one record.
	maxRawSeries = log.MaxRecordBytes - schema.MaxTenantLength - recordOverhead
)

// put appends raw to the partition's open record.
func (q *request) put(partition int32, raw []byte) error {
	b, err := q.room(partition, len(raw))
	if err != nil {
		return err
	}
	*b = append(*b, raw...)
	return nil
}

// room returns the partition's open buffer with room for n more bytes, starting a new record where the last one is full.
// n is at most maxRawSeries.
func (q *request) room(partition int32, n int) (*[]byte, error) {
	q.out += int64(n)
	switch {
	case q.out <= q.outReserved:
	case q.out > q.p.cfg.MaxDecodedBytes: // only 2.0 gets here: a symbol is named in few bytes, as often as one likes
		return nil, bodyTooLarge("request written out", q.out, q.p.cfg.MaxDecodedBytes)
	default:
		more := max(q.out-q.outReserved, min(q.outReserved, q.p.cfg.MaxDecodedBytes-q.outReserved))
		if err := q.hold(more); err != nil {
			return nil, err
		}
		q.outReserved += more
	}
	if at := q.open[partition]; at > 0 {
		b := &q.buffers[at-1].b
		if len(*b)+n <= maxRawSeries {
			return b, nil
		}
	}
	full := q.open[partition] > 0
	next := q.newBuffer(partition)
	if full && cap(next.b) < maxRawSeries { // this is a large request
		next.b = make([]byte, 0, maxRawSeries)
	}
	return &next.b, nil
}

// newBuffer makes a buffer the partition's open one.
func (q *request) newBuffer(partition int32) *buffer {
	if q.used == len(q.buffers) {
		q.buffers = append(q.buffers, buffer{})
	}
	next := &q.buffers[q.used]
	q.used++
	next.partition, next.b = partition, next.b[:0]
	q.open[partition] = int32(q.used)
	return next
}
