package fetch

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"net/http"
	"time"
	"unicode/utf16"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"sluice/internal/trace"
	"sluice/schema"
)

// The endpoints, below the base URL. All are POST with a request as JSON.
const (
	pathSelect      = "/fetch/select"
	pathLabelNames  = "/fetch/label_names"
	pathLabelValues = "/fetch/label_values"
	pathExemplars   = "/fetch/exemplars"
	pathMetadata    = "/fetch/metadata"
	pathCardinality = "/fetch/cardinality"
	pathHeld        = "/fetch/held"
)

const (
	contentTypeJSON   = "application/json"
	contentTypeChunks = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"

	// trailerEnd comes after the last series: without it the stream was cut, however cleanly the connection ended.
	trailerEnd = "X-Sluice-End"

	// maxFrameBytes is where the frames of a long series are cut; maxFrameLimit is what a client accepts, as one chunk
	// may be longer than a frame ought to be.
	maxFrameBytes = 1 << 20
	maxFrameLimit = 64 << 20

	maxRequestBytes = 4 << 20
)

// request is the head of every call; each endpoint reads the fields that it needs.
type request struct {
	Tenant schema.Tenant `json:"tenant"`
	Mint   int64         `json:"mint"`
	Maxt   int64         `json:"maxt"`
	Asks   []Ask         `json:"asks,omitempty"`
	Blocks []ulid.ULID   `json:"blocks,omitempty"` // in the place of asks
	// Patience is how long the source may take to apply what the asks wait for, ns; 0 = as long as the caller is there.
	Patience time.Duration `json:"patience,omitempty"`

	Matchers []matcher   `json:"matchers,omitempty"`
	Sets     [][]matcher `json:"sets,omitempty"`   // exemplars
	Hints    *selectHint `json:"hints,omitempty"`  // select
	Trace    bool        `json:"trace,omitempty"`  // the answer shall say where its time and bytes went
	Name     string      `json:"name,omitempty"`   // label values
	Limit    int         `json:"limit,omitempty"`  // label names and values
	Metric   string      `json:"metric,omitempty"` // metadata

	Values []string `json:"values,omitempty"` // cardinality, as Pairs; Mint is since when, Maxt until when, 0 = no end
	All    bool     `json:"all,omitempty"`
	Pairs  bool     `json:"pairs,omitempty"`
}

// matcher holds name and value as bytes, as JSON would mend what is not UTF-8.
type matcher struct {
	Type  labels.MatchType `json:"type"`
	Name  []byte           `json:"name"`
	Value []byte           `json:"value"`
}

// selectHint is storage.SelectHints without what no source of ours looks at.
type selectHint struct {
	Start           int64    `json:"start"`
	End             int64    `json:"end"`
	Limit           int      `json:"limit,omitempty"`
	Step            int64    `json:"step,omitempty"`
	Func            string   `json:"func,omitempty"`
	Grouping        []string `json:"grouping,omitempty"`
	By              bool     `json:"by,omitempty"`
	Range           int64    `json:"range,omitempty"`
	ShardCount      uint64   `json:"shard_count,omitempty"`
	ShardIndex      uint64   `json:"shard_index,omitempty"`
	DisableTrimming bool     `json:"disable_trimming,omitempty"`
}

// headTag and tailTag are the keys of fields 15 and 14, length-delimited: what a frame with a streamHead, or with a
// streamTail, begins with.
const (
	headTag = 15<<3 | 2
	tailTag = 14<<3 | 2
)

// streamHead is what is known before the first series.
type streamHead struct {
	Applied Applied `json:"applied,omitempty"`
}

// streamTail is what is known after the last one. Only who asks for it gets it.
type streamTail struct {
	Trace *trace.Report `json:"trace,omitempty"`
}

// frameOf returns v as the payload of a frame.
func frameOf(tag byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode head or tail of the stream: %w", err)
	}
	return append(binary.AppendUvarint([]byte{tag}, uint64(len(b))), b...), nil
}

