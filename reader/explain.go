package reader

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"

	"sluice/internal/trace"
)

// tail is a JSON object on its way out of which the last bytes are kept back, so that one more member can be put in when
// all the others are known to have been written: explain=true is answered beside data, whatever endpoint it is.
type tail struct{ held []byte }

// tailBytes is what may follow the last member of the object: its brace, and a line break.
const tailBytes = 2

// write passes on what does not belong to the end.
func (t *tail) write(w http.ResponseWriter, b []byte) (int, error) {
	keep := min(len(b), tailBytes)
	out := max(len(t.held)+keep-tailBytes, 0) // of what was held
	for _, part := range [][]byte{t.held[:out], b[:len(b)-keep]} {
		if len(part) == 0 {
			continue
		}
		if _, err := w.Write(part); err != nil {
			return 0, err
		}
	}
	t.held = append(bytes.Clone(t.held[out:]), b[len(b)-keep:]...)
	return len(b), nil
}

// end writes the rest with the explanation in it.
func (t *tail) end(w http.ResponseWriter, e *explanation) {
	text := bytes.TrimRight(t.held, "\n")
	if inside, ok := bytes.CutSuffix(text, []byte("}")); ok {
		if more, err := json.Marshal(e); err == nil {
			text = append(append(append(bytes.Clone(inside), `,"explain":`...), more...), '}')
		}
	}
	_, _ = w.Write(append(text, t.held[len(bytes.TrimRight(t.held, "\n")):]...)) // the client has gone
}

// explanation is the member "explain" of an answer.
type explanation struct {
	*trace.Report
	Coverage coverageJSON `json:"coverage"`
}

// holdsJSON tells whether there is room for an explanation.
func holdsJSON(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), "application/json")
}
