package producer

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// InUse tells what is known of the samples topic's partitions beside their number.
type InUse interface {
	// Known returns one more than the highest partition that was ever written to, announced or shipped: once this process
	// knows what was said before the call. It is 0 as long as none was written to: consumers take partitions one after the
	// other, and what a first few of them announce is no reason to write to those alone.
	Known(ctx context.Context) (int32, error)
	// Held tells whether a consumer answers for the partition.
	Held(partition int32) bool
}

// growth decides when partitions that were added to the topic are written to: once somebody answers for them, so that no
// query has to fail for a partition that no consumer has taken yet. It is not waited for without end.
type growth struct {
	inUse InUse

	mu   sync.Mutex
	seen int32     // guarded by mu; the number of partitions that the log has
	when time.Time // guarded by mu; since when
}

// growthPatience is how long new partitions wait for a consumer.
const growthPatience = 2 * time.Minute

// adopt returns how many partitions to write to, when the log has n and now are written to.
func (g *growth) adopt(ctx context.Context, now, n int32, at time.Time) (int32, error) {
	if g.inUse == nil || n <= now {
		return n, nil
	}
	if now == 0 { // just started: those that were in use before are in use
		known, err := g.inUse.Known(ctx)
		if err != nil {
			return 0, fmt.Errorf("find out which partitions are in use: %w", err)
		}
		if known == 0 || known >= n {
			return n, nil
		}
		now = known
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n != g.seen {
		g.seen, g.when = n, at
	}
	if at.Sub(g.when) >= growthPatience {
		return n, nil
	}
	for p := now; p < n; p++ {
		if !g.inUse.Held(p) {
			return now, nil
		}
	}
	return n, nil
}
