package schema

import (
	"fmt"
	"time"
)

// ErrorID is the stable name of an error that a user may meet; docs/errors.md has an entry for each.
type ErrorID string

// The IDs, grouped by where they come from. An ID never changes its meaning; a new meaning gets a new ID.
const (
	// Tenancy.
	ErrNoTenant      ErrorID = "err-sluice-no-tenant"
	ErrTenantInvalid ErrorID = "err-sluice-tenant-invalid"

	// Who asks, and for which tenants.
	ErrUnauthorized    ErrorID = "err-sluice-unauthorized"
	ErrAuthBusy        ErrorID = "err-sluice-auth-busy"
	ErrForbidden       ErrorID = "err-sluice-forbidden"
	ErrTenantForbidden ErrorID = "err-sluice-tenant-forbidden"
	ErrTenantRequired  ErrorID = "err-sluice-tenant-required"
	ErrTenantsPerQuery ErrorID = "err-sluice-max-tenants-per-query"
	ErrTenantsPerWrite ErrorID = "err-sluice-max-tenants-per-request"

	// The request as a whole.
	ErrMethod           ErrorID = "err-sluice-method-not-allowed"
	ErrContentType      ErrorID = "err-sluice-content-type"
	ErrContentEncoding  ErrorID = "err-sluice-content-encoding"
	ErrBodyTooLarge     ErrorID = "err-sluice-body-too-large"
	ErrBodyUnreadable   ErrorID = "err-sluice-body-unreadable"
	ErrDecompress       ErrorID = "err-sluice-decompress"
	ErrDecode           ErrorID = "err-sluice-decode"
	ErrRecordTooLarge   ErrorID = "err-sluice-series-too-large"
	ErrSeriesPerRequest ErrorID = "err-sluice-max-series-per-request"

	// One series of a request.
	ErrNoLabels             ErrorID = "err-sluice-no-labels"
	ErrMissingMetricName    ErrorID = "err-sluice-missing-metric-name"
	ErrMetricNameInvalid    ErrorID = "err-sluice-metric-name-invalid"
	ErrLabelNameInvalid     ErrorID = "err-sluice-label-name-invalid"
	ErrLabelValueInvalid    ErrorID = "err-sluice-label-value-invalid"
	ErrLabelNameTooLong     ErrorID = "err-sluice-label-name-too-long"
	ErrLabelValueTooLong    ErrorID = "err-sluice-label-value-too-long"
	ErrLabelsNotSorted      ErrorID = "err-sluice-labels-not-sorted"
	ErrDuplicateLabelNames  ErrorID = "err-sluice-duplicate-label-names"
	ErrTooManyLabels        ErrorID = "err-sluice-max-label-names-per-series"
	ErrLabelsSize           ErrorID = "err-sluice-max-labels-size-bytes"
	ErrTooFarInFuture       ErrorID = "err-sluice-too-far-in-future"
	ErrTooFarInPast         ErrorID = "err-sluice-too-far-in-past"
	ErrHistogramInvalid     ErrorID = "err-sluice-native-histogram-invalid"
	ErrHistogramBuckets     ErrorID = "err-sluice-max-native-histogram-buckets"
	ErrHistogramSize        ErrorID = "err-sluice-max-native-histogram-sample-size-bytes"
	ErrExemplarInvalid      ErrorID = "err-sluice-exemplar-invalid"
	ErrMetadataInvalid      ErrorID = "err-sluice-metadata-invalid"
	ErrSymbolRef            ErrorID = "err-sluice-symbol-reference"
	ErrSamplesAndHistograms ErrorID = "err-sluice-samples-and-histograms"
	ErrTooManyHAClusters    ErrorID = "err-sluice-too-many-ha-clusters"

	// One data point of OTLP.
	ErrOTLPTemporality ErrorID = "err-sluice-otlp-temporality"
	ErrOTLPDataPoint   ErrorID = "err-sluice-otlp-data-point-invalid"

	// Rates and overload.
	ErrIngestionRate ErrorID = "err-sluice-ingestion-rate"
	ErrHistogramRate ErrorID = "err-sluice-native-histogram-ingestion-rate"
	ErrRequestRate   ErrorID = "err-sluice-request-rate"
	ErrOverloaded    ErrorID = "err-sluice-overloaded"
	ErrLogDown       ErrorID = "err-sluice-log-unavailable"
	ErrShuttingDown  ErrorID = "err-sluice-shutting-down"

	// Cardinality.
	ErrMaxSeriesPerUser   ErrorID = "err-sluice-max-series-per-user"
	ErrMaxSeriesPerMetric ErrorID = "err-sluice-max-series-per-metric"

	// Reading.
	ErrQueryTooLong         ErrorID = "err-sluice-query-too-long"
	ErrQueryTooDeep         ErrorID = "err-sluice-query-too-deep"
	ErrPartitionUnavailable ErrorID = "err-sluice-partition-unavailable"
	ErrCoverage             ErrorID = "err-sluice-coverage-missing"
	ErrSamplesLost          ErrorID = "err-sluice-samples-lost"
	ErrStrongRead           ErrorID = "err-sluice-strong-read"
	ErrBlockUnreadable      ErrorID = "err-sluice-block-unreadable"
	ErrBlockNotFound        ErrorID = "err-sluice-block-not-found"
	ErrNotReady             ErrorID = "err-sluice-not-ready"

	// What a query may do.
	ErrMaxSeriesPerQuery     ErrorID = "err-sluice-max-series-per-query"
	ErrMaxChunksPerQuery     ErrorID = "err-sluice-max-chunks-per-query"
	ErrMaxChunkBytesPerQuery ErrorID = "err-sluice-max-chunk-bytes-per-query"
	ErrMaxSamplesPerQuery    ErrorID = "err-sluice-max-samples-per-query"
	ErrMaxMemoryPerQuery     ErrorID = "err-sluice-max-memory-per-query"
	ErrMaxQueryLength        ErrorID = "err-sluice-max-query-length"
	ErrMaxResponseSize       ErrorID = "err-sluice-max-response-size"
	ErrTooManyOutstanding    ErrorID = "err-sluice-too-many-outstanding-requests"
	ErrQueryCanceled         ErrorID = "err-sluice-query-canceled"
	ErrQueryNotFound         ErrorID = "err-sluice-query-not-found"
	ErrPromQLExperimental    ErrorID = "err-sluice-promql-experimental"

	// Cardinality questions.
	ErrCardinalityDisabled ErrorID = "err-sluice-cardinality-disabled"
	ErrCardinalityLabels   ErrorID = "err-sluice-max-cardinality-label-names"
	ErrActiveSeriesSize    ErrorID = "err-sluice-active-series-size"
	ErrCardinalityTooLarge ErrorID = "err-sluice-cardinality-too-large"
)

