package reader

import (
	"net/http"

	"sluice/schema"
)

const (
	maxQueryBytes = 64 << 10
	maxQueryDepth = 200
)

// checkQuery looks at PromQL before the parser does. The parser, and all that walks its tree, recurses as deep as the
// brackets are nested: a query of a few MB of "sum(" overflows the stack, which no recover catches.
func checkQuery(q string) *schema.Error {
	if len(q) > maxQueryBytes {
		return schema.NewError(schema.ErrQueryTooLong, http.StatusBadRequest, "query of %d bytes is longer than the limit of %d", len(q), maxQueryBytes)
	}
	if d := depth(q); d > maxQueryDepth {
		return schema.NewError(schema.ErrQueryTooDeep, http.StatusBadRequest, "query nests brackets or operators %d deep, more than the limit of %d", d, maxQueryDepth)
	}
	return nil
}

// depth returns how deep the tree of q may get: nested brackets of any kind outside of strings and comments, and chains of
// signs and powers, which nest to the right without brackets. It may overestimate what does not parse.
func depth(q string) int {
	open, deepest, chain := 0, 0, 0
	for i := 0; i < len(q); i++ {
		switch c := q[i]; c {
		case '"', '\'', '`':
			i = skipString(q, i)
			continue
		case '#':
			for i < len(q) && q[i] != '\n' {
				i++
			}
			continue
		case '(', '[', '{':
			open, chain = open+1, 0
		case ')', ']', '}':
			open, chain = max(open-1, 0), 0
		case '-', '+', '^':
			chain++
		case ',':
			chain = 0
		}
		deepest = max(deepest, open, open+chain-maxChain)
	}
	return deepest
}

// maxChain is how many signs and powers in a row (with whatever stands between them) are not counted as depth: sums of
// hundreds of terms are honest, and harmless.
const maxChain = 4096

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
