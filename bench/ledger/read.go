package ledger

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// Path is a door through which samples are read back.
type Path string

// The doors.
const (
	PathChunks  Path = "chunks"  // remote read, streamed chunks: everything, bit by bit
	PathSamples Path = "samples" // remote read, samples: everything, bit by bit
	PathPromQL  Path = "promql"  // instant queries for raw ranges: what a user sees (no stale markers, no buckets)
	PathSeries  Path = "series"  // the list of series
)

// Target is where to read.
type Target struct {
	URL          string // of Prometheus' API, without /api/v1
	TenantHeader string // X-Scope-OrgID; empty = none is sent
	Client       *http.Client
	Header       http.Header // of every request
}

// statusError is an answer that is not a 200.
type statusError struct {
	status int
	body   string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

func (t *Target) do(ctx context.Context, tenant, path, contentType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	for k, vs := range t.Header {
		req.Header[k] = vs
	}
	req.Header.Set("Content-Type", contentType)
	if t.TenantHeader != "" {
		req.Header.Set(t.TenantHeader, tenant)
	}
	client := t.Client
	if client == nil {
		client = http.DefaultClient
	}
	if strings.HasSuffix(path, "/read") {
		req.Header.Set("Content-Encoding", "snappy")
		req.Header.Set("X-Prometheus-Remote-Read-Version", "0.1.0")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return nil, &statusError{resp.StatusCode, strings.TrimSpace(string(text))}
	}
	return resp, nil
}

// selector picks the series of one block of one run, over [from, to] ms.
type selector struct {
	tenant   string
	run      string
	block    string // empty = all
	from, to int64
}

func (s selector) promQL() string {
	if s.block == "" {
		return fmt.Sprintf("{%s=%q}", LabelRun, s.run)
	}
	return fmt.Sprintf("{%s=%q,%s=%q}", LabelRun, s.run, LabelBlock, s.block)
}

// sink takes what is read: series returns where the samples of that series go. Streamed chunks are not cut at the edges
// of the selection, so samples outside of it may come.
type sink interface {
	series(lbls []Label) func(ms int64, v Value)
}

func (t *Target) remoteRead(ctx context.Context, s selector, kind prompb.ReadRequest_ResponseType) (*http.Response, error) {
	q := &prompb.Query{StartTimestampMs: s.from, EndTimestampMs: s.to, Matchers: []*prompb.LabelMatcher{
		{Type: prompb.LabelMatcher_EQ, Name: LabelRun, Value: s.run},
		{Type: prompb.LabelMatcher_EQ, Name: LabelBlock, Value: s.block},
	}}
	req := prompb.ReadRequest{Queries: []*prompb.Query{q}, AcceptedResponseTypes: []prompb.ReadRequest_ResponseType{kind}}
	raw, err := req.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode read request: %w", err)
	}
	return t.do(ctx, s.tenant, "/api/v1/read", "application/x-protobuf", snappy.Encode(nil, raw))
}

func protoLabels(in []prompb.Label) []Label {
	out := make([]Label, len(in))
	for i, l := range in {
		out[i] = Label{l.Name, l.Value}
	}
	return out
}

func (t *Target) readSamples(ctx context.Context, s selector, out sink) error {
	resp, err := t.remoteRead(ctx, s, prompb.ReadRequest_SAMPLES)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	packed, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	raw, err := snappy.Decode(nil, packed)
	if err != nil {
		return fmt.Errorf("decompress answer: %w", err)
	}
	var answer prompb.ReadResponse
	if err := answer.Unmarshal(raw); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	for _, res := range answer.Results {
		for _, ts := range res.Timeseries {
			emit := out.series(protoLabels(ts.Labels))
			for _, smp := range ts.Samples {
				emit(smp.Timestamp, Value{Float: smp.Value})
			}
			for _, h := range ts.Histograms {
				if h.IsFloatHistogram() {
					emit(h.Timestamp, Value{Flt: h.ToFloatHistogram()})
				} else {
					emit(h.Timestamp, Value{Int: h.ToIntHistogram()})
				}
			}
		}
	}
	return nil
}

// maxFrame bounds a frame of a streamed answer.
const maxFrame = 64 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// nextFrame reads one frame: its length, its CRC, its bytes. io.EOF only between frames.
func nextFrame(r *bufio.Reader, buf []byte) ([]byte, error) {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if size > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes", size)
	}
	var sum [4]byte
	if _, err := io.ReadFull(r, sum[:]); err != nil {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	if uint64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	if crc32.Checksum(buf, castagnoli) != binary.BigEndian.Uint32(sum[:]) {
		return nil, errors.New("checksum of a frame is wrong")
	}
	return buf, nil
}

func (t *Target) readChunks(ctx context.Context, s selector, out sink) error {
	resp, err := t.remoteRead(ctx, s, prompb.ReadRequest_STREAMED_XOR_CHUNKS)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); !strings.HasPrefix(ct, "application/x-streamed-protobuf") {
		return fmt.Errorf("asked for streamed chunks, got %q", ct)
	}
	r, buf := bufio.NewReader(resp.Body), []byte(nil)
	for {
		buf, err = nextFrame(r, buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read frame: %w", err)
		}
		var frame prompb.ChunkedReadResponse
		if err := frame.Unmarshal(buf); err != nil {
			return fmt.Errorf("decode frame: %w", err)
		}
		for _, cs := range frame.ChunkedSeries {
			emit := out.series(protoLabels(cs.Labels))
			for _, c := range cs.Chunks {
				if err := eachSample(c, emit); err != nil {
					return err
				}
			}
		}
	}
}

