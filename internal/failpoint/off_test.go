//go:build !failpoints

package failpoint

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// An ordinary build survives every name and writes nothing, whatever the environment says.
func TestHitDoesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hits")
	t.Setenv(EnvPoint, ConsumerSealed)
	t.Setenv(EnvLog, file)
	for _, n := range Names() {
		Hit(n)
	}
	require.NoFileExists(t, file)
	require.False(t, Enabled)
	require.Zero(t, testing.AllocsPerRun(100, func() { Hit(ConsumerSealed) }))
}
