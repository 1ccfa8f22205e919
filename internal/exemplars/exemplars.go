// Package exemplars keeps the exemplars of one tenant, in memory and as the file beside a block's samples. In go exemplars
// with the labels of their series, in any order; out come those of a time range whose series match, each once, and bytes
// that follow from what went in and its order alone. It never holds more than it is told to: the oldest go first.
//
// # The file
//
//	"SLEX" 1                       magic, version
//	uvarint n, then n series       sorted by their labels
//	  labels
//	  uvarint n, then n exemplars  sorted by time, value and labels
//	    varint   ms since the one before it (since 0 for the first)
//	    8 bytes  the value's bits, little endian
//	    byte     1 = the sender said when it was, 0 = it did not
//	    labels
//	4 bytes                        CRC-32 (Castagnoli) of everything before, little endian
//
// labels are a uvarint for how many there are, then for each name and value: a uvarint length and so many bytes.
package exemplars

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
)

const magic = "SLEX\x01"

// MaxBytes is the largest file that is read.
const MaxBytes = 256 << 20

// ErrCorrupt is returned for bytes that are no file of exemplars, or not all of one.
var ErrCorrupt = errors.New("file of exemplars is damaged")

// Set holds the exemplars of a tenant. The zero value is empty. It may be read while it is added to.
type Set struct {
	mu     sync.RWMutex
	series map[uint64][]*series // guarded by mu; by the hash of the labels
	order  []*series            // guarded by mu; of each exemplar, the first that came first
}

// series has its exemplars in order of time.
type series struct {
	labels labels.Labels
	list   []exemplar.Exemplar
}

// Add keeps an exemplar of the series lset, unless it is there already. At most limit are kept: when there are more, series
// lose their oldest, the series first whose exemplars came first.
func (s *Set) Add(lset labels.Labels, e exemplar.Exemplar, limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit <= 0 {
		return
	}
	in := s.of(lset)
	if in == nil {
		in = &series{labels: lset.Copy()}
		if s.series == nil {
			s.series = map[uint64][]*series{}
		}
		hash := lset.Hash()
		s.series[hash] = append(s.series[hash], in)
	}
	at, there := slices.BinarySearchFunc(in.list, e, exemplar.Compare)
	if there {
		return
	}
	in.list = slices.Insert(in.list, at, e)
	s.order = append(s.order, in)
	for len(s.order) > limit {
		first := s.order[0]
		s.order[0], s.order = nil, s.order[1:]
		if first.list = first.list[1:]; len(first.list) == 0 {
			s.remove(first)
		}
	}
}

func (s *Set) of(lset labels.Labels) *series {
	for _, in := range s.series[lset.Hash()] {
		if labels.Equal(in.labels, lset) {
			return in
		}
	}
	return nil
}

func (s *Set) remove(in *series) {
	hash := in.labels.Hash()
	if s.series[hash] = slices.DeleteFunc(s.series[hash], func(o *series) bool { return o == in }); len(s.series[hash]) == 0 {
		delete(s.series, hash)
	}
}

// Len is the number of exemplars.
func (s *Set) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.order)
}

// Select returns the exemplars in [start, end] (ms) of the series that one of the sets of matchers matches, sorted by series.
func (s *Set) Select(start, end int64, sets [][]*labels.Matcher) []exemplar.QueryResult {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var found []exemplar.QueryResult
	for _, same := range s.series {
		for _, in := range same {
			from, _ := slices.BinarySearchFunc(in.list, start, func(e exemplar.Exemplar, t int64) int { return cmp.Compare(e.Ts, t) })
			to := from
			for to < len(in.list) && in.list[to].Ts <= end {
				to++
			}
			if to > from && matches(in.labels, sets) {
				found = append(found, exemplar.QueryResult{SeriesLabels: in.labels, Exemplars: slices.Clone(in.list[from:to])})
			}
		}
	}
	slices.SortFunc(found, func(a, b exemplar.QueryResult) int { return labels.Compare(a.SeriesLabels, b.SeriesLabels) })
	return found
}

func matches(lset labels.Labels, sets [][]*labels.Matcher) bool {
	return slices.ContainsFunc(sets, func(ms []*labels.Matcher) bool {
		return !slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return !m.Matches(lset.Get(m.Name)) })
	})
}

