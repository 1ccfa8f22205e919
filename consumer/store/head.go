// Package store keeps the series of one tenant in memory. In go samples, each newer than the last of its series, from one
// goroutine; out come a tsdb.BlockReader for queries and for writing blocks, whose chunks are those of the block. It
// never decides which samples belong together, never takes a sample that is not newer, and never touches a disk.
//
// It stands where a tsdb.Head would, and is small where that one is general: a known series costs three lines of memory
// (the caller's reference, the series, the end of its open chunk), no look-up and no call through an interface; the
// collector finds no pointer in series and chunks; an empty head costs nothing.
package store

import (
	"math"
	"sync"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
)

// Head holds series and their samples. One goroutine appends, between Begin and End; any may read.
type Head struct {
	window int64 // ms; no chunk spans two windows, so that blocks can take chunks as they are

	mu     sync.RWMutex // the appender changes what follows under the lock, and reads it without
	pages  []*page
	labels []labels.Labels // by ref - 1
	hashes []uint64        // of labels, by ref - 1
	refs   table
	index  index
	arena  arena
	chunks []chunk // closed ones
	open   []open  // chunks under way of other kinds than plain floats, by series.open - 1
	mint   int64   // of all samples
	maxt   int64

	order  order
	values values
}

// NoSample is the newest time of a series without samples.
const NoSample = math.MinInt64

// maxSamples of a chunk, as Prometheus cuts them.
const maxSamples = 120

// pageSeries keeps pages at 4 KB: small tenants have few series.
const pageSeries = 64

type page [pageSeries]series

// series is what an append touches: one line of the cache, and no pointer.
type series struct {
	newest int64  // time of the newest sample
	end    int64  // where the window of the open chunk ends
	bits   uint64 // of the newest value
	delta  uint64 // between the newest two times
	at     place  // of the open chunk's bytes; zero = none yet
	pos    uint16 // bits written there
	size   uint16 // bytes there
	count  uint16 // samples in the open chunk
	kind   kind
	lead   uint8
	trail  uint8
	closed uint32 // 1 + index of the last closed chunk
	open   uint32 // 1 + index in Head.open
}

// kind of an open chunk.
type kind uint8

const (
	kindFloat     kind = iota
	kindFloatST        // with start timestamps
	kindHistogram      // the rest is in Head.open
	kindHistogramST
	kindFloatHistogram
	kindFloatHistogramST
)

// New makes an empty head. window is in ms; no chunk spans two multiples of it.
func New(window int64) *Head {
	return &Head{window: window, mint: math.MaxInt64, maxt: math.MinInt64}
}

// Begin starts to append: readers wait until End.
func (h *Head) Begin() { h.mu.Lock() }

// End lets readers see what was appended.
func (h *Head) End() { h.mu.Unlock() }

// Times returns the oldest and the newest time of all samples, ms; without any the first is the larger one.
func (h *Head) Times() (mint, maxt int64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.mint, h.maxt
}

// Len is the number of series. For the appender.
func (h *Head) Len() int { return len(h.labels) }

// Find returns the ref of the series with these labels, 0 if there is none. For the appender.
func (h *Head) Find(lset labels.Labels) uint32 {
	return h.refs.find(lset.Hash(), h.hashes, func(ref uint32) bool { return labels.Equal(h.labels[ref-1], lset) })
}

// Add makes a series without samples, whose labels must not be known yet, and returns its ref. Refs count from 1. The
// labels are kept.
func (h *Head) Add(lset labels.Labels) uint32 {
	ref := uint32(len(h.labels)) + 1
	hash := lset.Hash()
	h.labels = append(h.labels, lset)
	h.hashes = append(h.hashes, hash)
	h.refs.add(hash, ref, h.hashes)
	if int(ref-1)%pageSeries == 0 {
		h.pages = append(h.pages, &page{})
	}
	*h.series(ref) = series{newest: NoSample, end: math.MinInt64, lead: noLead}
	h.index.add(lset, ref)
	return ref
}

func (h *Head) series(ref uint32) *series {
	return &h.pages[(ref-1)/pageSeries][(ref-1)%pageSeries]
}

// Labels of a series.
func (h *Head) Labels(ref uint32) labels.Labels { return h.labels[ref-1] }

