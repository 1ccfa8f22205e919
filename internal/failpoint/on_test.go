//go:build failpoints

package failpoint

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// The child hits two names in turn, three times, and says that it survived.
const survived = 42

func TestMain(m *testing.M) {
	if os.Getenv("FAILPOINT_CHILD") == "" {
		os.Exit(m.Run())
	}
	for range 3 {
		Hit(ConsumerFrozen)
		Hit(ConsumerSealed)
	}
	os.Exit(survived)
}

// child runs this test binary again and returns how it ended and what it hit.
func child(t *testing.T, point string) (state *os.ProcessState, hits string) {
	file := filepath.Join(t.TempDir(), "hits")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FAILPOINT_CHILD=1", EnvPoint+"="+point, EnvLog+"="+file)
	require.Error(t, cmd.Run())
	raw, err := os.ReadFile(file)
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	return cmd.ProcessState, string(raw)
}

func TestHitKills(t *testing.T) {
	const frozen, sealed = ConsumerFrozen + "\n", ConsumerSealed + "\n"
	for point, want := range map[string]string{
		ConsumerFrozen:        frozen,
		ConsumerFrozen + ":1": frozen,
		ConsumerSealed:        frozen + sealed,
		ConsumerSealed + ":2": frozen + sealed + frozen + sealed,
	} {
		state, hits := child(t, point)
		require.Equal(t, want, hits, point)
		status, ok := state.Sys().(syscall.WaitStatus)
		require.True(t, ok)
		require.True(t, status.Signaled(), point)
		require.Equal(t, syscall.SIGKILL, status.Signal(), point)
	}
}

func TestHitThatIsNotMeant(t *testing.T) {
	for _, point := range []string{"", ConsumerForgotten, ConsumerFrozen + ":4"} {
		state, hits := child(t, point)
		require.Equal(t, survived, state.ExitCode(), point)
		require.Len(t, hits, 3*len(ConsumerFrozen+ConsumerSealed+"\n\n"), point)
	}
}

func TestEnvironmentThatCannotBeMeant(t *testing.T) {
	for _, point := range []string{"consumer/unknown", ConsumerFrozen + ":", ConsumerFrozen + ":0", ConsumerFrozen + ":x", ":1"} {
		state, hits := child(t, point)
		require.Equal(t, 3, state.ExitCode(), point)
		require.Empty(t, hits, point)
	}
	require.True(t, Enabled)
}
