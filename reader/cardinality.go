package reader

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/httputil"

	"sluice/internal/cardinality"
	"sluice/internal/fetch"
	"sluice/internal/merge"
	"sluice/schema"
)

// The cardinality API is Mimir's: what a tenant's series consist of. Everything comes from what consumers hold; of a
// partition that several zones hold one copy is asked, so that nothing counts twice.

const (
	defaultCardinalityLimit = 20
	maxCardinalityLimit     = 500
	// activeFor is how long ago the last sample of an active series may be.
	activeFor = 20 * time.Minute

	countInMemory = "inmemory"
	countActive   = "active"
)

// cardinalityRequest is what the three endpoints are asked.
type cardinalityRequest struct {
	tenant   schema.Tenant
	matchers []*labels.Matcher
	names    []string // label_values
	limit    int
	since    int64 // ms
}

// readCardinality checks a request; sized says that it has a limit and a way to count.
func (r *Reader) readCardinality(req *http.Request, sized bool) (*cardinalityRequest, error) {
	opts, err := optionsFrom(req.Context())
	if err != nil {
		return nil, err
	}
	if opts.tenant == "" {
		return nil, badData("cardinality is of one tenant at a time")
	}
	c := &cardinalityRequest{tenant: opts.tenant, limit: defaultCardinalityLimit, since: math.MinInt64}
	if !r.limits.For(c.tenant).CardinalityAnalysisEnabled {
		return nil, schema.NewError(schema.ErrCardinalityDisabled, http.StatusBadRequest, "cardinality analysis is disabled for the tenant: %s", c.tenant)
	}
	switch selectors := req.Form["selector"]; {
	case len(selectors) > 1:
		return nil, badData("multiple 'selector' params are not allowed")
	case len(selectors) == 1:
		if c.matchers, err = parser.NewParser(parser.Options{}).ParseMetricSelector(selectors[0]); err != nil {
			return nil, badData("failed to parse selector: %v", err)
		}
	}
	if !sized {
		return c, nil
	}
	switch limits := req.Form["limit"]; {
	case len(limits) > 1:
		return nil, badData("multiple 'limit' params are not allowed")
	case len(limits) == 1:
		if c.limit, err = strconv.Atoi(limits[0]); err != nil {
			return nil, badData("'limit' param is %.50q, must be a number", limits[0])
		}
	}
	if c.limit < 0 || c.limit > maxCardinalityLimit {
		return nil, badData("'limit' param is %d, must be from 0 to %d", c.limit, maxCardinalityLimit)
	}
	switch how := req.FormValue("count_method"); how {
	case "", countInMemory:
	case countActive:
		c.since = time.Now().Add(-activeFor).UnixMilli()
	default:
		return nil, badData("invalid 'count_method' param '%.50s'. valid options are: [%s,%s]", how, countActive, countInMemory)
	}
	return c, nil
}

// cardinality asks the consumers.
func (r *Reader) cardinality(ctx context.Context, q cardinality.Query) (*cardinality.Result, error) {
	opts, err := optionsFrom(ctx)
	if err != nil {
		return nil, err
	}
	qry := &query{reader: r, opts: opts}
	got, err := ask(ctx, qry, question[*cardinality.Result]{
		put: func(ctx context.Context, s *source) (*cardinality.Result, error) {
			return s.src.Cardinality(ctx, opts.tenant, q, s.askAll())
		},
	})
	if err != nil {
		return nil, qry.told(err)
	}
	return cardinality.Merge(got.answers), got.close()
}

type labelNamesCardinality struct {
	ValuesTotal int              `json:"label_values_count_total"`
	NamesTotal  int              `json:"label_names_count"`
	Cardinality []labelNameCount `json:"cardinality"`
}

type labelNameCount struct {
	Name   string `json:"label_name"`
	Values int64  `json:"label_values_count"`
}

// serveLabelNamesCardinality answers how many values each label has, the most first.
func (r *Reader) serveLabelNamesCardinality(w http.ResponseWriter, req *http.Request) {
	c, err := r.readCardinality(req, true)
	if err != nil {
		respondError(w, req, err)
		return
	}
	found, err := r.cardinality(req.Context(), cardinality.Query{Matchers: c.matchers, Since: c.since, All: true})
	if err != nil {
		respondError(w, req, err)
		return
	}
	answer := labelNamesCardinality{NamesTotal: len(found.Labels), Cardinality: []labelNameCount{}}
	for _, l := range found.Labels {
		answer.ValuesTotal += len(l.Values)
	}
	for _, p := range found.Top(c.limit, func(l *cardinality.Label) int64 { return int64(len(l.Values)) }) {
		answer.Cardinality = append(answer.Cardinality, labelNameCount{p.Name, p.Series})
	}
	r.respondJSON(w, req, answer)
}

