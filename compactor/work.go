package compactor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"sluice/internal/block"
	"sluice/internal/catalog"
	"sluice/internal/failpoint"
	"sluice/internal/lease"
	"sluice/internal/plan"
	"sluice/schema"
)

// Steps of a merge, in order. A crash after any of them is mended by doing the merge again, which makes the same block:
//
//	downloaded     nothing but scratch files exist
//	merged         the same
//	upload-chunks  the bucket has some files and no meta.json: no block; the next attempt or reconcile's broom
//	upload-index   the same
//	uploaded       the bucket has a whole block that the catalogue does not know; the next attempt or reconcile adds it
//	announced      the block is live and its inputs are replaced, by one event; marks are written by lifecycle
//	marked         done
//
// The names are those of failpoints.
const (
	stepDownloaded = failpoint.CompactorDownloaded
	stepMerged     = failpoint.CompactorMerged
	stepUploaded   = failpoint.CompactorUploaded
	stepAdded      = failpoint.CompactorAnnounced
	stepMarked     = failpoint.CompactorMarked
)

var (
	// errStale is returned by a merge whose inputs are not what was planned with any more.
	errStale = errors.New("an input is not live any more")
	// errSetAside is returned by a merge that has put an input into quarantine: it may be tried again at once, without it.
	errSetAside = errors.New("an input was set aside")
)

// maxRounds bounds how often one pass plans again after it has got on. Straight to the largest window means one round; more
// come from blocks put in quarantine.
const maxRounds = 8

type tenantJob struct {
	plan.Job
	tenant schema.Tenant
	id     string
}

func (j tenantJob) key() jobKey { return jobKey{j.tenant, j.Start, j.End} }

// mergeAll plans and merges until nothing is left to do or nothing works. A job that fails stops no other, and one that
// another compactor is at is left to it.
func (c *Compactor) mergeAll(ctx context.Context) (errs []error) {
	for range maxRounds {
		jobs := c.plan()
		if len(jobs) == 0 || ctx.Err() != nil {
			return errs
		}
		results := make([]error, len(jobs))
		var got atomic.Int64 // jobs that were ours
		var g errgroup.Group
		g.SetLimit(c.cfg.Concurrency)
		for i, j := range jobs {
			g.Go(func() error {
				if ctx.Err() == nil {
					var leased bool
					if leased, results[i] = c.leaseJob(ctx, j); leased {
						got.Add(1)
					}
				}
				return nil
			})
		}
		g.Wait()
		errs = append(errs, results...)
		if err := c.cat.Sync(ctx); err != nil {
			return append(errs, fmt.Errorf("read the catalogue: %w", err))
		}
		if got.Load() == 0 {
			return errs
		}
	}
	return errs
}

// plan returns the jobs of all tenants that are due, in the order of sortJobs, and sets the gauges.
func (c *Compactor) plan() []tenantJob {
	now := c.now()
	var jobs []tenantJob
	seen := looked{at: now.UnixMilli()}
	for _, tenant := range c.cat.Tenants() {
		blocks := c.cat.Blocks(tenant)
		if len(blocks) < 2 {
			continue
		}
		blocks = slices.DeleteFunc(slices.Clone(blocks), func(e *schema.BlockEntry) bool {
			_, aside := c.notes.aside.Of(blockKey{Tenant: tenant, ID: e.ID}, now)
			return aside
		})
		planned, tooLarge := plan.Jobs(now.UnixMilli(), blocks, c.cfg.plan())
		seen.tooLarge += len(tooLarge)
		seen.due += len(planned)
		for _, j := range planned {
			tj := tenantJob{j, tenant, plan.ID(tenant, j.Blocks)}
			c.mu.Lock()
			wait := now.Before(c.failed[tj.key()].until)
			c.mu.Unlock()
			seen.bytes += tj.bytes()
			if wait {
				seen.waiting++
				continue
			}
			jobs = append(jobs, tj)
		}
	}
	sortJobs(jobs, c.leases.Holder())
	c.metrics.backlog.Set(float64(seen.due))
	c.metrics.tooLarge.Set(float64(seen.tooLarge))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked = seen
	return jobs
}

