package reader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"golang.org/x/sync/errgroup"

	"sluice/internal/fetch"
	"sluice/internal/members"
	"sluice/internal/merge"
	"sluice/internal/trace"
	"sluice/schema"
)

// readerID is the name under which a reader announces itself: not that of the process, which is its consumer's.
func readerID(instance string) string { return members.KindReader + "/" + instance }

// member is this reader as it announces itself; without an ID if it shares with nobody.
func (r *Reader) member() (m members.Member) {
	if r.cfg.InstanceID != "" && r.cfg.Advertise != "" {
		m = members.Member{ID: readerID(r.cfg.InstanceID), Addr: r.cfg.Advertise, Kind: members.KindReader}
	}
	return m
}

// announce tells the other readers of m until ctx ends, and then takes it back.
func (r *Reader) announce(ctx context.Context, m members.Member) {
	if m.ID == "" {
		<-ctx.Done()
		return
	}
	again := time.NewTicker(r.cfg.AnnounceInterval)
	defer again.Stop()
	for {
		if err := members.Announce(ctx, r.log, m); err != nil && ctx.Err() == nil {
			r.logger.Warn("announcing the reader", "err", err)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			withdraw, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if err := members.Withdraw(withdraw, r.log, m.ID); err != nil {
				r.logger.Debug("withdrawing the reader", "err", err)
			}
			return
		}
	}
}

// owner returns which of the readers has the block in its cache: every reader comes to the same answer, and one that
// comes or goes moves its own blocks only.
func owner(readers []members.Member, id ulid.ULID) *members.Member {
	var best *members.Member
	var most uint64
	var key []byte
	for i := range readers {
		key = append(append(key[:0], readers[i].ID...), id[:]...)
		if h := xxhash.Sum64(key); best == nil || h > most {
			best, most = &readers[i], h
		}
	}
	return best
}

// shared puts the blocks that other readers own together, by reader.
func (r *Reader) shared(blocks []*source) []*source {
	if r.cfg.InstanceID == "" || len(blocks) == 0 {
		return blocks
	}
	self := readerID(r.cfg.InstanceID)
	readers := r.dir.Readers()
	if !slices.ContainsFunc(readers, func(m members.Member) bool { return m.ID == self }) {
		readers = append(readers, members.Member{ID: self})
	}
	if len(readers) == 1 {
		return blocks
	}
	shares := map[string]*share{}
	out := make([]*source, 0, len(blocks))
	for _, b := range blocks {
		m := owner(readers, b.entry.ID)
		if m.ID == self {
			out = append(out, b)
			continue
		}
		s := shares[m.ID]
		if s == nil {
			peer, ok := r.dial(*m).(fetch.Blocks)
			if !ok {
				out = append(out, b)
				continue
			}
			s = &share{reader: r, owner: *m, peer: peer}
			shares[m.ID] = s
			out = append(out, &source{rank: b.rank, share: s})
		}
		s.entries, s.ranks = append(s.entries, b.entry), append(s.ranks, b.rank)
	}
	return out
}

// share is the blocks of a query that one other reader owns.
type share struct {
	reader  *Reader
	owner   members.Member
	peer    fetch.Blocks
	entries []*schema.BlockEntry // in order of rank
	ranks   []int
}

// failed says whether the owner's failure is to be made good here; not when the query itself is over.
func (s *share) failed(ctx context.Context, err error) bool {
	if ctx.Err() != nil || trace.IsLimit(err) {
		return false
	}
	if errors.Is(err, fetch.ErrUnreachable) {
		s.reader.dir.Suspect(s.owner.ID)
	}
	trace.Current(ctx).Set("read here, as the owner failed", err.Error())
	s.reader.metrics.peerBlocks.WithLabelValues("failed").Add(float64(len(s.entries)))
	s.reader.logger.Debug("reading another reader's blocks here", "owner", s.owner.ID, "blocks", len(s.entries), "err", err)
	return true
}

func (s *share) answered() {
	s.reader.dir.Trust(s.owner.ID)
	s.reader.metrics.peerBlocks.WithLabelValues("answered").Add(float64(len(s.entries)))
}

