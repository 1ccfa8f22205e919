package schema

import (
	"fmt"
	"math"
	"time"
	"unicode/utf8"

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

	// HA pairs: of the replicas of a cluster, which send the same series, one is elected and the others' samples are dropped.
	AcceptHASamples          bool           `yaml:"accept_ha_samples"`
	HAClusterLabel           string         `yaml:"ha_cluster_label"` // names the pair
	HAReplicaLabel           string         `yaml:"ha_replica_label"` // tells the two apart; it is taken off their series
	HAMaxClusters            int            `yaml:"ha_max_clusters"`
	HATrackerFailoverTimeout model.Duration `yaml:"ha_tracker_failover_timeout"` // silence after which the other one is elected; MinHAFailover or more
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
		HAClusterLabel:            "cluster",
		HAReplicaLabel:            "__replica__",
		HAMaxClusters:             100,
		HATrackerFailoverTimeout:  model.Duration(30 * time.Second),
	}
}

// The bounds of ha_tracker_failover_timeout. Producers tell each other every five seconds whom they have heard of.
const (
	MinHAFailover = 10 * time.Second
	MaxHAFailover = 24 * time.Hour
)

// validateHA refuses settings of HA pairs that cannot be meant.
func (l *Limits) validateHA() error {
	for _, label := range []struct{ name, value string }{{"ha_cluster_label", l.HAClusterLabel}, {"ha_replica_label", l.HAReplicaLabel}} {
		if label.value == "" || label.value == model.MetricNameLabel || !utf8.ValidString(label.value) {
			return fmt.Errorf("%s is %q, must be the name of a label other than %s", label.name, label.value, model.MetricNameLabel)
		}
	}
	if l.HAClusterLabel == l.HAReplicaLabel {
		return fmt.Errorf("ha_cluster_label and ha_replica_label are both %q, must differ", l.HAClusterLabel)
	}
	if d := time.Duration(l.HATrackerFailoverTimeout); d < MinHAFailover || d > MaxHAFailover {
		return fmt.Errorf("ha_tracker_failover_timeout is %s, must be %s to %s", d, MinHAFailover, MaxHAFailover)
	}
	return nil
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
		"ha_max_clusters":                   float64(l.HAMaxClusters),
	} {
		switch {
		case v < 0:
			return fmt.Errorf("%s is %v, must not be negative", name, v)
		case math.IsNaN(v) || math.IsInf(v, 0):
			return fmt.Errorf("%s is %v, must be a number (0 = no limit)", name, v)
		}
	}
	return l.validateHA()
}
