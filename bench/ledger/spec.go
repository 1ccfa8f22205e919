package ledger

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
)

// SlotsPerBlock is how many slots one request covers: the unit of writing, of the ledger and of verification.
const SlotsPerBlock = 50

// Spec is all that the samples of a run depend on.
type Spec struct {
	Seed    uint64   `json:"seed"`
	Tenants []Tenant `json:"tenants"`
}

// Tenant is one tenant's share of a run. A slot is a place at which exactly one series lives at any time; most slots
// hold one series for ever, a tenth hold short-lived ones, one after the other.
type Tenant struct {
	Name  string        `json:"name"`
	Slots int           `json:"slots"` // a multiple of SlotsPerBlock
	Start int64         `json:"start"` // ms of tick 0
	Step  time.Duration `json:"step"`  // sample time between two ticks
	Late  [2]int64      `json:"late"`  // by how many ticks the withheld samples come late, alternating
}

// The limits of the encoding of a value: 8 bits of tenant, 20 of series, 25 of tick make an integer below 2^53.
const (
	maxTenants = 1 << 8
	maxSeries  = 1 << 20
	maxTicks   = 1 << 25
)

// Life of a short-lived series, in ticks, and how many of them one slot can hold.
const (
	churnLife  = 60
	churnLives = 4096
)

// Validate refuses a spec whose samples would not be told apart.
func (s *Spec) Validate() error {
	if len(s.Tenants) == 0 || len(s.Tenants) > maxTenants {
		return fmt.Errorf("%d tenants, must be 1 to %d", len(s.Tenants), maxTenants)
	}
	names := map[string]bool{}
	for _, t := range s.Tenants {
		switch {
		case names[t.Name]:
			return fmt.Errorf("tenant %s twice", t.Name)
		case t.Slots <= 0 || t.Slots%SlotsPerBlock != 0:
			return fmt.Errorf("tenant %s: %d slots, must be a multiple of %d", t.Name, t.Slots, SlotsPerBlock)
		case t.Slots+(t.Slots/10+1)*churnLives >= maxSeries:
			return fmt.Errorf("tenant %s: too many slots: %d", t.Name, t.Slots)
		case t.Step < time.Millisecond || t.Step%time.Millisecond != 0:
			return fmt.Errorf("tenant %s: step %s is no whole number of milliseconds", t.Name, t.Step)
		case t.Late[0] < 0 || t.Late[1] < 0:
			return errors.New("samples cannot come late by less than nothing")
		}
		names[t.Name] = true
	}
	return nil
}

// Blocks is how many blocks of slots the tenant has.
func (t *Tenant) Blocks() int { return t.Slots / SlotsPerBlock }

func (t *Tenant) stepMs() int64 { return t.Step.Milliseconds() }

// Kind is what a slot sends.
type Kind int

// The kinds, at fixed places among the slots.
const (
	KindPlain      Kind = iota // a float that names its tenant, series and tick
	KindChurn                  // the same, by series that live for churnLife ticks and end with a stale marker
	KindOdd                    // NaN, infinities, -0, the smallest denormal
	KindStale                  // plain with a stale marker now and then
	KindHist                   // native histogram, integer counts
	KindFloatHist              // native histogram, float counts
	KindStaleHist              // KindHist with stale markers
	KindStaleFHist             // KindFloatHist with stale markers
)

// KindOf says what a slot sends.
func KindOf(slot int) Kind {
	switch {
	case slot%40 == 23:
		return KindStaleHist
	case slot%40 == 33:
		return KindStaleFHist
	case slot%20 == 3:
		return KindHist
	case slot%20 == 13:
		return KindFloatHist
	case slot%10 == 5:
		return KindChurn
	case slot%25 == 7:
		return KindOdd
	case slot%25 == 9:
		return KindStale
	}
	return KindPlain
}

// Late says whether the sample of a slot at a tick is withheld and sent late: one in eight of the samples of a quarter
// of the slots, floats, histograms and markers among them.
func (s *Spec) Late(slot int, tick int64) bool {
	if slot%10 != 6 && slot%10 != 7 && slot%40 != 3 && slot%40 != 13 {
		return false
	}
	return mix(s.Seed^uint64(slot)<<32^uint64(tick))%8 == 0
}

