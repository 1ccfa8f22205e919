package reader

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"sluice/internal/catalog"
	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/internal/processes"
	"sluice/schema"
)

// What the pipeline does, over all processes: out of what they say in the control topic, the catalogue and the log. No
// process is asked, so one that hangs holds up nobody.

// Processes is what the pipeline's page wants of internal/processes.
type Processes interface {
	List() (all []processes.Process, now int64)
	Sync(ctx context.Context) error
}

// Members is what it wants of internal/members.
type Members interface {
	Members() []members.Member
	Holders(partition int32) []members.Holder
	Sync(ctx context.Context) error
}

// Pipeline answers GET /-/pipeline.
type Pipeline struct {
	log       log.Log
	cat       Catalog
	members   Members
	processes Processes
	now       func() time.Time

	mu   sync.Mutex // guards the rest; held while an answer is put together, so that many who look cost what one does
	last *pipeline
	at   time.Time // when last was put together
}

const (
	// pipelineTimeout bounds each of the two rounds of questions to the log, so that the answer comes within five seconds.
	pipelineTimeout = 2 * time.Second
	// pipelineFresh is how long an answer is given to others as well.
	pipelineFresh = time.Second
)

// NewPipeline makes a Pipeline. cat, dir and procs are run by the caller.
func NewPipeline(l log.Log, cat Catalog, dir Members, procs Processes) *Pipeline {
	return &Pipeline{log: l, cat: cat, members: dir, processes: procs, now: time.Now}
}

// Register mounts the endpoint.
func (p *Pipeline) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /-/pipeline", func(w http.ResponseWriter, req *http.Request) { respondData(w, req, p.look(req.Context())) })
}

// pipeline is the answer. Times are ms, sizes bytes.
type pipeline struct {
	Now        int64               `json:"now"`
	Health     health              `json:"health"`
	Processes  []processes.Process `json:"processes"`
	Partitions []partitionView     `json:"partitions"`
	Zones      []zoneView          `json:"zones"`
	Compaction *compactionView     `json:"compaction,omitempty"` // nil: no compactor has looked

	unknown []string // what could not be found out, as sentences
}

type partitionView struct {
	Partition  int32        `json:"partition"`
	Start      *int64       `json:"start,omitempty"`
	End        *int64       `json:"end,omitempty"`
	Committed  *int64       `json:"committed,omitempty"`
	BlocksTo   *int64       `json:"blocks_to,omitempty"`
	BlocksTime int64        `json:"blocks_time,omitempty"`
	Holders    []holderView `json:"holders"`
	Gaps       []gapView    `json:"gaps"`
}

type holderView struct {
	ID         string   `json:"id"`
	Zone       string   `json:"zone"`
	From       int64    `json:"from"`
	Applied    int64    `json:"applied"`
	LagRecords *int64   `json:"lag_records,omitempty"`
	LagSeconds *float64 `json:"lag_seconds,omitempty"`
	Doubtful   bool     `json:"doubtful"`
	State      string   `json:"state,omitempty"`
	Replayed   *float64 `json:"replayed,omitempty"`
	Failure    string   `json:"failure,omitempty"`
	HeldUp     string   `json:"held_up,omitempty"`
	Leaving    bool     `json:"leaving,omitempty"`

	Generation  *processes.Generation `json:"generation,omitempty"`
	Waiting     int                   `json:"waiting"`
	Sealing     int                   `json:"sealing"`
	Shipping    int                   `json:"shipping"`
	Unshipped   int64                 `json:"unshipped_since,omitempty"`
	LastShipped int64                 `json:"last_shipped,omitempty"`

	announced int64 // log time at which it said that it answers for the partition; 0 = it does not
	heard     bool  // it was heard of lately
}

// serves tells whether queries can be answered from the holder.
func (h *holderView) serves() bool { return h.heard && h.State == processes.StateLive }

type gapView struct {
	From     int64  `json:"from"`
	To       int64  `json:"to"`
	FromTime int64  `json:"from_time,omitempty"`
	ToTime   int64  `json:"to_time,omitempty"`
	Reason   string `json:"reason"`
	Accepted bool   `json:"accepted"`
}

type zoneView struct {
	Zone       string `json:"zone"`
	Held       int    `json:"partitions_held"`
	Partitions int    `json:"partitions"`
	Silent     bool   `json:"silent"`
}

type compactionView struct {
	Jobs        int   `json:"jobs"`
	Bytes       int64 `json:"bytes"`
	TooLarge    int   `json:"too_large"`
	Quarantined int   `json:"quarantined"`
	Waiting     int   `json:"waiting"`
}

// look puts the answer together, or gives the one that somebody got just now.
func (p *Pipeline) look(ctx context.Context) *pipeline {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != nil && p.now().Sub(p.at) < pipelineFresh {
		return p.last
	}
	// For others too: it is not to end with who asks.
	out := p.collect(context.WithoutCancel(ctx))
	out.Health = judge(out)
	p.last, p.at = out, p.now()
	return out
}

