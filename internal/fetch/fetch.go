// Package fetch is how a reader asks another process for the samples that it holds: one small contract (Source), the
// HTTP handler that serves it and the client that speaks to that handler. In goes a tenant, a time range and, for each
// partition, the offset from which the caller lacks blocks; out come series as streamed chunks in Prometheus'
// remote-read framing, label names and values, exemplars, metadata and counts of series. A second contract (Blocks) asks for blocks of
// the bucket in the same way. It never decides where to ask and never merges.
//
// # The protocol
//
// Every call is a POST with a request as JSON. An error that is known before anything was sent has its HTTP status and a
// wireError as its body. Else the status is 200, and whoever works or waits for long shows that it lives: the head of
// the answer goes out after a quarter of a second at the latest, then a sign of life every second unless something
// better is to be sent. A client to which nothing comes for three seconds takes the member for stopped, however long
// the query may take.
//
// Select answers in frames (length, checksum, ChunkedReadResponse, as in remote read); a frame without a byte is a sign
// of life. The first other frame says how far the log is applied (its field 15, which other readers of the format pass
// over, is a streamHead as JSON). Then come series in the order of their labels, each in one or more frames, query_index
// being the place of its block in the request (0 for partitions). Who asks for a trace gets it in one more frame (its field
// 14, a streamTail as JSON). The trailer says how it ended: without it the answer
// was cut. All other calls answer with one envelope as JSON, whose error must be looked at first; the signs of life are
// line breaks before it, and the line after it is its checksum (CRC-32C in hexadecimal). In the types of chunks stands, above
// the encoding, what their first histogram says about counter resets (pack.go).
package fetch

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"

	"sluice/internal/cardinality"
	"sluice/schema"
)

// Ask names the part of a partition that the caller wants: every sample at or after From. The caller has blocks for
// everything before From, so that nothing is asked for twice.
type Ask struct {
	Partition int32 `json:"partition"`
	From      int64 `json:"from"`
	// Wait makes the source apply the log up to this offset (exclusive) before it answers. 0 = now.
	Wait int64 `json:"wait,omitempty"`
	// All asks for everything that is held, whatever From says: for questions that blocks are not asked as well.
	All bool `json:"all,omitempty"`
}

// Source answers for the partitions that it holds. The consumer is one; Client is the same over HTTP.
type Source interface {
	// Querier opens the tenant's samples of the asked partitions in [mint, maxt] (ms, both inclusive) as of now. When one
	// sample time has several values, the one that was first in the log is returned. HoleError: an asked part of the log
	// is no longer held (the caller's catalogue is behind) or not held at all. ctx is for the opening alone, waiting
	// for Ask.Wait included; the calls of the querier have their own. AppliedOf tells how far the answer goes. The caller
	// closes the querier.
	Querier(ctx context.Context, tenant schema.Tenant, mint, maxt int64, asks []Ask) (storage.Querier, error)
	// Exemplars returns the tenant's exemplars in [start, end] (ms) of the asked partitions.
	Exemplars(ctx context.Context, tenant schema.Tenant, start, end int64, matchers [][]*labels.Matcher, asks []Ask) ([]exemplar.QueryResult, error)
	// Metadata returns type, help and unit by metric family name; metric "" = all.
	Metadata(ctx context.Context, tenant schema.Tenant, metric string) (map[string][]metadata.Metadata, error)
	// Cardinality counts the tenant's series in the asked partitions.
	Cardinality(ctx context.Context, tenant schema.Tenant, q cardinality.Query, asks []Ask) (*cardinality.Result, error)
}

// Interval is a time range, both ends inclusive, ms.
type Interval struct {
	Mint int64 `json:"mint"`
	Maxt int64 `json:"maxt"`
}

// Always is the interval that leaves nothing out.
var Always = Interval{math.MinInt64, math.MaxInt64}

// Times is a Source that knows of which times it holds samples.
type Times interface {
	// Held returns intervals outside of which the asked partitions hold nothing of the tenant as of now; none = they hold
	// nothing at all. Errors and ctx are those of Querier.
	Held(ctx context.Context, tenant schema.Tenant, asks []Ask) ([]Interval, Applied, error)
}

// Blocks answers for blocks of the bucket. The reader is one; Client is the same over HTTP.
type Blocks interface {
	// BlockQuerier opens the tenant's blocks for [mint, maxt] (ms, both inclusive). The series that it selects are not
	// merged: each is a merge.Group whose ranks are the places of its blocks in ids. An error, now or later, says nothing
	// about the blocks: the caller may well be able to read them. The caller closes the querier.
	BlockQuerier(ctx context.Context, tenant schema.Tenant, mint, maxt int64, ids []ulid.ULID) (storage.Querier, error)
}

// Applied says, by partition, before which offset an answer has every sample of the log.
type Applied map[int32]int64

// WithApplied returns q with what AppliedOf tells of it.
func WithApplied(q storage.Querier, a Applied) storage.Querier { return applied{q, a} }

// AppliedOf returns how far the log was applied when q was opened: nil if q does not tell, and for a Client's querier
// until the first of its calls has returned.
func AppliedOf(q storage.Querier) Applied {
	if teller, ok := q.(interface{ Applied() Applied }); ok {
		return teller.Applied()
	}
	return nil
}

type applied struct {
	storage.Querier
	applied Applied
}

func (a applied) Applied() Applied { return a.applied }

var (
	// ErrUnreachable is in the chain of an error when a member gave no answer, or none that was whole: refused, reset, cut
	// off, not understood. What a member answers, even an error, is no ErrUnreachable.
	ErrUnreachable = errors.New("member does not answer")
	// ErrSilent is the ErrUnreachable of a member from which nothing came for a while, not even a sign of life.
	ErrSilent = fmt.Errorf("%w: it is silent", ErrUnreachable)
)

// HoleError says that a source cannot answer for a partition from the asked offset on.
type HoleError struct {
	Partition int32 `json:"partition"`
	From      int64 `json:"from"` // asked
	Held      int64 `json:"held"` // the oldest offset that the source holds, -1 = it does not hold the partition
}

func (e *HoleError) Error() string {
	return fmt.Sprintf("partition %d is held from offset %d on, asked from %d", e.Partition, e.Held, e.From)
}
