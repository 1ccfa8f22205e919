package compactor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/thanos-io/objstore"

	"sluice/internal/block"
	"sluice/internal/catalog"
	"sluice/internal/lease"
	"sluice/schema"
)

// Reconciling lists the bucket and mends what the catalogue does not know of it. The catalogue is a copy of the bucket's
// list: when both are right there is nothing to mend.
//
//	in the bucket, unknown, whole, older than OrphanDelay           added to the catalogue
//	in the bucket, without meta.json, older than OrphanDelay        deleted: an upload that nobody finished
//	in the bucket, unknown, all its samples are in known blocks     deleted: a replay or a merge that came too late
//	in the bucket, deleted in the catalogue                         files are removed by lifecycle
//	live in the catalogue, not in the bucket                        told; never touched, since only a person knows why
//
// Age is that of the youngest object in the folder, so an upload under way is never taken for an orphan. It is looked at
// again, as is the catalogue, right before anything is deleted: whoever left an orphan may have come back to finish it.

// bucketTenants lists the tenants that have a folder in the bucket.
func (c *Compactor) bucketTenants(ctx context.Context) (tenants []schema.Tenant, err error) {
	err = c.bkt.Iter(ctx, "", func(name string) error {
		if rest, isDir := strings.CutSuffix(name, objstore.DirDelim); isDir {
			if t, err := schema.ParseTenant(rest); err == nil {
				tenants = append(tenants, t)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tenants in the bucket: %w", err)
	}
	return tenants, nil
}

func (c *Compactor) reconcileTenant(held *lease.Lease, tenant schema.Tenant) (missing int, err error) {
	ctx := held.Context()
	// What was known before the listing must be in it; what is in it is looked up in what is known after.
	before := c.cat.Entries(tenant)
	folders, err := c.folders(ctx, tenant)
	if err != nil {
		return 0, err
	}
	if err := c.cat.Sync(ctx); err != nil {
		return 0, fmt.Errorf("read the catalogue: %w", err)
	}
	c.noteGone(tenant, c.cat.Entries(tenant), folders)
	for _, e := range before {
		if e.State == schema.BlockLive && !folders[e.ID] && c.status(tenant, e.ID) == catalog.Live {
			missing++
			c.logger.Error("block is in the catalogue but not in the bucket: queries over its time range fail",
				"tenant", tenant, "block", e.ID, "mint", e.MinTime, "maxt", e.MaxTime, "samples", e.Samples)
		}
	}
	var errs []error
	for id := range folders {
		if _, known := c.cat.Entry(tenant, id); known {
			continue
		}
		if err := c.orphan(held, tenant, id); err != nil {
			errs = append(errs, fmt.Errorf("look at unknown block %s: %w", id, err))
		}
	}
	return missing, errors.Join(errs...)
}

// orphan decides about a folder that the catalogue does not know.
func (c *Compactor) orphan(held *lease.Lease, tenant schema.Tenant, id ulid.ULID) error {
	ctx := held.Context()
	files, youngest, err := c.listBlock(ctx, tenant, id)
	if err != nil {
		return err
	}
	if c.now().Sub(youngest) < c.cfg.OrphanDelay {
		return nil
	}
	found := func(what string, attrs ...any) {
		c.metrics.corrections.WithLabelValues(what).Inc()
		c.logger.Warn("bucket and catalogue differ", append([]any{"tenant", tenant, "block", id, "found", what}, attrs...)...)
	}
	meta, err := block.ReadMeta(ctx, c.bkt, tenant, id)
	switch {
	case errors.Is(err, block.ErrNotFound):
		return c.removeOrphan(held, tenant, id, func(meta *schema.BlockMeta) bool { return meta == nil }, func() { found(foundPartial) })
	case errors.Is(err, block.ErrCorrupt):
		found(foundUnverified, "err", err)
		return nil
	case err != nil:
		return err
	}
	ours := meta.Sluice.Version != 0
	if other := ownerOf(meta); other != "" && other != string(tenant) {
		found(foundForeignTenant, "owner", other)
		return nil
	}
	if c.superfluous(tenant, meta) {
		superfluous := func(meta *schema.BlockMeta) bool { return meta != nil && c.superfluous(tenant, meta) }
		return c.removeOrphan(held, tenant, id, superfluous, func() { found(foundLeftover) })
	}
	if slices.ContainsFunc(files, func(f schema.BlockFile) bool { return f.Path == schema.DeletionMarkFile }) {
		found(foundMarked)
		return nil
	}
	e := c.adoptedEntry(tenant, meta, files)
	var bad []error
	if ours {
		bad = block.Verify(ctx, c.bkt, &e, false, "")
	} else if err := c.present(ctx, &e); err != nil {
		bad = []error{err}
	}
	if len(bad) > 0 {
		found(foundUnverified, "err", errors.Join(bad...))
		return ctx.Err()
	}
	// What is said of the block by now must not be overwritten.
	if err := c.mayDelete(ctx, held); err != nil {
		return err
	}
	if c.status(tenant, id) != catalog.Absent {
		return nil
	}
	if err := c.cat.Add(ctx, []schema.BlockEntry{e}, nil); err != nil {
		return err
	}
	found(foundAdopted, "mint", e.MinTime, "maxt", e.MaxTime)
	return nil
}

// removeOrphan looks at everything again that spoke for removing the folder, and removes it: the catalogue does not know
// it, all its objects are old, and its meta.json (nil = none) is such that it is useless.
func (c *Compactor) removeOrphan(held *lease.Lease, tenant schema.Tenant, id ulid.ULID, useless func(*schema.BlockMeta) bool, found func()) error {
	ctx := held.Context()
	_, youngest, err := c.listBlock(ctx, tenant, id)
	if err != nil {
		return err
	}
	meta, err := block.ReadMeta(ctx, c.bkt, tenant, id)
	if err != nil && !errors.Is(err, block.ErrNotFound) {
		return err
	}
	if err := c.mayDelete(ctx, held); err != nil {
		return err
	}
	if _, known := c.cat.Entry(tenant, id); known || c.now().Sub(youngest) < c.cfg.OrphanDelay || !useless(meta) {
		return nil
	}
	found()
	return block.Delete(ctx, c.bkt, tenant, id)
}

// ownerOf is the tenant that meta.json names, "" if it names none (Thanos).
func ownerOf(meta *schema.BlockMeta) string {
	if meta.Sluice.Version != 0 {
		return string(meta.Sluice.Tenant)
	}
	return meta.Thanos.Labels["__org_id__"]
}

// superfluous says that other known blocks have the samples of this unknown one: it is a source of one, or all that it was
// merged from is known and has gone other ways since.
func (c *Compactor) superfluous(tenant schema.Tenant, meta *schema.BlockMeta) bool {
	if c.status(tenant, meta.ULID) == catalog.Replaced {
		return true
	}
	live := 0
	for _, id := range meta.Sluice.Replaces {
		switch c.status(tenant, id) {
		case catalog.Absent:
			return false
		case catalog.Live:
			live++
		}
	}
	return live < len(meta.Sluice.Replaces)
}

// adoptedEntry is the entry of a block that was found in the bucket. A foreign one has no place in our log: it ranks
// before everything that has, and its time is that of its ID.
func (c *Compactor) adoptedEntry(tenant schema.Tenant, meta *schema.BlockMeta, files []schema.BlockFile) schema.BlockEntry {
	e := meta.Entry(c.now().UnixMilli())
	if meta.Sluice.Version != 0 {
		return e
	}
	e.Tenant, e.LogTime = tenant, int64(meta.ULID.Time())
	e.Level = max(e.Level, 1)
	// Foreign lists of files are incomplete, differ between versions and carry no hashes: the bucket's is better.
	e.Files, e.Bytes = nil, 0
	for _, f := range files {
		if f.Path == schema.IndexFile || f.Path == "tombstones" || strings.HasPrefix(f.Path, schema.ChunksDir+"/") {
			e.Files = append(e.Files, f)
			e.Bytes += f.Size
		}
	}
	return e
}

// listBlock lists the objects of a block, with their sizes, and the time of the youngest.
func (c *Compactor) listBlock(ctx context.Context, tenant schema.Tenant, id ulid.ULID) (files []schema.BlockFile, youngest time.Time, err error) {
	prefix := block.Key(tenant, id) + objstore.DirDelim
	var names []string
	err = c.bkt.Iter(ctx, prefix, func(name string) error {
		if !strings.HasSuffix(name, objstore.DirDelim) {
			names = append(names, name)
		}
		return nil
	}, objstore.WithRecursiveIter())
	if err != nil && !c.bkt.IsObjNotFoundErr(err) {
		return nil, youngest, fmt.Errorf("list its objects: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		attrs, err := c.bkt.Attributes(ctx, name)
		if err != nil {
			return nil, youngest, fmt.Errorf("look up %s: %w", name, err)
		}
		files = append(files, schema.BlockFile{Path: strings.TrimPrefix(name, prefix), Size: attrs.Size})
		if attrs.LastModified.After(youngest) {
			youngest = attrs.LastModified
		}
	}
	if youngest.IsZero() { // a store without times: the ID's is the best there is
		youngest = ulid.Time(id.Time())
	}
	return files, youngest, nil
}
