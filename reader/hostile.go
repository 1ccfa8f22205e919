package reader

import (
	"net/http"
	"regexp/syntax"
	"strings"

	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/util/strutil"

	"sluice/schema"
)

const (
	maxQueryBytes = 64 << 10
	maxQueryDepth = 200
	// maxOperators is how many operators a query may have: the time to parse a chain of them grows with their square, 60 ms
	// for 2,000 and 15 s for 30,000.
	maxOperators = 2000
	// maxPattern is how many instructions the regular expressions of a request may have together. Repetitions multiply:
	// 3,000 times a{1000} are 21 KB of text, take three seconds to compile and 900 MB.
	maxPattern = 100_000
)

// checkQuery looks at PromQL before the parser does. The parser, and all that walks its tree, recurses as deep as the
// brackets are nested: a query of a few MB of "sum(" overflows the stack, which no recover catches.
func checkQuery(q string) *schema.Error {
	if len(q) > maxQueryBytes {
		return schema.NewError(schema.ErrQueryTooLong, http.StatusBadRequest, "query of %d bytes is longer than the limit of %d", len(q), maxQueryBytes)
	}
	m := measure(q)
	switch {
	case m.depth > maxQueryDepth:
		return schema.NewError(schema.ErrQueryTooDeep, http.StatusBadRequest, "query nests brackets %d deep, more than the limit of %d", m.depth, maxQueryDepth)
	case m.operators > maxOperators:
		return schema.NewError(schema.ErrQueryTooDeep, http.StatusBadRequest, "query has a chain of %d operators, more than the limit of %d", m.operators, maxOperators)
	case m.pattern > maxPattern:
		return tooLargePattern(m.pattern)
	}
	return nil
}

func tooLargePattern(n int) *schema.Error {
	return schema.NewError(schema.ErrQueryTooLong, http.StatusBadRequest,
		"regular expressions are written short but come to %d instructions or more, the limit is %d", n, maxPattern)
}

// measures of a query's text. They may overestimate what does not parse.
type measures struct {
	depth     int // of nested brackets of any kind, outside of strings and comments
	operators int // signs, powers and all others, outside of matchers
	pattern   int // instructions of what is in strings, were it regular expressions
}

func measure(q string) (m measures) {
	open, braces := 0, 0
	for i := 0; i < len(q); i++ {
		switch c := q[i]; {
		case c == '"' || c == '\'' || c == '`':
			end := skipString(q, i)
			m.pattern += patternOf(q[i:min(end+1, len(q))])
			i = end
		case c == '#':
			for i < len(q) && q[i] != '\n' {
				i++
			}
		case c == '(' || c == '[' || c == '{':
			open++
			m.depth = max(m.depth, open)
			if c == '{' {
				braces++
			}
		case c == ')' || c == ']' || c == '}':
			open = max(open-1, 0)
			if c == '}' {
				braces = max(braces-1, 0)
			}
		case isWord(c):
			start := i
			for i+1 < len(q) && isWord(q[i+1]) {
				i++
			}
			switch strings.ToLower(q[start : i+1]) {
			case "and", "or", "unless", "atan2":
				m.operators++
			}
		case braces == 0 && strings.IndexByte("+-*/%^<>=!", c) >= 0:
			m.operators++
			if i+1 < len(q) && q[i+1] == '=' {
				i++
			}
		}
	}
	return m
}

func isWord(c byte) bool {
	return c == '_' || c == ':' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// skipString returns the position of the quote that ends the string at i, or the end of q.
func skipString(q string, i int) int {
	quote := q[i]
	for i++; i < len(q) && q[i] != quote; i++ {
		if q[i] == '\\' && quote != '`' {
			i++
		}
	}
	return i
}

// patternOf returns how many instructions a quoted string comes to as a regular expression, 0 if it repeats nothing.
func patternOf(quoted string) int {
	if strings.IndexByte(quoted, '{') < 0 {
		return 0 // as long as its text
	}
	text, err := strutil.Unquote(quoted)
	if err != nil {
		text = quoted
	}
	return instructions(text)
}

// instructions estimates the size of a regular expression's program. Parsing alone does not unfold repetitions.
func instructions(pattern string) int {
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0 // whoever compiles it says so, and as soon
	}
	return sizeOf(tree)
}

func sizeOf(re *syntax.Regexp) int {
	const enough = 1 << 40
	n := 1 + len(re.Rune)/8 // the ranges of a class are not instructions, but cost
	if re.Op == syntax.OpLiteral {
		n = len(re.Rune)
	}
	for _, sub := range re.Sub {
		n += sizeOf(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, enough)
}

// checkRead does for the matchers of a remote read what checkQuery does for PromQL.
func checkRead(raw []byte) error {
	var req prompb.ReadRequest
	if err := req.Unmarshal(raw); err != nil {
		return badData("remote read request cannot be decoded: %v", err)
	}
	n := 0
	for _, q := range req.Queries {
		for _, m := range q.Matchers {
			if len(m.Value) > maxQueryBytes {
				return schema.NewError(schema.ErrQueryTooLong, http.StatusBadRequest, "matcher of %d bytes is longer than the limit of %d", len(m.Value), maxQueryBytes)
			}
			if m.Type == prompb.LabelMatcher_RE || m.Type == prompb.LabelMatcher_NRE {
				n += instructions(m.Value)
			}
		}
	}
	if n > maxPattern {
		return tooLargePattern(n)
	}
	return nil
}
