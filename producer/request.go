package producer

import (
	"context"
	"net/http"
	"sluice/internal/log"
	"sluice/schema"
	"time"
)

// maxPooledBytes is how much memory a pooled request may keep.
const maxPooledBytes = 8 << 20

// request is one push on its way, with all the memory that it needs. Requests are pooled: in the steady state a push
// allocates nothing that grows with its series.
type request struct {
	p      *Producer
	tenant schema.Tenant
	split  *split // nil unless the series name their tenants
	limits *schema.Limits
	state  tenantState
	now    time.Time
	// minTime and maxTime are the oldest and newest timestamp accepted, ms.
	minTime, maxTime int64
	held             int64 // bytes of the budget

	bodyBuf, body      []byte // as received
	decodeBuf, decoded []byte
	inflaters          inflaters

	series  schema.Series
	v2      schema.RequestV2
	meta    schema.Metadata
	labels  []schema.Label // labels of a series that had to be mended
	samples []schema.Sample
	hash    []byte              // scratch space of the hash
	scratch []byte              // a series or metadata entry written anew
	said    map[uint64]struct{} // metadata already written by this request

	clock    uint32         // seconds of Producer.clock
	key      seriesKey      // of the 2.0 series at hand
	near     uint32         // place in the cache after that of the last known series
	hashes   []seriesKey    // of the symbols of a 2.0 request; zero = not hashed yet
	learned  []learned      // series that the cache does not know
	admitted []uint64       // hashes of series that the limit on series let through
	defined  []*knownSeries // series whose definition is in the records

	otlp          translation
	dataPoints    int // of an OTLP request
	pointsRefused int // of them, wholly or in part

	buffers     []buffer // of the records
	used        int      // buffers in use
	open        []int32  // by partition: 1 + index of its open buffer, 0 = none
	recs        []log.Record
	out         int64 // bytes in the buffers
	outReserved int64

	rewriter relabeller // of labels, by the tenant's rules
	ha       haRequest

	accepted written // what is in the buffers
	dropped  written // by the tenant's own rules
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
	q.state.rates.requests.add(1, q.now)
	if q.state.admissions != nil {
		if err := q.p.cardinality.ready(ctx, q.p.cfg.AppendTimeout); err != nil {
			return err
		}
	}
	q.minTime, q.maxTime = timeBounds(q.limits, q.now)
	q.ha.begin(ctx, q)
	if int(n) > cap(q.open) {
		q.open = make([]int32, n)
	}
	q.open = q.open[:n]
	return nil
}

// release gives back what q holds and keeps its memory for the next request, unless that is a lot.
func (p *Producer) release(q *request) {
	if q.split != nil {
		q.split.release(p)
		q.split = nil
	}
	p.budget.used.Add(-q.held)
	q.withdrawAdmissions()
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
	q.defined, q.learned, q.near = q.defined[:0], q.learned[:0], 0
	q.otlp.reset()
	q.dataPoints, q.pointsRefused = 0, 0
	q.accepted, q.dropped, q.written = written{}, written{}, written{}
	q.ha.reset()
	q.refused.reset()
	p.pool.Put(q)
}

// memory is about what q keeps allocated.
func (q *request) memory() int {
	n := cap(q.rewriter.text) + cap(q.bodyBuf) + cap(q.decodeBuf) + cap(q.scratch) + cap(q.hash) + q.v2.Cap() + 16*len(q.said)
	n += q.inflaters.memory() + q.otlp.memory()
	n += 48 * (cap(q.series.Labels) + cap(q.series.Samples) + cap(q.labels) + cap(q.samples))
	n += 24 * (cap(q.series.Histograms) + cap(q.series.Exemplars))
	n += 32*cap(q.learned) + 8*cap(q.admitted) + 8*cap(q.defined) + 16*cap(q.hashes) + q.ha.memory()
	for i := range q.buffers[:cap(q.buffers)] {
		b := &q.buffers[:cap(q.buffers)][i]
		n += cap(b.b) + b.w.Cap()
	}
	return n
}

func undecodable(err error) error {
	return schema.NewError(schema.ErrDecode, http.StatusBadRequest, "the body is no remote-write request: %v", err)
}
