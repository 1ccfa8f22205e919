package compactor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/thanos-io/objstore"

	"sluice/internal/block"
	"sluice/internal/catalog"
	"sluice/internal/failpoint"
	"sluice/internal/lease"
	"sluice/schema"
)

// The end of a block, step by step. Each is written down before the next is begun, and each can be done again:
//
//	replaced by another one            outlived the tenant's retention
//	  its inputs carry a deletion mark
//	  … DeletionDelay …
//	  tombstone (reason replaced)        deletion mark, tombstone (reason retention)
//	                                     … DeletionDelay, queries under way finish …
//	  files removed, meta.json first     files removed, meta.json first
//	  … TombstoneRetention …             … TombstoneRetention …
//	  forgotten                          forgotten
//
// A replaced block is not deleted unless the block that holds its samples now is in the bucket.
const (
	reasonReplaced  = "replaced"
	reasonRetention = "retention"

	stepTombstoned = failpoint.CompactorTombstoned
	stepIndexed    = failpoint.CompactorIndexed
	stepRemoved    = failpoint.CompactorDeleted
)

// lifecycle takes every block of the tenant one step on its way out, if it is on one, and brings the bucket index up to date.
func (c *Compactor) lifecycle(held *lease.Lease, tenant schema.Tenant) error {
	ctx, now := held.Context(), c.now()
	changed, errs := c.retire(held, tenant, now)
	if changed {
		if err := c.step(stepTombstoned); err != nil {
			return err
		}
		if err := c.cat.Sync(ctx); err != nil {
			return fmt.Errorf("read the catalogue: %w", err)
		}
	}
	entries := c.cat.Entries(tenant)
	if err := c.writeIndex(ctx, tenant, entries); err != nil {
		return errors.Join(append(errs, err)...)
	}
	if err := c.step(stepIndexed); err != nil {
		return err
	}
	errs = append(errs, c.removeFiles(held, tenant, now, entries), c.forget(held, tenant, now, entries))
	return errors.Join(errs...)
}

// retire writes the tombstones that are due, and the deletion marks.
func (c *Compactor) retire(held *lease.Lease, tenant schema.Tenant, now time.Time) (changed bool, errs []error) {
	ctx := held.Context()
	retention := time.Duration(c.lim.For(tenant).BlocksRetentionPeriod)
	delay := now.Add(-c.cfg.DeletionDelay).UnixMilli()
	covered := map[ulid.ULID]error{}
	var judged []*schema.BlockEntry
	reasons := map[ulid.ULID]string{}
	for _, e := range c.cat.Entries(tenant) {
		if e.State != schema.BlockLive {
			continue
		}
		reason := ""
		if by, ok := c.cat.Replacer(tenant, e.ID); ok {
			if err := c.writeMark(ctx, tenant, e.ID, by.At, reasonReplaced); err != nil {
				errs = append(errs, err)
				continue
			}
			if by.At > delay {
				continue
			}
			if err := c.covers(ctx, by, covered); err != nil {
				errs = append(errs, fmt.Errorf("keep replaced block %s: %w", e.ID, err))
				continue
			}
			reason = reasonReplaced
		} else if retention > 0 && e.MaxTime < now.Add(-retention).UnixMilli() {
			if err := c.writeMark(ctx, tenant, e.ID, now.UnixMilli(), reasonRetention); err != nil {
				errs = append(errs, err)
				continue
			}
			reason = reasonRetention
		}
		if reason != "" {
			judged = append(judged, e)
			reasons[e.ID] = reason
		}
	}
	if len(judged) == 0 {
		return false, errs
	}
	if err := c.mayDelete(ctx, held); err != nil {
		return false, append(errs, err)
	}
	var stones []schema.BlockEntry
	for _, e := range judged {
		_, replaced := c.cat.Replacer(tenant, e.ID)
		if c.unchanged(e) && replaced == (reasons[e.ID] == reasonReplaced) {
			stones = append(stones, tombstone(e, reasons[e.ID], now))
		}
	}
	if len(stones) == 0 {
		return false, errs
	}
	if err := c.cat.Add(ctx, stones, nil); err != nil {
		return false, append(errs, err)
	}
	for _, s := range stones {
		c.metrics.deleted.WithLabelValues(s.Reason).Inc()
		delete(c.gone, blockKey{Tenant: tenant, ID: s.ID}) // a replay may have brought its files back
		c.logger.Info("deleted block", "tenant", tenant, "block", s.ID, "reason", s.Reason, "mint", s.MinTime, "maxt", s.MaxTime)
	}
	return true, errs
}

