package consumer

import (
	"errors"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"

	"sluice/internal/log"
	"sluice/schema"
)

// applyColumns adds the samples of a record of version 2, whose definitions have been read.
func (a *appender) applyColumns(c *schema.Columns, e *epoch, logTime int64, t *tally, into sinks) error {
	var f schema.Float
	for {
		ok, err := c.NextFloat(&f)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		d := e.get(f.Ref, logTime)
		if d == nil {
			t.unresolved++
			continue
		}
		ref, lset := a.known(d)
		d.ref = a.float(ref, lset, nil, f.Start, f.Time, f.Value, t)
	}
	// resolved calls f with every entry of a section whose ref resolves.
	resolved := func(next func() (uint32, []byte, bool, error), f func(d *definition, payload []byte) error) error {
		for {
			ref, payload, ok, err := next()
			if err != nil || !ok {
				return err
			}
			if d := e.get(ref, logTime); d == nil {
				t.unresolved++
			} else if err := f(d, payload); err != nil {
				return err
			}
		}
	}
	err := resolved(c.NextHistogram, func(d *definition, payload []byte) error {
		hist, fhist, ts, st, err := schema.DecodeHistogram(payload)
		if err != nil {
			return err
		}
		ref, lset := a.known(d)
		d.ref = a.histogram(ref, lset, nil, st, ts, hist, fhist, t)
		return nil
	})
	if err != nil {
		return err
	}
	err = resolved(c.NextExemplar, func(d *definition, payload []byte) error {
		ex, err := schema.DecodeExemplar(payload)
		if err != nil {
			return err
		}
		into.exemplars(d.lset, ex)
		return nil
	})
	if err != nil {
		return err
	}
	return metadataOf(c, into.meta)
}

func metadataOf(c *schema.Columns, meta func([]byte)) error {
	for {
		payload, ok, err := c.NextMetadata()
		if err != nil || !ok {
			return err
		}
		meta(payload)
	}
}

// known returns the ref of a defined series in this head, 0 if the head does not know it.
func (a *appender) known(d *definition) (ref uint32, lset *labels.Labels) {
	if d.head != a.head.id {
		d.head, d.ref = a.head.id, a.head.series.Find(d.lset)
	}
	return d.ref, &d.lset
}

// selfContained returns a record of version 2 as one of version 1, which means the same for ever: as a dead letter, it may be
// replayed when its definitions are long gone. Where that cannot be, it returns the record as it is.
func (p *partition) selfContained(tenant schema.Tenant, rec *log.Record, version byte) *log.Record {
	if version != schema.RecordV2 || p.columns.Parse(rec.Value) != nil {
		return rec
	}
	e, c := p.refs.of(tenant, p.columns.Epoch), &p.columns
	var value []byte
	whole := true
	add := func(ref uint32, f func(dst []byte) []byte) {
		d := e.get(ref, rec.Time)
		if d == nil {
			whole = false
			return
		}
		var lbls []schema.Label
		d.lset.Range(func(l labels.Label) { lbls = append(lbls, schema.Label{Name: []byte(l.Name), Value: []byte(l.Value)}) })
		value = schema.AppendTimeSeries(value, f(schema.AppendLabels(nil, lbls)))
	}
	var f schema.Float
	for {
		ok, err := c.NextFloat(&f)
		if err != nil {
			return rec
		}
		if !ok {
			break
		}
		add(f.Ref, func(dst []byte) []byte { return schema.AppendSample(dst, f.Time, f.Start, f.Value) })
	}
	for _, section := range []struct {
		next  func() (uint32, []byte, bool, error)
		write func(dst, payload []byte) []byte
	}{{c.NextHistogram, schema.AppendHistogram}, {c.NextExemplar, schema.AppendExemplar}} {
		for {
			ref, payload, ok, err := section.next()
			if err != nil {
				return rec
			}
			if !ok {
				break
			}
			add(ref, func(dst []byte) []byte { return section.write(dst, payload) })
		}
	}
	if metadataOf(c, func(payload []byte) { value = schema.AppendMetadata(value, payload) }) != nil || !whole || len(value) > log.MaxRecordBytes/2 {
		return rec
	}
	return &log.Record{
		Partition: rec.Partition, Offset: rec.Offset, Time: rec.Time, Key: rec.Key, Value: value,
		Headers: []log.Header{{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}},
	}
}

var errUnresolved = errors.New("unresolved refs")

func unresolved(n int) error {
	return fmt.Errorf("%d samples of series that nobody has defined within %s: %w", n, 2*schema.RefLife, errUnresolved)
}
