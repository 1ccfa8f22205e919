package store

import "sluice/internal/processes"

// Usage is what the store has done since it was made.
type Usage struct {
	CacheBytes           int64   // that pages take in memory now
	Hits, Misses         int64   // of pages
	Requests, Bytes, Bad float64 // GETs to the bucket, what they brought, and those that failed
}

// Usage returns it.
func (s *Store) Usage() Usage {
	m := s.metrics
	u := Usage{
		CacheBytes: s.pages.cache.MaxCost() - s.pages.cache.RemainingCost(),
		Hits:       int64(processes.Total(m.hits)), Misses: int64(processes.Total(m.misses)),
		Requests: processes.Total(m.requests), Bytes: processes.Total(m.bytes),
	}
	for _, why := range reasons {
		u.Bad += processes.Total(m.requests.WithLabelValues("error", string(why)))
	}
	return u
}
