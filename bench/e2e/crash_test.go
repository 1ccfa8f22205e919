package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/bench/ledger"
	"sluice/schema"
)

var quotedStep = regexp.MustCompile(`"((?:consumer|compactor)/[a-z-]+)"`)

// failpoints are the names of the steps at which a build with the tag can be told to die: read from the source, since
// nothing here may import the product.
func failpoints(t *testing.T) (consumer, compactor []string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(repo, "internal", "failpoint", "failpoint.go"))
	require.NoError(t, err)
	for _, m := range quotedStep.FindAllSubmatch(raw, -1) {
		name := string(m[1])
		to := &consumer
		if strings.HasPrefix(name, "compactor/") {
			to = &compactor
		}
		if !slices.Contains(*to, name) {
			*to = append(*to, name)
		}
	}
	require.GreaterOrEqual(t, len(consumer), 10)
	require.GreaterOrEqual(t, len(compactor), 7)
	return consumer, compactor
}

// crasher drives an instance from one failpoint into the next, over one data directory.
type crasher struct {
	*instance
	hits    string         // SLUICE_FAILPOINT_LOG
	crashes map[string]int // by name
	broken  []error        // promises that did not hold after a crash
	never   []string       // names that did not fire when they were armed
}

// crash starts the instance with the failpoint armed and waits until it has died of it. What it leaves is checked.
func (c *crasher) crash(name string, within time.Duration) {
	c.t.Helper()
	c.env = []string{"SLUICE_FAILPOINT=" + name, "SLUICE_FAILPOINT_LOG=" + c.hits}
	c.start()
	sealing, enough := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // besides those by time
		defer close(done)
		for sealing.Err() == nil {
			ctx, cancel := context.WithTimeout(sealing, time.Second)
			_, _ = post(ctx, c.url("/-/seal"), "", "", nil) // refused while it starts, cut off when it dies
			cancel()
			select {
			case <-sealing.Done():
			case <-time.After(700 * time.Millisecond):
			}
		}
	}()
	select {
	case <-c.exited:
	case <-time.After(within):
		if !slices.Contains(c.never, name) {
			c.never = append(c.never, name)
		}
		c.process.kill()
	}
	enough()
	<-done
	var exit *exec.ExitError
	require.ErrorAs(c.t, c.err, &exit, "%s ended by itself when it should have died at %s", c.name, name)
	status, ok := exit.Sys().(syscall.WaitStatus)
	require.True(c.t, ok && status.Signaled() && status.Signal() == syscall.SIGKILL, "%s armed with %s: %v", c.name, name, c.err)
	c.crashes[name]++
	dir := []string{"--data-dir", c.data}
	if err := promised(filepath.Join(c.data, "bucket"), catalogueOf(c.t, dir...), logStatus(c.t, dir...)); err != nil {
		c.broken = append(c.broken, fmt.Errorf("after a crash at %s: %w", name, err))
		c.t.Log(c.broken[len(c.broken)-1])
	}
}

// heal starts the instance unarmed and reads everything back.
func (c *crasher) heal(w *load, after string, fig *figures) {
	c.t.Helper()
	c.env = []string{"SLUICE_FAILPOINT_LOG=" + c.hits}
	begun := time.Now()
	c.start()
	c.ready(60 * time.Second)
	fig.ReadyMax = max(fig.ReadyMax, time.Since(begun).Seconds())
	w.verify("after "+after, c.url(""), fig, ledger.PathChunks)
}

