// Package disk keeps pages of files on the local disk, behind the cache in memory, so that they survive a restart. In go
// pages with a key that says of which file, of what content, they are; out comes the same page, or nothing. Each page has
// a checksum and is held against it: one that is not what was put in is a miss, and forgotten. Pages are written in the
// background, from a queue with a bound, and left out when it is full; so nobody ever waits for a write. It is bounded
// in bytes, and whatever goes wrong with the disk, its user goes on without.
//
// Pages lie one behind the other in slabs, files of a 64th of all bytes. When there is no room the oldest slab is deleted
// as a whole; pages in it that somebody has read since they were written are carried over into the newest.
//
// A record in a slab, numbers big-endian:
//
//	"SLPG" | file, 16 bytes | page, 4 | length, 4 | CRC32 (Castagnoli) of the content, 4 | CRC32 of all before, 4 | content
package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// MinBytes is the smallest cache that makes sense.
const MinBytes = 16 << 20

// Config of a Cache.
type Config struct {
	Dir   string // made if it is not there; for one process at a time
	Bytes int64  // that it may take on disk; 0 = no cache
}

// Validate refuses what cannot work.
func (c *Config) Validate() error {
	if c.Bytes != 0 && c.Bytes < MinBytes {
		return fmt.Errorf("page cache on disk of %d bytes, must be at least %d, or 0 for none", c.Bytes, MinBytes)
	}
	if c.Bytes != 0 && c.Dir == "" {
		return errors.New("page cache on disk without a folder")
	}
	return nil
}

// Key names a page: File says which file and which content of it.
type Key struct {
	File [16]byte
	Page uint32
}

const (
	magic      = "SLPG"
	headBytes  = 4 + 16 + 4 + 4 + 4 + 4
	maxPage    = 64 << 20
	queuePages = 512
	queueBytes = 32 << 20
	slabSuffix = ".pages"
	lockFile   = "lock"
)

// Cache is the cache. Before Run and after it, it holds nothing; a nil one never does.
type Cache struct {
	cfg    Config
	slab   int64         // bytes of a slab
	pause  time.Duration // after a failed write
	logger *slog.Logger

	on     atomic.Bool
	queue  chan item
	queued atomic.Int64 // bytes

	mu    sync.Mutex
	pages map[Key]place // guarded by mu

	slabs []*slab // oldest first; Run's alone
	bytes int64   // likewise

	hits, misses, dropped, evicted prometheus.Counter
	failed                         *prometheus.CounterVec
	size                           prometheus.Gauge
}

type item struct {
	key Key
	b   []byte // nil: forget it
}

type place struct {
	slab *slab
	off  int64
	n    uint32
	used bool
}

type slab struct {
	file   *os.File
	number uint64
	size   int64
	keys   []Key
}

// New makes a cache that starts nothing.
func New(cfg Config, logger *slog.Logger, reg prometheus.Registerer) (*Cache, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "sluice_store_disk_" + name, Help: help})
	}
	return &Cache{
		cfg: cfg, slab: min(max(cfg.Bytes/64, 1<<20), 256<<20), pause: 30 * time.Second, logger: logger,
		queue: make(chan item, queuePages), pages: map[Key]place{},
		hits:    counter("hits_total", "Pages found on the local disk."),
		misses:  counter("misses_total", "Pages found neither in memory nor on the local disk."),
		dropped: counter("dropped_total", "Pages not written to the local disk, as too many were waiting or it had failed."),
		evicted: counter("evicted_total", "Pages deleted from the local disk to make room."),
		failed:  f.NewCounterVec(prometheus.CounterOpts{Name: "sluice_store_disk_errors_total", Help: "What went wrong with the local disk: read, write, or rotten for a page that was not what had been written."}, []string{"what"}),
		size:    f.NewGauge(prometheus.GaugeOpts{Name: "sluice_store_disk_bytes", Help: "Bytes of pages on the local disk."}),
	}, nil
}

// On tells whether pages may be found.
func (c *Cache) On() bool { return c != nil && c.on.Load() }

// Idle tells whether nothing waits to be written.
func (c *Cache) Idle() bool { return c.queued.Load() == 0 }

// Get returns the page, nil if it is not there.
func (c *Cache) Get(key Key) []byte {
	if !c.On() {
		return nil
	}
	c.mu.Lock()
	p, ok := c.pages[key]
	if ok && !p.used {
		p.used = true
		c.pages[key] = p
	}
	c.mu.Unlock()
	if !ok {
		c.misses.Inc()
		return nil
	}
	b, err := p.read(key)
	if err != nil {
		if !errors.Is(err, os.ErrClosed) { // the slab was deleted just now
			what := "read"
			if errors.Is(err, errRotten) {
				what = "rotten"
			}
			c.failed.WithLabelValues(what).Inc()
		}
		c.misses.Inc()
		c.forget(key, p.slab, p.off)
		return nil
	}
	c.hits.Inc()
	return b
}

