// Package plan decides which blocks become one. In go the live blocks of one tenant, a time and the bounds of compactors;
// out come the merges that are worth doing now, those that will be later, and why. It knows no clock, no log and no bucket,
// so whoever has the catalogue comes to the same plan: compactors, who act on it, and readers, who show it. It also has
// what the two must agree on beside it: the name of a merge, and the notes of blocks that no merge takes.
package plan

import (
	"cmp"
	"math"
	"slices"

	"sluice/internal/catalog"
	"sluice/schema"
)

// The rules.
//
// Time is cut into windows aligned to the epoch, of 2 h, 12 h and 24 h by default: each kind consists of whole windows of
// the kind before. A window is closed a settle time after its end, when the partitions have shipped what they had of it.
//
//   - A closed window of the smallest kind is merged when two of its blocks overlap in time (several partitions, late
//     samples). A closed larger one is merged as soon as it has two blocks at all.
//   - The largest closed window wins: its blocks go straight into one, the windows inside it are not looked at.
//   - A block that arrives in a window that was merged before waits for a settle time, together with those that come in
//     the meantime, so that late samples do not make the large block be written again each time.
//   - A job takes ALL blocks that lie in its window. Of two values for one sample the first in log order wins, and a
//     merged block ranks by its first input: were a block left out that ranks between two inputs, the later of the two
//     would begin to win over it. Taking all keeps the rule exact, and since the blocks of a partition arrive in log order,
//     whatever arrives later ranks later in every partition. (A quarantined block is the exception: nobody can read it.)
//   - A job over the bounds on bytes or series is not done, and neither is a part of its window, for the same reason; the
//     smaller windows inside it are tried instead.
//   - A block that no window of the largest kind holds (a foreign writer's) is merged only with blocks that overlap it
//     and whose smallest window among 2, 4, 8 … times the largest kind is the same one.
//   - Downsampled blocks of a foreign writer are left alone.

// Config bounds and shapes the plan. Times are in ms.
type Config struct {
	Ranges       []int64 // lengths of the windows, ascending, each a multiple of the one before
	Settle       int64   // a window is closed this long after its end
	MaxJobBytes  int64   // of all inputs together; 0 = no bound
	MaxJobSeries uint64  // of all inputs together, counted once for each; 0 = no bound
}

// Default is what a compactor goes by that is told nothing else: windows of 2 h, 12 h and 24 h, closed two and a half hours
// after their end, merges of up to 32 GiB and 20 million series.
func Default() Config {
	const minute = 60 * 1000
	return Config{
		Ranges: []int64{120 * minute, 720 * minute, 1440 * minute}, Settle: 150 * minute,
		MaxJobBytes: 32 << 30, MaxJobSeries: 20_000_000,
	}
}

// Valid says whether one can plan with it. What another process has told may be anything.
func (c *Config) Valid() bool {
	for i, r := range c.Ranges {
		if r < 1 || r > maxRange || i > 0 && (r <= c.Ranges[i-1] || r%c.Ranges[i-1] != 0) {
			return false
		}
	}
	return len(c.Ranges) > 0 && len(c.Ranges) <= 20 && c.Settle >= 0 && c.Settle <= maxRange && c.MaxJobBytes >= 0
}

// maxRange is ten years, in ms.
const maxRange = 10 * 366 * 24 * 3600 * 1000

// Job is one merge: the blocks, in order of rank, that become one.
type Job struct {
	Start, End int64 // the window, [Start, End) in ms
	Blocks     []*schema.BlockEntry
}

// Jobs returns what is worth merging at the time now (ms), the smallest windows first: they mend what slows queries most
// and cost least. entries are the live, readable blocks of one tenant, in any order. tooLarge are windows whose blocks
// overlap but exceed the bounds.
func Jobs(now int64, entries []*schema.BlockEntry, cfg Config) (jobs, tooLarge []Job) {
	p := planner{now: now, cfg: cfg}
	largest := cfg.Ranges[len(cfg.Ranges)-1]
	windows := map[int64][]*schema.BlockEntry{}
	wide := map[[2]int64][]*schema.BlockEntry{}
	for _, e := range entries {
		switch {
		case e.Resolution != 0:
		case inWindow(e, largest):
			start := windowStart(e.MinTime, largest)
			windows[start] = append(windows[start], e)
		default:
			if home, ok := wideWindow(e, largest); ok {
				wide[home] = append(wide[home], e)
			}
		}
	}
	for start, blocks := range windows {
		p.window(start, len(cfg.Ranges)-1, blocks)
	}
	for home, blocks := range wide {
		p.wide(home[0], home[1], blocks)
	}
	for _, list := range [][]Job{p.jobs, p.tooLarge} {
		slices.SortFunc(list, func(a, b Job) int {
			return cmp.Or(cmp.Compare(a.End-a.Start, b.End-b.Start), cmp.Compare(a.Start, b.Start), catalog.Compare(a.Blocks[0], b.Blocks[0]))
		})
	}
	return p.jobs, p.tooLarge
}

