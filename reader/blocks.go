package reader

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"sluice/internal/catalog"
	"sluice/internal/lease"
	"sluice/internal/plan"
	"sluice/schema"
)

// blockRow is a block in what status/blocks answers. Times are in ms.
type blockRow struct {
	ID          ulid.ULID    `json:"id"`
	MinTime     int64        `json:"min_time"` // of the first sample
	MaxTime     int64        `json:"max_time"` // behind the last one
	Level       int          `json:"level"`
	Resolution  int64        `json:"resolution"`
	Series      uint64       `json:"series"`
	Samples     uint64       `json:"samples"`
	Bytes       int64        `json:"bytes"`
	LogTime     int64        `json:"log_time"` // of the end of what it holds of the log
	At          int64        `json:"at"`       // when it was announced
	Partitions  []int32      `json:"partitions"`
	Ranges      []blockRange `json:"ranges"`
	Sources     int          `json:"sources"`  // blocks of level 1 that are in it
	Replaces    int          `json:"replaces"` // blocks that it was merged from
	Quarantined *quarantined `json:"quarantined,omitempty"`
	State       string       `json:"state,omitempty"` // only if it is not live
}

// blockRange is the part [From, To) of a partition's log.
type blockRange struct {
	Partition int32 `json:"partition"`
	From      int64 `json:"from"`
	To        int64 `json:"to"`
}

// quarantined says why a block is not merged for a day.
type quarantined struct {
	At     int64  `json:"at"` // ms
	Reason string `json:"reason"`
	By     string `json:"by"`
}

// jobRow is a merge in what status/blocks answers.
type jobRow struct {
	Start  int64       `json:"start"` // the window, ms
	End    int64       `json:"end"`
	Blocks []ulid.ULID `json:"blocks"` // in order of rank
	Bytes  int64       `json:"bytes"`
	Series uint64      `json:"series"` // those of two blocks twice
	Why    string      `json:"why"`
	State  string      `json:"state"` // ready, running, waiting or too_large
	Due    int64       `json:"due"`   // ms
	By     string      `json:"by,omitempty"`
}

// blocksAnswer is what status/blocks answers.
type blocksAnswer struct {
	Tenant   schema.Tenant `json:"tenant"`
	Now      int64         `json:"now"`
	Total    int           `json:"total"` // before the limit, as the next five
	Bytes    int64         `json:"bytes"`
	Samples  uint64        `json:"samples"`
	Oldest   int64         `json:"oldest"` // sample; 0 = no block
	Newest   int64         `json:"newest"`
	SetAside int           `json:"quarantined"` // how many
	Blocks   []blockRow    `json:"blocks"`
	Jobs     []jobRow      `json:"jobs"`
	TooLarge []jobRow      `json:"too_large"`
}

const (
	defaultBlocks = 2000
	maxBlocks     = 100_000
)

// serveBlocks answers the tenant's blocks, the newest first, and what will become of them.
func (r *Reader) serveBlocks(req *http.Request, tenant schema.Tenant) (any, error) {
	start, err := timeOf(req, "start", math.MinInt64)
	if err != nil {
		return nil, err
	}
	end, err := timeOf(req, "end", math.MaxInt64)
	if err != nil {
		return nil, err
	}
	if start > end {
		return nil, badData("start is after end")
	}
	limit, err := between(req, "limit", defaultBlocks, 0, maxBlocks)
	if err != nil {
		return nil, err
	}
	all, err := boolean(req.Form, "all")
	if err != nil {
		return nil, err
	}
	now := r.now()
	live := r.known.Catalog.Blocks(tenant)
	shown := live
	if all {
		shown = r.known.Catalog.Entries(tenant)
		slices.SortFunc(shown, catalog.Compare)
	}
	answer := blocksAnswer{Tenant: tenant, Now: now.UnixMilli(), Blocks: []blockRow{}}
	for _, e := range slices.Backward(shown) {
		if e.MinTime > end || e.MaxTime <= start {
			continue
		}
		answer.Bytes += e.Bytes
		answer.Samples += e.Samples
		if answer.Total == 0 || e.MinTime < answer.Oldest {
			answer.Oldest = e.MinTime
		}
		answer.Newest = max(answer.Newest, e.MaxTime-1)
		if r.known.quarantined(e, now) != nil {
			answer.SetAside++
		}
		if answer.Total++; len(answer.Blocks) < limit {
			answer.Blocks = append(answer.Blocks, r.known.block(e, now))
		}
	}
	answer.Jobs, answer.TooLarge = r.known.jobs(tenant, live, now)
	return answer, nil
}

