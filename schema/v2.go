package schema

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/http"
)

// Remote write 2.0, the Request that RequestV2 walks over.
//
//	Request:     4 symbols (string)*  5 TimeSeries*
//	TimeSeries:  1 label refs (uint32)*  2 Sample*  3 Histogram*  4 Exemplar*  5 Metadata
//	Exemplar:    1 label refs (uint32)*  2 value  3 timestamp
//	Metadata:    1 type  3 help ref  4 unit ref
//
// Sample and Histogram have the numbers that our records use, so their bytes are copied; the rest is rewritten with the
// symbols in place of the refs.
const (
	tagV2Symbol = 4<<3 | 2
	tagV2Series = 5<<3 | 2
)

// The fields of the two messages, as bits.
const (
	fieldsV1 = 1<<(tagTimeSeries>>3) | 1<<(tagMetadata>>3)
	fieldsV2 = 1<<(tagV2Symbol>>3) | 1<<(tagV2Series>>3)
)

// ErrTooManySymbols is returned for a Request with more symbols than the reader cares to remember.
var ErrTooManySymbols = errors.New("too many symbols")

// RequestV2 walks over a remote-write 2.0 Request, one series at a time, in the form of remote write 1.0. It keeps its
// buffers between requests; memory used is proportional to the symbols and to one series.
type RequestV2 struct {
	symbols [][]byte
	rest    []byte
	series  []byte // the last series, as a 1.0 TimeSeries
	scratch []byte // an exemplar
	refs    []uint32
	bad     *Error // the first thing wrong with the series at hand
	seen    uint64 // numbers of the fields of the Request, as bits
}

// SeriesV2 is a series of a 2.0 Request. Payload and the texts of Metadata are valid until the next call of Next.
type SeriesV2 struct {
	Payload  []byte // a TimeSeries as in records
	Metadata Metadata
	HasMeta  bool // Metadata says something; its Name is empty, that is the caller's knowledge
}

// Reset starts the walk over body, with at most maxSymbols symbols.
func (r *RequestV2) Reset(body []byte, maxSymbols int) error {
	r.symbols, r.rest, r.seen = r.symbols[:0], nil, 0
	for b := body; len(b) > 0; {
		f, rest, err := nextRequestField(b)
		if err != nil {
			return err
		}
		if f.number == tagV2Series>>3 && r.rest == nil {
			r.rest = b
		}
		b = rest
		if f.number < 64 {
			r.seen |= 1 << f.number
		}
		if f.number != tagV2Symbol>>3 {
			continue
		}
		if f.wire != wireBytes {
			return ErrWireType
		}
		if len(r.symbols) == maxSymbols {
			return fmt.Errorf("%w: more than %d", ErrTooManySymbols, maxSymbols)
		}
		r.symbols = append(r.symbols, f.bytes)
	}
	return nil
}

// nextRequestField is nextWireField with a short way for the two fields that a Request is made of.
func nextRequestField(b []byte) (f wireField, rest []byte, err error) {
	if b[0] == tagV2Symbol || b[0] == tagV2Series {
		if l, n := uvarint(b[1:]); n > 0 && l <= uint64(len(b)-1-n) {
			end := 1 + n + int(l)
			return wireField{number: int(b[0] >> 3), wire: wireBytes, bytes: b[1+n : end]}, b[end:], nil
		}
	}
	return nextWireField(b)
}

// Next returns the next series, ok false at the end. An *Error concerns this one series and the walk may go on; any other
// error means that the body is no Request. A series whose 1.0 form is longer than maxBytes is ErrRecordTooLarge.
func (r *RequestV2) Next(maxBytes int) (s SeriesV2, ok bool, err error) {
	raw, ok, err := r.NextRaw()
	if !ok || err != nil {
		return s, false, err
	}
	s, err = r.Translate(raw, maxBytes)
	return s, true, err
}

// NextRaw is Next without the translation: it returns the series as it stands in the body.
func (r *RequestV2) NextRaw() (series []byte, ok bool, err error) {
	for len(r.rest) > 0 {
		f, rest, err := nextRequestField(r.rest)
		if err != nil {
			return nil, false, err
		}
		r.rest = rest
		if f.number != tagV2Series>>3 {
			continue
		}
		if f.wire != wireBytes {
			return nil, false, ErrWireType
		}
		return f.bytes, true, nil
	}
	return nil, false, nil
}

// Symbols are those of the body, in its order.
func (r *RequestV2) Symbols() [][]byte { return r.symbols }

