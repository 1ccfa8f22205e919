package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"sluice/internal/catalog"
	"sluice/schema"
)

// What people want to know of the plan beside the jobs: why each, and what will be merged later. It is found out by asking
// the planner about later times, so that it cannot say anything else than compactors will do.

// Outlook is the plan with what is to come, if no other block does.
type Outlook struct {
	Jobs     []Planned // worth merging now, as Jobs has them
	Waiting  []Planned // later, the earliest first; each has a block that is in no earlier one
	TooLarge []Planned // never
}

// Planned is a merge and why it is done.
type Planned struct {
	Job
	Due int64  // time (ms) from which on it is worth doing
	Why string // a sentence
}

// Look returns what Jobs returns, and what it will return later. Of windows that are open now or whose newcomers wait it
// costs some twenty plans each.
func Look(now int64, entries []*schema.BlockEntry, cfg Config) Outlook {
	jobs, tooLarge := Jobs(now, entries, cfg)
	var out Outlook
	for _, j := range jobs {
		out.Jobs = append(out.Jobs, Planned{j, due(&j, &cfg), why(&j, &cfg)})
	}
	for _, j := range tooLarge {
		out.TooLarge = append(out.TooLarge, Planned{j, j.End + cfg.Settle, whyTooLarge(&j, &cfg)})
	}
	largest := cfg.Ranges[len(cfg.Ranges)-1]
	homes := map[[2]int64][]*schema.BlockEntry{}
	for _, e := range entries {
		switch {
		case e.Resolution != 0:
		case inWindow(e, largest):
			home := [2]int64{windowStart(e.MinTime, largest), largest}
			homes[home] = append(homes[home], e)
		default:
			if home, ok := wideWindow(e, largest); ok {
				homes[home] = append(homes[home], e)
			}
		}
	}
	for home, blocks := range homes {
		if len(blocks) > 1 {
			out.Waiting = append(out.Waiting, later(now, home[0], home[1], blocks, cfg)...)
		}
	}
	slices.SortFunc(out.Waiting, func(a, b Planned) int {
		return cmp.Or(cmp.Compare(a.Due, b.Due), cmp.Compare(a.Start, b.Start), catalog.Compare(a.Blocks[0], b.Blocks[0]))
	})
	return out
}

// later plans the blocks of one home at each time at which something about them changes.
func later(now, start, size int64, blocks []*schema.BlockEntry, cfg Config) (waiting []Planned) {
	times := turns(start, size, blocks, &cfg)
	from, _ := slices.BinarySearch(times, now+1)
	if from == len(times) {
		return nil
	}
	inputs := map[*schema.BlockEntry][]*schema.BlockEntry{} // of what will be merged by then
	seen := map[*schema.BlockEntry]bool{}
	done := func(at int64) (found []Planned) {
		jobs, _ := Jobs(at, blocks, cfg)
		for _, j := range jobs {
			all, fresh := expand(j.Blocks, inputs), false
			for _, e := range all {
				fresh = fresh || !seen[e]
				seen[e] = true
			}
			merged := together(j.Blocks, at)
			inputs[merged] = all
			gone := map[*schema.BlockEntry]bool{}
			for _, e := range j.Blocks {
				gone[e] = true
			}
			blocks = append(slices.DeleteFunc(slices.Clone(blocks), func(e *schema.BlockEntry) bool { return gone[e] }), merged)
			if j.Blocks = all; fresh {
				found = append(found, Planned{j, due(&j, &cfg), whyLater(&j, &cfg)})
			}
		}
		return found
	}
	done(now)
	for _, at := range times[from:] {
		waiting = append(waiting, done(at)...)
	}
	return waiting
}

