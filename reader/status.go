package reader

import (
	"net/http"
	"slices"

	"github.com/prometheus/prometheus/tsdb"

	"sluice/schema"
)

// What Prometheus says of itself, as far as a backend has it.

// serveTSDBBlocks answers the blocks of the tenant in the bucket, the oldest first, as metas of Prometheus' own blocks.
func (r *Reader) serveTSDBBlocks(w http.ResponseWriter, req *http.Request) {
	opts, err := optionsFrom(req.Context())
	if err != nil {
		respondError(w, req, err)
		return
	}
	metas := []tsdb.BlockMeta{}
	for _, o := range opts.each() {
		blocks, _ := r.cat.Snapshot(o.tenant)
		for _, e := range blocks {
			metas = append(metas, blockMeta(e))
		}
	}
	slices.SortFunc(metas, func(a, b tsdb.BlockMeta) int {
		if a.MinTime != b.MinTime {
			return int(max(min(a.MinTime-b.MinTime, 1), -1))
		}
		return a.ULID.Compare(b.ULID)
	})
	respondData(w, req, map[string]any{"blocks": metas})
}

func blockMeta(e *schema.BlockEntry) tsdb.BlockMeta {
	m := tsdb.BlockMeta{ULID: e.ID, MinTime: e.MinTime, MaxTime: e.MaxTime, Version: 1}
	m.Stats = tsdb.BlockStats{NumSamples: e.Samples, NumSeries: e.Series}
	m.Compaction = tsdb.BlockMetaCompaction{Level: e.Level, Sources: e.Sources}
	return m
}

// serveWALReplay says that the replay is over: a reader that is ready asks nobody who is still at it.
func (r *Reader) serveWALReplay(w http.ResponseWriter, req *http.Request) {
	respondData(w, req, map[string]int{"min": 0, "max": 0, "current": 0})
}
