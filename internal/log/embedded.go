package log

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// FsyncMode says when an append to the embedded log is acknowledged.
type FsyncMode string

const (
	// FsyncGroup acknowledges after a sync, which all appends of a partition share that wait at that moment. What is
	// acknowledged survives a power cut.
	FsyncGroup FsyncMode = "group"
	// FsyncOff acknowledges after the write. What is acknowledged survives the death of the process, but A POWER CUT OR A
	// CRASH OF THE KERNEL LOSES the last seconds of it.
	FsyncOff FsyncMode = "off"
)

// EmbeddedConfig are the settings of an embedded log.
type EmbeddedConfig struct {
	// Dir holds the log and nothing else. Required; made if it is not there.
	Dir string
	// Partitions of sluice.samples. A log that has fewer gets more when it is opened; one that has more keeps them. 0 = 4
	// when the log is created, and as many as it has from then on.
	Partitions int32
	// Fsync is FsyncGroup (default) or FsyncOff.
	Fsync FsyncMode
	// Retention is how long records of sluice.samples and sluice.dead-letter are kept at least, unless MaxBytes is
	// reached. Default 24 h. Records of sluice.samples that a group still needs are kept in any case.
	Retention time.Duration
	// MaxBytes is how much of sluice.samples, over all partitions, and how much of sluice.dead-letter is kept: the oldest
	// segments go first, whatever Retention says. 0 = no bound. It does not bind while a group still needs the records.
	MaxBytes int64
	// LookBack is how much log time before a committed offset its group still needs. Default 2 h.
	LookBack time.Duration
	// SegmentBytes is the size at which a new segment begins: the grain of retention. Default 64 MiB, at least 64 KiB.
	SegmentBytes int
	// MaxQueuedBytes bounds the records that wait to become durable: beyond it Append returns ErrOverloaded. Default 64 MiB.
	MaxQueuedBytes int64
	// TailBytes is how much of the end of each partition is kept in memory for readers that keep up. Default 4 MiB, < 0 = none.
	TailBytes int64
	// ReadOnly opens the log as it is at this moment, beside a process that may be using it: no lock, no repair, nothing
	// written. Later records are not seen, and some that are seen may not be acknowledged yet.
	ReadOnly bool
	// Now is the clock that log times come from; nil = time.Now.
	Now func() time.Time
}

