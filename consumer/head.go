package consumer

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"unsafe"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"sluice/consumer/store"
	"sluice/internal/usage"
	"sluice/schema"
)

// head holds the samples of one tenant in one generation. Appends come from the goroutine that owns the partition;
// queries may come from any.
//
// A sample that is newer than all others of its series goes into series, and every other one into late, where the first in
// log order wins. So the outcome is a function of the log alone.
type head struct {
	tenant schema.Tenant
	series *store.Head
	late   late

	id    uint32              // differs between all heads of a partition
	known map[labelKey]uint32 // raw label bytes of records of version 1, hashed → ref
	seeds [2]maphash.Seed

	marked  []uint32 // by ref: the round of the tracker in which records of version 1 last brought the series
	capTold bool     // that the cap was met
	hash    []byte   // scratch space

	windows   map[int64]struct{} // two-hour windows that hold samples: a block each
	windowEnd int64              // of the window of the last sample
	samples   uint64             // taken in, duplicates left out
}

// labelKey is a 128-bit hash of a series' label bytes, seeded per head: nobody can make two series meet on purpose, and
// by accident they do not.
type labelKey [2]uint64

// window is the length of a block of level 1, ms.
const window = 2 * 60 * 60 * 1000

// newHead makes an empty head.
func newHead(tenant schema.Tenant, id uint32) *head {
	return &head{
		tenant:    tenant,
		id:        id,
		series:    store.New(window),
		known:     map[labelKey]uint32{},
		seeds:     [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		windows:   map[int64]struct{}{},
		windowEnd: math.MinInt64 + window,
	}
}

// tally counts what became of the samples of a record.
type tally struct {
	floats, histograms int
	duplicates         int // a time that has a value already; those among late samples show when the head is sealed
	late               int // of floats + histograms, those older than another sample of their series
	newSeries          int
	unresolved         int   // of refs that nothing has defined
	unapplied          int   // refused by the head; the producer should have refused them
	capped             int   // of new series above the cap
	err                error // why, the first of them
}

// exemplarSink takes the exemplars of a series.
type exemplarSink func(lset labels.Labels, e exemplar.Exemplar)

// appender adds the series of one record to a head.
type appender struct {
	head    *head
	builder labels.ScratchBuilder
	late    []lateOne

	cap   int64          // no new series beyond this many; 0 = no cap
	usage *usage.Tracker // may be nil
}

type lateOne struct {
	ref    uint32
	lset   labels.Labels // empty when late has the series already
	sample lateSample
}

// appender begins to add a record. It must be closed, which shows readers what it was given whatever came in between: what
// stood before a fault in a record has been added, too. That is a function of the log, and costs no second pass over every record.
func (h *head) appender() *appender {
	h.series.Begin()
	return &appender{head: h}
}

func (a *appender) close() {
	a.head.series.End()
	a.head.late.add(a.late)
}

// apply adds the series of a record value of version 1.
func (a *appender) apply(value []byte, scratch *schema.Series, t *tally, into sinks) error {
	for rest := value; ; {
		f, next, err := schema.NextField(rest)
		if err != nil || f.Raw == nil {
			return err
		}
		rest = next
		if f.Meta {
			into.meta(f.Payload)
			continue
		}
		if err := scratch.Cut(f.Payload); err != nil {
			return err
		}
		if err := a.add(scratch, t, into.exemplars); err != nil {
			return err
		}
	}
}

// add appends the samples of one series of a record of version 1.
func (a *appender) add(s *schema.Series, t *tally, exemplars exemplarSink) error {
	h := a.head
	key := h.key(s.LabelBytes)
	ref, known := h.known[key]
	var lset labels.Labels
	if !known {
		switch err := s.ParseLabels(); {
		case err != nil:
			return err
		case len(s.Labels) == 0:
			return errors.New("series without labels")
		}
		// It may be known under other bytes: protobuf leaves an encoder some freedom, and a record of version 2 has refs.
		lset = a.labels(s)
		ref = h.series.Find(lset)
	}
	a.mark(s, ref)
	for i := range s.Samples {
		smp := &s.Samples[i]
		ref = a.float(ref, &lset, s, smp.Start, smp.Time, smp.Value, t)
	}
	for _, payload := range s.Histograms {
		hist, fhist, ts, st, err := schema.DecodeHistogram(payload)
		if err != nil {
			return err
		}
		ref = a.histogram(ref, &lset, s, st, ts, hist, fhist, t)
	}
	if !known && ref != 0 {
		h.known[key] = ref
	}
	if len(s.Exemplars) == 0 {
		return nil
	}
	if lset.IsEmpty() {
		lset = a.labels(s)
	}
	for _, payload := range s.Exemplars {
		e, err := schema.DecodeExemplar(payload)
		if err != nil {
			return err
		}
		exemplars(lset, e)
	}
	return nil
}

// float appends a sample to the series ref, 0 = one that the head does not know yet, and returns the series' ref. lset are
// its labels; when they are empty, they are made of s where they are needed. st is the sample's start timestamp, 0 = none.
func (a *appender) float(ref uint32, lset *labels.Labels, s *schema.Series, st, ts int64, v float64, t *tally) uint32 {
	h := a.head
	if ref == 0 {
		if ref = a.make(lset, t); ref == 0 {
			return 0
		}
	}
	if newest := h.series.Newest(ref); ts <= newest && newest != store.NoSample {
		a.putLate(ref, newest, lset, s, lateSample{st: st, t: ts, v: v}, t)
		return ref
	}
	if err := h.series.Float(ref, st, ts, v); err != nil {
		t.refuse(err)
		return ref
	}
	h.occupy(ts)
	t.floats++
	return ref
}

// histogram is float for a histogram of one of the two kinds.
func (a *appender) histogram(ref uint32, lset *labels.Labels, s *schema.Series, st, ts int64, hist *histogram.Histogram, fhist *histogram.FloatHistogram, t *tally) uint32 {
	h := a.head
	if ref == 0 {
		if ref = a.make(lset, t); ref == 0 {
			return 0
		}
	}
	if newest := h.series.Newest(ref); ts <= newest && newest != store.NoSample {
		a.putLate(ref, newest, lset, s, lateSample{st: st, t: ts, h: hist, fh: fhist}, t)
		return ref
	}
	if err := h.series.Histogram(ref, st, ts, hist, fhist); err != nil {
		t.refuse(err)
		return ref
	}
	h.occupy(ts)
	t.histograms++
	return ref
}

// make returns the ref of a series that the head does not know by these labels, which are put right first if a foreign
// producer has sent what none of ours does; 0 if they cannot be.
func (a *appender) make(lset *labels.Labels, t *tally) uint32 {
	if !canonical(*lset) {
		*lset = labels.New(slices.DeleteFunc(all(*lset), func(l labels.Label) bool { return l.Value == "" })...)
		if name, twice := lset.HasDuplicateLabelNames(); twice || lset.IsEmpty() {
			t.refuse(fmt.Errorf("labels %s: empty, or %q is there twice", *lset, name))
			return 0
		}
		if ref := a.head.series.Find(*lset); ref != 0 {
			return ref
		}
	}
	if a.full(*lset, t) {
		return 0
	}
	t.newSeries++
	return a.head.series.Add(*lset)
}

// canonical tells whether labels are sorted, each once and none empty.
func canonical(lset labels.Labels) bool {
	last, good := "", !lset.IsEmpty()
	lset.Range(func(l labels.Label) {
		good = good && l.Name > last && l.Value != ""
		last = l.Name
	})
	return good
}

func all(lset labels.Labels) (out []labels.Label) {
	lset.Range(func(l labels.Label) { out = append(out, l) })
	return out
}

// key hashes the label bytes of a series.
func (h *head) key(raw []byte) labelKey {
	return labelKey{maphash.Bytes(h.seeds[0], raw), maphash.Bytes(h.seeds[1], raw)}
}

// putLate takes a sample that is not newer than the newest of its series: a duplicate, or late.
func (a *appender) putLate(ref uint32, newest int64, lset *labels.Labels, s *schema.Series, smp lateSample, t *tally) {
	if smp.t == newest {
		t.duplicates++ // the same value, or another: the first in log order wins
		return
	}
	one := lateOne{ref: ref, sample: smp}
	if !a.head.late.has(ref) {
		if lset.IsEmpty() {
			*lset = a.labels(s)
		}
		one.lset = *lset
	}
	a.late = append(a.late, one)
	if smp.h != nil || smp.fh != nil {
		t.histograms++
	} else {
		t.floats++
	}
	t.late++
	a.head.occupy(smp.t)
}

// labels makes the labels of s. They are copied: the builder packs them into one string.
func (a *appender) labels(s *schema.Series) labels.Labels {
	_ = s.ParseLabels() // without an error: the bytes of a known series were parsed when it was new
	a.builder.Reset()
	for _, l := range s.Labels {
		a.builder.Add(alias(l.Name), alias(l.Value))
	}
	return a.builder.Labels()
}

// alias is b as a string without a copy; only for strings that do not outlive b.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// occupy notes the block that a sample at t will be in.
func (h *head) occupy(t int64) {
	h.samples++
	if t >= h.windowEnd || t < h.windowEnd-window {
		w := floorDiv(t, window)
		h.windows[w] = struct{}{}
		h.windowEnd = (w + 1) * window
	}
}

func (t *tally) refuse(err error) {
	t.unapplied++
	if t.err == nil {
		t.err = err
	}
}

// querier opens the samples in [mint, maxt].
func (h *head) querier(mint, maxt int64) (storage.Querier, error) {
	q := h.series.Querier(mint, maxt)
	if h.late.empty() {
		return q, nil
	}
	return &lateQuerier{Querier: q, late: &h.late, mint: mint, maxt: maxt}, nil
}
