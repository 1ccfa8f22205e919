package schema

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExemplarLimit(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 10_000, maxExemplarLimit} {
		require.Equal(t, n, ExemplarLimit(AppendExemplarLimit(nil, n)))
	}
	require.Equal(t, maxExemplarLimit, ExemplarLimit(AppendExemplarLimit(nil, 1<<40)))
	for _, other := range [][]byte{nil, {0x80}, {1, 2}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0x7f}} {
		require.Equal(t, DefaultExemplarLimit, ExemplarLimit(other))
	}
	require.Equal(t, DefaultExemplarLimit, DefaultLimits().MaxExemplars)
}
