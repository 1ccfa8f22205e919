package ledger

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// liar is a proxy that spoils one float sample in every `every` of the answers that pass through it.
type liar struct {
	next  http.Handler
	class Class
	every int

	mu      sync.Mutex
	passed  int
	planted int
	pending bool          // a sample of another tenant is due, and none has been seen yet
	stolen  []stolenValue // one for each tenant seen
}

type stolenValue struct {
	tenant string
	labels []prompb.Label
	sample prompb.Sample
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := httptest.NewRecorder()
	l.next.ServeHTTP(rec, r)
	body, tenant := rec.Body.Bytes(), r.Header.Get("X-Scope-OrgID")
	l.mu.Lock()
	defer l.mu.Unlock()
	if rec.Code == http.StatusOK {
		switch {
		case strings.HasPrefix(rec.Header().Get("Content-Type"), "application/x-streamed-protobuf"):
			body = l.chunks(tenant, body)
		case r.URL.Path == "/api/v1/read":
			body = l.samples(tenant, body)
		case r.URL.Path == "/api/v1/query" && !strings.Contains(string(body), `"vector"`):
			body = l.json(tenant, body)
		}
	}
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.Header().Del("Content-Length")
	w.WriteHeader(rec.Code)
	w.Write(body)
}

// spoil changes the samples of one series, or returns another series to add.
func (l *liar) spoil(tenant string, lbls []prompb.Label, in []prompb.Sample) (out []prompb.Sample, extra *stolenValue) {
	for _, s := range in {
		if l.passed++; l.passed%l.every == l.every/2 {
			l.pending = true
		}
		if !l.pending || s.Value <= 1 || s.Value != math.Trunc(s.Value) || s.Value > 1<<53 {
			out = append(out, s)
			continue
		}
		switch l.class {
		case Lost:
			l.pending = false
			l.planted++
			continue
		case Duplicated:
			l.pending = false
			l.planted++
			out = append(out, s)
		case Altered:
			l.pending = false
			l.planted++
			s.Value = math.Nextafter(s.Value, math.Inf(1))
		case Foreign:
			for i := range l.stolen {
				if l.stolen[i].tenant != tenant && extra == nil {
					extra = &l.stolen[i]
					l.pending = false
					l.planted++
				}
			}
		}
		out = append(out, s)
	}
	if len(in) > 0 && in[0].Value > 1 {
		for i := range l.stolen {
			if l.stolen[i].tenant == tenant {
				return out, extra
			}
		}
		l.stolen = append(l.stolen, stolenValue{tenant, append([]prompb.Label(nil), lbls...), in[0]})
	}
	return out, extra
}

func (l *liar) samples(tenant string, body []byte) []byte {
	raw, err := snappy.Decode(nil, body)
	must(err)
	var resp prompb.ReadResponse
	must(resp.Unmarshal(raw))
	for _, res := range resp.Results {
		for _, ts := range res.Timeseries {
			var extra *stolenValue
			if ts.Samples, extra = l.spoil(tenant, ts.Labels, ts.Samples); extra != nil {
				res.Timeseries = append(res.Timeseries, &prompb.TimeSeries{Labels: extra.labels, Samples: []prompb.Sample{extra.sample}})
			}
		}
	}
	raw, err = resp.Marshal()
	must(err)
	return snappy.Encode(nil, raw)
}

func (l *liar) chunks(tenant string, body []byte) []byte {
	var out bytes.Buffer
	emit := func(lbls []prompb.Label, chks ...prompb.Chunk) {
		frame := prompb.ChunkedReadResponse{ChunkedSeries: []*prompb.ChunkedSeries{{Labels: lbls, Chunks: chks}}}
		raw, err := frame.Marshal()
		must(err)
		out.Write(binary.AppendUvarint(nil, uint64(len(raw))))
		out.Write(binary.BigEndian.AppendUint32(nil, crc32.Checksum(raw, castagnoli)))
		out.Write(raw)
	}
	r := bufio.NewReader(bytes.NewReader(body))
	for {
		buf, err := nextFrame(r, nil)
		if err == io.EOF {
			return out.Bytes()
		}
		must(err)
		var frame prompb.ChunkedReadResponse
		must(frame.Unmarshal(buf))
		for _, cs := range frame.ChunkedSeries {
			for _, c := range cs.Chunks {
				if c.Type != prompb.Chunk_XOR {
					emit(cs.Labels, c)
					continue
				}
				var in []prompb.Sample
				must(eachSample(c, func(ms int64, v Value) { in = append(in, prompb.Sample{Timestamp: ms, Value: v.Float}) }))
				smps, extra := l.spoil(tenant, cs.Labels, in)
				emit(cs.Labels, xor(smps))
				if extra != nil {
					emit(extra.labels, xor([]prompb.Sample{extra.sample}))
				}
			}
		}
	}
}

func xor(smps []prompb.Sample) prompb.Chunk {
	chk := chunkenc.NewXORChunk()
	app, err := chk.Appender()
	must(err)
	for _, s := range smps {
		app.Append(0, s.Timestamp, s.Value)
	}
	return prompb.Chunk{Type: prompb.Chunk_XOR, Data: chk.Bytes()}
}

func (l *liar) json(tenant string, body []byte) []byte {
	var a struct {
		Status string `json:"status"`
		Data   struct {
			ResultType string         `json:"resultType"`
			Result     []matrixSeries `json:"result"`
		} `json:"data"`
	}
	must(json.Unmarshal(body, &a))
	type outSeries struct {
		Metric     map[string]string `json:"metric"`
		Values     [][2]any          `json:"values"`
		Histograms [][2]any          `json:"histograms"`
	}
	var result []outSeries
	points := func(smps []prompb.Sample) (vs [][2]any) {
		for _, s := range smps {
			vs = append(vs, [2]any{json.Number(fmt.Sprintf("%d.%03d", s.Timestamp/1000, s.Timestamp%1000)), strconv.FormatFloat(s.Value, 'f', -1, 64)})
		}
		return vs
	}
	for _, ser := range a.Data.Result {
		var in []prompb.Sample
		for _, p := range ser.Values {
			v, err := jsonFloat(p.value)
			must(err)
			in = append(in, prompb.Sample{Timestamp: p.ms, Value: v})
		}
		var lbls []prompb.Label
		for _, lb := range sortLabels(ser.Metric) {
			lbls = append(lbls, prompb.Label{Name: lb.Name, Value: lb.Value})
		}
		smps, extra := l.spoil(tenant, lbls, in)
		o := outSeries{Metric: ser.Metric, Values: points(smps)}
		for _, p := range ser.Histograms {
			o.Histograms = append(o.Histograms, [2]any{float64(p.ms) / 1000, p.value})
		}
		result = append(result, o)
		if extra != nil {
			m := map[string]string{}
			for _, lb := range extra.labels {
				m[lb.Name] = lb.Value
			}
			result = append(result, outSeries{Metric: m, Values: points([]prompb.Sample{extra.sample})})
		}
	}
	b, err := json.Marshal(map[string]any{"status": a.Status, "data": map[string]any{"resultType": "matrix", "result": result}})
	must(err)
	return b
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
