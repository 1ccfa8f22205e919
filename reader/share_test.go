package reader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"
	"go.uber.org/goleak"

	"sluice/internal/fetch"
	"sluice/internal/members"
	"sluice/internal/web"
	"sluice/reader/store"
	"sluice/schema"
)

// peerDir is a directory with readers.
type peerDir struct {
	fakeDir
	readers []members.Member

	mu       sync.Mutex
	suspects []string
}

func (d *peerDir) Readers() []members.Member { return d.readers }

func (d *peerDir) Suspect(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.suspects = append(d.suspects, id)
}

// group is several readers of the same blocks. The first one is asked; each of the others serves its share over HTTP,
// behind what front makes of it.
type group struct {
	worlds []*world
	dir    *peerDir
}

func newGroup(t testing.TB, n int, bkt objstore.BucketReader, front func(http.Handler) http.Handler) *group {
	g := &group{dir: &peerDir{fakeDir: fakeDir{}}}
	silence := time.Hour // on a busy machine a reader that works may say nothing for long
	if front != nil {
		silence = 100 * time.Millisecond // what is broken may be found out soon
	}
	for i := range n {
		w := newWorld(t, bkt, web.Tenancy{})
		w.reader.cfg.InstanceID = strconv.Itoa(i)
		w.reader.dir = g.dir
		g.worlds = append(g.worlds, w)
		g.dir.readers = append(g.dir.readers, members.Member{ID: readerID(strconv.Itoa(i)), Kind: members.KindReader})
		if i > 0 {
			w.cat, w.blocks = g.worlds[0].cat, g.worlds[0].blocks
			w.reader.cat = w.cat
			if bkt == nil {
				w.reader.blocks = w.blocks
			}
			h := fetch.Handler(fetch.HandlerConfig{Blocks: w.reader, KeepAlive: time.Hour}, slog.New(slog.DiscardHandler))
			if front != nil {
				h = front(h)
			}
			srv := httptest.NewServer(h)
			t.Cleanup(srv.Close)
			g.worlds[0].sources[readerID(strconv.Itoa(i))] = client(t, srv.URL, silence)
		}
	}
	return g
}

// alone makes the first reader answer without the others.
func (g *group) alone(f func()) {
	readers := g.dir.readers
	g.dir.readers = nil
	defer func() { g.dir.readers = readers }()
	f()
}

func (g *group) blocksOf(result string) int {
	return int(testutil.ToFloat64(g.worlds[0].reader.metrics.peerBlocks.WithLabelValues(result)))
}

// randomBlocks makes n blocks that overlap, with another value in each for many of the same times.
func (g *group) randomBlocks(t testing.TB, rng *rand.Rand, n int) {
	for i := range n {
		data := map[string][]sample{}
		for s := range 12 {
			name := fmt.Sprintf("s%02d", s)
			if rng.IntN(4) == 0 {
				continue
			}
			for ts := range int64(40) {
				if rng.IntN(3) > 0 {
					data[name] = append(data[name], sample{ts, float64(i)*1000 + float64(ts)})
				}
			}
		}
		id := ulid.ULID{byte(rng.IntN(256)), byte(i), byte(rng.IntN(256))}
		e := &schema.BlockEntry{ID: id, Tenant: "acme", MinTime: math.MinInt64, MaxTime: math.MaxInt64, LogFrom: int64(rng.IntN(n))}
		g.worlds[0].blocks.data[id] = newData(t, data)
		g.worlds[0].cat.snapshots[0].blocks = append(g.worlds[0].cat.snapshots[0].blocks, e)
	}
}

// everythingOf is all that a reader can be asked.
func everythingOf(t testing.TB, w *world) (samples map[string][]sample, strings [][]string) {
	samples, set, err := w.selectAll(asTenant("acme"))
	require.NoError(t, err)
	require.Empty(t, set.Warnings())
	q, err := w.reader.Querier(0, 20)
	require.NoError(t, err)
	names, _, err := q.LabelNames(asTenant("acme"), nil)
	require.NoError(t, err)
	values, _, err := q.LabelValues(asTenant("acme"), "s", &storage.LabelHints{Limit: 5}, everything)
	require.NoError(t, err)
	var limited []string
	selected := q.Select(asTenant("acme"), true, &storage.SelectHints{Start: 0, End: 20, Limit: 3, Func: "series"}, everything)
	for selected.Next() {
		limited = append(limited, selected.At().Labels().String())
	}
	require.NoError(t, selected.Err())
	require.NoError(t, q.Close())
	return samples, [][]string{names, values, limited}
}

// broken are the ways in which another reader may fail. All of them cost time and change nothing.
var broken = map[string]func(http.Handler) http.Handler{
	"": nil, // works
	"refuses": func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	},
	"silent": func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-drained(r).Context().Done() })
	},
	"dies at once": func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	},
	"dies in the middle": func(h http.Handler) http.Handler {
		return half(h, func(*http.Request) { panic(http.ErrAbortHandler) })
	},
	"stops in the middle": func(h http.Handler) http.Handler { return half(h, func(r *http.Request) { <-r.Context().Done() }) },
	"cut short":           func(h http.Handler) http.Handler { return half(h, func(*http.Request) {}) },
	"garbage": func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello, world")) })
	},
	"a bit flipped": func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			if h.ServeHTTP(rec, r); r.URL.Path != "/fetch/select" {
				panic(http.ErrAbortHandler) // lists of strings have no checksum of their own
			}
			body := rec.Body.Bytes()
			body[len(body)*3/4] ^= 4
			_, _ = w.Write(body)
		})
	},
}

