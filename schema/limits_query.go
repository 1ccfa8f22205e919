package schema

import (
	"time"

	"github.com/prometheus/common/model"
)

// QueryLimits are what one tenant may ask. They say nothing about series that are written.
type QueryLimits struct {
	// What one query may fetch from heads and blocks, before anything is merged: past it the query ends with a 422.
	MaxFetchedSeriesPerQuery              int   `yaml:"max_fetched_series_per_query"`
	MaxFetchedChunksPerQuery              int   `yaml:"max_fetched_chunks_per_query"`
	MaxFetchedChunkBytesPerQuery          int64 `yaml:"max_fetched_chunk_bytes_per_query"`
	MaxSamplesPerQuery                    int   `yaml:"max_samples_per_query"`                      // in memory at one time; 0 = what the process allows
	MaxEstimatedMemoryConsumptionPerQuery int64 `yaml:"max_estimated_memory_consumption_per_query"` // bytes; 0 = what the process allows

	MaxQueryLookback            model.Duration `yaml:"max_query_lookback"`              // what is older is left out, without an error
	MaxTotalQueryLength         model.Duration `yaml:"max_total_query_length"`          // from start to end, plus the longest range in the query
	MaxLabelsQueryLength        model.Duration `yaml:"max_labels_query_length"`         // of label names, label values and series
	MaxQueryExpressionSizeBytes int            `yaml:"max_query_expression_size_bytes"` // 0 = what the process allows
	MaxQueryResponseSize        int64          `yaml:"max_query_response_size"`         // bytes of the answer, uncompressed

	MaxOutstandingRequestsPerTenant int `yaml:"max_outstanding_requests_per_tenant"` // waiting in the queue; past it 429
	MaxQueryParallelism             int `yaml:"max_query_parallelism"`               // parts of one query under way at one time

	SplitQueriesByInterval model.Duration `yaml:"split_queries_by_interval"` // range queries are cut at its multiples; 0 = never
	AlignQueriesWithStep   bool           `yaml:"align_queries_with_step"`   // start and end are rounded down to multiples of the step
	MaxCacheFreshness      model.Duration `yaml:"max_cache_freshness"`       // what is younger is never taken from the results cache
	ResultsCacheTTL        model.Duration `yaml:"results_cache_ttl"`         // 0 = results are not cached

	EnabledPromQLExperimentalFunctions  CSVList `yaml:"enabled_promql_experimental_functions"`   // names, or all
	EnabledPromQLExtendedRangeSelectors CSVList `yaml:"enabled_promql_extended_range_selectors"` // anchored, smoothed, or all
	EnabledPromQLDurationExpressions    bool    `yaml:"enabled_promql_duration_expressions"`     // [5m+step()]
	EnabledPromQLFillModifiers          bool    `yaml:"enabled_promql_fill_modifiers"`           // a + fill(0) b
	EnableDelayedNameRemoval            bool    `yaml:"enable_delayed_name_removal"`             // metric names go at the end of an evaluation
	EnableStartTimestamps               bool    `yaml:"enable_start_timestamps"`                 // rate and its like look at them
	CardinalityAnalysisEnabled          bool    `yaml:"cardinality_analysis_enabled"`
	CardinalityLabelNamesPerRequest     int     `yaml:"label_values_max_cardinality_label_names_per_request"`
	ActiveSeriesResultsMaxSizeBytes     int64   `yaml:"active_series_results_max_size_bytes"`
}

func defaultQueryLimits() QueryLimits {
	return QueryLimits{
		MaxFetchedChunksPerQuery:        2_000_000,
		MaxOutstandingRequestsPerTenant: 100,
		MaxQueryParallelism:             14,
		SplitQueriesByInterval:          model.Duration(24 * time.Hour),
		MaxCacheFreshness:               model.Duration(10 * time.Minute),
		ResultsCacheTTL:                 model.Duration(7 * 24 * time.Hour),
		CardinalityAnalysisEnabled:      true,
		CardinalityLabelNamesPerRequest: 100,
		ActiveSeriesResultsMaxSizeBytes: 400 << 20,
	}
}