// Validate fills in defaults and refuses what cannot work.
func (c *EmbeddedConfig) Validate() error {
	if c.Dir == "" {
		return errors.New("log: no directory")
	}
	if c.Partitions < 0 || c.Partitions > 10_000 {
		return fmt.Errorf("log: %d partitions, want 1 to 10000", c.Partitions)
	}
	if c.Fsync == "" {
		c.Fsync = FsyncGroup
	}
	if c.Fsync != FsyncGroup && c.Fsync != FsyncOff {
		return fmt.Errorf("log: fsync %q, want %q or %q", c.Fsync, FsyncGroup, FsyncOff)
	}
	if c.Retention == 0 {
		c.Retention = 24 * time.Hour
	}
	if c.LookBack == 0 {
		c.LookBack = 2 * time.Hour
	}
	if c.Retention < 0 || c.LookBack < 0 || c.MaxBytes < 0 {
		return errors.New("log: negative retention, look-back or size")
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = 64 << 20
	}
	if c.SegmentBytes < 2*pageSize {
		return fmt.Errorf("log: segments of %d bytes, want at least %d", c.SegmentBytes, 2*pageSize)
	}
	if c.MaxQueuedBytes <= 0 {
		c.MaxQueuedBytes = 64 << 20
	}
	if c.TailBytes == 0 {
		c.TailBytes = 4 << 20
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Embedded is a Log in a directory, for one process:
//
//	lock                      held while a process has the log open for writing
//	topics.json               topics, their IDs and numbers of partitions
//	commits.json              committed offsets
//	<topic>/<partition>/NNNNNNNN   segments, see segment.go and frame.go
//
// After a crash at any moment, opening it finds every acknowledged record (with FsyncGroup) and perhaps some that were
// not. The memory it takes does not depend on the log's length but for one entry per segment.
type Embedded struct {
	cfg     EmbeddedConfig
	logger  *slog.Logger
	metrics *metrics
	lock    fileutil.Releaser // nil if ReadOnly
	topics  map[string]*topic // never changes
	queued  atomic.Int64      // bytes in partitions' queues

	life   sync.RWMutex // held for reading by each Append and each pass of housekeeping, for writing by Close
	done   chan struct{}
	closed bool // guarded by life

	commitMu sync.Mutex // guards commits
	commits  map[string]map[string]map[int32]int64

	housekeeping sync.Mutex // one pass at a time
}

type topic struct {
	name  string
	id    string
	parts []*partition
	bytes prometheus.Gauge
}

var errReadOnly = errors.New("log is open for reading only")

// OpenEmbedded opens the log in cfg.Dir, making it if it is not there, and repairs what a crash has left. reg may be nil.
func OpenEmbedded(cfg EmbeddedConfig, logger *slog.Logger, reg prometheus.Registerer) (*Embedded, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	e := &Embedded{
		cfg: cfg, logger: logger, topics: map[string]*topic{}, done: make(chan struct{}),
		commits: map[string]map[string]map[int32]int64{},
	}
	if !cfg.ReadOnly {
		if err := os.MkdirAll(cfg.Dir, 0o777); err != nil {
			return nil, fmt.Errorf("create log: %w", err)
		}
		lock, _, err := fileutil.Flock(filepath.Join(cfg.Dir, lockFile))
		if err != nil {
			return nil, fmt.Errorf("lock log %s: is another process using it? %w", cfg.Dir, err)
		}
		e.lock = lock
	}
	e.metrics = newMetrics(reg)
	if err := e.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open log %s: %w", cfg.Dir, err), e.unlock())
	}
	return e, nil
}

func (e *Embedded) unlock() error {
	if e.lock == nil {
		return nil
	}
	return e.lock.Release()
}

func (e *Embedded) open() error {
	stored, err := e.openTopics()
	if err != nil {
		return err
	}
	commits := commitsJSON{}
	if _, err := readJSON(filepath.Join(e.cfg.Dir, commitsFile), &commits); err != nil {
		return err
	}
	if commits.Version > filesVersion {
		return fmt.Errorf("%s is of version %d, written by a newer Sluice", commitsFile, commits.Version)
	}
	if commits.Groups != nil {
		e.commits = commits.Groups
	}
	scratches := &sync.Pool{}
	for name, st := range stored.Topics {
		t := &topic{name: name, id: st.ID, bytes: e.metrics.bytes.WithLabelValues(name)}
		for i := range st.Partitions {
			p := e.newPartition(t, i)
			p.scratches = scratches
			if err := p.open(e.cfg.ReadOnly); err != nil {
				return fmt.Errorf("open %s/%d: %w", name, i, err)
			}
			t.parts = append(t.parts, p)
		}
		e.topics[name] = t
	}
	return nil
}

func (e *Embedded) newPartition(t *topic, i int32) *partition {
	p := &partition{
		topic: t.name, id: i, dir: partitionDir(e.cfg.Dir, t.name, i),
		compacted: t.name == TopicBlocks || t.name == TopicControl,
		compress:  t.name == TopicSamples,
		sync:      e.cfg.Fsync == FsyncGroup,
		rotateAt:  int64(e.cfg.SegmentBytes), tailMax: e.cfg.TailBytes,
		now: e.cfg.Now, logger: e.logger, metrics: e.metrics, bytes: t.bytes, queued: &e.queued,
		wake:     make(chan struct{}),
		writeAt:  func(f *os.File, b []byte, at int64) error { _, err := f.WriteAt(b, at); return err },
		syncFile: fileutil.Fdatasync, // the size is data; the times are not needed
		crash:    func(string) error { return nil },
	}
	if t.name == TopicSamples {
		p.startGauge = e.metrics.start.WithLabelValues(strconv.Itoa(int(i)))
		p.endGauge = e.metrics.end.WithLabelValues(strconv.Itoa(int(i)))
	}
	return p
}

func partitionDir(dir, topic string, i int32) string {
	return filepath.Join(dir, topic, strconv.Itoa(int(i)))
}

func (e *Embedded) topic(name string) (*topic, error) {
	t := e.topics[name]
	if t == nil {
		return nil, fmt.Errorf("%w: %s", ErrUnknownPartition, name)
	}
	return t, nil
}

func (e *Embedded) partition(name string, i int32) (*partition, error) {
	t, err := e.topic(name)
	if err != nil {
		return nil, err
	}
	return t.partition(i)
}

func (t *topic) partition(i int32) (*partition, error) {
	if i < 0 || int(i) >= len(t.parts) {
		return nil, fmt.Errorf("%w: %s/%d", ErrUnknownPartition, t.name, i)
	}
	return t.parts[i], nil
}

func (e *Embedded) isClosed() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// Partitions implements Log.
func (e *Embedded) Partitions(_ context.Context, name string) (int32, error) {
	t, err := e.topic(name)
	if err != nil {
		return 0, err
	}
	return int32(len(t.parts)), nil
}

// TopicID implements Log.
func (e *Embedded) TopicID(_ context.Context, name string) (string, error) {
	t, err := e.topic(name)
	if err != nil {
		return "", err
	}
	return t.id, nil
}

// Append implements Log. An error of the disk fails it; the partition then goes on in a new segment with the next one.
func (e *Embedded) Append(ctx context.Context, name string, recs []Record) error {
	if e.cfg.ReadOnly {
		return errReadOnly
	}
	e.life.RLock()
	defer e.life.RUnlock()
	if e.closed {
		return ErrClosed
	}
	t, err := e.topic(name)
	if err != nil {
		return err
	}
	size, err := checkRecords(t.name, recs, func(i int32) error { _, err := t.partition(i); return err })
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(recs) == 0 {
		return nil
	}
	// The bound is looked at once: a few appends at the same moment may exceed it by their own size.
	if q := e.queued.Load(); q > 0 && q+size > e.cfg.MaxQueuedBytes {
		e.metrics.overloads.Inc()
		return fmt.Errorf("%w: %d bytes are waiting for the disk", ErrOverloaded, q)
	}
	begin := time.Now()
	if err := t.append(ctx, recs, e); err != nil {
		e.metrics.appendErrors.WithLabelValues(name).Inc()
		return err
	}
	e.metrics.appendSeconds.Observe(time.Since(begin).Seconds())
	e.metrics.appendRecords.WithLabelValues(name).Add(float64(len(recs)))
	e.metrics.appendBytes.WithLabelValues(name).Add(float64(size))
	return nil
}

// checkRecords refuses what may not enter a topic and returns the bytes of the records.
func checkRecords(topic string, recs []Record, known func(partition int32) error) (size int64, err error) {
	keyed := topic == TopicBlocks || topic == TopicControl
	for i := range recs {
		n := recordSize(&recs[i])
		if n > MaxRecordBytes {
			return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, MaxRecordBytes)
		}
		if keyed && recs[i].Key == nil {
			return 0, fmt.Errorf("append to %s: a record has no key", topic)
		}
		if err := known(recs[i].Partition); err != nil {
			return 0, err
		}
		size += int64(n)
	}
	return size, nil
}

