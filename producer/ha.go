package producer

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"sluice/internal/ha"
	"sluice/schema"
)

// HA pairs. Whether a series is written is decided for each by its own labels, once per request and replica. What a series
// belongs to is remembered with it, so a known one costs an index into a table more, and one that is not written nothing but
// its look-up. A series that waits for an election is set aside, so that all elections of a request are held together.

// TrackHA makes the producer write one replica only of each of the tenants' HA clusters. Only before the first request.
func (p *Producer) TrackHA(t *ha.Tracker) { p.tracker = t }

// unplaced is the partition of a known series that has none yet, as it was never written.
const unplaced = -2

// haGroups numbers the replicas of a tenant's clusters. A number stays what it is.
type haGroups struct {
	mu    sync.RWMutex
	index map[string]uint16 // guarded by mu; by the names, the first with its length
	list  []ha.Candidate    // guarded by mu; number 1 first
	bytes int               // guarded by mu; of memory, about
}

// The bounds of the replicas of a tenant that have numbers: how many, and the bytes that they take. Series of others are not
// remembered.
const (
	maxGroups     = math.MaxUint16
	maxGroupBytes = 8 << 20
)

// find returns the number of a replica, 0 if it has none, and what it is to be added under. name is scratch space.
func (g *haGroups) find(cluster, replica, name []byte) (uint16, []byte) {
	name = binary.AppendUvarint(name[:0], uint64(len(cluster)))
	name = append(append(name, cluster...), replica...)
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.index[string(name)], name
}

// add returns the number of a replica, a new one if it has none; 0 if there are too many.
func (g *haGroups) add(c ha.Candidate, name []byte) uint16 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := g.index[string(name)]; n != 0 {
		return n
	}
	size := 2*len(name) + 100
	if len(g.list) == maxGroups || g.bytes+size > maxGroupBytes {
		return 0
	}
	g.bytes += size
	g.list = append(g.list, c)
	g.index[string(name)] = uint16(len(g.list))
	return uint16(len(g.list))
}

func (g *haGroups) get(n uint16) ha.Candidate {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.list[n-1]
}

// adjustHA begins or ends the tenant's numbers. Limits that end them also end the cache that they are used in.
func (s *tenantState) adjustHA(lim *schema.Limits) {
	switch {
	case !lim.AcceptHASamples:
		s.ha = nil
	case s.ha == nil:
		s.ha = &haGroups{index: map[string]uint16{}}
	}
}

// haRequest is what a request knows of HA pairs.
type haRequest struct {
	ctx      context.Context
	group    uint16       // of the series at hand; 0 = none
	nameless bool         // the series at hand is of a pair, and there is no group for it
	verdicts []ha.Verdict // by group; 0 = not asked yet
	waiting  []waiting
	held     []byte // their payloads
	name     []byte // scratch space

	dropped written      // what another replica is elected for
	example ha.Candidate // one of those who are not elected
}

// waiting is a series whose cluster has to elect first.
type waiting struct {
	candidate ha.Candidate
	key       seriesKey
	from, to  int // in held
	v2        *schema.SeriesV2
}

func (h *haRequest) begin(ctx context.Context, q *request) {
	if q.p.tracker == nil {
		q.state.ha = nil
	}
	if q.state.ha != nil {
		h.ctx = ctx
	}
}

func (h *haRequest) reset() {
	clear(h.verdicts)
	clear(h.waiting)
	*h = haRequest{verdicts: h.verdicts[:0], waiting: h.waiting[:0], held: h.held[:0], name: h.name}
}

func (h *haRequest) memory() int {
	return cap(h.verdicts) + 88*cap(h.waiting) + cap(h.held) + cap(h.name)
}

// terms are the tenant's.
func (q *request) terms() ha.Terms {
	return ha.Terms{MaxClusters: q.limits.HAMaxClusters, Timeout: time.Duration(q.limits.HATrackerFailoverTimeout)}
}