// drained returns r with its body read: only then does a server notice that the client has gone.
func drained(r *http.Request) *http.Request {
	buf := make([]byte, 1<<12)
	for {
		if _, err := r.Body.Read(buf); err != nil {
			return r
		}
	}
}

// half sends a half of the answer and does then what it is told.
func half(h http.Handler, then func(*http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
		w.(http.Flusher).Flush()
		then(r)
	})
}

// TestSharesAddUp: whatever the other readers do, the answer is what one reader alone gives, duplicates included.
func TestSharesAddUp(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	rng := rand.New(rand.NewPCG(3, 3))
	for how, front := range broken {
		t.Run(how, func(t *testing.T) {
			g := newGroup(t, 3, nil, front)
			sizes := []int{2, 7, 12}
			if testing.Short() { // under the race detector, which sees the same goroutines in each of them
				sizes = sizes[2:]
			}
			for _, size := range sizes {
				for _, w := range g.worlds {
					w.cat.snapshots[0].blocks = nil
				}
				g.randomBlocks(t, rng, size)
				var want map[string][]sample
				var wantStrings [][]string
				g.alone(func() { want, wantStrings = everythingOf(t, g.worlds[0]) })
				require.NotEmpty(t, want)
				got, gotStrings := everythingOf(t, g.worlds[0])
				require.Equal(t, want, got)
				require.Equal(t, wantStrings, gotStrings)
			}
			if how == "" {
				require.Positive(t, g.blocksOf("answered"))
				require.Zero(t, g.blocksOf("failed"))
				require.Empty(t, g.dir.suspects)
				return
			}
			require.Zero(t, g.blocksOf("answered"))
			require.Positive(t, g.blocksOf("failed"))
			require.NotEmpty(t, g.dir.suspects)
		})
	}
}

// TestSharesOfRealBlocks is the same over blocks in a bucket, whose chunks cross from reader to reader as they are.
func TestSharesOfRealBlocks(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	bkt := objstore.NewInMemBucket()
	g := newGroup(t, 3, bkt, nil)
	for i := range 8 {
		data := map[string][]sample{}
		for s := range 10 {
			name := fmt.Sprintf("s%02d", s)
			for ts := range int64(400) {
				if rng.IntN(3) > 0 && rng.IntN(8) > i/2 {
					data[name] = append(data[name], sample{ts * 15_000, float64(i)*10_000 + float64(ts)})
				}
			}
		}
		g.worlds[0].cat.snapshots[0].blocks = append(g.worlds[0].cat.snapshots[0].blocks, upload(t, bkt, data, int64(rng.IntN(4))))
	}
	base := serve(t, g.worlds[0])
	for _, u := range []string{
		"/api/v1/query_range?start=0&end=6000&step=7&query=m", "/api/v1/query_range?start=1111&end=2222&step=1&query=rate(m[1m])",
		"/api/v1/query?time=3000&query=m[30m]", "/api/v1/query?time=3000&query=sum(m)", "/api/v1/series?match[]=m", "/api/v1/series?match[]=m&limit=3",
		"/api/v1/label/s/values", "/api/v1/labels",
	} {
		var want reply
		g.alone(func() { want = get(t, base+u) })
		require.Equal(t, 200, want.code, want.body)
		require.Equal(t, want.body, get(t, base+u).body, u)
	}
	for _, kind := range []prompb.ReadRequest_ResponseType{prompb.ReadRequest_SAMPLES, prompb.ReadRequest_STREAMED_XOR_CHUNKS} {
		var want reply
		g.alone(func() { want = remoteRead(t, base, kind) })
		require.NotEmpty(t, want.body)
		require.Equal(t, want.body, remoteRead(t, base, kind).body)
	}
	require.Positive(t, g.blocksOf("answered"))
	require.Zero(t, g.blocksOf("failed"))
}

// TestShareIsRefused: a reader that is behind, or has enough to do, says so and is no suspect.
func TestShareIsRefused(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	g := newGroup(t, 2, nil, nil)
	g.randomBlocks(t, rng, 10)
	want, _ := everythingOf(t, g.worlds[0])
	require.Zero(t, g.blocksOf("failed"))
	require.Empty(t, g.worlds[1].reader.peers, "what was asked is over")

	other := g.worlds[1].reader
	other.cat = &fakeCat{snapshots: []snapshot{{}}} // it has not heard of the blocks
	got, _ := everythingOf(t, g.worlds[0])
	require.Equal(t, want, got)
	failed := g.blocksOf("failed")
	require.Positive(t, failed)

	other.cat = g.worlds[0].cat
	for range cap(other.peers) {
		other.peers <- struct{}{}
	}
	got, _ = everythingOf(t, g.worlds[0])
	require.Equal(t, want, got)
	require.Greater(t, g.blocksOf("failed"), failed)
	require.Empty(t, g.dir.suspects)
}

