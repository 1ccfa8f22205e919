package reader

import (
	"cmp"
	"context"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"sluice/internal/cardinality"
	"sluice/internal/queried"
	"sluice/schema"
)

const (
	defaultNames    = 1000
	maxListedNames  = 100_000
	maxPatternBytes = 1000
	// namesFor is how far back blocks are asked for metric names when the consumers cannot name all of theirs.
	namesFor = 24 * time.Hour
)

// metricNamesStats is what /status/metric_names_stats answers: VictoriaMetrics' fields, below data, and the series.
type metricNamesStats struct {
	Since   int64              `json:"statsCollectedSince"` // s
	Total   int                `json:"statsCollectedRecordsTotal"`
	Records []metricNameRecord `json:"records"`
}

type metricNameRecord struct {
	Name     string `json:"metricName"`
	Requests uint64 `json:"queryRequests"`
	Last     int64  `json:"lastRequestTimestamp"` // s; 0 = never
	Series   *int64 `json:"series,omitempty"`     // that consumers hold; none: not known
}

// namesQuestion is what of it is wanted.
type namesQuestion struct {
	tenant  schema.Tenant
	limit   int
	most    uint64 // requests, if few is set
	few     bool
	pattern *regexp.Regexp // nil = all
}

func (r *Reader) serveMetricNamesStats(w http.ResponseWriter, req *http.Request) {
	q, err := readNamesQuestion(req)
	if err != nil {
		respondError(w, req, err)
		return
	}
	var stats queried.Stats
	if r.queried != nil {
		stats = r.queried.Stats(q.tenant)
	}
	series, warnings, err := r.seriesByName(req.Context(), q)
	if err != nil {
		respondError(w, req, err)
		return
	}
	respondData(w, req, q.answer(stats, series), warnings...)
}

func readNamesQuestion(req *http.Request) (*namesQuestion, error) {
	opts, err := optionsFrom(req.Context())
	if err != nil {
		return nil, err
	}
	if opts.tenant == "" {
		return nil, badData("queried metrics are of one tenant at a time")
	}
	q := &namesQuestion{tenant: opts.tenant, limit: defaultNames}
	if s := req.FormValue("limit"); s != "" {
		if q.limit, err = strconv.Atoi(s); err != nil || q.limit < 1 || q.limit > maxListedNames {
			return nil, badData("'limit' param is %.50q, must be a number from 1 to %d", s, maxListedNames)
		}
	}
	if s := req.FormValue("le"); s != "" {
		if q.most, err = strconv.ParseUint(s, 10, 64); err != nil {
			return nil, badData("'le' param is %.50q, must be a number of requests", s)
		}
		q.few = true
	}
	if s := req.FormValue("match_pattern"); s != "" {
		if len(s) > maxPatternBytes {
			return nil, badData("'match_pattern' param has %d bytes, at most %d are allowed", len(s), maxPatternBytes)
		}
		if n := instructions(s); n > maxPattern {
			return nil, tooLargePattern(n)
		}
		if q.pattern, err = regexp.Compile(s); err != nil {
			return nil, badData("'match_pattern' param is no regular expression: %v", err)
		}
	}
	return q, nil
}

// seriesByName returns how many series the consumers hold of each metric name; nil = not known. All names are there when few is
// asked for: then it cannot do without.
func (r *Reader) seriesByName(ctx context.Context, q *namesQuestion) (map[string]*int64, []string, error) {
	series := map[string]*int64{}
	whole := false
	if r.limits.For(q.tenant).CardinalityAnalysisEnabled {
		found, err := r.cardinality(ctx, cardinality.Query{Since: math.MinInt64, Values: []string{model.MetricNameLabel}})
		switch {
		case err != nil && q.few:
			return nil, nil, err
		case err != nil:
			return series, []string{"the series of the metrics are not known: " + err.Error()}, nil
		}
		if l := found.Labels[model.MetricNameLabel]; l != nil {
			for name, n := range l.Counts {
				series[name] = &n
			}
			whole = len(l.Counts) == len(l.Values)
		} else {
			whole = true
		}
		if whole {
			series[""] = new(int64) // of a name that is not there
		}
	}
	if whole || !q.few {
		return series, nil, nil
	}
	now := r.now()
	from, err := r.Querier(now.Add(-namesFor).UnixMilli(), now.UnixMilli())
	if err != nil {
		return nil, nil, err
	}
	names, warnings, err := from.LabelValues(ctx, model.MetricNameLabel, nil)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if _, ok := series[name]; !ok {
			series[strings.Clone(name)] = nil
		}
	}
	var told []string
	for _, w := range warnings.AsErrors() {
		told = append(told, w.Error())
	}
	return series, told, from.Close()
}

// answer puts together what is known, what was asked for least first, and of those what has most series.
func (q *namesQuestion) answer(stats queried.Stats, series map[string]*int64) *metricNamesStats {
	a := &metricNamesStats{Since: stats.Since, Total: len(stats.Names), Records: []metricNameRecord{}}
	names := slices.Collect(maps.Keys(stats.Names))
	if q.few {
		for name := range series {
			if _, ok := stats.Names[name]; !ok && name != "" {
				names = append(names, name)
			}
		}
	}
	for _, name := range names {
		u := stats.Names[name]
		if q.few && u.Requests > q.most || q.pattern != nil && !q.pattern.MatchString(name) {
			continue
		}
		n, ok := series[name]
		if !ok {
			n = series[""]
		}
		a.Records = append(a.Records, metricNameRecord{name, u.Requests, u.Last, n})
	}
	count := func(n *int64) int64 {
		if n == nil {
			return 0
		}
		return *n
	}
	slices.SortFunc(a.Records, func(x, y metricNameRecord) int {
		return cmp.Or(cmp.Compare(x.Requests, y.Requests), cmp.Compare(count(y.Series), count(x.Series)), strings.Compare(x.Name, y.Name))
	})
	a.Records = a.Records[:min(len(a.Records), q.limit)]
	return a
}