// tombstone is the entry of a deleted block: what tells its place among the others, without what told its content.
func tombstone(e *schema.BlockEntry, reason string, now time.Time) schema.BlockEntry {
	t := *e
	t.State, t.Reason, t.At = schema.BlockDeleted, reason, now.UnixMilli()
	t.Files, t.Ranges = nil, nil
	return t
}

// covers follows the replacers of a block to the last one and makes sure that its files are in the bucket: they are the
// only copy once the block is deleted. A last one that was deleted itself (retention) covers by being gone on purpose.
func (c *Compactor) covers(ctx context.Context, by *schema.BlockEntry, seen map[ulid.ULID]error) error {
	last := by
	for range 1000 { // replacers form no circle, but that is the topic's word for it
		next, ok := c.cat.Replacer(last.Tenant, last.ID)
		if !ok {
			break
		}
		last = next
	}
	if last.State != schema.BlockLive {
		return nil
	}
	err, ok := seen[last.ID]
	if !ok {
		err = c.present(ctx, last)
		seen[last.ID] = err
	}
	return err
}

// present says what of a live block is not in the bucket, by the sizes of its files.
func (c *Compactor) present(ctx context.Context, e *schema.BlockEntry) error {
	if _, err := block.ReadMeta(ctx, c.bkt, e.Tenant, e.ID); err != nil {
		return err
	}
	for _, f := range e.Files {
		if f.Path == schema.MetaFile {
			continue
		}
		key := block.Key(e.Tenant, e.ID, f.Path)
		attrs, err := c.bkt.Attributes(ctx, key)
		if err != nil {
			return fmt.Errorf("look up %s: %w", key, err)
		}
		if f.Size > 0 && attrs.Size != f.Size {
			return fmt.Errorf("%s has %d bytes, should have %d: %w", key, attrs.Size, f.Size, block.ErrCorrupt)
		}
	}
	return nil
}

// deletionMark is deletion-mark.json as Thanos, Cortex and Mimir read it.
type deletionMark struct {
	ID           ulid.ULID `json:"id"`
	Version      int       `json:"version"`
	Details      string    `json:"details,omitempty"`
	DeletionTime int64     `json:"deletion_time"` // unix seconds
}

// writeMark puts the deletion mark into the block's folder, once.
func (c *Compactor) writeMark(ctx context.Context, tenant schema.Tenant, id ulid.ULID, at int64, reason string) error {
	key := blockKey{Tenant: tenant, ID: id}
	c.mu.Lock()
	done := c.marked[key]
	c.mu.Unlock()
	if done {
		return nil
	}
	name := block.Key(tenant, id, schema.DeletionMarkFile)
	exists, err := c.bkt.Exists(ctx, name)
	if err != nil {
		return fmt.Errorf("look up %s: %w", name, err)
	}
	if !exists {
		raw, err := json.Marshal(deletionMark{ID: id, Version: 1, Details: reason, DeletionTime: at / 1000})
		if err != nil {
			return fmt.Errorf("encode %s: %w", name, err)
		}
		if err := c.bkt.Upload(ctx, name, strings.NewReader(string(raw))); err != nil {
			return fmt.Errorf("upload %s: %w", name, err)
		}
	}
	c.mu.Lock()
	c.marked[key] = true
	c.mu.Unlock()
	return nil
}

