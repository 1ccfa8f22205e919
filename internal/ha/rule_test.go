package ha

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

func follower(t testing.TB) *Tracker {
	f, err := New(Config{Instance: "f"}, nil, log.NewTable(nil, log.TopicControl), slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	return f
}

// history makes a log of claims, statements and forgets as they may come: for a few clusters, by claimants who know more or
// less, late and early.
func history(rnd *rand.Rand, n int) (recs []log.Record) {
	at := int64(1_000_000)
	leader := follower(nil)
	for i := range n {
		at += rnd.Int64N(20_000)
		name := fmt.Sprint("c", rnd.IntN(3))
		b := ballot{Replica: fmt.Sprint("r", rnd.IntN(3)), Epoch: 1, Timeout: 30_000, AsOf: at - rnd.Int64N(2*maxLate)}
		if c := leader.tenants["t"][name]; c != nil && c.epoch > 0 {
			b.Epoch = max(1, c.epoch+rnd.Int64N(4)-1) // too old, current, next, ahead
			b.Seen = max(0, at-rnd.Int64N(60_000))
			if rnd.IntN(5) == 0 {
				claim := c.claim
				b = ballot{Replica: c.replica, Epoch: c.epoch, Timeout: 30_000, Seen: c.seenLog, Claim: &claim, Since: c.since}
			}
		}
		rec := encodeBallot("t", name, b)
		rec.Offset, rec.Time = int64(i)*2, at
		leader.apply(&rec)
		recs = append(recs, rec)
	}
	return recs
}

func terms0(t *Tracker) map[string]term {
	out := map[string]term{}
	for name, c := range t.tenants["t"] {
		if c.epoch > 0 {
			out[name] = c.term
		}
	}
	return out
}

// TestOrderDoesNotMatter: followers that have heard the same claims agree, in whatever order and how often they heard of them,
// and whatever was mended in between.
func TestOrderDoesNotMatter(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		recs := history(rnd, 60)
		straight := follower(t)
		for i := range recs {
			straight.apply(&recs[i])
		}
		want := terms0(straight)
		require.NotEmpty(t, want)
		for range 5 {
			other := follower(t)
			mixed := append(slices.Clone(recs), recs[:rnd.IntN(len(recs))]...)
			rnd.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
			for i := range mixed {
				other.apply(&mixed[i])
			}
			require.Equal(t, want, terms0(other), "seed %d", seed)
		}
	}
}

// TestCompactionIsMended: who starts from any compacted log and hears of what followers state then, agrees with them.
func TestCompactionIsMended(t *testing.T) {
	wrong := 0
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		recs := history(rnd, 1+rnd.IntN(40))
		old, fresh := follower(t), follower(t)
		clock := time.Now()
		old.now = func() time.Time { return clock }
		for i := range recs {
			old.apply(&recs[i])
		}
		left := survivors(recs)
		for i := range left {
			fresh.apply(&left[i])
		}
		for name, c := range terms0(old) {
			if terms0(fresh)[name].replica != c.replica {
				wrong++
			}
		}
		clock = clock.Add(stateWithin)
		for i, rec := range old.statements(clock) {
			rec.Offset, rec.Time = recs[len(recs)-1].Offset+int64(i)+1, recs[len(recs)-1].Time
			fresh.apply(&rec)
			old.apply(&rec)
		}
		require.Empty(t, old.mend, "what is mended is known to be")
		for name, c := range terms0(old) {
			require.Equal(t, c.replica, terms0(fresh)[name].replica, "seed %d, cluster %s", seed, name)
		}
	}
	require.Greater(t, wrong, 20, "otherwise there was nothing to mend")
}

// TestValid: a claim's times, at the bound and one beside it.
func TestValid(t *testing.T) {
	for _, c := range []struct {
		b    ballot
		at   int64
		want bool
	}{
		{ballot{Epoch: 1, Timeout: 30_000, AsOf: 100_000}, 100_000 + maxLate, true},
		{ballot{Epoch: 1, Timeout: 30_000, AsOf: 100_000}, 100_000 + maxLate + 1, false},
		{ballot{Epoch: 1, Timeout: 30_000, AsOf: 100_000}, 90_000, true}, // a broker whose clock is behind that of the last
		{ballot{Epoch: 2, Timeout: 30_000, AsOf: 100_000, Seen: 70_000}, 100_000 - slack, true},
		{ballot{Epoch: 2, Timeout: 30_000, AsOf: 100_000, Seen: 70_000}, 100_000 - slack - 1, false},
		{ballot{Epoch: 2, Timeout: 30_000, Claim: new(int64)}, 1 << 40, true},
	} {
		require.Equal(t, c.want, c.b.valid(c.at), "%+v at %d", c.b, c.at)
	}
}

