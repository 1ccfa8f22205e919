package store

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"

	layout "sluice/internal/block"
	"sluice/schema"
)

// addHeader gives a block the header that Finish would have given it.
func addHeader(t testing.TB, dir string, entry *schema.BlockEntry) {
	for _, f := range entry.Files {
		if f.Path == schema.IndexFile {
			b, err := layout.LocalHeader(dir, f)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, schema.HeaderFile), b, 0o644))
			entry.Files = append(entry.Files, schema.BlockFile{Path: schema.HeaderFile, Size: int64(len(b))})
			return
		}
	}
	t.Fatal("no index")
}

// slow is a bucket in which each GET takes a second of a clock that stands still while anything else is done: the time
// that something takes is the number of GETs that had to wait for each other.
type slow struct {
	objstore.BucketReader
	gets, bytes atomic.Int64
}

func (b *slow) GetRange(ctx context.Context, name string, off, length int64) (io.ReadCloser, error) {
	b.gets.Add(1)
	b.bytes.Add(length)
	time.Sleep(time.Second)
	return b.BucketReader.GetRange(ctx, name, off, length)
}

// TestRounds counts the round trips to the bucket that have to wait for each other, for each kind of question to a block of which
// nothing is in memory.
func TestRounds(t *testing.T) {
	dir, entry := makeBlock(t, 6000, 60)
	addHeader(t, dir, entry)
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	foreign := *entry
	foreign.Files = entry.Files[:len(entry.Files)-1]

	q := func(ms ...*labels.Matcher) func(context.Context, storage.Querier) (int, error) {
		return func(ctx context.Context, q storage.Querier) (int, error) {
			got, err := dump(q.Select(ctx, true, nil, ms...))
			return len(got), err
		}
	}
	for _, c := range []struct {
		name   string
		rounds int
		want   int
		ask    func(context.Context, storage.Querier) (int, error)
	}{
		{"one series by a label of many values", 4, 1, q(match(labels.MatchEqual, "instance", "host-02013:9100"))},
		{"name and label", 4, 1, q(match(labels.MatchEqual, "__name__", "metric_3"), match(labels.MatchEqual, "instance", "host-02013:9100"))},
		{"a name", 4, 600, q(match(labels.MatchEqual, "__name__", "metric_3"))},
		{"a regular expression with a beginning", 4, 10, q(match(labels.MatchRegexp, "instance", "host-0201.*"))},
		{"a regular expression without", 4, 600, q(match(labels.MatchRegexp, "instance", ".*7:9100"))},
		{"one of some values", 4, 2, q(match(labels.MatchRegexp, "instance", "host-02013:9100|host-00013:9100|nobody"))},
		{"not", 4, 514, q(match(labels.MatchEqual, "__name__", "metric_3"), match(labels.MatchNotEqual, "instance", "host-02013:9100"), match(labels.MatchNotEqual, "job", ""))},
		{"not there", 4, 85, q(match(labels.MatchEqual, "__name__", "metric_3"), match(labels.MatchEqual, "job", ""))},
		{"a value that there is not", 2, 0, q(match(labels.MatchEqual, "instance", "host-02013"))},
		{"a label that there is not", 1, 0, q(match(labels.MatchEqual, "nothing", "x"))},
		{"all label values", 2, 6000, func(ctx context.Context, q storage.Querier) (int, error) {
			v, _, err := q.LabelValues(ctx, "instance", nil)
			return len(v), err
		}},
		{"label values that match", 4, 1, func(ctx context.Context, q storage.Querier) (int, error) {
			v, _, err := q.LabelValues(ctx, "__name__", nil, match(labels.MatchEqual, "instance", "host-02013:9100"))
			return len(v), err
		}},
		{"label values by a matcher of the label", 2, 100, func(ctx context.Context, q storage.Querier) (int, error) {
			v, _, err := q.LabelValues(ctx, "instance", nil, match(labels.MatchRegexp, "instance", "host-020.+"))
			return len(v), err
		}},
		{"all label names", 1, 5, func(ctx context.Context, q storage.Querier) (int, error) {
			v, _, err := q.LabelNames(ctx, nil)
			return len(v), err
		}},
		{"label names that match", 3, 4, func(ctx context.Context, q storage.Querier) (int, error) {
			v, _, err := q.LabelNames(ctx, nil, match(labels.MatchEqual, "instance", "host-02013:9100"))
			return len(v), err
		}},
		{"series", 4, 600, func(ctx context.Context, q storage.Querier) (int, error) {
			got, err := dump(q.Select(ctx, true, &storage.SelectHints{End: 1e9, Func: "series"}, match(labels.MatchEqual, "__name__", "metric_3")))
			return len(got), err
		}},
		{"a shard", 5, 143, func(ctx context.Context, q storage.Querier) (int, error) {
			got, err := dump(q.Select(ctx, true, &storage.SelectHints{End: 1e9, ShardCount: 4, ShardIndex: 1}, match(labels.MatchEqual, "__name__", "metric_3")))
			return len(got), err
		}},
	} {
		for kind, e := range map[string]*schema.BlockEntry{"": entry, ", without a header": &foreign} {
			t.Run(c.name+kind, func(t *testing.T) {
				rounds, b := roundsOf(t, bkt, e, c.want, c.ask)
				fmt.Printf("SLUICE-FIGURES {\"store\":%q,\"rounds\":%d,\"gets\":%d,\"bytes\":%d}\n", c.name+kind, rounds, b.gets.Load(), b.bytes.Load())
				require.LessOrEqual(t, rounds, 6)
				if kind == "" {
					require.LessOrEqual(t, rounds, c.rounds)
				}
			})
		}
	}
}

