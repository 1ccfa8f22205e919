package producer

import (
	"context"
	"errors"
	"net/http"

	"sluice/internal/log"
	"sluice/schema"
)

// commit writes what was accepted and then says what was refused: a bad series never costs a good one. The sender's going
// away does not stop it half-way.
func (q *request) commit(ctx context.Context, limitRate bool) error {
	n := q.accepted.samples + q.accepted.histograms
	if limitRate {
		err := allow(q.state.ingestion, n, q.now, schema.ErrIngestionRate, "samples", "ingestion_rate", "ingestion_burst_size")
		if err != nil {
			q.p.metrics.reject(q.tenant, schema.ErrIngestionRate, n)
			return err
		}
	}
	if err := q.append(ctx); err != nil {
		return err
	}
	q.written = q.accepted
	q.count()
	return q.refused.err()
}

// append makes the records durable.
func (q *request) append(ctx context.Context) error {
	if q.used == 0 {
		return nil
	}
	for i := range q.buffers[:q.used] {
		b := &q.buffers[i]
		if c := q.state.cache; c != nil {
			b.b = b.w.Append(b.b[:0], c.epoch)
		}
		q.recs = append(q.recs, log.Record{Partition: b.partition, Key: q.state.key, Value: b.b, Headers: q.state.headers})
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.p.cfg.AppendTimeout)
	defer cancel()
	err := q.p.log.Append(ctx, log.TopicSamples, q.recs)
	switch {
	case err == nil:
		q.acknowledged()
		q.admitted = q.admitted[:0]
		return nil
	case errors.Is(err, log.ErrUnknownPartition): // a topic that is made anew has none of our definitions
		q.p.tenants.forgetDefinitions()
	case errors.Is(err, log.ErrOverloaded):
		return schema.Unavailable(schema.ErrOverloaded, err, "the log is slower than its writers")
	case errors.Is(err, log.ErrClosed):
		return schema.Unavailable(schema.ErrShuttingDown, err, "this process is stopping")
	case errors.Is(err, log.ErrTooLarge):
		return &schema.Error{ID: schema.ErrRecordTooLarge, Status: http.StatusBadRequest, Message: "the log refuses a record of this size", Cause: err}
	}
	return schema.Unavailable(schema.ErrLogDown, err, "the log did not acknowledge the samples")
}

// count adds what was written and what was refused to the metrics.
func (q *request) count() {
	m := q.p.metrics
	m.samples.Add(float64(q.accepted.samples))
	m.histograms.Add(float64(q.accepted.histograms))
	m.exemplars.Add(float64(q.accepted.exemplars))
	m.records.Add(float64(q.used))
	bytes := 0
	for i := range q.buffers[:q.used] {
		bytes += len(q.buffers[i].b)
	}
	m.recordBytes.Add(float64(bytes))
	for _, r := range q.refused.list {
		m.reject(q.tenant, r.id, r.count)
	}
}
