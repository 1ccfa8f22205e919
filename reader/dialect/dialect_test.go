package dialect

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// Of every expression in Prometheus' acceptance tests we say what a Prometheus with the same features says.
func TestCheckIsPrometheus(t *testing.T) {
	exprs, err := promqltest.GetBuiltInExprs()
	require.NoError(t, err)
	require.Greater(t, len(exprs), 2000)
	whole := NewParser()
	refused := map[string]int{}
	for features := range 16 {
		has := func(bit int) bool { return features&(1<<bit) != 0 }
		theirs := parser.NewParser(parser.Options{
			EnableExperimentalFunctions: has(0), ExperimentalDurationExpr: has(1), EnableExtendedRangeSelectors: has(2), EnableBinopFillModifiers: has(3),
		})
		limits := &schema.Limits{}
		if has(0) {
			limits.EnabledPromQLExperimentalFunctions = all
		}
		limits.EnabledPromQLDurationExpressions = has(1)
		if has(2) {
			limits.EnabledPromQLExtendedRangeSelectors = "smoothed,anchored"
		}
		limits.EnabledPromQLFillModifiers = has(3)
		ours := Of(limits)
		for _, expr := range exprs {
			if _, err := whole.ParseExpr(expr); err != nil {
				continue // PromQL of no kind
			}
			_, want := theirs.ParseExpr(expr)
			got := ours.Check(whole, expr)
			if want == nil {
				require.NoError(t, got, expr)
				continue
			}
			var se *schema.Error
			require.ErrorAs(t, got, &se, "%s: %v", expr, want)
			require.Equal(t, schema.ErrPromQLExperimental, se.ID)
			require.Equal(t, http.StatusBadRequest, se.Status)
			first := fmt.Sprintf("invalid parameter \"query\": %v", want)
			_, what, _ := strings.Cut(se.Message, "parse error: ")
			refused[what]++
			if strings.Contains(what, "is experimental and not enabled") && !strings.Contains(what, "modifier") {
				first = strings.Replace(first, "must be enabled with --enable-feature=promql-experimental-functions", "not enabled", 1)
			}
			var several parser.ParseErrors
			if errors.As(want, &several) && len(several) > 1 {
				continue // which of them comes first depends on how the parser works
			}
			require.Equal(t, first, se.Message)
		}
	}
	for _, what := range []string{"function \"sort_by_label\" is", "limitk() is", "anchored modifier", "smoothed modifier", "duration expression", "fill modifiers"} {
		n := 0
		for text, times := range refused {
			if strings.Contains(text, what) {
				n += times
			}
		}
		require.Positive(t, n, what)
	}
}

func TestNames(t *testing.T) {
	p := NewParser()
	limits := func(functions, selectors schema.CSVList) *schema.Limits {
		l := &schema.Limits{}
		l.EnabledPromQLExperimentalFunctions, l.EnabledPromQLExtendedRangeSelectors = functions, selectors
		return l
	}
	for _, c := range []struct {
		limits []*schema.Limits
		query  string
		want   string // "" = allowed
	}{
		{[]*schema.Limits{limits("", "")}, "sum(rate(a[5m]))", ""},
		{[]*schema.Limits{limits("", "")}, "sort_by_label(a)", `1:1: parse error: function "sort_by_label" is not enabled`},
		{[]*schema.Limits{limits("info,sort_by_label", "")}, "sort_by_label(a)", ""},
		{[]*schema.Limits{limits("info,sort_by_label", "")}, "1 + limitk(2, a)", "1:5: parse error: limitk() is experimental and not enabled"},
		{[]*schema.Limits{limits("limitk", "")}, "limitk(2, a) + limit_ratio(0.5, a)", "limit_ratio() is"},
		{[]*schema.Limits{limits("", "anchored")}, "rate(a[5m] anchored)", ""},
		{[]*schema.Limits{limits("", "anchored")}, "rate(a[5m] smoothed)", "1:6: parse error: smoothed modifier is"},
		{[]*schema.Limits{limits("all", "all")}, "limitk(2, a) + rate(a[5m] smoothed)", ""},
		{[]*schema.Limits{limits("all", ""), limits("info,limitk", "")}, "limitk(2, a)", ""},
		{[]*schema.Limits{limits("info,limitk", ""), limits("all", "")}, "limitk(2, info(a))", ""},
		{[]*schema.Limits{limits("info,limitk", ""), limits("limitk", "")}, "limitk(2, info(a))", `function "info" is`},
		{[]*schema.Limits{limits("all", ""), limits("", "")}, "limitk(2, a)", "limitk() is"},
		{[]*schema.Limits{limits("all", "all")}, "a[5m+1]", "experimental duration expression is not enabled"},
		{[]*schema.Limits{limits("all", "all")}, "a offset (5m)", "experimental duration expression is not enabled"},
		{[]*schema.Limits{limits("all", "all")}, "a + fill(0) b", "binop fill modifiers are"},
		{[]*schema.Limits{limits("", "")}, "sort_by_label(", ""}, // the API says what is wrong with it
	} {
		d := Of(c.limits...)
		err := d.Check(p, c.query)
		if c.want == "" {
			require.NoError(t, err, c.query)
		} else {
			require.ErrorContains(t, err, c.want, c.query)
		}
	}
}

func TestSemanticsAreShared(t *testing.T) {
	on, off := &schema.Limits{}, &schema.Limits{}
	on.EnableDelayedNameRemoval, on.EnableStartTimestamps = true, true
	require.Equal(t, Semantics{true, true}, Of(on, on).Semantics)
	require.Equal(t, Semantics{}, Of(on, off).Semantics)
	require.Equal(t, Semantics{}, Of(off).Semantics)
}
