package producer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/cespare/xxhash/v2"

	"sluice/internal/log"
	"sluice/schema"
)

const (
	// recordOverhead is room in a record for its headers and what a log adds to them.
	recordOverhead = 128
	// maxRawSeries is the largest series, as a field with its tag: it has to fit into one record.
	maxRawSeries = log.MaxRecordBytes - schema.MaxTenantLength - recordOverhead
	// maxSymbols bounds the symbols of a 2.0 request. A request of 2000 series has some thousands.
	maxSymbols = 1 << 20

	// seriesIndexFactor is how much larger than a series the index of its fields can be: 48 bytes for each field of two.
	seriesIndexFactor = 24
	// largeSeries is a series whose index is worth counting.
	largeSeries = 64 << 10

	// maxSaid bounds the metadata entries that are remembered so as not to be repeated within a request.
	maxSaid = 10_000

	// maxPooledBytes is how much memory a pooled request may keep.
	maxPooledBytes = 8 << 20
)

// request is one push on its way, with all the memory that it needs. Requests are pooled: in the steady state a push
// allocates nothing that grows with its series.
type request struct {
	p      *Producer
	tenant schema.Tenant
	limits *schema.Limits
	state  tenantState
	now    time.Time
	// minTime and maxTime are the oldest and newest timestamp accepted, ms.
	minTime, maxTime int64
	held             int64 // bytes of the budget

	bodyBuf, body      []byte // as received
	decodeBuf, decoded []byte

	series  schema.Series
	v2      schema.RequestV2
	meta    schema.Metadata
	labels  []schema.Label // labels of a series that had to be mended
	samples []schema.Sample
	hash    []byte              // scratch space of the hash
	scratch []byte              // a series or metadata entry written anew
	said    map[uint64]struct{} // metadata already written by this request

	clock   uint32         // seconds of Producer.clock
	key     seriesKey      // of the 2.0 series at hand
	hashes  []seriesKey    // of the symbols of a 2.0 request; zero = not hashed yet
	words   [2][]byte      // scratch space
	learned []learned      // series that the cache does not know
	defined []*knownSeries // series whose definition is in the records

	buffers     []buffer // of the records
	used        int      // buffers in use
	open        []int32  // by partition: 1 + index of its open buffer, 0 = none
	recs        []log.Record
	out         int64 // bytes in the buffers
	outReserved int64

	accepted written // what is in the buffers
	written  written // what the log has acknowledged
	refused  refusals
}

// buffer is the value of a record: of version 1 in b, of version 2 in w until it is complete.
type buffer struct {
	partition int32
	b         []byte

	w           schema.RecordWriter
	defines     bool   // it has a definition
	lastDefined uint32 // the last ref that it defines
}

func newRequest(p *Producer) *request {
	return &request{p: p, said: map[uint64]struct{}{}}
}

// begin prepares q for a request of tenant.
func (q *request) begin(ctx context.Context, tenant schema.Tenant) error {
	n, err := q.p.partitionCount(ctx)
	if err != nil {
		return err
	}
	q.tenant, q.limits, q.now = tenant, q.p.limits.For(tenant), q.p.now()
	q.clock = q.p.clock(q.now)
	q.state = q.p.tenants.get(tenant, q.limits, n, q.now)
	q.minTime, q.maxTime = timeBounds(q.limits, q.now)
	if int(n) > cap(q.open) {
		q.open = make([]int32, n)
	}
	q.open = q.open[:n]
	return nil
}

// release gives back what q holds and keeps its memory for the next request, unless that is a lot.
func (p *Producer) release(q *request) {
	p.budget.used.Add(-q.held)
	if q.memory() > maxPooledBytes {
		return
	}
	clear(q.open[:cap(q.open)])
	clear(q.recs[:cap(q.recs)])
	clear(q.said)
	q.v2.Release()
	q.held, q.used, q.out, q.outReserved = 0, 0, 0, 0
	q.body, q.decoded, q.recs = nil, nil, q.recs[:0]
	q.state, q.limits = tenantState{}, nil
	clear(q.defined)
	q.defined, q.learned = q.defined[:0], q.learned[:0]
	q.accepted, q.written = written{}, written{}
	q.refused.reset()
	p.pool.Put(q)
}

// memory is about what q keeps allocated.
func (q *request) memory() int {
	n := cap(q.bodyBuf) + cap(q.decodeBuf) + cap(q.scratch) + cap(q.hash) + q.v2.Cap() + 16*len(q.said)
	n += 48 * (cap(q.series.Labels) + cap(q.series.Samples) + cap(q.labels) + cap(q.samples))
	n += 24 * (cap(q.series.Histograms) + cap(q.series.Exemplars))
	n += 32*cap(q.learned) + 8*cap(q.defined) + 16*cap(q.hashes)
	for i := range q.buffers[:cap(q.buffers)] {
		b := &q.buffers[:cap(q.buffers)][i]
		n += cap(b.b) + b.w.Cap()
	}
	return n
}

func undecodable(err error) error {
	return schema.NewError(schema.ErrDecode, http.StatusBadRequest, "the body is no remote-write request: %v", err)
}

// walk puts a decoded request of one of the versions into records.
func (q *request) walk(body []byte, version string) error {
	cut := q.walkV1
	if version == version2 {
		cut = q.walkV2
	}
	c := q.state.cache
	if c == nil {
		return cut(body)
	}
	err := q.locked(c, func() error { return cut(body) })
	if err == nil {
		q.defined = c.learn(q.learned, q.clock, q.defined)
	}
	return err
}

