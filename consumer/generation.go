package consumer

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"sluice/internal/exemplars"
	"sluice/internal/fetch"
	"sluice/internal/merge"
	"sluice/schema"
)

// generation is the log range [from, to) of a partition on its way from records to blocks: live (heads that grow),
// frozen (heads that are being written), sealed (blocks on local disk), shipped (blocks in the bucket, announced and
// committed) and then forgotten. Its bounds depend on the log's content alone.
type generation struct {
	from, to int64 // to is set by the cut
	dir      string

	// Owned by the goroutine of the partition until the cut, read-only after it.
	started  bool
	settings schema.Generation // in force: those of the first tick or seal, defaults before
	decided  bool              // that tick or seal was met
	logFrom  int64             // log time of the first record, ms
	logTime  int64             // running maximum of the records' log times, ms
	boundary int64             // log time that ends the generation, ms
	bytes    int64             // of record values
	series   int               // distinct series over all tenants
	samples  int64             // applied
	gaps     []schema.Gap

	covered bool         // somebody else has brought its part of the log into the bucket; of the ship goroutine
	sealed  bool         // its blocks are complete on disk; set by the seal goroutine before it hands the generation on
	shipped bool         // it is committed; set by the ship goroutine
	stage   atomic.Int32 // where it is on its way, for those who look at it: one of the stages

	mu      sync.RWMutex
	tenants map[schema.Tenant]*tenantPart // guarded by mu
	dropped bool                          // guarded by mu; nothing can be answered from it any more
}

// Stages of a generation on its way.
const (
	stageLive int32 = iota
	stageWaiting
	stageSealing
	stageShipping
	stageShipped
)

// tenantPart is what one tenant has in a generation.
type tenantPart struct {
	head   *head // until sealed; appended to by the goroutine of the partition
	view   *view // guarded by generation.mu: the head, then the local blocks
	blocks []localBlock

	exemplars exemplars.Set
}

// localBlock is a block on local disk.
type localBlock struct {
	dir  string
	meta *schema.BlockMeta
}

// start fixes the generation's end by its first record.
func (g *generation) start(logTime int64, partition int32) {
	g.started, g.logFrom, g.logTime = true, logTime, logTime
	g.boundary = g.settings.Boundary(g.logFrom, partition)
}

// decide takes the settings that a tick or seal carries, if it is the first of the generation.
func (g *generation) decide(header []byte, partition int32) error {
	settings, err := schema.DecodeGeneration(header)
	if err != nil || g.decided {
		return err
	}
	g.settings, g.decided = settings, true
	g.boundary = g.settings.Boundary(g.logFrom, partition)
	return nil
}

// closeGaps notes the log time of the first record behind the gaps; true if there was one that waited for it.
func (g *generation) closeGaps(logTime int64) (closed bool) {
	for i := range g.gaps {
		if g.gaps[i].ToTime == 0 {
			g.gaps[i].ToTime, closed = logTime, true
		}
	}
	return closed
}

// part returns the tenant's part, making an empty head for the first sample.
func (g *generation) part(tenant schema.Tenant, nextHead func() uint32) *tenantPart {
	g.mu.RLock()
	part := g.tenants[tenant]
	g.mu.RUnlock()
	if part != nil {
		return part
	}
	h := newHead(tenant, nextHead())
	part = &tenantPart{head: h, view: newView(h.querier, func() error { return nil })}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tenants[tenant] = part
	return part
}

// names returns the tenants of the generation, sorted.
func (g *generation) names() []schema.Tenant {
	g.mu.RLock()
	defer g.mu.RUnlock()
	names := make([]schema.Tenant, 0, len(g.tenants))
	for t := range g.tenants {
		names = append(names, t)
	}
	slices.Sort(names)
	return names
}

// errDropped is returned for a generation that was let go between being found and being asked.
var errDropped = errors.New("generation is not held any more")

// querier opens what the tenant has in the generation; nil if it has nothing.
func (g *generation) querier(tenant schema.Tenant, mint, maxt int64) (storage.Querier, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.dropped {
		return nil, errDropped
	}
	part := g.tenants[tenant]
	if part == nil {
		return nil, nil
	}
	return part.view.querier(mint, maxt)
}

// held returns intervals outside of which the tenant has nothing in the generation.
func (g *generation) held(tenant schema.Tenant) (held []fetch.Interval, _ error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.dropped {
		return nil, errDropped
	}
	part := g.tenants[tenant]
	switch {
	case part == nil:
		return nil, nil
	case part.head == nil:
		for _, b := range part.blocks {
			held = append(held, fetch.Interval{Mint: b.meta.MinTime, Maxt: b.meta.MaxTime - 1})
		}
		return held, nil
	}
	if mint, maxt := part.head.series.Times(); mint <= maxt {
		held = append(held, fetch.Interval{Mint: mint, Maxt: maxt})
	}
	if late, ok := part.head.late.times(); ok {
		held = append(held, late)
	}
	return held, nil
}