// leaseJob does one merge if no other compactor is at it, counts it, and puts a failed one off: longer each time, up to an
// hour. leased says that it was ours to do.
func (c *Compactor) leaseJob(ctx context.Context, j tenantJob) (leased bool, err error) {
	held, ok, err := c.leases.Acquire(ctx, plan.LeasePrefix+j.id, c.cfg.LeaseTTL)
	if err == nil && !ok {
		c.metrics.jobs.WithLabelValues(resultLeased).Inc()
		return false, nil
	}
	begin := time.Now()
	var meta *schema.BlockMeta
	if err == nil {
		defer held.Release()
		c.begins(j)
		meta, err = c.merge(held, j)
	}
	key, result := j.key(), resultDone
	switch {
	case err == nil && meta == nil:
		result = resultSkipped
	case errors.Is(err, errStale):
		result, err = resultStale, nil
	case err != nil && held != nil && lost(held):
		result, err = resultLost, nil
	case err != nil:
		result = resultFailed
	}
	c.metrics.jobs.WithLabelValues(result).Inc()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ends(j, result == resultDone)
	switch {
	case errors.Is(err, errSetAside):
	case err != nil || result == resultSkipped:
		f := c.failed[key]
		f.times++
		f.until = c.now().Add(min(c.cfg.Interval<<min(f.times-1, 10), time.Hour))
		c.failed[key] = f
	default:
		delete(c.failed, key)
	}
	if err != nil {
		return true, fmt.Errorf("merge window [%d, %d) of tenant %s: %w", j.Start, j.End, j.tenant, err)
	}
	if result == resultDone {
		c.metrics.seconds.Observe(time.Since(begin).Seconds())
		c.metrics.backlog.Dec()
		c.logger.Info("merged blocks", "tenant", j.tenant, "block", meta.ULID, "level", meta.Compaction.Level,
			"mint", meta.MinTime, "maxt", meta.MaxTime, "inputs", len(j.Blocks), "samples", meta.Stats.NumSamples, "seconds", time.Since(begin).Seconds())
	}
	return true, nil
}