// LabelRefs returns what a series of NextRaw has as label references: places in Symbols, name and value in turn. Not ok if
// they are none that Translate would take. They are valid until the next call.
func (r *RequestV2) LabelRefs(series []byte) (refs []uint32, ok bool) {
	// What every encoder writes: one packed field, in front.
	if len(series) > 1 && series[0] == 1<<3|2 {
		l, n := uvarint(series[1:])
		if n <= 0 || l > min(uint64(len(series)-1-n), 16<<10) { // a series with so many labels need not be fast
			return nil, false
		}
		r.refs = r.refs[:0]
		for p := series[1+n : 1+n+int(l)]; len(p) > 0; {
			v, n := uvarint(p)
			if n <= 0 || v >= uint64(len(r.symbols)) {
				return nil, false
			}
			r.refs = append(r.refs, uint32(v))
			p = p[n:]
		}
		return r.refs, len(r.refs)%2 == 0
	}
	return nil, false
}

// CutValues cuts the samples and histograms of a series of NextRaw into s, for a caller who knows its labels. Not ok if there is
// anything in the series that has to be looked at more closely: exemplars, whose labels are references, label references
// that are not in one piece, or a fault.
func (r *RequestV2) CutValues(series []byte, s *Series) (ok bool) {
	s.Labels, s.Samples, s.Histograms, s.Exemplars, s.LabelBytes = s.Labels[:0], s.Samples[:0], s.Histograms[:0], s.Exemplars[:0], nil
	labels := 0
	for b := series; len(b) > 0; {
		f, rest, err := nextWireField(b)
		if err != nil || f.number >= 1 && f.number <= 5 && f.wire != wireBytes {
			return false
		}
		switch f.number {
		case 1:
			labels++
		case 2:
			smp, err := parseSample(f.bytes)
			if err != nil {
				return false
			}
			s.Samples = append(s.Samples, smp)
		case 3:
			s.Histograms = append(s.Histograms, f.bytes)
		case 4:
			return false
		case 5:
			r.bad = nil
			if _, err := r.metadata(f.bytes); err != nil || r.bad != nil {
				return false
			}
		}
		b = rest
	}
	return labels == 1
}

// Cap is the memory that r holds on to between requests, in bytes.
func (r *RequestV2) Cap() int {
	return cap(r.symbols)*24 + cap(r.series) + cap(r.scratch) + cap(r.refs)*4
}

// Release lets go of the last body.
func (r *RequestV2) Release() {
	clear(r.symbols[:cap(r.symbols)])
	r.symbols, r.rest = r.symbols[:0], nil
}

// Translate writes a 2.0 TimeSeries in the form of 1.0, labels first. The first *Error found is returned once the whole
// of b has proved to be well-formed. See Next.
func (r *RequestV2) Translate(b []byte, maxBytes int) (s SeriesV2, err error) {
	r.series, r.bad = r.series[:0], nil
	if len(b) > maxBytes {
		r.note(seriesTooLarge(maxBytes))
	}
	if r.series, err = r.appendLabels(r.series, b, maxBytes); err != nil {
		return s, err
	}
	for len(b) > 0 {
		f, rest, err := nextWireField(b)
		if err != nil {
			return s, err
		}
		b = rest
		if f.number < 2 || f.number > 5 {
			continue
		}
		if f.wire != wireBytes {
			return s, ErrWireType
		}
		if r.bad != nil && f.number != 5 {
			continue // refused as it is, so nothing is copied any more
		}
		switch f.number {
		case 2:
			r.series = AppendField(r.series, tagSample>>3, f.bytes)
		case 3:
			r.series = AppendHistogram(r.series, f.bytes)
		case 4:
			if r.scratch, err = r.exemplar(f.bytes, maxBytes-len(r.series)); err != nil {
				return s, err
			}
			r.series = AppendExemplar(r.series, r.scratch)
		case 5:
			if s.Metadata, err = r.metadata(f.bytes); err != nil {
				return s, err
			}
			s.HasMeta = s.Metadata.Type != 0 || len(s.Metadata.Help) > 0 || len(s.Metadata.Unit) > 0
		}
		if len(r.series) > maxBytes {
			r.note(seriesTooLarge(maxBytes))
			r.series = r.series[:0]
		}
	}
	s.Payload = r.series
	if r.bad != nil {
		return s, r.bad
	}
	return s, nil
}

// note keeps the first thing wrong with the series at hand.
func (r *RequestV2) note(e *Error) {
	if r.bad == nil {
		r.bad = e
	}
}

func seriesTooLarge(limit int) *Error {
	return NewError(ErrRecordTooLarge, http.StatusBadRequest, "series is larger than the limit of %d bytes", limit)
}

