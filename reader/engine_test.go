package reader

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/internal/web"
	"sluice/schema"
)

// limitsOf are those of each tenant.
type limitsOf map[schema.Tenant]*schema.Limits

func (l limitsOf) For(t schema.Tenant) *schema.Limits { return l[t] }

// Each tenant has its experimental parts of PromQL, several together what all of them have.
func TestExperimentalPromQL(t *testing.T) {
	w, _, base := simple(t, web.Tenancy{MaxFederated: 10})
	all, some, none := schema.DefaultLimits(), schema.DefaultLimits(), schema.DefaultLimits()
	all.EnabledPromQLExperimentalFunctions, all.EnabledPromQLExtendedRangeSelectors, all.EnableDelayedNameRemoval = "all", "all", true
	some.EnabledPromQLExperimentalFunctions = "limitk,sort_by_label"
	w.reader.limits = limitsOf{"all": &all, "some": &some, "none": &none}
	ask := func(tenant, endpoint, query string) reply {
		return post(t, base+"/prometheus/api/v1"+endpoint, url.Values{"query": {query}, "time": {"120"}, "start": {"0"}, "end": {"120"}, "step": {"60"}}, schema.TenantHeader, tenant)
	}
	const limited, extended = "limitk(1, m)", "1 + rate(m[1m] anchored)"
	for _, endpoint := range []string{"/query", "/query_range", "/format_query", "/parse_query"} {
		for _, c := range []struct {
			tenant, query string
			want          string // "" = answered
		}{
			{"all", limited, ""}, {"all", extended, ""},
			{"some", limited, ""}, {"some", extended, "1:10: parse error: anchored modifier is experimental and not enabled"},
			{"some", "info(m)", `1:1: parse error: function "info" is not enabled`},
			{"none", limited, "limitk() is experimental and not enabled"}, {"none", "m", ""},
			{"all|some", limited, ""}, {"all|some", extended, "anchored modifier is experimental"},
			{"all|none|some", limited, "limitk() is experimental"},
		} {
			got := ask(c.tenant, endpoint, c.query)
			if c.want == "" {
				require.Equal(t, http.StatusOK, got.code, "%s %s: %s", c.tenant, c.query, got.body)
				continue
			}
			require.Equal(t, http.StatusBadRequest, got.code, "%s %s: %s", c.tenant, c.query, got.body)
			require.Equal(t, "bad_data", got.json.ErrorType)
			require.Contains(t, got.json.Error, c.want)
			require.Contains(t, got.json.Error, string(schema.ErrPromQLExperimental))
		}
	}

	// Where names go at the end of an evaluation, label_replace still sees what the multiplication takes off.
	const named = `label_replace(m{s="a"} * 2, "was", "$1", "__name__", "(.*)")`
	require.Contains(t, ask("all", "/query", named).body, `"was":"m"`)
	for _, tenant := range []string{"none", "some", "all|some"} {
		require.NotContains(t, ask(tenant, "/query", named).body, `"was":"m"`)
	}

	enabled := func(tenant, category, name string) bool {
		got := get(t, base+"/api/v1/features", schema.TenantHeader, tenant)
		require.Equal(t, http.StatusOK, got.code, got.body)
		var known map[string]map[string]bool
		require.NoError(t, json.Unmarshal(got.json.Data, &known))
		on, ok := known[category][name]
		require.True(t, ok, "%s/%s", category, name)
		return on
	}
	require.True(t, enabled("some", "promql_functions", "sort_by_label"))
	require.False(t, enabled("none", "promql_functions", "sort_by_label"))
	require.False(t, enabled("all|none", "promql_functions", "info"))
	require.True(t, enabled("all", "promql", "anchored"))
	require.False(t, enabled("all", "promql", "fill"))
	require.True(t, enabled("all", "promql", "delayed_name_removal"))
	require.True(t, enabled("none", "promql_functions", "rate"))
}