// merge makes one block of the job's inputs and swaps it for them. A nil meta without an error: it was done before. It
// stops early when the lease is lost.
func (c *Compactor) merge(held *lease.Lease, j tenantJob) (meta *schema.BlockMeta, err error) {
	ctx := held.Context()
	// Whoever had the lease just now may have done it.
	if err := c.cat.Sync(ctx); err != nil {
		return nil, fmt.Errorf("read the catalogue: %w", err)
	}
	if !c.allLive(j) {
		return nil, errStale
	}
	dir, err := os.MkdirTemp(c.cfg.Scratch, scratchPrefix)
	if err != nil {
		return nil, fmt.Errorf("create scratch directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	if err := c.download(ctx, j, dir); err != nil {
		return nil, err
	}
	if err := c.step(stepDownloaded); err != nil {
		return nil, err
	}
	contents, bad, err := mergeBlocks(ctx, dir, j.Blocks, filepath.Join(dir, "merged"))
	if err != nil {
		for i, cause := range bad {
			c.setAside(ctx, j.tenant, j.Blocks[i], cause)
			err = errors.Join(errSetAside, err)
		}
		return nil, err
	}
	if err := contents.plausible(j.Blocks); err != nil {
		return nil, err
	}
	if err := c.step(stepMerged); err != nil {
		return nil, err
	}
	origin, level, sources := originOf(j.tenant, j.Blocks)
	meta, final, err := block.Finish(filepath.Join(dir, "merged"), contents.Contents, origin, "sluice.compactor", level, sources)
	if err != nil {
		return nil, err
	}
	return c.publish(held, j, meta, final)
}

// publish uploads the merged block, tells the catalogue, and marks the inputs.
func (c *Compactor) publish(held *lease.Lease, j tenantJob, meta *schema.BlockMeta, dir string) (*schema.BlockMeta, error) {
	ctx := held.Context()
	if status := c.cat.Status(j.tenant, meta.ULID); status != catalog.Absent {
		c.logger.Info("merged block is known already", "tenant", j.tenant, "block", meta.ULID, "status", status.String())
		return nil, nil
	}
	if err := block.Upload(ctx, c.bkt, dir, meta, uploaded); err != nil {
		return nil, err
	}
	if err := c.step(stepUploaded); err != nil {
		return nil, err
	}
	// Deleted by retention or merged by another compactor while this one was at work: then the swap could bring
	// something back. What was uploaded is an orphan and goes with the next reconcile.
	if err := c.cat.Sync(ctx); err != nil {
		return nil, fmt.Errorf("read the catalogue: %w", err)
	}
	if !c.allLive(j) {
		return nil, errStale
	}
	if err := held.Err(); err != nil {
		return nil, err
	}
	entry := meta.Entry(c.now().UnixMilli())
	if err := c.cat.Add(ctx, []schema.BlockEntry{entry}, nil); err != nil {
		return nil, err
	}
	c.metrics.bytesOut.Add(float64(entry.Bytes))
	if err := c.step(stepAdded); err != nil {
		return nil, err
	}
	for _, e := range j.Blocks {
		if err := c.writeMark(ctx, j.tenant, e.ID, entry.At, reasonReplaced); err != nil {
			return nil, err
		}
	}
	return meta, c.step(stepMarked)
}

// uploaded is called after each file of a merged block.
func uploaded(path string) {
	switch {
	case path == schema.IndexFile:
		failpoint.Hit(failpoint.CompactorUploadIndex)
	case strings.HasPrefix(path, schema.ChunksDir+"/"):
		failpoint.Hit(failpoint.CompactorUploadChunks)
	}
}

func (c *Compactor) allLive(j tenantJob) bool {
	return !slices.ContainsFunc(j.Blocks, func(e *schema.BlockEntry) bool { return c.cat.Status(j.tenant, e.ID) != catalog.Live })
}

// download fetches the inputs into dir/<ulid>. One that is not what it should be goes into quarantine.
func (c *Compactor) download(ctx context.Context, j tenantJob, dir string) error {
	var errs []error
	for _, e := range j.Blocks {
		// The header is for readers: merging needs none, and a broken one is no reason to set a block aside.
		files := slices.DeleteFunc(slices.Clone(e.Files), func(f schema.BlockFile) bool { return f.Path == schema.HeaderFile })
		err := block.Download(ctx, c.bkt, j.tenant, e.ID, files, filepath.Join(dir, e.ID.String()))
		switch {
		case err == nil:
			c.metrics.bytesIn.Add(float64(e.Bytes))
			continue
		case !errors.Is(err, block.ErrCorrupt) && !errors.Is(err, block.ErrNotFound):
			return err
		}
		// Another compactor may have replaced and deleted it just now.
		if err := c.cat.Sync(ctx); err != nil {
			return fmt.Errorf("read the catalogue: %w", err)
		}
		if !c.allLive(j) {
			return errStale
		}
		c.setAside(ctx, j.tenant, e, err)
		errs = append(errs, errSetAside, err)
	}
	return errors.Join(errs...)
}

// setAside puts a block in quarantine: it stays in the catalogue, but no compactor merges it until a day has passed.
func (c *Compactor) setAside(ctx context.Context, tenant schema.Tenant, e *schema.BlockEntry, cause error) {
	c.logger.Error("block cannot be read and is set aside: it stays in the bucket and is not merged",
		"tenant", tenant, "block", e.ID, "mint", e.MinTime, "maxt", e.MaxTime, "err", cause)
	note := plan.SetAside{At: c.now().UnixMilli(), By: c.leases.Holder(), Cause: fmt.Sprintf("%.1000s", cause)}
	if err := c.notes.putAside(ctx, blockKey{Tenant: tenant, ID: e.ID}, note); err != nil {
		c.logger.Warn("only this compactor knows until its end that a block is set aside", "tenant", tenant, "block", e.ID, "err", err)
	}
	c.metrics.quarantined.Set(float64(c.notes.aside.Count(c.now())))
}

// originOf describes the block that is made of inputs, which are in order of rank.
func originOf(tenant schema.Tenant, inputs []*schema.BlockEntry) (origin schema.BlockOrigin, level int, sources []ulid.ULID) {
	origin = schema.BlockOrigin{Tenant: tenant, LogFrom: inputs[0].LogFrom}
	for _, e := range inputs {
		origin.LogTime = max(origin.LogTime, e.LogTime)
		origin.LogFrom = min(origin.LogFrom, e.LogFrom)
		origin.Ranges = append(origin.Ranges, e.Ranges...)
		origin.Replaces = append(origin.Replaces, e.ID)
		sources = append(sources, e.Sources...)
		level = max(level, e.Level+1)
	}
	origin.Ranges = union(origin.Ranges)
	slices.SortFunc(origin.Replaces, ulid.ULID.Compare)
	slices.SortFunc(sources, ulid.ULID.Compare)
	return origin, level, slices.Compact(sources)
}
