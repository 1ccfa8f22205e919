package log

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// groupBytes bounds what one leader writes and syncs at once.
	groupBytes = 8 << 20
	// writeBytes bounds the buffer that fragments are put together in before a write.
	writeBytes = 1 << 20
)

// partition is one partition of the embedded log.
//
// Writing: whoever appends puts a waiter in queue. The first becomes the leader: it takes what is queued, writes it,
// syncs once, publishes the new end, wakes everyone, and makes the first of those who came meanwhile the next leader.
// So there is no goroutine, an idle log writes at once, and a busy one shares syncs among as many as came during the
// last one.
//
// Reading: a reader sees [start, end) and, of each segment, size bytes. All three grow only in publish, after the sync.
type partition struct {
	topic      string
	id         int32
	dir        string
	compacted  bool
	compress   bool
	sync       bool
	rotateAt   int64 // bytes of a segment
	tailMax    int64
	now        func() time.Time
	logger     *slog.Logger
	metrics    *metrics
	bytes      prometheus.Gauge // of the topic
	startGauge prometheus.Gauge // nil but for samples
	endGauge   prometheus.Gauge
	queued     *atomic.Int64                       // of the whole log
	scratches  *sync.Pool                          // of *[]byte, to compress into
	writeAt    func(*os.File, []byte, int64) error // seam for tests
	syncFile   func(*os.File) error                // seam for tests

	qmu     sync.Mutex // guards queue and leading
	queue   []*waiter
	leading bool

	// wmu is held by the one who writes: a leader, or housekeeping while it closes a segment. Lock order: wmu, mu.
	wmu    sync.Mutex
	file   *os.File // the last segment, open for writing; nil before the first append and after a failure
	broken bool     // a write failed: the last segment may hold more than was published
	buf    []byte

	mu       sync.Mutex // guards the rest, and the segments' fields
	segs     []*segment // by index and offset; the last one is written to; empty only in a partition that never had any
	start    int64
	end      int64
	lastTime int64 // log time of the last record
	tail     []tailGroup
	tailSize int64
	wake     chan struct{} // closed when end moves

	// The rest is housekeeping's only.
	compactCheck int64              // look for garbage again when the partition is this large
	leftovers    []*segment         // files that a compaction has replaced
	crash        func(string) error // seam for tests: fails to show what a crash at a step of the compaction leaves
}

// tailGroup is one written group, kept in memory for those who read at the end.
type tailGroup struct {
	first      int64 // offset
	recs       []Record
	size       int64
	seg        *segment
	start, end int64 // position in the segment
}

// waiter is one Append's share in one partition.
type waiter struct {
	frames [][]byte
	blocks []packed // one per frame if frames are compressed
	recs   []Record // parts of frames
	bytes  int64
	lead   bool      // guarded by the partition's qmu: it was made leader and may not leave
	signal chan bool // true: lead; false: done. Holds one, so that nobody waits for a waiter that has left

	base, time int64 // set before done
	err        error
}

// packed is a compressed frame, waiting for its prefix.
type packed struct {
	block   []byte  // nil: compression does not pay
	prefix  int     // where in block
	scratch *[]byte // what block is a part of, from scratches
}

// newWaiter copies, encodes and compresses the records at idx: all that can be done outside of the queue.
func (p *partition) newWaiter(recs []Record, idx []int) *waiter {
	w := &waiter{signal: make(chan bool, 1), frames: make([][]byte, 0, len(idx)), recs: make([]Record, 0, len(idx))}
	for _, i := range idx {
		f, r := encodeFrame(&recs[i])
		w.frames, w.recs = append(w.frames, f), append(w.recs, r)
		w.bytes += int64(len(f))
		if p.compress {
			s, _ := p.scratches.Get().(*[]byte)
			if s == nil {
				s = new([]byte)
			}
			var b packed
			b.block, b.prefix, *s = compressFrame(*s, f)
			b.scratch = s
			w.blocks = append(w.blocks, b)
		}
	}
	return w
}

// append returns when the waiter's records are durable. If ctx ends first, they may or may not become so.
func (p *partition) append(ctx context.Context, w *waiter) error {
	p.qmu.Lock()
	p.queue = append(p.queue, w)
	lead := !p.leading
	p.leading = true
	w.lead = lead
	p.qmu.Unlock()

	if !lead {
		select {
		case lead = <-w.signal:
		case <-ctx.Done():
			p.qmu.Lock()
			i := slices.Index(p.queue, w)
			if i >= 0 && !w.lead {
				p.queue = slices.Delete(p.queue, i, i+1)
			}
			mustLead := w.lead
			p.qmu.Unlock()
			if !mustLead {
				if i >= 0 {
					p.release(w)
				}
				return ctx.Err()
			}
			lead = <-w.signal
		}
	}
	if lead {
		p.lead()
	}
	return w.err
}

