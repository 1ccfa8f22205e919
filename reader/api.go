package reader

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/grafana/regexp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/util/features"
	"github.com/prometheus/prometheus/util/notifications"
	apiv1 "github.com/prometheus/prometheus/web/api/v1"

	"sluice/schema"
)

const (
	lookback         = 5 * time.Minute
	readFrameBytes   = 1 << 20
	readSampleLimit  = 50_000_000
	maxSearchResults = 100_000 // Prometheus' default is 10,000; a backend has more
)

// prefixes are where Prometheus', Cortex' and plain clients look for the API.
var prefixes = [...]string{"/prometheus/api/v1", "/api/prom/api/v1", "/api/v1"}

// endpoint is a part of the query API. Prometheus' own handler serves it unless own does.
type endpoint struct {
	path   string
	promql string // the form field with PromQL in it
	own    func(*Reader, http.ResponseWriter, *http.Request)
	post   bool // own takes POST as well as GET
}

// endpoints are what is served. Whatever else Prometheus' API knows (writing, administration) is not a reader's; of what a
// scraper would say, it says that there is nothing.
var endpoints = [...]endpoint{
	{path: "/query", promql: "query"},
	{path: "/query_range", promql: "query"},
	{path: "/query_exemplars", promql: "query"},
	{path: "/format_query", promql: "query"},
	{path: "/parse_query", promql: "query"},
	{path: "/series", promql: "match[]"},
	{path: "/labels", promql: "match[]"},
	{path: "/label/{name}/values", promql: "match[]"},
	{path: "/search/metric_names", promql: "match[]"},
	{path: "/search/label_names", promql: "match[]"},
	{path: "/search/label_values", promql: "match[]"},
	{path: "/metadata", own: (*Reader).serveMetadata},
	{path: "/read"},
	{path: "/rules", promql: "match[]"},
	{path: "/alerts"},
	{path: "/alertmanagers"},
	{path: "/targets"},
	{path: "/targets/metadata", promql: "match_target"},
	{path: "/targets/relabel_steps"},
	{path: "/scrape_pools"},
	{path: "/scrape_pools/config"},
	{path: "/notifications"},
	{path: "/notifications/live"},
	{path: "/status/buildinfo", own: (*Reader).serveBuildInfo},
	{path: "/status/config"},
	{path: "/status/flags"},
	{path: "/status/runtimeinfo"},
	{path: "/status/tsdb", own: (*Reader).serveTSDBStatus},
	{path: "/status/tsdb/blocks", own: (*Reader).serveTSDBBlocks},
	{path: "/status/metric_names_stats", own: (*Reader).serveMetricNamesStats},
	{path: "/status/walreplay", own: (*Reader).serveWALReplay},
	{path: "/features", own: (*Reader).serveFeatures},
	{path: "/cardinality/label_names", promql: "selector", own: (*Reader).serveLabelNamesCardinality, post: true},
	{path: "/cardinality/label_values", promql: "selector", own: (*Reader).serveLabelValuesCardinality, post: true},
	{path: "/cardinality/active_series", promql: "selector", own: (*Reader).serveActiveSeries, post: true},
	{path: "/cardinality/over_time", promql: "selector", own: (*Reader).serveCardinalityOverTime, post: true},
}

// federate is beside the API, as in Prometheus, and behind each prefix.
var federate = endpoint{path: "/federate", promql: "match[]", own: (*Reader).serveFederate}

// Register mounts the query API. The patterns are the endpoints themselves, so that others may have what is beside them.
func (r *Reader) Register(mux *http.ServeMux) {
	for _, prefix := range prefixes {
		for _, e := range endpoints {
			mux.Handle(prefix+e.path, http.StripPrefix(prefix, r.guard(&e)))
		}
		prefix = strings.TrimSuffix(prefix, "/api/v1")
		mux.Handle(prefix+federate.path, http.StripPrefix(prefix, r.guard(&federate)))
	}
	r.registerActive(mux)
	r.registerTenants(mux)
}

// newAPI makes Prometheus' own API over the reader.
func (r *Reader) newAPI(reg prometheus.Registerer) (http.Handler, error) {
	evalReg := reg
	if reg != nil { // Prometheus' own metrics keep their names behind ours
		reg = prometheus.WrapRegistererWithPrefix("sluice_reader_", reg)
	}
	r.features = features.NewRegistry()
	var err error
	if r.front, err = r.newFront(reg, evalReg); err != nil {
		return nil, err
	}
	r.engine = timed(r.front)
	start := time.Now()
	api := apiv1.NewAPI(
		r.engine, r, nil, nil, r,
		func(context.Context) apiv1.ScrapePoolsRetriever { return nothing{} },
		func(context.Context) apiv1.TargetRetriever { return nothing{} },
		func(context.Context) apiv1.AlertmanagerRetriever { return nothing{} },
		func() config.Config { return config.Config{} },
		map[string]string{}, apiv1.GlobalURLOptions{},
		func(h http.HandlerFunc) http.HandlerFunc { return h }, // guard asks Ready
		nil, "", false, true, maxSearchResults, r.logger,
		func(context.Context) apiv1.RulesRetriever { return nothing{} },
		readSampleLimit, r.cfg.ReadGate, readFrameBytes,
		false, corsOrigin(), func() (apiv1.RuntimeInfo, error) { return runtimeInfo(start), nil },
		&apiv1.PrometheusVersion{},
		func() []notifications.Notification { return []notifications.Notification{} },
		func() (<-chan notifications.Notification, func(), bool) { return nil, nil, false }, // nobody may listen
		nil, reg, renderStats,
		false, nil, false, false, false, false, lookback, false, false,
		statusOf, r.features, apiv1.OpenAPIOptions{}, r.language,
	)
	router := route.New()
	api.Register(router)
	return router, nil
}

// Engine returns what evaluates the reader's queries. Their contexts say whose they are.
func (r *Reader) Engine() promql.QueryEngine { return r.engine }

// corsOrigin is Prometheus' default: any.
func corsOrigin() *regexp.Regexp { return regexp.MustCompile("^(?s:.*)$") }

// statusOf gives our errors their own status. N is a type that Prometheus does not export.
func statusOf[N any](_ N, err error) (int, bool) {
	var se *schema.Error
	switch {
	case errors.As(err, &se):
		return se.Status, true
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, true
	}
	return 0, false
}

func runtimeInfo(start time.Time) apiv1.RuntimeInfo {
	host, _ := os.Hostname() // shown only
	return apiv1.RuntimeInfo{
		StartTime: start, ServerTime: time.Now(), Hostname: host, ReloadConfigSuccess: true, LastConfigTime: start,
		GoroutineCount: runtime.NumGoroutine(), GOMAXPROCS: runtime.GOMAXPROCS(0), StorageRetention: "per tenant",
	}
}

// nothing is what a backend that neither scrapes nor alerts has of everything.
type nothing struct{}

func (nothing) ScrapePools() []string                       { return []string{} }
func (nothing) TargetsActive() map[string][]*scrape.Target  { return nil }
func (nothing) TargetsDropped() map[string][]*scrape.Target { return nil }
func (nothing) TargetsDroppedCounts() map[string]int        { return map[string]int{} }
func (nothing) ScrapePoolConfig(string) (*config.ScrapeConfig, error) {
	return nil, errors.New("nothing is scraped here")
}
func (nothing) Alertmanagers() []*url.URL            { return nil }
func (nothing) DroppedAlertmanagers() []*url.URL     { return nil }
func (nothing) RuleGroups() []*rules.Group           { return nil }
func (nothing) AlertingRules() []*rules.AlertingRule { return nil }
