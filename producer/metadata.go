package producer

import (
	"fmt"

	"github.com/cespare/xxhash/v2"

	"sluice/schema"
)

// maxSaid bounds the metadata entries that are remembered so as not to be repeated within a request.
const maxSaid = 10_000

// addMetadata puts a MetricMetadata into the record of the partition of its family. What is wrong with it is counted and
// does not fail the request: no sample is lost.
func (q *request) addMetadata(payload []byte) error {
	if len(payload) > maxRawSeries-8 {
		q.refuseMetadata(func() string { return fmt.Sprintf("metadata entry of %d bytes is larger than a record", len(payload)) })
		return nil
	}
	if err := q.meta.Parse(payload); err != nil {
		q.refuseMetadata(func() string { return "metadata invalid: " + err.Error() })
		return nil
	}
	return q.putMetadata()
}

// refuseMetadata counts a metadata entry as refused; why is only asked for the first.
func (q *request) refuseMetadata(why func() string) {
	if first := q.refused.add(schema.ErrMetadataInvalid, 1); first != nil {
		first.message, first.harmless = why(), true
	}
}

// addSeriesMetadata does the same for what a 2.0 series says of its metric, once per request and family. Only OTLP names the
// family.
func (q *request) addSeriesMetadata(v2 *schema.SeriesV2) error {
	q.meta = v2.Metadata
	if len(q.meta.Name) > 0 {
		return q.putMetadata()
	}
	for i := range q.series.Labels {
		if string(q.series.Labels[i].Name) == metricName {
			q.meta.Name = schema.FamilyOf(q.series.Labels[i].Value, q.meta.Type)
		}
	}
	return q.putMetadata()
}

// putMetadata writes q.meta.
func (q *request) putMetadata() error {
	if !checkMetadata(&q.meta, q.limits) {
		q.refuseMetadata(func() string { return metadataFault(&q.meta, q.limits) })
		return nil
	}
	q.scratch = q.meta.AppendPayload(q.scratch[:0])
	id := xxhash.Sum64(q.scratch)
	if _, said := q.said[id]; said {
		return nil
	}
	if len(q.said) < maxSaid {
		q.said[id] = struct{}{}
	}
	var hash uint64
	hash, q.hash = schema.MetadataHash(q.tenant, q.meta.Name, q.hash)
	partition := q.state.shard.Partition(hash)
	if q.state.cache != nil {
		b, err := q.openColumns(partition, len(q.scratch)+8)
		if err == nil {
			b.w.Metadata(q.scratch)
		}
		return err
	}
	b, err := q.room(partition, len(q.scratch)+8)
	if err != nil {
		return err
	}
	*b = schema.AppendMetadata(*b, q.scratch)
	return nil
}
