package reader

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"time"

	"github.com/grafana/regexp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/util/features"
	apiv1 "github.com/prometheus/prometheus/web/api/v1"

	"sluice/reader/eval"
	"sluice/schema"
)

const (
	lookback         = 5 * time.Minute
	readFrameBytes   = 1 << 20
	readSampleLimit  = 50_000_000
	metadataEndpoint = "/metadata"
	buildEndpoint    = "/status/buildinfo"
)

// prefixes are where Prometheus', Cortex' and plain clients look for the API.
var prefixes = [...]string{"/prometheus/api/v1", "/api/prom/api/v1", "/api/v1"}

// endpoints are what is served, and what each lets a client send as PromQL. Whatever else Prometheus' API knows (writing,
// administration, the state of a scraper) is not a reader's.
var endpoints = [...]struct {
	path   string
	promql string // the form field with PromQL in it
}{
	{"/query", "query"},
	{"/query_range", "query"},
	{"/query_exemplars", "query"},
	{"/format_query", "query"},
	{"/parse_query", "query"},
	{"/series", "match[]"},
	{"/labels", "match[]"},
	{"/label/{name}/values", "match[]"},
	{metadataEndpoint, ""},
	{"/read", ""},
	{"/rules", "match[]"},
	{"/alerts", ""},
	{"/alertmanagers", ""},
	{"/targets", ""},
	{"/scrape_pools", ""},
	{buildEndpoint, ""},
	{"/status/config", ""},
	{"/status/flags", ""},
	{"/status/runtimeinfo", ""},
	{"/features", ""},
}

// Register mounts the query API. The patterns are the endpoints themselves, so that others may have what is beside them.
func (r *Reader) Register(mux *http.ServeMux) {
	for _, prefix := range prefixes {
		for _, e := range endpoints {
			mux.Handle(prefix+e.path, http.StripPrefix(prefix, r.guard(e.path, e.promql)))
		}
	}
	r.registerActive(mux)
}

// newAPI makes Prometheus' own API over the reader.
func (r *Reader) newAPI(reg prometheus.Registerer) http.Handler {
	evalReg := reg
	if reg != nil { // Prometheus' own metrics keep their names behind ours
		reg = prometheus.WrapRegistererWithPrefix("sluice_reader_", reg)
	}
	known := features.NewRegistry()
	language := parser.NewParser(parser.Options{})
	subqueryStep := func(int64) int64 { return time.Minute.Milliseconds() }
	theirs := promql.NewEngine(promql.EngineOpts{
		Logger: r.logger, Reg: reg, MaxSamples: r.cfg.MaxSamples, Timeout: r.cfg.QueryTimeout, LookbackDelta: lookback,
		NoStepSubqueryIntervalFn: subqueryStep,
		EnableAtModifier:         true, EnableNegativeOffset: true, FeatureRegistry: known, Parser: language,
	})
	ours := eval.New(eval.Config{MaxSamples: r.cfg.MaxSamples, NoStepSubqueryInterval: subqueryStep}, theirs, evalReg)
	r.engine = timed(counted(ours))
	start := time.Now()
	api := apiv1.NewAPI(
		r.engine, r, nil, nil, r,
		func(context.Context) apiv1.ScrapePoolsRetriever { return nothing{} },
		func(context.Context) apiv1.TargetRetriever { return nothing{} },
		func(context.Context) apiv1.AlertmanagerRetriever { return nothing{} },
		func() config.Config { return config.Config{} },
		map[string]string{}, apiv1.GlobalURLOptions{},
		func(h http.HandlerFunc) http.HandlerFunc { return h }, // guard asks Ready
		nil, "", false, false, 0, r.logger,
		func(context.Context) apiv1.RulesRetriever { return nothing{} },
		readSampleLimit, r.cfg.ReadGate, readFrameBytes,
		false, corsOrigin(), func() (apiv1.RuntimeInfo, error) { return runtimeInfo(start), nil },
		&apiv1.PrometheusVersion{}, nil, nil, nil, reg, renderStats,
		false, nil, false, false, false, false, lookback, false, false,
		statusOf, known, apiv1.OpenAPIOptions{}, language,
	)
	router := route.New()
	api.Register(router)
	return router
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