var errRotten = errors.New("not what was written")

func (p place) read(key Key) ([]byte, error) {
	b := make([]byte, headBytes+int(p.n))
	if _, err := p.slab.file.ReadAt(b, p.off); err != nil {
		return nil, err
	}
	k, n, sum, ok := decodeHead(b[:headBytes])
	b = b[headBytes:]
	if !ok || k != key || n != p.n || crc32.Checksum(b, castagnoli()) != sum {
		return nil, errRotten
	}
	return b, nil
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // the same table each time

func appendHead(b []byte, key Key, content []byte) []byte {
	from := len(b)
	b = append(b, magic...)
	b = append(b, key.File[:]...)
	b = binary.BigEndian.AppendUint32(b, key.Page)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(content, castagnoli()))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli()))
}

func decodeHead(b []byte) (key Key, n, sum uint32, ok bool) {
	if len(b) < headBytes || string(b[:4]) != magic || crc32.Checksum(b[:headBytes-4], castagnoli()) != binary.BigEndian.Uint32(b[headBytes-4:]) {
		return key, 0, 0, false
	}
	copy(key.File[:], b[4:])
	key.Page = binary.BigEndian.Uint32(b[20:])
	n = binary.BigEndian.Uint32(b[24:])
	return key, n, binary.BigEndian.Uint32(b[28:]), n <= maxPage
}

// Put has the page written some time later, or not at all. b must not be changed any more.
func (c *Cache) Put(key Key, b []byte) {
	if !c.On() || len(b) == 0 || int64(len(b)) > c.slab/2 {
		return
	}
	n := int64(len(b))
	if c.queued.Add(n) <= queueBytes {
		select {
		case c.queue <- item{key, b}:
			return
		default:
		}
	}
	c.queued.Add(-n)
	c.dropped.Inc()
}

// Drop forgets a page, also one that is still to be written.
func (c *Cache) Drop(key Key) {
	if !c.On() {
		return
	}
	c.mu.Lock()
	delete(c.pages, key)
	c.mu.Unlock()
	select {
	case c.queue <- item{key: key}:
	default: // whoever finds it wrong again drops it again
	}
}

func (c *Cache) forget(key Key, s *slab, off int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.pages[key]; ok && p.slab == s && p.off == off {
		delete(c.pages, key)
	}
}

// Run takes the folder, finds what is in it, and writes pages until ctx ends. Only ctx's error is returned: without a disk
// there is no cache, and nothing else is wrong.
func (c *Cache) Run(ctx context.Context) error {
	if c == nil || c.cfg.Bytes == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	release, err := c.open(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.failed.WithLabelValues("read").Inc()
			c.logger.Warn("going without the page cache on disk", "dir", c.cfg.Dir, "err", err)
		}
		<-ctx.Done()
		return ctx.Err()
	}
	defer release()
	c.logger.Info("page cache on disk", "dir", c.cfg.Dir, "pages", len(c.pages), "bytes", c.bytes)
	c.on.Store(true)
	w := writer{cache: c}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case it := <-c.queue:
			w.take(it)
			c.queued.Add(-int64(len(it.b)))
		}
	}
}

