package consumer

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"reflect"
	"unsafe"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"sluice/internal/usage"
	"sluice/schema"
)

// head holds the samples of one tenant in one generation. Appends come from the goroutine that owns the partition;
// queries may come from any.
//
// It is a tsdb.Head without a WAL, whose out-of-order machinery is switched off: what that does with a late sample
// depends on how samples were grouped into appenders, and of two values for one time it keeps either. Here a sample that
// is newer than all others of its series goes into the tsdb.Head, and every other one into late, where the first in log
// order wins. So the outcome is a function of the log alone.
type head struct {
	tenant schema.Tenant
	tsdb   *tsdb.Head
	late   late

	id    uint32              // differs between all heads of a partition
	known map[labelKey]uint32 // raw label bytes of records of version 1, hashed → ref
	lastT []int64             // by ref of the tsdb.Head, which counts from 1: time of the newest sample, noSample before the first
	seeds [2]maphash.Seed

	series     int64              // with samples
	marked     []uint32           // by ref: the round of the tracker in which records of version 1 last brought the series
	capTold    bool               // that the cap was met
	hash       []byte             // scratch space
	windows    map[int64]struct{} // two-hour windows that hold samples: a block each
	lastWindow int64
	samples    uint64 // taken in, duplicates left out
}

// labelKey is a 128-bit hash of a series' label bytes, seeded per head: nobody can make two series meet on purpose, and
// by accident they do not.
type labelKey [2]uint64

// noSample is the newest time of a series without samples.
const noSample = math.MinInt64

const (
	// chunkRange of the tsdb.Head. It only serves to decide what is too old for a fresh series, and nothing is: so it
	// is far beyond any sample's time, yet small enough that sums with times do not overflow. Chunks are cut by their
	// number of samples; the writer of blocks splits the one that crosses a block's border.
	chunkRange = 1 << 60
	// stripes of the tsdb.Head's tables. One goroutine appends, so contention is no concern, but 5,000 small tenants are.
	stripes = 4
	// window is the length of a block of level 1.
	window = 2 * 60 * 60 * 1000
)