type planner struct {
	now            int64
	cfg            Config
	jobs, tooLarge []Job
}

// window plans the window of the given kind that starts at start, whose blocks all lie in it.
func (p *planner) window(start int64, kind int, blocks []*schema.BlockEntry) {
	if len(blocks) < 2 {
		return
	}
	size := p.cfg.Ranges[kind]
	closed := start + size + p.cfg.Settle
	useful := overlapping(blocks)
	if p.now >= closed && (kind > 0 || useful) {
		if p.fits(blocks) {
			if p.settled(closed, blocks) {
				p.add(start, start+size, blocks)
			}
			return
		}
		if jobs, refused := len(p.jobs), len(p.tooLarge); useful {
			defer func() {
				if len(p.jobs) == jobs && len(p.tooLarge) == refused {
					p.tooLarge = append(p.tooLarge, Job{start, start + size, blocks})
				}
			}()
		}
	}
	if kind == 0 {
		return
	}
	smaller := p.cfg.Ranges[kind-1]
	inside := map[int64][]*schema.BlockEntry{}
	for _, e := range blocks {
		if inWindow(e, smaller) {
			s := windowStart(e.MinTime, smaller)
			inside[s] = append(inside[s], e)
		}
	}
	for s := start; s < start+size; s += smaller {
		p.window(s, kind-1, inside[s])
	}
}

// settled says whether the newcomers of a window that was merged before have waited long enough. Blocks that were merged
// after the window had closed are no newcomers; the oldest of the others sets the time, so that a trickle of late blocks
// cannot put the merge off for ever.
func (p *planner) settled(closed int64, blocks []*schema.BlockEntry) bool {
	merged, oldest := 0, int64(math.MaxInt64)
	for _, e := range blocks {
		if e.Level > 1 && e.At >= closed {
			merged++
		} else {
			oldest = min(oldest, e.At)
		}
	}
	return merged == 0 || merged == len(blocks) || p.now >= oldest+p.cfg.Settle
}

// wide plans the blocks whose home is the window [start, start+size), which is larger than the largest kind.
func (p *planner) wide(start, size int64, blocks []*schema.BlockEntry) {
	slices.SortFunc(blocks, catalog.Compare)
	for i := 0; i < len(blocks); {
		end, maxt := i+1, blocks[i].MaxTime
		for end < len(blocks) && blocks[end].MinTime < maxt {
			maxt = max(maxt, blocks[end].MaxTime)
			end++
		}
		if cluster := blocks[i:end]; len(cluster) > 1 && p.now >= maxt+p.cfg.Settle {
			if p.fits(cluster) {
				p.add(start, start+size, cluster)
			} else {
				p.tooLarge = append(p.tooLarge, Job{start, start + size, cluster})
			}
		}
		i = end
	}
}

func (p *planner) add(start, end int64, blocks []*schema.BlockEntry) {
	p.jobs = append(p.jobs, Job{start, end, slices.SortedFunc(slices.Values(blocks), catalog.CompareRank)})
}

func (p *planner) fits(blocks []*schema.BlockEntry) bool {
	var bytes int64
	var series uint64
	for _, e := range blocks {
		bytes += e.Bytes
		series += e.Series
	}
	return (p.cfg.MaxJobBytes == 0 || bytes <= p.cfg.MaxJobBytes) && (p.cfg.MaxJobSeries == 0 || series <= p.cfg.MaxJobSeries)
}

// overlapping says whether two of the blocks share a moment.
func overlapping(blocks []*schema.BlockEntry) bool {
	sorted := slices.SortedFunc(slices.Values(blocks), catalog.Compare)
	maxt := sorted[0].MaxTime
	for _, e := range sorted[1:] {
		if e.MinTime < maxt {
			return true
		}
		maxt = max(maxt, e.MaxTime)
	}
	return false
}

// inWindow says whether the block lies in one aligned window of that size.
func inWindow(e *schema.BlockEntry, size int64) bool {
	return windowStart(e.MinTime, size) == windowStart(lastTime(e), size)
}

// lastTime is the time of the block's last sample; MaxTime lies one behind it.
func lastTime(e *schema.BlockEntry) int64 { return max(e.MinTime, e.MaxTime-1) }

// windowStart rounds t down to a multiple of size, also before 1970.
func windowStart(t, size int64) int64 {
	start := t / size * size
	if start > t {
		start -= size
	}
	return start
}

// wideWindow finds the smallest window of 2, 4, 8 … times largest that holds the block: its start and size. The largest
// tried is some 11 years; a block that crosses the border between two of those is never merged.
func wideWindow(e *schema.BlockEntry, largest int64) (home [2]int64, ok bool) {
	for i := 1; i <= 12; i++ {
		if size := largest << i; inWindow(e, size) {
			return [2]int64{windowStart(e.MinTime, size), size}, true
		}
	}
	return home, false
}
