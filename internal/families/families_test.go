package families

import (
	"bytes"
	"context"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"
)

func family(help string, seen int64) Family {
	return Family{metadata.Metadata{Type: model.MetricTypeGauge, Help: help, Unit: "s"}, seen}
}

func TestMerge(t *testing.T) {
	day := Refreshed.Milliseconds()
	known := map[string]Family{"a": family("old", day), "b": family("b", 2*day), "gone": family("x", 0)}
	more := map[string]Family{"a": family("new", 3*day), "b": family("older", day), "c": family("c", 7*day)}
	require.Equal(t, map[string]Family{"a": more["a"], "b": known["b"], "c": more["c"]}, Merge(known, more, 7*day+1, 0))
	require.Equal(t, map[string]Family{"a": more["a"], "c": more["c"]}, Merge(known, more, 7*day+1, 2))
}

func TestBucket(t *testing.T) {
	ctx, bkt := context.Background(), objstore.NewInMemBucket()
	none, err := ReadAll(ctx, bkt, "acme")
	require.NoError(t, err)
	require.Empty(t, none)
	zero, one := map[string]Family{"a": family("zero", 5), "b": family("b", 1)}, map[string]Family{"a": family("one", 6)}
	require.NoError(t, Write(ctx, bkt, "acme", 0, zero))
	require.NoError(t, Write(ctx, bkt, "acme", 1, one))
	require.NoError(t, Write(ctx, bkt, "other", 1, zero))
	back, err := Read(ctx, bkt, "acme", 0)
	require.NoError(t, err)
	require.Equal(t, zero, back)
	all, err := ReadAll(ctx, bkt, "acme")
	require.NoError(t, err)
	require.Equal(t, map[string]Family{"a": one["a"], "b": zero["b"]}, all)

	require.NoError(t, bkt.Upload(ctx, Key("acme", 0), bytes.NewReader([]byte("x"))))
	all, err = ReadAll(ctx, bkt, "acme")
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, one, all, "what can be read comes all the same")
}

func FuzzDecode(f *testing.F) {
	raw, err := Encode(map[string]Family{"a": family("h", 1)})
	require.NoError(f, err)
	f.Add(raw)
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Decode(b); err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
		}
	})
}
