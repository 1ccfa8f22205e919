package writes

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

// source is a producer of which a test knows everything.
type source struct {
	written  map[schema.Tenant]Counts
	rejected map[schema.Tenant][]Reject
}

func newSource() *source {
	return &source{map[schema.Tenant]Counts{}, map[schema.Tenant][]Reject{}}
}

func (s *source) Written() map[schema.Tenant]Counts    { return s.written }
func (s *source) Rejected() map[schema.Tenant][]Reject { return s.rejected }

func (s *source) add(tenant schema.Tenant, samples int64) {
	c := s.written[tenant]
	c.Samples += samples
	c.Requests++
	s.written[tenant] = c
}

// topic is what tellers write, and a table that reads it.
type topic struct {
	*Table
	now   time.Time
	bytes int
	fail  error
}

// appender is the topic as a log.
type appender struct {
	log.Log
	to *topic
}

func newTopic() *topic {
	return &topic{Table: NewTable(log.NewTable(nil, log.TopicControl), slog.New(slog.DiscardHandler)), now: time.UnixMilli(1_700_000_000_000)}
}

func (a appender) Append(_ context.Context, _ string, recs []log.Record) error {
	if a.to.fail != nil {
		return a.to.fail
	}
	a.to.take(recs)
	return nil
}

func (o *topic) take(recs []log.Record) {
	for _, r := range recs {
		o.bytes += len(r.Key) + len(r.Value)
		r.Time = o.now.UnixMilli()
		o.apply(&r)
	}
}

