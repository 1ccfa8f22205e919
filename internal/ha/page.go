package ha

import (
	"cmp"
	"encoding/json"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Status is what is known of one cluster. Times are the log's.
type Status struct {
	Tenant       string    `json:"userID"`
	Cluster      string    `json:"cluster"`
	Replica      string    `json:"replica"` // the elected one
	Epoch        int64     `json:"epoch"`   // counts the elections
	ElectedAt    time.Time `json:"electedAt"`
	ReceivedAt   time.Time `json:"receivedAt"`      // when any producer last heard of the elected replica, as far as is known here
	FailoverTime float64   `json:"failoverTime"`    // seconds of silence after which another one is elected
	FailoverIn   float64   `json:"failoverSeconds"` // seconds until then; 0 = the next one to come is elected
}

// Snapshot returns what is known, by tenant and cluster.
func (t *Tracker) Snapshot() []Status {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Status, 0, len(t.byClaim))
	for _, c := range t.byClaim {
		silent := max(0, min(now.Sub(c.seen), time.Duration(t.logNow(now)-c.seenLog)*time.Millisecond))
		timeout := time.Duration(c.timeout) * time.Millisecond
		all = append(all, Status{
			Tenant: string(c.tenant), Cluster: c.name, Replica: c.replica, Epoch: c.epoch,
			ElectedAt: time.UnixMilli(c.since).UTC(), ReceivedAt: time.UnixMilli(c.seenLog).UTC(),
			FailoverTime: timeout.Seconds(), FailoverIn: max(0, timeout-silent).Round(100 * time.Millisecond).Seconds(),
		})
	}
	slices.SortFunc(all, func(a, b Status) int {
		return cmp.Or(strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Cluster, b.Cluster))
	})
	return all
}

// Register mounts the page, under the path of Cortex and Mimir.
func (t *Tracker) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /distributor/ha_tracker", t.serve)
}

// serve shows the clusters of all tenants: as JSON to who asks for it, else to people.
func (t *Tracker) serve(w http.ResponseWriter, r *http.Request) {
	elected := t.Snapshot()
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"elected": elected, "now": t.now().UTC()})
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page.Execute(w, elected)
}

var page = template.Must(template.New("ha").Funcs(template.FuncMap{
	"when": func(t time.Time) string { return t.Format("2006-01-02 15:04:05.0 MST") },
}).Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Sluice: HA replicas</title>
<style>body{font-family:sans-serif;margin:2em}table{border-collapse:collapse}th,td{padding:.3em .8em;text-align:left;border-bottom:1px solid #ccc}</style>
</head><body>
<h1>Elected HA replicas</h1>
<p>{{len .}} clusters. Samples of other replicas are answered with 202 and not written. A process that has taken no samples
of an HA pair since its start does not know when replicas were last heard of.</p>
<table><tr><th>Tenant</th><th>Cluster</th><th>Replica</th><th>Elected</th><th>Last received</th><th>Failover in</th></tr>
{{range .}}<tr><td>{{.Tenant}}</td><td>{{.Cluster}}</td><td>{{.Replica}}</td><td>{{when .ElectedAt}} (epoch {{.Epoch}})</td><td>{{when .ReceivedAt}}</td><td>{{printf "%.1f" .FailoverIn}} of {{.FailoverTime}} s</td></tr>
{{end}}</table></body></html>
`))
