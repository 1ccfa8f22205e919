package producer

import (
	"net/http"

	"sluice/schema"
)

// floatsTogether is how many samples of a series are added to a record before its size is looked at again, and
// maxFloatBytes the most that one of them takes.
const (
	floatsTogether = 512
	maxFloatBytes  = 5 + 10 + 10 + 9
)

// addKnown adds q.series, cut but without labels, by its ref. It is the hot path: nothing here looks at a label.
func (q *request) addKnown(s *knownSeries) error {
	if s.seen.Load() != q.clock {
		s.seen.Store(q.clock)
	}
	if s.partition == nowhere {
		q.drop()
		return nil
	}
	q.checkValues()
	return q.addColumns(int32(s.partition), s.ref, nil)
}

// addDefined adds q.series, whose labels were checked and may have been mended, with a definition of its ref. known is what
// the cache has of it, nil if nothing.
func (q *request) addDefined(key seriesKey, known *knownSeries, mended bool) error {
	s := &q.series
	if len(s.Samples)+len(s.Histograms)+len(s.Exemplars) == 0 {
		return nil
	}
	var partition int32
	var ref uint32
	if known != nil && known.partition != unplaced {
		partition, ref = int32(known.partition), known.ref
		if q.state.admissions != nil && known.defined.Load() == 0 { // the request that brought it was not written
			hash, scratch := schema.SeriesHash(q.tenant, s.Labels, q.hash)
			q.hash = scratch
			if ok, err := q.admit(hash, partition); !ok {
				return err
			}
		}
		q.defined = append(q.defined, known)
	} else {
		var hash uint64
		hash, q.hash = schema.SeriesHash(q.tenant, s.Labels, q.hash)
		partition = q.state.shard.Partition(hash)
		if ok, err := q.admit(hash, partition); !ok {
			return err
		}
		ref = q.state.cache.next[partition].Add(1) - 1
		q.learn(learned{key: key, partition: partition, ref: ref})
	}
	labels := s.LabelBytes
	if mended {
		q.scratch = schema.AppendLabels(q.scratch[:0], s.Labels)
		labels = q.scratch
	}
	return q.addColumns(partition, ref, labels)
}

// addColumns adds the values of q.series to its partition's record; define, if not nil, are the labels to define ref by, in
// each record that uses it.
func (q *request) addColumns(partition int32, ref uint32, define []byte) error {
	s := &q.series
	for samples := s.Samples; len(samples) > 0; {
		n := min(len(samples), floatsTogether)
		w, err := q.record(partition, ref, define, n*maxFloatBytes)
		if err != nil {
			return err
		}
		for i := range samples[:n] {
			w.Float(ref, samples[i].Time, samples[i].Start, samples[i].Value)
		}
		samples = samples[n:]
	}
	for _, h := range s.Histograms {
		w, err := q.record(partition, ref, define, len(h)+10)
		if err != nil {
			return err
		}
		w.Histogram(ref, h)
	}
	for _, e := range s.Exemplars {
		w, err := q.record(partition, ref, define, len(e)+10)
		if err != nil {
			return err
		}
		w.Exemplar(ref, e)
	}
	q.accepted.samples += len(s.Samples)
	q.accepted.histograms += len(s.Histograms)
	q.accepted.exemplars += len(s.Exemplars)
	return nil
}

// record returns the partition's open record with room for n more bytes, and with the definition if there is to be one.
func (q *request) record(partition int32, ref uint32, define []byte, n int) (*schema.RecordWriter, error) {
	need := n
	if define != nil {
		need += len(define) + 10
	}
	b, err := q.openColumns(partition, need)
	if err != nil {
		return nil, err
	}
	if define != nil && (!b.defines || b.lastDefined != ref) {
		b.w.Define(ref, define)
		b.defines, b.lastDefined = true, ref
	}
	return &b.w, nil
}

// openColumns returns the partition's open buffer, a new one where the last is full.
func (q *request) openColumns(partition int32, need int) (*buffer, error) {
	if at := q.open[partition]; at > 0 {
		b := &q.buffers[at-1]
		if b.w.Size()+need <= maxRawSeries {
			return b, nil
		}
	}
	if need > maxRawSeries {
		return nil, schema.NewError(schema.ErrRecordTooLarge, http.StatusBadRequest, "a series with its labels needs %d bytes, more than a record has", need)
	}
	// What the records hold is bounded by what the request does: they are shorter than it, but for 2.0, where a symbol is
	// named in few bytes as often as one likes.
	size := int64(0)
	for i := range q.buffers[:q.used] {
		size += int64(q.buffers[i].w.Size())
	}
	if size > q.p.cfg.MaxDecodedBytes {
		return nil, bodyTooLarge("request written out", size, q.p.cfg.MaxDecodedBytes)
	}
	if size > q.outReserved {
		if err := q.hold(size); err != nil {
			return nil, err
		}
		q.outReserved += size
	}
	b := q.newBuffer(partition)
	b.w.Reset()
	b.defines = false
	return b, nil
}

// acknowledged notes that the definitions are durable. They count from before they were sent.
func (q *request) acknowledged() {
	for _, s := range q.defined {
		s.defined.Store(q.clock)
	}
	q.admitted = q.admitted[:0]
}
