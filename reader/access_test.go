package reader

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/internal/auth"
	"sluice/internal/processes"
	"sluice/internal/web"
	"sluice/schema"
)

// userOf is the one user of a file with this entry.
func userOf(t *testing.T, entry string) *auth.User {
	sum, err := auth.Hash(strings.NewReader(strings.Repeat("0123456789", 2)), true, 0)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "users.yaml")
	require.NoError(t, os.WriteFile(file, []byte("users: [{name: u, tokens_sha256: ["+sum+"], "+entry+"}]"), 0o600))
	a, err := auth.New(auth.Config{UsersFile: file}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	u, err := a.User(t.Context(), http.Header{"Authorization": {"Bearer 01234567890123456789"}})
	require.NoError(t, err)
	return u
}

func TestAccess(t *testing.T) {
	const all = `"rights":["read","write","metrics","admin"]`
	for name, c := range map[string]struct {
		tenancy web.Tenancy
		user    string // entry of the users file
		self    string // of this process
		params  string
		want    string
	}{
		"no users": {
			want: `"users":false,"user":"",` + all + `,"tenancy":"optional","federation":0,"default_tenant":"anonymous","tenants":[],"tenants_total":0,"patterns":[],"self_monitoring_tenant":"dev-self"`,
		},
		"required, federation": {
			tenancy: web.Tenancy{Required: true, MaxFederated: 50}, self: "own",
			want: `"users":false,"user":"",` + all + `,"tenancy":"required","federation":50,"default_tenant":"","tenants":[],"tenants_total":0,"patterns":[],"self_monitoring_tenant":"own"`,
		},
		"off": {
			tenancy: web.Tenancy{Off: true},
			want:    `"users":false,"user":"",` + all + `,"tenancy":"off","federation":0,"default_tenant":"anonymous","tenants":[],"tenants_total":0,"patterns":[],"self_monitoring_tenant":"dev-self"`,
		},
		"nobody stands before it": {
			tenancy: web.Tenancy{Users: true},
			want:    `"users":true,"user":"","rights":[],"tenancy":"users","federation":0,"default_tenant":"","tenants":[],"tenants_total":0,"patterns":[],"self_monitoring_tenant":"","stages":[],"instance":"","version":""`,
		},
		"one tenant": {
			tenancy: web.Tenancy{Users: true}, user: "tenants: [a], rights: [write]",
			want: `"users":true,"user":"u","rights":["write"],"tenancy":"users","federation":0,"default_tenant":"a","tenants":["a"],"tenants_total":1,"patterns":[],"self_monitoring_tenant":""`,
		},
		"a pattern": {
			tenancy: web.Tenancy{Users: true}, user: `tenants: [z, "dev-*"], rights: [read, admin]`,
			want: `"users":true,"user":"u","rights":["read","metrics","admin"],"tenancy":"users","federation":0,"default_tenant":"","tenants":["dev-1","dev-2","dev-3","z"],"tenants_total":4,"patterns":["dev-*"],"self_monitoring_tenant":"dev-self"`,
		},
		"searched, limited": {
			tenancy: web.Tenancy{Users: true}, user: `tenants: [z, "dev-*"], rights: [write]`, params: "?search=v-&limit=2",
			want: `"users":true,"user":"u","rights":["write"],"tenancy":"users","federation":0,"default_tenant":"","tenants":["dev-1","dev-2"],"tenants_total":3,"patterns":["dev-*"],"self_monitoring_tenant":""`,
		},
		"no tenant": {
			tenancy: web.Tenancy{Users: true}, user: "rights: [admin]",
			want: `"users":true,"user":"u","rights":["metrics","admin"],"tenancy":"users","federation":0,"default_tenant":"","tenants":[],"tenants_total":0,"patterns":[],"self_monitoring_tenant":""`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := Access{
				Tenancy: c.tenancy, Stages: []string{"reader"}, Instance: "i", Version: "v", Self: c.self,
				Processes: &fakeProcesses{all: []processes.Process{{ID: "x"}, {ID: "y", Self: "old", Silent: true}, {ID: "z", Self: "dev-self"}}},
				Known: []func() []schema.Tenant{
					func() []schema.Tenant { return []schema.Tenant{"dev-2", "other", "dev-1"} },
					func() []schema.Tenant { return []schema.Tenant{"dev-3", "dev-1", "team-of-others"} },
				},
			}
			mux := http.NewServeMux()
			a.Register(mux)
			for _, prefix := range prefixes {
				r := httptest.NewRequest(http.MethodGet, prefix+"/status/access"+c.params, nil)
				if c.user != "" {
					r = r.WithContext(auth.WithUser(r.Context(), userOf(t, c.user)))
				}
				w := httptest.NewRecorder()
				mux.ServeHTTP(w, r)
				require.Equal(t, http.StatusOK, w.Code)
				require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
				want := c.want
				if !strings.Contains(want, `"stages"`) {
					want += `,"stages":["reader"],"instance":"i","version":"v"`
				}
				var got struct{ Data json.RawMessage }
				require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
				require.JSONEq(t, "{"+want+"}", string(got.Data))
			}
		})
	}
	mux := http.NewServeMux()
	(&Access{Processes: &fakeProcesses{}}).Register(mux)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/v1/status/access?limit=-1", nil))
	require.Equal(t, http.StatusBadRequest, w.Code)
}
