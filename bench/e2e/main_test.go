package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// repo is the root of the repository, sluiceBin the sluice that TestMain built.
var repo, sluiceBin string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if why := disabled(); why != "" {
		fmt.Fprintf(os.Stderr, "bench/e2e: NOT RUNNING the tests of the real binary: %s\n", why)
		return m.Run()
	}
	if err := flag.Set("test.parallel", "100"); err != nil { // who has to wait does so in beside
		fmt.Fprintln(os.Stderr, "set how many tests may run at a time:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "sluice-e2e-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a directory for the binary:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if repo, err = filepath.Abs("../.."); err != nil {
		fmt.Fprintln(os.Stderr, "find the repository:", err)
		return 1
	}
	const generation = "SLUICE_CONSUMER_GENERATION" // for all who do not ask for another
	if os.Getenv(generation) == "" {
		os.Setenv(generation, unendingGeneration().String())
	}
	sluiceBin = filepath.Join(dir, "sluice")
	build := exec.Command("go", "build", "-o", sluiceBin, ".")
	build.Dir = repo
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build sluice: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// unendingGeneration is a length for generations that all outlast the tests, whatever the time of day: they end at multiples of
// their length, so one of two hours would end in the middle of some test, and what that looks for in heads would be in blocks.
func unendingGeneration() time.Duration {
	now := time.Now().UnixMilli()
	best, lasts := time.Duration(0), int64(0)
	for length := 24 * time.Hour; length > 16*time.Hour; length -= 10 * time.Minute {
		shortest := length.Milliseconds()
		for partition := range int32(16) {
			shortest = min(shortest, schema.Generation{Length: length.Milliseconds()}.Boundary(now, partition)-now)
		}
		if shortest > lasts {
			best, lasts = length, shortest
		}
	}
	return best
}

// buildFailpoints builds, once, a sluice that can be told to die at a step.
var buildFailpoints = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(filepath.Dir(sluiceBin), "sluice-failpoints")
	build := exec.Command("go", "build", "-tags", "failpoints", "-o", bin, ".")
	build.Dir = repo
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build sluice with failpoints: %w\n%s", err, out)
	}
	return bin, nil
})

// disabled says why the tests of this package do not run; empty = they do.
func disabled() string {
	switch {
	case testing.Short():
		return "-short"
	case os.Getenv("SLUICE_E2E") != "1":
		return "SLUICE_E2E=1 is not set (make test sets it)"
	}
	return ""
}

// enabled skips the test, loudly, unless the tests of real binaries are to run.
func enabled(t *testing.T) {
	if why := disabled(); why != "" {
		skip(t, why)
	}
}

// Places for tests that run beside each other. A browser keeps a core busy; the others mostly wait.
var browsers, others = make(chan struct{}, 1), make(chan struct{}, 3)

// beside lets a test run beside others as soon as there is a place. It comes before anything that takes time, or grows old.
// Who calls it first, in the order of the source, has a place when the last test that runs alone is over. TestCrashAtEveryStep is
// among them: it takes longest, and all would wait for it if it came last.
func beside(t *testing.T, places chan struct{}) {
	t.Helper()
	select {
	case places <- struct{}{}:
		t.Parallel()
	default:
		t.Parallel()
		begun := time.Now()
		places <- struct{}{}
		t.Logf("waited %s for its place, which counts as the test's time", time.Since(begun).Round(time.Second))
	}
	t.Cleanup(func() { <-places })
}

// skip skips, or fails where nothing may be skipped.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("SLUICE_REQUIRE_ALL") == "1" {
		t.Fatalf("must not be skipped (SLUICE_REQUIRE_ALL=1): %s", why)
	}
	t.Skipf("SKIPPED: %s", why)
}

// tool returns the path of a program the test cannot do without.
func tool(t *testing.T, name, hint string) string {
	t.Helper()
	for _, p := range []string{os.Getenv("SLUICE_TOOL_" + name), filepath.Join(repo, ".cache", "bin", name)} {
		if st, err := os.Stat(p); p != "" && err == nil && !st.IsDir() {
			return p
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		skip(t, fmt.Sprintf("%s is not installed; %s", name, hint))
	}
	return p
}

// workDir is a directory that outlives the test when the test fails.
func workDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice-e2e-")
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("kept for a look: %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	return dir
}

// seed is SLUICE_SEED, or the clock.
func seed(t *testing.T) uint64 {
	n := uint64(time.Now().UnixNano()) % 1_000_000_007
	if s := os.Getenv("SLUICE_SEED"); s != "" {
		var err error
		n, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("SLUICE_SEED=%d", n)
	return n
}

// eventually polls until f succeeds. It never waits longer than it must, and fails with f's last words.
func eventually(t *testing.T, what string, within time.Duration, f func() error) {
	t.Helper()
	require.NoError(t, poll(context.Background(), within, f), "%s within %s", what, within)
}

func poll(ctx context.Context, within time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