func (p *partition) release(w *waiter) {
	p.queued.Add(-w.bytes)
	p.metrics.queued.Sub(float64(w.bytes))
}

// lead writes one group, of which the caller's waiter is the first, and hands the lead on.
func (p *partition) lead() {
	p.qmu.Lock()
	n, size := 0, int64(0)
	for n < len(p.queue) && (n == 0 || size+p.queue[n].bytes <= groupBytes) {
		size += p.queue[n].bytes
		n++
	}
	group := slices.Clone(p.queue[:n])
	p.queue = slices.Delete(p.queue, 0, n)
	p.qmu.Unlock()

	err := p.commit(group)

	for i, w := range group {
		w.err = err
		for _, b := range w.blocks {
			p.scratches.Put(b.scratch)
		}
		w.blocks, w.frames = nil, nil
		p.release(w)
		if i > 0 {
			w.signal <- false
		}
	}
	p.qmu.Lock()
	if len(p.queue) > 0 {
		p.queue[0].lead = true
		p.queue[0].signal <- true
	} else {
		p.leading = false
	}
	p.qmu.Unlock()
}

// commit writes a group, syncs it and publishes it. After an error nothing of it is published.
func (p *partition) commit(group []*waiter) error {
	p.wmu.Lock()
	defer p.wmu.Unlock()

	var bound, size int64
	count := 0
	for _, w := range group {
		for _, f := range w.frames {
			bound += fragmentsSize(len(f))
		}
		count += len(w.frames)
		size += w.bytes
	}
	seg, err := p.writable(bound)
	if err != nil {
		p.broken = true
		return fmt.Errorf("open segment of %s/%d: %w", p.topic, p.id, err)
	}
	p.mu.Lock()
	base, at := p.end, seg.size
	t := max(p.now().UnixMilli(), p.lastTime)
	p.mu.Unlock()

	g := tailGroup{first: base, size: size, seg: seg, start: at, recs: make([]Record, 0, count)}
	off := base
	for _, w := range group {
		w.base, w.time = off, t
		for i := range w.recs {
			w.recs[i].Offset, w.recs[i].Time = off, t
			off++
		}
		g.recs = append(g.recs, w.recs...)
	}
	if g.end, err = p.write(group, base, t, at); err != nil {
		p.broken = true
		return fmt.Errorf("write to %s/%d: %w", p.topic, p.id, err)
	}
	if p.sync {
		begin := time.Now()
		if err := p.syncFile(p.file); err != nil {
			p.broken = true
			return fmt.Errorf("sync %s/%d: %w", p.topic, p.id, err)
		}
		p.metrics.fsyncSeconds.Observe(time.Since(begin).Seconds())
	}
	p.publish(g, t)
	return nil
}

// write writes the frames of a group at a position of the open segment and returns where they end.
func (p *partition) write(group []*waiter, base, t, at int64) (int64, error) {
	buf, off := p.buf[:0], base
	for _, w := range group {
		for i, frame := range w.frames {
			setPrefix(frame[:framePrefix], off, t, uint32(off-base))
			rec, compressed := frame, false
			if p.compress && w.blocks[i].block != nil {
				rec, compressed = w.blocks[i].block, true
				copy(rec[w.blocks[i].prefix:], frame[:framePrefix])
			}
			buf = appendFragments(buf, at, rec, compressed)
			off++
			if len(buf) >= writeBytes {
				if err := p.writeAt(p.file, buf, at); err != nil {
					return at, err
				}
				at += int64(len(buf))
				buf = buf[:0]
			}
		}
	}
	p.buf = buf[:0]
	if len(buf) == 0 {
		return at, nil
	}
	return at + int64(len(buf)), p.writeAt(p.file, buf, at)
}

// publish lets readers see a group.
func (p *partition) publish(g tailGroup, t int64) {
	p.mu.Lock()
	if g.seg.size == 0 {
		g.seg.first, g.seg.time = g.first, t
	}
	p.bytes.Add(float64(g.end - g.seg.size))
	g.seg.size = g.end
	p.end = g.first + int64(len(g.recs))
	p.lastTime = t
	p.tail = append(p.tail, g)
	p.tailSize += g.size
	for p.tailSize > p.tailMax && len(p.tail) > 0 {
		p.tailSize -= p.tail[0].size
		p.tail[0] = tailGroup{} // the slice moves on; its array must not keep the bytes
		p.tail = p.tail[1:]
	}
	if p.endGauge != nil {
		p.endGauge.Set(float64(p.end))
	}
	wake := p.wake
	p.wake = make(chan struct{})
	p.mu.Unlock()
	close(wake)
}