// SeriesAt is the number of the series that lives in a slot at a tick.
func (t *Tenant) SeriesAt(slot int, tick int64) int {
	if KindOf(slot) != KindChurn {
		return slot
	}
	life := (tick + churnPhase(slot)) / churnLife
	return t.Slots + (slot/10)*churnLives + int(life%churnLives)
}

func churnPhase(slot int) int64 { return int64(slot*7) % churnLife }

// SlotOf is the inverse of SeriesAt; ok is false for a number that no series of the tenant has.
func (t *Tenant) SlotOf(series int) (slot int, ok bool) {
	if series < 0 {
		return 0, false
	}
	if series < t.Slots {
		return series, KindOf(series) != KindChurn
	}
	slot = (series-t.Slots)/churnLives*10 + 5
	return slot, slot < t.Slots && KindOf(slot) == KindChurn
}

// lastOfLife says whether tick is the last one of the short-lived series in slot.
func lastOfLife(slot int, tick int64) bool {
	return (tick+churnPhase(slot))%churnLife == churnLife-1
}

// TimeOf is the timestamp of a sample: the ticks of a series are one step apart, and each series has its own place
// inside of a step.
func (t *Tenant) TimeOf(series int, tick int64) int64 {
	return t.Start + tick*t.stepMs() + t.offset(series)
}

func (t *Tenant) offset(series int) int64 { return int64(mix(uint64(series)) % uint64(t.stepMs())) }

// TickOf is the inverse of TimeOf; ok is false for a time at which the series has no sample.
func (t *Tenant) TickOf(series int, ms int64) (tick int64, ok bool) {
	d := ms - t.Start - t.offset(series)
	if d < 0 || d%t.stepMs() != 0 {
		return 0, false
	}
	tick = d / t.stepMs()
	return tick, tick < maxTicks
}

// Value is one sample without its time: a float, or a histogram of integer or float counts.
type Value struct {
	Float float64
	Int   *histogram.Histogram
	Flt   *histogram.FloatHistogram
}

// IsHistogram says whether the value is a histogram.
func (v Value) IsHistogram() bool { return v.Int != nil || v.Flt != nil }

// The bits of Prometheus' two NaNs.
const (
	staleBits  = 0x7ff0000000000002
	normalBits = 0x7ff8000000000001
)

var staleNaN = math.Float64frombits(staleBits)

// IsStale says whether the value is a stale marker, in either form.
func (v Value) IsStale() bool {
	switch {
	case v.Int != nil:
		return math.Float64bits(v.Int.Sum) == staleBits
	case v.Flt != nil:
		return math.Float64bits(v.Flt.Sum) == staleBits
	}
	return math.Float64bits(v.Float) == staleBits
}

// ID is the number that names a sample: exact in a float64 and in JSON.
func (s *Spec) ID(tenant, series int, tick int64) float64 {
	id := uint64(tenant)<<45 | uint64(series)<<25 | uint64(tick)
	return float64(id ^ s.mask())
}

// Owner reads an ID back. ok is false when no sample of this run has that value.
func (s *Spec) Owner(v float64) (tenant, series int, tick int64, ok bool) {
	if v < 0 || v >= 1<<53 || v != math.Trunc(v) {
		return 0, 0, 0, false
	}
	id := uint64(v) ^ s.mask()
	tenant, series, tick = int(id>>45), int(id>>25&(maxSeries-1)), int64(id&(maxTicks-1))
	if tenant >= len(s.Tenants) {
		return 0, 0, 0, false
	}
	_, ok = s.Tenants[tenant].SlotOf(series)
	return tenant, series, tick, ok
}

func (s *Spec) mask() uint64 { return mix(s.Seed) & (1<<45 - 1) } // leaves the tenant readable, and the number small