type labelValuesCardinality struct {
	SeriesTotal int64              `json:"series_count_total"`
	Labels      []labelCardinality `json:"labels"`
}

type labelCardinality struct {
	Name        string            `json:"label_name"`
	Values      int               `json:"label_values_count"`
	Series      int64             `json:"series_count"`
	Cardinality []labelValueCount `json:"cardinality"`
}

type labelValueCount struct {
	Value  string `json:"label_value"`
	Series int64  `json:"series_count"`
}

// serveLabelValuesCardinality answers how many series the values of some labels have.
func (r *Reader) serveLabelValuesCardinality(w http.ResponseWriter, req *http.Request) {
	c, err := r.readCardinality(req, true)
	if err == nil {
		err = c.readNames(req, r.limits.For(c.tenant).CardinalityLabelNamesPerRequest)
	}
	if err != nil {
		respondError(w, req, err)
		return
	}
	found, err := r.cardinality(req.Context(), cardinality.Query{Matchers: c.matchers, Since: c.since, Values: c.names})
	if err != nil {
		respondError(w, req, err)
		return
	}
	answer := labelValuesCardinality{SeriesTotal: found.Total, Labels: []labelCardinality{}}
	for name, l := range found.Labels {
		counts := []labelValueCount{}
		for _, p := range found.TopValues(name, c.limit) {
			counts = append(counts, labelValueCount{p.Value, p.Series})
		}
		answer.Labels = append(answer.Labels, labelCardinality{name, len(l.Values), l.Series, counts})
	}
	slices.SortFunc(answer.Labels, func(a, b labelCardinality) int {
		return cmp.Or(cmp.Compare(b.Series, a.Series), strings.Compare(a.Name, b.Name))
	})
	r.respondJSON(w, req, answer)
}

// readNames takes the names of labels out of the request.
func (c *cardinalityRequest) readNames(req *http.Request, limit int) error {
	c.names = slices.Clone(req.Form["label_names[]"])
	if len(c.names) == 0 {
		return badData("'label_names[]' param is required")
	}
	for _, name := range c.names {
		if !model.UTF8Validation.IsValidLabelName(name) {
			return badData("invalid 'label_names' param '%.100s'", name)
		}
	}
	slices.Sort(c.names)
	c.names = slices.Compact(c.names)
	if limit > 0 && len(c.names) > limit {
		return schema.NewError(schema.ErrCardinalityLabels, http.StatusBadRequest,
			"label values cardinality request label names limit (limit: %d actual: %d) exceeded: label_values_max_cardinality_label_names_per_request", limit, len(c.names))
	}
	return nil
}

// serveActiveSeries answers the labels of the series that are active, one after the other as they come. How large that
// will be is counted before: half an answer would say nothing.
func (r *Reader) serveActiveSeries(w http.ResponseWriter, req *http.Request) {
	c, err := r.readCardinality(req, false)
	if err == nil && len(c.matchers) == 0 {
		err = badData("'selector' param is required")
	}
	if err != nil {
		respondError(w, req, err)
		return
	}
	ctx := req.Context()
	since := time.Now().Add(-activeFor).UnixMilli()
	if limit := r.limits.For(c.tenant).ActiveSeriesResultsMaxSizeBytes; limit > 0 {
		found, err := r.cardinality(ctx, cardinality.Query{Matchers: c.matchers, Since: since})
		if err == nil && found.Bytes > limit {
			err = schema.NewError(schema.ErrActiveSeriesSize, http.StatusRequestEntityTooLarge,
				"%d active series have labels of %d bytes, more than active_series_results_max_size_bytes of %d", found.Series, found.Bytes, limit)
		}
		if err != nil {
			respondError(w, req, err)
			return
		}
	}
	set, closeAll, err := r.activeSeries(ctx, c, since)
	if err != nil {
		respondError(w, req, err)
		return
	}
	defer closeAll()
	if err := writeActiveSeries(w, req, set); err != nil {
		if set.Err() != nil {
			respondError(w, req, set.Err()) // before the head, or it cuts the connection
		}
	}
}