// expand replaces blocks that are not there yet by those that they will be made of.
func expand(blocks []*schema.BlockEntry, inputs map[*schema.BlockEntry][]*schema.BlockEntry) (all []*schema.BlockEntry) {
	for _, e := range blocks {
		if in, ok := inputs[e]; ok {
			all = append(all, in...)
		} else {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, catalog.CompareRank)
	return all
}

// together is about what the blocks, which are in order of rank, become. That series of two blocks are the same is not known, so they
// count twice.
func together(blocks []*schema.BlockEntry, at int64) *schema.BlockEntry {
	m := *blocks[0]
	m.Level, m.At, m.Bytes, m.Series = 0, at, 0, 0
	for _, e := range blocks {
		m.MinTime, m.MaxTime = min(m.MinTime, e.MinTime), max(m.MaxTime, e.MaxTime)
		m.Level = max(m.Level, e.Level+1)
		m.Bytes += e.Bytes
		m.Series += e.Series
	}
	return &m
}

// turns are the times at which the planner may come to another result about the blocks of one home, ascending.
func turns(start, size int64, blocks []*schema.BlockEntry, cfg *Config) (times []int64) {
	if size > cfg.Ranges[len(cfg.Ranges)-1] {
		last := blocks[0].MaxTime
		for _, e := range blocks {
			last = max(last, e.MaxTime)
		}
		return []int64{last + cfg.Settle}
	}
	for _, length := range cfg.Ranges {
		of := map[int64][]*schema.BlockEntry{}
		for _, e := range blocks {
			if inWindow(e, length) {
				s := windowStart(e.MinTime, length)
				of[s] = append(of[s], e)
			}
		}
		for s, blocks := range of {
			closed := s + length + cfg.Settle
			times = append(times, closed)
			if oldest, ok := newcomers(closed, blocks); ok {
				times = append(times, oldest+cfg.Settle)
			}
		}
	}
	slices.Sort(times)
	return slices.Compact(times)
}

// newcomers finds blocks that came after their window was merged, as settled does: when the oldest came.
func newcomers(closed int64, blocks []*schema.BlockEntry) (oldest int64, ok bool) {
	merged := 0
	for _, e := range blocks {
		if e.Level > 1 && e.At >= closed {
			merged++
		} else if !ok || e.At < oldest {
			oldest, ok = e.At, true
		}
	}
	return oldest, ok && merged > 0
}

// due is from when on a job is worth doing.
func due(j *Job, cfg *Config) int64 {
	if j.End-j.Start > cfg.Ranges[len(cfg.Ranges)-1] {
		last := j.Blocks[0].MaxTime
		for _, e := range j.Blocks {
			last = max(last, e.MaxTime)
		}
		return last + cfg.Settle
	}
	closed := j.End + cfg.Settle
	if oldest, ok := newcomers(closed, j.Blocks); ok {
		return max(closed, oldest+cfg.Settle)
	}
	return closed
}

// why says why a job is worth doing.
func why(j *Job, cfg *Config) string {
	n, size := len(j.Blocks), written(j.End-j.Start)
	late, fresh := 0, 0
	for _, e := range j.Blocks {
		if closed := j.End + cfg.Settle; e.Level > 1 && e.At >= closed {
			fresh++
		} else {
			late++
		}
	}
	switch {
	case j.End-j.Start > cfg.Ranges[len(cfg.Ranges)-1]:
		return fmt.Sprintf("%d blocks longer than %s overlap in time", n, written(cfg.Ranges[len(cfg.Ranges)-1]))
	case fresh > 0 && late > 0:
		return fmt.Sprintf("%s came after the window of %s was merged", count(late, "block"), size)
	case overlapping(j.Blocks):
		return fmt.Sprintf("%d blocks in the window of %s overlap in time (%s)", n, size, count(partitions(j.Blocks), "partition"))
	}
	return fmt.Sprintf("window of %s is closed and has %d blocks", size, n)
}

// whyLater says why a job is not worth doing yet.
func whyLater(j *Job, cfg *Config) string {
	closed := j.End + cfg.Settle
	if at := due(j, cfg); at > closed && j.End-j.Start <= cfg.Ranges[len(cfg.Ranges)-1] {
		return why(j, cfg) + ", and more may come"
	}
	if overlapping(j.Blocks) {
		return why(j, cfg) + fmt.Sprintf(", and more may come until %s after its end", written(cfg.Settle))
	}
	return fmt.Sprintf("window of %s has %d blocks and is closed %s after its end", written(j.End-j.Start), len(j.Blocks), written(cfg.Settle))
}

// whyTooLarge says which bound a job is over.
func whyTooLarge(j *Job, cfg *Config) string {
	sum := together(j.Blocks, 0)
	if cfg.MaxJobBytes > 0 && sum.Bytes > cfg.MaxJobBytes {
		return fmt.Sprintf("%d blocks in the window of %s overlap in time, but have %d bytes, more than the %d that one merge may have", len(j.Blocks), written(j.End-j.Start), sum.Bytes, cfg.MaxJobBytes)
	}
	return fmt.Sprintf("%d blocks in the window of %s overlap in time, but have %d series, more than the %d that one merge may have", len(j.Blocks), written(j.End-j.Start), sum.Series, cfg.MaxJobSeries)
}

// partitions is how many partitions of the log are in the blocks.
func partitions(blocks []*schema.BlockEntry) int {
	of := map[int32]bool{}
	for _, e := range blocks {
		for _, r := range e.Ranges {
			of[r.Partition] = true
		}
	}
	return len(of)
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// written writes a time in ms as people do, 2 h and 2 h 30 m.
func written(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	if d < time.Minute {
		return d.String()
	}
	var parts []string
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if n := d / unit.size; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, unit.name))
			d -= n * unit.size
		}
	}
	return strings.Join(parts, " ")
}
