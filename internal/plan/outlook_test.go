package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// TestLook: the language is that of TestPlan; out come "ready|waiting|too large, due, window, blocks: why".
func TestLook(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"nothing to do", "now 14h\na [0h,2h)", ""},
		{"partitions of one generation", "now 3h\na [0h,2h) p=0\nb [0h,2h) p=1\nc [1h,2h) p=2",
			"ready 2h30m 2h a b c: 3 blocks in the window of 2 h overlap in time (3 partitions)"},
		{"the same while the window is open", "now 1h30m\na [0h,1h) p=0\nb [0h,1h) p=1",
			"waiting 2h30m 2h a b: 2 blocks in the window of 2 h overlap in time (2 partitions), and more may come until 30 m after its end"},
		{"one after the other", "now 5h\na [0h,2h) p=0\nb [2h,4h) p=0",
			"waiting 12h30m 12h a b: window of 12 h has 2 blocks and is closed 30 m after its end"},
		{"they will be merged at once where two windows end together", "now 23h\na [0h,12h) level=2\nb [12h,14h)\nc [14h,16h)",
			"waiting 24h30m 24h a b c: window of 24 h has 3 blocks and is closed 30 m after its end"},
		{"closed", "now 12h30m\na [0h,2h)\nb [2h,4h)", "ready 12h30m 12h a b: window of 12 h is closed and has 2 blocks"},
		{"what is ready does not wait as well, what becomes of it does", "now 13h\na [0h,2h)\nb [2h,4h)\nc [12h,13h)",
			"ready 12h30m 12h a b: window of 12 h is closed and has 2 blocks\n" +
				"waiting 24h30m 24h a b c: window of 24 h has 3 blocks and is closed 30 m after its end"},
		{"newcomers", "now 26h\na [0h,24h) level=2 at=25h\nb [1h,2h) at=25h45m",
			"waiting 26h15m 24h a b: 1 block came after the window of 24 h was merged, and more may come"},
		{"newcomers that have waited", "now 27h\na [0h,24h) level=2 at=25h\nb [1h,2h) at=25h45m\nc [1h,2h) at=26h45m",
			"ready 26h15m 24h a b c: 2 blocks came after the window of 24 h was merged"},
		{"too large", "now 3h\nmax-bytes 15\na [0h,2h) bytes=10\nb [0h,2h) bytes=10",
			"too large 2h30m 2h a b: 2 blocks in the window of 2 h overlap in time, but have 20 bytes, more than the 15 that one merge may have"},
		{"too many series", "now 3h\nmax-series 15\na [0h,2h) series=10\nb [0h,2h) series=10",
			"too large 2h30m 2h a b: 2 blocks in the window of 2 h overlap in time, but have 20 series, more than the 15 that one merge may have"},
		{"wide ones", "now 40h\na [0h,48h)\nb [20h,30h)\nc [30h,47h)",
			"waiting 48h30m 48h a b: 2 blocks longer than 24 h overlap in time, and more may come until 30 m after its end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			now, blocks, cfg, names := parsePlan(t, c.in)
			var got []string
			look := Look(now, blocks, cfg)
			for state, list := range map[string][]Planned{"ready": look.Jobs, "waiting": look.Waiting, "too large": look.TooLarge} {
				for _, j := range list {
					line := fmt.Sprintf("%s %s %s", state, span(j.Due-day0), span(j.End-j.Start))
					for _, e := range j.Blocks {
						line += " " + names[e.ID]
					}
					got = append(got, line+": "+j.Why)
				}
			}
			slices.Sort(got)
			require.Equal(t, strings.TrimSpace(c.want), strings.Join(got, "\n"))
		})
	}
}

func parsePlan(t *testing.T, in string) (now int64, blocks []*schema.BlockEntry, cfg Config, names map[ulid.ULID]string) {
	cfg, names = testPlanConfig(), map[ulid.ULID]string{}
	for line := range strings.Lines(in) {
		switch f := strings.Fields(line); f[0] {
		case "now":
			now = day0 + ms(t, f[1])
		case "max-bytes":
			cfg.MaxJobBytes = int64(number(t, f[1]))
		case "max-series":
			cfg.MaxJobSeries = uint64(number(t, f[1]))
		default:
			e := parseBlock(t, f)
			names[e.ID] = f[0]
			blocks = append(blocks, e)
		}
	}
	return now, blocks, cfg, names
}

