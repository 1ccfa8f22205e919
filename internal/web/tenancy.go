package web

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"sluice/internal/auth"
	"sluice/schema"
)

// Tenancy says where the tenant of a request comes from: from its user, else from X-Scope-OrgID, else it is Anonymous'.
type Tenancy struct {
	Required bool // a request without the header is refused instead of being Anonymous'
	Off      bool // every request is Anonymous', whatever its header says
	Users    bool // every request has a user (auth.WithUser), and the header only chooses among that user's tenants

	// MaxFederated is how many tenants a query may be about, named as a|b; 0 = one.
	MaxFederated int
}

// tenantSeparator stands between tenants in the header of a query over several.
const tenantSeparator = "|"

// Tenant returns the one tenant of r. a|b is no tenant: only what asks for Tenants can be about several.
func (t Tenancy) Tenant(r *http.Request) (schema.Tenant, error) {
	name, given, err := t.header(r)
	if err != nil {
		return "", err
	}
	return t.one(r, name, given)
}

// Tenants returns the tenants that a query is about: one, or as many as MaxFederated allows, sorted, each once.
func (t Tenancy) Tenants(r *http.Request) ([]schema.Tenant, error) {
	name, given, err := t.header(r)
	if err != nil {
		return nil, err
	}
	if t.MaxFederated == 0 || !strings.Contains(name, tenantSeparator) {
		tenant, err := t.Tenant(r)
		return []schema.Tenant{tenant}, err
	}
	var tenants []schema.Tenant
	for part := range strings.SplitSeq(name, tenantSeparator) {
		tenant, err := t.one(r, part, given)
		if err != nil {
			return nil, err
		}
		tenants = append(tenants, tenant)
	}
	slices.Sort(tenants)
	tenants = slices.Compact(tenants)
	if len(tenants) > t.MaxFederated {
		return nil, schema.NewError(schema.ErrTenantsPerQuery, http.StatusUnprocessableEntity,
			"the query is about %d tenants, more than --tenancy.federation-max-tenants of %d", len(tenants), t.MaxFederated)
	}
	return tenants, nil
}

// header returns what the header says.
func (t Tenancy) header(r *http.Request) (name string, given bool, err error) {
	if t.Off {
		return "", false, nil
	}
	values := r.Header.Values(schema.TenantHeader)
	if len(values) > 1 {
		return "", false, schema.NewError(schema.ErrTenantInvalid, http.StatusBadRequest, "%d %s headers, must be one", len(values), schema.TenantHeader)
	}
	if len(values) == 0 {
		return "", false, nil
	}
	return values[0], true, nil
}

// one checks a name out of the header, or finds the tenant of a request without one.
func (t Tenancy) one(r *http.Request, name string, given bool) (schema.Tenant, error) {
	if t.Users {
		return t.ofUser(auth.UserFrom(r.Context()), name, given)
	}
	if !given && !t.Required {
		return schema.Anonymous, nil
	}
	return schema.ParseTenant(name)
}

func (t Tenancy) ofUser(u *auth.User, name string, given bool) (schema.Tenant, error) {
	if u == nil { // an endpoint that nobody stands before: it gets no tenant
		return "", schema.NewError(schema.ErrUnauthorized, http.StatusUnauthorized, "nobody has found out who asks")
	}
	if !given {
		if only := u.Default(); only != "" {
			return only, nil
		}
		return "", schema.NewError(schema.ErrTenantRequired, http.StatusBadRequest,
			"user %s has several tenants: %s must name one of them", u.Name, schema.TenantHeader)
	}
	tenant, err := schema.ParseTenant(name)
	if err != nil {
		return "", err
	}
	return tenant, u.Check(tenant)
}

type tenantKey struct{}

// WithTenant returns a context that carries the tenant.
func WithTenant(ctx context.Context, t schema.Tenant) context.Context {
	return context.WithValue(ctx, tenantKey{}, t)
}

// TenantFrom returns the tenant that WithTenant put into ctx.
func TenantFrom(ctx context.Context) (schema.Tenant, bool) {
	t, ok := ctx.Value(tenantKey{}).(schema.Tenant)
	return t, ok
}
