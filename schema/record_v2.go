package schema

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"time"
)

// RecordV2 is the version (header "v") of a record in the topic of samples that says labels once, and then numbers.
//
//	Kafka key      tenant ID
//	header "v"     one byte: 2
//	value          epoch (8 bytes, little endian), then sections, each at most once and in this order:
//
//	    tag (1 byte)  length (uvarint)  content
//
//	  1 definitions   ref, length, labels        labels = the Label fields of a v1 TimeSeries, sorted
//	  2 refs          of the floats: zigzag of the difference to the one before
//	  3 times         of the floats, ms: zigzag of the difference to the one before
//	  4 starts        of the floats, ms: zigzag of (time − start), −1 in place of 0 = unknown; absent = all unknown
//	  5 values        of the floats: see appendValue
//	  6 histograms    ref, length, Histogram as in v1
//	  7 exemplars     ref, length, Exemplar as in v1
//	  8 metadata      length, MetricMetadata as in v1
//
// A ref is a small integer that stands for a series. It means something for one epoch (a random number that a producer
// draws for a tenant when it starts to know its series) and one partition, and for RefLife after an acknowledged
// definition: until the acknowledgement every record that uses the ref defines it, too. A reader that starts at some
// offset first reads the definitions of 2×RefLife before it, by log time, and forgets a definition that is older than that:
// so what a ref stands for is a function of the log, and of a bounded part of it.
const RecordV2 = 2

// RefLife is how long after its acknowledged definition a producer may use a ref without defining it again.
const RefLife = 30 * time.Minute

// MaxRef bounds refs, and so the memory that a record can make a reader reserve: a producer begins another epoch before.
const MaxRef = 1<<24 - 1

// Sections of a record.
const (
	sectionDefinitions = 1 + iota
	sectionRefs
	sectionTimes
	sectionStarts
	sectionValues
	sectionHistograms
	sectionExemplars
	sectionMetadata
	sections
)

// RecordWriter builds a record of version 2. Its zero value, after Reset, is ready.
type RecordWriter struct {
	columns  [sections][]byte
	lastRef  int64
	lastTime int64
	floats   int
	starts   bool // a float had a start
}

// Reset begins a new record and keeps the memory of the last.
func (w *RecordWriter) Reset() {
	for i := range w.columns {
		w.columns[i] = w.columns[i][:0]
	}
	w.lastRef, w.lastTime, w.floats, w.starts = 0, 0, 0, false
}

// Size is about how long the record will be: never shorter than it is.
func (w *RecordWriter) Size() int {
	n := 8
	for i := range w.columns {
		n += len(w.columns[i]) + 6
	}
	return n
}

// Cap is the memory that is kept, in bytes.
func (w *RecordWriter) Cap() int {
	n := 0
	for i := range w.columns {
		n += cap(w.columns[i])
	}
	return n
}

// Define says what ref stands for from here on.
func (w *RecordWriter) Define(ref uint32, labels []byte) {
	w.columns[sectionDefinitions] = appendRefBytes(w.columns[sectionDefinitions], ref, labels)
}

// Float adds a sample; start 0 = unknown.
func (w *RecordWriter) Float(ref uint32, t, start int64, v float64) {
	w.columns[sectionRefs] = appendZigzag(w.columns[sectionRefs], int64(ref)-w.lastRef)
	w.columns[sectionTimes] = appendZigzag(w.columns[sectionTimes], t-w.lastTime)
	w.columns[sectionValues] = appendValue(w.columns[sectionValues], v)
	if start != 0 && !w.starts {
		w.starts = true
		for range w.floats {
			w.columns[sectionStarts] = appendZigzag(w.columns[sectionStarts], -1)
		}
	}
	if w.starts {
		back := int64(-1)
		if start != 0 {
			back = t - start
			if back < 0 {
				back-- // a start after its sample makes no sense, but it is what was sent
			}
		}
		w.columns[sectionStarts] = appendZigzag(w.columns[sectionStarts], back)
	}
	w.lastRef, w.lastTime = int64(ref), t
	w.floats++
}

// Histogram adds a histogram, as the payload of a v1 Histogram.
func (w *RecordWriter) Histogram(ref uint32, payload []byte) {
	w.columns[sectionHistograms] = appendRefBytes(w.columns[sectionHistograms], ref, payload)
}

// Exemplar adds an exemplar, as the payload of a v1 Exemplar.
func (w *RecordWriter) Exemplar(ref uint32, payload []byte) {
	w.columns[sectionExemplars] = appendRefBytes(w.columns[sectionExemplars], ref, payload)
}