// Split parts the exemplars: each goes into the set that to names by its place, none into one that it does not.
func (s *Set) Split(n int, to func(time int64) int) []*Set {
	parts := make([]*Set, n)
	for i := range parts {
		parts[i] = &Set{}
	}
	for _, f := range s.Select(math.MinInt64, math.MaxInt64, everything) {
		for _, e := range f.Exemplars {
			if i := to(e.Ts); i >= 0 && i < n {
				parts[i].Add(f.SeriesLabels, e, math.MaxInt)
			}
		}
	}
	return parts
}

// everything matches all series.
var everything = [][]*labels.Matcher{{}}

// AddAll adds the exemplars of another set, the oldest first. At most limit are kept.
func (s *Set) AddAll(other *Set, limit int) {
	type one struct {
		lset labels.Labels
		e    exemplar.Exemplar
	}
	var all []one
	for _, set := range []*Set{s, other} {
		for _, f := range set.Select(math.MinInt64, math.MaxInt64, everything) {
			for _, e := range f.Exemplars {
				all = append(all, one{f.SeriesLabels, e})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b one) int { return cmp.Compare(a.e.Ts, b.e.Ts) })
	merged := &Set{}
	for _, o := range all {
		merged.Add(o.lset, o.e, limit)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.series, s.order = merged.series, merged.order
}

// Append appends the file to dst.
func (s *Set) Append(dst []byte) []byte {
	all := s.Select(math.MinInt64, math.MaxInt64, everything)
	begin := len(dst)
	dst = append(dst, magic...)
	dst = binary.AppendUvarint(dst, uint64(len(all)))
	for _, f := range all {
		dst = appendLabels(dst, f.SeriesLabels)
		dst = binary.AppendUvarint(dst, uint64(len(f.Exemplars)))
		before := int64(0)
		for _, e := range f.Exemplars {
			dst = binary.AppendVarint(dst, e.Ts-before)
			before = e.Ts
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(e.Value))
			if e.HasTs {
				dst = append(dst, 1)
			} else {
				dst = append(dst, 0)
			}
			dst = appendLabels(dst, e.Labels)
		}
	}
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[begin:], crc32.MakeTable(crc32.Castagnoli)))
}

func appendLabels(dst []byte, lset labels.Labels) []byte {
	dst = binary.AppendUvarint(dst, uint64(lset.Len()))
	lset.Range(func(l labels.Label) {
		dst = append(binary.AppendUvarint(dst, uint64(len(l.Name))), l.Name...)
		dst = append(binary.AppendUvarint(dst, uint64(len(l.Value))), l.Value...)
	})
	return dst
}

// Decode reads a file. ErrCorrupt: it is none.
func Decode(b []byte) (*Set, error) {
	if len(b) < len(magic)+4 || string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it begins with %q", ErrCorrupt, b[:min(len(b), len(magic))])
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return nil, fmt.Errorf("%w: its checksum differs", ErrCorrupt)
	}
	d := decoder{rest: body[len(magic):]}
	s := &Set{series: map[uint64][]*series{}}
	for range d.count() {
		in := &series{labels: d.labels()}
		ts := int64(0)
		for range d.count() {
			ts += d.varint()
			e := exemplar.Exemplar{Ts: ts, Value: math.Float64frombits(binary.LittleEndian.Uint64(d.bytes(8))), HasTs: d.bytes(1)[0] == 1, Labels: d.labels()}
			if n := len(in.list); d.bad || n > 0 && in.list[n-1].Ts > e.Ts {
				return nil, fmt.Errorf("%w: its content is no list of exemplars", ErrCorrupt)
			}
			in.list, s.order = append(in.list, e), append(s.order, in)
		}
		if d.bad || len(in.list) == 0 || s.of(in.labels) != nil {
			return nil, fmt.Errorf("%w: its content is no list of series", ErrCorrupt)
		}
		hash := in.labels.Hash()
		s.series[hash] = append(s.series[hash], in)
	}
	if d.bad || len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: it is longer or shorter than it says", ErrCorrupt)
	}
	return s, nil
}

// decoder reads the parts of a file; bad once something was wrong.
type decoder struct {
	rest    []byte
	bad     bool
	builder labels.ScratchBuilder
}

// nothing stands in the place of bytes that are not there.
var nothing [8]byte

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nothing[:min(n, 8)]
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count reads how many things follow, each of at least a byte.
func (d *decoder) count() uint64 {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return 0
	}
	return n
}

func (d *decoder) labels() labels.Labels {
	d.builder.Reset()
	for range d.count() {
		name := d.bytes(d.uvarint())
		value := d.bytes(d.uvarint())
		if d.bad {
			return labels.EmptyLabels()
		}
		d.builder.Add(string(name), string(value))
	}
	d.builder.Sort() // as our own are
	return d.builder.Labels()
}
