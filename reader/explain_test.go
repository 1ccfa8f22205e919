package reader

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/internal/trace"
	"sluice/internal/web"
	"sluice/schema"
)

// spans returns the spans of that name, at any depth.
func spans(r *trace.Report, name string) (found []*trace.Report) {
	if r.Name == name {
		found = append(found, r)
	}
	for _, child := range r.Children {
		if child.Name != "cover" { // asks whether something is final
			found = append(found, spans(child, name)...)
		}
	}
	return found
}

func explained(t *testing.T, got reply) explanation {
	var body struct{ Explain explanation }
	require.NoError(t, json.Unmarshal([]byte(got.body), &body), got.body)
	require.NotNil(t, body.Explain.Report, got.body)
	return body.Explain
}

// TestExplain: heads of another process, own blocks and those of another reader.
func TestExplain(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	g := newGroup(t, 2, nil, nil)
	g.randomBlocks(t, rng, 12)
	w := g.worlds[0]
	w.log.bounds = []log.Bounds{{End: 100}, {End: 50}}
	w.cat.snapshots[0].shipped = map[int32]int64{0: 10, 1: 50}
	w.sources["c"] = &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, map[string][]sample{"heads": {{39, 1}}}), applied: map[int32]int64{0: 90}}
	g.dir.fakeDir[0] = []string{"c"}
	base := serve(t, w) + "/prometheus/api/v1"

	for _, u := range []string{
		"/query?time=0.04&query=count(m)", "/query_range?start=0&end=1&step=1&query=m", "/series?match[]=m", "/labels", "/label/s/values",
		"/query_exemplars?query=m", "/query?query=m+%2B+on()+m&time=0.04",
	} {
		plain, more := get(t, base+u), get(t, base+u+"&explain=true")
		if !strings.Contains(u, "?") {
			more = get(t, base+u+"?explain=true")
		}
		require.Equal(t, plain.code, more.code)
		head, _, ok := strings.Cut(more.body, `,"explain":`)
		require.True(t, ok, more.body)
		require.Equal(t, strings.TrimSpace(plain.body), head+"}", "explain comes on top of the same answer")
		e := explained(t, more)
		require.Positive(t, e.Seconds)
		require.Len(t, spans(e.Report, "member"), 1*max(1, len(spans(e.Report, "select"))), u)
		require.Len(t, spans(e.Report, "plan"), 1, u)
	}

	form := url.Values{"query": {"count(m)"}, "time": {"0.04"}, "explain": {"true"}, "stats": {"true"}}
	got := post(t, base+"/query", form, "Accept-Encoding", "gzip")
	require.Empty(t, got.header.Get("Content-Encoding"))
	e := explained(t, got)
	require.Equal(t, "query", e.Name)
	for _, name := range []string{"queue", "parse", "evaluate", "plan", "select", "member", "reader", "encode", "send"} {
		require.Len(t, spans(e.Report, name), 1, name)
	}
	require.Len(t, spans(e.Report, "block"), 12, "here and there")
	require.Len(t, spans(e.Report, "there"), 1)
	require.Equal(t, "c", spans(e.Report, "member")[0].Values["member"])
	require.NotZero(t, e.Total[trace.Series])
	require.NotZero(t, e.Total[trace.Samples])

	var data struct {
		Data struct {
			Stats struct {
				Timings, Samples map[string]any
				Coverage         coverageJSON
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(got.body), &data))
	require.NotEmpty(t, data.Data.Stats.Timings)
	require.Equal(t, coverageJSON{
		Consistency: "eventual", Whole: true, Blocks: 12,
		Partitions: []partitionCoverage{{Partition: 0, To: 90, BlocksTo: 10, Member: "c"}, {Partition: 1, To: 50, BlocksTo: 50}},
	}, data.Data.Stats.Coverage)
	require.Equal(t, data.Data.Stats.Coverage, e.Coverage)

	form.Set("stats", "much")
	require.Contains(t, post(t, base+"/query", form).body, `value \"much\" for parameter \"stats\" is deprecated`)
}

// TestExplainWhatFails: the parts that failed say why, on an answer that is an error as well.
func TestExplainWhatFails(t *testing.T) {
	w, src, base := simple(t, web.Tenancy{})
	torn := w.block(1, 0, newData(t, map[string][]sample{"a": {{60_000, 1}}}))
	w.blocks.errs[torn.ID] = schema.Unavailable(schema.ErrBlockUnreadable, nil, "file index of block %s is torn", torn.ID)
	base += "/api/v1/query?query=m&time=100&explain=1&stats=all"
	got := get(t, base)
	require.Equal(t, 503, got.code)
	e := explained(t, got)
	require.Contains(t, spans(e.Report, "block")[0].Error, "is torn")
	require.Contains(t, spans(e.Report, "select")[0].Error, "is torn")

	got = get(t, base+"&partial_response=true")
	require.Equal(t, 200, got.code, got.body)
	require.Equal(t, "1", got.header.Get(partialHeader))
	e = explained(t, got)
	require.False(t, e.Coverage.Whole)
	require.Contains(t, e.Coverage.Missing[0], torn.ID.String())
	require.Contains(t, got.json.Warnings[0], torn.ID.String())

	delete(w.blocks.errs, torn.ID)
	src.err = schema.Unavailable(schema.ErrPartitionUnavailable, nil, "partition 0 is replaying")
	got = get(t, base+"&partial_response=true")
	require.Equal(t, 200, got.code, got.body)
	require.Contains(t, strings.Join(explained(t, got).Coverage.Missing, " "), "partition 0")
	src.err = nil
	require.Empty(t, get(t, base).header.Get(partialHeader))

	w.limits.MaxFetchedSeriesPerQuery = 1
	got = get(t, base)
	require.Equal(t, 422, got.code)
	require.Contains(t, got.json.Error, "max_fetched_series_per_query")
	require.EqualValues(t, 2, explained(t, got).Total[trace.Series])
}

// TestTail: whatever pieces an answer comes in, the explanation is its last member.
func TestTail(t *testing.T) {
	e := &explanation{Report: &trace.Report{Name: "x"}}
	more, err := json.Marshal(e)
	require.NoError(t, err)
	for _, end := range []string{"", "\n"} {
		whole := `{"status":"success","data":[1,2,{}]}` + end
		want := `{"status":"success","data":[1,2,{}],"explain":` + string(more) + "}" + end
		for size := 1; size <= len(whole); size++ {
			w, tl := httptest.NewRecorder(), &tail{}
			for rest := whole; rest != ""; rest = rest[min(size, len(rest)):] {
				n, err := tl.write(w, []byte(rest[:min(size, len(rest))]))
				require.NoError(t, err)
				require.Equal(t, min(size, len(rest)), n)
			}
			tl.end(w, e)
			require.Equal(t, want, w.Body.String(), fmt.Sprint(size))
		}
	}
	w, tl := httptest.NewRecorder(), &tail{}
	_, _ = tl.write(w, []byte("no object"))
	tl.end(w, e)
	require.Equal(t, "no object", w.Body.String())
	require.Equal(t, http.StatusOK, w.Code)
}
