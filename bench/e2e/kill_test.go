package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/bench/ledger"
	"sluice/schema"
)

// figures is what a kill test prints.
type figures struct {
	Scenario    string  `json:"scenario"`
	Seed        uint64  `json:"seed"`
	Seconds     float64 `json:"seconds"`
	Kills       int     `json:"kills"`
	Seals       int     `json:"seals_asked"`
	SealKills   int     `json:"kills_with_a_seal_under_way"`
	Requests    int     `json:"requests_acked"`
	Acked       int64   `json:"samples_acked"`
	Unknown     int     `json:"requests_unknown"`
	Rejected    int     `json:"requests_rejected"`
	Retries     int     `json:"retries"`
	Duplicates  int     `json:"requests_sent_twice"`
	Verified    int64   `json:"samples_verified"`
	Lost        int64   `json:"lost"`
	Duplicated  int64   `json:"duplicated"`
	Wrong       int64   `json:"wrong"`
	Foreign     int64   `json:"foreign"`
	OnlineReads int     `json:"online_reads_ok"`
	OnlineFails int     `json:"online_reads_failed"`
	Outage      float64 `json:"longest_write_outage_s"`
	ReadyMax    float64 `json:"slowest_restart_s"`
	PeakMB      int64   `json:"peak_rss_mb"`
	Faults      any     `json:"faults,omitempty"`
}

func (f *figures) add(r ledger.Report) {
	f.Verified += r.Samples
	f.Lost += r.Counts[ledger.Lost]
	f.Duplicated += r.Counts[ledger.Duplicated]
	f.Wrong += r.Counts[ledger.Altered] + r.Counts[ledger.Invented]
	f.Foreign += r.Counts[ledger.Foreign]
}

func (f *figures) print(t *testing.T) {
	b, err := json.Marshal(f)
	require.NoError(t, err)
	fmt.Printf("SLUICE-FIGURES %s\n", b)
}

// load is a writer with its ledger under way.
type load struct {
	t      *testing.T
	ledger *ledger.Ledger
	stop   chan struct{}
	done   chan struct{}
	stats  ledger.Stats
	err    error
}

// fleet is four tenants whose samples lie hours apart and advance at different speeds.
func fleet(seed uint64, slots int) ledger.Spec {
	now := time.Now()
	s := ledger.Spec{Seed: seed}
	for i, step := range []time.Duration{15 * time.Second, 30 * time.Second, 5 * time.Second, time.Second} {
		start := now.Add(-36 * time.Hour)
		if step <= 5*time.Second {
			start = now.Add(-5 * time.Hour)
		}
		s.Tenants = append(s.Tenants, ledger.Tenant{
			Name: fmt.Sprintf("team-%c", 'a'+i), Slots: slots, Start: start.UnixMilli(), Step: step,
			Late: [2]int64{20, 300}, // minutes to hours
		})
	}
	return s
}

func startLoad(t *testing.T, dir, push string, spec ledger.Spec, rate float64) *load {
	t.Helper()
	return startLoadOf(t, dir, spec, ledger.WriteConfig{
		URL: push, TenantHeader: schema.TenantHeader, Writers: 2, Rate: rate, Ticks: 10, Duplicate: 25, MaxBackoff: 500 * time.Millisecond,
	})
}

func startLoadOf(t *testing.T, dir string, spec ledger.Spec, cfg ledger.WriteConfig) *load {
	t.Helper()
	l, err := ledger.Create(filepath.Join(dir, "ledger"), spec)
	require.NoError(t, err)
	w := &load{t: t, ledger: l, stop: make(chan struct{}), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(w.done)
		w.stats, w.err = l.Write(ctx, w.stop, cfg)
	}()
	t.Cleanup(func() {
		cancel()
		<-w.done
	})
	return w
}

// finish lets every writer finish what it has under way.
func (w *load) finish(within time.Duration) ledger.Stats {
	w.t.Helper()
	close(w.stop)
	select {
	case <-w.done:
	case <-time.After(within):
		require.Fail(w.t, "writers hang", "a request under way was not acked within %s of the last restart", within)
	}
	require.NoError(w.t, w.err)
	require.NoError(w.t, w.ledger.Close())
	return w.stats
}

func (w *load) verifier(base string, paths ...ledger.Path) *ledger.Verifier {
	return &ledger.Verifier{Ledger: w.ledger, Paths: paths, Patience: 60 * time.Second, Target: ledger.Target{
		URL: base + "/prometheus", TenantHeader: schema.TenantHeader, Header: map[string][]string{strong: {"strong"}},
	}}
}

