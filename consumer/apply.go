package consumer

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"sluice/internal/log"
	"sluice/schema"
)

// apply adds a record's samples to the generation. A record that cannot be decoded or applied is counted, copied to the
// dead-letter topic and passed over: nothing that a record holds may stop a partition.
func (p *partition) apply(ctx context.Context, g *generation, rec *log.Record, kind string) error {
	version, _ := rec.Header(schema.HeaderVersion)
	if len(version) != 1 || version[0] != schema.RecordV1 && version[0] != schema.RecordV2 {
		return p.deadLetter(ctx, rec, fmt.Sprintf("unknown record version %x", version))
	}
	switch kind {
	case schema.KindTick, schema.KindSeal:
		if settings, ok := rec.Header(schema.HeaderGeneration); ok {
			if err := g.decide(settings, p.id); err != nil {
				return p.deadLetter(ctx, rec, err.Error())
			}
		}
		return nil
	case "":
	default:
		return p.deadLetter(ctx, rec, fmt.Sprintf("unknown record kind %.20q", kind))
	}
	tenant, err := schema.ParseTenant(string(rec.Key))
	if err != nil {
		return p.deadLetter(ctx, rec, err.Error())
	}
	header, _ := rec.Header(schema.HeaderExemplarLimit)
	exemplars := schema.ExemplarLimit(header)
	into := sinks{
		exemplars: func(lset labels.Labels, e exemplar.Exemplar) {
			g.part(tenant, p.nextHead).exemplars.Add(lset, e, exemplars)
		},
		meta: func(payload []byte) {
			if err := p.side.addMetadata(tenant, payload, rec.Time, p.metadataLimit(tenant)); err != nil {
				p.metrics.unapplied.Inc()
			}
		},
	}
	limit, err := p.limitOf(rec, tenant)
	if err != nil {
		return p.deadLetter(ctx, rec, err.Error())
	}
	into.cap = limit.Cap(g.logTime - g.logFrom)
	t, err := p.applySamples(g, tenant, rec, version[0], into)
	p.tellCapped(g, tenant, limit, &t)
	p.usage.NewSeries(tenant, t.newSeries)
	g.bytes += int64(len(rec.Value))
	g.series += t.newSeries
	g.samples += int64(t.floats + t.histograms)
	p.metrics.count(&t, len(rec.Value))
	if err == nil {
		err = t.err
	}
	if err == nil && t.unresolved > 0 {
		err = unresolved(t.unresolved)
	}
	if err != nil {
		return p.deadLetter(ctx, p.selfContained(tenant, rec, version[0]), err.Error())
	}
	return nil
}

// sinks take what a record holds beside samples.
type sinks struct {
	exemplars exemplarSink
	meta      func(payload []byte)

	cap int64 // no new series are taken into a head that has as many; 0 = no cap
}

// applySamples adds what a record of one of the versions holds to the tenant's head, which is made for the first sample: a
// tenant without samples costs nothing.
func (p *partition) applySamples(g *generation, tenant schema.Tenant, rec *log.Record, version byte, into sinks) (t tally, err error) {
	var e *epoch
	if version == schema.RecordV2 {
		if err := p.columns.Parse(rec.Value); err != nil {
			return t, err
		}
		if err := p.refs.define(tenant, &p.columns, rec.Time, &p.scratch); err != nil {
			return t, err
		}
		p.refs.forget(rec.Time)
		if !p.columns.HasSamples() {
			return t, metadataOf(&p.columns, into.meta)
		}
		e = p.refs.of(tenant, p.columns.Epoch)
	} else if onlyMetadata(rec.Value, into.meta) {
		return t, nil
	}
	app := g.part(tenant, p.nextHead).head.appender()
	app.cap, app.usage = into.cap, p.usage
	defer app.close()
	if version == schema.RecordV2 {
		return t, app.applyColumns(&p.columns, e, rec.Time, &t, into)
	}
	return t, app.apply(rec.Value, &p.scratch, &t, into)
}

// nextHead numbers heads.
func (p *partition) nextHead() uint32 {
	p.heads++
	return p.heads
}

// onlyMetadata says whether a record value is nothing but metadata, and if so hands that over.
func onlyMetadata(value []byte, meta func([]byte)) bool {
	for rest := value; ; {
		f, next, err := schema.NextField(rest)
		if err != nil || f.Raw != nil && !f.Meta {
			return false
		}
		if f.Raw == nil {
			break
		}
		rest = next
	}
	for rest := value; ; {
		f, next, err := schema.NextField(rest)
		if err != nil || f.Raw == nil {
			return true
		}
		meta(f.Payload)
		rest = next
	}
}

// deadLetterTimeout bounds how long a bad record may hold up the good ones.
const deadLetterTimeout = 10 * time.Second

// deadLetter copies a record with the reason to the dead-letter topic. That this fails too is told, and no more: the
// record is still in the log for as long as that is kept.
func (p *partition) deadLetter(ctx context.Context, rec *log.Record, reason string) error {
	p.metrics.deadLetters.Inc()
	p.logger.Error("a record could not be applied", "offset", rec.Offset, "tenant", string(rec.Key), "reason", reason)
	if p.readOnly {
		return nil
	}
	dead := log.Record{Key: rec.Key, Value: rec.Value, Headers: append([]log.Header{
		{Key: schema.HeaderDeadReason, Value: []byte(reason)},
		{Key: schema.HeaderDeadPartition, Value: strconv.AppendInt(nil, int64(p.id), 10)},
		{Key: schema.HeaderDeadOffset, Value: strconv.AppendInt(nil, rec.Offset, 10)},
	}, rec.Headers...)}
	limited, cancel := context.WithTimeout(ctx, deadLetterTimeout)
	defer cancel()
	if err := p.log.Append(limited, log.TopicDeadLetter, []log.Record{dead}); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.metrics.deadLettersLost.Inc()
		p.logger.Error("copying a record to the dead-letter topic", "offset", rec.Offset, "err", err)
	}
	return nil
}
