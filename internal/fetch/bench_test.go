package fetch

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/stretchr/testify/require"
)

// BenchmarkSelect is a whole answer over HTTP, read sample by sample: one small series, and two hours of a thousand.
func BenchmarkSelect(b *testing.B) {
	db, err := tsdb.Open(b.TempDir(), slog.New(slog.DiscardHandler), nil, tsdb.DefaultOptions(), nil)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, db.Close()) })
	const series, samples = 1000, 480
	app := db.Appender(context.Background())
	for s := range series {
		ls := labels.FromStrings("__name__", "m", "i", fmt.Sprintf("%04d", s), "job", "some-job", "instance", "10.20.30.40:9100")
		for i := range samples {
			_, err := app.Append(0, ls, int64(i)*15_000, float64(i*s))
			require.NoError(b, err)
		}
	}
	require.NoError(b, app.Commit())
	client := serve(b, &fakeSource{db: db})
	for name, m := range map[string]*labels.Matcher{
		"one":      labels.MustNewMatcher(labels.MatchEqual, "i", "0007"),
		"thousand": labels.MustNewMatcher(labels.MatchEqual, "__name__", "m"),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				q, err := client.Querier(context.Background(), "acme", 0, samples*15_000, nil)
				require.NoError(b, err)
				set := q.Select(context.Background(), true, nil, m)
				var it chunkenc.Iterator
				for set.Next() {
					it = set.At().Iterator(it)
					for it.Next() != chunkenc.ValNone {
						n++
					}
				}
				require.NoError(b, set.Err())
				require.NoError(b, q.Close())
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/sample")
		})
	}
}
