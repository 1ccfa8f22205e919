package consumer

import (
	"context"
	"errors"
	"maps"
	"sync"

	"github.com/prometheus/prometheus/model/metadata"
	"golang.org/x/sync/errgroup"

	"sluice/internal/failpoint"
	"sluice/internal/families"
	"sluice/schema"
)

// side keeps what senders say of metric families. It lives in memory across generations, bounded, and is saved in the bucket
// before a generation that brought something new is committed: what was acknowledged is in the log or in the bucket.
type side struct {
	mu      sync.RWMutex
	tenants map[schema.Tenant]*sideTenant // guarded by mu
}

type sideTenant struct {
	families map[string]sideFamily
	unsaved  bool // something is to be saved
}

type sideFamily struct {
	families.Family
	saved int64 // Seen as it is in the bucket, 0 = not there
}

// maxMetadata is how many metric families' metadata is kept of a tenant without max_global_metadata_per_user, per partition.
const maxMetadata = 10_000

func newSide() side { return side{tenants: map[schema.Tenant]*sideTenant{}} }

// addMetadata keeps the newest type, help and unit of a metric family, told of at logTime (ms).
func (s *side) addMetadata(tenant schema.Tenant, payload []byte, logTime int64, limit int) error {
	name, md, err := schema.DecodeMetadata(payload)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.of(tenant)
	have, known := t.families[name]
	if !known && len(t.families) >= limit && !t.forgetOne(logTime) {
		return nil
	}
	if have.Metadata != md {
		have.saved = 0
	}
	have.Metadata, have.Seen = md, max(have.Seen, logTime)
	t.unsaved = t.unsaved || have.due()
	t.families[name] = have
	return nil
}

// due tells whether what the bucket has of a family is not good enough any more.
func (f *sideFamily) due() bool {
	return f.saved == 0 || f.Seen-f.saved > families.Refreshed.Milliseconds()
}

// forgetOne makes room: families go that nobody has told of for so long that the bucket has let go of them as well.
func (t *sideTenant) forgetOne(now int64) (some bool) {
	maps.DeleteFunc(t.families, func(_ string, f sideFamily) bool {
		old := now-f.Seen > families.Kept.Milliseconds()
		some = some || old
		return old
	})
	return some
}

// selectMetadata adds the tenant's metadata to out; metric "" = all.
func (s *side) selectMetadata(tenant schema.Tenant, metric string, out map[string][]metadata.Metadata) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := s.tenants[tenant]
	if t == nil {
		return
	}
	for name, f := range t.families {
		if metric == "" || metric == name {
			out[name] = appendNew(out[name], f.Metadata)
		}
	}
}

func appendNew(mds []metadata.Metadata, md metadata.Metadata) []metadata.Metadata {
	for _, have := range mds {
		if have == md {
			return mds
		}
	}
	return append(mds, md)
}

// unsaved returns the families of the tenants of which something is to be saved.
func (s *side) unsaved() map[schema.Tenant]map[string]families.Family {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := map[schema.Tenant]map[string]families.Family{}
	for tenant, t := range s.tenants {
		if !t.unsaved {
			continue
		}
		all := make(map[string]families.Family, len(t.families))
		for name, f := range t.families {
			all[name] = f.Family
		}
		out[tenant] = all
	}
	return out
}

// restore takes back what was not saved before a restart.
func (s *side) restore(tenant schema.Tenant, all map[string]families.Family) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.of(tenant)
	for name, f := range all {
		if t.families[name].Seen <= f.Seen {
			t.families[name], t.unsaved = sideFamily{Family: f}, true
		}
	}
}

// of returns the tenant's part. s.mu is held.
func (s *side) of(tenant schema.Tenant) *sideTenant {
	t := s.tenants[tenant]
	if t == nil {
		t = &sideTenant{families: map[string]sideFamily{}}
		s.tenants[tenant] = t
	}
	return t
}

// saved notes what the bucket has now.
func (s *side) saved(tenant schema.Tenant, all map[string]families.Family) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tenants[tenant]
	t.unsaved = false
	for name, f := range t.families {
		if have, ok := all[name]; ok && have.Metadata == f.Metadata {
			f.saved = have.Seen
			t.families[name] = f
		}
		t.unsaved = t.unsaved || f.due()
	}
}

// saveTogether is how many tenants' metadata are written at a time.
const saveTogether = 16

// saveMetadata brings the metadata that has come into the bucket, beside what is there of others or of before a restart. When
// somebody else has shipped the generation, they have done so.
func (p *partition) saveMetadata(ctx context.Context, g *generation) error {
	if g.covered {
		return nil
	}
	tenants, ctx := errgroup.WithContext(ctx)
	tenants.SetLimit(saveTogether)
	for tenant, all := range p.side.unsaved() {
		tenants.Go(func() error {
			there, err := families.Read(ctx, p.bucket, tenant, p.id)
			if errors.Is(err, families.ErrCorrupt) {
				p.logger.Error("metadata in the bucket cannot be read and is written anew", "tenant", tenant, "err", err)
			} else if err != nil {
				return err
			}
			merged := families.Merge(there, all, g.logTime, p.metadataLimit(tenant))
			if !enough(there, merged) {
				if err := families.Write(ctx, p.bucket, tenant, p.id, merged); err != nil {
					return err
				}
				there = merged
			}
			p.side.saved(tenant, there)
			return nil
		})
	}
	err := tenants.Wait()
	failpoint.Hit(failpoint.ConsumerMetadataSaved)
	return err
}

// enough tells whether what is there says the same as wanted, with times that are not too old.
func enough(there, wanted map[string]families.Family) bool {
	if len(there) != len(wanted) {
		return false
	}
	for name, w := range wanted {
		have, ok := there[name]
		if !ok || have.Metadata != w.Metadata || w.Seen-have.Seen > families.Refreshed.Milliseconds() {
			return false
		}
	}
	return true
}
