package schema

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

// Where a series goes is written into logs: it may not change.
func TestSeriesHashIsStable(t *testing.T) {
	ls := []Label{{[]byte("__name__"), []byte("up")}, {[]byte("job"), []byte("x")}}
	h, buf := SeriesHash("team-a", ls, nil)
	require.Equal(t, "team-a\xff__name__\xffup\xffjob\xffx\xff", string(buf))
	require.Equal(t, uint64(0xededf703e86d0e50), h)
	again, _ := SeriesHash("team-a", ls, buf)
	require.Equal(t, h, again)
	other, _ := SeriesHash("team-b", ls, nil)
	require.NotEqual(t, h, other)

	m, _ := MetadataHash("team-a", []byte("up"), buf)
	s, _ := SeriesHash("team-a", ls[:1], nil)
	require.Equal(t, s, m)
}

func TestShardOf(t *testing.T) {
	require.Equal(t, Shard{0, 1, 2}, ShardOf("a", 3, 0))
	require.Equal(t, Shard{0, 1, 2}, ShardOf("a", 3, 3))
	require.Equal(t, Shard{0, 1, 2}, ShardOf("a", 3, 9))
	require.Equal(t, Shard{0}, ShardOf("a", 1, 1))
	used := map[int32]int{}
	for i := range 200 {
		tenant := Tenant(fmt.Sprint(i))
		small, large := ShardOf(tenant, 16, 3), ShardOf(tenant, 16, 4)
		require.Len(t, small, 3)
		require.Subset(t, large, small, "growing the shard keeps what is there")
		more := ShardOf(tenant, 17, 3)
		kept := 0
		for _, p := range small {
			used[p]++
			for _, q := range more {
				if p == q {
					kept++
				}
			}
		}
		require.GreaterOrEqual(t, kept, 2, "one more partition takes at most one place")
	}
	require.Len(t, used, 16)
}

// TestPartitionsAdded: a partition more, in a shard of all or in the place of another, takes its share of the series and
// moves no others; before and after, every partition has its share.
func TestPartitionsAdded(t *testing.T) {
	const series = 20_000
	all := func(n int32) Shard { return ShardOf("t", n, 0) }
	for _, c := range []struct{ before, after Shard }{
		{all(1), all(2)}, {all(4), all(5)}, {all(12), all(24)}, {all(64), all(65)},
		{Shard{3, 5, 9}, Shard{3, 5, 12}}, {Shard{3, 5, 9}, Shard{3, 5, 9, 12}}, {Shard{7}, Shard{8}},
	} {
		rnd := rand.New(rand.NewPCG(1, 2))
		share := map[int32]int{}
		moved := 0
		for range series {
			hash := rnd.Uint64()
			was, is := c.before.Partition(hash), c.after.Partition(hash)
			share[is]++
			if was == is {
				continue
			}
			moved++
			require.True(t, !slices.Contains(c.before, is) || !slices.Contains(c.after, was), "%v to %v: a series moved from %d to %d", c.before, c.after, was, is)
		}
		fair := float64(series) / float64(len(c.after))
		for _, p := range c.after {
			require.InDelta(t, fair, share[p], 6*math.Sqrt(fair), "partition %d of %v", p, c.after)
		}
		t.Logf("%d to %d partitions: %.1f %% of the series moved", len(c.before), len(c.after), 100*float64(moved)/series)
	}
}

// TestShuffleShards: of 52 partitions in shards of 4, two tenants share none in 71.9 % of all pairs, at most one in 97.4 %, at
// most two in 99.9 %, as chance has it; partitions are used evenly; and a partition more moves one place in 53.
func TestShuffleShards(t *testing.T) {
	const partitions, size, tenants = 52, 4, 2000
	shards, used := make([]Shard, tenants), make([]int, partitions)
	moved := 0
	for i := range shards {
		tenant := Tenant(fmt.Sprintf("tenant-%d", i))
		shards[i] = ShardOf(tenant, partitions, size)
		grown := ShardOf(tenant, partitions+1, size)
		for _, p := range shards[i] {
			used[p]++
			if !slices.Contains(grown, p) {
				moved++
			}
		}
	}
	var overlap [size + 1]float64
	for i := range shards {
		for j := range i {
			n := 0
			for _, p := range shards[i] {
				if slices.Contains(shards[j], p) {
					n++
				}
			}
			overlap[n]++
		}
	}
	pairs := float64(tenants * (tenants - 1) / 2)
	for most, sum := 0, 0.0; most <= 2; most++ {
		sum += overlap[most] / pairs
		t.Logf("pairs of tenants that share at most %d of %d partitions: %.2f %%", most, size, 100*sum)
		require.InDelta(t, []float64{0.7187, 0.9743, 0.9993}[most], sum, 0.004)
	}
	fair := float64(tenants*size) / partitions
	for p, n := range used {
		require.InDelta(t, fair, n, 5*math.Sqrt(fair), "partition %d", p)
	}
	t.Logf("places that a partition more moves: %.2f %%, fair is %.2f %%", 100*float64(moved)/(tenants*size), 100.0/(partitions+1))
	require.InDelta(t, 1.0/(partitions+1), float64(moved)/(tenants*size), 0.006)
}

