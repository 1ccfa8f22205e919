package reader

import "sluice/internal/processes"

// Status is what the reader does, for those who look at the whole cluster.
func (r *Reader) Status() *processes.Reader {
	pages, results := r.store.Usage(), r.front.Usage()
	s := &processes.Reader{
		Queries:    processes.Of(processes.Total(r.metrics.queries)),
		CacheBytes: pages.CacheBytes, CacheHits: pages.Hits, CacheMisses: pages.Misses,
		ResultsBytes: results.Bytes, ResultsHits: results.Hits, ResultsMisses: results.Misses,
		Requests: processes.Of(pages.Requests), Bytes: processes.Of(pages.Bytes), Errors: processes.Of(pages.Bad),
	}
	s.Running, s.Queued = r.registry.count()
	return s
}

// count returns how many requests are worked on, and how many wait for their turn.
func (g *registry) count() (running, queued int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.active {
		if a.in() == "queue" {
			queued++
		} else {
			running++
		}
	}
	return running, queued
}
