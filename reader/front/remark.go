package front

import (
	"errors"

	"github.com/prometheus/prometheus/util/annotations"
)

// remark is an annotation as it is kept: the text without and with the place in the query.
type remark struct {
	raw, full string
}

// remarksOf returns annotations in a form that can be kept; false if there are others. Kept is the one that is about the
// name of a metric: it holds for every step that has a result. Others are about samples, which may be at some steps only, or
// about what could not be asked just now.
func remarksOf(ws annotations.Annotations, text string) (out []remark, ok bool) {
	for raw, err := range ws {
		if !errors.Is(err, annotations.PossibleNonCounterInfo) {
			return nil, false
		}
		note := remark{raw: raw, full: raw}
		if placed, ok := err.(interface{ SetQuery(string) }); ok {
			placed.SetQuery(text)
			note.full = err.Error()
			placed.SetQuery("")
		}
		out = append(out, note)
	}
	return out, true
}

func unique(in []remark) (out []remark) {
	seen := map[string]bool{}
	for _, r := range in {
		if !seen[r.raw] {
			seen[r.raw] = true
			out = append(out, r)
		}
	}
	return out
}

// fresh returns the annotation, for one query alone.
func (r remark) fresh() error { return &annotation{remark: r} }

// annotation is an annotation of Prometheus' that was kept.
type annotation struct {
	remark
	placed bool
}

func (a *annotation) Error() string {
	if a.placed {
		return a.full
	}
	return a.raw
}

// Unwrap says what it is.
func (a *annotation) Unwrap() error { return annotations.PossibleNonCounterInfo }

// SetQuery makes Error name the place in the query.
func (a *annotation) SetQuery(text string) { a.placed = text != "" }

// Merge is with an annotation of the same text.
func (a *annotation) Merge(error) error { return a }
