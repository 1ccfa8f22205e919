package reader

import (
	"context"
	"sync"

	"sluice/internal/fetch"
	"sluice/internal/log"
)

// floors remember how much of each partition's log was in the answers that this reader gave, so that no later answer has
// less: a query that falls over to another copy waits until that copy is as far.
type floors struct {
	mu      sync.Mutex
	topicID string
	seen    map[int32]int64 // by partition, the offset up to which (exclusive) answers went
}

// of returns a copy of the floors; those of another incarnation of the topic are dropped, as its offsets were others.
func (f *floors) of(topicID string) map[int32]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.topicID != topicID {
		f.topicID, f.seen = topicID, nil
	}
	out := make(map[int32]int64, len(f.seen))
	for p, offset := range f.seen {
		out[p] = offset
	}
	return out
}

// raise notes an answer to a query that took the topic to be the incarnation topicID.
func (f *floors) raise(topicID string, answered fetch.Applied) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.topicID != topicID {
		return
	}
	if f.seen == nil {
		f.seen = map[int32]int64{}
	}
	for p, offset := range answered {
		f.seen[p] = max(f.seen[p], offset)
	}
}

// forget drops all floors.
func (f *floors) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = nil
}

// waits returns the offsets that copies have to have reached: for a strong read all that the log has now, for any other
// what somebody announced or this reader has answered with.
func (r *Reader) waits(ctx context.Context, v *view, strong bool) (map[int32]int64, error) {
	if strong {
		ends, err := r.log.Ends(ctx, log.TopicSamples)
		if err != nil {
			return nil, logDown(ctx, err)
		}
		waits := make(map[int32]int64, len(ends))
		for p, end := range ends {
			waits[int32(p)] = end
		}
		return waits, nil
	}
	waits := r.floors.of(v.topicID)
	for p := range v.partitions {
		for _, h := range r.dir.Holders(p) {
			if v.concerns(&h) {
				waits[p] = max(waits[p], h.Applied)
			}
		}
	}
	return waits, nil
}

// settle returns a new view in the place of one that waits for more than the log has: the topic was made anew or cut at
// its end, so what was announced and answered before is no measure.
func (r *Reader) settle(ctx context.Context, opts *options) (*view, error) {
	r.floors.forget()
	r.topic.Store(nil)
	v, err := r.newView(ctx, opts, nil)
	if err != nil {
		return nil, err
	}
	ends, err := r.log.Ends(ctx, log.TopicSamples)
	if err != nil {
		return nil, logDown(ctx, err)
	}
	for p, offset := range v.wait {
		if int(p) < len(ends) {
			v.wait[p] = min(offset, ends[p])
		}
	}
	return v, nil
}
