package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/thanos-io/objstore"
	"golang.org/x/sync/errgroup"

	layout "sluice/internal/block"
	"sluice/internal/trace"
	"sluice/reader/store/disk"
)

const (
	// runPages is the longest run of pages that one GET fetches: longer ones are split, so that they come in parallel.
	runPages = 16
	// gapPages is how many pages that nobody asked for are fetched with those around them: cheaper than another GET.
	gapPages = 2
	// windowPages bounds what one read holds in memory at a time.
	windowPages = 512
	// recentBytes is how much of what was just fetched is kept at hand beside the cache, which takes pages in a moment
	// later, or not at all: without it, many queries that start together would each fetch the same pages.
	recentBytes = 8 << 20
	// attempts at a GET, as a connection may break under the best of buckets.
	attempts = 2
)

// pages reads files of the bucket page by page, through a cache. A page that several readers lack is fetched once.
type pages struct {
	bkt     objstore.BucketReader
	cfg     Config
	size    int64
	metrics *metrics
	cache   *ristretto.Cache[uint64, *page]
	disk    *disk.Cache
	slots   chan struct{} // one for each GET that may be under way

	closing sync.RWMutex // held for reading while the cache is used: it does not bear being closed under somebody's hands
	closed  bool

	mu       sync.Mutex      // guards what follows
	flight   map[pageID]*run // being fetched, or in recent
	recent   []*run          // fetched, oldest first
	recently int64           // bytes of recent
}

// page is a page in the cache; key and n tell whether it is the one that was looked for, as the cache knows hashes only.
type page struct {
	key string
	n   int64
	b   []byte
}

type pageID struct {
	key string
	n   int64
}

// run is a number of neighbouring pages that one GET brings.
type run struct {
	first, last int64
	done        chan struct{}
	pages       []*page
	err         error
}

// span is a range of bytes of a file.
type span struct{ from, to int64 }

func newPages(bkt objstore.BucketReader, cfg Config, m *metrics, d *disk.Cache) (*pages, error) {
	cache, err := ristretto.NewCache(&ristretto.Config[uint64, *page]{
		NumCounters: max(10*cfg.CacheBytes/int64(cfg.PageBytes), 1000),
		MaxCost:     cfg.CacheBytes,
		BufferItems: 64,
	})
	if err != nil {
		return nil, fmt.Errorf("make page cache: %w", err)
	}
	return &pages{
		bkt: bkt, cfg: cfg, size: int64(cfg.PageBytes), metrics: m, cache: cache, disk: d,
		slots: make(chan struct{}, cfg.Parallelism), flight: map[pageID]*run{},
	}, nil
}

func hashOf(key string) uint64 { return xxhash.Sum64String(key) }

func (f *file) cacheKey(n int64) uint64 { return f.hash ^ uint64(n+1)*0x9e3779b97f4a7c15 }

// reason is what something is read for; it is counted.
type reason string

const (
	forHeader   reason = "header"
	forTable    reason = "table" // and postings that are read with it
	forPostings reason = "postings"
	forSeries   reason = "series"
	forSymbols  reason = "symbols"
	forChunks   reason = "chunks"
)

var reasons = [...]reason{forHeader, forTable, forPostings, forSeries, forSymbols, forChunks}

// read gives each span's bytes to use, in order of the spans, which must be sorted by their starts. All pages that a
// window of spans needs are fetched in parallel before the first of them is used. The bytes must not be changed, and
// keeping them keeps their pages.
func (p *pages) read(ctx context.Context, f *file, why reason, spans []span, use func(i int, b []byte) error) error {
	for start := 0; start < len(spans); {
		var nums []int64
		end := start
		for ; end < len(spans); end++ {
			s := spans[end]
			if s.from < 0 || s.to <= s.from || s.to > f.size {
				return fmt.Errorf("bytes %d to %d are outside of the file of %d", s.from, s.to, f.size)
			}
			first, last := s.from/p.size, (s.to-1)/p.size
			if n := len(nums); n > 0 {
				first = max(first, nums[n-1]+1)
			}
			if len(nums) > 0 && int64(len(nums))+last-first+1 > windowPages {
				break
			}
			for n := first; n <= last; n++ {
				nums = append(nums, n)
			}
		}
		got, err := p.load(ctx, f, why, nums)
		if err != nil {
			return err
		}
		for i := start; i < end; i++ {
			if err := use(i, p.cut(nums, got, spans[i])); err != nil {
				if !errors.Is(err, errEnough) && !isContextError(err) {
					p.drop(f, nums) // the bytes are wrong, but those in the bucket may be right
				}
				return err
			}
		}
		start = end
	}
	return nil
}

