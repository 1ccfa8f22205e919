package plan

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

var update = flag.Bool("update", false, "write what the planner says into testdata")

// TestPlan runs testdata/plan/*.txt. A file is a list of cases "comment, input, ----, output, empty line". Input:
//
//	now 14h30m                       time since the start of a day
//	settle 30m | max-bytes 100 | max-series 100
//	a [0h,2h) level=2 at=3h from=1h p=0 bytes=10 series=5 res=300000
//
// Output: a line for each job, "12h [0s,12h0m0s) a b c" (blocks in order of rank), "too large …" for refused ones.
func TestPlan(t *testing.T) {
	files, err := filepath.Glob("testdata/plan/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			require.NoError(t, err)
			var got bytes.Buffer
			for i, c := range strings.Split(strings.TrimSpace(string(raw)), "\n\n") {
				in, _, ok := strings.Cut(c+"\n", "----\n")
				require.True(t, ok, "case %d has no ----", i)
				if i > 0 {
					got.WriteByte('\n')
				}
				got.WriteString(in + "----\n" + planText(t, in))
			}
			if *update {
				require.NoError(t, os.WriteFile(file, got.Bytes(), 0o644))
				return
			}
			require.Equal(t, string(raw), got.String())
		})
	}
}

// day0 is a multiple of every window that the tests use.
const day0 = int64(1024 * 24 * 3600 * 1000 * 16)

func planText(t *testing.T, in string) string {
	cfg := testPlanConfig()
	var now int64
	var blocks []*schema.BlockEntry
	names := map[ulid.ULID]string{}
	for _, line := range strings.Split(in, "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) == 0 || strings.HasPrefix(line, "#"):
		case f[0] == "now":
			now = day0 + ms(t, f[1])
		case f[0] == "settle":
			cfg.Settle = ms(t, f[1])
		case f[0] == "max-bytes":
			cfg.MaxJobBytes = int64(number(t, f[1]))
		case f[0] == "max-series":
			cfg.MaxJobSeries = uint64(number(t, f[1]))
		default:
			e := parseBlock(t, f)
			names[e.ID] = f[0]
			blocks = append(blocks, e)
		}
	}
	jobs, tooLarge := Jobs(now, blocks, cfg)
	var b strings.Builder
	for i, list := range [][]Job{jobs, tooLarge} {
		for _, j := range list {
			b.WriteString([]string{"", "too large "}[i])
			fmt.Fprintf(&b, "%s [%s,%s)", span(j.End-j.Start), span(j.Start-day0), span(j.End-day0))
			for _, e := range j.Blocks {
				b.WriteString(" " + names[e.ID])
			}
			b.WriteByte('\n')
		}
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

func testPlanConfig() Config {
	const h = int64(3600 * 1000)
	return Config{Ranges: []int64{2 * h, 12 * h, 24 * h}, Settle: h / 2}
}

func parseBlock(t *testing.T, f []string) *schema.BlockEntry {
	from, to, _ := strings.Cut(strings.Trim(f[1], "[)"), ",")
	e := &schema.BlockEntry{Level: 1, State: schema.BlockLive, MinTime: day0 + ms(t, from), MaxTime: day0 + ms(t, to), At: day0}
	copy(e.ID[:], f[0])
	r := schema.LogRange{}
	for _, kv := range f[2:] {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "level":
			e.Level = number(t, v)
		case "at":
			e.At = day0 + ms(t, v)
		case "from":
			e.LogFrom = day0 + ms(t, v)
		case "p":
			r.Partition = int32(number(t, v))
		case "bytes":
			e.Bytes = int64(number(t, v))
		case "series":
			e.Series = uint64(number(t, v))
		case "res":
			e.Resolution = int64(number(t, v))
		default:
			t.Fatalf("unknown field %q", kv)
		}
	}
	e.Ranges = []schema.LogRange{r}
	return e
}

func ms(t *testing.T, s string) int64 {
	d, err := time.ParseDuration(s)
	require.NoError(t, err)
	return d.Milliseconds()
}

func span(ms int64) string {
	s := (time.Duration(ms) * time.Millisecond).String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}