// appendLabels appends the labels that the refs in b name: all fields 1 of b, packed or not, are one list of pairs.
func (r *RequestV2) appendLabels(dst, b []byte, maxBytes int) (_ []byte, err error) {
	if r.refs, err = appendRefs(r.refs[:0], b, r.bad == nil); err != nil || r.bad != nil {
		return dst, err
	}
	if len(r.refs)%2 != 0 {
		r.note(NewError(ErrSymbolRef, http.StatusBadRequest, "odd number of label references: %d", len(r.refs)))
		return dst, nil
	}
	for i := 0; i < len(r.refs); i += 2 {
		name, value := r.refs[i], r.refs[i+1]
		if ref := max(name, value); int(ref) >= len(r.symbols) {
			r.note(r.badRef("label", uint64(ref)))
			return dst, nil
		}
		l := [1]Label{{Name: r.symbols[name], Value: r.symbols[value]}}
		if len(dst)+len(l[0].Name)+len(l[0].Value) > maxBytes {
			r.note(seriesTooLarge(maxBytes))
			return dst, nil
		}
		dst = AppendLabels(dst, l[:])
	}
	return dst, nil
}

// appendRefs collects the refs in the fields 1 of b; with keep false it checks them only.
func appendRefs(refs []uint32, b []byte, keep bool) ([]uint32, error) {
	add := func(v uint64) {
		if keep {
			refs = append(refs, uint32(min(v, math.MaxUint32))) // no table of symbols is that long
		}
	}
	for len(b) > 0 {
		f, rest, err := nextWireField(b)
		if err != nil {
			return refs, err
		}
		b = rest
		switch {
		case f.number != 1:
		case f.wire == wireVarint:
			add(f.value)
		case f.wire == wireBytes:
			for p := f.bytes; len(p) > 0; {
				v, n := uvarint(p)
				if n <= 0 {
					return refs, ErrTruncated
				}
				add(v)
				p = p[n:]
			}
		default:
			return refs, ErrWireType
		}
	}
	return refs, nil
}

func (r *RequestV2) badRef(what string, ref uint64) *Error {
	return NewError(ErrSymbolRef, http.StatusBadRequest, "%s reference %d is outside of the %d symbols", what, ref, len(r.symbols))
}

// exemplar writes a 2.0 Exemplar in the form of 1.0.
func (r *RequestV2) exemplar(b []byte, maxBytes int) ([]byte, error) {
	dst, err := r.appendLabels(r.scratch[:0], b, maxBytes)
	if err != nil {
		return dst, err
	}
	for len(b) > 0 {
		f, rest, err := nextWireField(b)
		if err != nil {
			return dst, err
		}
		switch {
		case f.number == 2 && f.wire == wireFixed64, f.number == 3 && f.wire == wireVarint:
			dst = append(dst, b[:len(b)-len(rest)]...)
		case f.number == 2 || f.number == 3:
			return dst, ErrWireType
		}
		b = rest
	}
	return dst, nil
}

// metadata reads a 2.0 Metadata. Ref 0 is the empty string by the specification, so it means "not said".
func (r *RequestV2) metadata(b []byte) (m Metadata, err error) {
	text := func(what string, ref uint64) []byte {
		if ref == 0 {
			return nil
		}
		if ref >= uint64(len(r.symbols)) {
			r.note(r.badRef(what, ref))
			return nil
		}
		return r.symbols[ref]
	}
	for len(b) > 0 {
		f, rest, err := nextWireField(b)
		if err != nil {
			return m, err
		}
		b = rest
		switch {
		case (f.number == 1 || f.number == 3 || f.number == 4) && f.wire != wireVarint:
			return m, ErrWireType
		case f.number == 1:
			m.Type = f.value
		case f.number == 3:
			m.Help = text("help", f.value)
		case f.number == 4:
			m.Unit = text("unit", f.value)
		}
	}
	return m, nil
}

// FamilyOf cuts off name what a series of a histogram or a summary has and its metric family has not.
func FamilyOf(name []byte, metricType uint64) []byte {
	var suffixes []string
	switch metricType {
	case 3, 4:
		suffixes = []string{"_bucket", "_count", "_sum"}
	case 5:
		suffixes = []string{"_count", "_sum"}
	}
	for _, s := range suffixes {
		if cut, ok := bytes.CutSuffix(name, []byte(s)); ok && len(cut) > 0 {
			return cut
		}
	}
	return name
}

// LooksLikeV2 says that body, which has nothing that remote write 1.0 knows, has fields of a 2.0 Request: the two unmarshal
// into each other without an error, and with nothing in them.
func LooksLikeV2(body []byte) bool {
	var r RequestV2
	// The symbols do not matter; those beyond the limit end the scan with an error and are proof enough.
	err := r.Reset(body, 1)
	return (err == nil || errors.Is(err, ErrTooManySymbols)) && r.seen&fieldsV2 != 0 && r.seen&fieldsV1 == 0
}

// LooksLikeV1 says that the body given to Reset has fields of a 1.0 WriteRequest and none of a 2.0 Request.
func (r *RequestV2) LooksLikeV1() bool {
	return r.seen&fieldsV1 != 0 && r.seen&fieldsV2 == 0
}