// ErrorIDs lists every ID, for the test that holds docs/errors.md to them.
func ErrorIDs() []ErrorID {
	return []ErrorID{
		ErrNoTenant, ErrTenantInvalid,
		ErrUnauthorized, ErrAuthBusy, ErrForbidden, ErrTenantForbidden, ErrTenantRequired, ErrTenantsPerQuery, ErrTenantsPerWrite,
		ErrMethod, ErrContentType, ErrContentEncoding, ErrBodyTooLarge, ErrBodyUnreadable, ErrDecompress, ErrDecode, ErrRecordTooLarge, ErrSeriesPerRequest,
		ErrNoLabels, ErrMissingMetricName, ErrMetricNameInvalid, ErrLabelNameInvalid, ErrLabelValueInvalid, ErrLabelNameTooLong,
		ErrLabelValueTooLong, ErrLabelsNotSorted, ErrDuplicateLabelNames, ErrTooManyLabels, ErrLabelsSize, ErrTooFarInFuture, ErrTooFarInPast,
		ErrHistogramInvalid, ErrHistogramBuckets, ErrHistogramSize, ErrExemplarInvalid, ErrMetadataInvalid, ErrSymbolRef, ErrSamplesAndHistograms,
		ErrOTLPTemporality, ErrOTLPDataPoint,
		ErrTooManyHAClusters,
		ErrIngestionRate, ErrHistogramRate, ErrRequestRate, ErrOverloaded, ErrLogDown, ErrShuttingDown,
		ErrMaxSeriesPerUser, ErrMaxSeriesPerMetric,
		ErrQueryTooLong, ErrQueryTooDeep, ErrPartitionUnavailable, ErrCoverage, ErrSamplesLost, ErrStrongRead, ErrBlockUnreadable, ErrBlockNotFound, ErrNotReady,
		ErrMaxSeriesPerQuery, ErrMaxChunksPerQuery, ErrMaxChunkBytesPerQuery, ErrMaxSamplesPerQuery, ErrMaxMemoryPerQuery, ErrMaxQueryLength,
		ErrMaxResponseSize, ErrTooManyOutstanding, ErrQueryCanceled, ErrQueryNotFound, ErrPromQLExperimental,
		ErrCardinalityDisabled, ErrCardinalityLabels, ErrActiveSeriesSize, ErrCardinalityTooLarge,
	}
}

// Error is an error that a user may meet. internal/web turns it into an answer.
type Error struct {
	ID         ErrorID
	Status     int           // HTTP status
	Message    string        // one sentence with the numbers and the limit involved, without the ID
	RetryAfter time.Duration // 0 = retrying the same request does not help
	Cause      error         // may be nil
}

// NewError makes an Error that no retry can mend.
func NewError(id ErrorID, status int, format string, args ...any) *Error {
	return &Error{ID: id, Status: status, Message: fmt.Sprintf(format, args...)}
}

// Unavailable makes the 503 for trouble on our side: the sender keeps its data and comes back after a moment.
func Unavailable(id ErrorID, cause error, format string, args ...any) *Error {
	return &Error{ID: id, Status: 503, Message: fmt.Sprintf(format, args...), RetryAfter: time.Second, Cause: cause}
}

// Error returns the sentence with its ID, and the cause where there is one.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %v (%s)", e.Message, e.Cause, e.ID)
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.ID)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }
