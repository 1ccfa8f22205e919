package compactor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"sluice/internal/lease"
	"sluice/schema"
)

// How compactors share the work. Tenants are hashed into shards. Two kinds of work are done under a lease of the control
// topic, by whoever gets it:
//
//	compactor/shard/<n>    tidying a shard: tombstones, marks, the bucket index, removal of files, listing the bucket
//	compactor/job/<id>     one merge; the ID is a hash of the tenant and the inputs (internal/plan)
//
// Planning takes no lease. It is a function of the catalogue, each compactor does it for itself, and so several of them
// merge for one large tenant at once. Each goes through shards and jobs in an order of its own, so that they seldom meet.
//
// A lease divides work, it protects nothing: a process that stood still (stopped, swapped out, cut off) may go on with
// what it was about to do, long after others have taken over. So everything is harmless when it is done twice or late:
//
//	what                     done twice, or late with an old view
//	merge, upload            the same inputs make the same bytes under the same ID
//	announce a merge         one event, the same each time, and only after a fresh look that all inputs are live. Should it be
//	                         late all the same: whoever replaced the inputs or the output since is known to the catalogue as
//	                         their replacer, and a replaced block is never live, whatever is said of it later. One that has
//	                         expired since expires again
//	deletion mark            a file for people and foreign tools; the mark of a removed block is an orphan
//	tombstone                only for an entry of which nothing has been said since it was judged. One that is late renews the
//	                         time from which on the block is gone
//	bucket index             an older one is overwritten within an interval of the next change; nothing of ours reads it
//	removal of a             the ID of a deleted block never becomes live again: it is a hash of its content, those who might
//	deleted block's files    write it ask the catalogue first, and it is remembered until the log has nothing to replay it from
//	removal of an orphan     the one thing whose object may be written again: a consumer or a compactor that comes back
//	                         repeats the upload under the same ID. Age, catalogue and lease are looked at again right before
//	                         the removal, and its requests end with the lease
//	forgetting a tombstone   only if its entry has not changed; days after all that could bring the block back
//	quarantine, notes        forgetting costs work
//
// The last look and the deed cannot be made one with a bucket and a log. What remains is a process that stands still
// within the milliseconds between them, while the orphan that it was about to remove is uploaded again after its OrphanDelay
// of hours. For a merged block even that loses nothing: inputs are deleted only when all files of their replacer are there.
const shards = 32

const shardLease = "compactor/shard/"

// shardOf is the shard of a tenant. It never changes.
func shardOf(tenant schema.Tenant) int { return int(xxhash.Sum64String(string(tenant)) % shards) }

// shardOrder is the order in which a compactor goes through the shards.
func shardOrder(holder string) []int {
	first := int(xxhash.Sum64String(holder) % shards)
	order := make([]int, shards)
	for i := range order {
		order[i] = (first + i) % shards
	}
	return order
}

// sortJobs puts the smallest windows first, for they mend what slows queries most and cost least, and those of one size
// in an order that differs between holders.
func sortJobs(jobs []tenantJob, holder string) {
	slices.SortFunc(jobs, func(a, b tenantJob) int {
		return cmp.Or(cmp.Compare(a.End-a.Start, b.End-b.Start), cmp.Compare(xxhash.Sum64String(holder+a.id), xxhash.Sum64String(holder+b.id)))
	})
}

// leaseShard takes the lease of a shard. nil without an error: another compactor has it.
func (c *Compactor) leaseShard(ctx context.Context, i int) (*lease.Lease, error) {
	held, ok, err := c.leases.Acquire(ctx, shardLease+strconv.Itoa(i), c.cfg.LeaseTTL)
	if err != nil || !ok {
		return nil, err
	}
	return held, nil
}

// mayDelete makes sure, right before something is deleted, that the lease is held still and that the catalogue is as new as
// the log. What was decided before must be looked at again after it.
func (c *Compactor) mayDelete(ctx context.Context, held *lease.Lease) error {
	if err := c.cat.Sync(ctx); err != nil {
		return fmt.Errorf("read the catalogue: %w", err)
	}
	return held.Err()
}

// unchanged says whether nothing has been said of a block since e was read.
func (c *Compactor) unchanged(e *schema.BlockEntry) bool {
	now, ok := c.cat.Entry(e.Tenant, e.ID)
	return ok && now == e
}

// lost says whether a lease has ended before the work under it: somebody else does it, or will.
func lost(held *lease.Lease) bool { return errors.Is(held.Err(), lease.ErrLost) }
