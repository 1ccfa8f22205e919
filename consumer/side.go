package consumer

import (
	"context"
	"sync"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb"

	"sluice/schema"
)

// side keeps what a partition holds beside samples: exemplars and metadata. Both live in memory, bounded, across
// generations; after a restart they are what the replayed generations and the senders bring again.
type side struct {
	mu        sync.RWMutex
	exemplars map[schema.Tenant]tsdb.ExemplarStorage         // guarded by mu
	metadata  map[schema.Tenant]map[string]metadata.Metadata // guarded by mu
	metrics   *tsdb.ExemplarMetrics
}

// maxMetadata is how many metric families' metadata is kept of a tenant, per partition.
const maxMetadata = 10_000

func newSide() side {
	return side{
		exemplars: map[schema.Tenant]tsdb.ExemplarStorage{},
		metadata:  map[schema.Tenant]map[string]metadata.Metadata{},
		metrics:   tsdb.NewExemplarMetrics(nil),
	}
}

// addExemplar keeps an exemplar, and the newest limit of the tenant's.
func (s *side) addExemplar(tenant schema.Tenant, limit int, lset labels.Labels, e exemplar.Exemplar) {
	if limit <= 0 {
		return
	}
	s.mu.RLock()
	store := s.exemplars[tenant]
	s.mu.RUnlock()
	if store == nil {
		store, _ = tsdb.NewCircularExemplarStorage(int64(limit), s.metrics, 0) // its error is always nil
		s.mu.Lock()
		s.exemplars[tenant] = store
		s.mu.Unlock()
	} else if c, ok := store.(*tsdb.CircularExemplarStorage); ok {
		c.Resize(int64(limit))
	}
	// A duplicate or an older one is refused: what a replay or a retry brings again.
	_ = store.AddExemplar(lset, e)
}

// addMetadata keeps the newest type, help and unit of a metric family.
func (s *side) addMetadata(tenant schema.Tenant, payload []byte) error {
	name, md, err := schema.DecodeMetadata(payload)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	byName := s.metadata[tenant]
	if byName == nil {
		byName = map[string]metadata.Metadata{}
		s.metadata[tenant] = byName
	}
	if _, known := byName[name]; known || len(byName) < maxMetadata {
		byName[name] = md
	}
	return nil
}

// selectExemplars returns the tenant's exemplars in [start, end].
func (s *side) selectExemplars(ctx context.Context, tenant schema.Tenant, start, end int64, matchers [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	s.mu.RLock()
	store := s.exemplars[tenant]
	s.mu.RUnlock()
	if store == nil {
		return nil, nil
	}
	q, err := store.ExemplarQuerier(ctx)
	if err != nil {
		return nil, err
	}
	return q.Select(start, end, matchers...)
}

// selectMetadata adds the tenant's metadata to out; metric "" = all.
func (s *side) selectMetadata(tenant schema.Tenant, metric string, out map[string][]metadata.Metadata) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for name, md := range s.metadata[tenant] {
		if metric == "" || metric == name {
			out[name] = appendNew(out[name], md)
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
