package log

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// compactBytes is the garbage below which a topic is left alone.
	compactBytes = 8 << 20
	// compactRatio is how many times the live bytes the garbage may be.
	compactRatio = 4
	// tombstonesFor is how long the deletion of a key stays readable, for readers that are behind.
	tombstonesFor = 24 * time.Hour

	compactFile = "compact.tmp"
)

// compact rewrites the segments of a compacted topic so that of each key the latest record remains, if there is enough
// garbage. Offsets stay what they are. Segments i…j, all but the one that is written to, become one, in steps:
//
//  1. write the survivors to compact.tmp, sync it.          A crash leaves compact.tmp, which the next time overwrites.
//  2. rename it to segment i, sync the directory.           A crash leaves i, new, and i+1…j, old. As a segment ends where
//     the next begins, what is read is the new i up to the first offset of i+1, then the old ones: for each key that is
//     its latest record and some superseded ones, as before.
//  3. remove i+1…j, the lowest first, syncing each.         A crash leaves i and k…j: the same holds with k for i+1. (The
//     highest first would lose what stood between.)
//
// The last record always survives, even a tombstone of old: the next offset is known from it.
func (p *partition) compact() error {
	if err := p.removeLeftovers(); err != nil {
		return err
	}
	if total := p.size(); total < compactBytes || total < p.compactCheck {
		return nil
	}
	segs, end, err := p.closeLast()
	if err != nil || len(segs) == 0 {
		return err
	}
	latest, live, total, err := p.survivors(segs, end)
	if err != nil {
		return fmt.Errorf("compact %s: %w", p.topic, err)
	}
	if garbage := total - live; garbage < compactBytes || garbage < compactRatio*live {
		p.compactCheck = total + max(compactBytes, live)
		return nil
	}
	seg, err := p.writeSurvivors(segs, end, latest)
	if err != nil {
		return fmt.Errorf("compact %s: %w", p.topic, err)
	}
	p.metrics.compactions.Inc()
	p.logger.Info("compacted a topic", "topic", p.topic, "keys", len(latest), "bytes", seg.size, "was", total)
	p.compactCheck = 0
	return p.removeLeftovers()
}

// closeLast begins a new segment and returns those before it, with the offset at which they end.
func (p *partition) closeLast() ([]*segment, int64, error) {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	if p.broken {
		p.abandon()
	}
	p.mu.Lock()
	n := len(p.segs)
	rotate := p.broken || n == 0 || p.segs[n-1].size > 0
	p.mu.Unlock()
	if rotate {
		if _, err := p.rotate(); err != nil {
			p.broken = true
			return nil, 0, err
		}
		p.broken = false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n = len(p.segs) - 1
	return slices.Clone(p.segs[:n]), p.segs[n].first, nil
}

// survivors returns the offset of the latest record of each key in segs, and the bytes of those and of all.
func (p *partition) survivors(segs []*segment, end int64) (latest map[string]int64, live, total int64, err error) {
	latest = map[string]int64{}
	size := map[string]int64{}
	err = p.eachClosed(segs, end, func(r *Record) error {
		n := int64(recordSize(r)) + framePrefix + fragmentHeader
		live += n - size[string(r.Key)]
		latest[string(r.Key)], size[string(r.Key)] = r.Offset, n
		return nil
	})
	for _, s := range segs {
		total += s.size
	}
	return latest, live, total, err
}

// eachClosed calls fn with each record in closed segments, which end at offset end.
func (p *partition) eachClosed(segs []*segment, end int64, fn func(*Record) error) error {
	for i, s := range segs {
		segEnd := end
		if i+1 < len(segs) {
			segEnd = segs[i+1].first
		}
		f, err := os.Open(s.path)
		if err != nil {
			return err
		}
		var failed error
		err = scanRecords(f, s.size, nil, func(r *Record) bool {
			if r.Offset >= segEnd {
				return false
			}
			failed = fn(r)
			return failed == nil
		})
		if err := errors.Join(failed, err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// writeSurvivors does steps 1 and 2 and lets readers see the result.
func (p *partition) writeSurvivors(segs []*segment, end int64, latest map[string]int64) (*segment, error) {
	temp := filepath.Join(p.dir, compactFile)
	seg, err := p.writeCompacted(temp, segs, end, latest)
	if err != nil {
		return nil, errors.Join(err, os.Remove(temp))
	}
	if err := p.crash("written"); err != nil {
		return nil, err
	}
	if err := os.Rename(temp, segs[0].path); err != nil {
		return nil, err
	}
	if err := syncDir(p.dir); err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.segs = append([]*segment{seg}, p.segs[len(segs):]...)
	p.mu.Unlock()
	for _, s := range segs {
		p.bytes.Sub(float64(s.size))
	}
	p.bytes.Add(float64(seg.size))
	p.leftovers = segs[1:]
	return seg, p.crash("renamed")
}

// writeCompacted writes the latest record of each key to a file and syncs it.
func (p *partition) writeCompacted(path string, segs []*segment, end int64, latest map[string]int64) (*segment, error) {
	seg := &segment{index: segs[0].index, path: segs[0].path, first: -1}
	forget := p.now().Add(-tombstonesFor).UnixMilli()
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	var buf []byte
	flush := func() error {
		_, err := f.Write(buf)
		seg.size += int64(len(buf))
		buf = buf[:0]
		return err
	}
	lastOffset := int64(-1)
	for _, off := range latest {
		lastOffset = max(lastOffset, off)
	}
	err = p.eachClosed(segs, end, func(r *Record) error {
		if latest[string(r.Key)] != r.Offset {
			return nil
		}
		if r.Value == nil && r.Time < forget && r.Offset != lastOffset {
			return nil
		}
		if seg.first < 0 {
			seg.first, seg.time = r.Offset, r.Time
		}
		frame, _ := encodeFrame(r)
		setPrefix(frame[:framePrefix], r.Offset, r.Time, 0)
		buf = appendFragments(buf, seg.size, frame, false)
		if len(buf) < writeBytes {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil && seg.first < 0 {
		err = errors.New("no readable record") // damage: leave it all as it is
	}
	return seg, errors.Join(err, f.Close())
}

// removeLeftovers does step 3. Nothing may be compacted again before it has succeeded: the old segments stand for a part
// of the log that another compaction would cover twice.
func (p *partition) removeLeftovers() error {
	for len(p.leftovers) > 0 {
		if err := os.Remove(p.leftovers[0].path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := syncDir(p.dir); err != nil {
			return err
		}
		p.leftovers = p.leftovers[1:]
		if err := p.crash("removed"); err != nil {
			return err
		}
	}
	return nil
}