// verdict says what becomes of the series of a group in this request.
func (q *request) verdict(group uint16) ha.Verdict {
	h := &q.ha
	if int(group) < len(h.verdicts) && h.verdicts[group] != 0 {
		return h.verdicts[group]
	}
	v := q.judge(q.state.ha.get(group))
	h.remember(group, v)
	return v
}

// remember keeps a verdict for the rest of the request.
func (h *haRequest) remember(group uint16, v ha.Verdict) {
	if n := int(group) + 1; n > len(h.verdicts) {
		h.verdicts = slices.Grow(h.verdicts, n-len(h.verdicts))[:n]
	}
	h.verdicts[group] = v
}

// decide says what becomes of a series of a replica, and notes its group if it has one. A replica gets a number as soon as its
// cluster has elected: clusters that are refused have none, however many they are.
func (q *request) decide(cluster, replica []byte) (c ha.Candidate, v ha.Verdict) {
	h, groups := &q.ha, q.state.ha
	h.group, h.name = groups.find(cluster, replica, h.name)
	if h.group != 0 {
		return groups.get(h.group), q.verdict(h.group)
	}
	c = ha.Candidate{Cluster: string(cluster), Replica: string(replica)}
	if v = q.judge(c); v == ha.Accept || v == ha.Drop {
		h.group = groups.add(c, h.name)
		if h.nameless = h.group == 0; !h.nameless {
			h.remember(h.group, v)
		}
	}
	return c, v
}

// learn has q.series remembered once the walk is over. Of an HA pair it is not without its group: later on nothing would tell
// that it is of one.
func (q *request) learn(l learned) {
	if q.state.cache != nil && !q.ha.nameless {
		l.group = q.ha.group
		q.learned = append(q.learned, l)
	}
}

func (q *request) judge(c ha.Candidate) ha.Verdict {
	return q.p.tracker.Judge(q.tenant, c.Cluster, c.Replica, q.terms())
}

// deduplicated says that a known series is of a replica that is not elected.
func (q *request) deduplicated(s *knownSeries) bool {
	return s.group != 0 && q.verdict(s.group) == ha.Drop
}

// dropKnown drops q.series, which is known and of a replica that is not elected.
func (q *request) dropKnown(s *knownSeries) {
	if s.seen.Load() != q.clock {
		s.seen.Store(q.clock)
	}
	if q.ha.example == (ha.Candidate{}) {
		q.ha.example = q.state.ha.get(s.group)
	}
	q.countDeduplicated()
}

// countDeduplicated counts q.series as one that another replica is elected for.
func (q *request) countDeduplicated() {
	s, h := &q.series, &q.ha
	h.dropped = h.dropped.plus(written{len(s.Samples), len(s.Histograms), len(s.Exemplars)})
}

// takeReplica takes the label of the replica off q.series, if it is of an HA pair; mended says so. done means that there is nothing
// to be done with it in this walk: it was dropped, refused, or set aside until its cluster has elected.
func (q *request) takeReplica(key seriesKey, payload []byte, v2 *schema.SeriesV2) (mended, done bool, err error) {
	h, s := &q.ha, &q.series
	h.group, h.nameless = 0, false
	if q.state.ha == nil {
		return false, false, nil
	}
	cluster, at := findReplica(s.Labels, q.limits)
	if at < 0 {
		return false, false, nil
	}
	replica := s.Labels[at].Value
	if n := max(len(cluster), len(replica)); n > ha.MaxNameBytes {
		q.refuseParsed(schema.ErrLabelValueTooLong, fmt.Sprintf("the name of an HA cluster or replica has %d bytes, more than %d", n, ha.MaxNameBytes))
		return false, true, nil
	}
	candidate, verdict := q.decide(cluster, replica)
	switch verdict {
	case ha.Drop:
		q.learn(learned{key: key, partition: unplaced})
		h.example = candidate
		q.countDeduplicated()
		return false, true, nil
	case ha.TooMany:
		q.refuseParsed(schema.ErrTooManyHAClusters, fmt.Sprintf("HA cluster %.100q is one more than ha_max_clusters of %d", cluster, q.limits.HAMaxClusters))
		return false, true, nil
	case ha.Unknown:
		return false, true, q.setAside(candidate, key, payload, v2)
	}
	s.Labels = slices.Delete(s.Labels, at, at+1)
	return true, false, nil
}