func (p *Pipeline) collect(ctx context.Context) *pipeline {
	out := &pipeline{Zones: []zoneView{}}
	out.unknown = append(out.unknown, together(ctx, []inquiry{
		{"what the processes say", p.processes.Sync}, {"which consumers hold what", p.members.Sync}, {"which blocks there are", p.cat.Sync},
	})...)
	all, now := p.processes.List()
	out.Processes, out.Now = all, now
	if out.Processes == nil {
		out.Processes = []processes.Process{}
	}

	seen := offsets{bounds: map[int32]log.Bounds{}}
	out.unknown = append(out.unknown, p.offsets(ctx, &seen)...)
	states := p.cat.Partitions()
	dir := livingMembers(p.members.Members(), now)
	for _, id := range partitionIDs(seen.partitions, states, dir, all) {
		view := partitionView{Partition: id, Holders: []holderView{}, Gaps: []gapView{}}
		if b, ok := seen.bounds[id]; ok {
			view.Start, view.End = &b.Start, &b.End
		}
		if c, ok := seen.committed[id]; ok {
			view.Committed = &c
		}
		if s, ok := states[id]; ok {
			view.BlocksTo, view.BlocksTime, view.Gaps = &s.To, s.LogTime, gapsOf(s.Gaps)
		}
		view.Holders = holdersOf(&view, p.members.Holders(id), all, now)
		out.Partitions = append(out.Partitions, view)
	}
	if out.Partitions == nil {
		out.Partitions = []partitionView{}
	}
	out.Zones = zonesOf(out, dir)
	out.Compaction = compactionOf(all)
	for i := range out.Processes { // what partitions show, once is enough
		if c := out.Processes[i].Consumer; c != nil {
			without := *c
			without.Partitions = nil
			out.Processes[i].Consumer = &without
		}
	}
	return out
}

// inquiry is something to find out from the log.
type inquiry struct {
	what string
	ask  func(ctx context.Context) error
}

// together asks all at once and returns what has not been answered in time, as sentences.
func together(ctx context.Context, questions []inquiry) (unknown []string) {
	ctx, cancel := context.WithTimeout(ctx, pipelineTimeout)
	defer cancel()
	failed := make([]string, len(questions))
	var g errgroup.Group
	g.SetLimit(16)
	for i, q := range questions {
		g.Go(func() error {
			if err := q.ask(ctx); err != nil {
				failed[i] = fmt.Sprintf("The log does not tell %s: %s", q.what, err)
			}
			return nil
		})
	}
	_ = g.Wait() // none of them returns an error
	return slices.DeleteFunc(failed, func(s string) bool { return s == "" })
}

// offsets are what the log says of the partitions.
type offsets struct {
	partitions int32

	mu        sync.Mutex // guards bounds
	bounds    map[int32]log.Bounds
	committed map[int32]int64
}

func (p *Pipeline) offsets(ctx context.Context, into *offsets) (unknown []string) {
	ctx, cancel := context.WithTimeout(ctx, pipelineTimeout)
	defer cancel()
	unknown = together(ctx, []inquiry{
		{"how many partitions there are", func(ctx context.Context) error {
			n, err := p.log.Partitions(ctx, log.TopicSamples)
			if err == nil {
				into.partitions = n
			}
			return err
		}},
		{"what is committed", func(ctx context.Context) error {
			committed, err := p.log.Committed(ctx, schema.ConsumerGroup, log.TopicSamples)
			if err == nil {
				into.committed = committed
			}
			return err
		}},
	})
	return append(unknown, together(ctx, []inquiry{{"where the partitions begin and end", func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(16)
		for id := range into.partitions {
			g.Go(func() error {
				b, err := p.log.Bounds(ctx, log.TopicSamples, id)
				if err != nil {
					return fmt.Errorf("partition %d: %w", id, err)
				}
				into.mu.Lock()
				defer into.mu.Unlock()
				into.bounds[id] = b
				return nil
			})
		}
		return g.Wait()
	}}})...)
}

// livingMembers are the consumers that were heard of at a time that still counts.
func livingMembers(all []members.Member, now int64) []members.Member {
	return slices.DeleteFunc(all, func(m members.Member) bool {
		return m.Kind != members.KindConsumer || now-m.Time > processes.ForgottenAfter.Milliseconds()
	})
}

