package eval

import (
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
)

// subtree is a part of an expression that is evaluated here: an aggregation of a function of a selector, or one of the
// two alone.
type subtree struct {
	selector *parser.VectorSelector
	call     *parser.Call          // nil: the selector has no range
	aggr     *parser.AggregateExpr // nil: each series is a result

	fn       function
	grid     grid
	rng      int64 // ms
	offset   int64 // ms that the samples lie before a step
	lookback int64 // ms
	seconds  float64
	hints    *storage.SelectHints
	path     []level

	oneName bool // all series have the same name

	// What it took, after it was evaluated.
	done   counts
	points int64   // results given to the engine
	peak   int     // samples in memory at a time, as Prometheus counts
	readAt []int64 // samples read, less points, by step; nil if no subquery wants to know
}

// level is a place between a subtree and the root where samples are counted otherwise.
type level struct {
	grid     grid // of the level above
	once     bool // evaluated for the first step alone and used for all
	subquery *parser.SubqueryExpr
	inner    grid // of the subquery
	call     bool // the subquery is the argument of a function
}

// planner finds the subtrees of one expression and puts selectors of their results in their places.
type planner struct {
	cfg   *Config
	stmt  *parser.EvalStmt
	found map[*labels.Matcher]*subtree
}

// around is what lies between the root and the node that is looked at.
type around struct {
	grid   grid
	levels []level // the innermost first
	// subqueries, the outermost first.
	subqueries []*parser.SubqueryExpr
	call       bool // the node is the argument of a function
}

// plan replaces what it finds in stmt.
func plan(cfg *Config, stmt *parser.EvalStmt) map[*labels.Matcher]*subtree {
	p := &planner{cfg: cfg, stmt: stmt, found: map[*labels.Matcher]*subtree{}}
	g := grid{start: stmt.Start.UnixMilli(), end: stmt.End.UnixMilli(), interval: stmt.Interval.Milliseconds()}
	if stmt.Interval == 0 && g.start == g.end {
		g.interval = 1
	}
	if g.interval <= 0 {
		return nil
	}
	stmt.Expr = p.visit(stmt.Expr, around{grid: g})
	return p.found
}

// visit returns what stands in the place of e.
func (p *planner) visit(e parser.Expr, at around) parser.Expr {
	if e == nil {
		return nil
	}
	if s := p.recognise(e, at); s != nil {
		return p.replace(e, s)
	}
	inner := at
	inner.call = false
	switch n := e.(type) {
	case *parser.AggregateExpr:
		n.Expr, n.Param = p.visit(n.Expr, inner), p.visit(n.Param, inner)
	case *parser.BinaryExpr:
		n.LHS, n.RHS = p.visit(n.LHS, inner), p.visit(n.RHS, inner)
	case *parser.Call:
		if n.Func.Name == "info" { // it looks at the selectors of its arguments
			return e
		}
		inner.call = true
		for i := range n.Args {
			n.Args[i] = p.visit(n.Args[i], inner)
		}
	case *parser.ParenExpr:
		n.Expr = p.visit(n.Expr, inner)
	case *parser.UnaryExpr:
		n.Expr = p.visit(n.Expr, inner)
	case *parser.StepInvariantExpr:
		inner.levels = slices.Insert(slices.Clone(inner.levels), 0, level{grid: inner.grid, once: true})
		inner.grid.end = inner.grid.start
		n.Expr = p.visit(n.Expr, inner)
	case *parser.SubqueryExpr:
		p.subquery(n, at)
	}
	return e
}

// subquery visits the inside of a subquery, whose steps are its own.
func (p *planner) subquery(n *parser.SubqueryExpr, at around) {
	if n.Timestamp != nil && len(at.subqueries) > 0 {
		return // rare, and its offset depends on what is around it
	}
	step := n.Step.Milliseconds()
	if n.Step == 0 {
		step = p.cfg.NoStepSubqueryInterval(n.Range.Milliseconds())
	}
	if step <= 0 {
		return
	}
	offset := n.OriginalOffset.Milliseconds()
	if n.Timestamp != nil {
		offset += at.grid.start - *n.Timestamp
	}
	outer := at.grid
	from := outer.start - offset - n.Range.Milliseconds()
	g := grid{start: step * (from / step), interval: step}
	if g.start <= from {
		g.start += step
	}
	g.end = outer.start + (outer.end-outer.start)/outer.interval*outer.interval - offset
	inner := around{
		grid:       g,
		levels:     slices.Insert(slices.Clone(at.levels), 0, level{grid: outer, subquery: n, inner: g, call: at.call}),
		subqueries: append(slices.Clip(at.subqueries), n),
	}
	n.Expr = p.visit(n.Expr, inner)
}