// parseFrame is frameOf's inverse; false for a frame that is something else.
func parseFrame(b []byte, tag byte, v any) (ok bool, _ error) {
	if len(b) == 0 || b[0] != tag {
		return false, nil
	}
	n, size := binary.Uvarint(b[1:])
	if size <= 0 || n != uint64(len(b)-1-size) {
		return true, errors.New("head or tail of the stream has another length than it says")
	}
	if err := json.Unmarshal(b[1+size:], v); err != nil {
		return true, fmt.Errorf("decode head or tail of the stream: %w", err)
	}
	return true, nil
}

// envelope holds the answer of every call but select.
type envelope struct {
	Error   *wireError    `json:"error,omitempty"`
	Applied Applied       `json:"applied,omitempty"`
	Trace   *trace.Report `json:"trace,omitempty"`
	Answer  any           `json:"answer,omitempty"`
}

// writeEnvelope writes it with its checksum in a second line. The caller sees when it is cut short.
func writeEnvelope(w io.Writer, e envelope) {
	b, err := json.Marshal(e)
	if err != nil { // a label value that no JSON can hold, say
		b, _ = json.Marshal(envelope{Error: &wireError{Status: http.StatusInternalServerError, Message: err.Error()}})
	}
	_, _ = fmt.Fprintf(w, "%s\n%08x\n", b, crc32.Checksum(b, castagnoli))
}

var errChecksum = errors.New("checksum is wrong")

// readEnvelope is writeEnvelope's inverse; before it may come empty lines. An answer that ends before its checksum is whole
// if it is JSON, for that says itself where it ends: so answer those who do not know of checksums.
func readEnvelope(r io.Reader, e *envelope) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	body, sum, _ := bytes.Cut(bytes.TrimLeft(b, "\n"), []byte("\n"))
	if sum = bytes.TrimSpace(sum); len(sum) > 0 && string(sum) != fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)) {
		return errChecksum
	}
	return json.Unmarshal(body, e)
}

// end is the value of trailerEnd: an error, or the notes of a stream that is complete.
type end struct {
	Error *wireError `json:"error,omitempty"`
	notes
}

// notes are annotations: what a caller shows as warnings and as infos.
type notes struct {
	Warnings []string `json:"warnings,omitempty"`
	Infos    []string `json:"infos,omitempty"`
}

func packNotes(as annotations.Annotations) (n notes) {
	for _, err := range as.AsErrors() {
		if errors.Is(err, annotations.PromQLInfo) {
			n.Infos = append(n.Infos, err.Error())
		} else {
			n.Warnings = append(n.Warnings, err.Error())
		}
	}
	return n
}

func (n notes) unpack() (as annotations.Annotations) {
	for _, w := range n.Warnings {
		as.Add(errors.New(w))
	}
	for _, i := range n.Infos {
		as.Add(told{i})
	}
	return as
}

// told is an info that came over the wire.
type told struct{ text string }

func (t told) Error() string { return t.text }
func (told) Unwrap() error   { return annotations.PromQLInfo }

// wireError carries the errors that a caller tells apart.
type wireError struct {
	Hole *HoleError `json:"hole,omitempty"`

	ID         schema.ErrorID `json:"id,omitempty"`
	Status     int            `json:"status,omitempty"`
	RetryAfter time.Duration  `json:"retry_after,omitempty"` // ns
	Message    string         `json:"message"`
}

type stringsAnswer struct {
	Values []string `json:"values"`
	notes
}

type exemplarAnswer struct {
	Labels    map[string]string `json:"labels"`
	Exemplars []wireExemplar    `json:"exemplars"`
}

type wireExemplar struct {
	Labels map[string]string `json:"labels"`
	Bits   uint64            `json:"bits"` // the value: JSON has neither NaN nor infinities
	Time   int64             `json:"time"`
	HasTS  bool              `json:"has_ts"`
}

func packMatchers(ms []*labels.Matcher) []matcher {
	packed := make([]matcher, len(ms))
	for i, m := range ms {
		packed[i] = matcher{m.Type, []byte(m.Name), []byte(m.Value)}
	}
	return packed
}

