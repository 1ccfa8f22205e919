package reader

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"sluice/internal/catalog"
	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/schema"
)

var _ Catalog = (*catalog.Catalog)(nil)

func gapOf(partition int32, from, to int64, fromTime, toTime time.Duration) schema.Gap {
	return schema.Gap{
		LogRange: schema.LogRange{Partition: partition, From: from, To: to},
		FromTime: fromTime.Milliseconds(), ToTime: toTime.Milliseconds(), Reason: "retention",
	}
}

func TestConcerns(t *testing.T) {
	ms := func(d time.Duration) int64 { return d.Milliseconds() }
	for _, tc := range []struct {
		name       string
		from, to   time.Duration // of the gap, 0 = unknown
		mint, maxt int64
		want       bool
	}{
		{"before", 10 * time.Hour, 12 * time.Hour, 0, ms(9*time.Hour) - 1, false},
		{"an hour before", 10 * time.Hour, 12 * time.Hour, 0, ms(9 * time.Hour), true},
		{"inside", 10 * time.Hour, 12 * time.Hour, ms(11 * time.Hour), ms(11 * time.Hour), true},
		{"around", 10 * time.Hour, 12 * time.Hour, math.MinInt64, math.MaxInt64, true},
		{"ahead", 10 * time.Hour, 12 * time.Hour, ms(12*time.Hour + 10*time.Minute), math.MaxInt64, true},
		{"after", 10 * time.Hour, 12 * time.Hour, ms(12*time.Hour+10*time.Minute) + 1, math.MaxInt64, false},
		{"unknown start", 0, 12 * time.Hour, math.MinInt64, math.MinInt64, true},
		{"unknown end", 10 * time.Hour, 0, math.MaxInt64, math.MaxInt64, true},
		{"unknown end, before", 10 * time.Hour, 0, 0, 0, false},
		{"nothing known", 0, 0, 5, 5, true},
	} {
		g := gapOf(0, 1, 2, tc.from, tc.to)
		require.Equal(t, tc.want, concerns(&g, tc.mint, tc.maxt), tc.name)
	}
}

// A query over the time of a gap fails, on every endpoint, in words and with a status that say that waiting is no use.
func TestGapInTheLog(t *testing.T) {
	w, _, base := simple(t, web.Tenancy{})
	w.cat.snapshots[0].gaps = []schema.Gap{gapOf(2, 10, 50, 2*time.Hour, 3*time.Hour), gapOf(3, 7, 9, 2*time.Hour, 3*time.Hour)}
	const at = "5400" // 1 h 30 min
	query := func(more string) reply { return get(t, base+"/api/v1/query?query=m&time="+at+more) }
	got := query("")
	require.Equal(t, 422, got.code, got.body)
	require.Equal(t, "execution", got.json.ErrorType)
	for _, words := range []string{
		string(schema.ErrSamplesLost), "offsets 10 to 50 of partition 2", "1970-01-01T02:00:00Z", "1970-01-01T03:00:00Z", "retention",
		"1 more", "partial_response=true", "accept-gap --partition 2 --from 10",
	} {
		require.Contains(t, got.json.Error, words)
	}
	require.Empty(t, got.header.Get("Retry-After"))
	for _, p := range []string{"/query_range?query=rate(m[5m])&start=3000&end=4000&step=10", "/series?match[]=m&start=5000&end=5400", "/labels", "/label/s/values"} {
		got := get(t, base+"/api/v1"+p)
		require.Equal(t, 422, got.code, p)
		require.Contains(t, got.json.Error, schema.ErrSamplesLost, p)
	}
	require.Equal(t, 422, remoteReadAt(t, base, 5_000_000, 5_400_000).code)
	require.Equal(t, 200, get(t, base+"/api/v1/query?query=m&time=120").code, "another time")
	require.Equal(t, 422, get(t, base+"/api/v1/query_exemplars?query=m&start=5000&end=5400").code, "exemplars live as long as samples")

	got = query("&partial_response=true")
	require.Equal(t, 200, got.code)
	require.Len(t, got.json.Warnings, 1)
	require.Contains(t, got.json.Warnings[0], schema.ErrSamplesLost)
	require.Equal(t, 1.0, testutil.ToFloat64(w.reader.metrics.partial))

	for i := range w.cat.snapshots[0].gaps {
		w.cat.snapshots[0].gaps[i].Reason = "accepted: retention"
	}
	got = query("")
	require.Equal(t, 200, got.code, got.body)
	require.Len(t, got.json.Warnings, 1)
	require.Contains(t, got.json.Warnings[0], "offsets 10 to 50 of partition 2")
	require.Contains(t, got.json.Warnings[0], "has been accepted")
	require.Empty(t, get(t, base+"/api/v1/query?query=m&time=120").json.Warnings)
	require.Equal(t, 1.0, testutil.ToFloat64(w.reader.metrics.partial), "it is no partial answer")
	got = post(t, base+"/api/v1/labels", url.Values{})
	require.Equal(t, 200, got.code)
	require.Len(t, got.json.Warnings, 1)
}