// cut takes the bytes of s out of the pages nums.
func (p *pages) cut(nums []int64, got [][]byte, s span) []byte {
	first, last := s.from/p.size, (s.to-1)/p.size
	i, _ := slices.BinarySearch(nums, first)
	if first == last {
		return got[i][s.from-first*p.size : s.to-first*p.size]
	}
	out := make([]byte, 0, s.to-s.from)
	for n := first; n <= last; n, i = n+1, i+1 {
		from, to := max(s.from-n*p.size, 0), min(s.to-n*p.size, p.size)
		out = append(out, got[i][from:to]...)
	}
	return out
}

// load returns the pages nums (sorted, unique) of f.
func (p *pages) load(ctx context.Context, f *file, why reason, nums []int64) ([][]byte, error) {
	got := make([][]byte, len(nums))
	missing := p.cached(f, nums, got)
	p.metrics.hits.Add(float64(len(nums) - missing))
	p.metrics.misses.Add(float64(missing))
	if err := errors.Join(trace.Add(ctx, trace.PageHits, int64(len(nums)-missing)), trace.Add(ctx, trace.PageMisses, int64(missing))); err != nil {
		return nil, err
	}
	if missing > 0 && p.disk.On() {
		found := p.fromDisk(f, nums, got)
		missing -= found
		if err := trace.Add(ctx, trace.DiskHits, int64(found)); err != nil {
			return nil, err
		}
	}
	for missing > 0 {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		mine, others := p.claim(f, nums, got)
		if err := p.account(ctx, f, mine); err != nil {
			return nil, err
		}
		g, gctx := errgroup.WithContext(ctx)
		for _, r := range mine {
			g.Go(func() error {
				p.fetchRun(gctx, f, why, r)
				return r.err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		for _, r := range others {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-r.done:
			}
			// Whoever fetched it may have given up; then it is our turn.
			if r.err != nil && !isContextError(r.err) {
				return nil, r.err
			}
		}
		missing = 0
		for i, n := range nums {
			if got[i] == nil {
				got[i] = find(mine, n)
			}
			if got[i] == nil {
				got[i] = find(others, n)
			}
			if got[i] == nil {
				missing++
			}
		}
	}
	return got, nil
}

// account counts what the query is going to fetch. Past a limit nothing is fetched, and whoever waits for it does it.
func (p *pages) account(ctx context.Context, f *file, mine []*run) error {
	var n int64
	for _, r := range mine {
		n += min((r.last+1)*p.size, f.size) - r.first*p.size
	}
	err := errors.Join(trace.Add(ctx, trace.BucketRequests, int64(len(mine))), trace.Add(ctx, trace.BucketBytes, n))
	if err == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range mine {
		for n := r.first; n <= r.last; n++ {
			delete(p.flight, pageID{f.key, n})
		}
		r.err = context.Canceled
		close(r.done)
	}
	return err
}

func find(runs []*run, n int64) []byte {
	for _, r := range runs {
		if r.err == nil && r.first <= n && n <= r.last {
			return r.pages[n-r.first].b
		}
	}
	return nil
}

// cached fills in what the cache has and returns how many pages it lacks.
func (p *pages) cached(f *file, nums []int64, got [][]byte) int {
	p.closing.RLock()
	defer p.closing.RUnlock()
	missing := 0
	for i, n := range nums {
		if pg, ok := p.cache.Get(f.cacheKey(n)); ok && pg.n == n && pg.key == f.key {
			got[i] = pg.b
		} else {
			missing++
		}
	}
	return missing
}

// diskReads is how many pages one query reads from the local disk at a time.
const diskReads = 8

// fromDisk fills in what the local disk has and returns how many pages that are.
func (p *pages) fromDisk(f *file, nums []int64, got [][]byte) (found int) {
	var g errgroup.Group
	g.SetLimit(diskReads)
	var lack []int
	for i, n := range nums {
		if got[i] == nil && n <= math.MaxUint32 {
			lack = append(lack, i)
		}
	}
	for part := range slices.Chunk(lack, max(len(lack)/diskReads, 8)) {
		g.Go(func() error {
			for _, i := range part {
				b := p.disk.Get(disk.Key{File: f.id, Page: uint32(nums[i])})
				if want := min(p.size, f.size-nums[i]*p.size); int64(len(b)) == want {
					got[i] = b
				}
			}
			return nil
		})
	}
	_ = g.Wait() // nothing fails
	p.closing.RLock()
	defer p.closing.RUnlock()
	for _, i := range lack {
		if got[i] != nil {
			found++
			p.cache.Set(f.cacheKey(nums[i]), &page{key: f.key, n: nums[i], b: got[i]}, int64(len(got[i]))+64)
		}
	}
	return found
}

// claim sorts the missing pages into runs that the caller has to fetch and runs that others are fetching.
func (p *pages) claim(f *file, nums []int64, got [][]byte) (mine, others []*run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var cur *run
	for i, n := range nums {
		if got[i] != nil {
			continue
		}
		if r := p.flight[pageID{f.key, n}]; r != nil {
			if r != cur && !slices.Contains(others, r) {
				others = append(others, r)
			}
			continue
		}
		if cur == nil || n-cur.last > gapPages+1 || n-cur.first >= runPages || !p.fill(f, cur, n) {
			cur = &run{first: n, last: n - 1, done: make(chan struct{})}
			mine = append(mine, cur)
		}
		cur.last = n
		p.flight[pageID{f.key, n}] = cur
	}
	return mine, others
}

// fill adds the pages up to n to r, unless somebody else fetches one of them. The caller holds mu.
func (p *pages) fill(f *file, r *run, n int64) bool {
	for i := r.last + 1; i < n; i++ {
		if p.flight[pageID{f.key, i}] != nil {
			return false
		}
	}
	for i := r.last + 1; i < n; i++ {
		p.flight[pageID{f.key, i}] = r
	}
	return true
}

// fetchRun fetches r and tells everyone who waits for it.
func (p *pages) fetchRun(ctx context.Context, f *file, why reason, r *run) {
	r.pages = make([]*page, 0, r.last-r.first+1)
	bufs := make([][]byte, 0, cap(r.pages))
	for n := r.first; n <= r.last; n++ {
		// Each page has its own memory, so that one that stays does not keep its neighbours.
		pg := &page{key: f.key, n: n, b: make([]byte, min(p.size, f.size-n*p.size))}
		r.pages = append(r.pages, pg)
		bufs = append(bufs, pg.b)
	}
	r.err = p.get(ctx, f, why, r.first*p.size, bufs)
	if r.err == nil {
		p.closing.RLock()
		for _, pg := range r.pages {
			p.cache.Set(f.cacheKey(pg.n), pg, int64(len(pg.b))+64)
			p.disk.Put(disk.Key{File: f.id, Page: uint32(pg.n)}, pg.b)
		}
		p.closing.RUnlock()
	}
	p.mu.Lock()
	p.land(r)
	p.mu.Unlock()
	close(r.done)
}

// land makes a run that was fetched a recent one, in the place of the oldest. The caller holds mu.
func (p *pages) land(r *run) {
	if r.err != nil {
		p.forget(r)
		return
	}
	p.recent = append(p.recent, r)
	p.recently += p.size * int64(len(r.pages))
	for p.recently > recentBytes {
		oldest := p.recent[0]
		p.recent[0], p.recent = nil, p.recent[1:]
		p.recently -= p.size * int64(len(oldest.pages))
		p.forget(oldest)
	}
}

// forget takes r out of flight. The caller holds mu.
func (p *pages) forget(r *run) {
	for _, pg := range r.pages {
		if id := (pageID{pg.key, pg.n}); p.flight[id] == r {
			delete(p.flight, id)
		}
	}
}

// get fills bufs with the bytes from off on, in one GET.
func (p *pages) get(ctx context.Context, f *file, why reason, off int64, bufs [][]byte) error {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.slots }()
	var err error
	for range attempts {
		if err = p.getOnce(ctx, f, why, off, bufs); err == nil {
			p.metrics.requests.WithLabelValues("ok", string(why)).Inc()
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.metrics.requests.WithLabelValues("error", string(why)).Inc()
		if errors.Is(err, ErrGone) {
			return err
		}
	}
	return err
}

func (p *pages) getOnce(ctx context.Context, f *file, why reason, off int64, bufs [][]byte) (err error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.GetTimeout)
	defer cancel()
	var length int64
	for _, b := range bufs {
		length += int64(len(b))
	}
	body, err := p.bkt.GetRange(ctx, f.key, off, length)
	if err != nil {
		if p.bkt.IsObjNotFoundErr(err) {
			return fmt.Errorf("%w: %w", ErrGone, err)
		}
		return fmt.Errorf("get bytes %d to %d: %v", off, off+length, err) // %v: our own time-out is not the caller's
	}
	defer body.Close()
	for _, b := range bufs {
		n, err := io.ReadFull(body, b)
		p.metrics.bytes.WithLabelValues(string(why)).Add(float64(n))
		if err != nil {
			return fmt.Errorf("get bytes %d to %d: body: %v", off, off+length, err)
		}
	}
	return nil
}

// drop forgets pages of a file.
func (p *pages) drop(f *file, nums []int64) {
	p.closing.RLock()
	for _, n := range nums {
		p.cache.Del(f.cacheKey(n))
		p.disk.Drop(disk.Key{File: f.id, Page: uint32(n)})
	}
	p.closing.RUnlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range nums {
		r := p.flight[pageID{f.key, n}]
		if i := slices.Index(p.recent, r); r != nil && i >= 0 {
			p.recent = slices.Delete(p.recent, i, i+1)
			p.recently -= p.size * int64(len(r.pages))
			p.forget(r)
		}
	}
}

// dropAll forgets all pages of a file.
func (p *pages) dropAll(f *file) {
	nums := make([]int64, (f.size+p.size-1)/p.size)
	for i := range nums {
		nums[i] = int64(i)
	}
	p.drop(f, nums)
}

// close stops the cache; later reads go to the bucket.
func (p *pages) close() {
	p.closing.Lock()
	defer p.closing.Unlock()
	if !p.closed {
		p.closed = true
		p.cache.Close()
	}
}

// source reads an index from one end to the other, for making its header.
func (p *pages) source(f *file) layout.IndexSource {
	return func(ctx context.Context, from, to int64) io.Reader {
		if to-from <= wholeBytes {
			return &lazyReader{read: func() (b []byte, err error) {
				err = p.read(ctx, f, forHeader, []span{{from, to}}, func(_ int, got []byte) error { b = got; return nil })
				return b, err
			}}
		}
		r := &lazyReader{}
		r.read = func() ([]byte, error) {
			if from >= to {
				return nil, io.EOF
			}
			s := span{from, min(from+readAhead, to)}
			from = s.to
			return p.direct(ctx, f, s)
		}
		r.again = true
		return r
	}
}

const (
	// wholeBytes is what goes through the cache of a file that is read from one end to the other.
	wholeBytes = 1 << 20
	readAhead  = 16 << 20
)

// lazyReader reads what read returns, and if again is set what it returns the next time, until io.EOF.
type lazyReader struct {
	read  func() ([]byte, error)
	again bool
	b     []byte
	err   error
}

func (r *lazyReader) Read(b []byte) (int, error) {
	for len(r.b) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.b, r.err = r.read(); r.err == nil && !r.again {
			r.err = io.EOF
		}
	}
	n := copy(b, r.b)
	r.b = r.b[n:]
	return n, nil
}

// direct reads a range around the cache, in parallel parts.
func (p *pages) direct(ctx context.Context, f *file, s span) ([]byte, error) {
	if s.from < 0 || s.to < s.from || s.to > f.size {
		return nil, fmt.Errorf("bytes %d to %d are outside of the file of %d", s.from, s.to, f.size)
	}
	const part = 2 << 20
	err := errors.Join(trace.Add(ctx, trace.BucketRequests, (s.to-s.from+part-1)/part), trace.Add(ctx, trace.BucketBytes, s.to-s.from))
	if err != nil {
		return nil, err
	}
	out := make([]byte, s.to-s.from)
	g, gctx := errgroup.WithContext(ctx)
	for off := int64(0); off < int64(len(out)); off += part {
		g.Go(func() error {
			return p.get(gctx, f, forHeader, s.from+off, [][]byte{out[off:min(off+part, int64(len(out)))]})
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}