func roundsOf(t *testing.T, bkt objstore.BucketReader, e *schema.BlockEntry, want int, ask func(context.Context, storage.Querier) (int, error)) (rounds int, b *slow) {
	synctest.Test(t, func(t *testing.T) {
		b = &slow{BucketReader: bkt}
		s, err := New(b, Config{PageBytes: 4096, GetTimeout: time.Hour}, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		defer s.Close()
		ctx := context.Background()
		start := time.Now()
		q, err := s.Querier(ctx, e, 0, 1e9)
		require.NoError(t, err)
		n, err := ask(ctx, q)
		require.NoError(t, err)
		rounds = int(time.Since(start) / time.Second)
		require.Equal(t, want, n)
	})
	return rounds, b
}

// TestBrokenHeaders gives a block headers that are cut, changed, another's or not there: the answers stay the right ones.
func TestBrokenHeaders(t *testing.T) {
	dir, entry := makeBlock(t, 300, 20)
	bare := *entry
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	right, err := answers(newStore(t, bkt, Config{}), &bare)
	require.NoError(t, err)
	addHeader(t, dir, entry)
	bkt.upload(t, dir, entry)
	header := &entry.Files[len(entry.Files)-1]
	whole, err := os.ReadFile(filepath.Join(dir, schema.HeaderFile))
	require.NoError(t, err)
	otherDir, otherEntry := makeBlock(t, 310, 20)
	addHeader(t, otherDir, otherEntry)
	other, err := os.ReadFile(filepath.Join(otherDir, schema.HeaderFile))
	require.NoError(t, err)
	sumless := *header
	summed := schema.BlockFile{Size: entry.Files[0].Size, Hash: &schema.FileHash{Func: "SHA256", String: strings.Repeat("1f", 32)}}
	for _, f := range entry.Files {
		if f.Path == schema.IndexFile {
			summed.Size = f.Size
		}
	}
	foreignSum, err := layout.LocalHeader(dir, summed)
	require.NoError(t, err)

	for name, c := range map[string]struct {
		size   int64
		mangle func(off int64, b []byte) []byte
		from   string
	}{
		"whole":         {header.Size, nil, "bucket"},
		"cut":           {header.Size, func(_ int64, b []byte) []byte { return b[:len(b)-1] }, "broken"},
		"one bit":       {header.Size, func(_ int64, b []byte) []byte { b[len(b)/2] ^= 4; return b }, "broken"},
		"zeros":         {header.Size, func(_ int64, b []byte) []byte { clear(b); return b }, "broken"},
		"empty":         {0, nil, "broken"},
		"half of it":    {header.Size / 2, nil, "broken"},
		"another's":     {int64(len(other)), func(_ int64, b []byte) []byte { return other }, "broken"},
		"another's sum": {int64(len(foreignSum)), func(_ int64, b []byte) []byte { return foreignSum }, "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			*header = sumless
			header.Size = c.size
			e := *entry
			if name == "another's sum" {
				e.Files = append([]schema.BlockFile(nil), entry.Files...)
				for i := range e.Files {
					if e.Files[i].Path == schema.IndexFile {
						e.Files[i].Hash = &schema.FileHash{Func: "SHA256", String: strings.Repeat("2f", 32)}
					}
				}
			}
			bkt.set(nil, func(name string, off int64, b []byte) []byte {
				if strings.HasSuffix(name, schema.HeaderFile) && c.mangle != nil {
					return c.mangle(off, b)
				}
				return b
			})
			s := newStore(t, bkt, Config{})
			got, err := answers(s, &e)
			require.NoError(t, err)
			require.Equal(t, right, got)
			require.Equal(t, 1.0, counted(t, s.metrics.headers.WithLabelValues(c.from)))
		})
	}
	bkt.set(nil, nil)
	require.NoError(t, bkt.Delete(context.Background(), "acme/"+entry.ID.String()+"/"+schema.HeaderFile))
	*header = sumless
	got, err := answers(newStore(t, bkt, Config{}), entry)
	require.NoError(t, err)
	require.Equal(t, right, got)
	require.NotEmpty(t, whole)
}