// swap puts the local blocks in the place of the head.
func (g *generation) swap(part *tenantPart, blocks []localBlock) error {
	opened, err := openBlocks(blocks)
	if err != nil {
		return err
	}
	v := newView(opened.querier, opened.Close)
	g.mu.Lock()
	old := part.view
	part.view, part.blocks, part.head = v, blocks, nil
	g.mu.Unlock()
	return old.retire()
}

// drop releases everything once its last query has ended, and removes its files unless keep.
func (g *generation) drop(keep bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dropped = true
	var errs []error
	for t, part := range g.tenants {
		errs = append(errs, part.view.retire())
		delete(g.tenants, t)
	}
	if !keep {
		errs = append(errs, os.RemoveAll(g.dir))
	}
	return errors.Join(errs...)
}

// keptOpen is the size from which a sealed block stays open until it is shipped. A smaller one is opened for each query,
// which takes a fraction of a millisecond: thousands of small tenants must not cost two file descriptors each.
const keptOpen = 4 << 20

// openedBlocks are local blocks, ready for queries.
type openedBlocks []openedBlock

type openedBlock struct {
	localBlock
	kept *tsdb.Block // nil: opened for each query
}

func openBlocks(blocks []localBlock) (openedBlocks, error) {
	var opened openedBlocks
	for _, b := range blocks {
		o := openedBlock{localBlock: b}
		if size := b.meta.Entry(0).Bytes; size >= keptOpen {
			var err error
			if o.kept, err = o.open(); err != nil {
				return nil, errors.Join(err, opened.Close())
			}
		}
		opened = append(opened, o)
	}
	return opened, nil
}

func (b *openedBlock) open() (*tsdb.Block, error) {
	o, err := tsdb.OpenBlock(nil, b.dir, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("open sealed block %s: %w", b.meta.ULID, err)
	}
	return o, nil
}

// querier opens the samples of the block in [mint, maxt].
func (b *openedBlock) querier(mint, maxt int64) (storage.Querier, error) {
	o, done := b.kept, func() error { return nil }
	if o == nil {
		var err error
		if o, err = b.open(); err != nil {
			return nil, err
		}
		done = o.Close
	}
	q, err := tsdb.NewBlockQuerier(o, mint, maxt)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("query sealed block %s: %w", b.meta.ULID, err), done())
	}
	return &viewQuerier{Querier: q, leave: sync.OnceValue(done)}, nil
}

func (bs openedBlocks) querier(mint, maxt int64) (storage.Querier, error) {
	var queriers []storage.Querier
	for i := range bs {
		if b := &bs[i]; b.meta.MinTime <= maxt && b.meta.MaxTime > mint {
			q, err := b.querier(mint, maxt)
			if err != nil {
				for _, q := range queriers {
					err = errors.Join(err, q.Close())
				}
				return nil, err
			}
			queriers = append(queriers, q)
		}
	}
	return storage.NewMergeQuerier(queriers, nil, merge.Series), nil
}

func (bs openedBlocks) Close() error {
	var errs []error
	for _, b := range bs {
		if b.kept != nil {
			errs = append(errs, b.kept.Close())
		}
	}
	return errors.Join(errs...)
}

// view is something that queries are answered from, and that is closed when it was retired and its last query has ended.
type view struct {
	open  func(mint, maxt int64) (storage.Querier, error)
	close func() error

	mu      sync.Mutex
	users   int  // guarded by mu
	retired bool // guarded by mu
}

func newView(open func(mint, maxt int64) (storage.Querier, error), close func() error) *view {
	return &view{open: open, close: close}
}

// querier opens the view; it stays open until the querier is closed. Not to be called after retire.
func (v *view) querier(mint, maxt int64) (storage.Querier, error) {
	v.mu.Lock()
	v.users++
	v.mu.Unlock()
	q, err := v.open(mint, maxt)
	if err != nil {
		return nil, errors.Join(err, v.leave())
	}
	return &viewQuerier{Querier: q, leave: sync.OnceValue(v.leave)}, nil
}

func (v *view) leave() error {
	v.mu.Lock()
	v.users--
	last := v.retired && v.users == 0
	v.mu.Unlock()
	if last {
		return v.close()
	}
	return nil
}

// retire closes the view, now or after its last query.
func (v *view) retire() error {
	v.mu.Lock()
	v.retired = true
	last := v.users == 0
	v.mu.Unlock()
	if last {
		return v.close()
	}
	return nil
}

type viewQuerier struct {
	storage.Querier
	leave func() error
}

func (q *viewQuerier) Close() error { return errors.Join(q.Querier.Close(), q.leave()) }
