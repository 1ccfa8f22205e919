package queries

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// Query is what to ask.
type Query struct {
	Expr       string
	Start, End time.Time
	Step       time.Duration // 0 = at Start alone
	// Exact says that the answer is the same to the last bit each time; else sums may differ by 1e-12 of their value.
	Exact bool
}

// Generate returns n queries over what Samples has from start on, half of them over a range. All are valid PromQL, with
// every experimental part; some fail when they are evaluated, as they would for a person.
func Generate(seed uint64, n int, start time.Time) []Query {
	g := &generator{rnd: rand.New(rand.NewPCG(seed, 2)), start: start}
	first := everyFunction()
	queries := make([]Query, n)
	for i := range queries {
		q := &queries[i]
		*q = g.when(i%2 == 1)
		g.at = q.Start
		for same := false; !same; same, q.Exact = judge(q.Expr, q.Step > 0) {
			if i < len(first) {
				q.Expr = first[i](g)
			} else {
				q.Expr = g.vector(3)
			}
		}
		if strings.HasSuffix(q.Expr, "]") || strings.HasSuffix(q.Expr, `"`) {
			q.Step, q.End = 0, q.Start // ranges and strings are answers at one time only
		}
	}
	return queries
}

// judge tells whether Prometheus itself gives the same answer each time, and whether to the last bit. What goes through a hash
// table there comes out in any order: then who comes first among equals is chance, and so is the last bit of a sum.
func judge(expr string, ranged bool) (same, exact bool) {
	parsed, err := newParser().ParseExpr(expr)
	if err != nil {
		panic(fmt.Sprintf("generated %s: %v", expr, err))
	}
	same, exact = true, true
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.AggregateExpr:
			switch n.Op {
			case parser.SUM, parser.AVG:
				exact = exact && !shuffled(n.Expr, ranged)
			case parser.STDDEV, parser.STDVAR, parser.TOPK, parser.BOTTOMK, parser.LIMITK:
				same = same && !shuffled(n.Expr, ranged)
			}
		case *parser.Call:
			same = same && !(strings.HasPrefix(n.Func.Name, "sort") && shuffled(n.Args[0], ranged))
		}
		return nil
	})
	return same, exact
}

// shuffled tells whether the series of the expression may come in any order: those of a few functions always, and over
// several steps those of every operator and every function that is worked out step by step.
func shuffled(expr parser.Expr, ranged bool) (yes bool) {
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.Call:
			switch n.Func.Name {
			case "info", "histogram_quantile", "histogram_quantiles", "histogram_fraction":
				yes = true
			default:
				yes = yes || ranged && !slices.Contains(n.Func.ArgTypes, parser.ValueTypeMatrix)
			}
		case *parser.AggregateExpr:
			yes = yes || n.Op == parser.COUNT_VALUES
		case *parser.SubqueryExpr:
			yes = yes || shuffled(n.Expr, true)
		case *parser.BinaryExpr:
			yes = yes || ranged || n.VectorMatching != nil && (n.VectorMatching.FillValues.LHS != nil || n.VectorMatching.FillValues.RHS != nil)
		case *parser.UnaryExpr:
			yes = yes || ranged
		}
		return nil
	})
	return yes
}

func newParser() parser.Parser {
	return parser.NewParser(parser.Options{
		EnableExperimentalFunctions: true, ExperimentalDurationExpr: true, EnableExtendedRangeSelectors: true, EnableBinopFillModifiers: true,
	})
}

type generator struct {
	rnd   *rand.Rand
	start time.Time
	at    time.Time // start of the query
}

// when returns the times of a query: mostly inside of the data, now and then at or beyond its edges.
func (g *generator) when(ranged bool) Query {
	at := g.start.Add(time.Duration(g.rnd.Int64N(int64(Length + 10*time.Minute)))).Truncate(time.Millisecond)
	if g.rnd.IntN(3) > 0 {
		at = at.Truncate(time.Minute)
	}
	if !ranged {
		return Query{Start: at, End: at}
	}
	step := pick(g, []time.Duration{15 * time.Second, time.Minute, 77 * time.Second, 5 * time.Minute, 13*time.Minute + time.Millisecond})
	end := at.Add(step * time.Duration(g.rnd.IntN(30)))
	return Query{Start: at, End: end, Step: step}
}

