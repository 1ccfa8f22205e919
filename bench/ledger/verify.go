package ledger

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"golang.org/x/sync/errgroup"
)

// Verifier compares what a system returns with what the ledger says.
type Verifier struct {
	Ledger   *Ledger
	Target   Target
	Paths    []Path        // nil = all
	Slice    int64         // ticks read at once; 0 = 1000: bounds memory
	Patience time.Duration // how long a failing read is tried again; 0 = once
	Parallel int           // reads at once; 0 = 2
	Floor    *Floor        // what the target has returned must be returned again; nil = not looked at
	Eventual bool          // nothing is owed but what Floor has seen: the target may lag behind the writers
}

// Verify reads every tenant back through every path. The error says that the verdict could not be reached; a wrong
// answer is no error but stands in the report.
func (v *Verifier) Verify(ctx context.Context) (Report, error) {
	paths := v.Paths
	if paths == nil {
		paths = []Path{PathChunks, PathSamples, PathPromQL, PathSeries}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, v.Parallel))
	reports := make(chan Report, 1)
	merged := make(chan Report)
	go func() {
		rep := Report{Seed: v.Ledger.Spec.Seed}
		for r := range reports {
			rep.Merge(r)
		}
		merged <- rep
	}()
	for _, path := range paths {
		for tenant := range v.Ledger.Spec.Tenants {
			if path == PathSeries || path == PathPromQL {
				g.Go(func() error {
					rep, err := v.tenant(ctx, path, tenant)
					reports <- rep
					return err
				})
			}
			for block := range v.Ledger.Spec.Tenants[tenant].Blocks() {
				if path == PathSeries {
					continue
				}
				g.Go(func() error {
					rep, err := v.Block(ctx, path, tenant, block)
					reports <- rep
					return err
				})
			}
		}
	}
	err := g.Wait()
	close(reports)
	return <-merged, err
}

