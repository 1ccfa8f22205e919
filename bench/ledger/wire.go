package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// Request names a set of samples: those of one block of slots over a range of ticks that are (or are not) withheld.
type Request struct {
	ID     uint64
	Tenant int
	Block  int
	From   int64 // first tick
	To     int64 // exclusive
	Late   bool  // the withheld samples of the range; false = all others
	Proto  int   // remote write 1 or 2
}

// Content types of the two protocols.
const (
	contentTypeV1 = "application/x-protobuf"
	contentTypeV2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
)

// Encoded is a request as it goes over the wire.
type Encoded struct {
	Body                []byte // snappy
	Header              map[string]string
	Samples, Histograms int
}

// one is a series of a request.
type one struct {
	series int
	ticks  []int64
	values []Value
}

// samples calls emit for each series of the request that has samples in it.
func (s *Spec) samples(r Request, emit func(one)) {
	t := &s.Tenants[r.Tenant]
	var cur one
	flush := func() {
		if len(cur.ticks) > 0 {
			emit(cur)
		}
		cur.ticks, cur.values = cur.ticks[:0], cur.values[:0]
	}
	for slot := r.Block * SlotsPerBlock; slot < (r.Block+1)*SlotsPerBlock; slot++ {
		for tick := r.From; tick < r.To; tick++ {
			if s.Late(slot, tick) != r.Late {
				continue
			}
			if series := t.SeriesAt(slot, tick); series != cur.series {
				flush()
				cur.series = series
			}
			cur.ticks = append(cur.ticks, tick)
			cur.values = append(cur.values, s.ValueAt(r.Tenant, slot, tick))
		}
		flush()
	}
}

// Encode makes the bytes of a request. The same request has the same bytes.
func (s *Spec) Encode(r Request) (Encoded, error) {
	if r.Proto == 2 {
		return s.encodeV2(r)
	}
	return s.encodeV1(r)
}

func (s *Spec) encodeV1(r Request) (Encoded, error) {
	var raw []byte
	var failed error
	e := Encoded{Header: map[string]string{
		"Content-Type": contentTypeV1, "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "0.1.0",
	}}
	t := &s.Tenants[r.Tenant]
	s.samples(r, func(o one) {
		ts, floats := prompb.TimeSeries{}, []byte(nil)
		for _, l := range s.Labels(r.Tenant, o.series) {
			ts.Labels = append(ts.Labels, prompb.Label{Name: l.Name, Value: l.Value})
		}
		for i, v := range o.values {
			ms := t.TimeOf(o.series, o.ticks[i])
			switch {
			case v.Int != nil:
				ts.Histograms = append(ts.Histograms, prompb.FromIntHistogram(ms, v.Int))
			case v.Flt != nil:
				ts.Histograms = append(ts.Histograms, prompb.FromFloatHistogram(ms, v.Flt))
			default:
				floats = appendSample(floats, ms, v.Float)
				e.Samples++
			}
		}
		e.Histograms += len(ts.Histograms)
		rest, err := ts.Marshal()
		if err != nil {
			failed = err
		}
		raw = appendField(raw, 1, append(rest, floats...))
	})
	if failed != nil {
		return e, fmt.Errorf("encode request %d: %w", r.ID, failed)
	}
	e.Body = snappy.Encode(nil, raw)
	return e, nil
}

func (s *Spec) encodeV2(r Request) (Encoded, error) {
	var failed error
	var series []byte
	symbols := writev2.NewSymbolTable()
	e := Encoded{Header: map[string]string{
		"Content-Type": contentTypeV2, "Content-Encoding": "snappy", "X-Prometheus-Remote-Write-Version": "2.0.0",
	}}
	t := &s.Tenants[r.Tenant]
	s.samples(r, func(o one) {
		ts := writev2.TimeSeries{Metadata: writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_GAUGE, HelpRef: symbols.Symbolize("What the ledger wrote.")}}
		var floats []byte
		for _, l := range s.Labels(r.Tenant, o.series) {
			if l.Name == "__name__" && strings.HasSuffix(l.Value, "_seconds") {
				ts.Metadata.Type = writev2.Metadata_METRIC_TYPE_HISTOGRAM
			}
			ts.LabelsRefs = append(ts.LabelsRefs, symbols.Symbolize(l.Name), symbols.Symbolize(l.Value))
		}
		for i, v := range o.values {
			ms := t.TimeOf(o.series, o.ticks[i])
			switch {
			case v.Int != nil:
				ts.Histograms = append(ts.Histograms, writev2.FromIntHistogram(0, ms, v.Int))
			case v.Flt != nil:
				ts.Histograms = append(ts.Histograms, writev2.FromFloatHistogram(0, ms, v.Flt))
			default:
				floats = appendSample(floats, ms, v.Float)
				e.Samples++
			}
		}
		e.Histograms += len(ts.Histograms)
		rest, err := ts.Marshal()
		if err != nil {
			failed = err
		}
		series = appendField(series, 5, append(rest, floats...))
	})
	raw, err := (&writev2.Request{Symbols: symbols.Symbols()}).Marshal()
	if failed = errors.Join(failed, err); failed != nil {
		return e, fmt.Errorf("encode request %d: %w", r.ID, failed)
	}
	e.Body = snappy.Encode(nil, append(raw, series...))
	return e, nil
}

// appendSample appends a float sample, field 2 of a series in both protocols. By hand, because generated code leaves a
// value of -0 away and so sends 0.
func appendSample(dst []byte, ms int64, v float64) []byte {
	msg := binary.LittleEndian.AppendUint64([]byte{1<<3 | 1}, math.Float64bits(v))
	msg = binary.AppendUvarint(append(msg, 2<<3), uint64(ms))
	return appendField(dst, 2, msg)
}

func appendField(dst []byte, number byte, msg []byte) []byte {
	dst = binary.AppendUvarint(append(dst, number<<3|2), uint64(len(msg)))
	return append(dst, msg...)
}