// ValueAt is the value of a sample.
func (s *Spec) ValueAt(tenant, slot int, tick int64) Value {
	series := s.Tenants[tenant].SeriesAt(slot, tick)
	id := s.ID(tenant, series, tick)
	stale := tick%17 == 16
	switch KindOf(slot) {
	case KindChurn:
		if lastOfLife(slot, tick) {
			return Value{Float: staleNaN}
		}
	case KindStale:
		if stale {
			return Value{Float: staleNaN}
		}
	case KindOdd:
		odd := []float64{math.Float64frombits(normalBits), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), math.SmallestNonzeroFloat64, id}
		return Value{Float: odd[tick%int64(len(odd))]}
	case KindHist:
		return Value{Int: intHistogram(series, tick, id)}
	case KindFloatHist:
		return Value{Flt: floatHistogram(series, tick, id)}
	case KindStaleHist:
		if stale {
			return Value{Int: &histogram.Histogram{Sum: staleNaN}}
		}
		return Value{Int: intHistogram(series, tick, id)}
	case KindStaleFHist:
		if stale {
			return Value{Flt: &histogram.FloatHistogram{Sum: staleNaN}}
		}
		return Value{Flt: floatHistogram(series, tick, id)}
	}
	return Value{Float: id}
}

// share is how many of 0..tick leave the rest i modulo 4: four counters that only grow and that sum to tick+1.
func share(tick int64, i int64) uint64 { return uint64((tick + 4 - i) / 4) }

// intHistogram has a count of tick+1 in four buckets and the sample's ID as its sum. The layout of the buckets differs
// from series to series, and changes once in a while within one.
func intHistogram(series int, tick int64, id float64) *histogram.Histogram {
	b1, b2, b3 := int64(share(tick, 1)), int64(share(tick, 2)), int64(share(tick, 3))
	return &histogram.Histogram{
		Schema: int32(series % 4), ZeroThreshold: 1e-9, ZeroCount: share(tick, 0), Count: uint64(tick) + 1, Sum: id,
		PositiveSpans:   []histogram.Span{{Offset: int32(series%7) - 3, Length: 1}, {Offset: gap(tick), Length: 1}},
		PositiveBuckets: []int64{b1, b2 - b1},
		NegativeSpans:   []histogram.Span{{Offset: 2, Length: 1}},
		NegativeBuckets: []int64{b3},
	}
}

func floatHistogram(series int, tick int64, id float64) *histogram.FloatHistogram {
	f := func(i int64) float64 { return float64(share(tick, i)) + 0.25 }
	return &histogram.FloatHistogram{
		Schema: int32(series % 4), ZeroThreshold: 1e-9, ZeroCount: f(0), Count: float64(tick) + 2, Sum: id,
		PositiveSpans:   []histogram.Span{{Offset: int32(series%7) - 3, Length: 1}, {Offset: gap(tick), Length: 1}},
		PositiveBuckets: []float64{f(1), f(2)},
		NegativeSpans:   []histogram.Span{{Offset: 2, Length: 1}},
		NegativeBuckets: []float64{f(3)},
	}
}

func gap(tick int64) int32 { return int32(tick/50%3) + 1 }

// Label is one label.
type Label struct{ Name, Value string }

// The labels by which a verifier selects.
const (
	LabelRun    = "run"
	LabelBlock  = "slots"
	LabelSeries = "series"
	LabelTenant = "owner"
)

// Run is the value of the label that all series of this run carry.
func (s *Spec) Run() string { return fmt.Sprintf("%016x", s.Seed) }

// BlockName is the value of LabelBlock.
func BlockName(block int) string { return fmt.Sprintf("b%03d", block) }

// Labels are the labels of a series, sorted by name.
func (s *Spec) Labels(tenant, series int) []Label {
	t := &s.Tenants[tenant]
	slot, _ := t.SlotOf(series)
	name := "ledger_requests_total"
	switch KindOf(slot) {
	case KindChurn:
		name = "ledger_pod_requests_total"
	case KindOdd:
		name = "ledger_temperature_celsius"
	case KindHist, KindFloatHist, KindStaleHist, KindStaleFHist:
		name = "ledger_request_duration_seconds"
	}
	return []Label{
		{"__name__", name},
		{"instance", fmt.Sprintf("10.%d.%d.%d:8080", tenant, series>>8&0xff, series&0xff)},
		{"job", "ledger"},
		{LabelTenant, t.Name},
		{"pod", fmt.Sprintf("checkout-%08x-%05x", uint32(mix(uint64(series))), series)},
		{LabelRun, s.Run()},
		{LabelSeries, fmt.Sprintf("%07d", series)},
		{LabelBlock, BlockName(slot / SlotsPerBlock)},
		{"zone", fmt.Sprintf("zürich-%d", series%3)},
	}
}

// mix is the finaliser of splitmix64: a cheap bijection that scatters.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