// append adds records to their partitions, to all at the same time.
func (t *topic) append(ctx context.Context, recs []Record, e *Embedded) error {
	var used []int32 // partitions, in the order they are met
	byPart := map[int32][]int{}
	for i := range recs {
		p := recs[i].Partition
		if byPart[p] == nil {
			used = append(used, p)
		}
		byPart[p] = append(byPart[p], i)
	}
	one := func(id int32) error {
		p, idx := t.parts[id], byPart[id]
		w := p.newWaiter(recs, idx)
		e.queued.Add(w.bytes)
		e.metrics.queued.Add(float64(w.bytes))
		if err := p.append(ctx, w); err != nil {
			return err
		}
		for k, i := range idx {
			recs[i].Offset, recs[i].Time = w.base+int64(k), w.time
		}
		return nil
	}
	errs := make([]error, len(used))
	var wg sync.WaitGroup
	for i, id := range used[1:] {
		wg.Go(func() { errs[i+1] = one(id) })
	}
	errs[0] = one(used[0])
	wg.Wait()
	return errors.Join(errs...)
}

// Bounds implements Log.
func (e *Embedded) Bounds(_ context.Context, name string, partition int32) (Bounds, error) {
	p, err := e.partition(name, partition)
	if err != nil {
		return Bounds{}, err
	}
	if e.isClosed() {
		return Bounds{}, ErrClosed
	}
	return p.bounds(), nil
}

// Ends implements Log.
func (e *Embedded) Ends(_ context.Context, name string) ([]int64, error) {
	t, err := e.topic(name)
	if err != nil {
		return nil, err
	}
	if e.isClosed() {
		return nil, ErrClosed
	}
	ends := make([]int64, len(t.parts))
	for i, p := range t.parts {
		ends[i] = p.bounds().End
	}
	return ends, nil
}