func (o *topic) teller(instance string, s Source) *Teller {
	t, err := NewTeller(Config{Instance: instance}, appender{to: o}, s, o.Table, slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	t.now = func() time.Time { return o.now }
	t.looked = o.now
	return t
}

// round lets ten seconds pass and tells; n is how many records that took beside the beat.
func (o *topic) round(tellers ...*Teller) (n int) {
	o.now = o.now.Add(interval)
	for _, t := range tellers {
		recs := t.round(o.now)
		n += len(recs) - 1
		o.take(recs)
	}
	return n
}

func TestRates(t *testing.T) {
	o, a, b := newTopic(), newSource(), newSource()
	ta, tb := o.teller("a/0", a), o.teller("b", b)
	for range 6 {
		a.add("acme", 1000)
		b.add("acme", 500)
		o.round(ta, tb)
	}
	require.Equal(t, Rates{Samples: 150, Requests: 0.2}, o.Rates("acme"), "over all producers")
	require.Equal(t, map[schema.Tenant]Total{"acme": {Samples: 150}}, o.Totals())
	for range 30 {
		a.add("acme", 1000)
		b.add("acme", 500)
		require.Zero(t, o.round(ta, tb), "what goes on is not told again")
	}
	require.EqualValues(t, 150, o.Rates("acme").Samples)

	a.add("acme", 6000)
	require.Equal(t, 1, o.round(ta), "notable")
	for range 6 {
		o.round(ta)
	}
	require.EqualValues(t, 0, o.Rates("acme").Samples, "one has stopped sending, and the other one fallen silent")
	b.add("acme", 500)
	o.round(tb)
	require.InDelta(t, 50.0, o.Rates("acme").Samples, 50, "it counts again")
	require.Positive(t, o.Rates("acme").Samples)
	require.Empty(t, o.instances["a/0"].rates, "a rate of 0 is no record")
}

// TestForgottenTenant: a producer forgets tenants, and counts from 0 when they come again.
func TestForgottenTenant(t *testing.T) {
	o, s := newTopic(), newSource()
	tl := o.teller("a", s)
	s.add("acme", 6000)
	o.round(tl)
	delete(s.written, "acme")
	for range 7 {
		o.round(tl)
	}
	require.Empty(t, tl.tenants)
	require.Zero(t, o.Rates("acme"))
	s.add("acme", 300)
	o.round(tl)
	require.EqualValues(t, 30, o.Rates("acme").Samples)
	s.written["acme"] = Counts{Samples: 30, Requests: 1} // forgotten and back between two rounds
	o.round(tl)
	require.GreaterOrEqual(t, o.Rates("acme").Samples, 0.0)
}

func TestRejects(t *testing.T) {
	o, a, b := newTopic(), newSource(), newSource()
	ta, tb := o.teller("a", a), o.teller("b", b)
	a.rejected["acme"] = []Reject{{Reason: "err-1", Count: 2, First: 10, Last: 20, Series: "{x}", Message: "old"}}
	b.rejected["acme"] = []Reject{
		{Reason: "err-2", Count: 1, First: 30, Last: 30, Message: strings.Repeat("é", 400)},
		{Reason: "err-1", Count: 5, First: 15, Last: 25, Series: "{y}", Message: "new"},
	}
	require.Equal(t, 2, o.round(ta, tb))
	got := o.Rejects("acme")
	require.Len(t, got, 2)
	require.LessOrEqual(t, len(got[0].Message), maxText)
	require.True(t, utf8.ValidString(got[0].Message))
	require.Equal(t, Rejected{Reject{"err-1", 7, 10, 25, "{y}", "new"}, 2}, got[1])
	require.Equal(t, Total{Rejected: 8, LastRejected: 30}, o.Totals()["acme"])
	require.Empty(t, o.Rejects("other"))

	a.rejected["acme"][0].Count++
	told := 0
	for range 5 {
		told += o.round(ta)
	}
	require.Zero(t, told, "more of the same waits")
	require.Equal(t, 1, o.round(ta))
	require.EqualValues(t, 8, o.Rejects("acme")[1].Count)
	a.rejected["acme"] = append(a.rejected["acme"], Reject{Reason: "err-3", Count: 1})
	require.Equal(t, 1, o.round(ta), "another reason does not")
}

// TestStops: on a clean stop nothing is left. What one that died has said of refusals is shown for an hour, its rates for a
// minute, and then the others remove its keys.
func TestStops(t *testing.T) {
	o, a, b, c := newTopic(), newSource(), newSource(), newSource()
	ta, tb, tc := o.teller("a", a), o.teller("b", b), o.teller("c", c)
	for _, s := range []*source{a, b} {
		s.add("acme", 600)
		s.rejected["acme"] = []Reject{{Reason: "err-1", Count: 1}}
	}
	o.round(ta, tb, tc)
	require.EqualValues(t, 120, o.Rates("acme").Samples)
	tb.withdraw(t.Context())
	require.NotContains(t, o.instances, "b")
	require.EqualValues(t, 60, o.Rates("acme").Samples)

	for range 7 { // a has died
		o.round(tc)
	}
	require.Zero(t, o.Rates("acme"))
	require.Len(t, o.Rejects("acme"), 1)
	for range 360 {
		o.round(tc)
	}
	require.Empty(t, o.Rejects("acme"))
	require.Empty(t, o.Totals())
	require.Contains(t, o.instances, "a")
	tc.sweep(t.Context())
	require.NotContains(t, o.instances, "a")
	require.Contains(t, o.instances, "c")
}

// TestAnotherRun: what a process has said before it was started again is no rate any more.
func TestAnotherRun(t *testing.T) {
	o, s := newTopic(), newSource()
	first := o.teller("a", s)
	s.add("acme", 600)
	s.rejected["acme"] = []Reject{{Reason: "err-1", Count: 9}}
	o.round(first)
	second := o.teller("a", newSource())
	o.round(second)
	require.Zero(t, o.Rates("acme"))
	require.Len(t, o.Rejects("acme"), 1, "not said again, and shown for an hour")
	for range 361 {
		o.round(second)
	}
	require.Empty(t, o.Rejects("acme"))
	second.sweep(t.Context())
	require.Empty(t, o.instances["a"].rates)
	require.Empty(t, o.instances["a"].rejects)
	require.NotZero(t, o.instances["a"].heard)
}

// TestFailedAppend: what could not be told is told again.
func TestFailedAppend(t *testing.T) {
	o, s := newTopic(), newSource()
	tl := o.teller("a", s)
	s.add("acme", 600)
	s.rejected["acme"] = []Reject{{Reason: "err-1", Count: 9}}
	o.now = o.now.Add(interval)
	o.fail = log.ErrOverloaded
	tl.tell(t.Context())
	require.Empty(t, o.Totals())
	o.fail = nil
	o.now = o.now.Add(interval)
	tl.tell(t.Context())
	require.Equal(t, map[schema.Tenant]Total{"acme": {Samples: 30, Rejected: 9}}, o.Totals())
}

// TestTraffic: what it costs in the log when 1,000 tenants write and every tenth has samples refused all the time.
func TestTraffic(t *testing.T) {
	o, s := newTopic(), newSource()
	tl := o.teller("producer-0", s)
	rng := rand.New(rand.NewPCG(1, 2))
	round := func(tenants int) (most int) {
		for range 60 { // ten minutes
			for i := range tenants {
				tenant := schema.Tenant(fmt.Sprintf("tenant-%04d", i))
				for range 2 { // every 5 s, unevenly
					s.add(tenant, 800+rng.Int64N(400))
				}
				if i%10 == 0 {
					n := s.written[tenant].Requests
					s.rejected[tenant] = []Reject{{Reason: schema.ErrTooManyLabels, Count: n, First: 1, Last: o.now.UnixMilli(), Series: strings.Repeat("s", 300), Message: strings.Repeat("m", 150)}}
				}
			}
			before := o.bytes
			o.round(tl)
			most = max(most, o.bytes-before)
		}
		return most
	}
	most := round(1000)
	first := o.bytes
	o.bytes = 0
	round(1000)
	perSecond := o.bytes / 600
	t.Logf("1,000 tenants: %d bytes in the first ten minutes, %d a second afterwards, %d in the largest round", first, perSecond, most)
	require.Less(t, perSecond, 2000)
	require.Less(t, most, 300_000)

	round(2 * maxTenants) // more than is told of
	require.LessOrEqual(t, len(o.Totals()), maxTenants)
	require.LessOrEqual(t, tl.spoken(), maxTenants)
}

func FuzzApply(f *testing.F) {
	for _, kv := range [][2]string{
		{"writes/beat//a", `{"run":1}`}, {"writes/rates/acme/a", `{"run":1,"rates":{"samples":1.5}}`}, {"writes/rates/acme/a", ""},
		{"writes/rejects/acme/a/0", `{"run":1,"rejects":[{"reason":"err-x","count":3,"first":1,"last":2,"message":"m"}]}`},
		{"writes/rates/../a", "{}"}, {"writes/beat/x/a", "{}"}, {"writes//", "{"},
	} {
		f.Add([]byte(kv[0]), []byte(kv[1]))
	}
	f.Fuzz(func(t *testing.T, k, v []byte) {
		o := newTopic()
		o.apply(&log.Record{Key: []byte("writes/beat//a"), Value: []byte(`{"run":1}`), Time: 1})
		o.apply(&log.Record{Key: k, Value: v, Time: 2})
		for tenant, total := range o.Totals() {
			_, err := schema.ParseTenant(string(tenant))
			require.NoError(t, err)
			require.GreaterOrEqual(t, total.Samples, 0.0)
			require.LessOrEqual(t, len(o.Rejects(tenant)), maxReasons)
		}
		if decoded, ours, err := decodeKey(k); ours && err == nil {
			require.Equal(t, string(k), string(decoded.encode()))
		}
	})
}