// writable returns the segment to write to, which has p.file open: the last one if it is sound and has room for n more
// bytes, else a new one. The caller holds wmu.
func (p *partition) writable(n int64) (*segment, error) {
	if p.broken {
		p.abandon()
	}
	p.mu.Lock()
	var last *segment
	if len(p.segs) > 0 {
		last = p.segs[len(p.segs)-1]
	}
	p.mu.Unlock()
	full := last == nil || (last.size > 0 && last.size+n > p.rotateAt)
	if !full && !p.broken {
		if p.file == nil {
			f, err := os.OpenFile(last.path, os.O_RDWR, 0)
			if err != nil {
				return nil, err
			}
			p.file = f
		}
		return last, nil
	}
	seg, err := p.rotate()
	if err == nil {
		p.broken = false
	}
	return seg, err
}

// abandon leaves the last segment after a failed write or sync: it is cut back to what was published, every byte of
// which a sync has covered, and never written to again. What a failed sync left in memory only is not trusted, and the
// sync is not repeated in hope. If cutting fails too, that is harmless: offsets from the next segment's first on are
// the next segment's.
func (p *partition) abandon() {
	if p.file == nil {
		return
	}
	p.mu.Lock()
	last := p.segs[len(p.segs)-1]
	size := last.size
	p.mu.Unlock()
	err := p.file.Truncate(size)
	if err == nil {
		err = p.file.Sync()
	}
	err = errors.Join(err, p.file.Close())
	p.file = nil
	if size == 0 && os.Remove(last.path) == nil { // or every attempt on a full disk would leave an empty file
		p.mu.Lock()
		p.segs = p.segs[:len(p.segs)-1]
		p.mu.Unlock()
	}
	p.logger.Warn("leaving a segment after a failed write", "topic", p.topic, "partition", p.id, "segment", last.path, "bytes", size, "err", err)
}

// rotate begins a new segment. All of the last one is synced, group by group. The caller holds wmu.
func (p *partition) rotate() (*segment, error) {
	if p.file != nil {
		f := p.file
		p.file = nil
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	index := 0
	if n := len(p.segs); n > 0 {
		index = p.segs[n-1].index + 1
	}
	end, last := p.end, p.lastTime
	p.mu.Unlock()
	seg := &segment{index: index, path: segmentPath(p.dir, index), first: end, time: last}
	f, err := os.OpenFile(seg.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return nil, err
	}
	if p.sync {
		if err := syncDir(p.dir); err != nil {
			return nil, errors.Join(err, f.Close(), os.Remove(seg.path))
		}
	}
	p.file = f
	p.mu.Lock()
	p.segs = append(slices.Clip(p.segs), seg)
	p.mu.Unlock()
	return seg, nil
}

// close syncs and closes the segment that is written to. Nobody appends any more.
func (p *partition) close() error {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	if p.broken {
		p.abandon()
	}
	if p.file == nil {
		return nil
	}
	err := errors.Join(p.syncFile(p.file), p.file.Close())
	p.file = nil
	return err
}

// bounds returns what the partition holds.
func (p *partition) bounds() Bounds {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Bounds{Start: p.start, End: p.end}
}

// find returns the segment that holds off, and the first offset that is no longer in it. The caller holds mu.
func (p *partition) find(off int64) (seg *segment, end int64) {
	i := sort.Search(len(p.segs), func(i int) bool { return p.segs[i].first > off })
	i = max(i-1, 0)
	// Of several that begin at one offset only the last one holds anything; Search has found it.
	if i+1 < len(p.segs) {
		return p.segs[i], p.segs[i+1].first
	}
	return p.segs[i], p.end
}

// drop removes the segments before index n of the list p.segs, which may not reach the last one with records. It
// returns how many bytes are gone.
func (p *partition) drop(n int) (int64, error) {
	p.mu.Lock()
	gone := slices.Clone(p.segs[:n])
	p.segs = slices.Clone(p.segs[n:])
	if n > 0 {
		p.start = p.segs[0].first
	}
	start := p.start
	p.mu.Unlock()
	if p.startGauge != nil {
		p.startGauge.Set(float64(start))
	}
	var size int64
	var errs []error
	for _, s := range gone { // oldest first: what is left is always the end of the log
		if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
			continue
		}
		size += s.size
		p.bytes.Sub(float64(s.size))
	}
	return size, errors.Join(errs...)
}
