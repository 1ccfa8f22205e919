package producer

import (
	"fmt"
	"net/http"

	"sluice/internal/ha"
	"sluice/schema"
)

const (
	// seriesIndexFactor is how much larger than a series the index of its fields can be: 48 bytes for each field of two.
	seriesIndexFactor = 24
	// largeSeries is a series whose index is worth counting.
	largeSeries = 64 << 10
)

// walk puts a decoded request of one of the versions into records.
func (q *request) walk(body []byte, version string) error {
	if q.split != nil {
		return q.walkSplit(body, version)
	}
	cut := q.walkV1
	if version == version2 {
		cut = q.walkV2
	}
	return q.cached(func() error { return cut(body) })
}

// cached walks with the cache of series at hand, if there is one, and lets it learn.
func (q *request) cached(cut func() error) error {
	if err := q.locked(q.state.cache, cut); err != nil {
		return err
	}
	return q.settle()
}

// settle ends a walk: series that wait for an election are walked over, and the cache learns.
func (q *request) settle() error {
	c := q.state.cache
	if len(q.ha.waiting) > 0 {
		if err := q.elect(c); err != nil {
			return err
		}
	}
	if c != nil {
		q.defined = c.learn(q.learned, q.clock, q.defined)
	}
	return nil
}

// locked holds the cache, if there is one, as it is while f looks into it.
func (q *request) locked(c *seriesCache, f func() error) error {
	if c == nil {
		return f()
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return f()
}

// walkV1 cuts a WriteRequest into its series and puts the valid ones into records. An error means that nothing of the
// request may be written.
func (q *request) walkV1(body []byte) error {
	fields := 0
	for rest := body; ; fields++ {
		f, next, err := schema.NextField(rest)
		if err != nil {
			return undecodable(err)
		}
		if f.Raw == nil {
			break
		}
		rest = next
		if f.Meta {
			err = q.addMetadata(f.Payload)
		} else {
			err = q.addSeries(f.Payload, f.Raw, nil)
		}
		if err != nil {
			return err
		}
	}
	return checkFields(fields, body)
}

// checkFields refuses a body that is something else than a WriteRequest.
func checkFields(fields int, body []byte) error {
	switch {
	case fields > 0 || len(body) == 0:
		return nil
	case schema.LooksLikeV2(body):
		return schema.NewError(schema.ErrDecode, http.StatusBadRequest,
			"the body is a remote write 2.0 request, the content type says 1.0: it has to have proto=io.prometheus.write.v2.Request")
	}
	return schema.NewError(schema.ErrDecode, http.StatusBadRequest, "the body has no field of a remote write 1.0 request")
}

// addSeries validates one series, given as the payload of a 1.0 TimeSeries, and puts it into its partition's record. raw is
// the payload with tag and length, if the caller has it. v2 is what 2.0 says on top. An error ends the request.
func (q *request) addSeries(payload, raw []byte, v2 *schema.SeriesV2) error {
	if err := q.countSeries(); err != nil {
		return err
	}
	if len(raw) > maxRawSeries {
		q.refuseSeries(schema.ErrRecordTooLarge, 1, fmt.Sprintf("series of %d bytes is larger than a record, %d bytes", len(raw), maxRawSeries))
		return nil
	}
	if len(payload) > largeSeries {
		index := seriesIndexFactor * int64(len(payload))
		if err := q.hold(index); err != nil {
			return err
		}
		defer q.giveBack(index)
	}
	return q.addParsed(payload, raw, v2)
}

// countSeries counts a series of the request. An error ends the request.
func (q *request) countSeries() error {
	q.refused.total++
	if m := q.limits.MaxSeriesPerRequest; m > 0 && q.refused.total > m {
		return schema.NewError(schema.ErrSeriesPerRequest, http.StatusRequestEntityTooLarge,
			"the request has more series than max_series_per_request of %d; send fewer at once", m)
	}
	return nil
}

func (q *request) addParsed(payload, raw []byte, v2 *schema.SeriesV2) error {
	s := &q.series
	if err := s.Cut(payload); err != nil {
		return undecodable(err)
	}
	var key seriesKey
	var known *knownSeries
	if c := q.state.cache; c != nil {
		if key = q.key; v2 == nil || key == (seriesKey{}) {
			key = c.key(s.LabelBytes)
		}
		known = c.find(key, &q.near)
		if known != nil && known.group != 0 {
			switch q.verdict(known.group) {
			case ha.Accept:
			case ha.Drop:
				q.dropKnown(known)
				return nil
			default:
				known = nil // there is more to be done
			}
		}
		if both := v2 != nil && len(s.Samples) > 0 && len(s.Histograms) > 0; known != nil && known.fresh(q.clock) && !both {
			return q.addKnown(known)
		}
	}
	if err := s.ParseLabels(); err != nil {
		return undecodable(err)
	}
	replica, done, err := q.takeReplica(key, payload, v2)
	if done || err != nil {
		return err
	}
	verdict := q.checkLabels(v2)
	switch verdict {
	case refused:
		return nil
	case dropped:
		q.dropUnknown(key, known)
		return nil
	}
	relabelled := replica || verdict == changed
	mended := relabelled
	if q.checkValues() {
		mended = true
	}
	if v2 != nil && v2.HasMeta {
		if err := q.addSeriesMetadata(v2); err != nil {
			return err
		}
	}
	if len(s.Samples)+len(s.Histograms)+len(s.Exemplars) == 0 {
		return nil
	}
	if q.state.cache != nil {
		return q.addDefined(key, known, relabelled)
	}
	var hash uint64
	hash, q.hash = schema.SeriesHash(q.tenant, s.Labels, q.hash)
	partition := q.state.shard.Partition(hash)
	if ok, err := q.admit(hash, partition); !ok {
		return err
	}
	if raw != nil && !mended {
		if err := q.put(partition, raw); err != nil {
			return err
		}
	} else {
		if mended {
			q.scratch = encodeSeries(q.scratch[:0], s)
			payload = q.scratch
		}
		b, err := q.room(partition, len(payload)+8)
		if err != nil {
			return err
		}
		*b = schema.AppendTimeSeries(*b, payload)
	}
	q.accepted.samples += len(s.Samples)
	q.accepted.histograms += len(s.Histograms)
	q.accepted.exemplars += len(s.Exemplars)
	return nil
}

// encodeSeries appends s as the payload of a TimeSeries; samples keep the bytes that they came in.
func encodeSeries(dst []byte, s *schema.Series) []byte {
	dst = schema.AppendLabels(dst, s.Labels)
	for i := range s.Samples {
		dst = append(dst, s.Samples[i].Raw...)
	}
	for _, e := range s.Exemplars {
		dst = schema.AppendExemplar(dst, e)
	}
	for _, h := range s.Histograms {
		dst = schema.AppendHistogram(dst, h)
	}
	return dst
}