// Join implements Log: the one process that has the log has all partitions.
func (e *Embedded) Join(ctx context.Context, _ Membership, name string, changed func(partitions []int32)) error {
	t, err := e.topic(name)
	if err != nil {
		return err
	}
	all := make([]int32, len(t.parts))
	for i := range all {
		all[i] = int32(i)
	}
	changed(all)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-e.done:
		return ErrClosed
	}
}

// Leave implements Log: there is nobody else, so nothing changes hands.
func (e *Embedded) Leave(context.Context, Membership) error { return nil }

// OffsetAt implements Log. It reads up to one segment.
func (e *Embedded) OffsetAt(_ context.Context, name string, partition int32, t time.Time) (int64, error) {
	p, err := e.partition(name, partition)
	if err != nil {
		return 0, err
	}
	if e.isClosed() {
		return 0, ErrClosed
	}
	return p.offsetAt(t.UnixMilli())
}

// Commit implements Log.
func (e *Embedded) Commit(_ context.Context, group, name string, partition int32, offset int64) error {
	if e.cfg.ReadOnly {
		return errReadOnly
	}
	if _, err := e.partition(name, partition); err != nil {
		return err
	}
	if offset < 0 {
		return fmt.Errorf("commit %s/%d: negative offset %d", name, partition, offset)
	}
	e.life.RLock()
	defer e.life.RUnlock()
	if e.closed {
		return ErrClosed
	}
	e.commitMu.Lock()
	defer e.commitMu.Unlock()
	if e.commits[group] == nil {
		e.commits[group] = map[string]map[int32]int64{}
	}
	if e.commits[group][name] == nil {
		e.commits[group][name] = map[int32]int64{}
	}
	parts := e.commits[group][name]
	old, had := parts[partition]
	parts[partition] = offset
	if err := writeJSON(filepath.Join(e.cfg.Dir, commitsFile), commitsJSON{Version: filesVersion, Groups: e.commits}); err != nil {
		// Whether the file was replaced is not known; what it says is either, as after a crash. Retention must not rely on it.
		if delete(parts, partition); had {
			parts[partition] = old
		}
		return fmt.Errorf("commit %s/%d: %w", name, partition, err)
	}
	return nil
}

// Committed implements Log.
func (e *Embedded) Committed(_ context.Context, group, name string) (map[int32]int64, error) {
	if _, err := e.topic(name); err != nil {
		return nil, err
	}
	if e.isClosed() {
		return nil, ErrClosed
	}
	e.commitMu.Lock()
	defer e.commitMu.Unlock()
	out := map[int32]int64{}
	for p, off := range e.commits[group][name] {
		out[p] = off
	}
	return out, nil
}

// Trim implements Log: it removes the segments that end at or before the offset, but never the last one with records,
// from which the next offset is known. A compacted topic is not trimmed: its records go when their keys do.
func (e *Embedded) Trim(_ context.Context, name string, partition int32, before int64) error {
	if e.cfg.ReadOnly {
		return errReadOnly
	}
	p, err := e.partition(name, partition)
	if err != nil {
		return err
	}
	e.life.RLock()
	defer e.life.RUnlock()
	if e.closed {
		return ErrClosed
	}
	if p.compacted {
		return nil
	}
	e.housekeeping.Lock()
	defer e.housekeeping.Unlock()
	n := p.droppable(func(_ *segment, next *segment) bool { return next.first <= before })
	if _, err := p.drop(n); err != nil {
		return fmt.Errorf("trim %s/%d: %w", name, partition, err)
	}
	return nil
}

// Reader implements Log.
func (e *Embedded) Reader(name string, partition int32, offset int64) (Reader, error) {
	p, err := e.partition(name, partition)
	if err != nil {
		return nil, err
	}
	if e.isClosed() {
		return nil, ErrClosed
	}
	return &embeddedReader{p: p, done: e.done, off: offset}, nil
}

// Close implements Log.
func (e *Embedded) Close() error {
	e.life.Lock()
	defer e.life.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	close(e.done)
	var errs []error
	for _, t := range e.topics {
		for _, p := range t.parts {
			errs = append(errs, p.close())
		}
	}
	errs = append(errs, e.unlock())
	return errors.Join(errs...)
}

var _ Log = (*Embedded)(nil)
