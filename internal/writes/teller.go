package writes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"sluice/internal/log"
	"sluice/schema"
)

// Source is what a producer knows.
type Source interface {
	// Written returns what was written for each tenant since it is known here. Numbers that become smaller have begun anew.
	Written() map[schema.Tenant]Counts
	// Rejected returns what was refused of each tenant, the latest first.
	Rejected() map[schema.Tenant][]Reject
}

const (
	// interval is Config.Interval's default, and patience how long a change that is not notable waits.
	interval = 10 * time.Second
	patience = time.Minute
	// window is what a rate is taken over, and leastWindow the least that the samples of a tenant who has just come are spread over.
	window      = time.Minute
	leastWindow = interval

	maxTenants = 5000
	maxRecords = 1000 // of a round

	sweepEvery    = 10 * time.Minute
	appendTimeout = 5 * time.Second
)

// Config of a Teller.
type Config struct {
	Instance string        // name of this process, of which no two run at one time
	Interval time.Duration // between two looks at what there is to tell; default 10 s
}

// Validate fills in the default and refuses what cannot be meant.
func (c *Config) Validate() error {
	if c.Instance == "" {
		return errors.New("teller of writes: no instance name")
	}
	if c.Interval == 0 {
		c.Interval = interval
	}
	if c.Interval < 0 {
		return fmt.Errorf("teller of writes: interval is %s, must not be negative", c.Interval)
	}
	return nil
}

// Teller says in the control topic what a producer knows of its tenants.
type Teller struct {
	cfg    Config
	log    log.Log
	source Source
	table  *Table
	logger *slog.Logger
	now    func() time.Time

	// Of the goroutine of Run.
	run     uint32
	looked  time.Time // when the last round was
	tenants map[schema.Tenant]*tenantWrites
}

// tenantWrites is what was seen of a tenant, and told.
type tenantWrites struct {
	seen []reading // of the last window, the oldest first

	rates     Rates // told; all zero = there is no record
	ratesAt   time.Time
	rejects   map[schema.ErrorID]int64 // counts told; nil = there is no record
	rejectsAt time.Time
}

type reading struct {
	at time.Time
	Counts
}

// NewTeller makes a Teller for the producer of this process. The table, which somebody runs, tells it what dead producers have left behind.
func NewTeller(cfg Config, l log.Log, source Source, table *Table, logger *slog.Logger) (*Teller, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Teller{
		cfg: cfg, log: l, source: source, table: table, logger: logger, now: time.Now,
		run: rand.Uint32(), tenants: map[schema.Tenant]*tenantWrites{},
	}, nil
}

// Run tells what has changed every Config.Interval until ctx ends, and then takes everything back. What cannot be told is logged
// and told again.
func (t *Teller) Run(ctx context.Context) error {
	look := time.NewTicker(t.cfg.Interval)
	defer look.Stop()
	sweep := time.NewTicker(sweepEvery + rand.N(sweepEvery/2)) // mostly, one of them does it
	defer sweep.Stop()
	t.looked = t.now()
	for {
		t.tell(ctx)
		select {
		case <-ctx.Done():
			t.withdraw(context.WithoutCancel(ctx))
			return ctx.Err()
		case <-look.C:
		case <-sweep.C:
			t.sweep(ctx)
		}
	}
}

func (t *Teller) tell(ctx context.Context) {
	if err := t.append(ctx, t.round(t.now())); err != nil && ctx.Err() == nil {
		t.logger.Warn("what is written is not told, trying again", "err", err)
		t.failed()
	}
}

func (t *Teller) append(ctx context.Context, recs []log.Record) error {
	if len(recs) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	return t.log.Append(ctx, log.TopicControl, recs)
}

// failed makes the next rounds tell everything again: nobody knows how much of the last one there is.
func (t *Teller) failed() {
	t.run = rand.Uint32()
	for _, w := range t.tenants {
		w.rates, w.rejects = Rates{}, nil
		w.ratesAt, w.rejectsAt = time.Time{}, time.Time{}
	}
}

// withdraw takes back all that this process has said.
func (t *Teller) withdraw(ctx context.Context) {
	recs := []log.Record{{Key: key{kindBeat, "", t.cfg.Instance}.encode()}}
	for tenant, w := range t.tenants {
		if w.rates != (Rates{}) {
			recs = append(recs, log.Record{Key: key{kindRates, tenant, t.cfg.Instance}.encode()})
		}
		if w.rejects != nil {
			recs = append(recs, log.Record{Key: key{kindRejects, tenant, t.cfg.Instance}.encode()})
		}
	}
	if err := t.append(ctx, recs); err != nil && !errors.Is(err, log.ErrClosed) {
		t.logger.Warn("what was written here is not withdrawn, the others forget it in an hour", "err", err)
	}
}

// sweep removes the keys of producers that have died, and what another run of this one has said.
func (t *Teller) sweep(ctx context.Context) {
	var recs []log.Record
	for _, k := range t.table.outdated(maxRecords) {
		recs = append(recs, log.Record{Key: k.encode()})
	}
	if err := t.append(ctx, recs); err != nil && ctx.Err() == nil {
		t.logger.Warn("what producers have left behind is not removed", "err", err)
	}
}

// due is a record and how long it has waited.
type due struct {
	rec   log.Record
	of    *tenantWrites
	since time.Time // of the last word on the same
	done  func()
}