func pick[T any](g *generator, from []T) T { return from[g.rnd.IntN(len(from))] }

// one runs one of the makers.
func (g *generator) one(makers ...func() string) string { return makers[g.rnd.IntN(len(makers))]() }

// maybe returns s, or nothing, once in n times s.
func (g *generator) maybe(n int, s string) string {
	if g.rnd.IntN(n) > 0 {
		return ""
	}
	return s
}

func (g *generator) number() string {
	return pick(g, []string{"0", "1", "2", "-1", "0.5", "3.14159", "1e3", "-2.5e-3", "100", "Inf", "NaN", "0x10"})
}

// Selectors.

// matchers are what may stand behind a metric.
var matchers = []string{
	`job="api"`, `job!="db"`, `job=~"a.*|b.+"`, `job!~"d[a-c]"`, `instance=~".*:80"`, `instance=~"10\\.0\\.0\\.(1|2):80"`, `code=~"2..|5.."`, `code!="404"`,
	`region="eu"`, `region=""`, `region=~".+"`, `method=~"get|(?i:post)"`, `nothing=""`, `job=~""`, `le!="+Inf"`, `job=~".*"`, `zone!~"b|"`, `method!=""`,
}

var (
	gauges     = []string{"memory_bytes", "load", "shard_load", "odd", "sparse", "comes_and_goes", "late", "once", `{"ünï.metric"}`, `{"with space"}`}
	counters   = []string{"requests_total", "requests_total", "latency_seconds_count", "latency_seconds_sum", "latency_seconds_bucket"}
	histograms = []string{"duration_seconds", "size_bytes", "queue_ages", "wait_seconds"}
)

// floats selects series of floats, histograms those of native histograms, any whatever there is.
func (g *generator) floats() string {
	if g.rnd.IntN(2) == 0 {
		return g.selector(pick(g, counters))
	}
	return g.selector(pick(g, gauges))
}

func (g *generator) histograms() string { return g.selector(pick(g, histograms)) }

func (g *generator) any() string {
	return g.one(g.floats, g.floats, g.histograms, func() string { return g.selector("mixed") }, func() string {
		return pick(g, []string{
			`{__name__=~"memory_.*|load"}`, `{__name__=~"l.*",job="db"}`, `{job="batch",__name__!~".*_bucket"}`, `{"label.with.dots"=~".+"}`, `{quoted="a\"b\\c"}`,
			`{newline="x\ny",__name__=~".*[^a-z_ ].*"}`, `no_such_metric`, `{__name__="load",instance!~"10.*"}`,
		})
	})
}

// selector returns the metric with up to two matchers.
func (g *generator) selector(metric string) string {
	var chosen []string
	for range pick(g, []int{0, 0, 0, 0, 1, 1, 2}) {
		chosen = append(chosen, pick(g, matchers))
	}
	if inner, ok := strings.CutSuffix(metric, "}"); ok {
		return strings.Join(append([]string{inner}, chosen...), ",") + "}"
	}
	if len(chosen) == 0 {
		return metric
	}
	return metric + "{" + strings.Join(chosen, ",") + "}"
}

// when a selector looks elsewhere.
func (g *generator) shift() string {
	switch g.rnd.IntN(12) {
	case 0:
		return " offset " + pick(g, []string{"5m", "1h", "-3m", "90s", "7m12s", "-(1m)", "(2m + 30s)"})
	case 1:
		return " @ " + pick(g, []string{"start()", "end()", fmt.Sprintf("%.3f", float64(g.at.Add(-20*time.Minute).UnixMilli())/1000)})
	case 2:
		return " @ end() offset 10m"
	}
	return ""
}

func (g *generator) window() string {
	return pick(g, []string{"2m", "5m", "5m", "10m", "30m", "1h", "95s", "1m", "(3m)", "3m * 2", "step() + 4m", "max_of(step(), 3m)"})
}

