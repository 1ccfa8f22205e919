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
	id       schema.ErrorID
	count    int
	message  string
	series   string // empty if it is not about one whose labels are known
	harmless bool   // does not fail the request: exemplars and metadata
}

// text is the message with its series.
func (f *refusal) text() string {
	if f.series == "" {
		return f.message
	}
	return f.message + ": series " + f.series
}

func (r *refusals) reset() {
	clear(r.list)
	r.total, r.series, r.list = 0, 0, r.list[:0]
}

// add counts n refused items, and returns where to say more if this is the first case of the reason. What it returns may
// move with the next call.
func (r *refusals) add(id schema.ErrorID, n int) (first *refusal) {
	for i := range r.list {
		if r.list[i].id == id {
			r.list[i].count += n
			return nil
		}
	}
	r.list = append(r.list, refusal{id: id, count: n})
	return &r.list[len(r.list)-1]
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
		case f.harmless:
		case first == nil:
			first = f
		case reasons < maxReasons-1:
			fmt.Fprintf(&others, "%s (%s); ", f.text(), f.id)
			reasons++
		}
	}
	if first == nil {
		return nil
	}
	return schema.NewError(first.id, http.StatusBadRequest, "%d of %d %s were refused, wholly or in part: %s%s",
		n, total, what, others.String(), first.text())
}
