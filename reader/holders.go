package reader

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/schema"
)

// nearRecords is how much of a partition's log two copies may differ in and still count as equally fresh: less than a
// second's work for the one that is behind, and more than what two announcements of one moment differ in.
const nearRecords = 1000

// concerns says whether what h announced is about the topic of this view and not a former one of its name.
func (v *view) concerns(h *members.Holder) bool {
	return h.TopicID == "" || h.TopicID == v.topicID
}

// options returns the copies of a partition among which it makes no difference who is asked: the freshest and those near
// it; failing them, the best of those that there is doubt about.
func (v *view) options(holders []members.Holder) []members.Holder {
	holders = slices.DeleteFunc(slices.Clone(holders), func(h members.Holder) bool {
		return v.avoid[avoidKey{h.ID, h.Partition}] != nil
	})
	if len(holders) == 0 {
		return nil
	}
	good := slices.DeleteFunc(slices.Clone(holders), func(h members.Holder) bool { return h.Doubtful || !v.concerns(&h) })
	if len(good) == 0 {
		return holders[:1]
	}
	return slices.DeleteFunc(good, func(h members.Holder) bool { return h.Applied < good[0].Applied-nearRecords })
}

// memberSources finds somebody to ask for each partition, in few questions; missing has an error for each partition that
// nobody answers for although the log has more of it than the blocks.
func (r *Reader) memberSources(ctx context.Context, v *view) (sources []*source, missing []error, err error) {
	byMember := map[string]*source{}
	add := func(h *members.Holder, p int32) {
		s := byMember[h.ID]
		if s == nil {
			s = &source{rank: len(v.blocks) + len(byMember), member: h.Member, src: r.dial(h.Member), waitUntil: v.waitUntil}
			byMember[h.ID] = s
			sources = append(sources, s)
		}
		s.asks = append(s.asks, fetch.Ask{Partition: p, From: v.shipped[p], Wait: v.wait[p]})
	}
	free := map[int32][]members.Holder{} // partitions that several could answer for
	for p := range v.partitions {
		if err := v.cut[p].err; err != nil {
			missing = append(missing, err)
		}
		holders := v.options(r.dir.Holders(p))
		own := slices.IndexFunc(holders, func(h members.Holder) bool { return r.cfg.InstanceID != "" && h.ID == r.cfg.InstanceID })
		switch {
		case own >= 0:
			add(&holders[own], p)
		case len(holders) == 1:
			add(&holders[0], p)
		case len(holders) > 1:
			free[p] = holders
		default:
			switch err := r.unheld(ctx, v, p); {
			case ctx.Err() != nil:
				return nil, nil, context.Cause(ctx)
			case err == errFloor:
				return nil, nil, err
			case err != nil:
				missing = append(missing, err)
			}
		}
	}
	// Whoever is asked anyway is asked for more; else each reader spreads its partitions over the copies in its own way.
	for p := range v.partitions {
		if holders := free[p]; holders != nil {
			best := slices.MaxFunc(holders, func(a, b members.Holder) int {
				if asked := byMember[a.ID] != nil; asked != (byMember[b.ID] != nil) {
					if asked {
						return 1
					}
					return -1
				}
				return cmp.Compare(r.lot(a.ID, p), r.lot(b.ID, p))
			})
			add(&best, p)
		}
	}
	return sources, missing, nil
}

// lot is by what this reader chooses among equals.
func (r *Reader) lot(member string, p int32) uint64 {
	return xxhash.Sum64String(r.cfg.InstanceID + "\xff" + member + "\xff" + strconv.Itoa(int(p)))
}

// errFloor says that a read waits for what the log does not have.
var errFloor = errors.New("waiting for offsets beyond the log's end")

// unheld says what it means that nobody can be asked for a partition: nothing, when the log has never had more of it than
// the blocks have.
func (r *Reader) unheld(ctx context.Context, v *view, p int32) error {
	b, err := r.log.Bounds(ctx, log.TopicSamples, p)
	if err != nil {
		return logDown(ctx, err)
	}
	if v.wait[p] > b.End {
		return errFloor
	}
	from := v.shipped[p]
	if max(from, b.Start) >= b.End {
		return v.cutError(p, from, b.Start)
	}
	failures := v.failures(p)
	var last error
	if n := len(failures); n > 0 {
		last = failures[n-1]
	}
	all := errors.Join(failures...)
	var se *schema.Error
	var hole *fetch.HoleError
	switch {
	case errors.As(last, &se) && se.ID == schema.ErrStrongRead && !v.strong:
		return schema.Unavailable(schema.ErrPartitionUnavailable, oneLine{all},
			"no copy of partition %d has applied the log up to offset %d, which was announced or answered before", p, v.wait[p])
	case errors.As(last, &se) && (se.ID == schema.ErrStrongRead || se.Status < 500):
		return se // the answer of the last one asked says more than that there is nobody
	case errors.As(last, &hole) && hole.Held >= 0:
		return schema.Unavailable(schema.ErrCoverage, oneLine{all}, "offsets %d to %d of partition %d are neither in blocks nor held by a consumer", from, hole.Held, p)
	case last == nil:
		return schema.Unavailable(schema.ErrPartitionUnavailable, nil, "no consumer has announced partition %d, whose log goes from offset %d to %d beyond the blocks", p, from, b.End)
	}
	return schema.Unavailable(schema.ErrPartitionUnavailable, oneLine{all}, "no consumer answers for partition %d, whose log goes from offset %d to %d beyond the blocks", p, from, b.End)
}

// failures returns what those said who were asked for the partition, in order of their names; whoever says most about
// the reason comes last.
func (v *view) failures(p int32) []error {
	var keys []avoidKey
	for k := range v.avoid {
		if k.partition == p {
			keys = append(keys, k)
		}
	}
	weight := func(k avoidKey) int {
		var se *schema.Error
		var hole *fetch.HoleError
		switch err := v.avoid[k]; {
		case errors.As(err, &se):
			return 2
		case errors.As(err, &hole) && hole.Held >= 0:
			return 1
		}
		return 0
	}
	slices.SortFunc(keys, func(a, b avoidKey) int {
		return cmp.Or(cmp.Compare(weight(a), weight(b)), cmp.Compare(a.member, b.member))
	})
	errs := make([]error, len(keys))
	for i, k := range keys {
		errs[i] = v.avoid[k]
	}
	return errs
}

// oneLine is a joined error on one line.
type oneLine struct{ error }

func (e oneLine) Unwrap() error { return e.error }

func (e oneLine) Error() string {
	text := ""
	joined, ok := e.error.(interface{ Unwrap() []error })
	if !ok {
		return e.error.Error()
	}
	for i, err := range joined.Unwrap() {
		if i > 0 {
			text += "; "
		}
		text += err.Error()
	}
	return text
}