func BenchmarkPartition(b *testing.B) {
	for _, s := range []Shard{ShardOf("t", 12, 0), ShardOf("t", 64, 0), {3, 5, 9, 11}} {
		b.Run(fmt.Sprint(len(s)), func(b *testing.B) {
			b.ReportAllocs()
			hash := uint64(0)
			for b.Loop() {
				hash += 0x9e3779b97f4a7c15
				hash += uint64(s.Partition(hash))
			}
		})
	}
}

func TestParseTenant(t *testing.T) {
	for _, good := range []string{"a", "A", "team-1", "a.b", "...", "!-_.*'()", strings.Repeat("x", MaxTenantLength), "_", "_a"} {
		tenant, err := ParseTenant(good)
		require.NoError(t, err)
		require.Equal(t, good, string(tenant))
	}
	for _, bad := range []string{
		"", ".", "..", "a/b", `a\b`, "%2e%2e", "a|b", "a b", " a", "a\n", "a\r\nb", "a\x00", "é", "e\u0301", "__x", "a:b", "a,b",
		strings.Repeat("x", MaxTenantLength+1), strings.Repeat("x", 1000),
	} {
		_, err := ParseTenant(bad)
		var se *Error
		require.ErrorAs(t, err, &se, "%q", bad)
		require.Less(t, len(err.Error()), 300)
		require.NotContains(t, err.Error(), "\n")
	}
}

func FuzzParseTenant(f *testing.F) {
	f.Add("a")
	f.Add("../x")
	f.Fuzz(func(t *testing.T, s string) {
		tenant, err := ParseTenant(s)
		if err != nil {
			return
		}
		require.Equal(t, s, string(tenant))
		require.NotContains(t, s, "/")
		require.NotContains(t, []string{"", ".", ".."}, s)
		require.LessOrEqual(t, len(s), MaxTenantLength)
	})
}

// Validate looks at every number: a field added later must not be forgotten.
func TestLimitsValidate(t *testing.T) {
	l := DefaultLimits()
	require.NoError(t, l.Validate())
	v := reflect.ValueOf(&l).Elem()
	for _, field := range LimitFields() {
		f := v.FieldByIndex(field.Index)
		old := f.Interface()
		require.NotEmpty(t, field.Tag.Get("yaml"))
		switch {
		case f.CanInt():
			f.SetInt(-1)
		case f.CanFloat():
			f.SetFloat(-1)
		default:
			continue // neither more nor less than it may be
		}
		require.Error(t, l.Validate(), field.Name)
		if f.CanFloat() {
			f.SetFloat(math.NaN())
			require.Error(t, l.Validate(), field.Name)
			f.SetFloat(math.Inf(1))
			require.Error(t, l.Validate(), field.Name)
		}
		f.Set(reflect.ValueOf(old))
	}
	require.NoError(t, l.Validate())
}

func TestHALimitsValidate(t *testing.T) {
	for _, c := range []struct {
		change func(l *Limits)
		ok     bool
	}{
		{func(l *Limits) { l.HATrackerFailoverTimeout = model.Duration(MinHAFailover - 1) }, false},
		{func(l *Limits) { l.HATrackerFailoverTimeout = model.Duration(MinHAFailover) }, true},
		{func(l *Limits) { l.HATrackerFailoverTimeout = model.Duration(MaxHAFailover) }, true},
		{func(l *Limits) { l.HATrackerFailoverTimeout = model.Duration(MaxHAFailover + 1) }, false},
		{func(l *Limits) { l.HAMaxClusters = 0 }, true},
		{func(l *Limits) { l.HAClusterLabel = "" }, false},
		{func(l *Limits) { l.HAReplicaLabel = "__name__" }, false},
		{func(l *Limits) { l.HAReplicaLabel = "\xff" }, false},
		{func(l *Limits) { l.HAReplicaLabel = l.HAClusterLabel }, false},
	} {
		l := DefaultLimits()
		c.change(&l)
		require.Equal(t, c.ok, l.Validate() == nil, "%+v", l)
	}
}
