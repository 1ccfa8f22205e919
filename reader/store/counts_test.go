package store

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"

	"sluice/internal/trace"
	"sluice/schema"
)

// plainCounts counts the series of a block by reading them.
func plainCounts(t *testing.T, dir string) map[string]map[string]int64 {
	b, err := tsdb.OpenBlock(nil, dir, nil, nil)
	require.NoError(t, err)
	defer b.Close()
	q, err := tsdb.NewBlockQuerier(b, 0, 1<<40)
	require.NoError(t, err)
	defer q.Close()
	counts := map[string]map[string]int64{}
	set := q.Select(context.Background(), false, nil, match(labels.MatchRegexp, "__name__", ".*"))
	for set.Next() {
		set.At().Labels().Range(func(l labels.Label) {
			if counts[l.Name] == nil {
				counts[l.Name] = map[string]int64{}
			}
			counts[l.Name][l.Value]++
		})
	}
	require.NoError(t, set.Err())
	return counts
}

// TestCounts holds what the tables say against a plain count of the series, with and without a header in the bucket.
func TestCounts(t *testing.T) {
	dir, entry := makeBlock(t, 5000, 1)
	want := plainCounts(t, dir)
	bare := *entry
	addHeader(t, dir, entry)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	for name, e := range map[string]*schema.BlockEntry{"header": entry, "no header": &bare} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, bkt, Config{PageBytes: 4096})
			ctx := context.Background()
			for _, distinct := range []bool{false, true} {
				got, err := s.CountLabels(ctx, e, distinct)
				require.NoError(t, err)
				require.Equal(t, len(want), got.Total)
				require.Len(t, got.List, len(want))
				for _, c := range got.List {
					var sum int64
					var hashes []uint64
					for v, n := range want[c.Name] {
						sum += n
						hashes = append(hashes, xxhash.Sum64String(v))
					}
					require.Equal(t, []int64{sum, int64(len(want[c.Name]))}, []int64{c.Series, c.Values}, c.Name)
					slices.Sort(hashes)
					if !distinct {
						hashes = nil
					}
					require.Equal(t, hashes, c.Distinct, c.Name)
				}
			}
			for _, label := range []string{"__name__", "instance", "job", "rare", "zone"} {
				got, err := s.CountValues(ctx, e, label)
				require.NoError(t, err)
				require.Equal(t, len(want[label]), got.Total)
				counted := map[string]int64{}
				for _, c := range got.List {
					counted[c.Name] = c.Series
				}
				require.Equal(t, want[label], counted)
			}
			for _, label := range []string{"", "nothing"} {
				got, err := s.CountValues(ctx, e, label)
				require.NoError(t, err)
				require.Zero(t, *got)
			}
		})
	}
}

// TestCountsAreCheap: labels are counted with what opens the block, and nothing is read twice.
func TestCountsAreCheap(t *testing.T) {
	dir, entry := makeBlock(t, 5000, 1)
	addHeader(t, dir, entry)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	s := newStore(t, bkt, Config{})
	gets := func(ask func(context.Context) (*Counts, error)) int64 {
		q := trace.New("test", nil)
		_, err := ask(trace.With(context.Background(), q))
		require.NoError(t, err)
		return q.Counts()[trace.BucketRequests]
	}
	byName := func(ctx context.Context) (*Counts, error) { return s.CountLabels(ctx, entry, false) }
	byValue := func(ctx context.Context) (*Counts, error) { return s.CountValues(ctx, entry, "instance") }
	require.EqualValues(t, 1, gets(byName), "the header")
	require.EqualValues(t, 1, gets(byValue), "the label's stretch of the table")
	require.Zero(t, gets(byName))
	require.Zero(t, gets(byValue))

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	fresh := newStore(t, bkt, Config{})
	_, err := fresh.CountValues(ctx, entry, "instance")
	require.ErrorIs(t, err, context.Canceled)
}

// TestHeaviestValues: of a label with more values than are kept those with most series stay, and what cannot be among them is not
// read: neither in a table of nothing but small ones.
func TestHeaviestValues(t *testing.T) {
	const small = 8 * KeptValues
	dir, entry := makeCounted(t, func(add func(value string, series int)) {
		for i := range small {
			add(fmt.Sprintf("value-%07d", i), 1)
		}
		for i := range 50 {
			add(fmt.Sprintf("value-%07d-heavy", i*599), 2+i)
		}
	})
	addHeader(t, dir, entry)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	s := newStore(t, bkt, Config{PageBytes: 4096})
	q := trace.New("test", nil)
	got, err := s.CountValues(trace.With(context.Background(), q), entry, "v")
	require.NoError(t, err)
	require.Equal(t, small+50, got.Total)
	require.Len(t, got.List, KeptValues)
	for i, c := range got.List[:50] {
		require.Equal(t, Count{Name: fmt.Sprintf("value-%07d-heavy", (49-i)*599), Series: int64(51 - i)}, c)
	}
	for _, c := range got.List[50:] {
		require.EqualValues(t, 1, c.Series)
	}
	table := int64(0)
	b, err := s.block(context.Background(), entry)
	require.NoError(t, err)
	for _, st := range b.index.Label("v").Stretches {
		table += st.To - st.From
	}
	require.Less(t, q.Counts()[trace.BucketBytes], table*3/4, "a part of the table is not read")
}