// recognise returns e as a subtree, nil if it is none.
func (p *planner) recognise(e parser.Expr, at around) *subtree {
	s := &subtree{grid: at.grid, path: at.levels, lookback: p.stmt.LookbackDelta.Milliseconds()}
	grouped := false
	if aggr, ok := e.(*parser.AggregateExpr); ok {
		if !aggregates(aggr.Op) || aggr.Param != nil {
			return nil
		}
		s.aggr, e, grouped = aggr, aggr.Expr, true
	}
	var rng time.Duration
	switch n := e.(type) {
	case *parser.VectorSelector:
		if !grouped {
			return nil // nothing to gain
		}
		s.selector = n
	case *parser.Call:
		fn, known := functions[n.Func.Name]
		if !known || len(n.Args) != 1 {
			return nil
		}
		m, ok := n.Args[0].(*parser.MatrixSelector)
		if !ok {
			return nil
		}
		s.call, s.fn, rng = n, fn, m.Range
		s.selector, ok = m.VectorSelector.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		s.rng, s.seconds = m.Range.Milliseconds(), m.Range.Seconds()
	default:
		return nil
	}
	if !p.takes(s, at) {
		return nil
	}
	s.offset = s.selector.OriginalOffset.Milliseconds()
	if at := s.selector.Timestamp; at != nil {
		s.offset += s.grid.start - *at
	}
	if len(at.subqueries) > 0 {
		s.readAt = make([]int64, s.grid.steps())
	}
	s.oneName = slices.ContainsFunc(s.selector.LabelMatchers, func(m *labels.Matcher) bool {
		return m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual && m.Value != ""
	})
	p.hint(s, rng, at)
	return s
}

// takes tells whether what the selector and the engine's settings ask for is done here.
func (p *planner) takes(s *subtree, at around) bool {
	v := s.selector
	switch {
	case v.Anchored, v.Smoothed, v.BypassEmptyMatcherCheck && len(v.LabelMatchers) == 0:
		return false
	case v.Timestamp != nil && (s.grid.start != s.grid.end || len(at.subqueries) > 0):
		return false
	case s.call != nil && s.rng <= 0, s.grid.steps() == 0:
		return false
	case p.cfg.TypeAndUnitLabels && (s.fn == funcRate || s.fn == funcIncrease):
		return false
	}
	// With delayed removal results keep the name until the end, and there is no way to give the engine such a result;
	// those of an aggregation that leaves the name out have none.
	return !p.cfg.DelayedNameRemoval || s.aggr != nil && (s.aggr.Without || !slices.Contains(s.aggr.Grouping, model.MetricNameLabel))
}

// hint makes the hints that the engine would give to the storage.
func (p *planner) hint(s *subtree, rng time.Duration, at around) {
	var e parser.Expr = s.selector
	if s.call != nil {
		e = s.call.Args[0]
	}
	for _, sub := range slices.Backward(at.subqueries) {
		outer := *sub
		outer.Expr = e
		e = &outer
	}
	h := &storage.SelectHints{Step: p.stmt.Interval.Milliseconds(), Range: rng.Milliseconds()}
	h.Start, h.End = promql.FindMinMaxTime(&parser.EvalStmt{
		Expr: e, Start: p.stmt.Start, End: p.stmt.End, Interval: p.stmt.Interval, LookbackDelta: p.stmt.LookbackDelta,
	})
	if len(at.subqueries) > 0 {
		h.Step = at.grid.interval
	}
	if s.call != nil {
		h.Func = s.call.Func.Name
	} else {
		h.Func, h.By, h.Grouping = s.aggr.Op.String(), !s.aggr.Without, s.aggr.Grouping
	}
	s.hints = h
}

// replace returns the expression that reads the results of s. Its parentheses keep it apart from selectors that somebody
// wrote, of which functions like timestamp() and absent() think otherwise.
func (p *planner) replace(e parser.Expr, s *subtree) parser.Expr {
	if s.aggr != nil {
		slices.Sort(s.aggr.Grouping)
	}
	id := &labels.Matcher{Type: labels.MatchEqual, Name: "subtree"}
	p.found[id] = s
	pos := e.PositionRange()
	return &parser.ParenExpr{PosRange: pos, Expr: &parser.VectorSelector{LabelMatchers: []*labels.Matcher{id}, PosRange: pos}}
}
