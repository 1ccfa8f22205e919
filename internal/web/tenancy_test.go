package web

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/internal/auth"
	"sluice/schema"
)

// users opens a users file in which each user's token is the name, repeated.
func users(t *testing.T, lines ...string) func(name string) *auth.User {
	text := "users:\n"
	for _, l := range lines {
		name, rest, _ := strings.Cut(l, " ")
		sum, err := auth.Hash(strings.NewReader(strings.Repeat(name, 20)), true, 0)
		require.NoError(t, err)
		text += "  - {name: " + name + ", tokens_sha256: [" + sum + "], rights: [read], " + rest + "}\n"
	}
	path := filepath.Join(t.TempDir(), "users.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	a, err := auth.New(auth.Config{UsersFile: path}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	return func(name string) *auth.User {
		u, err := a.User(t.Context(), http.Header{"Authorization": {"Bearer " + strings.Repeat(name, 20)}})
		require.NoError(t, err)
		return u
	}
}

func TestTenantsOfUsers(t *testing.T) {
	user := users(t, "ann tenants: [a]", "bob tenants: [b, 'dev-*']", "eve tenants: ['*'], default_tenant: e")
	tenancy := Tenancy{Users: true, MaxFederated: 3}
	const none = "\x00"
	for _, c := range []struct {
		user, header, want string
		id                 schema.ErrorID
		status             int
	}{
		{"ann", none, "a", "", 0},
		{"ann", "a", "a", "", 0},
		{"ann", "b", "", schema.ErrTenantForbidden, 403},
		{"ann", "", "", schema.ErrNoTenant, 401},
		{"ann", "a|b", "", schema.ErrTenantForbidden, 403},
		{"ann", "a|a", "a", "", 0},
		{"bob", none, "", schema.ErrTenantRequired, 400},
		{"bob", "b", "b", "", 0},
		{"bob", "dev-*", "dev-*", "", 0}, // a tenant's name, of which there is only one
		{"bob", "dev-2|b|dev-1", "b dev-1 dev-2", "", 0},
		{"bob", "dev-2|a", "", schema.ErrTenantForbidden, 403},
		{"bob", "dev-1|dev-2|dev-3|dev-4", "", schema.ErrTenantsPerQuery, 422},
		{"bob", "dev-1|dev-2|dev-3|dev-2", "dev-1 dev-2 dev-3", "", 0},
		{"bob", "dev-1|", "", schema.ErrNoTenant, 401},
		{"eve", none, "e", "", 0},
		{"eve", "anything", "anything", "", 0},
		{"eve", "__x", "", schema.ErrTenantInvalid, 400},
		{"", "a", "", schema.ErrUnauthorized, 401}, // an endpoint that forgot to ask
		{"", none, "", schema.ErrUnauthorized, 401},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if c.header != none {
			r.Header.Set(schema.TenantHeader, c.header)
		}
		if c.user != "" {
			r = r.WithContext(auth.WithUser(r.Context(), user(c.user)))
		}
		tenants, err := tenancy.Tenants(r)
		one, errOne := tenancy.Tenant(r)
		if c.id != "" {
			var se *schema.Error
			require.ErrorAs(t, err, &se, "%s %q", c.user, c.header)
			require.Equal(t, c.id, se.ID, "%s %q", c.user, c.header)
			require.Equal(t, c.status, se.Status)
			require.Error(t, errOne)
			continue
		}
		require.NoError(t, err, "%s %q", c.user, c.header)
		var names []string
		for _, name := range tenants {
			names = append(names, string(name))
		}
		require.Equal(t, c.want, strings.Join(names, " "))
		if strings.Contains(c.header, "|") { // never for a write, not even a|a
			var se *schema.Error
			require.True(t, errors.As(errOne, &se) && se.ID == schema.ErrTenantInvalid && se.Status == 400)
			continue
		}
		require.NoError(t, errOne)
		require.Equal(t, tenants[0], one)
	}
}

func TestTenancyOff(t *testing.T) {
	for _, header := range []string{"a", "a|b", "..", ""} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Add(schema.TenantHeader, header)
		r.Header.Add(schema.TenantHeader, "again")
		got, err := Tenancy{Off: true}.Tenants(r)
		require.NoError(t, err)
		require.Equal(t, []schema.Tenant{schema.Anonymous}, got)
	}
}

// Without users the header is trusted, for federation too.
func TestFederationWithoutUsers(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set(schema.TenantHeader, "b|a")
	got, err := Tenancy{MaxFederated: 2}.Tenants(r)
	require.NoError(t, err)
	require.Equal(t, []schema.Tenant{"a", "b"}, got)
	_, err = Tenancy{MaxFederated: 1}.Tenants(r)
	require.ErrorContains(t, err, string(schema.ErrTenantsPerQuery))
	_, err = Tenancy{}.Tenants(r)
	require.ErrorContains(t, err, string(schema.ErrTenantInvalid))
}
