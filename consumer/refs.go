package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"sluice/internal/log"
	"sluice/internal/usage"
	"sluice/schema"
)

// refs is what the records of version 2 of a partition have defined: what each ref of each epoch stands for. It belongs to
// the goroutine of the partition, outlives generations, and holds nothing that is older than refMemory.
type refs struct {
	epochs  map[uint64]*epoch
	builder labels.ScratchBuilder
	scratch labels.Labels
	cleared int64 // log time at which old definitions were last looked for, ms
	known   int   // definitions held

	usage *usage.Tracker // told of every definition; may be nil
	hash  []byte         // scratch space
}

// epoch holds the definitions of one producer for one tenant. They come in pages, so that those of series that are gone
// can be given back although refs only grow.
type epoch struct {
	tenant schema.Tenant
	pages  []*page
}

const pageRefs = 256

type page struct {
	defs [pageRefs]definition
	used int // definitions that are held
}

// definition is a series, and where the last head that it was appended to knows it.
type definition struct {
	lset labels.Labels // empty = not defined; shares its memory with the head
	at   int64         // log time of the definition, ms
	head uint32        // id of that head, 0 = none
	ref  uint32        // of the series in it
}

// refMemory is how long a definition holds, in ms of log time. Twice of what producers count on, so that no delay between
// them and the log matters; and exactly this for everybody, so that it does not matter either where one began to read.
const refMemory = int64(2 * schema.RefLife / time.Millisecond)

func newRefs() refs { return refs{epochs: map[uint64]*epoch{}} }

var errOtherTenant = errors.New("the epoch is another tenant's")

// define takes the definitions of a record over.
func (r *refs) define(tenant schema.Tenant, c *schema.Columns, logTime int64, scratch *schema.Series) error {
	e := r.epochs[c.Epoch]
	for {
		ref, raw, ok, err := c.NextDefinition()
		if err != nil || !ok {
			return err
		}
		if err := scratch.Parse(raw); err != nil { // a TimeSeries of labels only
			return fmt.Errorf("definition of ref %d: %w", ref, err)
		}
		if len(scratch.Labels) == 0 {
			return fmt.Errorf("definition of ref %d: no labels", ref)
		}
		if e == nil {
			e = &epoch{tenant: tenant}
			r.epochs[c.Epoch] = e
		}
		if e.tenant != tenant {
			return errOtherTenant
		}
		r.hash = markSeries(r.usage, tenant, scratch.Labels, r.hash)
		d := e.slot(ref)
		r.builder.Reset()
		for _, l := range scratch.Labels {
			r.builder.Add(alias(l.Name), alias(l.Value))
		}
		r.builder.Overwrite(&r.scratch)
		if d.lset.IsEmpty() {
			e.pages[ref/pageRefs].used++
			r.known++
		}
		if !labels.Equal(d.lset, r.scratch) {
			*d = definition{lset: r.scratch.Copy()}
		}
		d.at = logTime
	}
}

func (e *epoch) slot(ref uint32) *definition {
	for int(ref/pageRefs) >= len(e.pages) {
		e.pages = append(e.pages, nil)
	}
	p := &e.pages[ref/pageRefs]
	if *p == nil {
		*p = &page{}
	}
	return &(*p).defs[ref%pageRefs]
}

// of returns the definitions that a record of the tenant may use; nil if there are none.
func (r *refs) of(tenant schema.Tenant, id uint64) *epoch {
	if e := r.epochs[id]; e != nil && e.tenant == tenant {
		return e
	}
	return nil
}

// get returns the definition of ref, or nil if there is none that holds at logTime.
func (e *epoch) get(ref uint32, logTime int64) *definition {
	if e == nil || int(ref/pageRefs) >= len(e.pages) || e.pages[ref/pageRefs] == nil {
		return nil
	}
	d := &e.pages[ref/pageRefs].defs[ref%pageRefs]
	if d.lset.IsEmpty() || logTime-d.at > refMemory {
		return nil
	}
	return d
}