// matrix returns a range of what inner selects, or a subquery.
func (g *generator) matrix(depth int, inner func() string) string {
	if depth > 0 && g.rnd.IntN(5) == 0 {
		sub := fmt.Sprintf("(%s)[%s:%s]", g.vector(depth-1), pick(g, []string{"10m", "20m", "5m"}), pick(g, []string{"", "1m", "2m30s", "17s"}))
		return sub + g.shift()
	}
	return inner() + "[" + g.window() + "]" + g.shift()
}

// extended is a range with or without a modifier for its edges, which few functions take.
func (g *generator) extended(modifiers ...string) string {
	return g.floats() + "[" + pick(g, []string{"2m", "5m", "10m"}) + "] " + pick(g, modifiers)
}

// vector returns an expression of an instant vector.
func (g *generator) vector(depth int) string {
	if depth <= 0 {
		return g.one(func() string { return g.any() + g.shift() }, g.overTimePlain)
	}
	return g.one(
		func() string { return g.any() + g.shift() },
		func() string { return g.rated(depth) },
		func() string { return g.rated(depth) },
		func() string { return g.overTime(depth) },
		func() string { return g.overTime(depth) },
		func() string { return g.aggregation(depth) },
		func() string { return g.aggregation(depth) },
		func() string { return g.aggregation(depth) },
		func() string { return g.binary(depth) },
		func() string { return g.binary(depth) },
		func() string { return g.binary(depth) },
		func() string { return g.ofHistograms(depth) },
		func() string { return g.ofHistograms(depth) },
		func() string { return g.mathematical(depth) },
		func() string { return g.labelled(depth) },
		func() string { return g.other(depth) },
	)
}

// Functions of ranges.

var rates = []string{"rate", "irate", "increase", "delta", "idelta", "deriv", "changes", "resets"}

func (g *generator) rated(depth int) string {
	f := pick(g, rates)
	switch g.rnd.IntN(6) {
	case 0:
		return f + "(" + g.matrix(depth, g.histograms) + ")"
	case 1:
		return g.anchored()
	}
	return f + "(" + g.matrix(depth, func() string { return g.selector(pick(g, counters)) }) + ")"
}

func (g *generator) anchored() string {
	if g.rnd.IntN(2) == 0 {
		return pick(g, []string{"rate", "increase", "delta", "changes", "resets"}) + "(" + g.extended("anchored") + ")"
	}
	return pick(g, []string{"rate", "increase", "delta"}) + "(" + g.extended("smoothed") + ")"
}

var overTimes = []string{
	"avg", "min", "max", "sum", "count", "stddev", "stdvar", "last", "first", "present", "absent", "mad", "ts_of_min", "ts_of_max", "ts_of_last", "ts_of_first",
}

func (g *generator) overTime(depth int) string {
	switch g.rnd.IntN(6) {
	case 0:
		return fmt.Sprintf("quantile_over_time(%s, %s)", g.quantile(), g.matrix(depth, g.floats))
	case 1:
		return fmt.Sprintf("predict_linear(%s, %s)", g.matrix(depth, g.floats), g.number())
	case 2:
		return fmt.Sprintf("double_exponential_smoothing(%s, 0.3, 0.6)", g.matrix(depth, g.floats))
	}
	return pick(g, overTimes) + "_over_time(" + g.matrix(depth, g.any) + ")"
}

func (g *generator) overTimePlain() string {
	return pick(g, overTimes[:10]) + "_over_time(" + g.any() + "[" + g.window() + "])"
}

func (g *generator) quantile() string {
	return pick(g, []string{"0.5", "0.9", "0.99", "0", "1", "-1", "1.5", "NaN"})
}

// Aggregations.

var grouping = []string{"job", "instance", "code", "region", "method", "le", "zone", "kind", `"label.with.dots"`, "nothing", "__name__"}

func (g *generator) labels(most int) string {
	chosen := slices.Clone(grouping)
	g.rnd.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	return strings.Join(chosen[:g.rnd.IntN(most+1)], ", ")
}

