package front

import (
	"context"
	"time"

	"github.com/prometheus/prometheus/promql"

	"sluice/internal/trace"
)

// lookup is what was found in the cache.
type lookup struct {
	key   string
	cover *Cover
	young int64 // ms; what is after it is not final
	known map[int64][]*extent
}

// times returns which times all buckets of the query look at.
func (q *query) times() (mint, maxt int64) {
	r, length := q.ranged, q.length()
	first, last := floorDiv(r.start, length)*length, (floorDiv(r.last, length)+1)*length
	return r.looked(first, last, time.Duration(r.step)*time.Millisecond, r.lookback)
}

// lookUp looks into the cache; nil if the query has nothing to do with it.
func (q *query) lookUp(ctx context.Context) *lookup {
	r, f := q.ranged, q.front
	ttl := time.Duration(q.asker.Limits.ResultsCacheTTL)
	if f.cache == nil || ttl == 0 || q.length() == 0 || q.asker.NoCache || r.opts != nil && r.opts.EnablePerStepStats() {
		return nil
	}
	young := f.backend.Now().Add(-time.Duration(q.asker.Limits.MaxCacheFreshness)).UnixMilli()
	if r.start > young {
		return nil
	}
	cover := q.cover(ctx)
	if cover == nil {
		return nil
	}
	look := &lookup{key: r.key(q.asker.Name), cover: cover, young: young, known: map[int64][]*extent{}}
	length := q.length()
	for bucket := floorDiv(r.start, length); bucket <= floorDiv(min(r.last, young), length); bucket++ {
		for _, e := range f.cache.get(bucketKey(look.key, length, bucket)) {
			if print, ok := q.print(cover, e.first, e.last); ok && print == e.print {
				look.known[bucket] = append(look.known[bucket], e)
			}
		}
	}
	return look
}

// cover asks what answers about the query's time are made of; nil if nobody can tell now.
func (q *query) cover(ctx context.Context) *Cover {
	mint, maxt := q.times()
	ctx, span := trace.Start(ctx, "cover")
	cover, err := q.front.backend.Cover(ctx, mint, maxt)
	span.End(err)
	if err != nil {
		return nil // working out the answer tells what is wrong
	}
	return cover
}

// print returns the fingerprint of the steps from first to last; false if they are not final.
func (q *query) print(cover *Cover, first, last int64) (fingerprint, bool) {
	r := q.ranged
	mint, maxt := r.looked(first, last, time.Duration(r.step)*time.Millisecond, r.lookback)
	if q.asker.Earliest > 0 && mint < q.asker.Earliest {
		return fingerprint{}, false
	}
	return cover.of(mint, maxt)
}

// keep puts what is final into the cache. What answers are made of is asked once more: an answer that was worked out
// between two looks at the same was made of it.
func (q *query) keep(ctx context.Context, look *lookup, parts []*part, joined promql.Matrix) {
	r := q.ranged
	byBucket := map[int64][]*part{}
	anything := false
	for _, p := range parts {
		byBucket[p.bucket] = append(byBucket[p.bucket], p)
		anything = anything || !p.cached && p.first <= look.young
	}
	if !anything {
		return
	}
	var after *Cover
	length := q.length()
	for bucket, ps := range byBucket {
		first, last := ps[0].first, ps[len(ps)-1].last
		last = min(last, r.start+floorDiv(look.young-r.start, r.step)*r.step)
		last, print := q.final(look.cover, first, last)
		worked := false
		var remarks []remark
		ok := true
		for _, p := range ps {
			if p.first > last {
				continue
			}
			if p.cached {
				remarks = append(remarks, p.remarks...)
				continue
			}
			worked = true
			var more []remark
			if more, ok = remarksOf(p.result.Warnings, r.text); !ok {
				break
			}
			remarks = append(remarks, more...)
		}
		if last < first || !worked || !ok {
			continue
		}
		if after == nil {
			if after = q.cover(ctx); after == nil {
				return
			}
		}
		if again, ok := q.print(after, first, last); !ok || again != print {
			continue
		}
		fresh := &extent{first: first, last: last, print: print, matrix: slice(joined, first, last), remarks: unique(remarks)}
		q.front.cache.put(bucketKey(look.key, length, bucket), q.widen(after, look.known[bucket], fresh), time.Duration(q.asker.Limits.ResultsCacheTTL))
	}
}

// final returns the last step up to which the steps from first on are final, before first if none are.
func (q *query) final(cover *Cover, first, last int64) (int64, fingerprint) {
	step := q.ranged.step
	if print, ok := q.print(cover, first, last); ok {
		return last, print
	}
	low, high := int64(0), (last-first)/step // the first is not known to be final, the last is known not to be
	if last < first {
		return last, fingerprint{}
	}
	print, ok := q.print(cover, first, first)
	if !ok {
		return first - step, fingerprint{}
	}
	for low+1 < high {
		mid := (low + high) / 2
		if p, ok := q.print(cover, first, first+mid*step); ok {
			low, print = mid, p
		} else {
			high = mid
		}
	}
	return first + low*step, print
}

// widen makes one extent of fresh and the known ones that it touches; others stay beside it.
func (q *query) widen(cover *Cover, known []*extent, fresh *extent) []*extent {
	step := q.ranged.step
	for _, e := range known {
		if e.last < fresh.first-step || e.first > fresh.last+step || e.first >= fresh.first && e.last <= fresh.last {
			continue
		}
		first, last := min(e.first, fresh.first), max(e.last, fresh.last)
		print, ok := q.print(cover, first, last)
		if old, same := q.print(cover, e.first, e.last); !ok || !same || old != e.print {
			continue
		}
		m, joined := join([]promql.Matrix{slice(e.matrix, first, fresh.first-step), fresh.matrix, slice(e.matrix, fresh.last+step, last)})
		if joined {
			fresh = &extent{first: first, last: last, print: print, matrix: m, remarks: unique(append(fresh.remarks, e.remarks...))}
		}
	}
	out := []*extent{fresh}
	for _, e := range known {
		if e.last < fresh.first || e.first > fresh.last {
			out = append(out, e)
		}
	}
	return out
}