// partitionIDs are all that somebody knows of, sorted.
func partitionIDs(n int32, states map[int32]schema.PartitionState, dir []members.Member, all []processes.Process) []int32 {
	ids := map[int32]bool{}
	for id := range n {
		ids[id] = true
	}
	if n == 0 { // the log does not say
		for id := range states {
			ids[id] = true
		}
		for _, m := range dir {
			for _, c := range m.Partitions {
				ids[c.Partition] = true
			}
		}
		for _, proc := range all {
			if proc.Consumer != nil {
				for _, part := range proc.Consumer.Partitions {
					ids[part.Partition] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(ids))
}

// holdersOf puts together what a partition's holders announce for queries, every two seconds, and what they say of
// themselves.
func holdersOf(part *partitionView, announced []members.Holder, all []processes.Process, now int64) []holderView {
	views := []holderView{}
	for _, h := range announced {
		age := now - h.Time
		if age > processes.ForgottenAfter.Milliseconds() {
			continue
		}
		views = append(views, holderView{
			ID: h.ID, Zone: h.Zone, From: h.From, Applied: h.Applied, Doubtful: h.Doubtful, State: processes.StateLive,
			announced: h.Time, heard: age <= members.StaleAfter.Milliseconds(),
		})
	}
	for i := range all {
		proc := &all[i]
		if proc.Consumer == nil {
			continue
		}
		at := slices.IndexFunc(proc.Consumer.Partitions, func(s processes.Partition) bool { return s.Partition == part.Partition })
		if at < 0 {
			continue
		}
		said := &proc.Consumer.Partitions[at]
		v := slices.IndexFunc(views, func(v holderView) bool { return v.ID == proc.ID })
		if v < 0 {
			if said.State == processes.StateLive { // it has handed the partition over since
				continue
			}
			views, v = append(views, holderView{
				ID: proc.ID, Zone: proc.Zone, From: said.From, Applied: said.Applied, State: said.State, Doubtful: proc.Silent, heard: !proc.Silent,
			}), len(views)
		}
		views[v].add(said, proc, part.End, now)
	}
	slices.SortFunc(views, func(a, b holderView) int {
		return cmp.Or(strings.Compare(a.Zone, b.Zone), strings.Compare(a.ID, b.ID))
	})
	return views
}

// add takes in what the holder says of itself.
func (h *holderView) add(said *processes.Partition, proc *processes.Process, end *int64, now int64) {
	if h.announced >= proc.Told && said.State != processes.StateLive {
		return // what it said of itself is over: it answers for the partition since
	}
	h.State, h.Failure, h.HeldUp, h.Leaving = said.State, said.Failure, said.HeldUp, said.Leaving
	h.Waiting, h.Sealing, h.Shipping, h.Unshipped, h.LastShipped = said.Waiting, said.Sealing, said.Shipping, said.Unshipped, said.LastShipped
	h.Generation = said.Generation
	if said.State == processes.StateReplaying {
		replayed := said.Replayed
		h.Replayed = &replayed
	}
	h.Applied = max(h.Applied, said.Applied)
	behind, at := said.Behind, proc.Told
	if proc.Silent { // what it said of the end of the log is old
		h.Doubtful, h.heard = true, false
		if end == nil {
			return
		}
		behind, at = max(*end-h.Applied, 0), now
	}
	h.LagRecords = &behind
	seconds := 0.0
	if behind > 0 {
		if said.AppliedTime == 0 {
			return // nothing is applied yet
		}
		seconds = float64(max(at-said.AppliedTime, 0)) / 1000
	}
	h.LagSeconds = &seconds
}

func gapsOf(gaps []schema.Gap) []gapView {
	views := []gapView{}
	for _, g := range gaps {
		if g.From >= g.To && !strings.HasSuffix(g.Reason, schema.GapReplaced) {
			continue
		}
		views = append(views, gapView{
			From: g.From, To: g.To, FromTime: g.FromTime, ToTime: g.ToTime,
			Reason: strings.TrimPrefix(g.Reason, catalog.AcceptedMark), Accepted: catalog.Accepted(g),
		})
	}
	return views
}

// zonesOf are those that consumers say they are in. A partition counts for a zone where one of its holders there serves it.
func zonesOf(p *pipeline, dir []members.Member) []zoneView {
	silent := map[string]bool{}
	note := func(zone string, isSilent bool) {
		before, known := silent[zone]
		silent[zone] = isSilent && (before || !known)
	}
	for i := range p.Processes {
		if proc := &p.Processes[i]; proc.Consumer != nil {
			note(proc.Zone, proc.Silent)
		}
	}
	for _, m := range dir {
		if !slices.ContainsFunc(p.Processes, func(proc processes.Process) bool { return proc.ID == m.ID && proc.Consumer != nil }) {
			note(m.Zone, p.Now-m.Time > processes.SilentAfter.Milliseconds()) // of a version that does not say more
		}
	}
	zones := []zoneView{}
	for _, zone := range slices.Sorted(maps.Keys(silent)) {
		v := zoneView{Zone: zone, Partitions: len(p.Partitions), Silent: silent[zone]}
		for _, part := range p.Partitions {
			if slices.ContainsFunc(part.Holders, func(h holderView) bool { return h.Zone == zone && h.serves() }) {
				v.Held++
			}
		}
		zones = append(zones, v)
	}
	return zones
}

// compactionOf is what the compactors say. Each plans for all, so what is due counts once: the most that one of them says.
func compactionOf(all []processes.Process) (sum *compactionView) {
	for _, proc := range all {
		c := proc.Compactor
		if c == nil || proc.Silent || c.Looked == 0 {
			continue
		}
		if sum == nil {
			sum = &compactionView{}
		}
		sum.Jobs, sum.Bytes = max(sum.Jobs, c.JobsDue), max(sum.Bytes, c.DueBytes)
		sum.TooLarge, sum.Quarantined = max(sum.TooLarge, c.TooLarge), max(sum.Quarantined, c.Quarantined)
		sum.Waiting = max(sum.Waiting, c.Waiting)
	}
	return sum
}
