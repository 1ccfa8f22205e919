package read

import (
	"net/url"
	"strconv"
	"time"
)

// Query is a request that a dashboard makes.
type Query struct {
	Name string
	Path string // below /api/v1
	// One of the classes that PERFORMANCE's targets are for.
	Class  class
	Expr   string        // PromQL or a selector
	Range  time.Duration // back from the end of the data; 0 = an instant query
	Step   time.Duration
	Approx bool // rate is meant otherwise by MetricsQL and by old versions of Prometheus: of them only the number of series is compared
}

type class string

const (
	instantMany class = "instant, many series"
	rangeMany   class = "range, many series"
	small       class = "small"
)

// most is the target: Sluice's p50 and CPU are at most so many times Prometheus'.
var most = map[class]float64{instantMany: 1.1, rangeMany: 0.7, small: 1.2}

// Queries are the twelve of a run. The range of those with long is that of the data, at most six hours.
func Queries(d *Data) []Query {
	long, hour := min(d.Length, 6*time.Hour), min(d.Length, time.Hour)
	const (
		total    = "http_requests_total"
		bucket   = "http_request_duration_seconds_bucket"
		oneSpace = `{namespace="customer-facing-07"}`
	)
	return []Query{
		{Name: "instant sum by (namespace) of rate", Class: instantMany, Expr: "sum by (namespace) (rate(" + total + "[5m]))", Approx: true},
		{Name: "instant topk of rate of buckets", Class: instantMany, Expr: "topk(10, rate(" + bucket + "[5m]))", Approx: true},
		{Name: "instant histogram_quantile of all", Class: instantMany, Expr: "histogram_quantile(0.99, sum by (le, namespace) (rate(" + bucket + "[5m])))", Approx: true},
		{Name: "instant max_over_time of hours", Class: instantMany, Expr: "topk(5, max by (pod) (max_over_time(container_memory_working_set_bytes[" + seconds(long) + "s])))"},
		{Name: "range sum by (namespace) of rate", Class: rangeMany, Expr: "sum by (namespace) (rate(" + total + "[5m]))", Range: hour, Step: 15 * time.Second, Approx: true},
		{Name: "range sum by (pod) of rate, hours", Class: rangeMany, Expr: "sum by (pod) (rate(" + total + "[5m]))", Range: long, Step: time.Minute, Approx: true},
		{Name: "range errors over all, hours", Class: rangeMany, Expr: "sum(rate(" + total + `{code=~"5.."}[5m])) / sum(rate(` + total + "[5m]))", Range: long, Step: time.Minute, Approx: true},
		{Name: "range histogram_quantile of a namespace", Class: rangeMany, Expr: "histogram_quantile(0.99, sum by (le) (rate(" + bucket + oneSpace + "[5m])))", Range: long, Step: time.Minute, Approx: true},
		{Name: "range sum by (pod) of 450 series", Class: small, Expr: "sum by (pod) (rate(" + total + oneSpace + "[5m]))", Range: hour, Step: 15 * time.Second, Approx: true},
		{Name: "range of 50 series as they are", Class: small, Expr: "container_memory_working_set_bytes" + oneSpace, Range: hour, Step: 15 * time.Second},
		{Name: "label values of pod", Path: "/label/pod/values", Class: small, Range: hour},
		{Name: "series of a namespace", Path: "/series", Class: small, Expr: total + oneSpace, Range: hour},
	}
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

// request is path and form of the query over the data.
func (q *Query) request(d *Data) (path string, form url.Values) {
	at := func(ms int64) string { return strconv.FormatFloat(float64(ms)/1000, 'f', 3, 64) }
	from, to := at(d.End()-q.Range.Milliseconds()), at(d.End())
	switch {
	case q.Path != "":
		form = url.Values{"start": {from}, "end": {to}}
		if q.Expr != "" {
			form.Set("match[]", q.Expr)
		}
		return q.Path, form
	case q.Range > 0:
		return "/query_range", url.Values{"query": {q.Expr}, "start": {from}, "end": {to}, "step": {seconds(q.Step)}}
	}
	return "/query", url.Values{"query": {q.Expr}, "time": {to}}
}