// timeOf reads a time as Prometheus' API has it, in ms.
func timeOf(req *http.Request, name string, fallback int64) (int64, error) {
	s := req.FormValue(name)
	if s == "" {
		return fallback, nil
	}
	t, ok := parseTime(s)
	if !ok {
		return 0, badData("%s is %.50q, must be a time: seconds since 1970 or RFC 3339", name, s)
	}
	return t.UnixMilli(), nil
}

func (k *known) block(e *schema.BlockEntry, now time.Time) blockRow {
	b := blockRow{
		ID: e.ID, MinTime: e.MinTime, MaxTime: e.MaxTime, Level: e.Level, Resolution: e.Resolution, Series: e.Series, Samples: e.Samples,
		Bytes: e.Bytes, LogTime: e.LogTime, At: e.At, Sources: len(e.Sources), Replaces: len(e.Replaces),
		Partitions: []int32{}, Ranges: make([]blockRange, len(e.Ranges)), Quarantined: k.quarantined(e, now),
	}
	for i, r := range e.Ranges {
		b.Ranges[i] = blockRange{r.Partition, r.From, r.To}
		b.Partitions = append(b.Partitions, r.Partition)
	}
	slices.Sort(b.Partitions)
	b.Partitions = slices.Compact(b.Partitions)
	if state := k.Catalog.Status(e.Tenant, e.ID); state != catalog.Live {
		b.State = state.String()
	}
	return b
}

func (k *known) quarantined(e *schema.BlockEntry, now time.Time) *quarantined {
	note, ok := k.Merges.aside.Of(plan.BlockKey{Tenant: e.Tenant, ID: e.ID}, now)
	if !ok {
		return nil
	}
	return &quarantined{note.At, note.Cause, lease.Instance(note.By)}
}

// jobs returns the merges of live blocks that are under way, due or to come, and those that are too large.
func (k *known) jobs(tenant schema.Tenant, live []*schema.BlockEntry, now time.Time) (jobs, tooLarge []jobRow) {
	readable := slices.DeleteFunc(slices.Clone(live), func(e *schema.BlockEntry) bool { return k.quarantined(e, now) != nil })
	look := plan.Look(now.UnixMilli(), readable, k.Plan())
	jobs, tooLarge = []jobRow{}, []jobRow{}
	for _, p := range look.Jobs {
		j := newJob(&p, "ready")
		if by := k.Merges.runs(tenant, p.Blocks); by != "" {
			j.State, j.By = "running", by
		}
		jobs = append(jobs, j)
	}
	for _, p := range look.Waiting {
		jobs = append(jobs, newJob(&p, "waiting"))
	}
	for _, p := range look.TooLarge {
		tooLarge = append(tooLarge, newJob(&p, "too_large"))
	}
	return jobs, tooLarge
}

func newJob(p *plan.Planned, state string) jobRow {
	j := jobRow{Start: p.Start, End: p.End, Blocks: []ulid.ULID{}, Why: p.Why, State: state, Due: p.Due}
	for _, e := range p.Blocks {
		j.Blocks = append(j.Blocks, e.ID)
		j.Bytes += e.Bytes
		j.Series += e.Series
	}
	return j
}

// wholeBlock is what status/blocks/{id} answers.
type wholeBlock struct {
	*schema.BlockEntry
	State       string       `json:"state"`  // live, replaced or deleted
	Folder      string       `json:"folder"` // in the bucket
	ReplacedBy  *ulid.ULID   `json:"replaced_by,omitempty"`
	Gaps        []schema.Gap `json:"gaps"` // of the log, in its ranges
	Quarantined *quarantined `json:"quarantined,omitempty"`
}

// serveBlock answers all that is known of a block.
func (r *Reader) serveBlock(req *http.Request, tenant schema.Tenant) (any, error) {
	id, err := ulid.ParseStrict(req.PathValue("id"))
	if err != nil {
		return nil, badData("%.50q is not the ID of a block: %v", req.PathValue("id"), err)
	}
	k := r.known
	e, ok := k.Catalog.Entry(tenant, id)
	if !ok {
		return nil, schema.NewError(schema.ErrBlockNotFound, http.StatusNotFound, "no block %s of tenant %s is known", id, tenant)
	}
	b := wholeBlock{
		BlockEntry: e, State: k.Catalog.Status(tenant, id).String(), Folder: fmt.Sprintf("%s/%s", tenant, id), Gaps: []schema.Gap{},
		Quarantined: k.quarantined(e, r.now()),
	}
	if by, ok := k.Catalog.Replacer(tenant, id); ok {
		b.ReplacedBy = &by.ID
	}
	partitions := k.Catalog.Partitions()
	for _, rg := range e.Ranges {
		for _, gap := range partitions[rg.Partition].Gaps {
			if gap.TopicID == rg.TopicID && gap.From < rg.To && gap.To > rg.From {
				b.Gaps = append(b.Gaps, gap)
			}
		}
	}
	return b, nil
}
