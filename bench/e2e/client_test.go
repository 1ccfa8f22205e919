package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// strong asks for everything that was acked before the query.
const strong = "X-Read-Consistency"

// reply is an answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func send(ctx context.Context, req *http.Request, tenant string) (reply, error) {
	if tenant != "" {
		req.Header.Set(schema.TenantHeader, tenant)
	}
	resp, err := http.DefaultClient.Do(req.WithContext(ctx))
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, body}, err
}

func expect(ctx context.Context, url, tenant string, status int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r, err := send(ctx, req, tenant)
	if err != nil {
		return err
	}
	if r.status != status {
		return fmt.Errorf("%s answers %d: %.300s", url, r.status, r.body)
	}
	return nil
}

func post(ctx context.Context, url, tenant, contentType string, body []byte) (reply, error) {
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return send(ctx, req, tenant)
}

// push sends a remote-write 1.0 request.
func (s *instance) push(tenant string, series ...prompb.TimeSeries) reply {
	s.t.Helper()
	raw, err := (&prompb.WriteRequest{Timeseries: series}).Marshal()
	require.NoError(s.t, err)
	return s.pushBody(tenant, snappy.Encode(nil, raw), nil)
}

// pushBody sends a body as it is, with the headers of remote write 1.0 unless others are given.
func (s *instance) pushBody(tenant string, body []byte, header map[string]string) reply {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.url("/api/v1/push"), bytes.NewReader(body))
	require.NoError(s.t, err)
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	for k, v := range header {
		if req.Header.Set(k, v); v == "" {
			req.Header.Del(k)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := send(ctx, req, tenant)
	require.NoError(s.t, err)
	return r
}

func series(name string, value float64, t time.Time, pairs ...string) prompb.TimeSeries {
	ts := prompb.TimeSeries{
		Labels:  []prompb.Label{{Name: "__name__", Value: name}},
		Samples: []prompb.Sample{{Timestamp: t.UnixMilli(), Value: value}},
	}
	for i := 0; i < len(pairs); i += 2 {
		ts.Labels = append(ts.Labels, prompb.Label{Name: pairs[i], Value: pairs[i+1]})
	}
	return ts
}

// result is what a query returns: by series, by time in ms, the value as text.
type result map[string]map[int64]string

// envelope is the JSON around every answer of Prometheus' API.
type envelope struct {
	Status    string
	ErrorType string
	Error     string
	Data      json.RawMessage
	Warnings  []string
}

// api calls Prometheus' API by a POST form, as Grafana does.
func api(base, tenant, path string, form url.Values, header map[string]string) (envelope, error) {
	return apiWithin(time.Minute, base, tenant, path, form, header)
}

func apiWithin(within time.Duration, base, tenant, path string, form url.Values, header map[string]string) (envelope, error) {
	var e envelope
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	req, err := http.NewRequest(http.MethodPost, base+path, strings.NewReader(form.Encode()))
	if err != nil {
		return e, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	r, err := send(ctx, req, tenant)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(r.body, &e); err != nil {
		return e, fmt.Errorf("status %d, not JSON: %.300s", r.status, r.body)
	}
	if r.status != http.StatusOK || e.Status != "success" {
		return e, fmt.Errorf("status %d: %s", r.status, e.Error)
	}
	return e, nil
}

// instant runs an instant query, with a strong read.
func instant(base, tenant, expr string, at time.Time) (result, error) {
	e, err := api(base, tenant, "/api/v1/query", url.Values{"query": {expr}, "time": {seconds(at)}}, map[string]string{strong: "strong"})
	if err != nil {
		return nil, err
	}
	return decode(e.Data)
}

func ranged(base, tenant, expr string, from, to time.Time, step time.Duration) (result, error) {
	e, err := api(base, tenant, "/api/v1/query_range", url.Values{
		"query": {expr}, "start": {seconds(from)}, "end": {seconds(to)}, "step": {strconv.FormatFloat(step.Seconds(), 'f', -1, 64)},
	}, map[string]string{strong: "strong"})
	if err != nil {
		return nil, err
	}
	return decode(e.Data)
}

func seconds(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

func decode(raw json.RawMessage) (result, error) {
	var d struct {
		ResultType string
		Result     json.RawMessage
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, err
	}
	type point [2]json.RawMessage
	out := result{}
	put := func(key string, p point) {
		sec, _ := strconv.ParseFloat(string(p[0]), 64)
		if out[key] == nil {
			out[key] = map[int64]string{}
		}
		out[key][int64(math.Round(sec*1000))] = strings.Trim(string(p[1]), `"`)
	}
	if d.ResultType == "scalar" || d.ResultType == "string" {
		var p point
		err := json.Unmarshal(d.Result, &p)
		put("", p)
		return out, err
	}
	var list []struct {
		Metric     map[string]string
		Value      *point
		Values     []point
		Histogram  *point
		Histograms []point
	}
	if err := json.Unmarshal(d.Result, &list); err != nil {
		return nil, err
	}
	for _, s := range list {
		key, err := json.Marshal(s.Metric) // sorted by label name
		if err != nil {
			return nil, err
		}
		if _, twice := out[string(key)]; twice {
			return nil, fmt.Errorf("series %s twice in one answer", key)
		}
		out[string(key)] = map[int64]string{}
		for _, p := range []*point{s.Value, s.Histogram} {
			if p != nil {
				put(string(key), *p)
			}
		}
		for _, p := range append(s.Values, s.Histograms...) {
			put(string(key), p)
		}
	}
	return out, nil
}

// equal compares two results: the same series at the same times with the same values, up to the last bits that two
// versions of the engine may add up differently.
func equal(want, got result) error {
	for key, points := range want {
		if got[key] == nil {
			return fmt.Errorf("series %s is missing (%d wanted, %d returned)", key, len(want), len(got))
		}
		for ms, w := range points {
			g, ok := got[key][ms]
			if !ok {
				return fmt.Errorf("series %s has no point at %d, want %s", key, ms, w)
			}
			if g != w && !close12(w, g) {
				return fmt.Errorf("series %s at %d: got %s, want %s", key, ms, g, w)
			}
		}
		if len(got[key]) != len(points) {
			return fmt.Errorf("series %s has %d points, want %d", key, len(got[key]), len(points))
		}
	}
	for key := range got {
		if want[key] == nil {
			return fmt.Errorf("series %s is not wanted (%d wanted, %d returned)", key, len(want), len(got))
		}
	}
	return nil
}

func close12(a, b string) bool {
	x, err1 := strconv.ParseFloat(a, 64)
	y, err2 := strconv.ParseFloat(b, 64)
	return err1 == nil && err2 == nil && math.Abs(x-y) <= 1e-12*math.Max(math.Abs(x), math.Abs(y))
}

// one returns the value of a result of one series with one point.
func (r result) one(t *testing.T) string {
	t.Helper()
	require.Len(t, r, 1)
	for _, points := range r {
		require.Len(t, points, 1)
		for _, v := range points {
			return v
		}
	}
	return ""
}
