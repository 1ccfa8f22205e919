package front

import (
	"math"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

// shape is what the text of a query says about how it may be worked on.
type shape struct {
	expr  parser.Expr
	parts bool          // a range query may be worked on in parts
	reach time.Duration // how much time a step looks at
}

// looked returns which times (ms, both inclusive) the steps from first to last look at.
func (s *shape) looked(first, last int64, step, lookback time.Duration) (mint, maxt int64) {
	return promql.FindMinMaxTime(&parser.EvalStmt{
		Expr: s.expr, Start: time.UnixMilli(first), End: time.UnixMilli(last), Interval: step, LookbackDelta: lookback,
	})
}

// shapeOf looks at a query as it was written. A step's result depends on nothing but that step in almost all of PromQL.
// What does not may not be worked on in parts:
//
//   - start(), end(), range(), step(), @ start() and @ end() stand for the whole query, and so do durations that are computed;
//   - sort() remarks on queries with several steps; info() looks at all series of the range;
//   - functions over ranges refuse two series that only a metric name tells apart even when they are never there at the
//     same step, so each such name must be known from the text;
//   - parameters of aggregations are remarked on with their largest value.
func shapeOf(expr parser.Expr, lookback time.Duration) *shape {
	s := &shape{expr: expr}
	selectors := 0
	whole := false
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			selectors++
			whole = whole || n.StartOrEnd != 0 || n.Anchored || n.Smoothed || n.OriginalOffsetExpr != nil
		case *parser.MatrixSelector:
			whole = whole || n.RangeExpr != nil
		case *parser.SubqueryExpr:
			whole = whole || n.StartOrEnd != 0 || n.RangeExpr != nil || n.OriginalOffsetExpr != nil || n.StepExpr != nil
		case *parser.Call:
			whole = whole || needsWhole(n)
		case *parser.AggregateExpr:
			whole = whole || !constant(n.Param)
		}
		return nil
	})
	s.parts = !whole && selectors > 0
	if s.parts {
		length, _ := longest(expr, 0, time.Minute)
		s.reach = length + lookback
	}
	return s
}

// needsWhole says whether a call has to see the whole range.
func needsWhole(n *parser.Call) bool {
	switch n.Func.Name {
	case "start", "end", "range", "step", "info", "sort", "sort_desc", "sort_by_label", "sort_by_label_desc":
		return true
	case "last_over_time", "first_over_time", "absent_over_time":
		return false // the names stay, or do not matter
	}
	for _, arg := range n.Args {
		if t := arg.Type(); t == parser.ValueTypeMatrix && !oneName(arg) {
			return true
		}
	}
	return false
}

// oneName says whether all series of expr have the same metric name, or none.
func oneName(expr parser.Expr) bool {
	switch n := expr.(type) {
	case *parser.VectorSelector:
		for _, m := range n.LabelMatchers {
			if m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual && m.Value != "" {
				return true
			}
		}
		return false
	case *parser.MatrixSelector:
		return oneName(n.VectorSelector)
	case *parser.SubqueryExpr:
		return oneName(n.Expr)
	case *parser.ParenExpr:
		return oneName(n.Expr)
	case *parser.UnaryExpr:
		return oneName(n.Expr)
	case *parser.StepInvariantExpr:
		return oneName(n.Expr)
	case *parser.AggregateExpr:
		if n.Op == parser.COUNT_VALUES {
			return false // its label may be any
		}
		for _, name := range n.Grouping {
			if name == model.MetricNameLabel {
				return oneName(n.Expr)
			}
		}
		switch n.Op {
		case parser.TOPK, parser.BOTTOMK, parser.LIMITK, parser.LIMIT_RATIO:
			return oneName(n.Expr)
		}
		return true
	case *parser.BinaryExpr:
		return !includesName(n.VectorMatching) && oneName(n.LHS) && oneName(n.RHS) && (n.Op != parser.LOR || sameName(n.LHS, n.RHS))
	case *parser.Call:
		switch n.Func.Name {
		case "label_replace", "label_join":
			return false
		}
		for _, arg := range n.Args {
			if t := arg.Type(); (t == parser.ValueTypeVector || t == parser.ValueTypeMatrix) && !oneName(arg) {
				return false
			}
		}
		return true
	case *parser.NumberLiteral, *parser.StringLiteral:
		return true
	}
	return false
}

// includesName says whether group_left or group_right brings the name of the other side.
func includesName(m *parser.VectorMatching) bool {
	if m == nil {
		return false
	}
	for _, name := range m.Include {
		if name == model.MetricNameLabel {
			return true
		}
	}
	return false
}

// sameName says of two expressions with one name each, as far as plain selectors go, that it is the same.
func sameName(a, b parser.Expr) bool {
	x, ok := a.(*parser.VectorSelector)
	y, ok2 := b.(*parser.VectorSelector)
	return ok && ok2 && x.Name != "" && x.Name == y.Name
}

// constant says whether a parameter is written as one value.
func constant(e parser.Expr) bool {
	switch n := e.(type) {
	case nil, *parser.NumberLiteral, *parser.StringLiteral:
		return true
	case *parser.UnaryExpr:
		return constant(n.Expr)
	case *parser.ParenExpr:
		return constant(n.Expr)
	}
	return false
}

// longest returns the longest time that a step of expr looks at, and the most points that one of its subqueries has for
// one series when expr is evaluated over span.
func longest(expr parser.Expr, span, step time.Duration) (length time.Duration, points float64) {
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		var own time.Duration
		switch n := node.(type) {
		case *parser.MatrixSelector:
			own = n.Range
		case *parser.SubqueryExpr:
			own = n.Range
		default:
			return nil
		}
		sum := float64(own)
		for _, p := range path {
			if sub, ok := p.(*parser.SubqueryExpr); ok {
				sum += float64(sub.Range)
			}
		}
		length = max(length, time.Duration(min(sum, math.MaxInt64/2)))
		if sub, ok := node.(*parser.SubqueryExpr); ok {
			each := sub.Step
			if each <= 0 {
				each = step
			}
			points = max(points, (float64(span)+sum)/float64(each))
		}
		return nil
	})
	return length, points
}
