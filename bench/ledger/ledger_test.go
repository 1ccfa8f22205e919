package ledger

import (
	"context"
	"fmt"
	"math"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func testSpec(seed uint64, tenants, slots int) Spec {
	s := Spec{Seed: seed}
	for i := range tenants {
		s.Tenants = append(s.Tenants, Tenant{
			Name: fmt.Sprintf("team-%c", 'a'+i), Slots: slots, Start: time.Now().Add(-24 * time.Hour).UnixMilli(),
			Step: 15 * time.Second, Late: [2]int64{20, 100},
		})
	}
	return s
}

func TestSpecIsInvertible(t *testing.T) {
	s := testSpec(42, 3, 100)
	require.NoError(t, s.Validate())
	ids := map[float64]bool{}
	for ti := range s.Tenants {
		tn := &s.Tenants[ti]
		for slot := range tn.Slots {
			for tick := range int64(500) {
				series := tn.SeriesAt(slot, tick)
				back, ok := tn.SlotOf(series)
				require.True(t, ok)
				require.Equal(t, slot, back)
				got, ok := tn.TickOf(series, tn.TimeOf(series, tick))
				require.True(t, ok)
				require.Equal(t, tick, got)
				id := s.ID(ti, series, tick)
				require.False(t, ids[id])
				ids[id] = true
				ot, os, otick, ok := s.Owner(id)
				require.True(t, ok)
				require.Equal(t, []int64{int64(ti), int64(series), tick}, []int64{int64(ot), int64(os), otick})
			}
		}
	}
	require.Less(t, s.ID(255, maxSeries-1, maxTicks-1), float64(1<<53))
}

func TestHistogramsAreValid(t *testing.T) {
	s := testSpec(1, 1, 100)
	kinds := map[Kind]int{}
	for slot := range 100 {
		kinds[KindOf(slot)]++
		for tick := range int64(300) {
			v := s.ValueAt(0, slot, tick)
			switch {
			case v.IsStale():
			case v.Int != nil:
				require.NoError(t, v.Int.Validate())
			case v.Flt != nil:
				require.NoError(t, v.Flt.Validate())
			}
		}
	}
	require.Len(t, kinds, 8, "every kind has its slots")
}

func TestLedgerFileIsReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l, err := Create(path, testSpec(7, 2, 50))
	require.NoError(t, err)
	a := l.Intend(Request{Tenant: 1, From: 0, To: 10, Proto: 1})
	b := l.Intend(Request{Tenant: 1, From: 10, To: 20, Proto: 2})
	c := l.Intend(Request{Tenant: 1, From: 0, To: 10, Proto: 2, Late: true})
	l.Attempt(a.ID, time.Now(), time.Now(), 503, -1)
	l.Settle(a.ID, Acked)
	l.Settle(c.ID, Rejected)
	require.NoError(t, l.Close())

	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString("O 2 ack") // torn
	require.NoError(t, err)
	require.NoError(t, f.Close())

	back, err := Load(path)
	require.NoError(t, err)
	require.Equal(t, l.Spec, back.Spec)
	require.Equal(t, []Request{a}, back.acked(1, 0))
	require.Equal(t, map[Outcome]int{Acked: 1, Unknown: 1, Rejected: 1}, back.Outcomes())
	require.EqualValues(t, 20, back.front(1, 0))
	e, ok := back.find(1, 0, 15)
	require.True(t, ok)
	require.Equal(t, b, e.Request)
}

// ticks is how many samples each series of write has: fewer under the race detector, as what runs beside what is the same.
func ticks() int {
	if testing.Short() {
		return 140
	}
	return 700
}

// write fills a stand-in with some 280000 samples, through a receiver that now and then stores and says it did not.
func write(t *testing.T, srv *httptest.Server, seed uint64) *Ledger {
	l, err := Create(filepath.Join(t.TempDir(), "ledger"), testSpec(seed, 4, 100))
	require.NoError(t, err)
	st, err := l.Write(context.Background(), make(chan struct{}), WriteConfig{
		URL: srv.URL + "/api/v1/push", TenantHeader: "X-Scope-OrgID", Writers: 2, Rate: 1e9, Ticks: 20, MaxTicks: int64(ticks()), Duplicate: 8, MaxBackoff: time.Millisecond, Logf: t.Logf,
	})
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.Zero(t, st.Rejected, st.Problems)
	require.Zero(t, st.Unknown)
	require.Zero(t, st.WrongWritten, st.Problems)
	require.Positive(t, st.Retries)
	require.Positive(t, st.Duplicates)
	require.EqualValues(t, 4*100*ticks(), st.Samples)
	return l
}

