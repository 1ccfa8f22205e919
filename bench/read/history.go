package read

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"sluice/schema"
)

// History is what a bucket holds after many days in which pods came and went: one block a day, as Thanos and Cortex lay them
// out, written directly. Every pod lives for a day and is replaced at an hour of its own, so a block holds twice as many
// series as there are at any moment.
type History struct {
	Start    time.Time // midnight, UTC
	Days     int
	Series   int // of the whole time together, roughly
	Interval time.Duration
}

// slots is how many pods there are at any moment.
func (h *History) slots() int { return max(1, h.Series/podSeries/(h.Days+1)) }

// End is when it ends.
func (h *History) End() time.Time { return h.Start.AddDate(0, 0, h.Days) }

// Written is what was written.
type Written struct {
	Series, SeriesOfBlocks, Chunks, Samples int
	Bytes                                   int64
}

// Write writes the blocks into the folder, which stands for the tenant's part of a bucket.
func (h *History) Write(ctx context.Context, folder string) (w Written, err error) {
	for day := range h.Days {
		if err := h.writeDay(ctx, folder, day, &w); err != nil {
			return w, fmt.Errorf("write day %d: %w", day, err)
		}
	}
	w.Series = h.slots() * podSeries * (h.Days + 1)
	return w, nil
}

// life is the part of a pod's life that falls into a day, as numbers of the pod's samples.
type life struct{ pod, from, to int }

// lives returns those who live on a day. A slot's pod changes once a day.
func (h *History) lives(day int) (all []life) {
	perDay := int(24 * time.Hour / h.Interval)
	for slot := range h.slots() {
		change := 1 + int(mix(uint64(slot+1))%uint64(perDay-1))
		// The one that is there at midnight was born at the change of the day before.
		all = append(all, life{slot + day*h.slots(), perDay - change, perDay}, life{slot + (day+1)*h.slots(), 0, perDay - change})
	}
	return all
}

func (h *History) writeDay(ctx context.Context, folder string, day int, w *Written) (err error) {
	begin := h.Start.AddDate(0, 0, day).UnixMilli()
	id := ulid.ULID{}
	if err := id.SetTime(uint64(begin + 24*time.Hour.Milliseconds())); err != nil {
		return err
	}
	sum := sha256.Sum256(binary.AppendVarint(nil, int64(day)))
	if err := id.SetEntropy(sum[:10]); err != nil {
		return err
	}
	dir := filepath.Join(folder, id.String())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	stats, err := h.writeFiles(ctx, dir, day, begin)
	if err != nil {
		return err
	}
	meta := schema.BlockMeta{}
	meta.ULID, meta.Version, meta.MinTime, meta.MaxTime, meta.Stats = id, 1, begin, begin+24*time.Hour.Milliseconds(), stats
	meta.Compaction.Level, meta.Compaction.Sources = 4, []ulid.ULID{id}
	meta.Thanos.Version, meta.Thanos.Source = 1, "compactor"
	meta.Thanos.Labels = map[string]string{"__org_id__": filepath.Base(folder)}
	raw, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	w.SeriesOfBlocks += int(stats.NumSeries)
	w.Chunks += int(stats.NumChunks)
	w.Samples += int(stats.NumSamples)
	for _, part := range []string{schema.IndexFile, schema.ChunksDir} {
		err := filepath.WalkDir(filepath.Join(dir, part), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				w.Bytes += info.Size()
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, schema.MetaFile), raw, 0o644)
}

func (h *History) writeFiles(ctx context.Context, dir string, day int, begin int64) (stats tsdb.BlockStats, err error) {
	type entry struct {
		labels labels.Labels
		series one
		life   life
	}
	var all []entry
	symbols := map[string]struct{}{}
	d := Data{Length: 48 * time.Hour, Interval: h.Interval}
	for _, l := range h.lives(day) {
		for i := range podSeries {
			s := d.series(l.pod, i)
			s.restart = 0
			ls := s.sorted()
			ls.Range(func(l labels.Label) { symbols[l.Name], symbols[l.Value] = struct{}{}, struct{}{} })
			all = append(all, entry{ls, s, l})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return labels.Compare(a.labels, b.labels) })
	chunkw, err := chunks.NewWriter(filepath.Join(dir, schema.ChunksDir))
	if err != nil {
		return stats, err
	}
	defer func() { err = errors.Join(err, chunkw.Close()) }()
	indexw, err := index.NewWriter(ctx, filepath.Join(dir, schema.IndexFile))
	if err != nil {
		return stats, err
	}
	defer func() { err = errors.Join(err, indexw.Close()) }()
	for _, s := range slices.Sorted(maps.Keys(symbols)) {
		if err := indexw.AddSymbol(s); err != nil {
			return stats, err
		}
	}
	for ref, e := range all {
		if err := ctx.Err(); err != nil {
			return stats, err
		}
		// The samples of a life that begins in the middle of the day lie behind those of the one before.
		first := begin + h.Interval.Milliseconds()/2
		if e.life.from == 0 {
			first += 24*time.Hour.Milliseconds() - int64(e.life.to)*h.Interval.Milliseconds()
		}
		metas, err := e.series.chunks(e.life.from, e.life.to, first, h.Interval.Milliseconds())
		if err != nil {
			return stats, err
		}
		if err := chunkw.WriteChunks(metas...); err != nil {
			return stats, err
		}
		if err := indexw.AddSeries(storage.SeriesRef(ref), e.labels, metas...); err != nil {
			return stats, err
		}
		stats.NumSeries++
		stats.NumChunks += uint64(len(metas))
		stats.NumSamples += uint64(e.life.to - e.life.from)
	}
	stats.NumFloatSamples = stats.NumSamples
	return stats, nil
}

// samplesPerChunk is what Prometheus puts into one.
const samplesPerChunk = 120

// chunks encodes the samples [from, to) of a series, the first at the time first.
func (s *one) chunks(from, to int, first, interval int64) (metas []chunks.Meta, err error) {
	for n := from; n < to; n += samplesPerChunk {
		c := chunkenc.NewXORChunk()
		app, err := c.Appender()
		if err != nil {
			return nil, err
		}
		end := min(n+samplesPerChunk, to)
		at := func(k int) int64 { return first + int64(k-from)*interval }
		for k := n; k < end; k++ {
			app.Append(0, at(k), s.value(k))
		}
		metas = append(metas, chunks.Meta{Chunk: c, MinTime: at(n), MaxTime: at(end - 1)})
	}
	return metas, nil
}
