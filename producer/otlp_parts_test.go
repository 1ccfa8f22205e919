package producer

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"sluice/schema"
)

// A resource whose attributes cannot be used costs its own data points and no others.
func TestOTLPResourceFaults(t *testing.T) {
	md, add := otlpMetrics()
	addGauge(add("a"), 1)
	addGauge(add("b"), 1)
	for i := range maxAttributes {
		md.ResourceMetrics().At(0).Resource().Attributes().PutStr(fmt.Sprint("r", i), "x")
	}
	other, add := otlpMetrics()
	addGauge(add("c"), 1)
	other.ResourceMetrics().MoveAndAppendTo(md.ResourceMetrics())
	f := newFixture(t, Config{}, "", 3)
	rejected, message := exportResponse(t, f.postOTLP(otlpProto(t, md)))
	require.EqualValues(t, 2, rejected)
	require.Contains(t, message, "1028 attributes")
	require.Contains(t, message, string(schema.ErrTooManyLabels))
	lines := strings.Join(writtenLines(f.log.content(t)), "\n")
	require.Contains(t, lines, `{__name__="c"`)
	require.NotContains(t, lines, `{__name__="a"`)

	// What is wrong with target_info alone is said, and costs no data point.
	md, add = otlpMetrics()
	addGauge(add("a"), 1)
	md.ResourceMetrics().At(0).Resource().Attributes().PutStr("long", strings.Repeat("x", 3000))
	rejected, message = exportResponse(t, f.postOTLP(otlpProto(t, md)))
	require.Zero(t, rejected)
	require.Contains(t, message, "target_info")
	require.Contains(t, message, string(schema.ErrLabelValueTooLong))
}

// Data points that are decades apart do not make millions of samples of target_info.
func TestOTLPTargetInfoSpan(t *testing.T) {
	md, add := otlpMetrics()
	addGauge(add("a"), 1).SetTimestamp(1e9)
	addGauge(add("b"), 1)
	f := newFixture(t, Config{}, "", 3)
	rejected, _ := exportResponse(t, f.postOTLP(otlpProto(t, md)))
	require.Zero(t, rejected)
	infos := 0
	for _, line := range writtenLines(f.log.content(t)) {
		if strings.HasPrefix(line, `{__name__="target_info"`) {
			infos++
		}
	}
	require.Equal(t, maxTargetInfo, infos)
}

// A label that names the tenant splits OTLP, too.
func TestOTLPSplit(t *testing.T) {
	md, add := otlpMetrics()
	for i, tenant := range []string{"a", "b", "a", "..", ""} {
		addGauge(add("m"), float64(i)).Attributes().PutStr("tenant", tenant)
	}
	addGauge(add("bad"), 1).Attributes().PutStr("tenant", "b")
	md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().At(5).Gauge().DataPoints().At(0).Attributes().PutStr("v", strings.Repeat("x", 3000))
	f := newFixture(t, Config{TenantLabel: "tenant", StripTenantLabel: true}, "", 3)
	rejected, message := exportResponse(t, f.postOTLP(otlpProto(t, md), "X-Scope-OrgID", "own"))
	require.EqualValues(t, 2, rejected, message)
	require.Contains(t, message, string(schema.ErrTenantInvalid))
	tenants := map[string]int{}
	for _, recs := range f.log.records() {
		for _, r := range recs {
			tenants[string(r.Key)]++
		}
	}
	require.Len(t, tenants, 3, "%v", tenants)
	require.Zero(t, f.budget.used.Load())

	f = newFixture(t, Config{TenantLabel: "tenant"}, "overrides: {b: {ingestion_rate: 1, ingestion_burst_size: 1}}", 3)
	require.Equal(t, http.StatusOK, f.postOTLP(otlpProto(t, md)).Code)
	require.Equal(t, http.StatusTooManyRequests, f.postOTLP(otlpProto(t, md)).Code)
	f.log.fail(errors.New("away"))
	require.Equal(t, http.StatusServiceUnavailable, f.postOTLP(otlpProto(t, md)).Code)
}

// An exemplar that cannot be kept costs nothing else, and nobody is told off for it.
func TestOTLPExemplars(t *testing.T) {
	md, add := otlpMetrics()
	d := addSum(add("m"), pmetric.AggregationTemporalityCumulative)
	d.Exemplars().AppendEmpty().SetTimestamp(otlpTime)
	d.Exemplars().AppendEmpty().SetDoubleValue(7)
	f := newFixture(t, Config{}, "", 1)
	rejected, message := exportResponse(t, f.postOTLP(otlpProto(t, md)))
	require.Zero(t, rejected)
	require.Empty(t, message)
	lines := strings.Join(writtenLines(f.log.content(t)), "\n")
	require.Equal(t, 1, strings.Count(lines, " # "))
	require.Contains(t, lines, fmt.Sprintf(" # {} %d 7", testNow.UnixMilli()))
	require.InDelta(t, 1, testutil.ToFloat64(f.metrics.rejected.WithLabelValues("anonymous", string(schema.ErrExemplarInvalid))), 0)
}
