// Package dialect says which of PromQL's experimental parts a tenant may use. In go the limits of the tenants that a query is
// about, and the query; out comes an error in Prometheus' words for what one of them may not use, and how the rest is to be
// evaluated. It evaluates nothing, and has no opinion on what is not experimental.
package dialect

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/parser/posrange"
	"github.com/prometheus/prometheus/util/features"

	"sluice/schema"
)

// NewParser makes the parser for everybody: it knows every experimental part, and Check looks at what it has read.
func NewParser() parser.Parser {
	return parser.NewParser(parser.Options{
		EnableExperimentalFunctions: true, ExperimentalDurationExpr: true, EnableExtendedRangeSelectors: true, EnableBinopFillModifiers: true,
	})
}

// Semantics are the settings that change what an expression means, as Prometheus' feature flags of these names do.
type Semantics struct {
	DelayedNameRemoval bool // the name of a metric goes at the end of the evaluation, not on the way
	StartTimestamps    bool // rate, increase, irate and resets look at start timestamps
}

// Dialect is what all tenants of a query have in common.
type Dialect struct {
	Semantics

	functions, selectors names
	durations, fill      bool
}

// names are those that a list allows.
type names struct {
	all    bool
	listed []string
}

const all = "all"

func namesOf(list schema.CSVList) names {
	listed := list.Names()
	return names{all: slices.Contains(listed, all), listed: listed}
}

func (n names) allow(name string) bool { return n.all || slices.Contains(n.listed, name) }

// both returns what a and b allow.
func both(a, b names) names {
	switch {
	case a.all:
		return b
	case b.all:
		return a
	}
	return names{listed: slices.DeleteFunc(slices.Clone(a.listed), func(name string) bool { return !b.allow(name) })}
}

// Of returns what every tenant of a query may use: one at least. Semantics that they do not share are Prometheus' default.
func Of(limits ...*schema.Limits) Dialect {
	d := Dialect{
		Semantics: Semantics{DelayedNameRemoval: true, StartTimestamps: true},
		functions: names{all: true}, selectors: names{all: true}, durations: true, fill: true,
	}
	for _, l := range limits {
		d.functions = both(d.functions, namesOf(l.EnabledPromQLExperimentalFunctions))
		d.selectors = both(d.selectors, namesOf(l.EnabledPromQLExtendedRangeSelectors))
		d.durations = d.durations && l.EnabledPromQLDurationExpressions
		d.fill = d.fill && l.EnabledPromQLFillModifiers
		d.DelayedNameRemoval = d.DelayedNameRemoval && l.EnableDelayedNameRemoval
		d.StartTimestamps = d.StartTimestamps && l.EnableStartTimestamps
	}
	return d
}

// everything tells that there is nothing to check.
func (d *Dialect) everything() bool {
	return d.functions.all && d.selectors.all && d.durations && d.fill
}

// Check returns an error of status 400 for the first part of the query that may not be used. What cannot be parsed is
// nobody's concern here. The query must be fit for a parser: not too long, not too deep.
func (d *Dialect) Check(p parser.Parser, query string) error {
	if d.everything() {
		return nil
	}
	expr, err := p.ParseExpr(query)
	if err != nil {
		return nil
	}
	var first *parser.ParseErr
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		found := d.forbidden(node)
		if found != nil && (first == nil || found.PositionRange.Start < first.PositionRange.Start) {
			first = found
		}
		return nil
	})
	if first == nil {
		return nil
	}
	first.Query = query
	return schema.NewError(schema.ErrPromQLExperimental, http.StatusBadRequest, "invalid parameter \"query\": %s", first.Error())
}

// forbidden returns what is wrong with a node itself.
func (d *Dialect) forbidden(node parser.Node) *parser.ParseErr {
	wrong := func(at posrange.PositionRange, format string, args ...any) *parser.ParseErr {
		return &parser.ParseErr{PositionRange: at, Err: fmt.Errorf(format, args...)}
	}
	duration := func(exprs ...*parser.DurationExpr) *parser.ParseErr {
		for _, e := range exprs {
			if e != nil && !d.durations {
				return wrong(e.PositionRange(), "experimental duration expression is not enabled")
			}
		}
		return nil
	}
	switch n := node.(type) {
	case *parser.Call:
		if n.Func.Experimental && !d.functions.allow(n.Func.Name) {
			return wrong(n.PosRange, "function %q is not enabled", n.Func.Name)
		}
	case *parser.AggregateExpr:
		if n.Op.IsExperimentalAggregator() && !d.functions.allow(n.Op.String()) {
			return wrong(n.PosRange, "%s() is experimental and not enabled", n.Op)
		}
	case *parser.BinaryExpr:
		if m := n.VectorMatching; m != nil && (m.FillValues.LHS != nil || m.FillValues.RHS != nil) && !d.fill {
			return wrong(n.PositionRange(), "binop fill modifiers are experimental and not enabled")
		}
	case *parser.VectorSelector:
		for name, used := range map[string]bool{"anchored": n.Anchored, "smoothed": n.Smoothed} {
			if used && !d.selectors.allow(name) {
				return wrong(n.PositionRange(), "%s modifier is experimental and not enabled", name)
			}
		}
		return duration(n.OriginalOffsetExpr)
	case *parser.MatrixSelector:
		return duration(n.RangeExpr)
	case *parser.SubqueryExpr:
		return duration(n.RangeExpr, n.StepExpr, n.OriginalOffsetExpr)
	}
	return nil
}

// Features notes in known what of the experimental parts is enabled, under the names of Prometheus' features.
func (d *Dialect) Features(known features.Collector) {
	for name, f := range parser.Functions {
		if f.Experimental {
			known.Set(features.PromQLFunctions, name, d.functions.allow(name))
		}
	}
	for _, op := range []parser.ItemType{parser.LIMITK, parser.LIMIT_RATIO} {
		known.Set(features.PromQLOperators, op.String(), d.functions.allow(op.String()))
	}
	for _, name := range []string{"anchored", "smoothed"} {
		known.Set(features.PromQL, name, d.selectors.allow(name))
	}
	for _, name := range []string{"fill", "fill_left", "fill_right"} {
		known.Set(features.PromQL, name, d.fill)
	}
	known.Set(features.PromQL, "duration_expr", d.durations)
	known.Set(features.PromQL, "delayed_name_removal", d.DelayedNameRemoval)
	known.Set(features.PromQL, "use_start_timestamps", d.StartTimestamps)
}