// newHead makes an empty head. dir is a folder that the tsdb.Head wants to see and never writes to: heads may share it.
func newHead(tenant schema.Tenant, dir string, id uint32) (*head, error) {
	opts := tsdb.DefaultHeadOptions()
	opts.ChunkDirRoot = dir
	opts.ChunkRange = chunkRange
	opts.StripeSize = stripes
	opts.ChunkWriteQueueSize = 0
	opts.IsolationDisabled = true // one appender at a time, and a query may see half a record: a strong read waits for the whole
	h, err := tsdb.NewHead(nil, promslog.NewNopLogger(), nil, nil, opts, nil)
	if err != nil {
		return nil, fmt.Errorf("create head of tenant %s: %w", tenant, err)
	}
	if err := h.Init(math.MinInt64); err != nil {
		return nil, fmt.Errorf("create head of tenant %s: %w", tenant, err)
	}
	if err := closeFolder(h); err != nil {
		return nil, fmt.Errorf("create head of tenant %s: %w", tenant, err)
	}
	return &head{
		tenant:     tenant,
		id:         id,
		tsdb:       h,
		known:      map[labelKey]uint32{},
		seeds:      [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		windows:    map[int64]struct{}{},
		lastWindow: math.MinInt64,
	}, nil
}

// closeFolder closes the folder that a tsdb.Head keeps open for chunks on disk. Ours has none: only tsdb.DB moves chunks
// there. But a file descriptor for each small tenant is one too many, and no exported method gives it back without
// closing the head for readers too. TestHeadsKeepNoFilesOpen tells when a new version needs another look.
func closeFolder(h *tsdb.Head) error {
	f := reflect.ValueOf(h).Elem().FieldByName("chunkDiskMapper")
	if !f.IsValid() || f.Type() != reflect.TypeFor[*chunks.ChunkDiskMapper]() {
		return nil
	}
	return (*(**chunks.ChunkDiskMapper)(f.Addr().UnsafePointer())).Close()
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
	storage.Appender
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

// appender begins to add a record. It must be closed, which adds what it was given whatever came in between: what stood
// before a fault in a record has been added, too. That is a function of the log, and costs no second pass over every record.
func (h *head) appender(ctx context.Context) *appender {
	return &appender{Appender: h.tsdb.Appender(ctx), head: h}
}

func (a *appender) close() error {
	a.head.late.add(a.late)
	if err := a.Commit(); err != nil {
		return fmt.Errorf("commit to head: %w", err)
	}
	return nil
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
		ref = a.find(lset)
	}
	a.mark(s, ref)
	for i := range s.Samples {
		smp := &s.Samples[i]
		ref = a.float(ref, &lset, s, smp.Time, smp.Value, t)
	}
	for _, payload := range s.Histograms {
		hist, fhist, ts, _, err := schema.DecodeHistogram(payload)
		if err != nil {
			return err
		}
		ref = a.histogram(ref, &lset, s, ts, hist, fhist, t)
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
// its labels; when they are empty, they are made of s where they are needed.
func (a *appender) float(ref uint32, lset *labels.Labels, s *schema.Series, ts int64, v float64, t *tally) uint32 {
	if a.head.older(ref, ts) {
		a.putLate(ref, lset, s, lateSample{t: ts, v: v}, t)
		return ref
	}
	if ref == 0 && a.full(*lset, t) {
		return 0
	}
	made, err := a.Append(storage.SeriesRef(ref), *lset, ts, v)
	if err != nil {
		t.refuse(err)
		return ref
	}
	a.newest(uint32(made), ts, t)
	t.floats++
	return uint32(made)
}

// histogram is float for a histogram of one of the two kinds.
func (a *appender) histogram(ref uint32, lset *labels.Labels, s *schema.Series, ts int64, hist *histogram.Histogram, fhist *histogram.FloatHistogram, t *tally) uint32 {
	if a.head.older(ref, ts) {
		a.putLate(ref, lset, s, lateSample{t: ts, h: hist, fh: fhist}, t)
		return ref
	}
	if ref == 0 && a.full(*lset, t) {
		return 0
	}
	made, err := a.AppendHistogram(storage.SeriesRef(ref), *lset, ts, hist, fhist)
	if err != nil {
		t.refuse(err)
		return ref
	}
	a.newest(uint32(made), ts, t)
	t.histograms++
	return uint32(made)
}

// key hashes the label bytes of a series.
func (h *head) key(raw []byte) labelKey {
	return labelKey{maphash.Bytes(h.seeds[0], raw), maphash.Bytes(h.seeds[1], raw)}
}

// older tells whether the series ref has a sample at ts or after it.
func (h *head) older(ref uint32, ts int64) bool {
	return int(ref) < len(h.lastT) && ts <= h.lastT[ref] && h.lastT[ref] != noSample
}

// newest notes the newest sample of a series, and the series itself if it is new.
func (a *appender) newest(ref uint32, ts int64, t *tally) {
	h := a.head
	for int(ref) >= len(h.lastT) {
		h.lastT = append(h.lastT, noSample)
	}
	if h.lastT[ref] == noSample {
		t.newSeries++
		h.series++
	}
	h.lastT[ref] = ts
	h.occupy(ts)
}

// putLate takes a sample that is not newer than the newest of its series: a duplicate, or late.
func (a *appender) putLate(ref uint32, lset *labels.Labels, s *schema.Series, smp lateSample, t *tally) {
	if smp.t == a.head.lastT[ref] {
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

// find returns the ref under which the head knows the labels, or 0.
func (a *appender) find(lset labels.Labels) uint32 {
	ref, _ := a.Appender.(storage.GetRef).GetRef(lset, lset.Hash())
	return uint32(ref)
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
	if w := floorDiv(t, window); w != h.lastWindow {
		h.windows[w] = struct{}{}
		h.lastWindow = w
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
	q, err := tsdb.NewBlockQuerier(tsdb.NewRangeHeadWithIsolationDisabled(h.tsdb, mint, maxt), mint, maxt)
	if err != nil {
		return nil, fmt.Errorf("query head of tenant %s: %w", h.tenant, err)
	}
	if h.late.empty() {
		return q, nil
	}
	return &lateQuerier{Querier: q, late: &h.late, mint: mint, maxt: maxt}, nil
}