func (g *generator) grouped() string {
	switch g.rnd.IntN(4) {
	case 0:
		return ""
	case 1:
		return " without (" + g.labels(3) + ")"
	}
	return " by (" + g.labels(3) + ")"
}

func (g *generator) aggregation(depth int) string {
	of := g.vector(depth - 1)
	switch g.rnd.IntN(8) {
	case 0:
		return fmt.Sprintf("%s%s (%s, %s)", pick(g, []string{"topk", "bottomk", "limitk"}), g.grouped(), pick(g, []string{"1", "2", "5", "0"}), of)
	case 1:
		return fmt.Sprintf("quantile%s (%s, %s)", g.grouped(), g.quantile(), of)
	case 2:
		return fmt.Sprintf(`count_values%s ("value", %s)`, g.grouped(), of)
	case 3:
		return fmt.Sprintf("limit_ratio%s (%s, %s)", g.grouped(), pick(g, []string{"0.3", "-0.7", "1"}), of)
	}
	return fmt.Sprintf("%s%s (%s)", pick(g, []string{"sum", "sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"}), g.grouped(), of)
}

// Binary operators.

func (g *generator) binary(depth int) string {
	switch g.rnd.IntN(7) {
	case 0: // with a number
		op := pick(g, []string{"+", "-", "*", "/", "%", "^", "atan2", "==", "!=", "> bool ", "<= bool ", "<", ">="})
		if g.rnd.IntN(2) == 0 {
			return fmt.Sprintf("%s %s %s", g.scalar(depth), op, g.vector(depth-1))
		}
		return fmt.Sprintf("%s %s %s", paren(g.vector(depth-1)), op, g.scalar(depth))
	case 1: // sets
		return fmt.Sprintf("%s %s%s %s", paren(g.vector(depth-1)), pick(g, []string{"and", "or", "unless"}), g.on(), paren(g.vector(depth-1)))
	case 2: // many to one
		many, one := g.selector("requests_total"), pick(g, []string{"target_info", "memory_bytes", "load"})
		extra := pick(g, []string{"", "region", "version, region"})
		if g.rnd.IntN(2) == 0 {
			return fmt.Sprintf("rate(%s[5m]) * on (job, instance) group_left (%s) %s%s", many, extra, g.fill(), one)
		}
		return fmt.Sprintf("%s / ignoring (code, method, region, version) group_right (%s) %s%s", one, extra, g.fill(), many)
	case 3: // histograms
		return fmt.Sprintf("%s %s %s", g.histograms(), pick(g, []string{"+", "-", "==", "!=", "*", "/", "> bool "}), g.one(g.histograms, g.number, g.floats))
	case 4: // the same on both sides
		same := g.floats()
		return fmt.Sprintf("%s %s%s %s%s", same, pick(g, []string{"-", "/", "+", "> bool ", "<", "=="}), g.maybe(4, " ignoring (nothing)"), same, g.shift())
	case 5:
		return fmt.Sprintf("sum by (job) (%s) %s on (job) %ssum by (job) (%s)", g.floats(), pick(g, []string{"/", "-", "*", ">", "!= bool"}), g.fill(), g.floats())
	}
	return fmt.Sprintf("%s %s%s %s", paren(g.vector(depth-1)), pick(g, []string{"+", "-", "*", "/", ">", "<= bool", "atan2", "%", "^"}), g.on(), paren(g.vector(depth-1)))
}

func paren(s string) string { return "(" + s + ")" }

func (g *generator) on() string {
	switch g.rnd.IntN(4) {
	case 0:
		return " on (" + g.labels(3) + ")"
	case 1:
		return " ignoring (" + g.labels(3) + ")"
	}
	return ""
}

func (g *generator) fill() string {
	return g.maybe(3, pick(g, []string{"fill (0) ", "fill_left (1) ", "fill_right (-2.5) ", "fill_left (1) fill_right (2) "}))
}

