package reader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/prometheus/storage"

	"sluice/internal/catalog"
	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/internal/merge"
	"sluice/internal/trace"
	"sluice/schema"
)

// view is what one query takes as given: a moment of the catalogue, and what was learned since about who cannot answer.
// It does not change once made, except for what learn says.
type view struct {
	blocks     []*schema.BlockEntry // in order of rank: of two values for one time, that of the first block counts
	shipped    map[int32]int64      // the blocks hold the partition's log up to there
	gaps       []schema.Gap         // parts of the log that no block has and that nobody will ever read
	partitions int32
	topicID    string          // the incarnation of the topic that all offsets are of
	strong     bool            // wait is the log's end
	wait       map[int32]int64 // the log must be applied up to there first, see waits
	waitUntil  time.Time       // no longer

	avoid map[avoidKey]error // members that failed for a partition
	skip  map[string]error   // blocks that failed, for a caller who takes a part of the answer
	cut   map[int32]cut      // partitions whose log was cut before it was in blocks
}

// cut says that nobody has what a partition's log held between its blocks and held.
type cut struct {
	held int64
	err  error // nil = all of it is in recorded gaps
}

type avoidKey struct {
	member    string
	partition int32
}

// newView takes a snapshot of the catalogue for the tenant. before, when not nil, is the view that proved too old.
func (r *Reader) newView(ctx context.Context, opts *options, before *view) (*view, error) {
	v := &view{avoid: map[avoidKey]error{}, skip: map[string]error{}, cut: map[int32]cut{}}
	topic, err := r.topicSamples(ctx, opts.strong || before != nil)
	if err != nil {
		return nil, logDown(ctx, err)
	}
	v.partitions, v.topicID = topic.partitions, topic.id
	if before != nil {
		v.strong, v.wait, v.waitUntil, v.avoid, v.skip = before.strong, before.wait, before.waitUntil, before.avoid, before.skip
	} else {
		v.strong, v.waitUntil = opts.strong, time.Now().Add(r.cfg.FreshTimeout)
		if opts.strong {
			v.waitUntil = time.Now().Add(r.cfg.StrongTimeout)
		}
		if v.wait, err = r.waits(ctx, v, opts.strong); err != nil {
			return nil, err
		}
	}
	blocks := v.snapshot(r.cat, opts.tenant, v.topicID)
	if before != nil {
		for p, c := range before.cut {
			if v.shipped[p] < c.held { // else blocks have come after all
				v.shipped[p], v.cut[p] = c.held, c
			}
		}
	}
	v.blocks = slices.Clone(blocks)
	slices.SortFunc(v.blocks, catalog.CompareRank)
	return v, nil
}

// topicAge is how long is believed what is known of the topic: asking costs round trips to the brokers.
const topicAge = 10 * time.Second

type topicSeen struct {
	id         string
	partitions int32
	at         time.Time
}

// topicSamples returns the incarnation of the topic of samples as of not long ago, and its partitions: as of now if exact
// is set. Else those that somebody holds count as well, as producers write to new ones once they are held.
func (r *Reader) topicSamples(ctx context.Context, exact bool) (t topicSeen, err error) {
	seen := r.topic.Load()
	fresh := seen != nil && time.Since(seen.at) < topicAge
	if fresh {
		t = *seen
	} else if t.id, err = r.log.TopicID(ctx, log.TopicSamples); err != nil {
		return t, err
	}
	if !fresh || exact {
		if t.partitions, err = r.log.Partitions(ctx, log.TopicSamples); err != nil {
			return t, err
		}
	}
	if !fresh {
		t.at = time.Now()
		now := t
		r.topic.Store(&now)
	}
	for fresh && !exact && t.partitions < math.MaxInt16 && len(r.dir.Holders(t.partitions)) > 0 {
		t.partitions++
	}
	return t, nil
}

// snapshot takes blocks, offsets and gaps of one moment from the catalogue. Offsets of another incarnation of the topic say
// nothing about this one's log.
func (v *view) snapshot(cat Catalog, tenant schema.Tenant, topicID string) []*schema.BlockEntry {
	for {
		parts := cat.Partitions()
		blocks, shipped := cat.Snapshot(tenant)
		v.shipped, v.gaps = make(map[int32]int64, len(shipped)), nil
		same := len(parts) == len(shipped)
		for p, s := range parts {
			same = same && shipped[p] == s.To
			if s.TopicID == "" || s.TopicID == topicID {
				v.shipped[p] = s.To
			}
			v.gaps = append(v.gaps, s.Gaps...)
		}
		if same {
			slices.SortFunc(v.gaps, func(a, b schema.Gap) int {
				return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
			})
			return blocks
		}
	}
}

func logDown(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return schema.Unavailable(schema.ErrLogDown, err, "the log does not answer")
}