// open locks the folder and reads the heads of all pages in it.
func (c *Cache) open(ctx context.Context) (release func(), err error) {
	if err := os.MkdirAll(c.cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	lock, _, err := fileutil.Flock(filepath.Join(c.cfg.Dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("lock the folder, is another process using it?: %w", err)
	}
	release = func() {
		c.on.Store(false)
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range c.slabs {
			_ = s.file.Close() // it was only read, or holds nothing that must stay
		}
		c.slabs, c.bytes = nil, 0
		clear(c.pages)
		_ = lock.Release()
	}
	names, err := os.ReadDir(c.cfg.Dir)
	if err != nil {
		release()
		return nil, err
	}
	for _, d := range names { // in order of numbers, which have the same length
		name, ok := strings.CutSuffix(d.Name(), slabSuffix)
		var number uint64
		if _, err := fmt.Sscanf(name, "%016x", &number); !ok || err != nil {
			continue
		}
		if ctx.Err() != nil {
			release()
			return nil, ctx.Err()
		}
		c.adopt(filepath.Join(c.cfg.Dir, d.Name()), number)
	}
	for c.bytes > c.cfg.Bytes {
		c.evict()
	}
	return release, nil
}

// adopt takes over a slab of an earlier process, up to its first record that is not whole.
func (c *Cache) adopt(path string, number uint64) {
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		c.failed.WithLabelValues("read").Inc()
		return
	}
	s := &slab{file: f, number: number}
	info, err := f.Stat()
	if err != nil {
		c.failed.WithLabelValues("read").Inc()
	}
	head := make([]byte, headBytes)
	for err == nil {
		if _, err = f.ReadAt(head, s.size); err != nil {
			break
		}
		key, n, _, ok := decodeHead(head)
		end := s.size + headBytes + int64(n)
		if !ok || end > info.Size() {
			break
		}
		c.pages[key] = place{slab: s, off: s.size, n: n}
		s.keys = append(s.keys, key)
		s.size = end
	}
	c.slabs = append(c.slabs, s)
	n := s.size
	s.size = 0
	c.add(s, n)
}

func (c *Cache) add(s *slab, n int64) {
	s.size += n
	c.bytes += n
	c.size.Set(float64(c.bytes))
}

// evict deletes the oldest slab and returns the pages of it that were read since they were written.
func (c *Cache) evict() (carry []item) {
	s := c.slabs[0]
	c.slabs = slices.Delete(c.slabs, 0, 1)
	var used []place
	c.mu.Lock()
	for _, key := range s.keys {
		p, ok := c.pages[key]
		if !ok || p.slab != s {
			continue
		}
		delete(c.pages, key)
		if p.used {
			carry, used = append(carry, item{key: key}), append(used, p)
		} else {
			c.evicted.Inc()
		}
	}
	c.mu.Unlock()
	room := c.slab / 4
	for i := range carry {
		if room -= int64(used[i].n); room > 0 {
			carry[i].b, _ = used[i].read(carry[i].key) // or it is lost, as any other
		}
	}
	c.add(s, -s.size)
	if err := errors.Join(os.Remove(s.file.Name()), s.file.Close()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.failed.WithLabelValues("write").Inc()
	}
	return slices.DeleteFunc(carry, func(it item) bool { return it.b == nil })
}

// writer is Run's alone.
type writer struct {
	cache *Cache
	cur   *slab // written to, the last of the slabs; nil = none yet
	after time.Time
	buf   []byte
}

func (w *writer) take(it item) {
	c := w.cache
	c.mu.Lock()
	_, has := c.pages[it.key]
	if it.b == nil {
		delete(c.pages, it.key)
	}
	c.mu.Unlock()
	if has || it.b == nil {
		return
	}
	if time.Now().Before(w.after) {
		c.dropped.Inc()
		return
	}
	if err := w.write(it); err != nil {
		c.failed.WithLabelValues("write").Inc()
		c.logger.Warn("writing to the page cache on disk: going without for a while", "err", err, "for", c.pause)
		w.cur, w.after = nil, time.Now().Add(c.pause)
		if len(c.slabs) > 0 && c.bytes > c.cfg.Bytes/2 { // a disk that others have filled
			c.evict()
		}
	}
}

func (w *writer) write(it item) error {
	c := w.cache
	if w.cur == nil || w.cur.size >= c.slab {
		if err := w.next(); err != nil {
			return err
		}
	}
	return w.append(it)
}

// next begins a slab, and makes room for it.
func (w *writer) next() error {
	c := w.cache
	number := uint64(1)
	if n := len(c.slabs); n > 0 {
		number = c.slabs[n-1].number + 1
	}
	path := filepath.Join(c.cfg.Dir, fmt.Sprintf("%016x", number)+slabSuffix)
	const how = os.O_RDWR | os.O_CREATE | os.O_TRUNC
	f, err := os.OpenFile(path, how, 0o644)
	if errors.Is(err, fs.ErrNotExist) { // somebody has deleted the folder
		if err = os.MkdirAll(c.cfg.Dir, 0o755); err == nil {
			f, err = os.OpenFile(path, how, 0o644)
		}
	}
	if err != nil {
		return err
	}
	var carry []item
	for len(c.slabs) > 0 && c.bytes+c.slab > c.cfg.Bytes {
		carry = append(carry, c.evict()...)
	}
	w.cur = &slab{file: f, number: number}
	c.slabs = append(c.slabs, w.cur)
	for _, it := range carry {
		if err := w.append(it); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) append(it item) error {
	c := w.cache
	w.buf = append(appendHead(w.buf[:0], it.key, it.b), it.b...)
	if _, err := w.cur.file.WriteAt(w.buf, w.cur.size); err != nil {
		return err
	}
	c.mu.Lock()
	c.pages[it.key] = place{slab: w.cur, off: w.cur.size, n: uint32(len(it.b))}
	c.mu.Unlock()
	w.cur.keys = append(w.cur.keys, it.key)
	c.add(w.cur, int64(len(w.buf)))
	return nil
}
