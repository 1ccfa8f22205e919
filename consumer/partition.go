package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/thanos-io/objstore"
	"golang.org/x/sync/errgroup"

	"sluice/internal/catalog"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/internal/usage"
	"sluice/schema"
)

// partition follows one partition of the samples. Three goroutines work on it, each handing generations to the next:
//
//	follow: log → live heads            cuts the generation when the log says so
//	seal:   frozen heads → local blocks one generation at a time; one may wait, a second holds up follow, so that memory
//	                                    never holds more than the live, one waiting and one being written
//	ship:   local blocks → bucket → event → commit, in order, however long the bucket is away
//
// Invariant: an offset is committed only after every block of everything before it is in the bucket and announced.
type partition struct {
	id      int32
	topicID string
	cfg     *Config
	log     log.Log
	catalog *catalog.Catalog
	peers   Peers
	bucket  objstore.Bucket
	// metadataLimit is how many metric families' metadata is kept of a tenant.
	metadataLimit func(schema.Tenant) int
	readOnly      bool // a rebuild: nothing may be written into the log
	logger        *slog.Logger
	metrics       *partitionMetrics
	sealing       chan struct{} // shared by all partitions: how many may write blocks at once
	dir           string
	unmeter       func() // takes the partition out of the gauges

	side    side                                     // metadata
	scratch schema.Series                            // of the follow goroutine, as the next four
	columns schema.Columns                           // the record at hand
	refs    refs                                     // what records of version 2 stand on
	usage   *usage.Tracker                           // counts the active series; nil in a rebuild
	heads   uint32                                   // made so far
	next    int64                                    // offset that follow expects next
	hand    func(context.Context, *generation) error // takes a generation that was cut

	resumed   []*generation // sealed before a restart, not yet shipped
	frozen    chan *generation
	sealedGen chan *generation

	stateMu sync.Mutex // held while the partition's state in the catalogue is read and written anew

	mu       sync.RWMutex
	gens     []*generation // guarded by mu; by from, the last one is live
	heldFrom int64         // guarded by mu; the partition's samples from here on are in gens
	applied  int64         // guarded by mu; every record before it is in the heads
	caughtUp bool          // guarded by mu; what was in the log at the start has been applied once
	replay   replay        // guarded by mu
	failure  error         // guarded by mu; why the partition does not work at the moment
	notes    []string      // guarded by mu; what was lost, for /ready
	advanced chan struct{} // guarded by mu; closed when applied grows

	// Guarded by mu too, and for those who look at the partition only.
	appliedTime int64     // log time of the last record applied, ms; 0 = there was none since the partition was opened
	growing     figures   // of the live generation
	ended       string    // what ended the one before it
	behind      int64     // records in the log and not applied, when that was looked at last
	lastShipped time.Time // zero = none since the partition was opened
	heldUpStep  string    // the step between heads and the committed offset that fails at the moment
	heldUp      string    // and why
}

// replay is what there was to apply when the partition was opened.
type replay struct {
	log.Bounds
	began time.Time
}

// restartPause is how long a partition that failed waits before it starts again from its committed offset.
const restartPause = 5 * time.Second

// supervise runs the partition until ctx ends, again and again: whatever stops it (a full disk, a topic that was
// replaced) may pass, and starting again from the committed offset is always right.
func (p *partition) supervise(ctx context.Context) {
	for {
		err := p.run(ctx)
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		p.failure = err
		p.mu.Unlock()
		p.metrics.failures.Inc()
		p.logger.Error("the partition has stopped, starting it again", "in", restartPause, "err", err)
		select {
		case <-time.After(restartPause):
		case <-ctx.Done():
			return
		}
	}
}

// run works until ctx ends or the partition cannot go on.
func (p *partition) run(ctx context.Context) error {
	defer p.release()
	if err := p.begin(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.follow(ctx) })
	g.Go(func() error { return p.sealLoop(ctx) })
	g.Go(func() error { return p.shipLoop(ctx) })
	return g.Wait()
}

