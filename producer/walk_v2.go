package producer

import (
	"errors"
	"net/http"
	"sluice/internal/ha"
	"sluice/schema"
)

// maxSymbols bounds the symbols of a 2.0 request. A request of 2000 series has some thousands.
const maxSymbols = 1 << 20

// walkV2 cuts a Request of remote write 2.0 into its series and puts the valid ones into records, as walkV1 does.
func (q *request) walkV2(body []byte) error {
	if err := q.openV2(body); err != nil {
		return err
	}
	q.hashes = grow(q.hashes, len(q.v2.Symbols()))
	clear(q.hashes)
	for {
		raw, ok, err := q.v2.NextRaw()
		switch {
		case err != nil:
			return undecodable(err)
		case !ok:
			return nil
		}
		q.key = q.symbolKey(raw)
		if known := q.knownV2(raw); known != nil {
			if err := q.countSeries(); err != nil {
				return err
			}
			if q.deduplicated(known) {
				q.dropKnown(known)
			} else if err := q.addKnown(known); err != nil {
				return err
			}
			continue
		}
		s, err := q.v2.Translate(raw, maxRawSeries-8)
		if err != nil {
			if err = q.refuseV2(err); err != nil {
				return err
			}
			continue
		}
		if err := q.addSeries(s.Payload, nil, &s); err != nil {
			return err
		}
	}
}

// openV2 starts the walk over a Request.
func (q *request) openV2(body []byte) error {
	if err := q.v2.Reset(body, maxSymbols); err != nil {
		if errors.Is(err, schema.ErrTooManySymbols) {
			return schema.NewError(schema.ErrBodyTooLarge, http.StatusRequestEntityTooLarge, "the request has more than %d symbols", maxSymbols)
		}
		return undecodable(err)
	}
	if q.v2.LooksLikeV1() {
		return schema.NewError(schema.ErrDecode, http.StatusBadRequest,
			"the body is a remote write 1.0 request, the content type says 2.0: it has to have proto=prometheus.WriteRequest")
	}
	return q.hold(int64(q.v2.Cap() + 16*len(q.v2.Symbols())))
}

// symbolKey is the key of a 2.0 series in the cache, made of the hashes of its symbols, each of which is hashed once per
// request; the zero key if there is no cache, or something with the references that wants a closer look.
func (q *request) symbolKey(raw []byte) seriesKey {
	c := q.state.cache
	if c == nil {
		return seriesKey{}
	}
	refs, ok := q.v2.LabelRefs(raw)
	if !ok {
		return seriesKey{}
	}
	symbols := q.v2.Symbols()
	var key seriesKey
	for i, ref := range refs {
		h := &q.hashes[ref]
		if *h == (seriesKey{}) {
			*h = c.key(symbols[ref])
		}
		key.add(i, h)
	}
	return key
}

// knownV2 cuts the values of a 2.0 series into q.series if nothing but its values is to be looked at.
func (q *request) knownV2(raw []byte) *knownSeries {
	if q.key == (seriesKey{}) {
		return nil
	}
	known := q.state.cache.find(q.key, &q.near)
	if known != nil && q.deduplicated(known) && q.v2.CutValues(raw, &q.series) {
		return known
	}
	if known == nil || !known.fresh(q.clock) || known.group != 0 && q.verdict(known.group) != ha.Accept || !q.v2.CutValues(raw, &q.series) || !q.goodValues() {
		return nil
	}
	return known
}

// goodValues says that nothing is wrong with the values of q.series, and that they are of one kind.
func (q *request) goodValues() bool {
	s := &q.series
	if len(s.Samples) > 0 && len(s.Histograms) > 0 {
		return false
	}
	for i := range s.Samples {
		if t := s.Samples[i].Time; t < q.minTime || t > q.maxTime {
			return false
		}
	}
	for _, h := range s.Histograms {
		if id, _ := q.histogramFault(h); id != "" {
			return false
		}
	}
	return true
}

// refuseV2 takes an error of RequestV2.Next, and returns it if it is not one of a single series.
func (q *request) refuseV2(err error) error {
	var bad *schema.Error
	if !errors.As(err, &bad) {
		return undecodable(err)
	}
	q.refused.total++
	q.refuseSeries(bad.ID, 1, bad.Message)
	return nil
}