// Metadata adds what is known of a metric family, as the payload of a v1 MetricMetadata.
func (w *RecordWriter) Metadata(payload []byte) {
	w.columns[sectionMetadata] = binary.AppendUvarint(w.columns[sectionMetadata], uint64(len(payload)))
	w.columns[sectionMetadata] = append(w.columns[sectionMetadata], payload...)
}

// Append appends the record to dst.
func (w *RecordWriter) Append(dst []byte, epoch uint64) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, epoch)
	for tag := sectionDefinitions; tag < sections; tag++ {
		if c := w.columns[tag]; len(c) > 0 {
			dst = append(dst, byte(tag))
			dst = binary.AppendUvarint(dst, uint64(len(c)))
			dst = append(dst, c...)
		}
	}
	return dst
}

func appendRefBytes(dst []byte, ref uint32, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(ref))
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendZigzag(dst []byte, v int64) []byte {
	u := uint64(v)<<1 ^ uint64(v>>63)
	if u < 0x80 {
		return append(dst, byte(u))
	}
	return binary.AppendUvarint(dst, u)
}

// maxWhole is where whole numbers are written as they are: they have to keep a bit for the mark after zigzag.
const maxWhole = 1 << 53

// appendValue writes a float that is a whole number (most counters and gauges) as a uvarint of its zigzag, shifted by
// one; every other, bit by bit, as a byte 1 and its bytes from the highest on, with those at the end left out that are
// zero: the byte says how many follow, as 2×count+1.
func appendValue(dst []byte, v float64) []byte {
	if i := int64(v); i < maxWhole && i > -maxWhole && math.Float64bits(float64(i)) == math.Float64bits(v) {
		u := (uint64(i)<<1 ^ uint64(i>>63)) << 1
		if u < 0x80 {
			return append(dst, byte(u))
		}
		return binary.AppendUvarint(dst, u)
	}
	b := math.Float64bits(v)
	n := 8 - bits.TrailingZeros64(b)/8 // b is not zero: that is a whole number
	dst = append(dst, byte(2*n+1))
	return append(dst, byte(b>>56), byte(b>>48), byte(b>>40), byte(b>>32), byte(b>>24), byte(b>>16), byte(b>>8), byte(b))[:len(dst)+n]
}

// ErrRecord is returned for a value that is no record of version 2.
var ErrRecord = errors.New("not a record of version 2")

// Columns is a record of version 2, cut into its sections without a copy. The sections are read one after the other by
// the Next methods, which allocate nothing.
type Columns struct {
	Epoch uint64

	sections [sections][]byte
	lastRef  int64
	lastTime int64
}

// Parse cuts value. What is inside of the sections is looked at by the Next methods.
func (c *Columns) Parse(value []byte) error {
	*c = Columns{}
	if len(value) < 8 {
		return fmt.Errorf("%w: %d bytes", ErrRecord, len(value))
	}
	c.Epoch = binary.LittleEndian.Uint64(value)
	last := byte(0)
	for rest := value[8:]; len(rest) > 0; {
		tag := rest[0]
		l, n := uvarint(rest[1:])
		switch {
		case n <= 0 || l > uint64(len(rest)-1-n):
			return fmt.Errorf("%w: section %d: %w", ErrRecord, tag, ErrTruncated)
		case tag <= last || tag >= sections:
			return fmt.Errorf("%w: section %d after section %d", ErrRecord, tag, last)
		}
		c.sections[tag], rest, last = rest[1+n:1+n+int(l)], rest[1+n+int(l):], tag
	}
	return nil
}

// HasSamples tells whether there is anything but definitions and metadata.
func (c *Columns) HasSamples() bool {
	return len(c.sections[sectionRefs])+len(c.sections[sectionHistograms])+len(c.sections[sectionExemplars]) > 0
}

// NextDefinition returns the next definition; not ok at the end.
func (c *Columns) NextDefinition() (ref uint32, labels []byte, ok bool, err error) {
	return c.nextRefBytes(sectionDefinitions)
}

// NextHistogram returns the next histogram as the payload of a v1 Histogram; not ok at the end.
func (c *Columns) NextHistogram() (ref uint32, payload []byte, ok bool, err error) {
	return c.nextRefBytes(sectionHistograms)
}

// NextExemplar returns the next exemplar as the payload of a v1 Exemplar; not ok at the end.
func (c *Columns) NextExemplar() (ref uint32, payload []byte, ok bool, err error) {
	return c.nextRefBytes(sectionExemplars)
}