// TestSelf checks the checker: a system that is right is found right, and each kind of lie, told once in 10^5 samples
// through each door, is found out.
func TestSelf(t *testing.T) {
	sys := newStandIn(t)
	sys.failing = 9
	honest := httptest.NewServer(sys)
	defer honest.Close()
	const seed = 20240607
	l := write(t, honest, seed)
	v := &Verifier{Ledger: l, Target: Target{URL: honest.URL, TenantHeader: "X-Scope-OrgID"}, Slice: 300}
	rep, err := v.Verify(context.Background())
	require.NoError(t, err)
	require.Zero(t, rep.Wrong(), rep.String())
	require.Greater(t, rep.Samples, int64(3*385*ticks()))

	for _, path := range []Path{PathChunks, PathSamples, PathPromQL} {
		for _, class := range []Class{Lost, Duplicated, Altered, Foreign} {
			t.Run(fmt.Sprintf("%s/%s", path, class), func(t *testing.T) {
				proxy := &liar{next: sys, class: class, every: 140 * ticks()}
				srv := httptest.NewServer(proxy)
				defer srv.Close()
				v := &Verifier{Ledger: l, Target: Target{URL: srv.URL, TenantHeader: "X-Scope-OrgID"}, Paths: []Path{path}, Slice: 300}
				rep, err := v.Verify(context.Background())
				require.NoError(t, err)
				require.Positive(t, proxy.planted)
				require.EqualValues(t, proxy.planted, rep.Counts[class], rep.String())
				require.EqualValues(t, proxy.planted, rep.Wrong(), rep.String())
			})
		}
	}
}

// TestUnsettled: what was neither acked nor refused may be there or not; what was refused, or never meant, may not.
func TestUnsettled(t *testing.T) {
	sys := newStandIn(t)
	srv := httptest.NewServer(sys)
	defer srv.Close()
	l := write2(t, srv)
	v := &Verifier{Ledger: l, Target: Target{URL: srv.URL, TenantHeader: "X-Scope-OrgID"}}
	count := func() Report {
		rep, err := v.Verify(context.Background())
		require.NoError(t, err)
		return rep
	}
	rep := count()
	require.Zero(t, rep.Wrong(), rep.String())

	l.Settle(1, Unknown)
	rep = count()
	require.Zero(t, rep.Wrong(), rep.String())
	require.Positive(t, rep.Unknown)

	l.Settle(1, Rejected)
	require.Positive(t, count().Counts[Invented])

	l.Settle(1, Acked)
	extra := l.Intend(Request{Tenant: 0, Block: 0, From: 200, To: 210, Proto: 1})
	rep = count()
	require.Zero(t, rep.Wrong(), rep.String())
	l.Settle(extra.ID, Acked)
	require.Positive(t, count().Counts[Lost])
}

func write2(t *testing.T, srv *httptest.Server) *Ledger {
	l, err := Create(filepath.Join(t.TempDir(), "ledger"), testSpec(3, 2, 50))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	st, err := l.Write(context.Background(), make(chan struct{}), WriteConfig{
		URL: srv.URL + "/api/v1/push", TenantHeader: "X-Scope-OrgID", Writers: 1, Rate: 1e9, Ticks: 20, MaxTicks: 100,
	})
	require.NoError(t, err)
	require.Zero(t, st.Rejected, st.Problems)
	return l
}

func TestSameSeesEveryBit(t *testing.T) {
	nan := Value{Float: math.Float64frombits(normalBits)}
	require.True(t, same(PathChunks, nan, nan))
	require.False(t, same(PathChunks, nan, Value{Float: math.Float64frombits(normalBits + 1)}))
	require.True(t, same(PathPromQL, nan, Value{Float: math.NaN()}))
	require.False(t, same(PathChunks, Value{Float: 0}, Value{Float: math.Copysign(0, -1)}))
	require.False(t, same(PathChunks, Value{Float: staleNaN}, nan))
	h, g := intHistogram(3, 99, 5), intHistogram(3, 99, 5)
	require.True(t, same(PathChunks, Value{Int: h}, Value{Int: g}))
	g.PositiveBuckets[0]++
	require.False(t, same(PathChunks, Value{Int: h}, Value{Int: g}))
	require.False(t, same(PathChunks, Value{Int: h}, Value{Flt: h.ToFloat(nil)}))
}

// TestVanishedIsFound: a server that once returned a sample and does not any more is found out, although an eventual
// read owes nothing else.
func TestVanishedIsFound(t *testing.T) {
	sys := newStandIn(t)
	sys.failing = 9
	honest := httptest.NewServer(sys)
	defer honest.Close()
	l := write(t, honest, 31)
	for _, path := range []Path{PathChunks, PathSamples, PathPromQL} {
		t.Run(string(path), func(t *testing.T) {
			proxy := &liar{next: sys, class: Lost, every: 140 * ticks()}
			srv := httptest.NewServer(proxy)
			defer srv.Close()
			eventual := &Verifier{Ledger: l, Target: Target{URL: srv.URL, TenantHeader: "X-Scope-OrgID"}, Paths: []Path{path}, Slice: 300, Eventual: true}
			rep, err := eventual.Verify(context.Background())
			require.NoError(t, err)
			require.Positive(t, proxy.planted)
			require.Zero(t, rep.Wrong(), "nothing was seen yet, nothing is owed: %s", rep.String())

			eventual.Floor = &Floor{}
			eventual.Target.URL = honest.URL
			rep, err = eventual.Verify(context.Background())
			require.NoError(t, err)
			require.Zero(t, rep.Wrong(), rep.String())
			eventual.Target.URL = srv.URL
			before := proxy.planted
			rep, err = eventual.Verify(context.Background())
			require.NoError(t, err)
			require.EqualValues(t, proxy.planted-before, rep.Counts[Vanished], rep.String())
			require.EqualValues(t, proxy.planted-before, rep.Wrong(), rep.String())
		})
	}
}