// scalar returns an expression of a number.
func (g *generator) scalar(depth int) string {
	return g.one(
		g.number, g.number, g.number,
		func() string { return "time()" },
		func() string { return pick(g, []string{"pi()", "start()", "end()", "step()", "range()"}) },
		func() string { return "scalar(sum(" + g.floats() + "))" },
		func() string {
			return fmt.Sprintf("%s(%s, %s)", pick(g, []string{"max_of", "min_of"}), g.number(), g.number())
		},
		func() string {
			return fmt.Sprintf("(%s %s %s)", g.number(), pick(g, []string{"+", "*", "/"}), g.number())
		},
		func() string { return "-scalar(" + g.vector(min(depth-1, 1)) + ")" },
	)
}

// ofHistograms are functions of histograms, classic and native.
func (g *generator) ofHistograms(depth int) string {
	native := g.one(
		func() string { return g.histograms() + g.shift() },
		func() string { return "rate(" + g.histograms() + "[5m])" },
		func() string { return "sum by (job) (increase(" + g.histograms() + "[10m]))" },
		func() string { return "avg_over_time(" + g.histograms() + "[5m])" },
		func() string { return "sum(" + pick(g, histograms) + ")" },
	)
	classic := g.one(
		func() string { return "sum by (le, job) (rate(latency_seconds_bucket[5m]))" },
		func() string { return g.selector("latency_seconds_bucket") },
		func() string { return "sum by (le) (" + g.selector("latency_seconds_bucket") + ")" },
	)
	either := g.one(func() string { return native }, func() string { return classic }, func() string { return paren(native + " or " + classic) })
	return g.one(
		func() string { return fmt.Sprintf("histogram_quantile(%s, %s)", g.quantile(), either) },
		func() string { return fmt.Sprintf("histogram_quantile(%s, %s)", g.quantile(), either) },
		func() string {
			return fmt.Sprintf("histogram_fraction(%s, %s, %s)", pick(g, []string{"0", "-Inf", "0.2"}), pick(g, []string{"1", "+Inf", "0.7"}), either)
		},
		func() string { return fmt.Sprintf(`histogram_quantiles(%s, "q", 0.5, 0.9, 0.99)`, either) },
		func() string {
			return pick(g, []string{"histogram_avg", "histogram_count", "histogram_sum", "histogram_stddev", "histogram_stdvar"}) + paren(native)
		},
		func() string { return native },
		func() string {
			return fmt.Sprintf("%s %s %s", native, pick(g, []string{"</", ">/"}), pick(g, []string{"1", "0.3", "4"}))
		},
	)
}

var ofOne = []string{
	"abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "deg", "exp", "floor", "ln", "log10", "log2", "rad", "sgn", "sin", "sinh", "sqrt",
	"tan", "tanh", "day_of_month", "day_of_week", "day_of_year", "days_in_month", "hour", "minute", "month", "year", "timestamp", "round",
}

func (g *generator) mathematical(depth int) string {
	of := g.vector(depth - 1)
	return g.one(
		func() string { return pick(g, ofOne) + paren(of) },
		func() string { return pick(g, ofOne) + paren(of) },
		func() string { return fmt.Sprintf("clamp(%s, %s, %s)", of, g.number(), g.number()) },
		func() string {
			return fmt.Sprintf("%s(%s, %s)", pick(g, []string{"clamp_min", "clamp_max", "round"}), of, g.scalar(depth))
		},
		func() string { return "-" + paren(of) },
		func() string { return pick(g, ofOne[23:31]) + "()" },
	)
}

func (g *generator) labelled(depth int) string {
	of := g.vector(depth - 1)
	return g.one(
		func() string {
			return fmt.Sprintf(`label_replace(%s, "host", "$1", "instance", "(.*):.*")`, of)
		},
		func() string {
			return fmt.Sprintf(`label_replace(%s, "job", "${first}-x", "job", "(?P<first>.).*")`, of)
		},
		func() string {
			return fmt.Sprintf(`label_join(%s, "all", "-", "job", "instance", "nothing", "code")`, of)
		},
		func() string { return fmt.Sprintf(`label_replace(%s, "__name__", "renamed", "", "")`, of) },
		func() string {
			return fmt.Sprintf("info(%s%s)", pick(g, []string{g.floats(), "rate(requests_total[5m])", g.histograms()}), pick(g, []string{"", `, {region=~".+"}`, `, {version="1.3"}`, `, {__name__="target_info"}`}))
		},
	)
}

