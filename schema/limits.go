package schema

import (
	"fmt"
	"math"
	"time"

	"github.com/prometheus/common/model"
)

// Limits are what one tenant may do. Zero means "no limit" unless a field says otherwise. The YAML names are those of
// Cortex and Mimir wherever they have one.
type Limits struct {
	IngestionRate      float64 `yaml:"ingestion_rate"`       // samples + histograms a second, per producer
	IngestionBurstSize int     `yaml:"ingestion_burst_size"` // samples; 0 = ten seconds of the rate
	RequestRate        float64 `yaml:"request_rate"`         // write requests a second, per producer
	RequestBurstSize   int     `yaml:"request_burst_size"`

	MaxSeriesPerRequest       int `yaml:"max_series_per_request"` // a whole request with more is refused; Prometheus sends 2,000
	MaxLabelNamesPerSeries    int `yaml:"max_label_names_per_series"`
	MaxLabelNameLength        int `yaml:"max_label_name_length"`        // bytes
	MaxLabelValueLength       int `yaml:"max_label_value_length"`       // bytes
	MaxMetadataLength         int `yaml:"max_metadata_length"`          // bytes; a longer help text is cut
	MaxNativeHistogramBuckets int `yaml:"max_native_histogram_buckets"` // buckets of one sample

	CreationGracePeriod model.Duration `yaml:"creation_grace_period"` // samples further in the future are refused
	PastGracePeriod     model.Duration `yaml:"past_grace_period"`     // samples further in the past are refused; 0 = any age

	MaxExemplars       int `yaml:"max_global_exemplars_per_user"` // kept in memory, per partition; 0 = none
	PartitionShardSize int `yaml:"partition_shard_size"`          // partitions that the tenant's series are spread over; 0 = all

	BlocksRetentionPeriod model.Duration `yaml:"compactor_blocks_retention_period"` // 0 = for ever

	// Active series of the tenant over all partitions, and those of one metric name. Only new series are refused. 0, the
	// default, is no limit: a default that stops a tenant nobody has thought of does more harm than good.
	MaxGlobalSeriesPerUser   int `yaml:"max_global_series_per_user"`
	MaxGlobalSeriesPerMetric int `yaml:"max_global_series_per_metric"`
}

// DefaultLimits are the limits of a tenant for which the file says nothing.
func DefaultLimits() Limits {
	return Limits{
		MaxSeriesPerRequest:       100_000,
		MaxLabelNamesPerSeries:    60,
		MaxLabelNameLength:        1024,
		MaxLabelValueLength:       2048,
		MaxMetadataLength:         1024,
		MaxNativeHistogramBuckets: 10_000,
		CreationGracePeriod:       model.Duration(10 * time.Minute),
		MaxExemplars:              10_000,
	}
}

// Validate refuses limits that cannot be meant.
func (l *Limits) Validate() error {
	for name, v := range map[string]float64{
		"ingestion_rate": l.IngestionRate, "ingestion_burst_size": float64(l.IngestionBurstSize),
		"request_rate": l.RequestRate, "request_burst_size": float64(l.RequestBurstSize),
		"max_series_per_request":     float64(l.MaxSeriesPerRequest),
		"max_label_names_per_series": float64(l.MaxLabelNamesPerSeries), "max_label_name_length": float64(l.MaxLabelNameLength),
		"max_label_value_length": float64(l.MaxLabelValueLength), "max_metadata_length": float64(l.MaxMetadataLength),
		"max_native_histogram_buckets":  float64(l.MaxNativeHistogramBuckets),
		"max_global_exemplars_per_user": float64(l.MaxExemplars), "partition_shard_size": float64(l.PartitionShardSize),
		"creation_grace_period": float64(l.CreationGracePeriod), "past_grace_period": float64(l.PastGracePeriod),
		"compactor_blocks_retention_period": float64(l.BlocksRetentionPeriod),
		"max_global_series_per_user":        float64(l.MaxGlobalSeriesPerUser), "max_global_series_per_metric": float64(l.MaxGlobalSeriesPerMetric),
	} {
		switch {
		case v < 0:
			return fmt.Errorf("%s is %v, must not be negative", name, v)
		case math.IsNaN(v) || math.IsInf(v, 0):
			return fmt.Errorf("%s is %v, must be a number (0 = no limit)", name, v)
		}
	}
	return nil
}
