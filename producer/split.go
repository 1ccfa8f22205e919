package producer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"sluice/internal/auth"
	"sluice/internal/log"
	"sluice/schema"
)

// A sender that collects for many tenants: with Config.TenantLabel, a series belongs to the tenant that the value of that label
// names, and one without the label to the tenant of the request. Each tenant's part is a request of its own, with that
// tenant's limits, rates and series; the records of all of them go to the log together. Nothing of this is met without the flag.

const (
	// maxTenantsPerRequest bounds the parts. Prometheus sends 2,000 series at once.
	maxTenantsPerRequest = 5000
	// partBytes is what a part holds beside its records.
	partBytes = 16 << 10
)

// split is what a request knows of its parts.
type split struct {
	ctx    context.Context // of the request, for parts begin as their first series comes
	user   *auth.User      // nil without a users file
	parts  map[schema.Tenant]*part
	order  []*part // the request itself first
	last   *part   // of the series before: a scrape's series come together
	total  int     // see refused
	stored bool    // what could be written is
	buf    []byte  // a series without the label
	labels []schema.Label
}

// part is the request of one tenant. Once err is set nothing of it is written.
type part struct {
	*request
	err    error
	looked int // series refused when split.refused looked last
}

// splitBy makes the request one that is split, if the producer does that.
func (q *request) splitBy(ctx context.Context) {
	if q.p.cfg.TenantLabel == "" {
		return
	}
	own := &part{request: q}
	q.split = &split{ctx: ctx, user: auth.UserFrom(ctx), parts: map[schema.Tenant]*part{q.tenant: own}, order: []*part{own}, last: own}
}

// release gives back the parts other than the request itself.
func (s *split) release(p *Producer) {
	for _, other := range s.order[1:] {
		p.release(other.request)
	}
}

// walkSplit is walk for a request with a split.
func (q *request) walkSplit(body []byte, version string) error {
	q.key = seriesKey{}
	cut := q.splitV1
	if version == version2 {
		cut = q.splitV2
	}
	if err := cut(body); err != nil {
		return err
	}
	return q.split.learn()
}