// source is a block, several blocks that another reader owns, or a member with what is asked of it.
type source struct {
	rank int // lower wins

	entry *schema.BlockEntry

	share *share

	member    members.Member
	src       fetch.Source
	asks      []fetch.Ask
	waitUntil time.Time // for what asks wait for

	opened []storage.Querier // to be closed with the query
	span   *trace.Span       // of what is asked; ended at the latest by close
	remote bool              // src is another process, whose series are counted as they arrive
}

// querier opens the source.
func (s *source) querier(ctx context.Context, r *Reader, tenant schema.Tenant, mint, maxt int64) (storage.Querier, error) {
	var q storage.Querier
	var err error
	switch {
	case s.entry != nil:
		q, err = r.blocks.Querier(ctx, s.entry, mint, maxt)
	case s.share != nil:
		q = s.share.querier(tenant, mint, maxt)
	default:
		opening, cancel := context.WithDeadlineCause(ctx, s.waitUntil, errBehind)
		defer cancel()
		q, err = s.src.Querier(opening, tenant, mint, maxt, s.asks)
	}
	if err != nil {
		return nil, err
	}
	s.opened = append(s.opened, q)
	return q, nil
}

// applied returns how far the log is in what the source answered.
func (s *source) applied() fetch.Applied {
	if len(s.opened) == 0 {
		return nil
	}
	return fetch.AppliedOf(s.opened[0])
}

// ranked gives the source's series their ranks.
func (s *source) ranked(set storage.SeriesSet) storage.SeriesSet {
	if s.share != nil {
		return merge.RerankSeriesSet(set, s.share.ranks)
	}
	return merge.RankSeriesSet(set, s.rank)
}

func (s *source) close() error {
	var errs []error
	for _, q := range s.opened {
		errs = append(errs, q.Close())
	}
	s.opened = nil
	s.span.End(nil)
	return errors.Join(errs...)
}

// blockSources returns the blocks that may have samples in [mint, maxt].
func (v *view) blockSources(mint, maxt int64) (sources []*source, missing []error) {
	for rank, e := range v.blocks {
		if e.MinTime > maxt || e.MaxTime <= mint {
			continue
		}
		if err := v.skip[e.ID.String()]; err != nil {
			missing = append(missing, err)
			continue
		}
		sources = append(sources, &source{rank: rank, entry: e})
	}
	return sources, missing
}

// learn notes that a source failed, so that it is not asked the same again. It returns the view to go on with, which is a
// newer one when the catalogue was behind.
func (r *Reader) learn(ctx context.Context, opts *options, v *view, s *source, failure error) (*view, error) {
	var hole *fetch.HoleError
	if errors.As(failure, &hole) && hole.Held > hole.From {
		r.metrics.holes.Inc()
		newer, err := r.newer(ctx, opts, v)
		if err != nil {
			return nil, err
		}
		if newer.shipped[hole.Partition] > hole.From {
			return newer, nil
		}
		// No blocks came. Was the log cut there, so that nobody can have what is before?
		b, err := r.log.Bounds(ctx, log.TopicSamples, hole.Partition)
		if err != nil {
			return nil, logDown(ctx, err)
		}
		if hole.Held <= b.Start {
			p := hole.Partition
			newer.cut[p] = cut{held: hole.Held, err: newer.cutError(p, newer.shipped[p], hole.Held)}
			newer.shipped[p] = hole.Held
			return newer, nil
		}
		newer.avoid[avoidKey{s.member.ID, hole.Partition}] = failure
		return newer, nil
	}
	if s.entry != nil {
		v.skip[s.entry.ID.String()] = failure
		return v, nil
	}
	if errors.Is(failure, fetch.ErrUnreachable) {
		r.dir.Suspect(s.member.ID)
	}
	if s.member.Zone == "" {
		failure = fmt.Errorf("member %s: %w", s.member.ID, failure)
	} else {
		failure = fmt.Errorf("member %s of zone %s: %w", s.member.ID, s.member.Zone, failure)
	}
	if hole != nil {
		v.avoid[avoidKey{s.member.ID, hole.Partition}] = failure
		return v, nil
	}
	for _, ask := range s.asks {
		v.avoid[avoidKey{s.member.ID, ask.Partition}] = failure
	}
	return v, nil
}

func (r *Reader) newer(ctx context.Context, opts *options, v *view) (*view, error) {
	if err := r.cat.Sync(ctx); err != nil {
		return nil, logDown(ctx, err)
	}
	return r.newView(ctx, opts, v)
}

// has tells whether the block is still part of the view.
func (v *view) has(e *schema.BlockEntry) bool {
	return slices.ContainsFunc(v.blocks, func(o *schema.BlockEntry) bool { return o.ID == e.ID })
}
