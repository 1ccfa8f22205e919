package schema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// SeriesLimit is what a record of samples says of its tenant's limits on series. Producers read them from their file and
// write them beside the samples, so that consumers need no such file, and so that the cap is a function of the log: each
// record is held to what it carries itself. A record without the header has no limit.
type SeriesLimit struct {
	MaxSeries    int64  // max_global_series_per_user; 0 = none
	MaxPerMetric int64  // max_global_series_per_metric; 0 = none
	Partitions   int32  // that the tenant's series are spread over
	Producer     uint32 // a number that the producer drew when it started
}

// HeaderSeriesLimit is the header that carries a SeriesLimit: a byte 1, then the fields in order as uvarints.
const HeaderSeriesLimit = "series-limit"

// SeriesIdle is how long a series counts as active, at least, after it was last defined. It must be longer than RefLife,
// after which a series that goes on is defined again.
const SeriesIdle = 40 * time.Minute

const (
	seriesLimitV1 = 1
	// maxSeriesLimit keeps the arithmetic of Cap within 64 bits.
	maxSeriesLimit = 1 << 40
	// capFactor is how far above its share of the limit a partition goes before it applies no more new series.
	capFactor = 2
	// capSlack is for small limits, of which hashing gives one partition much more than its share.
	capSlack = 1000
)

// ErrSeriesLimit is returned for a header that is no SeriesLimit.
var ErrSeriesLimit = errors.New("not a series limit")

// Append appends the value of HeaderSeriesLimit to dst.
func (l SeriesLimit) Append(dst []byte) []byte {
	dst = append(dst, seriesLimitV1)
	for _, v := range [...]uint64{
		uint64(min(l.MaxSeries, maxSeriesLimit)), uint64(min(l.MaxPerMetric, maxSeriesLimit)), uint64(l.Partitions), uint64(l.Producer),
	} {
		dst = binary.AppendUvarint(dst, v)
	}
	return dst
}

// DecodeSeriesLimit reads the value of HeaderSeriesLimit.
func DecodeSeriesLimit(b []byte) (l SeriesLimit, err error) {
	if len(b) == 0 || b[0] != seriesLimitV1 {
		return l, fmt.Errorf("%w: unknown version", ErrSeriesLimit)
	}
	b = b[1:]
	var fields [4]uint64
	for i, most := range [...]uint64{maxSeriesLimit, maxSeriesLimit, 1<<31 - 1, 1<<32 - 1} {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > most {
			return l, fmt.Errorf("%w: field %d", ErrSeriesLimit, i)
		}
		fields[i], b = v, b[n:]
	}
	if len(b) > 0 {
		return l, fmt.Errorf("%w: %d bytes too many", ErrSeriesLimit, len(b))
	}
	return SeriesLimit{
		MaxSeries: int64(fields[0]), MaxPerMetric: int64(fields[1]), Partitions: int32(fields[2]), Producer: uint32(fields[3]),
	}, nil
}

// Cap is how many series of the tenant a partition takes into a generation that began elapsed ms of log time ago; 0 = no
// cap. It is twice the partition's share of the limit, once for the beginning and once more for each SeriesIdle that has
// passed, as series may come and go: a tenant that stays within its limit never meets it. It is there for producers that
// do not keep the limit, and in whole numbers, so that every machine computes the same.
func (l SeriesLimit) Cap(elapsed int64) int64 {
	if l.MaxSeries <= 0 {
		return 0
	}
	parts := int64(max(l.Partitions, 1))
	share := (min(l.MaxSeries, maxSeriesLimit) + parts - 1) / parts
	minutes := min(max(elapsed, 0), (24*time.Hour).Milliseconds()) / time.Minute.Milliseconds()
	idle := int64(SeriesIdle / time.Minute)
	return capSlack + capFactor*share + capFactor*share*minutes/idle
}
