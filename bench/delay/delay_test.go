package delay

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
)

// standIn is a backend of known delays. It runs in the fake time of a synctest bubble, so what is measured can be compared
// to the nanosecond.
type standIn struct {
	t                *testing.T
	write, query     time.Duration // how long they take
	visible          time.Duration // after the 2xx; below zero = before it
	hide             func(value int64) bool
	refuse           func(value int64) bool // 503
	failFirstQueries int

	mu      sync.Mutex
	shown   map[int64]time.Time // from when on
	stamps  map[int64]int64     // by value, ms
	turns   map[string]int
	queries int
}

func newStandIn(t *testing.T) *standIn {
	return &standIn{
		t: t, write: 7 * time.Millisecond, query: 3 * time.Millisecond, visible: 40 * time.Millisecond,
		hide: func(int64) bool { return false }, refuse: func(int64) bool { return false },
		shown: map[int64]time.Time{}, stamps: map[int64]int64{}, turns: map[string]int{},
	}
}

// RoundTrip is the network: none.
func (s *standIn) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	switch {
	case r.Header.Get("X-Scope-OrgID") != "team-a":
		http.Error(w, "whose?", http.StatusUnauthorized)
	case r.URL.Path == "/api/v1/push":
		s.push(w, r)
	case r.URL.Path == "/prometheus/api/v1/query":
		s.ask(w, r)
	default:
		http.NotFound(w, r)
	}
	return w.Result(), nil
}

func (s *standIn) push(w http.ResponseWriter, r *http.Request) {
	packed, err := io.ReadAll(r.Body)
	require.NoError(s.t, err)
	raw, err := snappy.Decode(nil, packed)
	require.NoError(s.t, err)
	var req prompb.WriteRequest
	require.NoError(s.t, req.Unmarshal(raw))
	require.Len(s.t, req.Timeseries, 1)
	require.Len(s.t, req.Timeseries[0].Samples, 1)
	sample := req.Timeseries[0].Samples[0]
	value := int64(sample.Value)
	s.mu.Lock()
	require.NotContains(s.t, s.stamps, value, "a value is written once")
	s.stamps[value] = sample.Timestamp
	for _, l := range req.Timeseries[0].Labels {
		if l.Name == "turn" {
			s.turns[l.Value]++
		}
	}
	s.shown[value] = time.Now().Add(s.write + s.visible)
	s.mu.Unlock()
	time.Sleep(s.write)
	if s.refuse(value) {
		http.Error(w, "slow down", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *standIn) ask(w http.ResponseWriter, r *http.Request) {
	var width int64
	_, rng, _ := strings.Cut(r.FormValue("query"), "[")
	_, err := fmt.Sscanf(rng, "%dms]", &width)
	require.NoError(s.t, err, "%s", r.FormValue("query"))
	var seconds, ms int64
	_, err = fmt.Sscanf(r.FormValue("time"), "%d.%d", &seconds, &ms)
	require.NoError(s.t, err)
	to := seconds*1000 + ms

	s.mu.Lock()
	s.queries++
	fail := s.queries <= s.failFirstQueries
	var points [][2]any
	for v, from := range s.shown { // a query sees what there is when it begins
		if stamp := s.stamps[v]; stamp > to-width && stamp <= to && !time.Now().Before(from) && !s.hide(v) {
			points = append(points, [2]any{float64(stamp) / 1000, fmt.Sprint(v)})
		}
	}
	s.mu.Unlock()
	time.Sleep(s.query)
	if fail {
		http.Error(w, "not yet", http.StatusServiceUnavailable)
		return
	}
	require.NoError(s.t, json.NewEncoder(w).Encode(map[string]any{
		"status": "success",
		"data":   map[string]any{"resultType": "matrix", "result": []any{map[string]any{"metric": map[string]string{}, "values": points}}},
	}))
}

func (s *standIn) config() Config {
	return Config{
		WriteURL: "http://backend/api/v1/push", ReadURL: "http://backend/prometheus/", Tenant: "team-a", Client: &http.Client{Transport: s},
		Duration: time.Second, Interval: 100 * time.Millisecond, Series: 4, Pause: 2 * time.Millisecond, Wait: 5 * time.Second,
	}
}

func same(n int, ms float64) Times { return Times{Count: n, Median: ms, P99: ms, Max: ms} }

// TestDelayIsExact: queries of 3 ms begin every 5 ms from the ack on; the one that begins 40 ms after it is the first to
// show the value.
func TestDelayIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStandIn(t)
		got, err := Run(t.Context(), s.config())
		require.NoError(t, err)
		require.NoError(t, got.Err())
		require.Equal(t, same(10, 7), got.Ack)
		require.Equal(t, same(10, 43), got.Delay)
		require.Equal(t, same(90, 3), got.Query)
		require.Equal(t, same(80, 5), got.Gap)
		require.Equal(t, same(10, 0), got.Slip)
		require.Equal(t, []int{10, 0, 10, 0, 90, 0}, []int{got.Written, got.WritesFailed, got.Seen, got.NotSeen, got.Queries, got.QueriesFailed})
		require.Equal(t, map[string]int{"0": 3, "1": 3, "2": 2, "3": 2}, s.turns)
	})
}

