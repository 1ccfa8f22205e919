package schema

import (
	"encoding/binary"
	"time"
)

// HeaderExemplarLimit is the header in which a producer writes max_global_exemplars_per_user of a record's tenant, as a uvarint,
// where it is not DefaultExemplarLimit. Blocks carry exemplars, so how many are kept must be in the log.
const HeaderExemplarLimit = "exemplar-limit"

// DefaultExemplarLimit is the limit of records without the header.
const DefaultExemplarLimit = 10_000

// maxExemplarLimit bounds what a header may ask of a consumer's memory.
const maxExemplarLimit = 1_000_000

// AppendExemplarLimit appends the value of HeaderExemplarLimit.
func AppendExemplarLimit(dst []byte, limit int) []byte {
	return binary.AppendUvarint(dst, uint64(min(max(limit, 0), maxExemplarLimit)))
}

// ExemplarLimit reads the value of HeaderExemplarLimit, nil if there is none. What cannot be read is the default: a record is
// not given up for its exemplars.
func ExemplarLimit(header []byte) int {
	v, n := binary.Uvarint(header)
	if n <= 0 || n != len(header) || v > maxExemplarLimit {
		return DefaultExemplarLimit
	}
	return int(v)
}

// ExemplarReach is how far from the samples of its block the time of an exemplar may be.
const ExemplarReach = 2 * time.Hour
