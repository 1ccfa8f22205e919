package queries

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
)

var start = time.UnixMilli(1_760_000_007_123)

// What is generated is PromQL, has everything in it, and is the same each time.
func TestGenerate(t *testing.T) {
	made := Generate(6, 500, start)
	require.Equal(t, made, Generate(6, 500, start))
	require.NotEqual(t, made, Generate(7, 500, start))
	p := newParser()
	functions, aggregators, kinds, ranged := map[string]int{}, map[parser.ItemType]int{}, map[string]int{}, 0
	for _, q := range made {
		expr, err := p.ParseExpr(q.Expr)
		require.NoError(t, err, q.Expr)
		if q.Step > 0 {
			ranged++
			require.Contains(t, []parser.ValueType{parser.ValueTypeVector, parser.ValueTypeScalar}, expr.Type(), q.Expr)
		}
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			switch n := node.(type) {
			case *parser.Call:
				functions[n.Func.Name]++
			case *parser.AggregateExpr:
				aggregators[n.Op]++
			case *parser.BinaryExpr:
				kinds["operator "+n.Op.String()]++
				if m := n.VectorMatching; m != nil {
					kinds["matching "+m.Card.String()]++
					if m.FillValues.LHS != nil {
						kinds["fill"]++
					}
				}
			case *parser.SubqueryExpr:
				kinds["subquery"]++
			case *parser.VectorSelector:
				if n.OriginalOffset != 0 || n.OriginalOffsetExpr != nil {
					kinds["offset"]++
				}
				if n.Timestamp != nil {
					kinds["@ time"]++
				}
				if n.StartOrEnd != 0 {
					kinds["@ edge"]++
				}
				for _, m := range n.LabelMatchers {
					kinds["matcher "+m.Type.String()]++
				}
			}
			return nil
		})
	}
	require.Greater(t, ranged, 200)
	for name := range parser.Functions {
		require.Positive(t, functions[name], name)
	}
	for _, op := range []parser.ItemType{
		parser.SUM, parser.AVG, parser.COUNT, parser.MIN, parser.MAX, parser.GROUP, parser.STDDEV, parser.STDVAR, parser.TOPK, parser.BOTTOMK, parser.COUNT_VALUES,
		parser.QUANTILE, parser.LIMITK, parser.LIMIT_RATIO,
	} {
		require.Positive(t, aggregators[op], op.String())
	}
	for _, kind := range strings.Fields("subquery offset fill") {
		require.Greater(t, kinds[kind], 3, kind)
	}
	for _, kind := range []string{
		"@ time", "@ edge", "matcher =", "matcher !=", "matcher =~", "matcher !~", "matching one-to-one", "matching many-to-one", "matching one-to-many", "matching many-to-many",
		"operator +", "operator and", "operator or", "operator unless", "operator atan2", "operator ^", "operator %", "operator </", "operator >/",
	} {
		require.Positive(t, kinds[kind], kind)
	}
}

func TestSamples(t *testing.T) {
	samples := Samples(6, start)
	again := Samples(6, start)
	require.Len(t, again, len(samples))
	newest, floats, histograms, starts, late := map[string]int64{}, 0, 0, 0, 0
	for i, s := range samples {
		require.True(t, labels.Equal(s.Series, again[i].Series))
		require.Equal(t, s.T, again[i].T)
		key := s.Series.String()
		if s.T <= newest[key] {
			late++
		}
		newest[key] = max(newest[key], s.T)
		switch {
		case s.H != nil:
			require.NoError(t, s.H.Validate())
			histograms++
		case s.FH != nil:
			require.NoError(t, s.FH.Validate())
			histograms++
		default:
			floats++
		}
		if s.ST != 0 {
			require.Less(t, s.ST, s.T)
			starts++
		}
	}
	require.Greater(t, floats, 20_000)
	require.Greater(t, histograms, 5_000)
	require.Greater(t, starts, 5_000)
	require.Greater(t, late, 50)
	body, err := Request(samples[:2000])
	require.NoError(t, err)
	require.NotEmpty(t, body)
	t.Logf("%d series, %d floats, %d histograms", len(newest), floats, histograms)
}