// TestCrashAtEveryStep: death at any step of the way from heads to deleted blocks, and at any step after one at any
// other, loses nothing, doubles nothing and leaves nothing behind.
func TestCrashAtEveryStep(t *testing.T) {
	enabled(t)
	t.Parallel()
	bin, err := buildFailpoints()
	require.NoError(t, err)
	consumer, compactor := failpoints(t)
	dir := workDir(t)
	fig := &figures{Scenario: "death at every step, and at every pair of steps of the consumer", Seed: seed(t)}
	begun := time.Now()
	c := &crasher{instance: newInstance(t, dir, "all", "--log.partitions", "2", "--tenancy.required", "--self-monitoring.tenant", "",
		"--consumer.generation", "1s", "--producer.tick-interval", "250ms", "--consumer.retain-shipped", "200ms",
		"--compactor.interval", "500ms", "--compactor.settle", "1s", "--compactor.deletion-delay", "1s",
		"--compactor.orphan-delay", "10s", "--compactor.reconcile-interval", "3s"),
		hits: filepath.Join(dir, "hits"), crashes: map[string]int{}}
	c.bin = bin

	spec := ledger.Spec{Seed: fig.Seed}
	for i := range 2 {
		spec.Tenants = append(spec.Tenants, ledger.Tenant{
			Name: fmt.Sprintf("team-%c", 'a'+i), Slots: 50, Start: time.Now().Add(-60 * time.Hour).UnixMilli(),
			Step: 15 * time.Second, Late: [2]int64{20, 300},
		})
	}
	w := startLoadOf(t, dir, spec, ledger.WriteConfig{
		URL: c.url("/api/v1/push"), TenantHeader: schema.TenantHeader, Writers: 2, Rate: 1500, Ticks: 5, Duplicate: 25, MaxBackoff: 200 * time.Millisecond,
	})

	for _, name := range append(slices.Clone(consumer), compactor...) {
		c.crash(name, 60*time.Second)
		c.heal(w, name, fig)
		c.instance.kill()
	}
	single := time.Since(begun)
	chain := pairs(consumer)
	for i, name := range chain {
		c.crash(name, 60*time.Second)
		if (i+1)%20 == 0 {
			c.heal(w, fmt.Sprintf("a chain of crashes that ends with %q", chain[max(0, i-2):i+1]), fig)
			c.instance.kill()
		}
		require.LessOrEqual(t, len(c.never), 3, "the failpoints do not fire: %q", c.never)
	}
	paired := time.Since(begun) - single

	c.heal(w, "all crashes", fig)
	stats := w.finish(60 * time.Second)
	fig.Requests, fig.Acked, fig.Unknown, fig.Rejected = stats.Acked, stats.Samples, stats.Unknown, stats.Rejected
	fig.Retries, fig.Duplicates, fig.Outage = stats.Retries, stats.Duplicates, stats.Outage.Seconds()
	require.Zero(t, stats.Rejected, stats.Problems)
	w.verify("hot", c.url(""), fig)
	c.seal(2 * time.Minute)
	w.verify("from blocks", c.url(""), fig)
	c.covered(30 * time.Second)
	stopClean(t, c.instance)

	raw, err := os.ReadFile(c.hits)
	require.NoError(t, err)
	seen := map[string]int{}
	for _, line := range bytes.Fields(raw) {
		seen[string(line)]++
	}
	var missing []string
	for _, name := range append(slices.Clone(consumer), compactor...) {
		if seen[name] == 0 {
			missing = append(missing, name)
		}
	}
	fig.Kills = len(chain) + len(consumer) + len(compactor)
	fig.Seconds, fig.PeakMB = time.Since(begun).Seconds(), c.peak>>20
	fig.Faults = map[string]any{
		"steps_known": len(consumer) + len(compactor), "steps_hit": len(seen), "steps_died_at": len(c.crashes) - len(c.never),
		"pairs": len(consumer) * len(consumer), "seconds_single": int(single.Seconds()), "seconds_pairs": int(paired.Seconds()), "never": c.never,
	}
	fig.print(t)
	t.Logf("hits: %v", seen)
	require.NoError(t, errors.Join(c.broken...))
	require.Empty(t, missing, "of %d known steps, these were never met", len(consumer)+len(compactor))
	require.Empty(t, c.never, "these were met, or not, but the process did not die of them when it was told to")
	require.Len(t, slices.Collect(maps.Keys(seen)), len(consumer)+len(compactor), "hits of steps that nobody knows: %v", seen)
}

// stopClean stops the instance at a moment at which nothing is half done, and demands that a deep check finds nothing. A
// stop in the middle of an upload of the compactor leaves a part of it, which goes after the orphan delay.
func stopClean(t *testing.T, s *instance, args ...string) {
	t.Helper()
	for range 4 {
		settled(t, s, args...)
		s.stop()
		out, exit := sluice(t, 2*time.Minute, append([]string{"check", "--data-dir", s.data, "--deep"}, args...)...)
		if exit == 0 {
			return
		}
		require.Contains(t, out, "part of an upload")
		s.start()
		s.ready(60 * time.Second)
	}
	require.Fail(t, "there is always something half done")
}

// pairs is a sequence of names in which every name comes directly after every name, itself too: each pair once.
func pairs(names []string) []string {
	var out []string
	for i, a := range names {
		out = append(out, a)
		for _, b := range names[i+1:] {
			out = append(out, a, b)
		}
	}
	return append(out, names[0])
}

func TestPairs(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e"}
	seen := map[string]bool{}
	seq := pairs(names)
	for i := range seq[1:] {
		seen[seq[i]+seq[i+1]] = true
	}
	require.Len(t, seen, 25)
	require.Len(t, seq, 26)
}