// patiently runs f until it succeeds or patience is at its end.
func (v *Verifier) patiently(ctx context.Context, f func() error) error {
	end := time.Now().Add(v.Patience)
	for {
		err := f()
		if err == nil || ctx.Err() != nil || time.Now().After(end) {
			return err
		}
		var se *statusError
		if errors.As(err, &se) && se.status/100 == 4 && se.status != 429 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// around is how far before the first and behind the last sample the verifier looks for samples that nobody sent.
const around = int64(3600_000)

// Block verifies one block of slots of a tenant through one path, against what was acked when it was called. It may run
// while writers write: then the target must answer strong reads.
func (v *Verifier) Block(ctx context.Context, path Path, tenant, block int) (Report, error) {
	spec := &v.Ledger.Spec
	t := &spec.Tenants[tenant]
	total := Report{Seed: spec.Seed}
	var acked []Request
	if !v.Eventual {
		acked = v.Ledger.acked(tenant, block)
	}
	var floor map[int]map[int64]uint64
	if v.Floor != nil {
		floor = v.Floor.ticksOf(tenant, block)
	}
	front := v.Ledger.front(tenant, block)
	var read []*blockCheck
	step := v.Slice
	if step == 0 {
		step = 1000
	}
	for from := int64(0); from < front || from == 0; from += step {
		to := min(from+step, max(front, 1))
		sel := selector{
			tenant: t.Name, run: spec.Run(), block: BlockName(block),
			from: t.Start + from*t.stepMs(), to: t.Start + to*t.stepMs() - 1,
		}
		if from == 0 {
			sel.from -= around
		}
		if to >= front {
			sel.to += around
		}
		var c *blockCheck
		err := v.patiently(ctx, func() error { // a read that failed half-way counts for nothing
			c = &blockCheck{l: v.Ledger, path: path, sel: sel, tenant: tenant, seen: map[int][]uint64{}, from: from, ticks: to - from}
			switch path {
			case PathChunks:
				return v.Target.readChunks(ctx, sel, c)
			case PathSamples:
				return v.Target.readSamples(ctx, sel, c)
			}
			return v.Target.readPromQL(ctx, sel, c)
		})
		if err != nil {
			return total, fmt.Errorf("read %s of tenant %s, %s, ticks [%d, %d): %w", path, t.Name, BlockName(block), from, to, err)
		}
		c.lost(acked)
		c.vanished(floor)
		total.Merge(c.rep)
		read = append(read, c)
	}
	if v.Floor != nil {
		v.Floor.raise(tenant, block, read)
	}
	return total, nil
}

// blockCheck judges the samples of one read.
type blockCheck struct {
	l      *Ledger
	path   Path
	sel    selector
	tenant int
	from   int64 // first tick
	ticks  int64
	seen   map[int][]uint64 // by series, a bit for each tick
	rep    Report
}

// series implements sink.
func (c *blockCheck) series(lbls []Label) func(int64, Value) {
	spec := &c.l.Spec
	series, class := c.identify(lbls)
	if class != "" {
		return func(ms int64, v Value) {
			c.rep.Returned++
			c.wrong(class, series, 0, ms, 0, fmt.Sprintf("labels %v", lbls))
		}
	}
	slot, _ := spec.Tenants[c.tenant].SlotOf(series)
	seen := c.seen[series]
	if seen == nil {
		seen = make([]uint64, (c.ticks+63)/64)
		c.seen[series] = seen
	}
	return func(ms int64, v Value) { c.sample(series, slot, seen, ms, v) }
}

// identify returns the number of the series with these labels, and what is wrong with them.
func (c *blockCheck) identify(lbls []Label) (int, Class) {
	spec := &c.l.Spec
	series := -1
	for _, l := range lbls {
		if l.Name == LabelTenant && l.Value != spec.Tenants[c.tenant].Name {
			return -1, Foreign
		}
		if l.Name == LabelSeries {
			if n, err := strconv.Atoi(l.Value); err == nil {
				series = n
			}
		}
	}
	if _, ok := spec.Tenants[c.tenant].SlotOf(series); !ok || !slices.Equal(lbls, spec.Labels(c.tenant, series)) {
		return series, Invented
	}
	return series, ""
}

func (c *blockCheck) sample(series, slot int, seen []uint64, ms int64, got Value) {
	spec := &c.l.Spec
	t := &spec.Tenants[c.tenant]
	if ms < c.sel.from || ms > c.sel.to { // judged by the read that asks for it
		return
	}
	c.rep.Returned++
	tick, ok := t.TickOf(series, ms)
	if !ok || t.SeriesAt(slot, tick) != series {
		c.stray(Invented, series, tick, ms, 0, got, "no sample has this time")
		return
	}
	e, ok := c.l.find(c.tenant, slot, tick)
	switch {
	case !ok:
		c.stray(Invented, series, tick, ms, 0, got, "never sent")
		return
	case e.outcome == Rejected:
		c.stray(Invented, series, tick, ms, e.ID, got, "refused when it was sent")
		return
	case e.outcome == Unknown:
		c.rep.Unknown++
	}
	if want := spec.ValueAt(c.tenant, slot, tick); !same(c.path, want, got) {
		c.stray(Altered, series, tick, ms, e.ID, got, "want "+want.String())
	}
	i := tick - c.from
	if i < 0 || i >= c.ticks { // meant to be sent only after the read began: neither owed nor wrong
		return
	}
	if seen[i/64]>>(i%64)&1 == 1 {
		c.wrong(Duplicated, series, tick, ms, e.ID, "")
	}
	seen[i/64] |= 1 << (i % 64)
}

// stray counts a sample as wrong; as foreign when its value names another tenant.
func (c *blockCheck) stray(class Class, series int, tick, ms int64, id uint64, got Value, detail string) {
	number := got.Float
	switch {
	case got.Int != nil:
		number = got.Int.Sum
	case got.Flt != nil:
		number = got.Flt.Sum
	}
	if owner, s, seq, ok := c.l.Spec.Owner(number); ok && owner != c.tenant && c.l.owns(owner, s, seq) {
		class, detail = Foreign, fmt.Sprintf("value names tenant %s series %d seq %d", c.l.Spec.Tenants[owner].Name, s, seq)
	}
	c.wrong(class, series, tick, ms, id, "got "+got.String()+", "+detail)
}

// owns says whether somebody meant to send that sample.
func (l *Ledger) owns(tenant, series int, tick int64) bool {
	slot, ok := l.Spec.Tenants[tenant].SlotOf(series)
	if !ok {
		return false
	}
	_, ok = l.find(tenant, slot, tick)
	return ok
}

func (c *blockCheck) wrong(class Class, series int, tick, ms int64, id uint64, detail string) {
	c.rep.add(Anomaly{
		Class: class, Path: c.path, Tenant: c.l.Spec.Tenants[c.tenant].Name,
		Series: series, Tick: tick, Time: ms, Request: id, Detail: detail,
	})
}

// lost looks for the samples that were acked and did not come.
func (c *blockCheck) lost(acked []Request) {
	spec := &c.l.Spec
	t := &spec.Tenants[c.tenant]
	for _, r := range acked {
		r.From, r.To = max(r.From, c.from), min(r.To, c.from+c.ticks)
		if r.From >= r.To {
			continue
		}
		spec.samples(r, func(o one) {
			seen := c.seen[o.series]
			for i, tick := range o.ticks {
				if c.path == PathPromQL && o.values[i].IsStale() {
					continue
				}
				c.rep.Samples++
				if at := tick - c.from; seen == nil || seen[at/64]>>(at%64)&1 == 0 {
					c.wrong(Lost, o.series, tick, t.TimeOf(o.series, tick), r.ID, "want "+o.values[i].String())
				}
			}
		})
	}
}

// tenant verifies what is asked once per tenant: the list of series, and the count of samples.
func (v *Verifier) tenant(ctx context.Context, path Path, tenant int) (Report, error) {
	spec := &v.Ledger.Spec
	t := &spec.Tenants[tenant]
	rep := Report{Seed: spec.Seed}
	var front, least, most int64
	must, may := map[int]bool{}, map[int]bool{}
	for block := range t.Blocks() {
		front = max(front, v.Ledger.front(tenant, block))
		v.Ledger.each(tenant, block, func(e entry) {
			if e.outcome == Rejected {
				return
			}
			spec.samples(e.Request, func(o one) {
				may[o.series] = true
				must[o.series] = must[o.series] || e.outcome == Acked
				for _, val := range o.values {
					if !val.IsStale() {
						most++
						if e.outcome == Acked {
							least++
						}
					}
				}
			})
		})
	}
	sel := selector{tenant: t.Name, run: spec.Run(), from: t.Start - around, to: t.Start + (front+1)*t.stepMs() + around}
	wrong := func(class Class, series int, detail string) {
		rep.add(Anomaly{Class: class, Path: path, Tenant: t.Name, Series: series, Detail: detail})
	}
	if path == PathPromQL {
		var n int64
		err := v.patiently(ctx, func() (err error) { n, err = v.Target.count(ctx, sel); return err })
		switch {
		case err != nil:
			return rep, fmt.Errorf("count samples of tenant %s: %w", t.Name, err)
		case n < least:
			wrong(Lost, 0, fmt.Sprintf("count_over_time finds %d samples, acked %d", n, least))
		case n > most:
			wrong(Duplicated, 0, fmt.Sprintf("count_over_time finds %d samples, sent %d", n, most))
		}
		return rep, nil
	}
	var all [][]Label
	if err := v.patiently(ctx, func() (err error) { all, err = v.Target.seriesOf(ctx, sel); return err }); err != nil {
		return rep, fmt.Errorf("list series of tenant %s: %w", t.Name, err)
	}
	c := &blockCheck{l: v.Ledger, path: path, tenant: tenant}
	for _, lbls := range all {
		series, class := c.identify(lbls)
		switch {
		case class != "":
			wrong(class, series, fmt.Sprintf("labels %v", lbls))
		case !may[series]:
			wrong(Invented, series, "no sample of it was sent")
		default:
			if may[series] = false; must[series] {
				rep.Samples++
			}
			delete(must, series)
		}
	}
	for series, acked := range must {
		if acked {
			wrong(Lost, series, "the series is not listed")
		}
	}
	return rep, nil
}

// each calls f for every request of a block.
func (l *Ledger) each(tenant, block int, f func(entry)) {
	l.mu.RLock()
	var es []entry
	for _, late := range []bool{false, true} {
		for _, e := range l.places[place{tenant, block, late}] {
			es = append(es, *e)
		}
	}
	l.mu.RUnlock()
	for _, e := range es {
		f(e)
	}
}

// same compares a value with the one that was sent: bit by bit where the path carries all bits.
func same(path Path, want, got Value) bool {
	if path == PathPromQL {
		switch {
		case want.Int != nil:
			return got.Flt != nil && got.Flt.Count == float64(want.Int.Count) && got.Flt.Sum == want.Int.Sum
		case want.Flt != nil:
			return got.Flt != nil && got.Flt.Count == want.Flt.Count && got.Flt.Sum == want.Flt.Sum
		case got.IsHistogram():
			return false
		}
		return math.Float64bits(want.Float) == math.Float64bits(got.Float) || math.IsNaN(want.Float) && math.IsNaN(got.Float) && !want.IsStale()
	}
	if (want.Int != nil) != (got.Int != nil) || (want.Flt != nil) != (got.Flt != nil) {
		return false
	}
	switch {
	case want.Int != nil:
		w, g := want.Int, got.Int
		if want.IsStale() || got.IsStale() {
			return want.IsStale() && got.IsStale()
		}
		return w.Schema == g.Schema && w.Count == g.Count && w.ZeroCount == g.ZeroCount &&
			sameBits(w.ZeroThreshold, g.ZeroThreshold) && sameBits(w.Sum, g.Sum) &&
			slices.Equal(buckets(w.PositiveBucketIterator()), buckets(g.PositiveBucketIterator())) &&
			slices.Equal(buckets(w.NegativeBucketIterator()), buckets(g.NegativeBucketIterator()))
	case want.Flt != nil:
		w, g := want.Flt, got.Flt
		if want.IsStale() || got.IsStale() {
			return want.IsStale() && got.IsStale()
		}
		return w.Schema == g.Schema && sameBits(w.Count, g.Count) && sameBits(w.ZeroCount, g.ZeroCount) &&
			sameBits(w.ZeroThreshold, g.ZeroThreshold) && sameBits(w.Sum, g.Sum) &&
			slices.Equal(buckets(w.PositiveBucketIterator()), buckets(g.PositiveBucketIterator())) &&
			slices.Equal(buckets(w.NegativeBucketIterator()), buckets(g.NegativeBucketIterator()))
	}
	if path == PathSamples && want.Float == 0 { // generated protobuf code turns -0 into 0
		return got.Float == 0
	}
	return sameBits(want.Float, got.Float)
}

func sameBits(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }

type bucket struct {
	index int32
	count float64
}

// buckets lists the buckets that are not empty: a store may add empty ones, to share a layout among samples.
func buckets[C histogram.BucketCount](it histogram.BucketIterator[C]) []bucket {
	var out []bucket
	for it.Next() {
		if b := it.At(); b.Count != 0 {
			out = append(out, bucket{b.Index, float64(b.Count)})
		}
	}
	return out
}

// String shows a value with all its bits.
func (v Value) String() string {
	switch {
	case v.IsStale():
		return "stale marker"
	case v.Int != nil:
		return v.Int.String()
	case v.Flt != nil:
		return v.Flt.String()
	}
	return fmt.Sprintf("%v (%#x)", v.Float, math.Float64bits(v.Float))
}

func sortLabels(m map[string]string) []Label {
	out := make([]Label, 0, len(m))
	for k, v := range m {
		out = append(out, Label{k, v})
	}
	slices.SortFunc(out, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	return out
}
