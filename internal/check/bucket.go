package check

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
	"sluice/schema"
)

// markersDir holds Cortex' and Mimir's marks of a tenant, beside its blocks.
const markersDir = "markers"

// listing is what the bucket holds, one level deep into each tenant.
type listing struct {
	blocks map[schema.Tenant][]ulid.ULID
	odd    []Finding // what has no place in the layout
}

func (c *checker) list(ctx context.Context) (*listing, error) {
	out := &listing{blocks: map[schema.Tenant][]ulid.ULID{}}
	var tenants []schema.Tenant
	err := c.bkt.Iter(ctx, "", func(name string) error {
		folder, isDir := strings.CutSuffix(name, objstore.DirDelim)
		tenant, err := schema.ParseTenant(folder)
		if !isDir || err != nil {
			out.odd = append(out.odd, Finding{Kind: KindOrphan, Partition: -1, Detail: name + " is no tenant's folder"})
			return nil
		}
		tenants = append(tenants, tenant)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the bucket: %w", err)
	}
	for _, tenant := range tenants {
		prefix := string(tenant) + objstore.DirDelim
		err := c.bkt.Iter(ctx, prefix, func(name string) error {
			rest, isDir := strings.CutSuffix(strings.TrimPrefix(name, prefix), objstore.DirDelim)
			id, err := ulid.ParseStrict(rest)
			switch {
			case isDir && err == nil:
				out.blocks[tenant] = append(out.blocks[tenant], id)
			case isDir && (rest == markersDir || rest == schema.MetadataDir), !isDir && rest == schema.BucketIndexFile:
			default:
				out.odd = append(out.odd, Finding{Kind: KindOrphan, Tenant: tenant, Partition: -1, Detail: name + " is no block's folder"})
			}
			return nil
		})
		if err != nil && !c.bkt.IsObjNotFoundErr(err) {
			return nil, fmt.Errorf("list blocks of tenant %s: %w", tenant, err)
		}
	}
	return out, nil
}

// block checks one live block.
func (c *checker) block(ctx context.Context, e *schema.BlockEntry) error {
	meta, err := block.ReadMeta(ctx, c.bkt, e.Tenant, e.ID)
	f := Finding{Tenant: e.Tenant, Block: e.ID.String(), Partition: -1}
	switch {
	case errors.Is(err, block.ErrNotFound):
		f.Kind, f.Detail = KindMissing, fmt.Sprintf("%d samples of [%d,%d): %v", e.Samples, e.MinTime, e.MaxTime, err)
		c.add(f)
		return nil
	case errors.Is(err, block.ErrCorrupt):
		f.Kind, f.Detail = KindUnreadable, err.Error()
		c.add(f)
		return nil
	case err != nil:
		return err
	}
	if owner := ownerOf(meta); owner != "" && owner != string(e.Tenant) {
		f.Kind, f.Detail = KindForeignTenant, fmt.Sprintf("meta.json names tenant %s", owner)
		c.add(f)
	}
	f.Kind = KindUnreadable
	if m := differs(meta, e); m != "" {
		f.Detail = m
		c.add(f)
	}
	for _, err := range block.Verify(ctx, c.bkt, e, c.opts.Deep, c.opts.Scratch) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.Detail = err.Error()
		c.add(f)
	}
	return nil
}

// differs tells where meta.json and the catalogue do not agree about a block.
func differs(meta *schema.BlockMeta, e *schema.BlockEntry) string {
	switch {
	case meta.MinTime != e.MinTime || meta.MaxTime != e.MaxTime:
		return fmt.Sprintf("meta.json says [%d,%d), the catalogue [%d,%d)", meta.MinTime, meta.MaxTime, e.MinTime, e.MaxTime)
	case meta.Stats.NumSamples != e.Samples || meta.Stats.NumSeries != e.Series:
		return fmt.Sprintf("meta.json says %d series and %d samples, the catalogue %d and %d", meta.Stats.NumSeries, meta.Stats.NumSamples, e.Series, e.Samples)
	}
	return ""
}

func ownerOf(meta *schema.BlockMeta) string {
	if meta.Sluice.Version != 0 {
		return string(meta.Sluice.Tenant)
	}
	return meta.Thanos.Labels["__org_id__"]
}

// unknown looks at what was listed and is not in the catalogue. Replaced and deleted blocks are known.
func (c *checker) unknown(ctx context.Context, l *listing) error {
	c.found = append(c.found, l.odd...)
	for tenant, ids := range l.blocks {
		for _, id := range ids {
			if _, known := c.cat.Entry(tenant, id); known {
				continue
			}
			if err := c.orphan(ctx, tenant, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) orphan(ctx context.Context, tenant schema.Tenant, id ulid.ULID) error {
	var names []string
	err := c.bkt.Iter(ctx, block.Key(tenant, id)+objstore.DirDelim, func(name string) error {
		if !strings.HasSuffix(name, objstore.DirDelim) {
			names = append(names, name)
		}
		return nil
	}, objstore.WithRecursiveIter())
	if err != nil && !c.bkt.IsObjNotFoundErr(err) {
		return fmt.Errorf("list block %s of tenant %s: %w", id, tenant, err)
	}
	if len(names) == 0 {
		return nil // gone since the listing
	}
	if c.opts.OrphanAge > 0 {
		for _, name := range names {
			attrs, err := c.bkt.Attributes(ctx, name)
			if err != nil {
				return fmt.Errorf("look up %s: %w", name, err)
			}
			if time.Since(attrs.LastModified) < c.opts.OrphanAge {
				return nil
			}
		}
	}
	f := Finding{Kind: KindOrphan, Tenant: tenant, Block: id.String(), Partition: -1}
	meta, err := block.ReadMeta(ctx, c.bkt, tenant, id)
	switch {
	case errors.Is(err, block.ErrNotFound):
		f.Detail = fmt.Sprintf("part of an upload: %d objects and no whole meta.json", len(names))
	case errors.Is(err, block.ErrCorrupt):
		f.Detail = err.Error()
	case err != nil:
		return err
	case ownerOf(meta) != "" && ownerOf(meta) != string(tenant):
		f.Kind, f.Detail = KindForeignTenant, fmt.Sprintf("meta.json names tenant %s; the catalogue does not know the block", ownerOf(meta))
	case slices.Contains(names, block.Key(tenant, id, schema.DeletionMarkFile)):
		f.Detail = "whole block with a deletion mark that the catalogue does not know"
	default:
		f.Detail = fmt.Sprintf("whole block with %d samples that the catalogue does not know", meta.Stats.NumSamples)
		if c.cat.Status(tenant, id) == catalog.Replaced {
			f.Detail += "; they are in a merged block"
		}
	}
	c.add(f)
	return nil
}
