package producer

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"sluice/internal/limits"
	"sluice/internal/web"
	"sluice/schema"
)

// serveLimits answers a tenant with its limits by their YAML names, as Mimir does, with what of them is in use, and with where in
// the file they come from.
func (p *Producer) serveLimits(w http.ResponseWriter, r *http.Request) {
	tenant, err := p.tenancy.Tenant(r)
	if err != nil {
		web.Error(w, r, err)
		return
	}
	answer := limits.All(p.limits.For(tenant))
	answer["usage"] = p.usage(tenant)
	if c := p.cardinality; c != nil {
		_, answer["top_metrics"] = c.table.Usage(tenant, topMetrics)
	}
	answer["source"] = p.limits.Source(tenant)
	writeJSON(w, answer)
}

// usage tells what of a tenant's limits is in use, by the limit's YAML name: of a rate what was seen over the last minute, of a
// burst what would be let through at this moment. All of this process.
func (p *Producer) usage(tenant schema.Tenant) map[string]float64 {
	out := map[string]float64{}
	if p.tracker != nil && p.limits.For(tenant).AcceptHASamples {
		out["ha_max_clusters"] = float64(p.tracker.Clusters(tenant))
	}
	p.cardinality.usage(tenant, out)
	now := p.now()
	s, ok := p.tenants.peek(tenant)
	if !ok {
		s.rates = &rates{} // it has not written for long
	}
	out["ingestion_rate"], out["request_rate"] = s.rates.samples.perSecond(now), s.rates.requests.perSecond(now)
	out["native_histogram_ingestion_rate"] = s.rates.histograms.perSecond(now)
	for name, l := range map[string]*rate.Limiter{
		"ingestion_burst_size": s.ingestion, "native_histogram_ingestion_burst_size": s.histograms, "request_burst_size": s.requests,
	} {
		if l != nil {
			out[name] = l.TokensAt(now)
		}
	}
	return out
}

// rejectedJSON is a reason in the answer of serveRejects.
type rejectedJSON struct {
	Reason  schema.ErrorID `json:"reason"`
	Count   int64          `json:"count"`
	First   time.Time      `json:"first"`
	Last    time.Time      `json:"last"`
	Series  string         `json:"series,omitempty"`
	Message string         `json:"message"`
}

// serveRejects answers a tenant with what of its samples was refused, the latest first: by this process, since it started.
func (p *Producer) serveRejects(w http.ResponseWriter, r *http.Request) {
	tenant, err := p.tenancy.Tenant(r)
	if err != nil {
		web.Error(w, r, err)
		return
	}
	list := []rejectedJSON{}
	for id, e := range p.rejects.of(tenant) {
		list = append(list, rejectedJSON{id, e.count, e.firstRecorded.UTC(), e.last.UTC(), e.series, e.message})
	}
	slices.SortFunc(list, func(a, b rejectedJSON) int { return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Reason, b.Reason)) })
	writeJSON(w, map[string]any{"status": "success", "data": map[string]any{
		"tenant": tenant, "since": p.started.UTC(), "rejects": list,
	}})
}

func writeJSON(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the client has gone, or it has not
}