// TestDelayIsNeverShorterThanAQuery: what is visible before its ack is still asked for only after it.
func TestDelayIsNeverShorterThanAQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStandIn(t)
		s.visible = -s.write
		cfg := s.config()
		cfg.Interval = 4 * time.Millisecond // so that acks arrive while queries are under way
		got, err := Run(t.Context(), cfg)
		require.NoError(t, err)
		require.NoError(t, got.Err())
		require.Equal(t, 250, got.Delay.Count)
		require.GreaterOrEqual(t, got.Delay.Median, 3.0)
		require.LessOrEqual(t, got.Delay.Max, 5.0+3.0, "the rest of the query that was under way, the pause, the query")
	})
}

// TestOverlappingValues: many are pending at once and each is measured by itself.
func TestOverlappingValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStandIn(t)
		cfg := s.config()
		cfg.Interval = 4 * time.Millisecond
		got, err := Run(t.Context(), cfg)
		require.NoError(t, err)
		require.NoError(t, got.Err())
		require.Equal(t, 250, got.Delay.Count)
		require.GreaterOrEqual(t, got.Delay.Median, 43.0)
		require.LessOrEqual(t, got.Delay.Max, 40.0+5.0+3.0)
	})
}

// TestSlowWritesAreStillSentOnTime: a backend that answers late does not make the schedule kinder to it.
func TestSlowWritesAreStillSentOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStandIn(t)
		s.write = 2 * time.Second
		got, err := Run(t.Context(), s.config())
		require.NoError(t, err)
		require.Equal(t, same(10, 0), got.Slip)
		require.Equal(t, same(10, 2000), got.Ack)
	})
}

func TestFailuresAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStandIn(t)
		s.refuse = func(v int64) bool { return v == 3 }
		s.failFirstQueries = 9
		got, err := Run(t.Context(), s.config())
		require.NoError(t, err)
		require.NoError(t, got.Err())
		require.Equal(t, []int{10, 1, 9, 0, 9}, []int{got.Written, got.WritesFailed, got.Seen, got.NotSeen, got.QueriesFailed})
		require.Equal(t, Times{Count: 9, Median: 43, P99: 48, Max: 48}, got.Delay, "the first value was found by the tenth query")
		require.Contains(t, got.LastError, "slow down")
	})
}

// TestWhatIsNotSeenIsAnError: it is waited for as long as was said, and told.
func TestWhatIsNotSeenIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStandIn(t)
		s.hide = func(v int64) bool { return v == 9 }
		got, err := Run(t.Context(), s.config())
		require.NoError(t, err)
		require.Equal(t, []int{9, 1}, []int{got.Seen, got.NotSeen})
		require.ErrorContains(t, got.Err(), "1 of 10 acked values")
	})
}

func TestNothingAckedIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStandIn(t)
		cfg := s.config()
		cfg.Tenant = ""
		got, err := Run(t.Context(), cfg)
		require.NoError(t, err)
		require.ErrorContains(t, got.Err(), "whose?")
	})
}

// TestInterruptedMeasurementReports what it has.
func TestInterruptedMeasurementReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStandIn(t)
		ctx, cancel := context.WithTimeout(t.Context(), 445*time.Millisecond)
		defer cancel()
		got, err := Run(ctx, s.config())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, same(4, 43), got.Delay)
	})
}

func TestPrint(t *testing.T) {
	var out strings.Builder
	want := Report{Written: 3, Seen: 3, Delay: timesOf([]time.Duration{3 * time.Millisecond, time.Millisecond, 2 * time.Millisecond})}
	require.Equal(t, Times{Count: 3, Median: 2, P99: 3, Max: 3}, want.Delay)
	require.NoError(t, want.Print(&out))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Regexp(t, `^delay +2\.0 +3\.0 +3\.0 +3 `, lines[2])
	var got Report
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &got))
	require.Equal(t, want, got)
}
