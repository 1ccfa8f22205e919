package schema

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"
)

// Limits are what one tenant may do. Zero means "no limit" unless a field says otherwise. The YAML names are those of
// Cortex and Mimir wherever they have one; docs/limits.md has every one of them. Limits are comparable: equal ones mean the same.
type Limits struct {
	IngestionRate        float64 `yaml:"ingestion_rate"`         // samples + histograms a second, per producer
	IngestionBurstSize   int     `yaml:"ingestion_burst_size"`   // samples; 0 = ten seconds of the rate
	IngestionBurstFactor float64 `yaml:"ingestion_burst_factor"` // times the rate, instead of the burst size; 0 = the burst size counts
	RequestRate          float64 `yaml:"request_rate"`           // write requests a second, per producer
	RequestBurstSize     int     `yaml:"request_burst_size"`     // requests; 0 = ten seconds of the rate

	NativeHistogramIngestionRate      float64 `yaml:"native_histogram_ingestion_rate"`       // of the samples, those that are histograms
	NativeHistogramIngestionBurstSize int     `yaml:"native_histogram_ingestion_burst_size"` // histograms; 0 = ten seconds of the rate

	MaxSeriesPerRequest           int `yaml:"max_series_per_request"` // a whole request with more is refused; Prometheus sends 2,000
	MaxLabelNamesPerSeries        int `yaml:"max_label_names_per_series"`
	MaxLabelNamesPerInfoSeries    int `yaml:"max_label_names_per_info_series"`        // of metrics named …_info, if it is the higher one
	MaxLabelNameLength            int `yaml:"max_label_name_length"`                  // bytes
	MaxLabelValueLength           int `yaml:"max_label_value_length"`                 // bytes
	MaxLabelsSizeBytes            int `yaml:"max_labels_size_bytes"`                  // all names and values of a series
	MaxMetadataLength             int `yaml:"max_metadata_length"`                    // bytes; a longer help text is cut
	MaxNativeHistogramBuckets     int `yaml:"max_native_histogram_buckets"`           // buckets of one sample
	MaxNativeHistogramSampleBytes int `yaml:"max_native_histogram_sample_size_bytes"` // one sample as protobuf

	CreationGracePeriod    model.Duration `yaml:"creation_grace_period"`      // samples further in the future are refused
	PastGracePeriod        model.Duration `yaml:"past_grace_period"`          // samples further in the past are refused; 0 = any age
	RejectOldSamples       bool           `yaml:"reject_old_samples"`         // Cortex' way to say it: whether the next one counts
	RejectOldSamplesMaxAge model.Duration `yaml:"reject_old_samples_max_age"` // as past_grace_period; the shorter one counts

	DropLabels           SharedList[LabelName]   `yaml:"drop_labels"`            // taken off every series, after relabelling
	MetricRelabelConfigs SharedList[RelabelRule] `yaml:"metric_relabel_configs"` // as in Prometheus' scrape configurations

	MaxExemplars             int `yaml:"max_global_exemplars_per_user"` // kept of a generation, per partition; 0 = none
	MaxGlobalMetadataPerUser int `yaml:"max_global_metadata_per_user"`  // metric families, per partition; 0 = 10,000
	PartitionShardSize       int `yaml:"partition_shard_size"`          // partitions that the tenant's series are spread over; 0 = all

	BlocksRetentionPeriod model.Duration `yaml:"compactor_blocks_retention_period"` // 0 = for ever

	// Active series of the tenant over all partitions, and those of one metric name. Only new series are refused. 0, the
	// default, is no limit: a default that stops a tenant nobody has thought of does more harm than good.
	MaxGlobalSeriesPerUser   int `yaml:"max_global_series_per_user"`
	MaxGlobalSeriesPerMetric int `yaml:"max_global_series_per_metric"`

	// How OTLP becomes series.
	OTelTranslationStrategy                  string  `yaml:"otel_translation_strategy"`    // Prometheus' names; empty = escaping, suffixes by the next
	OTelMetricSuffixesEnabled                bool    `yaml:"otel_metric_suffixes_enabled"` // _total and the unit behind metric names
	PromoteOTelResourceAttributes            CSVList `yaml:"promote_otel_resource_attributes"`
	OTelKeepIdentifyingResourceAttributes    bool    `yaml:"otel_keep_identifying_resource_attributes"` // in target_info
	OTelConvertHistogramsToNHCB              bool    `yaml:"otel_convert_histograms_to_nhcb"`           // instead of _bucket, _sum and _count
	OTelPromoteScopeMetadata                 bool    `yaml:"otel_promote_scope_metadata"`               // as labels otel_scope_…
	OTelLabelNameUnderscoreSanitization      bool    `yaml:"otel_label_name_underscore_sanitization"`   // key_ before names that begin with _
	OTelLabelNamePreserveMultipleUnderscores bool    `yaml:"otel_label_name_preserve_multiple_underscores"`
	// HA pairs: of the replicas of a cluster, which send the same series, one is elected and the others' samples are dropped.
	AcceptHASamples          bool           `yaml:"accept_ha_samples"`
	HAClusterLabel           string         `yaml:"ha_cluster_label"` // names the pair
	HAReplicaLabel           string         `yaml:"ha_replica_label"` // tells the two apart; it is taken off their series
	HAMaxClusters            int            `yaml:"ha_max_clusters"`
	HATrackerFailoverTimeout model.Duration `yaml:"ha_tracker_failover_timeout"` // silence after which the other one is elected; MinHAFailover or more

	QueryLimits `yaml:",inline"`
}