// verify reads everything back and demands that nothing is wrong.
func (w *load) verify(state, base string, fig *figures, paths ...ledger.Path) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	begun := time.Now()
	rep, err := w.verifier(base, paths...).Verify(ctx)
	fig.add(rep)
	w.t.Logf("verified %s in %s: %s", state, time.Since(begun).Round(time.Millisecond), rep.String())
	if err != nil || rep.Wrong() != 0 {
		fig.print(w.t)
	}
	require.NoError(w.t, err, state)
	require.Zero(w.t, rep.Wrong(), "%s: %s", state, rep.String())
	require.Positive(w.t, rep.Samples)
}

// watch reads random blocks of slots by strong reads while everything goes on: an error is allowed, a hole is not.
func (w *load) watch(ctx context.Context, base string, rng *rand.Rand, fig *figures) ledger.Report {
	v := w.verifier(base)
	v.Patience = 0
	var total ledger.Report
	spec := w.ledger.Spec
	paths := []ledger.Path{ledger.PathChunks, ledger.PathSamples, ledger.PathPromQL}
	for ctx.Err() == nil {
		tenant := rng.IntN(len(spec.Tenants))
		rep, err := v.Block(ctx, paths[rng.IntN(len(paths))], tenant, rng.IntN(spec.Tenants[tenant].Blocks()))
		if err != nil {
			fig.OnlineFails++
		} else {
			fig.OnlineReads++
			total.Merge(rep)
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return total
}

// chaos is a run of kills.
type chaos struct {
	fig    *figures
	rng    *rand.Rand
	kills  int
	before func(kill int) // what else happens, before each kill; may be nil
}

// run kills the instance again and again while w writes to it. It is running when run returns.
func (c *chaos) run(t *testing.T, s *instance) {
	t.Helper()
	var seals sync.WaitGroup
	defer seals.Wait()
	for i := range c.kills {
		if c.before != nil {
			c.before(i)
		}
		life := 300*time.Millisecond + time.Duration(c.rng.Int64N(int64(2700*time.Millisecond)))
		ctx, cancel := context.WithTimeout(context.Background(), life)
		sealed := false
		if c.rng.IntN(2) == 0 { // so that the kill hits a seal: anywhere from its beginning to long after it
			sealed = true
			c.fig.Seals++
			at := time.Duration(c.rng.Int64N(int64(life)))
			seals.Add(1)
			go func() {
				defer seals.Done()
				select {
				case <-ctx.Done():
				case <-time.After(at):
					if _, err := post(ctx, s.url("/-/seal?wait=true"), "", "", nil); err != nil && sealed {
						c.fig.sealKilled()
					}
				}
			}()
		}
		<-ctx.Done() // the moment is random; nothing waits for anything here
		require.True(t, s.running(), "%s died by itself before kill %d: %v", s.name, i, s.err)
		s.kill()
		cancel()
		c.fig.Kills++
		begun := time.Now()
		s.start()
		s.ready(60 * time.Second)
		c.fig.ReadyMax = max(c.fig.ReadyMax, time.Since(begun).Seconds())
	}
}

var sealMu sync.Mutex

func (f *figures) sealKilled() {
	sealMu.Lock()
	defer sealMu.Unlock()
	f.SealKills++
}

// killCount is how often a kill test kills.
func killCount(t *testing.T, normally int) int {
	if s := os.Getenv("SLUICE_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		require.NoError(t, err)
		return n
	}
	return normally
}

// fast are the flags that put many seals, compactions and deletions into a short run.
func fast() []string {
	return []string{
		"--consumer.generation", "5s", "--producer.tick-interval", "1s", "--consumer.retain-shipped", "2s",
		"--compactor.interval", "1s", "--compactor.settle", "2s", "--compactor.deletion-delay", "5s",
		"--compactor.orphan-delay", "20s", "--compactor.reconcile-interval", "5s",
	}
}

// storm is the whole kill test: chaos under load, heal, and verification of heads, blocks and a cold start.
// check are arguments for `sluice check` beside the data directory.
func storm(t *testing.T, fig *figures, s *instance, c *chaos, slots int, rate float64, check ...string) {
	begun := time.Now()
	fig.Seed = seed(t)
	c.fig, c.rng = fig, rand.New(rand.NewPCG(fig.Seed, 1))
	s.start()
	s.ready(60 * time.Second)
	w := startLoad(t, s.dir, s.url("/api/v1/push"), fleet(fig.Seed, slots), rate)

	watching, enough := context.WithCancel(context.Background())
	defer enough()
	online := make(chan ledger.Report, 1)
	go func() { online <- w.watch(watching, s.url(""), rand.New(rand.NewPCG(fig.Seed, 2)), fig) }()
	c.run(t, s)
	enough()
	seen := <-online

	stats := w.finish(60 * time.Second)
	fig.Requests, fig.Acked, fig.Unknown, fig.Rejected = stats.Acked, stats.Samples, stats.Unknown, stats.Rejected
	fig.Retries, fig.Duplicates, fig.Outage = stats.Retries, stats.Duplicates, stats.Outage.Seconds()
	t.Logf("wrote for %s: %+v", stats.Took.Round(time.Second), stats)
	fig.add(seen)
	require.Zero(t, seen.Wrong(), "strong reads under fire: %s", seen.String())
	require.Zero(t, stats.Rejected, "refused: %q", stats.Problems)
	require.Zero(t, stats.Unknown)
	require.Zero(t, stats.WrongWritten, stats.Problems)
	require.Zero(t, stats.MissingRetryAfter, "429 or 503 without Retry-After")
	require.Greater(t, float64(stats.Samples), 0.2*rate*stats.Took.Seconds(), "too little was acked for the test to mean anything")

	w.verify("hot", s.url(""), fig)
	s.seal(2 * time.Minute)
	w.verify("from blocks", s.url(""), fig)

	s.stop()
	require.NoError(t, os.RemoveAll(filepath.Join(s.data, "scratch")))
	s.start()
	s.ready(60 * time.Second)
	w.verify("after a cold start without scratch", s.url(""), fig)
	// A stop in the middle of a merge's upload leaves half of it, to be cleared after the orphan delay: then once more.
	for range 4 {
		settled(t, s, check...)
		s.stop()
		if out, exit := sluice(t, 2*time.Minute, append([]string{"check", "--data-dir", s.data, "--deep"}, check...)...); exit == 0 {
			break
		} else if !strings.Contains(out, "part of an upload") {
			t.Fatalf("sluice check:\n%s", out)
		}
		s.start()
		s.ready(60 * time.Second)
	}
	if s.running() {
		s.stop()
	}
	checkClean(t, s, check...)

	fig.PeakMB = s.peak >> 20
	fig.Seconds = time.Since(begun).Seconds()
}

// settled waits until a check of the running system finds nothing: what the last kills left behind (half an upload, a
// replaced block) goes after its delay.
func settled(t *testing.T, s *instance, args ...string) {
	t.Helper()
	eventually(t, "sluice check finds nothing in the running system", 90*time.Second, func() error {
		out, exit := sluice(t, time.Minute, append([]string{"check", "--data-dir", s.data}, args...)...)
		if exit != 0 {
			return fmt.Errorf("sluice check exits %d:\n%s", exit, out)
		}
		return nil
	})
}

// checkClean demands that `sluice check --deep` finds nothing, and that no sample was of a series that nobody had defined.
func checkClean(t *testing.T, s *instance, args ...string) {
	t.Helper()
	letters, exit := sluice(t, time.Minute, append([]string{"log", "dead-letter", "list", "--data-dir", s.data, "--log.level", "error"}, args...)...)
	require.Zero(t, exit, letters)
	require.NotContains(t, letters, "unresolved refs")
	out, exit := sluice(t, 2*time.Minute, append([]string{"check", "--data-dir", s.data, "--deep"}, args...)...)
	require.Zero(t, exit, "sluice check:\n%s", out)
	t.Logf("sluice check:\n%s", out)
}

// TestKill: kill -9 at any moment loses nothing, doubles nothing, changes nothing and shows nothing to others.
func TestKill(t *testing.T) {
	enabled(t)
	t.Parallel()
	dir := workDir(t)
	s := newInstance(t, dir, "all", append(fast(), "--tenancy.required")...)
	fig := &figures{Scenario: "kill -9 of sluice all, directory bucket"}
	storm(t, fig, s, &chaos{kills: killCount(t, 20)}, 400, 20_000)
	fig.print(t)
}

// TestKillRecordsV1 is TestKill with records that carry all labels, as older producers write them. Every other test does the
// same with SLUICE_PRODUCER_RECORD_VERSION=1 in the environment.
func TestKillRecordsV1(t *testing.T) {
	enabled(t)
	t.Parallel()
	dir := workDir(t)
	s := newInstance(t, dir, "all", append(fast(), "--tenancy.required", "--producer.record-version=1")...)
	fig := &figures{Scenario: "kill -9 of sluice all, records of version 1"}
	storm(t, fig, s, &chaos{kills: killCount(t, 6)}, 200, 10_000)
	fig.print(t)
}