// round returns what is to be told now, the beat first.
func (t *Teller) round(now time.Time) []log.Record {
	var list []due
	written := t.source.Written()
	for tenant := range written {
		if t.tenants[tenant] == nil {
			t.tenants[tenant] = &tenantWrites{seen: []reading{{at: t.looked}}}
		}
	}
	for tenant, rejects := range t.source.Rejected() {
		w := t.tenants[tenant]
		if w == nil {
			w = &tenantWrites{}
			t.tenants[tenant] = w
		}
		if d, ok := t.rejects(now, tenant, w, rejects); ok {
			list = append(list, d)
		}
	}
	for tenant, w := range t.tenants {
		c, known := written[tenant]
		w.read(now, t.looked, c, known)
		if d, ok := t.rates(now, tenant, w); ok {
			list = append(list, d)
		}
	}
	t.looked = now
	slices.SortFunc(list, func(a, b due) int {
		return cmp.Or(a.since.Compare(b.since), cmp.Compare(string(a.rec.Key), string(b.rec.Key)))
	})
	recs := []log.Record{{Key: key{kindBeat, "", t.cfg.Instance}.encode(), Value: (&value{Run: t.run}).encode()}}
	spoken := t.spoken()
	for _, d := range list[:min(len(list), maxRecords-1)] {
		if !d.of.told() {
			if spoken >= maxTenants {
				continue
			}
			spoken++
		}
		d.done()
		recs = append(recs, d.rec)
	}
	maps.DeleteFunc(t.tenants, func(tenant schema.Tenant, w *tenantWrites) bool {
		_, known := written[tenant]
		return !known && !w.told()
	})
	return recs
}

// told says whether there are records of the tenant.
func (w *tenantWrites) told() bool { return w.rates != (Rates{}) || w.rejects != nil }

// spoken is how many tenants there are records of.
func (t *Teller) spoken() (n int) {
	for _, w := range t.tenants {
		if w.told() {
			n++
		}
	}
	return n
}

// read takes a reading.
func (w *tenantWrites) read(now, before time.Time, c Counts, known bool) {
	if last := len(w.seen) - 1; known && last >= 0 && c.Samples < w.seen[last].Samples {
		w.seen = []reading{{at: before}} // the producer had forgotten the tenant
	} else if !known && last >= 0 {
		c = w.seen[last].Counts
	} else if known && last < 0 {
		w.seen = []reading{{at: before}}
	}
	w.seen = append(w.seen, reading{now, c})
	old := 0
	for old < len(w.seen)-1 && now.Sub(w.seen[old+1].at) >= window {
		old++
	}
	w.seen = slices.Delete(w.seen, 0, old)
}

// perSecond is what the tenant sends.
func (w *tenantWrites) perSecond() Rates {
	first, last := w.seen[0], w.seen[len(w.seen)-1]
	seconds := max(last.at.Sub(first.at), leastWindow).Seconds()
	per := func(n int64) float64 { return digits(float64(n) / seconds) }
	return Rates{per(last.Samples - first.Samples), per(last.Histograms - first.Histograms), per(last.Requests - first.Requests)}
}

// digits keeps four of them: more is noise.
func digits(f float64) float64 {
	f, _ = strconv.ParseFloat(strconv.FormatFloat(f, 'g', 4, 64), 64)
	return f
}

// rates tells a rate if that is due.
func (t *Teller) rates(now time.Time, tenant schema.Tenant, w *tenantWrites) (due, bool) {
	is := w.perSecond()
	change := max(changed(w.rates.Samples, is.Samples), changed(w.rates.Histograms, is.Histograms), changed(w.rates.Requests, is.Requests))
	if change < 0.5 && (change <= 0.1 || now.Sub(w.ratesAt) < patience) {
		return due{}, false
	}
	d := due{of: w, since: w.ratesAt, rec: log.Record{Key: key{kindRates, tenant, t.cfg.Instance}.encode()}}
	if is != (Rates{}) {
		d.rec.Value = (&value{Run: t.run, Rates: &is}).encode()
	}
	d.done = func() { w.rates, w.ratesAt = is, now }
	return d, true
}

// changed is by which part of it a number has changed; infinite from zero and to it.
func changed(from, to float64) float64 {
	switch {
	case from == to:
		return 0
	case from == 0 || to == 0:
		return math.Inf(1)
	}
	return math.Abs(to-from) / from
}

// rejects tells refusals if that is due.
func (t *Teller) rejects(now time.Time, tenant schema.Tenant, w *tenantWrites, list []Reject) (due, bool) {
	list = slices.Clone(list[:min(len(list), maxReasons)])
	counts := map[schema.ErrorID]int64{}
	fresh := false
	for i := range list {
		r := &list[i]
		r.Series, r.Message = cut(r.Series), cut(r.Message)
		counts[r.Reason] = r.Count
		_, known := w.rejects[r.Reason]
		fresh = fresh || !known
	}
	if len(list) == 0 || !fresh && (maps.Equal(counts, w.rejects) || now.Sub(w.rejectsAt) < patience) {
		return due{}, false
	}
	return due{
		of: w, since: w.rejectsAt, rec: log.Record{Key: key{kindRejects, tenant, t.cfg.Instance}.encode(), Value: (&value{Run: t.run, Rejects: list}).encode()},
		done: func() { w.rejects, w.rejectsAt = counts, now },
	}, true
}