func (s *share) querier(tenant schema.Tenant, mint, maxt int64) storage.Querier {
	return &shareQuerier{share: s, tenant: tenant, mint: mint, maxt: maxt, here: &blocksQuerier{reader: s.reader, entries: s.entries, mint: mint, maxt: maxt}}
}

// shareQuerier asks the owner, and reads the blocks here as soon as the owner fails. Whichever answers, the ranks of its
// series are the places of their blocks in the share.
type shareQuerier struct {
	share      *share
	tenant     schema.Tenant
	mint, maxt int64
	here       *blocksQuerier

	mu     sync.Mutex
	opened []storage.Querier // of the owner
}

// open returns the owner's querier.
func (q *shareQuerier) open(ctx context.Context) (storage.Querier, error) {
	ids := make([]ulid.ULID, len(q.share.entries))
	for i, e := range q.share.entries {
		ids[i] = e.ID
	}
	there, err := q.share.peer.BlockQuerier(ctx, q.tenant, q.mint, q.maxt, ids)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.opened = append(q.opened, there)
	return there, nil
}

func (q *shareQuerier) Select(ctx context.Context, sorted bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	local := func() storage.SeriesSet { return q.here.Select(ctx, sorted, hints, slices.Clone(ms)...) }
	there, err := q.open(ctx)
	if err == nil {
		var set storage.SeriesSet
		if set, err = prime(there.Select(ctx, sorted, hints, slices.Clone(ms)...)); err == nil {
			return &shareSet{SeriesSet: set, ctx: ctx, share: q.share, local: local}
		}
	}
	if !q.share.failed(ctx, err) {
		return storage.ErrSeriesSet(err)
	}
	return local()
}

func (q *shareQuerier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.strings(ctx, func(from storage.Querier) ([]string, annotations.Annotations, error) {
		return from.LabelNames(ctx, hints, slices.Clone(ms)...)
	})
}

func (q *shareQuerier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.strings(ctx, func(from storage.Querier) ([]string, annotations.Annotations, error) {
		return from.LabelValues(ctx, name, hints, slices.Clone(ms)...)
	})
}

func (q *shareQuerier) strings(ctx context.Context, get func(storage.Querier) ([]string, annotations.Annotations, error)) ([]string, annotations.Annotations, error) {
	there, err := q.open(ctx)
	if err == nil {
		var values []string
		var warnings annotations.Annotations
		if values, warnings, err = get(there); err == nil {
			q.share.answered()
			return values, warnings, nil
		}
	}
	if !q.share.failed(ctx, err) {
		return nil, nil, err
	}
	return get(q.here)
}

func (q *shareQuerier) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	errs := []error{q.here.Close()}
	for _, there := range q.opened {
		errs = append(errs, there.Close())
	}
	q.opened = nil
	return errors.Join(errs...)
}

// shareSet gives the owner's series and, when the owner fails in the middle, the rest from here: blocks do not change,
// series come in the order of their labels, and one is given out only once it is whole, so nothing is missing or double.
type shareSet struct {
	storage.SeriesSet
	ctx   context.Context
	share *share
	local func() storage.SeriesSet // nil once it is in use, or at the end

	last labels.Labels // of the series given out last
}

func (s *shareSet) Next() bool {
	if s.SeriesSet.Next() {
		s.last = s.At().Labels()
		return true
	}
	if s.local == nil {
		return false
	}
	local := s.local
	s.local = nil
	err := s.SeriesSet.Err()
	if err == nil {
		s.share.answered()
		return false
	}
	if !s.share.failed(s.ctx, err) {
		return false
	}
	s.SeriesSet = local()
	for s.SeriesSet.Next() {
		if s.last.IsEmpty() || labels.Compare(s.At().Labels(), s.last) > 0 {
			return true
		}
	}
	return false
}