func (g *generator) other(depth int) string {
	of := g.vector(depth - 1)
	return g.one(
		func() string { return "absent" + paren(of) },
		func() string { return "absent" + paren(g.selector("no_such_metric")) },
		func() string { return pick(g, []string{"sort", "sort_desc"}) + paren(of) },
		func() string {
			return pick(g, []string{"sort_by_label", "sort_by_label_desc"}) + paren(of+pick(g, []string{`, "job"`, `, "instance", "code"`}))
		},
		func() string { return "vector" + paren(g.scalar(depth)) },
		func() string { return "start_timestamp" + paren(g.selector(pick(g, append(counters, histograms...)))) },
		func() string { return "timestamp" + paren(g.any()+g.shift()) },
		func() string { return "vector" + paren("scalar"+paren(of)) },
	)
}

// everyFunction makes sure that no function, operator or aggregation is left out, whatever chance brings.
func everyFunction() (list []func(*generator) string) {
	text := func(format string, args ...func(*generator) string) {
		list = append(list, func(g *generator) string {
			made := make([]any, len(args))
			for i, arg := range args {
				made[i] = arg(g)
			}
			return fmt.Sprintf(format, made...)
		})
	}
	floats := (*generator).floats
	matrix := func(g *generator) string { return g.matrix(1, g.any) }
	for _, f := range rates {
		text(f+"(%s)", matrix)
	}
	for _, f := range overTimes {
		text(f+"_over_time(%s)", matrix)
	}
	for _, f := range ofOne {
		text(f+"(%s)", floats)
	}
	for _, op := range []string{"+", "-", "*", "/", "%%", "^", "atan2", "==", "!=", ">", "<", ">=", "<=", "and", "or", "unless"} {
		text("%s "+op+" ignoring (code) %s", floats, floats)
	}
	for _, modifier := range []string{"anchored", "smoothed"} {
		text("rate(%s)", func(g *generator) string { return g.extended(modifier) })
	}
	for i := range 6 {
		text("%s", func(g *generator) string {
			return "histogram_quantile(0." + strconv.Itoa(i+3) + ", " + g.selector(pick(g, histograms)) + ")"
		})
	}
	for _, f := range []string{"avg", "count", "sum", "stddev", "stdvar"} {
		text("histogram_"+f+"(%s)", (*generator).histograms)
	}
	for _, fixed := range []string{
		"histogram_fraction(0, 1, duration_seconds)", `histogram_quantiles(rate(size_bytes[5m]), "q", 0.1, 0.9)`, "predict_linear(load[10m], 600)",
		"quantile_over_time(0.7, memory_bytes[10m])", "double_exponential_smoothing(load[10m], 0.5, 0.5)", "clamp(load, 4, 6)", "clamp_min(load, 5)", "clamp_max(load, 5)",
		"info(rate(requests_total[5m]))", `label_join(load, "x", "/", "job", "instance")`, `label_replace(load, "x", "$1", "job", "(.)")`, "sort(load)", "sort_desc(load)",
		`sort_by_label(load, "instance")`, `sort_by_label_desc(load, "instance")`, "absent(once)", "vector(time())", "scalar(once) + 1", "pi() * 2", "start() + end() + step() + range()",
		"max_of(1, 2) + min_of(3, 4)", "start_timestamp(requests_total)", "limitk by (job) (2, requests_total)", "limit_ratio(0.4, requests_total)", `count_values("v", target_info)`,
		"topk by (job) (1, load)", "bottomk(3, memory_bytes)", "quantile by (region) (0.9, memory_bytes)", "group by (job) (load)", "stddev(load)", "stdvar by (job) (memory_bytes)",
		"requests_total + on (job, instance) group_left (version) fill (0) target_info", "mixed[20m]", "duration_seconds[3m]", "(load > 5)[10m:1m]", `"just a string"`, "42",
	} {
		list = append(list, func(*generator) string { return fixed })
	}
	return list
}