// forget gives back what does not hold any more, now and then. It looks at nothing when the time has leapt: a single record
// from the future must not cost what those after it, in the present, still use.
func (r *refs) forget(logTime int64) {
	passed := logTime - r.cleared
	if passed >= 0 && passed < refMemory/4 {
		return
	}
	r.cleared = logTime
	if passed < 0 || passed > refMemory {
		return
	}
	for id, e := range r.epochs {
		left := 0
		for i, p := range e.pages {
			if p == nil {
				continue
			}
			for j := range p.defs {
				if d := &p.defs[j]; !d.lset.IsEmpty() && logTime-d.at > refMemory {
					*d = definition{}
					p.used--
					r.known--
				}
			}
			if left += p.used; p.used == 0 {
				e.pages[i] = nil
			}
		}
		if left == 0 {
			delete(r.epochs, id)
		}
	}
}

// lookBackSlack is how much further back than refMemory is read: the clocks of brokers that lead a partition one after the
// other differ.
const lookBackSlack = time.Minute

// lookBack reads the definitions, and nothing else, that a record at the offset to or after it may use. logTime is the
// greatest log time of what is before it, ms, 0 = not known. A single record with a time from the future, which a broker
// with a wrong clock lets through, raises it for good: so the record at the offset and our own clock have a say in how
// far back is far enough, and the earliest of the three decides. Reading too much costs time only.
func (p *partition) lookBack(ctx context.Context, to, logTime int64) (err error) {
	p.refs = newRefs()
	p.refs.usage = p.usage
	p.usage.Reset()
	at, err := p.timeAt(ctx, to)
	if err != nil {
		return err
	}
	if at > 0 && (logTime == 0 || at < logTime) {
		logTime = at
	}
	logTime = min(logTime, time.Now().UnixMilli())
	bounds, err := p.log.Bounds(ctx, log.TopicSamples, p.id)
	if err != nil {
		return fmt.Errorf("read bounds of partition %d: %w", p.id, err)
	}
	from := bounds.Start
	if logTime > 0 {
		oldest := time.UnixMilli(logTime - refMemory).Add(-lookBackSlack)
		if from, err = p.log.OffsetAt(ctx, log.TopicSamples, p.id, oldest); err != nil {
			return fmt.Errorf("find where definitions begin: %w", err)
		}
	}
	if from >= to {
		return nil
	}
	began := time.Now()
	reader, err := p.log.Reader(log.TopicSamples, p.id, from)
	if err != nil {
		return fmt.Errorf("open partition %d: %w", p.id, err)
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	for reader.Position() < to { // its last offsets may hold no record
		recs, err := reader.Next(ctx)
		if err != nil {
			return fmt.Errorf("read definitions of partition %d: %w", p.id, err)
		}
		for i := range recs {
			if recs[i].Offset < to {
				p.onlyDefinitions(&recs[i])
			}
		}
	}
	p.logger.Info("definitions read", "from", from, "to", to, "known", p.refs.known, "took", time.Since(began))
	return nil
}

// timeAt returns the log time of the first record at or after the offset, ms; 0 if there is none yet.
func (p *partition) timeAt(ctx context.Context, offset int64) (_ int64, err error) {
	bounds, err := p.log.Bounds(ctx, log.TopicSamples, p.id)
	if err != nil {
		return 0, fmt.Errorf("read bounds of partition %d: %w", p.id, err)
	}
	if offset >= bounds.End {
		return 0, nil
	}
	reader, err := p.log.Reader(log.TopicSamples, p.id, offset)
	if err != nil {
		return 0, fmt.Errorf("open partition %d: %w", p.id, err)
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	recs, err := reader.Next(ctx)
	if err != nil {
		return 0, fmt.Errorf("read partition %d: %w", p.id, err)
	}
	return recs[0].Time, nil
}

// onlyDefinitions takes the definitions of a record, and counts its series. What is wrong with it was told when it was applied.
func (p *partition) onlyDefinitions(rec *log.Record) {
	p.usage.Tick(rec.Time)
	version, _ := rec.Header(schema.HeaderVersion)
	kind, _ := rec.Header(schema.HeaderKind)
	tenant, err := schema.ParseTenant(string(rec.Key))
	if len(version) != 1 || len(kind) > 0 || err != nil {
		return
	}
	if _, err := p.limitOf(rec, tenant); err != nil {
		return
	}
	switch version[0] {
	case schema.RecordV1:
		p.countV1(tenant, rec.Value)
	case schema.RecordV2:
		if p.columns.Parse(rec.Value) == nil {
			_ = p.refs.define(tenant, &p.columns, rec.Time, &p.scratch)
		}
	}
}