// BlockQuerier implements fetch.Blocks: other readers ask for the blocks that this one owns. It asks nobody in turn.
func (r *Reader) BlockQuerier(_ context.Context, tenant schema.Tenant, mint, maxt int64, ids []ulid.ULID) (storage.Querier, error) {
	if err := r.Ready(); err != nil {
		return nil, err
	}
	q := &blocksQuerier{reader: r, mint: mint, maxt: maxt}
	for _, id := range ids {
		e, ok := r.cat.Entry(tenant, id)
		if !ok {
			return nil, fmt.Errorf("block %s of tenant %s is not known here", id, tenant)
		}
		q.entries = append(q.entries, e)
	}
	select {
	case r.peers <- struct{}{}:
		q.release = sync.OnceFunc(func() { <-r.peers })
		return q, nil
	default:
		return nil, schema.Unavailable(schema.ErrOverloaded, nil, "%d questions of other readers are being answered", cap(r.peers))
	}
}

// blockError is the failure of one of several blocks.
type blockError struct {
	entry *schema.BlockEntry
	err   error
}

func (e *blockError) Error() string { return e.err.Error() }
func (e *blockError) Unwrap() error { return e.err }

// blocksQuerier reads several blocks in this process. The ranks of its series are the places of their blocks.
type blocksQuerier struct {
	reader     *Reader
	entries    []*schema.BlockEntry
	mint, maxt int64
	release    func() // nil = not for another reader

	mu     sync.Mutex
	opened []storage.Querier
}

// each opens all blocks, as many at a time as a query may, and calls use for each, at the same time.
func (q *blocksQuerier) each(ctx context.Context, use func(ctx context.Context, i int, bq storage.Querier) error) error {
	var g errgroup.Group
	g.SetLimit(q.reader.cfg.Concurrency)
	for i, e := range q.entries {
		g.Go(func() error {
			ctx, span := trace.Start(ctx, "block")
			describeBlock(span, e)
			_, err := safely(ctx, nil, func(ctx context.Context, _ *source) (none struct{}, _ error) {
				bq, err := q.reader.blocks.Querier(ctx, e, q.mint, q.maxt)
				if err != nil {
					return none, err
				}
				q.mu.Lock()
				q.opened = append(q.opened, bq)
				q.mu.Unlock()
				return none, use(ctx, i, bq)
			})
			span.End(err)
			if err != nil {
				return &blockError{e, err}
			}
			return nil
		})
	}
	return g.Wait()
}

func (q *blocksQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	sets := make([]storage.SeriesSet, len(q.entries))
	err := q.each(ctx, func(ctx context.Context, i int, bq storage.Querier) (err error) {
		sets[i], err = prime(merge.RankSeriesSet(bq.Select(ctx, true, hints, slices.Clone(ms)...), i))
		return err
	})
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	limit := 0
	if hints != nil {
		limit = hints.Limit
	}
	return storage.NewMergeSeriesSet(sets, limit, merge.Group)
}

func (q *blocksQuerier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.strings(ctx, hints, func(ctx context.Context, bq storage.Querier) ([]string, annotations.Annotations, error) {
		return bq.LabelNames(ctx, hints, slices.Clone(ms)...)
	})
}

func (q *blocksQuerier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return q.strings(ctx, hints, func(ctx context.Context, bq storage.Querier) ([]string, annotations.Annotations, error) {
		return bq.LabelValues(ctx, name, hints, slices.Clone(ms)...)
	})
}

func (q *blocksQuerier) strings(ctx context.Context, hints *storage.LabelHints, get func(context.Context, storage.Querier) ([]string, annotations.Annotations, error)) ([]string, annotations.Annotations, error) {
	var mu sync.Mutex
	var all []string
	var warnings annotations.Annotations
	err := q.each(ctx, func(ctx context.Context, _ int, bq storage.Querier) error {
		values, ws, err := get(ctx, bq)
		mu.Lock()
		defer mu.Unlock()
		all = append(all, values...)
		warnings.Merge(ws)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return sortedUnique(all, hints), warnings, nil
}

func (q *blocksQuerier) Close() error {
	if q.release != nil {
		defer q.release()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var errs []error
	for _, bq := range q.opened {
		errs = append(errs, bq.Close())
	}
	q.opened = nil
	return errors.Join(errs...)
}
