package trace

import (
	"net/http"
	"sync"
	"sync/atomic"

	"sluice/schema"
)

// Budget is the memory that the queries of a process may hold together. A query that would take more of it than there is
// ends; those that have theirs go on.
type Budget struct {
	max  int64
	name string
	used atomic.Int64
}

// NewBudget makes a budget of so many bytes; name is the setting that says so.
func NewBudget(bytes int64, name string) *Budget { return &Budget{max: bytes, name: name} }

// Used returns the bytes in use.
func (b *Budget) Used() int64 { return b.used.Load() }

// take takes n bytes or, if n is negative, gives them back. holds is what the query has with them.
func (b *Budget) take(n, holds int64) error {
	used := b.used.Add(n)
	switch {
	case n <= 0 || used <= b.max:
		return nil
	case holds > b.max/2: // coming back does not help
		return limitError{schema.NewError(schema.ErrMaxMemoryPerQuery, http.StatusUnprocessableEntity,
			"query needs %d bytes of memory or more; all queries of this process together may have %d (%s)", holds, b.max, b.name)}
	}
	return limitError{schema.Unavailable(schema.ErrOverloaded, nil, "the queries of this process hold %d bytes of memory together, the limit is %d (%s)", used, b.max, b.name)}
}

// share is a query's part of a budget.
type share struct {
	mu     sync.Mutex
	budget *Budget // nil = none
	held   int64
}

func (s *share) take(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.budget == nil {
		return nil
	}
	s.held += n
	return s.budget.take(n, s.held)
}

// Share makes the query take its memory out of b until Release. It is called before anything is counted.
func (q *Query) Share(b *Budget) {
	if q != nil {
		q.share.budget = b
	}
}

// Release gives back what the query holds of its budget; what is counted later touches the budget no more.
func (q *Query) Release() {
	if q == nil {
		return
	}
	q.share.mu.Lock()
	defer q.share.mu.Unlock()
	if b := q.share.budget; b != nil {
		b.used.Add(-q.share.held)
	}
	q.share.budget, q.share.held = nil, 0
}
