package reader

import (
	"net/http"
	"slices"
	"strings"

	"sluice/internal/auth"
	"sluice/internal/processes"
	"sluice/internal/web"
	"sluice/schema"
)

// Access answers who asks, what he may do and whose data he may choose: what a page has to know before it shows anything.
type Access struct {
	Tenancy  web.Tenancy
	Stages   []string // of this process
	Instance string
	Version  string
	Self     string // tenant that this process writes its own metrics to; empty = nowhere

	Processes Processes                // for where the others write theirs
	Known     []func() []schema.Tenant // the tenants that somebody knows of, in slices of their own
}

// defaultTenants is how many tenants are listed unless the caller says so, maxTenants the most.
const (
	defaultTenants = 1000
	maxTenants     = 10_000
)

// access is the answer.
type access struct {
	Users         bool            `json:"users"` // there is a users file
	User          string          `json:"user"`
	Rights        []auth.Right    `json:"rights"`
	Tenancy       string          `json:"tenancy"`    // off, optional, required, users
	Federation    int             `json:"federation"` // tenants that a query may be about; 0 = one
	DefaultTenant schema.Tenant   `json:"default_tenant"`
	Tenants       []schema.Tenant `json:"tenants"`
	TenantsTotal  int             `json:"tenants_total"` // that fit the search, before the limit
	Patterns      []string        `json:"patterns"`
	Stages        []string        `json:"stages"`
	Instance      string          `json:"instance"`
	Version       string          `json:"version"`
	Self          string          `json:"self_monitoring_tenant"`
}

// Register mounts the endpoint behind each prefix.
func (a *Access) Register(mux *http.ServeMux) {
	for _, prefix := range prefixes {
		mux.HandleFunc("GET "+prefix+"/status/access", a.serve)
	}
}

func (a *Access) serve(w http.ResponseWriter, req *http.Request) {
	limit, err := number(req, "limit")
	switch {
	case req.FormValue("limit") == "":
		limit = defaultTenants
	case err != nil || limit < 0:
		respondError(w, req, badData("limit is %.50q, must be a number from 0", req.FormValue("limit")))
		return
	}
	w.Header().Set("Cache-Control", "no-store") // another user may be next
	respondData(w, req, a.of(auth.UserFrom(req.Context()), req.FormValue("search"), min(limit, maxTenants)))
}

// of answers for the user; nil = there is no users file.
func (a *Access) of(u *auth.User, search string, limit int) access {
	out := access{
		Users: a.Tenancy.Users, Rights: []auth.Right{}, Tenants: []schema.Tenant{}, Patterns: []string{}, Federation: a.Tenancy.MaxFederated,
		Stages: a.Stages, Instance: a.Instance, Version: a.Version, Tenancy: a.tenancy(), Self: a.self(),
	}
	if u == nil {
		if out.Users { // an endpoint that nobody stands before: it says nothing
			return access{Users: true, Rights: out.Rights, Tenants: out.Tenants, Patterns: out.Patterns, Stages: []string{}, Tenancy: out.Tenancy}
		}
		out.Rights = []auth.Right{auth.Read, auth.Write, auth.Metrics, auth.Admin}
		if !a.Tenancy.Required {
			out.DefaultTenant = schema.Anonymous
		}
		return out
	}
	out.User, out.DefaultTenant = u.Name, u.Default()
	for _, r := range []auth.Right{auth.Read, auth.Write, auth.Metrics, auth.Admin} {
		if u.May(r) {
			out.Rights = append(out.Rights, r)
		}
	}
	out.Patterns = append(out.Patterns, u.Patterns()...)
	out.Tenants = append(out.Tenants, u.Named()...)
	if len(out.Patterns) > 0 {
		for _, known := range a.Known {
			out.Tenants = append(out.Tenants, slices.DeleteFunc(known(), func(t schema.Tenant) bool { return !u.Has(t) })...)
		}
	}
	out.Tenants = slices.DeleteFunc(out.Tenants, func(t schema.Tenant) bool { return !strings.Contains(string(t), search) })
	slices.Sort(out.Tenants)
	out.Tenants = slices.Compact(out.Tenants)
	out.TenantsTotal = len(out.Tenants)
	out.Tenants = out.Tenants[:min(limit, len(out.Tenants))]
	if !u.May(auth.Read) || !u.Has(schema.Tenant(out.Self)) { // it is none of his
		out.Self = ""
	}
	return out
}

func (a *Access) tenancy() string {
	switch t := a.Tenancy; {
	case t.Off:
		return "off"
	case t.Users:
		return "users"
	case t.Required:
		return "required"
	}
	return "optional"
}

// self is where the metrics of processes are: of this one, else of others.
func (a *Access) self() string {
	if a.Self != "" {
		return a.Self
	}
	all, _ := a.Processes.List()
	for _, p := range all {
		if p.Self != "" && !p.Silent {
			return p.Self
		}
	}
	return ""
}

var _ Processes = (*processes.Directory)(nil)