// DefaultLimits are the limits of a tenant for which the file says nothing.
func DefaultLimits() Limits {
	return Limits{
		MaxSeriesPerRequest:        100_000,
		MaxLabelNamesPerSeries:     30,
		MaxLabelNamesPerInfoSeries: 80,
		MaxLabelNameLength:         1024,
		MaxLabelValueLength:        2048,
		MaxMetadataLength:          1024,
		MaxNativeHistogramBuckets:  10_000,
		CreationGracePeriod:        model.Duration(10 * time.Minute),
		RejectOldSamplesMaxAge:     model.Duration(14 * 24 * time.Hour),
		MaxExemplars:               DefaultExemplarLimit,

		OTelMetricSuffixesEnabled:                true,
		OTelLabelNameUnderscoreSanitization:      true,
		OTelLabelNamePreserveMultipleUnderscores: true,
		HAClusterLabel:                           "cluster",
		HAReplicaLabel:                           "__replica__",
		HAMaxClusters:                            100,
		HATrackerFailoverTimeout:                 model.Duration(30 * time.Second),

		QueryLimits: defaultQueryLimits(),
	}
}

// The bounds of ha_tracker_failover_timeout. Producers tell each other every five seconds whom they have heard of.
const (
	MinHAFailover = 10 * time.Second
	MaxHAFailover = 30 * time.Minute
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

// LimitFields are the fields of Limits that are limits, those of embedded structs among them.
func LimitFields() []reflect.StructField {
	return slices.DeleteFunc(reflect.VisibleFields(reflect.TypeFor[Limits]()), func(f reflect.StructField) bool { return f.Anonymous })
}

// Validate refuses limits that cannot be meant.
func (l *Limits) Validate() error {
	v := reflect.ValueOf(l).Elem()
	for _, field := range LimitFields() {
		var n float64
		switch f := v.FieldByIndex(field.Index); {
		case f.CanInt():
			n = float64(f.Int())
		case f.CanFloat():
			n = f.Float()
		}
		switch name := field.Tag.Get("yaml"); {
		case n < 0:
			return fmt.Errorf("%s is %v, must not be negative", name, v.FieldByIndex(field.Index).Interface())
		case math.IsNaN(n) || math.IsInf(n, 0):
			return fmt.Errorf("%s is %v, must be a number (0 = no limit)", name, n)
		}
	}
	if f := l.IngestionBurstFactor; f != 0 && f < 1 {
		return fmt.Errorf("ingestion_burst_factor is %v, must be at least 1, or 0 for ingestion_burst_size to count", f)
	}
	if err := l.validateHA(); err != nil {
		return err
	}
	return l.validateOTel()
}

// MaxAge returns how old a sample may be and the YAML name of the limit that says so; 0 = any age.
func (l *Limits) MaxAge() (age time.Duration, name string) {
	age, name = time.Duration(l.PastGracePeriod), "past_grace_period"
	if old := time.Duration(l.RejectOldSamplesMaxAge); l.RejectOldSamples && old > 0 && (age == 0 || old < age) {
		return old, "reject_old_samples_max_age"
	}
	return age, name
}

// IngestionBurst returns how many samples may come at once, and the YAML name of the limit that says so.
func (l *Limits) IngestionBurst() (samples int, name string) {
	if l.IngestionBurstFactor > 0 {
		return int(min(max(l.IngestionBurstFactor*l.IngestionRate, 1), 1<<40)), "ingestion_burst_factor"
	}
	return l.IngestionBurstSize, "ingestion_burst_size"
}

// OfSeries returns what the limits say of series as such: without rates, times and whatever else is judged anew each time a
// known series comes. What is remembered of a series holds as long as these do.
func (l *Limits) OfSeries() Limits {
	s := *l
	s.IngestionRate, s.IngestionBurstSize, s.IngestionBurstFactor = 0, 0, 0
	s.RequestRate, s.RequestBurstSize, s.MaxSeriesPerRequest = 0, 0, 0
	s.NativeHistogramIngestionRate, s.NativeHistogramIngestionBurstSize = 0, 0
	s.MaxNativeHistogramBuckets, s.MaxNativeHistogramSampleBytes, s.MaxMetadataLength = 0, 0, 0
	s.CreationGracePeriod, s.PastGracePeriod, s.RejectOldSamples, s.RejectOldSamplesMaxAge = 0, 0, false, 0
	s.MaxExemplars, s.MaxGlobalMetadataPerUser, s.BlocksRetentionPeriod = 0, 0, 0
	s.MaxGlobalSeriesPerUser, s.MaxGlobalSeriesPerMetric = 0, 0 // no concern of a known series
	s.OTelTranslationStrategy, s.PromoteOTelResourceAttributes = "", ""
	s.OTelMetricSuffixesEnabled, s.OTelKeepIdentifyingResourceAttributes, s.OTelConvertHistogramsToNHCB = false, false, false
	s.OTelPromoteScopeMetadata, s.OTelLabelNameUnderscoreSanitization, s.OTelLabelNamePreserveMultipleUnderscores = false, false, false
	s.HAMaxClusters, s.HATrackerFailoverTimeout = 0, 0
	s.QueryLimits = QueryLimits{}
	return s
}
