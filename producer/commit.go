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
	if q.split != nil {
		return q.commitSplit(ctx)
	}
	if err := q.store(ctx, limitRate); err != nil {
		return err
	}
	return q.refused.err()
}

// store writes what was accepted. An error means that nothing counts as written.
func (q *request) store(ctx context.Context, limitRate bool) error {
	if limitRate {
		if err := q.allowSamples(); err != nil {
			return err
		}
	}
	if err := q.append(ctx); err != nil {
		return err
	}
	q.stored()
	return nil
}

// stored notes that the records are durable. What the tenant's own rules drop, and what another replica is elected for, is
// dealt with as it should be: a sender must not take it for lost.
func (q *request) stored() {
	q.acknowledged()
	q.written = q.accepted.plus(q.dropped).plus(q.ha.dropped)
	q.count()
}

// allowSamples takes what was accepted out of the tenant's rates.
func (q *request) allowSamples() error {
	n, what := q.accepted.histograms, "native histograms"
	err := allow(q.state.histograms, n, q.now, schema.ErrHistogramRate, what, "native_histogram_ingestion_rate", "native_histogram_ingestion_burst_size")
	if err == nil {
		_, burst := q.limits.IngestionBurst()
		n += q.accepted.samples
		err = allow(q.state.ingestion, n, q.now, schema.ErrIngestionRate, "samples", "ingestion_rate", burst)
	}
	if err != nil {
		q.p.reject(q.tenant, err, n)
	}
	return err
}

// allowRequest takes one request out of the tenant's rate.
func (q *request) allowRequest() error {
	return allow(q.state.requests, 1, q.now, schema.ErrRequestRate, "requests", "request_rate", "request_burst_size")
}

// append makes the records durable.
func (q *request) append(ctx context.Context) error {
	if q.used == 0 { // what is remembered as dropped needs no record
		return nil
	}
	q.encode()
	return q.p.write(ctx, q.recs)
}

// encode makes records of the buffers.
func (q *request) encode() {
	for i := range q.buffers[:q.used] {
		b := &q.buffers[i]
		if c := q.state.cache; c != nil {
			b.b = b.w.Append(b.b[:0], c.epoch)
		}
		q.recs = append(q.recs, log.Record{Partition: b.partition, Key: q.state.key, Value: b.b, Headers: q.state.headers})
	}
}

// write makes records durable.
func (p *Producer) write(ctx context.Context, recs []log.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.AppendTimeout)
	defer cancel()
	err := p.log.Append(ctx, log.TopicSamples, recs)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, log.ErrUnknownPartition): // a topic that is made anew has none of our definitions
		p.tenants.forgetDefinitions()
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
	if n := q.ha.dropped.samples + q.ha.dropped.histograms; n > 0 {
		m.deduplicate(q.tenant, n)
	}
	q.state.rates.samples.add(q.accepted.samples+q.accepted.histograms, q.now)
	q.state.rates.histograms.add(q.accepted.histograms, q.now)
	if n := q.dropped.samples + q.dropped.histograms; n > 0 {
		m.drop(q.tenant, n)
	}
	for i := range q.refused.list {
		r := &q.refused.list[i]
		m.reject(q.tenant, r.id, r.count)
		q.p.rejects.add(q.tenant, r, q.now)
	}
}
