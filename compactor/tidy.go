package compactor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sluice/internal/catalog"
	"sluice/internal/lease"
	"sluice/schema"
)

// tidyAll goes through the shards and tidies those that are due and that no other compactor is at.
func (c *Compactor) tidyAll(ctx context.Context) (errs []error) {
	inBucket := sync.OnceValues(func() ([]schema.Tenant, error) { return c.bucketTenants(ctx) })
	known := make([][]schema.Tenant, shards)
	for _, t := range c.cat.Tenants() {
		known[shardOf(t)] = append(known[shardOf(t)], t)
	}
	for _, i := range shardOrder(c.leases.Holder()) {
		if ctx.Err() != nil {
			return errs
		}
		result, err := c.tidyShard(ctx, i, known[i], inBucket)
		if result != "" {
			c.metrics.shards.WithLabelValues(result).Inc()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("tidy shard %d: %w", i, err))
		}
	}
	// Those that came before us may have left notes by now.
	if err := c.notes.control.Sync(ctx); err != nil {
		errs = append(errs, fmt.Errorf("read the notes of other compactors: %w", err))
	}
	return errs
}

// tidyShard does what is due in one shard, under its lease. The result is "" if nothing was.
func (c *Compactor) tidyShard(ctx context.Context, i int, tenants []schema.Tenant, inBucket func() ([]schema.Tenant, error)) (result string, err error) {
	now := c.now()
	due := func() (tidy, reconcile bool, note shardNote) {
		note = c.notes.shard(i)
		reconcile = spaced(now, note.Reconciled, c.cfg.ReconcileInterval)
		return reconcile || len(tenants) > 0 && spaced(now, note.Tidied, c.cfg.Interval/2), reconcile, note
	}
	if tidy, _, _ := due(); !tidy {
		return "", nil
	}
	held, err := c.leaseShard(ctx, i)
	if err != nil {
		return resultFailed, err
	}
	if held == nil {
		return resultLeased, nil
	}
	defer held.Release()
	// Whoever had the lease just now has left a note before giving it up.
	if err := c.notes.control.Sync(ctx); err != nil {
		return resultFailed, fmt.Errorf("read the notes of other compactors: %w", err)
	}
	tidy, reconcile, note := due()
	if !tidy {
		return "", nil
	}
	var errs []error
	if reconcile {
		missing, err := c.reconcileShard(held, i, tenants, inBucket)
		if err != nil {
			errs = append(errs, err)
		} else {
			note.Reconciled, note.Missing = now.UnixMilli(), missing
		}
	}
	for _, tenant := range tenants {
		if held.Err() != nil {
			break
		}
		if err := c.tidyTenant(held, tenant); err != nil {
			errs = append(errs, fmt.Errorf("tidy tenant %s: %w", tenant, err))
		}
	}
	if lost(held) {
		return resultLost, nil
	}
	note.By, note.Tidied = c.leases.Holder(), now.UnixMilli()
	if err := errors.Join(append(errs, c.notes.putShard(held.Context(), i, note))...); err != nil {
		return resultFailed, err
	}
	return resultTidied, nil
}

// spaced says whether at (ms) lies at least a space of time away from now. One that lies ahead was written by a clock
// that is wrong, this one or the other.
func spaced(now time.Time, at int64, space time.Duration) bool {
	return time.Duration(max(now.UnixMilli()-at, at-now.UnixMilli()))*time.Millisecond >= space
}

// tidyTenant takes the tenant's blocks on, and forgets the quarantine of those that are not live any more.
func (c *Compactor) tidyTenant(held *lease.Lease, tenant schema.Tenant) error {
	err := c.lifecycle(held, tenant)
	for _, id := range c.notes.aside.Noted(tenant) {
		if c.cat.Status(tenant, id) != catalog.Live {
			err = errors.Join(err, c.notes.lift(held.Context(), blockKey{Tenant: tenant, ID: id}))
		}
	}
	return err
}

// reconcileShard reconciles the tenants of a shard, those that only the bucket knows among them.
func (c *Compactor) reconcileShard(held *lease.Lease, i int, tenants []schema.Tenant, inBucket func() ([]schema.Tenant, error)) (missing int, err error) {
	found, err := inBucket()
	if err != nil {
		return 0, err
	}
	all := slices.Clone(tenants)
	for _, t := range found {
		if shardOf(t) == i {
			all = append(all, t)
		}
	}
	slices.Sort(all)
	var errs []error
	for _, tenant := range slices.Compact(all) {
		if err := held.Err(); err != nil {
			return missing, errors.Join(append(errs, err)...)
		}
		n, err := c.reconcileTenant(held, tenant)
		missing += n
		if err != nil {
			errs = append(errs, fmt.Errorf("reconcile tenant %s: %w", tenant, err))
		}
	}
	return missing, errors.Join(errs...)
}