// learn ends the walks of the parts: elections, and what the caches learn.
func (s *split) learn() error {
	for _, p := range s.order {
		if p.err != nil {
			continue
		}
		if err := p.settle(); err != nil {
			if err = p.failAlone(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// refused counts the series refused so far, when it is called after each of them.
func (s *split) refused() int {
	for _, p := range []*part{s.order[0], s.last} {
		s.total += p.request.refused.series - p.looked
		p.looked = p.request.refused.series
	}
	return s.total
}

func (q *request) splitV1(body []byte) error {
	fields := 0
	for rest := body; ; fields++ {
		f, next, err := schema.NextField(rest)
		if err != nil {
			return undecodable(err)
		}
		if f.Raw == nil {
			return checkFields(fields, body)
		}
		rest = next
		if f.Meta {
			err = q.addMetadata(f.Payload)
		} else {
			err = q.addToPart(f.Payload, f.Raw, nil)
		}
		if err != nil {
			return err
		}
	}
}

func (q *request) splitV2(body []byte) error {
	if err := q.openV2(body); err != nil {
		return err
	}
	for {
		s, ok, err := q.v2.Next(maxRawSeries - 8)
		switch {
		case err != nil:
			err = q.refuseV2(err)
		case !ok:
			return nil
		default:
			err = q.addToPart(s.Payload, nil, &s)
		}
		if err != nil {
			return err
		}
	}
}

// addToPart is addSeries for the tenant that the series names.
func (q *request) addToPart(payload, raw []byte, v2 *schema.SeriesV2) error {
	to, payload, raw, err := q.partOf(payload, raw)
	if err != nil || to == nil || to.err != nil {
		return err
	}
	// One cache at a time: two requests that hold each other's would wait for ever.
	if err = to.locked(to.state.cache, func() error { return to.addSeries(payload, raw, v2) }); err != nil {
		return to.failAlone(err)
	}
	return nil
}

// failAlone refuses the part as a whole if the error concerns its tenant only; else it returns it, and the whole request fails.
func (p *part) failAlone(err error) error {
	var se *schema.Error
	if !errors.As(err, &se) || se.ID != schema.ErrSeriesPerRequest {
		return err
	}
	p.fail(err)
	return nil
}

// partOf returns the part that a series belongs to, and the series as it is to be written there. nil means that the series was refused.
func (q *request) partOf(payload, raw []byte) (*part, []byte, []byte, error) {
	s, own := q.split, q.split.order[0]
	if len(payload) > maxRawSeries { // refused there
		return own, payload, raw, nil
	}
	if len(payload) > largeSeries {
		index := seriesIndexFactor * int64(len(payload))
		if err := q.hold(index); err != nil {
			return nil, nil, nil, err
		}
		defer q.giveBack(index)
	}
	if err := q.series.Parse(payload); err != nil {
		return nil, nil, nil, undecodable(err)
	}
	is := func(l schema.Label) bool { return string(l.Name) == q.p.cfg.TenantLabel && len(l.Value) > 0 }
	at := slices.IndexFunc(q.series.Labels, is)
	if at < 0 || slices.IndexFunc(q.series.Labels[at+1:], is) >= 0 { // there twice, the series is refused, and there is no saying whose it is
		return own, payload, raw, nil
	}
	to, err := q.partFor(q.series.Labels[at].Value)
	if err != nil || to == nil {
		return nil, nil, nil, err
	}
	if q.p.cfg.StripTenantLabel {
		s.labels = append(append(s.labels[:0], q.series.Labels[:at]...), q.series.Labels[at+1:]...)
		q.series.Labels, s.labels = s.labels, q.series.Labels
		s.buf = encodeSeries(s.buf[:0], &q.series)
		payload, raw = s.buf, nil
	}
	return to, payload, raw, nil
}

// partFor returns the part of a tenant, a new one if the request has none yet; nil if its series are refused.
func (q *request) partFor(value []byte) (*part, error) {
	s := q.split
	if string(s.last.tenant) == string(value) {
		return s.last, nil
	}
	if known := s.parts[schema.Tenant(value)]; known != nil {
		s.last = known
		return known, nil
	}
	refuse := func(id schema.ErrorID, message string) (*part, error) {
		q.refused.total++
		q.refuseSeries(id, 1, message)
		return nil, nil
	}
	tenant, err := schema.ParseTenant(string(value))
	var bad *schema.Error
	switch {
	case errors.As(err, &bad):
		return refuse(bad.ID, "label "+q.p.cfg.TenantLabel+": "+bad.Message)
	case s.user != nil && !s.user.Has(tenant):
		return refuse(schema.ErrTenantForbidden, fmt.Sprintf("label %s: tenant %s is none of user %s", q.p.cfg.TenantLabel, tenant, s.user.Name))
	case len(s.order) > maxTenantsPerRequest:
		return refuse(schema.ErrTenantsPerWrite, fmt.Sprintf("the request is for more than %d tenants; send fewer series at once", maxTenantsPerRequest))
	}
	if err := q.hold(partBytes); err != nil {
		return nil, err
	}
	fresh := &part{request: q.p.pool.Get().(*request)}
	s.parts[tenant], s.last, s.order = fresh, fresh, append(s.order, fresh)
	if err := fresh.begin(s.ctx, tenant); err != nil {
		return nil, err
	}
	fresh.key = seriesKey{}
	if err := fresh.allowRequest(); err != nil {
		fresh.fail(err)
	}
	return fresh, nil
}

// fail refuses the part as a whole.
func (p *part) fail(err error) {
	p.err = err
	p.p.rejectRequest(p.tenant, err)
}

// commitSplit is commit for a request with a split: the parts that are within their rates are written together.
func (q *request) commitSplit(ctx context.Context) error {
	var recs []log.Record
	for _, p := range q.split.order {
		if p.err == nil {
			p.err = p.allowSamples()
		}
		if p.err == nil {
			p.encode()
			recs = append(recs, p.recs...)
		}
	}
	if len(recs) > 0 {
		if err := q.p.write(ctx, recs); err != nil {
			return err
		}
	}
	q.split.stored = true
	var sum written
	var answer error
	for _, p := range q.split.order {
		if p.err == nil {
			p.stored()
			sum = sum.plus(p.written)
			if p.request != q { // one answer tells of all of them
				q.ha.add(&p.ha)
			}
			p.err = p.refused.err()
		}
		answer = graver(answer, p.err, p.tenant)
	}
	q.written = sum
	return answer
}

// graver returns the error that decides what the sender does: a rate, after which it may come back, before what no retry
// can mend; else the first.
func graver(a, b error, tenant schema.Tenant) error {
	var before, now *schema.Error
	if !errors.As(b, &now) {
		return a
	}
	if errors.As(a, &before) && (before.Status == now.Status || now.Status != http.StatusTooManyRequests) {
		before.RetryAfter = max(before.RetryAfter, now.RetryAfter)
		return before
	}
	told := *now
	told.Message = fmt.Sprintf("tenant %s: %s", tenant, now.Message)
	return &told
}
