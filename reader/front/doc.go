// Package front stands before the PromQL engine. In go queries with the limits of their tenant; out come the engine's own
// answers, to the bit, sooner and within bounds: range queries are worked on in parts at the same time, parts that are
// final come out of a cache, and each tenant gets its turn (Queue). A query that is over a limit ends with an error that
// names it. It never evaluates an expression itself and never gives a part for the whole.
package front
