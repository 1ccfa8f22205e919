package producer

import (
	"fmt"
	"net/http"
	"strings"

	"sluice/schema"
)

// maxReasons is how many different reasons an answer explains; there is no end to what can be wrong with a request.
const maxReasons = 5

// refusals is what was wrong with a request whose other parts were written.
type refusals struct {
	total  int // series seen
	series int // of them refused, wholly or in part
	list   []refusal
}

// refusal is one reason, with the first case of it in words.
type refusal struct {
	id      schema.ErrorID
	count   int
	message string // empty for what does not fail a request: exemplars and metadata
}

func (r *refusals) reset() {
	clear(r.list)
	r.total, r.series, r.list = 0, 0, r.list[:0]
}

// add counts n refused items, and returns where to put a message if this is the first case of the reason.
func (r *refusals) add(id schema.ErrorID, n int) (first *string) {
	for i := range r.list {
		if r.list[i].id == id {
			r.list[i].count += n
			return nil
		}
	}
	r.list = append(r.list, refusal{id: id, count: n})
	return &r.list[len(r.list)-1].message
}

// err returns the answer to a request with refusals, nil if there are none that fail it. Its ID is that of the first one,
// which therefore comes last in the sentence.
func (r *refusals) err() error {
	if e := r.explain(r.series, r.total, "series"); e != nil {
		return e
	}
	return nil
}

// explain is err with what is counted.
func (r *refusals) explain(n, total int, what string) *schema.Error {
	var first *refusal
	var others strings.Builder
	reasons := 0
	for i := range r.list {
		switch f := &r.list[i]; {
		case f.message == "":
		case first == nil:
			first = f
		case reasons < maxReasons-1:
			fmt.Fprintf(&others, "%s (%s); ", f.message, f.id)
			reasons++
		}
	}
	if first == nil {
		return nil
	}
	return schema.NewError(first.id, http.StatusBadRequest, "%d of %d %s were refused, wholly or in part: %s%s",
		n, total, what, others.String(), first.message)
}
