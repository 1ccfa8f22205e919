// Package store answers queries from the blocks in the bucket without ever downloading one. In goes a catalogue entry, a
// time range and matchers, out come the series of that block exactly as Prometheus' own block querier would give them.
// It reads with ranged GETs through one page cache in memory, plans the pages of a query before it reads them, and checks
// every checksum that TSDB's formats have. It never writes, never lists the bucket and never trusts what a block says:
// a block that lies is an error with the tenant, the block and the file in it.
//
// A block is opened once: the header of its index, a sample of the tables that every query needs, stays in memory until an
// LRU drops it. All else (symbols, tables, postings, series, chunks) comes in pages. From a cold block every answer comes
// in at most six rounds of parallel GETs, most in four: header; tables with short postings; series; symbols and chunks.
package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/storage"
	"github.com/thanos-io/objstore"

	layout "sluice/internal/block"
	"sluice/reader/store/disk"
	"sluice/schema"
)

// ErrGone is in the chain of an error when a file of the block is not in the bucket: the block was deleted after the
// caller learned of it.
var ErrGone = errors.New("not in the bucket")

// Config of a Store. Zero values take the defaults.
type Config struct {
	CacheBytes  int64         // memory for pages; default 256 MiB
	PageBytes   int           // one page; default 64 KiB
	OpenBytes   int64         // memory for the headers of opened blocks; default 128 MiB
	AnswerBytes int64         // memory for what blocks have said of their labels; default 32 MiB
	Parallelism int           // GETs under way at one time; default 32
	GetTimeout  time.Duration // for one GET; default 30 s

	Disk disk.Config // pages that survive a restart; none without Bytes
}

// Validate fills in the defaults and refuses what cannot work.
func (c *Config) Validate() error {
	defaultTo(&c.CacheBytes, 256<<20)
	defaultTo(&c.PageBytes, 64<<10)
	defaultTo(&c.OpenBytes, 128<<20)
	defaultTo(&c.AnswerBytes, 32<<20)
	defaultTo(&c.Parallelism, 32)
	defaultTo(&c.GetTimeout, 30*time.Second)
	switch {
	case c.PageBytes < 512 || c.PageBytes > 16<<20:
		return fmt.Errorf("page of %d bytes, must be between 512 B and 16 MiB", c.PageBytes)
	case c.CacheBytes < int64(c.PageBytes):
		return fmt.Errorf("cache of %d bytes holds no page of %d bytes", c.CacheBytes, c.PageBytes)
	case c.OpenBytes < 0 || c.AnswerBytes < 0 || c.Parallelism < 0 || c.GetTimeout < 0:
		return errors.New("open bytes, answer bytes, parallelism and GET time-out must not be negative")
	}
	return c.Disk.Validate()
}

func defaultTo[T int | int64 | time.Duration](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

// Store serves the blocks of one bucket.
type Store struct {
	cfg     Config
	pages   *pages
	logger  *slog.Logger
	metrics *metrics
	replies *replies

	mu     sync.Mutex
	opened *lru[*block]
	flight map[string]*opening
}

// opening is a block that somebody is opening.
type opening struct {
	done  chan struct{}
	block *block
	err   error
}

// New makes a Store. Close it to stop the cache's goroutine.
func New(bkt objstore.BucketReader, cfg Config, logger *slog.Logger, reg prometheus.Registerer) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("block store: %w", err)
	}
	m := newMetrics(reg)
	d, err := disk.New(cfg.Disk, logger, reg)
	if err != nil {
		return nil, fmt.Errorf("block store: %w", err)
	}
	p, err := newPages(bkt, cfg, m, d)
	if err != nil {
		return nil, fmt.Errorf("block store: %w", err)
	}
	return &Store{
		cfg: cfg, pages: p, logger: logger, metrics: m, replies: newReplies(cfg.AnswerBytes, m),
		opened: newLRU[*block](cfg.OpenBytes), flight: map[string]*opening{},
	}, nil
}

// Run keeps the pages on the local disk until ctx ends. Without it there are none; the store works all the same.
func (s *Store) Run(ctx context.Context) error { return s.pages.disk.Run(ctx) }

// Close releases the cache. Queries under way go on without it.
func (s *Store) Close() { s.pages.close() }