// locked holds the cache as it is while f looks into it.
func (q *request) locked(c *seriesCache, f func() error) error {
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
	switch {
	case fields > 0 || len(body) == 0:
		return nil
	case schema.LooksLikeV2(body):
		return schema.NewError(schema.ErrDecode, http.StatusBadRequest,
			"the body is a remote write 2.0 request, the content type says 1.0: it has to have proto=io.prometheus.write.v2.Request")
	}
	return schema.NewError(schema.ErrDecode, http.StatusBadRequest, "the body has no field of a remote write 1.0 request")
}

// walkV2 does the same for a Request of remote write 2.0.
func (q *request) walkV2(body []byte) error {
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
	if err := q.hold(int64(q.v2.Cap() + 16*len(q.v2.Symbols()))); err != nil {
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
			if err := q.addKnown(known); err != nil {
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
	q.words = [2][]byte{q.words[0][:0], q.words[1][:0]}
	for _, ref := range refs {
		h := &q.hashes[ref]
		if *h == (seriesKey{}) {
			*h = c.key(symbols[ref])
		}
		q.words[0] = binary.LittleEndian.AppendUint64(q.words[0], h[0])
		q.words[1] = binary.LittleEndian.AppendUint64(q.words[1], h[1])
	}
	return c.keyOfHashes(q.words[0], q.words[1])
}

// knownV2 cuts the values of a 2.0 series into q.series if nothing but its values is to be looked at.
func (q *request) knownV2(raw []byte) *knownSeries {
	if q.key == (seriesKey{}) {
		return nil
	}
	known := q.state.cache.find(q.key)
	if known == nil || !known.fresh(q.clock) || !q.v2.CutValues(raw, &q.series) || !q.goodValues() {
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
		known = c.find(key)
		if both := v2 != nil && len(s.Samples) > 0 && len(s.Histograms) > 0; known != nil && known.fresh(q.clock) && !both {
			return q.addKnown(known)
		}
	}
	if err := s.ParseLabels(); err != nil {
		return undecodable(err)
	}
	mended, ok := q.checkLabels(v2)
	if !ok {
		return nil
	}
	relabelled := mended
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

// addMetadata puts a MetricMetadata into the record of the partition of its family. What is wrong with it is counted and
// does not fail the request: no sample is lost.
func (q *request) addMetadata(payload []byte) error {
	if len(payload) > maxRawSeries-8 {
		q.refused.add(schema.ErrMetadataInvalid, 1)
		return nil
	}
	if err := q.meta.Parse(payload); err != nil {
		q.refused.add(schema.ErrMetadataInvalid, 1)
		return nil
	}
	return q.putMetadata()
}

// addSeriesMetadata does the same for what a 2.0 series says of its metric, once per request and family.
func (q *request) addSeriesMetadata(v2 *schema.SeriesV2) error {
	q.meta = v2.Metadata
	for i := range q.series.Labels {
		if string(q.series.Labels[i].Name) == metricName {
			q.meta.Name = schema.FamilyOf(q.series.Labels[i].Value, q.meta.Type)
		}
	}
	return q.putMetadata()
}

// putMetadata writes q.meta.
func (q *request) putMetadata() error {
	if !checkMetadata(&q.meta, q.limits) {
		q.refused.add(schema.ErrMetadataInvalid, 1)
		return nil
	}
	q.scratch = q.meta.AppendPayload(q.scratch[:0])
	id := xxhash.Sum64(q.scratch)
	if _, said := q.said[id]; said {
		return nil
	}
	if len(q.said) < maxSaid {
		q.said[id] = struct{}{}
	}
	var hash uint64
	hash, q.hash = schema.MetadataHash(q.tenant, q.meta.Name, q.hash)
	partition := q.state.shard.Partition(hash)
	if q.state.cache != nil {
		b, err := q.openColumns(partition, len(q.scratch)+8)
		if err == nil {
			b.w.Metadata(q.scratch)
		}
		return err
	}
	b, err := q.room(partition, len(q.scratch)+8)
	if err != nil {
		return err
	}
	*b = schema.AppendMetadata(*b, q.scratch)
	return nil
}

// put appends raw to the partition's open record.
func (q *request) put(partition int32, raw []byte) error {
	b, err := q.room(partition, len(raw))
	if err != nil {
		return err
	}
	*b = append(*b, raw...)
	return nil
}

// room returns the partition's open buffer with room for n more bytes, starting a new record where the last one is full.
// n is at most maxRawSeries.
func (q *request) room(partition int32, n int) (*[]byte, error) {
	q.out += int64(n)
	switch {
	case q.out <= q.outReserved:
	case q.out > q.p.cfg.MaxDecodedBytes: // only 2.0 gets here: a symbol is named in few bytes, as often as one likes
		return nil, bodyTooLarge("request written out", q.out, q.p.cfg.MaxDecodedBytes)
	default:
		more := max(q.out-q.outReserved, min(q.outReserved, q.p.cfg.MaxDecodedBytes-q.outReserved))
		if err := q.hold(more); err != nil {
			return nil, err
		}
		q.outReserved += more
	}
	if at := q.open[partition]; at > 0 {
		b := &q.buffers[at-1].b
		if len(*b)+n <= maxRawSeries {
			return b, nil
		}
	}
	full := q.open[partition] > 0
	next := q.newBuffer(partition)
	if full && cap(next.b) < maxRawSeries { // this is a large request
		next.b = make([]byte, 0, maxRawSeries)
	}
	return &next.b, nil
}

// newBuffer makes a buffer the partition's open one.
func (q *request) newBuffer(partition int32) *buffer {
	if q.used == len(q.buffers) {
		q.buffers = append(q.buffers, buffer{})
	}
	next := &q.buffers[q.used]
	q.used++
	next.partition, next.b = partition, next.b[:0]
	q.open[partition] = int32(q.used)
	return next
}