// begin finds the offset to start at: what was committed, what the catalogue already holds blocks up to, or what was
// sealed on this very disk before a restart.
func (p *partition) begin(ctx context.Context) error {
	topicID, err := p.log.TopicID(ctx, log.TopicSamples)
	if err != nil {
		return fmt.Errorf("identify topic: %w", err)
	}
	p.topicID = topicID
	bounds, err := p.log.Bounds(ctx, log.TopicSamples, p.id)
	if err != nil {
		return fmt.Errorf("read bounds of partition %d: %w", p.id, err)
	}
	start, gap, err := p.startOffset(ctx, bounds)
	if err != nil {
		return err
	}
	held := start
	if start == bounds.Start {
		held = 0 // nothing before it exists in the log, so nothing is missing here
	}
	if gap == nil {
		if p.resumed, err = p.reload(start); err != nil {
			return err
		}
		if n := len(p.resumed); n > 0 {
			start = p.resumed[n-1].to
		}
	}
	if err := p.clearScratch(); err != nil {
		return err
	}
	var before int64
	if n := len(p.resumed); n > 0 {
		before = p.resumed[n-1].logTime
	} else if state, ok := p.catalog.Partition(p.id); ok && state.TopicID == topicID && state.To == start {
		before = state.LogTime
	}
	if err := p.lookBack(ctx, start, before); err != nil {
		return err
	}
	p.frozen, p.sealedGen = make(chan *generation, 1), make(chan *generation)
	live := p.newGeneration(start)
	if gap != nil {
		live.from = gap.From
		if gap.Reason == schema.GapReplaced {
			live.from = bounds.Start
		}
		p.lost(live, *gap)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next, p.applied, p.heldFrom = start, start, held
	p.replay = replay{log.Bounds{Start: start, End: bounds.End}, time.Now()}
	p.caughtUp, p.failure = start >= bounds.End, nil
	if p.caughtUp {
		p.metrics.replayed.Set(1)
	} else {
		p.metrics.replayed.Set(0)
	}
	p.gens = append(append([]*generation(nil), p.resumed...), live)
	p.growing, p.appliedTime, p.behind, p.heldUp = figuresOf(live), before, max(bounds.End-start, 0), ""
	p.logger.Info("partition opened", "from", start, "end", bounds.End, "resumed", len(p.resumed))
	return nil
}

// startOffset finds where to read on, and what is missing before it.
func (p *partition) startOffset(ctx context.Context, bounds log.Bounds) (start int64, gap *schema.Gap, err error) {
	committed, err := p.log.Committed(ctx, schema.ConsumerGroup, log.TopicSamples)
	if err != nil {
		return 0, nil, fmt.Errorf("read committed offsets: %w", err)
	}
	start, known := committed[p.id]
	state, announced := p.catalog.Partition(p.id)
	replaced := announced && state.TopicID != p.topicID
	if announced && !replaced && state.To > start {
		start, known = state.To, true // a crash between event and commit
	}
	switch {
	case replaced || known && start > bounds.End:
		// The log that the blocks came from is gone, with whatever of it was not in blocks yet.
		p.metrics.resets.Inc()
		lost := schema.LogRange{TopicID: state.TopicID, Partition: p.id, From: state.To, To: state.To}
		return bounds.Start, &schema.Gap{LogRange: lost, FromTime: state.LogTime, Reason: schema.GapReplaced}, nil
	case !known:
		return bounds.Start, nil, nil
	case start < bounds.Start:
		lost := schema.LogRange{TopicID: p.topicID, Partition: p.id, From: start, To: bounds.Start}
		return bounds.Start, &schema.Gap{LogRange: lost, FromTime: state.LogTime, Reason: schema.GapRetention}, nil
	}
	return start, nil, nil
}

func (p *partition) newGeneration(from int64) *generation {
	return &generation{
		from: from, dir: filepath.Join(p.dir, strconv.FormatInt(from, 10)), tenants: map[schema.Tenant]*tenantPart{},
		settings: schema.DefaultGeneration(),
	}
}

// lost notes that records were never read. It cannot be mended here, only told: in the log, in a metric, on /ready, on
// the block and, through the partition's state, to every query that may miss something.
func (p *partition) lost(g *generation, gap schema.Gap) {
	p.metrics.missedOffsets.Add(float64(gap.To - gap.From))
	p.logger.Error("records are missing from the log", "from", gap.From, "to", gap.To, "reason", gap.Reason, "topic_id", gap.TopicID)
	g.gaps = append(g.gaps, gap)
	note := fmt.Sprintf("partition %d lost offsets %d to %d (%s)", p.id, gap.From, gap.To, gap.Reason)
	if gap.Reason == schema.GapReplaced {
		note = fmt.Sprintf("partition %d lost what its former log held from offset %d on (%s)", p.id, gap.From, gap.Reason)
	}
	p.mu.Lock()
	p.notes = append(p.notes, note)
	p.mu.Unlock()
}

// release lets go of everything. What was sealed and not yet shipped stays on disk: a restart on it need not replay it.
func (p *partition) release() {
	p.mu.Lock()
	gens := p.gens
	p.gens, p.caughtUp, p.growing = nil, false, figures{}
	close(p.advanced)
	p.advanced = make(chan struct{})
	p.mu.Unlock()
	for _, g := range gens {
		if err := g.drop(g.sealed && !g.shipped); err != nil {
			p.logger.Warn("releasing a generation", "err", err)
		}
	}
}

// appliedOffset is the offset before which every record is in the heads.
func (p *partition) appliedOffset() int64 {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.applied
}

// retire removes what the partition has on disk and in the gauges, once it is stopped and somebody else's.
func (p *partition) retire() error {
	p.unmeter()
	return os.RemoveAll(p.dir)
}

// clearScratch removes what is not resumed from the partition's folder.
func (p *partition) clearScratch() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read scratch folder: %w", err)
	}
	keep := map[string]bool{}
	for _, g := range p.resumed {
		keep[filepath.Base(g.dir)] = true
	}
	for _, e := range entries {
		if keep[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.dir, e.Name())); err != nil {
			return fmt.Errorf("clear scratch folder: %w", err)
		}
	}
	return nil
}

// coverage says what the partition can answer for; false while it is replaying.
func (p *partition) coverage() (members.Coverage, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if !p.caughtUp || len(p.gens) == 0 {
		return members.Coverage{}, false // and topicID may be about to change
	}
	return members.Coverage{TopicID: p.topicID, Partition: p.id, From: p.heldFrom, Applied: p.applied}, true
}

// ready is nil when queries can be answered, else says what is missing and how long that will take.
func (p *partition) ready() error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	switch {
	case p.failure != nil:
		return fmt.Errorf("partition %d has stopped: %w", p.id, p.failure)
	case p.caughtUp:
		return nil
	case len(p.gens) == 0:
		return fmt.Errorf("partition %d is not open", p.id)
	}
	return fmt.Errorf("partition %d: %s", p.id, p.replay.progress(p.applied, time.Now()))
}

// progress is like "84 %, 12 s left".
func (r replay) progress(applied int64, now time.Time) string {
	done, all := applied-r.Start, r.End-r.Start
	if done <= 0 || all <= 0 {
		return fmt.Sprintf("0 %% of %d records", all)
	}
	left := time.Duration(float64(now.Sub(r.began)) / float64(done) * float64(all-done))
	return fmt.Sprintf("%d %%, %.0f s left", 100*done/all, left.Seconds())
}