func remoteReadAt(t testing.TB, base string, from, to int64) reply {
	return remoteRead(t, base, prompb.ReadRequest_SAMPLES, func(q *prompb.Query) { q.StartTimestampMs, q.EndTimestampMs = from, to })
}

// The log of two partitions was cut before it was in blocks, and no gap is recorded.
func TestLogThatWasCut(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{Start: 50, End: 100}, {Start: 60, End: 100}}
	w.cat.snapshots[0].shipped = map[int32]int64{0: 10, 1: 20}
	w.sources["c"] = &fakeSource{held: map[int32]int64{0: 50, 1: 60}, data: newData(t, map[string][]sample{"a": {{1, 1}}})}
	w.dir[0], w.dir[1] = []string{"c"}, []string{"c"}
	_, _, err := w.selectAll(asTenant("acme"))
	requireID(t, err, schema.ErrCoverage)
	require.ErrorContains(t, err, "offsets 10 to 50 of partition 0")

	partial := withOptions(context.Background(), &options{tenant: "acme", partial: true})
	got, set, err := w.selectAll(partial)
	require.NoError(t, err)
	require.Equal(t, map[string][]sample{"a": {{1, 1}}}, got, "what there is")
	require.Len(t, set.Warnings(), 2)
	require.Contains(t, fmt.Sprint(set.Warnings().AsErrors()), "offsets 20 to 60 of partition 1")

	// Recorded gaps say it better.
	w.cat.snapshots[0].gaps = []schema.Gap{gapOf(0, 5, 30, 0, 0), gapOf(0, 30, 50, 0, 0), gapOf(1, 20, 60, 0, 0)}
	_, _, err = w.selectAll(asTenant("acme"))
	var se *schema.Error
	require.ErrorAs(t, err, &se)
	require.Equal(t, schema.ErrSamplesLost, se.ID)
	for i := range w.cat.snapshots[0].gaps {
		w.cat.snapshots[0].gaps[i].Reason = "accepted: retention"
	}
	got, set, err = w.selectAll(asTenant("acme"))
	require.NoError(t, err)
	require.Equal(t, map[string][]sample{"a": {{1, 1}}}, got)
	require.Len(t, set.Warnings(), 1)

	// Nobody is there to ask, and the log is empty: that alone does not mean that the blocks have everything.
	w.dir[0], w.dir[1] = nil, nil
	w.log.bounds = []log.Bounds{{Start: 50, End: 50}, {Start: 61, End: 61}}
	_, _, err = w.selectAll(asTenant("acme"))
	requireID(t, err, schema.ErrCoverage)
	require.ErrorContains(t, err, "offsets 60 to 61 of partition 1")
	w.log.bounds[1] = log.Bounds{Start: 60, End: 60}
	_, _, err = w.selectAll(asTenant("acme"))
	require.NoError(t, err)
}

// Blocks that come while the question is put again mend a cut.
func TestCutThatHeals(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.bounds = []log.Bounds{{Start: 50, End: 100}, {Start: 50, End: 100}}
	old := snapshot{shipped: map[int32]int64{0: 10, 1: 10}}
	w.cat.snapshots = []snapshot{old, old, {shipped: map[int32]int64{0: 50, 1: 50}}}
	w.sources["c"] = &fakeSource{held: map[int32]int64{0: 50, 1: 50}, data: newData(t, map[string][]sample{"a": {{1, 1}}})}
	w.dir[0], w.dir[1] = []string{"c"}, []string{"c"}
	partial := withOptions(context.Background(), &options{tenant: "acme", partial: true})
	_, set, err := w.selectAll(partial)
	require.NoError(t, err)
	require.Empty(t, set.Warnings())
}

// Offsets of a topic that was deleted say nothing about the one of the same name.
func TestTopicThatWasReplaced(t *testing.T) {
	w := newWorld(t, nil, web.Tenancy{})
	w.log.topicID, w.log.bounds = "new", []log.Bounds{{End: 7}}
	w.cat.snapshots[0] = snapshot{shipped: map[int32]int64{0: 1000}, topicID: "old"}
	_, _, err := w.selectAll(asTenant("acme"))
	requireID(t, err, schema.ErrPartitionUnavailable)
	src := &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, nil)}
	w.sources["c"], w.dir[0] = src, []string{"c"}
	_, _, err = w.selectAll(asTenant("acme"))
	require.NoError(t, err)
	require.Zero(t, src.asked[0][0].From)
}
