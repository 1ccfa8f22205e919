package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
)

type coverageOf struct {
	Consistency string
	Whole       bool
	Blocks      int
	Partitions  []struct {
		Partition int32
		To        int64
		BlocksTo  int64 `json:"blocks_to"`
		Member    string
	}
	Missing []string
}

// reportOf is what explain=true adds to an answer.
type reportOf struct {
	Name     string
	Seconds  float64
	Error    string
	Values   map[string]any
	Total    map[string]int64
	Children []reportOf
}

// secondsOf adds up the spans with that name.
func (r *reportOf) secondsOf(name string) (sum float64) {
	if r.Name == name {
		sum = r.Seconds
	}
	for i := range r.Children {
		sum += r.Children[i].secondsOf(name)
	}
	return sum
}

type activeOf struct{ ID, Query, State, Tenant string }

// What a query did is known while it runs, when it is over, when somebody ends it, and when the process dies of it.
func TestExplain(t *testing.T) {
	enabled(t)
	t.Parallel()
	const many = 300
	s := newInstance(t, workDir(t), "all", "--log.partitions", "2", "--self-monitoring.tenant", "", "--producer.tick-interval", "1s", "--reader.slow-query-log", "-1ns")
	s.start()
	s.ready(time.Minute)
	now := time.Now()
	push := func(at time.Time) {
		var list []prompb.TimeSeries
		for n := range many {
			list = append(list, series("m", float64(n), at, "n", strconv.Itoa(n)))
		}
		require.Equal(t, 204, s.push("shop", list...).status)
	}
	push(now.Add(-2 * time.Minute))
	s.seal(time.Minute)
	push(now)

	query := func(params ...string) (http.Header, int, reportOf, coverageOf) {
		t.Helper()
		form := url.Values{"query": {"sum(count_over_time(m[10m]))"}, "time": {seconds(now)}, "stats": {"true"}, "explain": {"true"}}
		for i := 0; i < len(params); i += 2 {
			form.Set(params[i], params[i+1])
		}
		req, err := http.NewRequest(http.MethodPost, s.url("/api/v1/query"), strings.NewReader(form.Encode()))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set(strong, "strong")
		r, err := send(context.Background(), req, "shop")
		require.NoError(t, err)
		var body struct {
			Data struct {
				Stats  struct{ Coverage coverageOf }
				Result []struct{ Value [2]any }
			}
			Explain reportOf
		}
		require.NoError(t, json.Unmarshal(r.body, &body), string(r.body))
		if r.status == 200 && len(params) == 0 {
			require.Equal(t, fmt.Sprint(2*many), body.Data.Result[0].Value[1])
		}
		return r.header, r.status, body.Explain, body.Data.Stats.Coverage
	}

	_, status, e, covers := query()
	require.Equal(t, 200, status)
	require.EqualValues(t, 2*many, e.Total["series"], "from heads and blocks")
	require.EqualValues(t, 2*many, e.Total["samples"])
	require.EqualValues(t, 2*many, e.Total["chunks"], "those in memory too")
	require.Positive(t, e.secondsOf("evaluate"))
	require.Positive(t, e.secondsOf("member"))
	require.Positive(t, e.secondsOf("block"))
	require.True(t, covers.Whole)
	require.Equal(t, "strong", covers.Consistency)
	require.Equal(t, 2, covers.Blocks, "one of each partition")
	require.Len(t, covers.Partitions, 2)
	for _, p := range covers.Partitions {
		require.Positive(t, p.BlocksTo)
		require.Greater(t, p.To, p.BlocksTo)
		require.NotEmpty(t, p.Member)
	}

	active := func() (list []activeOf) {
		r, err := api(s.url(""), "shop", "/api/v1/query", url.Values{"query": {"1"}}, nil)
		require.NoError(t, err, r)
		req, err := http.NewRequest(http.MethodGet, s.url("/api/v1/status/active_queries"), nil)
		require.NoError(t, err)
		got, err := send(context.Background(), req, "shop")
		require.NoError(t, err)
		var body struct{ Data []activeOf }
		require.NoError(t, json.Unmarshal(got.body, &body), string(got.body))
		return body.Data
	}
	const heavy = "quantile_over_time(0.5, (m * time())[1h:1s])" // minutes
	begin := func() (id string, done chan error) {
		done = make(chan error, 1)
		go func() {
			_, err := api(s.url(""), "shop", "/api/v1/query_range", url.Values{"query": {heavy}, "start": {seconds(now.Add(-time.Hour))}, "end": {seconds(now)}, "step": {"2"}}, nil)
			done <- err
		}()
		eventually(t, "the query runs", time.Minute, func() error {
			list := active()
			i := slices.IndexFunc(list, func(a activeOf) bool { return a.Query == heavy && a.State == "running" })
			if i < 0 {
				return errors.New("not there")
			}
			id = list[i].ID
			return nil
		})
		return id, done
	}
	id, done := begin()
	r, err := post(context.Background(), s.url("/api/v1/status/active_queries/cancel?id="+id), "other", "", nil)
	require.NoError(t, err)
	require.Equal(t, 404, r.status, "nobody ends another tenant's")
	r, err = post(context.Background(), s.url("/api/v1/status/active_queries/cancel?id="+id), "shop", "", nil)
	require.NoError(t, err)
	require.Equal(t, 200, r.status, string(r.body))
	require.ErrorContains(t, <-done, "status 499")

	req, err := http.NewRequest(http.MethodGet, s.url("/api/v1/status/top_queries"), nil)
	require.NoError(t, err)
	got, err := send(context.Background(), req, "shop")
	require.NoError(t, err)
	require.Contains(t, string(got.body), `"endpoint":"/query_range","query":"`+heavy+`","timeRangeSeconds":3600,"count":1,`)

	// A block whose chunks are gone: an error that names it, or a part of the answer that says what is missing.
	found, err := filepath.Glob(filepath.Join(s.data, "bucket", "shop", "*", "chunks", "000001"))
	require.NoError(t, err)
	require.Len(t, found, 2)
	block := filepath.Base(filepath.Dir(filepath.Dir(found[0])))
	_, done = begin()
	s.kill()
	require.Error(t, <-done)
	require.NoError(t, os.Remove(found[0]))
	s.start()
	s.ready(time.Minute)
	_, status, e, _ = query()
	require.Equal(t, 503, status)
	text, err := json.Marshal(e)
	require.NoError(t, err)
	require.Contains(t, string(text), block)
	header, status, _, covers := query("partial_response", "true")
	require.Equal(t, 200, status)
	require.False(t, covers.Whole)
	require.Equal(t, 1, covers.Blocks)
	require.Contains(t, strings.Join(covers.Missing, "\n"), block)
	require.Equal(t, "1", header.Get("X-Sluice-Missing-Parts"))

	log, err := os.ReadFile(s.log)
	require.NoError(t, err)
	require.Contains(t, string(log), "queries didn't finish", "what it died of")
	require.Contains(t, string(log), `msg="slow query" tenant=shop`)
}