func TestDecodeElect(t *testing.T) {
	const good = `{"v":1,"replica":"a","epoch":1,"timeout_ms":1,"seen":0,"as_of":1}`
	for _, c := range []struct{ key, value, err string }{
		{"ha/elect/t/c", good, ""},
		{"ha/elect/t/c/with/slashes", good, ""},
		{"ha/elect/t", good, "names no cluster"},
		{"ha/elect/../c", good, "not allowed"},
		{"ha/elect/t/", good, "cluster name"},
		{"ha/elect/t/\xff", good, "cluster name"},
		{"ha/elect/t/c", "x", "invalid character"},
		{"ha/elect/t/c", `{"v":2}`, "version 2"},
		{"ha/elect/t/c", `{"v":1,"epoch":1,"timeout_ms":1}`, "replica name"},
		{"ha/elect/t/c", `{"v":1,"replica":"a","timeout_ms":1}`, "epoch 0"},
		{"ha/elect/t/c", `{"v":1,"replica":"a","epoch":1099511627777,"timeout_ms":1}`, "epoch"},
		{"ha/elect/t/c", `{"v":1,"replica":"a","epoch":1}`, "time-out"},
		{"ha/elect/t/c", `{"v":1,"replica":"a","epoch":1,"timeout_ms":86400001}`, "time-out"},
		{"ha/elect/t/c", `{"v":1,"replica":"a","epoch":1,"timeout_ms":1,"seen":-1}`, "negative"},
		{"ha/elect/t/c", `{"v":1,"replica":"a","epoch":1,"timeout_ms":1,"claim":9}`, ""},
		{"ha/elect/t/c", `{"v":1,"replica":"a","epoch":1,"timeout_ms":1,"claim":10}`, "states a claim"},
	} {
		_, err := decodeElect(&log.Record{Key: []byte(c.key), Value: []byte(c.value), Offset: 10})
		if c.err == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, c.err, "%s %s", c.key, c.value)
		}
	}
	f := follower(t)
	f.apply(&log.Record{Key: []byte("ha/elect/t"), Value: []byte(good)})
	f.apply(&log.Record{Key: []byte("ha/seen/p/0"), Value: []byte{9}})
	require.EqualValues(t, 2, testutil.ToFloat64(f.metrics.undecodable))
}

func TestSeenRoundTrip(t *testing.T) {
	signs := []sign{{0, 0}, {7, 100}, {7_000_000_000, maxSpan}, {1 << 60, 12_300}}
	raw := encodeSeen(nil, signs)
	require.Equal(t, []byte{1, 0, 0, 7, 1}, raw[:5], "the format has changed")
	var got []sign
	require.NoError(t, decodeSeen(raw, func(s sign) { got = append(got, s) }))
	require.Equal(t, signs, got)
	for n := 1; n < len(raw); n++ {
		_ = decodeSeen(raw[:n], func(sign) {})
	}
	require.Error(t, decodeSeen(raw[:len(raw)-1], func(sign) {}))
	require.Error(t, decodeSeen([]byte{2}, func(sign) {}))
}

func FuzzApply(f *testing.F) {
	f.Add("ha/elect/t/c", []byte(`{"v":1,"replica":"a","epoch":1,"timeout_ms":1,"seen":0,"as_of":1}`), "0")
	f.Add("ha/elect/t/c", []byte(`{"v":1,"replica":"b","epoch":2,"timeout_ms":1,"seen":0,"claim":4,"since":9}`), "1")
	f.Add("ha/elect/t/c", []byte{}, "7")
	f.Add("ha/seen/p/0", encodeSeen(nil, []sign{{3, 100}, {8, 0}}), "")
	f.Fuzz(func(t *testing.T, key string, value []byte, header string) {
		tr := follower(t)
		known := encodeBallot("t", "c", ballot{Replica: "a", Epoch: 1, Timeout: 1000, AsOf: 1})
		known.Offset, known.Time = 3, 5
		tr.apply(&known)
		tr.apply(&log.Record{Key: []byte(key), Value: value, Offset: 9, Time: 20, Headers: []log.Header{{Key: claimHeader, Value: []byte(header)}}})
		for claim, c := range tr.byClaim {
			if c.claim != claim || c.epoch < 1 || !goodName(c.replica) || tr.tenants[c.tenant][c.name] != c {
				t.Fatalf("%+v under %d", c, claim)
			}
		}
		tr.Snapshot()
	})
}

func TestPage(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p, mux := start(t, l, "p"), http.NewServeMux()
		p.Register(mux)
		require.Equal(t, Accept, p.pushAs(t, "team-b", "eu", "a", terms))
		require.Equal(t, Accept, p.pushAs(t, "team-a", "<us>", "b", terms))
		begun := time.Now()
		time.Sleep(10 * time.Second)
		get := func(accept string) string {
			r := httptest.NewRequest(http.MethodGet, "/distributor/ha_tracker", nil)
			r.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			require.Equal(t, 200, w.Code)
			return w.Body.String()
		}
		var page struct{ Elected []Status }
		require.NoError(t, json.Unmarshal([]byte(get("application/json")), &page))
		require.Len(t, page.Elected, 2)
		require.Equal(t, Status{
			Tenant: "team-a", Cluster: "<us>", Replica: "b", Epoch: 1, ElectedAt: begun.UTC().Truncate(time.Millisecond),
			ReceivedAt: begun.UTC().Truncate(time.Millisecond), FailoverTime: 30, FailoverIn: 20,
		}, page.Elected[0])
		html := get("text/html")
		require.Contains(t, html, "<td>team-b</td><td>eu</td><td>a</td>")
		require.Contains(t, html, "&lt;us&gt;")
		require.Contains(t, html, "20.0 of 30 s")
	})
}

// TestElectWhileStopped: nobody waits for a tracker that does not run any more.
func TestElectWhileStopped(t *testing.T) {
	inTime(t, func(t *testing.T, l log.Log) {
		p := start(t, l, "p")
		p.stop()
		require.Error(t, p.Elect(context.Background(), schema.Tenant("t"), []Candidate{{"c", "a"}}, terms))
	})
}