// TestLookIsThePlan: until the first merge that waits is due the planner finds nothing else than it does now, and then that one.
func TestLookIsThePlan(t *testing.T) {
	const h = int64(3600 * 1000)
	found := 0
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 5))
		cfg := testPlanConfig()
		now := day0 + 48*h + rng.Int64N(24*h)
		var blocks []*schema.BlockEntry
		for i := range 1 + rng.IntN(6) {
			e := &schema.BlockEntry{Level: 1 + rng.IntN(2), MinTime: day0 + 24*h + rng.Int64N(48*h)}
			e.MaxTime = min((e.MinTime/(2*h)+1)*2*h, e.MinTime+1+rng.Int64N(2*h))
			e.At = min(now, e.MaxTime+rng.Int64N(10*h))
			e.ID[15], e.LogFrom = byte(i), rng.Int64N(100)
			blocks = append(blocks, e)
		}
		look := Look(now, blocks, cfg)
		jobs, _ := Jobs(now, blocks, cfg)
		require.Len(t, look.Jobs, len(jobs))
		if len(jobs) > 0 || len(look.Waiting) == 0 {
			continue
		}
		found++
		first := look.Waiting[0]
		for at := now; at < first.Due; at += 10 * time.Minute.Milliseconds() {
			jobs, _ := Jobs(at, blocks, cfg)
			require.Empty(t, jobs, "seed %d", seed)
		}
		jobs, _ = Jobs(first.Due-1, blocks, cfg)
		require.Empty(t, jobs, "seed %d: it is due before", seed)
		jobs, _ = Jobs(first.Due, blocks, cfg)
		require.True(t, slices.ContainsFunc(jobs, func(j Job) bool { return slices.Equal(j.Blocks, first.Blocks) }), "seed %d", seed)
	}
	require.Greater(t, found, 50)
}

// BenchmarkLook: five days, the last of them waiting; 40 blocks each hour.
func BenchmarkLook(b *testing.B) {
	const h = int64(3600 * 1000)
	var blocks []*schema.BlockEntry
	for i := range int64(5000) {
		start := day0 + i/40*h
		e := &schema.BlockEntry{Level: 1, MinTime: start, MaxTime: start + h, At: start + h, LogFrom: i}
		e.ID[14], e.ID[15] = byte(i>>8), byte(i)
		blocks = append(blocks, e)
	}
	b.ReportAllocs()
	for b.Loop() {
		Look(day0+125*h, blocks, testPlanConfig())
	}
}

func TestValid(t *testing.T) {
	good := Default()
	require.True(t, good.Valid())
	for name, bad := range map[string]Config{
		"nothing": {}, "zero": {Ranges: []int64{0}}, "twice": {Ranges: []int64{5, 5}}, "no multiple": {Ranges: []int64{2, 5}},
		"negative": {Ranges: []int64{-2}}, "settle": {Ranges: []int64{2}, Settle: -1}, "bytes": {Ranges: []int64{2}, MaxJobBytes: -1},
		"ages": {Ranges: []int64{1 << 60}}, "many": {Ranges: make([]int64, 21)},
	} {
		require.False(t, bad.Valid(), name)
	}
}

func FuzzSetAside(f *testing.F) {
	f.Add("quarantine/t/01ARZ3NDEKTSV4RRFFQ69G5FAV", []byte(`{"at":1,"by":"a","cause":"x"}`))
	f.Add("quarantine/t/01ARZ3NDEKTSV4RRFFQ69G5FAV", []byte(nil))
	f.Add("quarantine//", []byte("{"))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		var q Quarantine
		if err := q.Take(key, value); err != nil {
			require.Empty(t, q.notes)
		}
		for block := range q.notes {
			_, err := schema.ParseTenant(string(block.Tenant))
			require.NoError(t, err)
		}
	})
}