// Querier opens the block of entry for [mint, maxt] (ms, both inclusive). ctx is for the opening alone; the calls of the
// querier have their own. Errors are a schema.Error (ErrBlockUnreadable; ErrGone in its chain when the block has gone) or
// the context's.
func (s *Store) Querier(ctx context.Context, entry *schema.BlockEntry, mint, maxt int64) (storage.Querier, error) {
	b, err := s.block(ctx, entry)
	if err != nil {
		return nil, err
	}
	return &querier{block: b, replies: s.replies, mint: mint, maxt: maxt}, nil
}

// block returns the opened block; many callers at once open it once.
func (s *Store) block(ctx context.Context, entry *schema.BlockEntry) (*block, error) {
	key := layout.Key(entry.Tenant, entry.ID)
	for {
		s.mu.Lock()
		if b, ok := s.opened.get(key); ok {
			s.mu.Unlock()
			return b, nil
		}
		if o := s.flight[key]; o != nil {
			s.mu.Unlock()
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-o.done:
			}
			if o.err == nil {
				return o.block, nil
			}
			if isContextError(o.err) { // the other caller gave up, which says nothing about the block
				continue
			}
			return nil, o.err
		}
		o := &opening{done: make(chan struct{})}
		s.flight[key] = o
		s.mu.Unlock()

		o.block, o.err = s.open(ctx, entry)
		s.mu.Lock()
		delete(s.flight, key)
		if o.err == nil {
			s.opened.add(key, o.block)
			s.metrics.open.Set(float64(s.opened.order.Len()))
			s.metrics.openBytes.Set(float64(s.opened.bytes))
		}
		s.mu.Unlock()
		close(o.done)
		return o.block, o.err
	}
}

// file is one file of a block in the bucket.
type file struct {
	tenant schema.Tenant
	block  ulid.ULID
	name   string // inside of the block
	key    string // in the bucket
	hash   uint64 // of key
	size   int64
	id     [16]byte // of key, size, hash and the length of pages: what pages on disk are of
}

// fail names the file in err; the context's errors stay what they are.
func (f *file) fail(err error) error {
	var se *schema.Error
	if err == nil || isContextError(err) || errors.As(err, &se) {
		return err
	}
	return schema.Unavailable(schema.ErrBlockUnreadable, err, "file %s of block %s of tenant %s cannot be read", f.name, f.block, f.tenant)
}

// block is an opened block.
type block struct {
	pages    *pages
	index    *blockIndex
	segments []*file // chunks/000001 is segments[0]

	chunkGuess int64 // bytes that most chunks do not exceed, with length, encoding and checksum
}

func (b *block) bytes() int64 { return b.index.bytes() }

func (s *Store) open(ctx context.Context, entry *schema.BlockEntry) (*block, error) {
	b := &block{pages: s.pages}
	var index, header *file
	var sum [32]byte
	var bytes int64
	for _, bf := range entry.Files {
		f := s.newFile(entry, bf)
		switch {
		case bf.Path == schema.IndexFile:
			index, sum = f, layout.SumOf(bf)
		case bf.Path == schema.HeaderFile:
			header = f
		case strings.HasPrefix(bf.Path, schema.ChunksDir+"/"):
			b.segments = append(b.segments, f)
			bytes += f.size
		}
	}
	slices.SortFunc(b.segments, func(x, y *file) int { return strings.Compare(x.name, y.name) })
	if index == nil {
		index = s.newFile(entry, schema.BlockFile{Path: schema.IndexFile})
		return nil, index.fail(errors.New("the catalogue does not list it"))
	}
	h, err := s.header(ctx, index, header, sum)
	if err != nil {
		return nil, index.fail(err)
	}
	b.index = newIndex(s.pages, index, h, int64(entry.Series))
	chunks := max(entry.Series, entry.Samples/120, 1)
	if b.chunkGuess = h.LongestChunk; b.chunkGuess == 0 {
		b.chunkGuess = 2 * bytes / int64(chunks)
	}
	b.chunkGuess = min(max(b.chunkGuess, 64), 16<<10)
	return b, nil
}

func (s *Store) newFile(entry *schema.BlockEntry, bf schema.BlockFile) *file {
	key := layout.Key(entry.Tenant, entry.ID, bf.Path)
	f := &file{tenant: entry.Tenant, block: entry.ID, name: bf.Path, key: key, hash: hashOf(key), size: bf.Size}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %d %x %d", key, bf.Size, layout.SumOf(bf), s.cfg.PageBytes))
	copy(f.id[:], sum[:])
	return f
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// recovered turns a panic into an error: decoding bytes that lie must not take the process down. Use it deferred.
func recovered(f *file, err *error) {
	if r := recover(); r != nil {
		*err = f.fail(fmt.Errorf("decoding panicked: %v", r))
	}
}