// Newest returns the time of the newest sample of a series, NoSample if it has none. For the appender.
func (h *Head) Newest(ref uint32) int64 { return h.series(ref).newest }

// Float appends a sample that is newer than the others of its series. st is its start timestamp, 0 = none.
func (h *Head) Float(ref uint32, st, t int64, v float64) error {
	s := h.series(ref)
	if st != 0 || s.kind != kindFloat {
		return h.otherFloat(s, st, t, v)
	}
	if t >= s.end || s.count == maxSamples || s.pos > maxChunkBits {
		h.cut(s, t)
	}
	if int(s.size)-int(s.pos>>3) < sampleRoom {
		h.grow(s)
	}
	s.append(h.arena.bytes(s.at, int(s.size)), t, math.Float64bits(v))
	h.note(t)
	return nil
}

func (h *Head) note(t int64) {
	if t > h.maxt {
		h.maxt = t
	}
	if t < h.mint {
		h.mint = t
	}
}

// cut closes the open chunk of plain floats, if there is one, and begins another with the sample at t.
func (h *Head) cut(s *series, t int64) {
	h.close(s)
	s.begin(t, h.window)
	if s.size > 0 { // its memory is used again: the next chunk will be about as long
		clear(h.arena.bytes(s.at, int(s.size)))
	}
}

// begin makes the open chunk an empty one, of the window that t is in.
func (s *series) begin(t, window int64) {
	w := t / window
	if t < 0 && t%window != 0 {
		w--
	}
	s.end = (w + 1) * window
	s.count, s.pos, s.lead = 0, headerBits, noLead
}

// close puts the open chunk among the closed ones.
func (h *Head) close(s *series) {
	if s.count == 0 {
		return
	}
	c := chunk{maxt: s.newest, prev: s.closed}
	var raw []byte
	if s.kind == kindFloat {
		raw, c.encoding = s.bytes(&h.arena), encFloat
		c.mint = firstTime(raw)
	} else {
		o := &h.open[s.open-1]
		o.chunk.Compact()
		raw, c.encoding, c.mint = o.chunk.Bytes(), o.chunk.Encoding(), o.mint
	}
	c.at, c.size = h.arena.keep(raw), uint32(len(raw))
	h.chunks = append(h.chunks, c)
	s.closed, s.count = uint32(len(h.chunks)), 0
}

// grow gives the open chunk more memory, half as much again.
func (h *Head) grow(s *series) {
	size := min(max(firstSize, (int(s.size)*3/2+31)&^31), maxSize)
	at := h.arena.take(size)
	if s.size > 0 {
		copy(h.arena.bytes(at, size), h.arena.bytes(s.at, int(s.size)))
		h.arena.give(s.at, int(s.size))
	}
	s.at, s.size = at, uint16(size)
}

// otherFloat appends to a series that has start timestamps now, or whose open chunk is of another kind.
func (h *Head) otherFloat(s *series, st, t int64, v float64) error {
	switch {
	case s.kind >= kindHistogram && value.IsStaleNaN(v): // a series of histograms ends with a histogram
		if s.kind >= kindFloatHistogram {
			return h.histogram(s, st, t, nil, &histogram.FloatHistogram{Sum: v})
		}
		return h.histogram(s, st, t, &histogram.Histogram{Sum: v}, nil)
	case st == 0 && s.kind == kindFloatST && t < s.end && !full(kindFloatST, h.open[s.open-1].chunk):
		// Now and then a sender does not know: no reason to begin a chunk each time.
	case st == 0:
		h.close(s)
		s.kind = kindFloat
		h.cut(s, t)
		if int(s.size) < sampleRoom+headerBits/8 {
			h.grow(s)
		}
		s.append(h.arena.bytes(s.at, int(s.size)), t, math.Float64bits(v))
		h.note(t)
		return nil
	}
	o, _, err := h.opened(s, kindFloatST, t)
	if err != nil {
		return err
	}
	o.app.Append(st, t, v)
	s.newest = t
	s.count++
	h.note(t)
	return nil
}

// Histogram appends a valid histogram of one of the two kinds, newer than the other samples of its series.
func (h *Head) Histogram(ref uint32, st, t int64, hist *histogram.Histogram, fhist *histogram.FloatHistogram) error {
	return h.histogram(h.series(ref), st, t, hist, fhist)
}