// activeSeries selects the labels of series that consumers have a recent sample of.
func (r *Reader) activeSeries(ctx context.Context, c *cardinalityRequest, since int64) (storage.SeriesSet, func(), error) {
	opts, err := optionsFrom(ctx)
	if err != nil {
		return nil, nil, err
	}
	qry := &query{reader: r, opts: opts}
	hints := &storage.SelectHints{Start: since, End: math.MaxInt64, Func: "series"}
	got, err := ask(ctx, qry, question[storage.SeriesSet]{
		put: func(ctx context.Context, s *source) (storage.SeriesSet, error) {
			s.asks = s.askAll()
			q, err := s.querier(ctx, r, c.tenant, since, math.MaxInt64)
			if err != nil {
				return nil, err
			}
			return prime(s.ranked(q.Select(ctx, true, hints, slices.Clone(c.matchers)...)))
		},
	})
	if err != nil {
		return nil, nil, qry.told(err)
	}
	closeAll := func() {
		if err := got.close(); err != nil {
			r.logger.Debug("sources of active series did not close", "err", err)
		}
	}
	return storage.NewMergeSeriesSet(got.answers, 0, merge.Series), closeAll, nil
}

// writeActiveSeries writes the answer; nothing is sent before the first series is there.
func writeActiveSeries(w http.ResponseWriter, req *http.Request, set storage.SeriesSet) error {
	more := set.Next()
	if !more && set.Err() != nil {
		return set.Err()
	}
	httputil.SetCORS(w, corsOrigin(), req)
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriterSize(w, 64<<10)
	_, _ = out.WriteString(`{"data":[`) // its error comes again
	for first := true; more; more = set.Next() {
		if !first {
			_ = out.WriteByte(',')
		}
		first = false
		text, err := set.At().Labels().MarshalJSON()
		if err != nil {
			return fmt.Errorf("encode labels: %w", err)
		}
		if _, err := out.Write(text); err != nil {
			return err
		}
	}
	if set.Err() != nil {
		return set.Err()
	}
	_, _ = out.WriteString("]}")
	return out.Flush()
}

// serveTSDBStatus answers what Prometheus says of its head, of what the consumers hold of the tenant.
func (r *Reader) serveTSDBStatus(w http.ResponseWriter, req *http.Request) {
	const maxLimit = 10_000
	limit, err := number(req, "limit")
	switch given := req.FormValue("limit") != ""; {
	case err != nil || given && limit < 1:
		respondError(w, req, plain("limit must be a positive number"))
		return
	case limit > maxLimit:
		respondError(w, req, plain("limit must not exceed 10000"))
		return
	case !given:
		limit = 10
	}
	found, err := r.tsdbStatus(req.Context())
	if err != nil {
		respondError(w, req, err)
		return
	}
	pairs := 0
	for _, l := range found.Labels {
		pairs += len(l.Values)
	}
	named := func(all []cardinality.Pair, name func(cardinality.Pair) string) []tsdbStat {
		out := []tsdbStat{}
		for _, p := range all[:min(len(all), limit)] {
			out = append(out, tsdbStat{name(p), p.Series})
		}
		return out
	}
	label := func(p cardinality.Pair) string { return p.Name }
	respondData(w, req, map[string]any{
		"headStats": map[string]any{
			"numSeries": found.Series, "numLabelPairs": pairs, "chunkCount": found.Chunks, "minTime": found.MinTime, "maxTime": found.MaxTime,
		},
		"seriesCountByMetricName":     named(found.TopValues(model.MetricNameLabel, limit), func(p cardinality.Pair) string { return p.Value }),
		"labelValueCountByLabelName":  named(found.Top(limit, func(l *cardinality.Label) int64 { return int64(len(l.Values)) }), label),
		"memoryInBytesByLabelName":    named(found.Top(limit, func(l *cardinality.Label) int64 { return l.Bytes }), label),
		"seriesCountByLabelValuePair": named(found.Pairs, func(p cardinality.Pair) string { return p.Name + "=" + p.Value }),
	})
}

type tsdbStat struct {
	Name  string `json:"name"`
	Value int64  `json:"value"`
}

// tsdbStatus counts all series of the tenants of the request.
func (r *Reader) tsdbStatus(ctx context.Context) (*cardinality.Result, error) {
	opts, err := optionsFrom(ctx)
	if err != nil {
		return nil, err
	}
	var all []*cardinality.Result
	for _, o := range opts.each() {
		found, err := r.cardinality(withOptions(ctx, o), cardinality.Query{Since: math.MinInt64, All: true, Pairs: true})
		if err != nil {
			return nil, err
		}
		all = append(all, found)
	}
	return cardinality.Merge(all), nil
}

// respondJSON answers with v as it is, as the cardinality API has no envelope.
func (r *Reader) respondJSON(w http.ResponseWriter, req *http.Request, v any) {
	httputil.SetCORS(w, corsOrigin(), req)
	writeJSON(w, http.StatusOK, v)
}

// askAll are the source's asks for everything that it holds of its partitions, which blocks may hold as well.
func (s *source) askAll() []fetch.Ask {
	asks := slices.Clone(s.asks)
	for i := range asks {
		asks[i].All = true
	}
	return asks
}