func (c *Columns) nextRefBytes(section int) (ref uint32, b []byte, ok bool, err error) {
	in := c.sections[section]
	if len(in) == 0 {
		return 0, nil, false, nil
	}
	r, n := uvarint(in)
	if n <= 0 {
		return 0, nil, false, fmt.Errorf("%w: section %d: %w", ErrRecord, section, ErrTruncated)
	}
	l, m := uvarint(in[n:])
	switch {
	case m <= 0 || l > uint64(len(in)-n-m):
		return 0, nil, false, fmt.Errorf("%w: section %d: %w", ErrRecord, section, ErrTruncated)
	case r > MaxRef:
		return 0, nil, false, fmt.Errorf("%w: ref %d", ErrRecord, r)
	}
	end := n + m + int(l)
	c.sections[section] = in[end:]
	return uint32(r), in[n+m : end], true, nil
}

// NextMetadata returns the payload of the next MetricMetadata; not ok at the end.
func (c *Columns) NextMetadata() (payload []byte, ok bool, err error) {
	in := c.sections[sectionMetadata]
	if len(in) == 0 {
		return nil, false, nil
	}
	l, n := uvarint(in)
	if n <= 0 || l > uint64(len(in)-n) {
		return nil, false, fmt.Errorf("%w: metadata: %w", ErrRecord, ErrTruncated)
	}
	c.sections[sectionMetadata] = in[n+int(l):]
	return in[n : n+int(l)], true, nil
}

// Float is a sample of a record; times in ms, Start 0 = unknown.
type Float struct {
	Ref   uint32
	Time  int64
	Start int64
	Value float64
}

// NextFloat reads the next float into f; not ok at the end.
func (c *Columns) NextFloat(f *Float) (ok bool, err error) {
	refs := c.sections[sectionRefs]
	if len(refs) == 0 {
		for _, s := range [...]int{sectionTimes, sectionStarts, sectionValues} {
			if len(c.sections[s]) > 0 {
				return false, fmt.Errorf("%w: section %d is longer than the others", ErrRecord, s)
			}
		}
		return false, nil
	}
	// The common case of one byte each: the next series, the same time.
	times := c.sections[sectionTimes]
	d, n := uvarint(refs)
	dt, nt := uvarint(times)
	if n <= 0 || nt <= 0 {
		return false, fmt.Errorf("%w: floats: %w", ErrRecord, ErrTruncated)
	}
	c.lastRef += unzigzag(d)
	c.lastTime += unzigzag(dt)
	if c.lastRef < 0 || c.lastRef > MaxRef {
		return false, fmt.Errorf("%w: ref %d", ErrRecord, c.lastRef)
	}
	v, nv := valueAt(c.sections[sectionValues])
	if nv <= 0 {
		return false, fmt.Errorf("%w: values: %w", ErrRecord, ErrTruncated)
	}
	c.sections[sectionRefs], c.sections[sectionTimes], c.sections[sectionValues] = refs[n:], times[nt:], c.sections[sectionValues][nv:]
	f.Ref, f.Time, f.Value, f.Start = uint32(c.lastRef), c.lastTime, v, 0
	if starts := c.sections[sectionStarts]; len(starts) > 0 {
		d, n := uvarint(starts)
		if n <= 0 {
			return false, fmt.Errorf("%w: starts: %w", ErrRecord, ErrTruncated)
		}
		c.sections[sectionStarts] = starts[n:]
		switch back := unzigzag(d); {
		case back >= 0:
			f.Start = f.Time - back
		case back < -1:
			f.Start = f.Time - back - 1
		}
	}
	return true, nil
}

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// valueAt reads what appendValue wrote, and returns its length; 0 if it is cut off or nothing that it writes.
func valueAt(b []byte) (float64, int) {
	u, n := uvarint(b)
	if n <= 0 {
		return 0, 0
	}
	if u&1 == 0 {
		return float64(unzigzag(u >> 1)), n
	}
	size := int(u >> 1)
	if u > 17 || size == 0 || len(b) < 1+size {
		return 0, 0
	}
	if len(b) >= 9 {
		return math.Float64frombits(binary.BigEndian.Uint64(b[1:]) >> (64 - 8*size) << (64 - 8*size)), 1 + size
	}
	x := uint64(0)
	for i := range size {
		x |= uint64(b[1+i]) << (56 - 8*i)
	}
	return math.Float64frombits(x), 1 + size
}