// findReplica returns the cluster of a series and where its replica stands; -1 if it is not of an HA pair, or if its
// labels are wrong in a way that others will find.
func findReplica(labels []schema.Label, lim *schema.Limits) (cluster []byte, at int) {
	at = -1
	clusters := 0
	for i := range labels {
		l := &labels[i]
		switch {
		case len(l.Value) == 0: // no label at all
		case string(l.Name) == lim.HAClusterLabel:
			cluster = l.Value
			clusters++
		case string(l.Name) == lim.HAReplicaLabel:
			if at >= 0 {
				return nil, -1
			}
			at = i
		}
	}
	if at < 0 || clusters != 1 || !utf8.Valid(cluster) || !utf8.Valid(labels[at].Value) {
		return nil, -1
	}
	return cluster, at
}

// setAside keeps q.series until its cluster has elected.
func (q *request) setAside(c ha.Candidate, key seriesKey, payload []byte, v2 *schema.SeriesV2) error {
	if err := q.hold(int64(len(payload))); err != nil {
		return err
	}
	h := &q.ha
	w := waiting{candidate: c, key: key, from: len(h.held)}
	h.held = append(h.held, payload...)
	w.to = len(h.held)
	if v2 != nil {
		kept := *v2
		w.v2 = &kept
	}
	h.waiting = append(h.waiting, w)
	return nil
}

// elect has the elections held that series wait for, and then walks over those series.
func (q *request) elect(c *seriesCache) error {
	h := &q.ha
	var candidates []ha.Candidate
	asked := map[ha.Candidate]bool{}
	for i := range h.waiting {
		if c := h.waiting[i].candidate; !asked[c] {
			asked[c] = true
			candidates = append(candidates, c)
		}
	}
	ctx, cancel := context.WithTimeout(h.ctx, q.p.cfg.AppendTimeout)
	defer cancel()
	if err := q.p.tracker.Elect(ctx, q.tenant, candidates, q.terms()); err != nil {
		if h.ctx.Err() != nil {
			return err // 499
		}
		return schema.Unavailable(schema.ErrLogDown, err, "the log does not tell which replica of an HA cluster is elected")
	}
	for i, v := range h.verdicts {
		if v == ha.Unknown {
			h.verdicts[i] = 0
		}
	}
	return q.locked(c, q.walkWaiting)
}

// walkWaiting walks over the series that were set aside.
func (q *request) walkWaiting() error {
	h := &q.ha
	n := len(h.waiting)
	for i := range n {
		w := h.waiting[i]
		q.key = w.key
		q.refused.total-- // it is counted again
		if err := q.addSeries(h.held[w.from:w.to:w.to], nil, w.v2); err != nil {
			return err
		}
		if len(h.waiting) > n {
			return schema.Unavailable(schema.ErrLogDown, nil, "HA cluster %.100q has not elected a replica in time", w.candidate.Cluster)
		}
	}
	h.waiting = h.waiting[:0]
	return nil
}

// add takes over what another part of the request has not written.
func (h *haRequest) add(o *haRequest) {
	h.dropped = h.dropped.plus(o.dropped)
	if h.example == (ha.Candidate{}) {
		h.example = o.example
	}
}

// answer tells the sender what was not written, which is as it should be.
func (h *haRequest) answer(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintf(w, "deduplicated: %d samples are not written, replica %.100q of HA cluster %.100q is not the elected one\n",
		h.dropped.samples+h.dropped.histograms, h.example.Replica, h.example.Cluster)
}