// removeFiles removes the files of deleted blocks whose time has come. After a start it lists the tenant's folder once to
// learn which of the tombstones still have any.
func (c *Compactor) removeFiles(held *lease.Lease, tenant schema.Tenant, now time.Time, entries []*schema.BlockEntry) error {
	ctx := held.Context()
	var errs []error
	looked := false
	for _, e := range entries {
		key := blockKey{Tenant: tenant, ID: e.ID}
		if e.State != schema.BlockDeleted || c.gone[key] {
			continue
		}
		if !c.listed[tenant] {
			folders, err := c.folders(ctx, tenant)
			if err != nil {
				return err
			}
			c.noteGone(tenant, entries, folders)
			if c.gone[key] {
				continue
			}
		}
		// A replaced block has waited between its replacement and its tombstone, the others wait after it.
		if e.Reason != reasonReplaced && now.UnixMilli() < e.At+c.cfg.DeletionDelay.Milliseconds() {
			continue
		}
		if !looked {
			if err := c.mayDelete(ctx, held); err != nil {
				return errors.Join(append(errs, err)...)
			}
			looked = true
		}
		if err := held.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if c.status(tenant, e.ID) != catalog.Deleted {
			continue
		}
		if err := block.Delete(ctx, c.bkt, tenant, e.ID, removed); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := c.step(stepRemoved); err != nil {
			return err
		}
		c.gone[key] = true
		c.metrics.filesGone.Inc()
		c.mu.Lock()
		delete(c.marked, key)
		c.mu.Unlock()
	}
	return errors.Join(errs...)
}

// removed is called after each file of a block that goes.
func removed(path string) {
	if path == schema.MetaFile {
		failpoint.Hit(failpoint.CompactorHalfDeleted)
	}
}

// noteGone takes over a listing: which tombstones have a folder and which have not.
func (c *Compactor) noteGone(tenant schema.Tenant, entries []*schema.BlockEntry, folders map[ulid.ULID]bool) {
	c.listed[tenant] = true
	for _, e := range entries {
		if e.State == schema.BlockDeleted {
			c.gone[blockKey{Tenant: tenant, ID: e.ID}] = !folders[e.ID]
		}
	}
}

// forget drops the tombstones that no replay of the log can need any more. A replacer stays until what it replaces is
// deleted or unknown: forgetting it sooner would bring its inputs back to life.
func (c *Compactor) forget(held *lease.Lease, tenant schema.Tenant, now time.Time, entries []*schema.BlockEntry) error {
	ctx := held.Context()
	looked := false
	before := now.Add(-c.cfg.TombstoneRetention).UnixMilli()
	for _, e := range entries {
		key := blockKey{Tenant: tenant, ID: e.ID}
		if e.State != schema.BlockDeleted || e.At > before || !c.gone[key] {
			continue
		}
		if !looked {
			if err := c.mayDelete(ctx, held); err != nil {
				return err
			}
			looked = true
		}
		if err := held.Err(); err != nil {
			return err
		}
		if !c.unchanged(e) {
			continue
		}
		needed := slices.ContainsFunc(e.Replaces, func(id ulid.ULID) bool {
			input, known := c.cat.Entry(tenant, id)
			return known && id != e.ID && input.State == schema.BlockLive
		})
		if needed {
			continue
		}
		if err := c.cat.Forget(ctx, tenant, e.ID); err != nil {
			return err
		}
		delete(c.gone, key)
		c.metrics.forgotten.Inc()
	}
	return nil
}

// folders lists the block folders of a tenant.
func (c *Compactor) folders(ctx context.Context, tenant schema.Tenant) (map[ulid.ULID]bool, error) {
	found := map[ulid.ULID]bool{}
	prefix := string(tenant) + objstore.DirDelim
	err := c.bkt.Iter(ctx, prefix, func(name string) error {
		rest, isDir := strings.CutSuffix(strings.TrimPrefix(name, prefix), objstore.DirDelim)
		if id, err := ulid.ParseStrict(rest); err == nil && isDir {
			found[id] = true
		}
		return nil
	})
	if err != nil && !c.bkt.IsObjNotFoundErr(err) {
		return nil, fmt.Errorf("list blocks of tenant %s: %w", tenant, err)
	}
	return found, nil
}

func (c *Compactor) status(tenant schema.Tenant, id ulid.ULID) catalog.Status {
	return c.cat.Status(tenant, id)
}