// TestShareThatNobodyCanRead: when the blocks cannot be read here either, the error is that of the block.
func TestShareThatNobodyCanRead(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	g := newGroup(t, 2, nil, nil)
	g.randomBlocks(t, rng, 10)
	w := g.worlds[0]
	w.cat.snapshots = []snapshot{w.cat.snapshots[0], w.cat.snapshots[0]}
	bad := w.cat.snapshots[0].blocks[slices.IndexFunc(w.cat.snapshots[0].blocks, func(e *schema.BlockEntry) bool {
		return owner(g.dir.readers, e.ID).ID == readerID("1")
	})]
	w.blocks.errs[bad.ID] = schema.Unavailable(schema.ErrBlockUnreadable, errors.New("rotten"), "block is broken")
	_, _, err := w.selectAll(asTenant("acme"))
	requireID(t, err, schema.ErrBlockUnreadable)
	got, set, err := w.selectAll(withOptions(context.Background(), &options{tenant: "acme", partial: true}))
	require.NoError(t, err)
	require.NotEmpty(t, got)
	require.Len(t, set.Warnings(), 1, "that block alone is missing")

	// It was compacted away, which the next look at the catalogue shows.
	w.blocks.errs[bad.ID] = schema.Unavailable(schema.ErrBlockUnreadable, fmt.Errorf("get: %w", store.ErrGone), "block has gone")
	blocks := slices.Clone(w.cat.snapshots[0].blocks)
	w.cat.snapshots[1].blocks = slices.DeleteFunc(blocks, func(e *schema.BlockEntry) bool { return e == bad })
	got, set, err = w.selectAll(asTenant("acme"))
	require.NoError(t, err)
	require.NotEmpty(t, got)
	require.Empty(t, set.Warnings())
}

func TestCancelledShare(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	rng := rand.New(rand.NewPCG(6, 6))
	asked := make(chan struct{}, 1)
	g := newGroup(t, 2, nil, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			ctx := drained(r).Context()
			asked <- struct{}{}
			<-ctx.Done()
		})
	})
	g.randomBlocks(t, rng, 10)
	ctx, cancel := context.WithCancel(asTenant("acme"))
	g.worlds[0].sources[readerID("1")] = client(t, "127.0.0.1:0", time.Hour) // nobody is there: read here
	_, _, err := g.worlds[0].selectAll(ctx)
	require.NoError(t, err)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ctx := drained(r).Context()
		cancel()
		<-ctx.Done()
	}))
	t.Cleanup(srv.Close)
	g.worlds[0].sources[readerID("1")] = client(t, srv.URL, time.Hour)
	failed := g.blocksOf("failed")
	_, _, err = g.worlds[0].selectAll(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, failed, g.blocksOf("failed"), "nothing is read for somebody who has left")
}

func TestOwnersAreSpread(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	readers := []members.Member{{ID: "reader/a"}, {ID: "reader/b"}, {ID: "reader/c"}}
	count := map[string]int{}
	for range 3000 {
		id := ulid.ULID{byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}
		all, two := owner(readers, id).ID, owner(readers[:2], id).ID
		count[all]++
		if all != "reader/c" {
			require.Equal(t, all, two, "who leaves moves its own blocks only")
		}
		reversed := slices.Clone(readers)
		slices.Reverse(reversed)
		require.Equal(t, all, owner(reversed, id).ID)
	}
	for _, n := range count {
		require.InDelta(t, 1000, n, 150)
	}
}

// BenchmarkShare is a query over 20 blocks in a bucket with a warm cache, by one reader and by two.
func BenchmarkShare(b *testing.B) {
	bkt := objstore.NewInMemBucket()
	var entries []*schema.BlockEntry
	for i := range 20 {
		data := map[string][]sample{}
		for s := range 500 {
			for ts := range int64(240) {
				data[fmt.Sprintf("s%03d", s)] = append(data[fmt.Sprintf("s%03d", s)], sample{(int64(i)*240 + ts) * 15_000, float64(int(ts) * s)})
			}
		}
		entries = append(entries, upload(b, bkt, data, int64(i)))
	}
	for _, n := range []int{1, 2} {
		g := newGroup(b, n, bkt, nil)
		g.worlds[0].cat.snapshots[0].blocks = entries
		if n == 1 {
			g.dir.readers = nil
		}
		for name, m := range map[string]*labels.Matcher{
			"one": labels.MustNewMatcher(labels.MatchEqual, "s", "s007"), "all": everything,
		} {
			b.Run(fmt.Sprintf("readers=%d/%s", n, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					q, err := g.worlds[0].reader.Querier(math.MinInt64, math.MaxInt64)
					require.NoError(b, err)
					set := q.Select(asTenant("acme"), true, nil, m)
					for set.Next() {
						it := set.At().Iterator(nil)
						for it.Next() != 0 {
						}
					}
					require.NoError(b, set.Err())
					require.NoError(b, q.Close())
				}
			})
		}
	}
}