func unpackMatchers(packed []matcher) ([]*labels.Matcher, error) {
	ms := make([]*labels.Matcher, len(packed))
	for i, p := range packed {
		if p.Type < labels.MatchEqual || p.Type > labels.MatchNotRegexp {
			return nil, fmt.Errorf("matcher type %d is unknown", p.Type)
		}
		m, err := labels.NewMatcher(p.Type, string(p.Name), string(p.Value))
		if err != nil {
			return nil, fmt.Errorf("make matcher: %w", err)
		}
		ms[i] = m
	}
	return ms, nil
}

func packHints(h *storage.SelectHints) *selectHint {
	if h == nil {
		return nil
	}
	return &selectHint{
		Start: h.Start, End: h.End, Limit: h.Limit, Step: h.Step, Func: h.Func, Grouping: h.Grouping, By: h.By, Range: h.Range,
		ShardCount: h.ShardCount, ShardIndex: h.ShardIndex, DisableTrimming: h.DisableTrimming,
	}
}

func (h *selectHint) unpack() *storage.SelectHints {
	if h == nil {
		return nil
	}
	return &storage.SelectHints{
		Start: h.Start, End: h.End, Limit: h.Limit, Step: h.Step, Func: h.Func, Grouping: h.Grouping, By: h.By, Range: h.Range,
		ShardCount: h.ShardCount, ShardIndex: h.ShardIndex, DisableTrimming: h.DisableTrimming,
	}
}

func packError(err error) *wireError {
	var hole *HoleError
	var se *schema.Error
	switch {
	case errors.As(err, &hole):
		return &wireError{Hole: hole, Status: http.StatusConflict, Message: err.Error()}
	case errors.As(err, &se):
		message := se.Message
		if se.Cause != nil {
			message += ": " + se.Cause.Error()
		}
		return &wireError{ID: se.ID, Status: se.Status, RetryAfter: se.RetryAfter, Message: message}
	}
	return &wireError{Status: http.StatusInternalServerError, Message: err.Error()}
}

// unpack is packError's inverse, as far as errors can travel: a cause comes back as a part of the message.
func (e *wireError) unpack() error {
	switch {
	case e.Hole != nil:
		return e.Hole
	case e.ID != "":
		return &schema.Error{ID: e.ID, Status: e.Status, Message: e.Message, RetryAfter: e.RetryAfter}
	}
	return errors.New(e.Message)
}

// header returns v as JSON that is fit for a header field: no line breaks, no bytes beyond ASCII.
func header(v any) string {
	b, err := json.Marshal(v)
	if err != nil { // only strings and numbers are marshalled here
		return `{"error":{"message":"error could not be encoded"}}`
	}
	out := make([]byte, 0, len(b))
	for _, r := range string(b) {
		switch {
		case r < 0x80:
			out = append(out, byte(r))
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return string(out)
}

func packExemplars(found []exemplar.QueryResult) []exemplarAnswer {
	packed := make([]exemplarAnswer, len(found))
	for i, f := range found {
		packed[i] = exemplarAnswer{Labels: f.SeriesLabels.Map(), Exemplars: make([]wireExemplar, len(f.Exemplars))}
		for j, e := range f.Exemplars {
			packed[i].Exemplars[j] = wireExemplar{e.Labels.Map(), math.Float64bits(e.Value), e.Ts, e.HasTs}
		}
	}
	return packed
}

func unpackExemplars(packed []exemplarAnswer) []exemplar.QueryResult {
	found := make([]exemplar.QueryResult, len(packed))
	for i, p := range packed {
		found[i] = exemplar.QueryResult{SeriesLabels: labels.FromMap(p.Labels), Exemplars: make([]exemplar.Exemplar, len(p.Exemplars))}
		for j, e := range p.Exemplars {
			found[i].Exemplars[j] = exemplar.Exemplar{Labels: labels.FromMap(e.Labels), Value: math.Float64frombits(e.Bits), Ts: e.Time, HasTs: e.HasTS}
		}
	}
	return found
}

type metadataAnswer map[string][]metadata.Metadata