func number(t *testing.T, s string) int {
	n, err := strconv.Atoi(s)
	require.NoError(t, err)
	return n
}

// TestPlanProperties plans random block sets over and over, as the compactor would, and holds every job against the
// rules: two inputs at least, no block twice, closed windows only, everything of the window in it; and the plan ends.
func TestPlanProperties(t *testing.T) {
	const h = int64(3600 * 1000)
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		cfg := testPlanConfig()
		if seed%3 == 0 {
			cfg.MaxJobBytes = 1 + rng.Int64N(60)
		}
		var blocks []*schema.BlockEntry
		next := 0
		add := func(e schema.BlockEntry) {
			next++
			e.ID[14], e.ID[15] = byte(next>>8), byte(next)
			blocks = append(blocks, &e)
		}
		for range rng.IntN(40) {
			window := day0 + rng.Int64N(40)*2*h
			mint := window + rng.Int64N(h)
			e := schema.BlockEntry{Level: 1, MinTime: mint, MaxTime: mint + 1 + rng.Int64N(h), At: window + rng.Int64N(6*h), LogFrom: rng.Int64N(100), Bytes: 1 + rng.Int64N(10)}
			if rng.IntN(10) == 0 {
				e.MaxTime = e.MinTime + rng.Int64N(100*h) // a foreign one, of any width
			}
			add(e)
		}
		now := day0 + rng.Int64N(120*h)
		for round := 0; ; round++ {
			require.Less(t, round, 100, "seed %d: planning does not end", seed)
			jobs, _ := Jobs(now, blocks, cfg)
			if len(jobs) == 0 {
				break
			}
			used := map[ulid.ULID]bool{}
			for _, j := range jobs {
				checkJob(t, seed, now, j, blocks, cfg)
				merged := *j.Blocks[0]
				merged.Level, merged.At, merged.Bytes = 2, now, 0
				for _, e := range j.Blocks {
					require.False(t, used[e.ID], "seed %d: block in two jobs", seed)
					used[e.ID] = true
					merged.MinTime, merged.MaxTime = min(merged.MinTime, e.MinTime), max(merged.MaxTime, e.MaxTime)
					merged.Bytes += e.Bytes
				}
				add(merged)
			}
			blocks = slices.DeleteFunc(blocks, func(e *schema.BlockEntry) bool { return used[e.ID] })
		}
	}
}

func checkJob(t *testing.T, seed uint64, now int64, j Job, blocks []*schema.BlockEntry, cfg Config) {
	require.GreaterOrEqual(t, len(j.Blocks), 2, "seed %d", seed)
	require.True(t, slices.IsSortedFunc(j.Blocks, func(a, b *schema.BlockEntry) int { return cmp.Compare(a.LogFrom, b.LogFrom) }), "seed %d: rank", seed)
	var bytes int64
	for _, e := range j.Blocks {
		require.GreaterOrEqual(t, e.MinTime, j.Start, "seed %d", seed)
		require.LessOrEqual(t, lastTime(e), j.End, "seed %d", seed)
		bytes += e.Bytes
	}
	if cfg.MaxJobBytes > 0 {
		require.LessOrEqual(t, bytes, cfg.MaxJobBytes, "seed %d", seed)
	}
	if slices.Contains(cfg.Ranges, j.End-j.Start) {
		require.GreaterOrEqual(t, now, j.End+cfg.Settle, "seed %d: window is open", seed)
		for _, e := range blocks {
			if e.MinTime >= j.Start && lastTime(e) < j.End {
				require.Contains(t, j.Blocks, e, "seed %d: a block of the window is left out", seed)
			}
		}
	}
}

func BenchmarkPlan(b *testing.B) {
	const h = int64(3600 * 1000)
	var blocks []*schema.BlockEntry
	for i := range int64(1000) {
		e := &schema.BlockEntry{Level: 2, MinTime: day0 + i*24*h, MaxTime: day0 + i*24*h + 24*h, At: day0}
		e.ID[14], e.ID[15] = byte(i>>8), byte(i)
		blocks = append(blocks, e)
	}
	b.ReportAllocs()
	for b.Loop() {
		Jobs(day0+2000*24*h, blocks, testPlanConfig())
	}
}
