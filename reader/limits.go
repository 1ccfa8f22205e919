package reader

import (
	"cmp"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/common/model"

	"sluice/internal/trace"
	"sluice/schema"
)

// queryLimits returns what the query may do; of one over several tenants, the strictest of theirs.
func (r *Reader) queryLimits(opts *options) *schema.QueryLimits {
	if len(opts.tenants) == 0 {
		return &r.limits.For(opts.tenant).QueryLimits
	}
	l := r.limits.For(opts.tenants[0]).QueryLimits
	for _, t := range opts.tenants[1:] {
		o := &r.limits.For(t).QueryLimits
		strict(&l.MaxFetchedSeriesPerQuery, o.MaxFetchedSeriesPerQuery)
		strict(&l.MaxFetchedChunksPerQuery, o.MaxFetchedChunksPerQuery)
		strict(&l.MaxFetchedChunkBytesPerQuery, o.MaxFetchedChunkBytesPerQuery)
		strict(&l.MaxSamplesPerQuery, o.MaxSamplesPerQuery)
		strict(&l.MaxEstimatedMemoryConsumptionPerQuery, o.MaxEstimatedMemoryConsumptionPerQuery)
		strict(&l.MaxQueryLookback, o.MaxQueryLookback)
		strict(&l.MaxTotalQueryLength, o.MaxTotalQueryLength)
		strict(&l.MaxLabelsQueryLength, o.MaxLabelsQueryLength)
		strict(&l.MaxQueryExpressionSizeBytes, o.MaxQueryExpressionSizeBytes)
		strict(&l.MaxQueryResponseSize, o.MaxQueryResponseSize)
		strict(&l.MaxOutstandingRequestsPerTenant, o.MaxOutstandingRequestsPerTenant)
		strict(&l.MaxQueryParallelism, o.MaxQueryParallelism)
		strict(&l.SplitQueriesByInterval, o.SplitQueriesByInterval)
		l.AlignQueriesWithStep = l.AlignQueriesWithStep && o.AlignQueriesWithStep
	}
	return &l
}

// strict makes limit the smaller of the two; 0 is none.
func strict[N cmp.Ordered](limit *N, other N) {
	var none N
	if *limit == none || other != none && other < *limit {
		*limit = other
	}
}

// traceLimits are those that hold for what is counted while a query runs.
func traceLimits(l *schema.QueryLimits) map[trace.Counter]trace.Limit {
	return map[trace.Counter]trace.Limit{
		trace.Series:     {Max: int64(l.MaxFetchedSeriesPerQuery), ID: schema.ErrMaxSeriesPerQuery, Name: "max_fetched_series_per_query"},
		trace.Chunks:     {Max: int64(l.MaxFetchedChunksPerQuery), ID: schema.ErrMaxChunksPerQuery, Name: "max_fetched_chunks_per_query"},
		trace.ChunkBytes: {Max: l.MaxFetchedChunkBytesPerQuery, ID: schema.ErrMaxChunkBytesPerQuery, Name: "max_fetched_chunk_bytes_per_query"},
		trace.Memory:     {Max: l.MaxEstimatedMemoryConsumptionPerQuery, ID: schema.ErrMaxMemoryPerQuery, Name: "max_estimated_memory_consumption_per_query"},
	}
}

// earliest returns the time (ms) before which nothing is shown to the query.
func (r *Reader) earliest(opts *options) int64 {
	l := r.queryLimits(opts)
	if l.MaxQueryLookback == 0 {
		return math.MinInt64
	}
	return r.now().Add(-time.Duration(l.MaxQueryLookback)).UnixMilli()
}

// limitLabels holds a question for label names, label values or series to its limits. A time that is not given is that of
// the limit.
func (r *Reader) limitLabels(req *http.Request, l *schema.QueryLimits) error {
	limit := time.Duration(l.MaxLabelsQueryLength)
	if limit == 0 {
		return nil
	}
	start, end := req.FormValue("start"), req.FormValue("end")
	to := r.now()
	if end != "" {
		var ok bool
		if to, ok = parseTime(end); !ok {
			return nil // Prometheus' handler says what is wrong
		}
	}
	from := to.Add(-limit)
	if start == "" {
		req.Form.Set("start", strconv.FormatFloat(float64(from.UnixMilli())/1000, 'f', 3, 64))
		return nil
	}
	from, ok := parseTime(start)
	if length := to.Sub(from); ok && length > limit {
		return schema.NewError(schema.ErrMaxQueryLength, http.StatusUnprocessableEntity,
			"the question is about %s, the limit is %s (max_labels_query_length)", model.Duration(length), model.Duration(limit))
	}
	return nil
}

// parseTime reads what Prometheus' API takes for a time.
func parseTime(s string) (time.Time, bool) {
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		if math.IsNaN(f) || math.Abs(f) > math.MaxInt64/1e9 {
			return time.Time{}, false
		}
		return time.UnixMilli(int64(f * 1000)), true
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	return t, err == nil
}