func eachSample(c prompb.Chunk, emit func(int64, Value)) error {
	chk, err := chunkenc.FromData(chunkenc.Encoding(c.Type), c.Data)
	if err != nil {
		return fmt.Errorf("open chunk: %w", err)
	}
	it := chk.Iterator(nil)
	for {
		switch it.Next() {
		case chunkenc.ValNone:
			return it.Err()
		case chunkenc.ValFloat:
			ms, v := it.At()
			emit(ms, Value{Float: v})
		case chunkenc.ValHistogram:
			ms, h := it.AtHistogram(nil)
			emit(ms, Value{Int: h})
		case chunkenc.ValFloatHistogram:
			ms, h := it.AtFloatHistogram(nil)
			emit(ms, Value{Flt: h})
		}
	}
}

// answer is Prometheus' JSON envelope.
type answer struct {
	Status   string
	Error    string
	Warnings []string
	Data     json.RawMessage
}

func (t *Target) form(ctx context.Context, tenant, path string, form url.Values, data any) error {
	resp, err := t.do(ctx, tenant, path, "application/x-www-form-urlencoded", []byte(form.Encode()))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var a answer
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if a.Status != "success" {
		return fmt.Errorf("answer says %s: %s", a.Status, a.Error)
	}
	if len(a.Warnings) > 0 {
		return fmt.Errorf("answer carries warnings: %q", a.Warnings)
	}
	return json.Unmarshal(a.Data, data)
}

// point is [time, "value"] or [time, {histogram}].
type point struct {
	ms    int64
	value json.RawMessage
}

func (p *point) UnmarshalJSON(b []byte) error {
	var pair [2]json.RawMessage
	if err := json.Unmarshal(b, &pair); err != nil {
		return err
	}
	sec, err := strconv.ParseFloat(string(pair[0]), 64)
	if err != nil {
		return fmt.Errorf("time of a point: %w", err)
	}
	p.ms, p.value = int64(math.Round(sec*1000)), pair[1]
	return nil
}

type matrixSeries struct {
	Metric     map[string]string
	Values     []point
	Histograms []point
}

// rangeAt returns the range and the evaluation time that cover exactly [from, to]: a range is open on its left.
func rangeAt(s selector) (rng string, at string) {
	return fmt.Sprintf("[%dms]", s.to-s.from+1), strconv.FormatFloat(float64(s.to)/1000, 'f', 3, 64)
}

// readPromQL asks for the raw samples by a range selector. Of a histogram only count and sum are read.
func (t *Target) readPromQL(ctx context.Context, s selector, out sink) error {
	rng, at := rangeAt(s)
	var data struct {
		ResultType string
		Result     []matrixSeries
	}
	if err := t.form(ctx, s.tenant, "/api/v1/query", url.Values{"query": {s.promQL() + rng}, "time": {at}}, &data); err != nil {
		return err
	}
	if data.ResultType != "matrix" {
		return fmt.Errorf("result is a %s", data.ResultType)
	}
	for _, ser := range data.Result {
		emit := out.series(sortLabels(ser.Metric))
		for _, p := range ser.Values {
			v, err := jsonFloat(p.value)
			if err != nil {
				return err
			}
			emit(p.ms, Value{Float: v})
		}
		for _, p := range ser.Histograms {
			var h struct{ Count, Sum json.RawMessage }
			if err := json.Unmarshal(p.value, &h); err != nil {
				return fmt.Errorf("decode histogram: %w", err)
			}
			count, err1 := jsonFloat(h.Count)
			sum, err2 := jsonFloat(h.Sum)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			emit(p.ms, Value{Flt: &histogram.FloatHistogram{Count: count, Sum: sum}})
		}
	}
	return nil
}

func jsonFloat(raw json.RawMessage) (float64, error) {
	v, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil {
		return 0, fmt.Errorf("value of a point: %w", err)
	}
	return v, nil
}

// count asks how many samples a tenant has, through the engine's own arithmetic.
func (t *Target) count(ctx context.Context, s selector) (int64, error) {
	rng, at := rangeAt(s)
	var data struct {
		Result []struct{ Value point }
	}
	q := "sum(count_over_time(" + s.promQL() + rng + "))"
	if err := t.form(ctx, s.tenant, "/api/v1/query", url.Values{"query": {q}, "time": {at}}, &data); err != nil {
		return 0, err
	}
	if len(data.Result) == 0 {
		return 0, nil
	}
	v, err := jsonFloat(data.Result[0].Value.value)
	return int64(v), err
}

// seriesOf lists the labels of all series of a tenant.
func (t *Target) seriesOf(ctx context.Context, s selector) ([][]Label, error) {
	match := `{__name__=~".+"}`
	if t.TenantHeader == "" { // others may write to the only tenant there is
		match = s.promQL()
	}
	var data []map[string]string
	form := url.Values{"match[]": {match}, "start": {msTime(s.from)}, "end": {msTime(s.to)}}
	if err := t.form(ctx, s.tenant, "/api/v1/series", form, &data); err != nil {
		return nil, err
	}
	out := make([][]Label, len(data))
	for i, m := range data {
		out[i] = sortLabels(m)
	}
	return out, nil
}

func msTime(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }
