package producer

import (
	"sync/atomic"

	"sluice/schema"
)

// budget is the memory that all requests under way share.
type budget struct {
	limit int64
	used  atomic.Int64
}

// take reserves n bytes or, if they are not free, nothing.
func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return false
	}
	return true
}

// hold reserves n more bytes for the request.
func (q *request) hold(n int64) error {
	if !q.p.budget.take(n) {
		return schema.Unavailable(schema.ErrOverloaded, nil,
			"requests under way hold %d of at most %d bytes, and this one needs %d more", q.p.budget.used.Load(), q.p.budget.limit, n)
	}
	q.held += n
	return nil
}

// giveBack returns n of the bytes held.
func (q *request) giveBack(n int64) {
	q.p.budget.used.Add(-n)
	q.held -= n
}
