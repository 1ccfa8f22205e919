package fetch

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/internal/cardinality"
	"sluice/internal/merge"
	"sluice/internal/trace"
	"sluice/schema"
)

// calls are all calls of a Client, each with its error alone.
func calls(ctx context.Context, c *Client) map[string]func() error {
	open := func() storage.Querier {
		q, _ := c.Querier(ctx, "acme", 0, 3_000_000, []Ask{{Partition: 1, Wait: 5}}) // talks to nobody
		return q
	}
	return map[string]func() error{
		"select": func() error {
			q := open()
			set := q.Select(ctx, true, nil, everything)
			for set.Next() {
			}
			return errors.Join(set.Err(), q.Close())
		},
		"names":     func() error { _, _, err := open().LabelNames(ctx, nil); return err },
		"values":    func() error { _, _, err := open().LabelValues(ctx, "a", nil); return err },
		"exemplars": func() error { _, err := c.Exemplars(ctx, "acme", 0, 1, nil, nil); return err },
		"cardinality": func() error {
			_, err := c.Cardinality(ctx, "acme", cardinality.Query{}, nil)
			return err
		},
		"metadata": func() error { _, err := c.Metadata(ctx, "acme", ""); return err },
	}
}

// TestStoppedProcess: a process that is stopped takes connections, as its kernel does that, and says nothing.
func TestStoppedProcess(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	transport := NewTransport()
	defer transport.CloseIdleConnections()
	client := NewClient(ln.Addr().String(), &http.Client{Transport: transport}, 10*time.Millisecond)
	for name, call := range calls(context.Background(), client) {
		err := call()
		require.ErrorIs(t, err, ErrSilent, name)
		require.ErrorIs(t, err, ErrUnreachable, name)
	}
	require.NoError(t, ln.Close())
	for name, call := range calls(context.Background(), client) {
		err := call()
		require.ErrorIs(t, err, ErrUnreachable, name)
		require.NotErrorIs(t, err, ErrSilent, name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for name, call := range calls(ctx, client) {
		err := call()
		require.ErrorIs(t, err, context.Canceled, name)
		require.NotErrorIs(t, err, ErrUnreachable, name)
	}
}

// slowSource answers once release is closed.
type slowSource struct {
	fakeSource
	release chan struct{}
}

func (s *slowSource) wait() error {
	<-s.release
	return s.openErr
}

func (s *slowSource) Querier(ctx context.Context, tenant schema.Tenant, mint, maxt int64, asks []Ask) (storage.Querier, error) {
	if err := s.wait(); err != nil {
		return nil, err
	}
	q, err := s.fakeSource.Querier(ctx, tenant, mint, maxt, asks)
	return WithApplied(q, Applied{1: 7}), err
}

func (s *slowSource) Exemplars(context.Context, schema.Tenant, int64, int64, [][]*labels.Matcher, []Ask) ([]exemplar.QueryResult, error) {
	return nil, s.wait()
}

func (s *slowSource) Metadata(context.Context, schema.Tenant, string) (map[string][]metadata.Metadata, error) {
	return nil, s.wait()
}

func (s *slowSource) Cardinality(context.Context, schema.Tenant, cardinality.Query, []Ask) (*cardinality.Result, error) {
	return nil, s.wait()
}

// counting calls signs after so many reads of an answer's body brought something.
type counting struct {
	http.RoundTripper
	after int
	then  func()
}

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = &countingBody{resp.Body, c, 0}
	}
	return resp, err
}

type countingBody struct {
	io.ReadCloser
	*counting
	seen int
}

func (b *countingBody) Read(p []byte) (int, error) {
	if b.seen < b.after {
		p = p[:min(len(p), 5)] // a sign at a time
	}
	n, err := b.ReadCloser.Read(p)
	if b.seen += min(n, 1); b.seen == b.after {
		b.then()
	}
	return n, err
}

// TestSignsOfLife: whoever works for long is waited for, and what it says then, good or bad, arrives.
func TestSignsOfLife(t *testing.T) {
	db := newDB(t)
	hole := &HoleError{Partition: 1, From: 1, Held: 5}
	for _, failure := range []error{nil, hole} {
		for name := range calls(context.Background(), nil) {
			t.Run(name, func(t *testing.T) {
				defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
				src := &slowSource{fakeSource{db: db, openErr: failure}, make(chan struct{})}
				srv := httptest.NewServer(Handler(HandlerConfig{Source: src, KeepAlive: time.Millisecond}, slog.New(slog.DiscardHandler)))
				defer srv.Close()
				release := sync.OnceFunc(func() { close(src.release) })
				defer release()
				hc := &http.Client{Transport: &counting{srv.Client().Transport, 20, release}}
				err := calls(context.Background(), NewClient(srv.URL, hc, 10*time.Second))[name]()
				var got *HoleError
				switch {
				case failure == nil:
					require.NoError(t, err)
				default:
					require.ErrorAs(t, err, &got)
					require.Equal(t, hole, got)
				}
			})
		}
	}
}

// stuckSet gives n series and then waits.
type stuckSet struct {
	storage.SeriesSet
	n       int
	release chan struct{}
}

func (s *stuckSet) Next() bool {
	if s.n--; s.n < 0 {
		<-s.release
	}
	return s.SeriesSet.Next()
}

// fakeBlocks are one database under many IDs.
type fakeBlocks struct {
	db   storage.Queryable
	wrap func(storage.SeriesSet) storage.SeriesSet
}

func (b *fakeBlocks) BlockQuerier(_ context.Context, _ schema.Tenant, mint, maxt int64, ids []ulid.ULID) (storage.Querier, error) {
	var all []storage.Querier
	for i := range ids {
		q, err := b.db.Querier(mint, maxt)
		if err != nil {
			return nil, err
		}
		all = append(all, &wrappedQuerier{q, func(s storage.SeriesSet) storage.SeriesSet { return merge.RankSeriesSet(s, i) }})
	}
	return &wrappedQuerier{storage.NewMergeQuerier(all, nil, merge.Group), b.wrap}, nil
}

// TestSilenceInMidStream: the first series are there, and then the process is stopped.
func TestSilenceInMidStream(t *testing.T) {
	db := newDB(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	release := make(chan struct{})
	stop := func(s storage.SeriesSet) storage.SeriesSet { return &stuckSet{s, 5, release} }
	srv := httptest.NewServer(Handler(HandlerConfig{
		Source: &fakeSource{db: db, wrap: stop}, Blocks: &fakeBlocks{db, stop}, KeepAlive: time.Hour,
	}, slog.New(slog.DiscardHandler)))
	defer srv.Close()
	defer close(release)
	client := NewClient(srv.URL, srv.Client(), 50*time.Millisecond)
	ctx := context.Background()
	q, err := client.Querier(ctx, "acme", 0, 3_000_000, nil)
	require.NoError(t, err)
	set := q.Select(ctx, true, nil, everything)
	require.False(t, set.Next(), "what is known to be a part is not given out")
	require.ErrorIs(t, set.Err(), ErrSilent)
	require.NoError(t, q.Close())

	q, err = client.BlockQuerier(ctx, "acme", 0, 3_000_000, []ulid.ULID{{1}, {2}})
	require.NoError(t, err)
	set = q.Select(ctx, true, nil, everything)
	for set.Next() {
	}
	require.ErrorIs(t, set.Err(), ErrSilent)
	require.NoError(t, q.Close())
}

func TestAppliedCrosses(t *testing.T) {
	src := &slowSource{fakeSource{db: newDB(t)}, make(chan struct{})}
	close(src.release)
	client := serve(t, src)
	ctx := context.Background()
	q, err := client.Querier(ctx, "acme", 0, 3_000_000, nil)
	require.NoError(t, err)
	require.Nil(t, AppliedOf(q))
	set := q.Select(ctx, true, nil, everything)
	require.Equal(t, Applied{1: 7}, AppliedOf(q))
	require.True(t, set.Next())
	require.NoError(t, q.Close())
	q, err = client.Querier(ctx, "acme", 0, 3_000_000, nil)
	require.NoError(t, err)
	_, _, err = q.LabelNames(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, Applied{1: 7}, AppliedOf(q))
	require.Nil(t, AppliedOf(storage.NoopQuerier()))
}

// patientSource waits as long as it may.
type patientSource struct{ fakeSource }

func (*patientSource) Querier(ctx context.Context, _ schema.Tenant, _, _ int64, _ []Ask) (storage.Querier, error) {
	<-ctx.Done()
	return nil, schema.Unavailable(schema.ErrStrongRead, ctx.Err(), "waited")
}

// TestPatienceCrosses: the deadline of the opening holds on the other side.
func TestPatienceCrosses(t *testing.T) {
	client := serve(t, &patientSource{})
	opening, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	q, err := client.Querier(opening, "acme", 0, 1, []Ask{{Wait: 5}})
	require.NoError(t, err)
	<-opening.Done()
	set := q.Select(context.Background(), true, nil, everything)
	require.False(t, set.Next())
	var se *schema.Error
	require.ErrorAs(t, set.Err(), &se)
	require.Equal(t, schema.ErrStrongRead, se.ID)
	require.Positive(t, se.RetryAfter)
}

// TestBlocksKeepTheirRanks: every block's series comes on its own, with the place of its block.
func TestBlocksKeepTheirRanks(t *testing.T) {
	db := newDB(t)
	srv := httptest.NewServer(Handler(HandlerConfig{Blocks: &fakeBlocks{db: db}}, slog.New(slog.DiscardHandler)))
	defer srv.Close()
	client := NewClient(srv.URL, srv.Client(), time.Minute)
	ctx := context.Background()
	for _, hints := range []*storage.SelectHints{nil, {Start: 0, End: 3_000_000, Func: "series"}} {
		q, err := client.BlockQuerier(ctx, "acme", 0, 3_000_000, []ulid.ULID{{1}, {2}, {3}})
		require.NoError(t, err)
		set := q.Select(ctx, true, hints, everything)
		n := 0
		for ; set.Next(); n++ {
			var ranks []int
			for rank, part := range merge.Parts(set.At()) {
				ranks = append(ranks, rank)
				require.Equal(t, set.At().Labels(), part.Labels())
			}
			require.Equal(t, []int{0, 1, 2}, ranks)
		}
		require.NoError(t, set.Err())
		require.Equal(t, 23, n)
		require.NoError(t, q.Close())
	}
	q, err := client.BlockQuerier(ctx, "acme", 0, 3_000_000, []ulid.ULID{{1}})
	require.NoError(t, err)
	names, _, err := q.LabelNames(ctx, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"__name__", "i", "utf8"}, names)

	q, err = client.Querier(ctx, "acme", 0, 1, []Ask{{Partition: 3, From: 9}}) // holds no partition
	require.NoError(t, err)
	_, _, err = q.LabelNames(ctx, nil)
	var hole *HoleError
	require.ErrorAs(t, err, &hole)
	require.Equal(t, &HoleError{Partition: 3, From: 9, Held: -1}, hole)
	_, err = serve(t, &fakeSource{db: db}).BlockQuerier(ctx, "acme", 0, 1, []ulid.ULID{{1}})
	require.NoError(t, err)
}

// TestSourcesOwnRanks: a source that merges by ranks leaves them on its series, which concerns nobody else.
func TestSourcesOwnRanks(t *testing.T) {
	db := newDB(t)
	ranked := func(s storage.SeriesSet) storage.SeriesSet { return merge.RankSeriesSet(s, 2) }
	plain, client := serve(t, &fakeSource{db: db}), serve(t, &fakeSource{db: db, wrap: ranked})
	ctx := context.Background()
	want, err := plain.Querier(ctx, "acme", 0, 3_000_000, nil)
	require.NoError(t, err)
	got, err := client.Querier(ctx, "acme", 0, 3_000_000, nil)
	require.NoError(t, err)
	require.Equal(t, dump(t, want.Select(ctx, true, nil, everything)), dump(t, got.Select(ctx, true, nil, everything)))
	require.NoError(t, want.Close())
	require.NoError(t, got.Close())
}

// backwards gives its series in the wrong order.
type backwards struct {
	storage.SeriesSet
	all []storage.Series
	at  int
}

func (b *backwards) Next() bool {
	if b.all == nil {
		for b.SeriesSet.Next() {
			b.all = append(b.all, b.SeriesSet.At())
		}
		b.at = len(b.all)
	}
	b.at--
	return b.at >= 0
}

func (b *backwards) At() storage.Series { return b.all[b.at] }

// TestAnswersThatLie: an order that is not one would make merging lose samples.
func TestAnswersThatLie(t *testing.T) {
	db := newDB(t)
	client := serve(t, &fakeSource{db: db, wrap: func(s storage.SeriesSet) storage.SeriesSet { return &backwards{SeriesSet: s} }})
	ctx := context.Background()
	q, err := client.Querier(ctx, "acme", 0, 3_000_000, nil)
	require.NoError(t, err)
	set := q.Select(ctx, true, nil, everything)
	require.False(t, set.Next())
	require.ErrorIs(t, set.Err(), ErrUnreachable)
	require.NoError(t, q.Close())

	three := func(s storage.SeriesSet) storage.SeriesSet { return merge.RankSeriesSet(s, 3) }
	srv := httptest.NewServer(Handler(HandlerConfig{Blocks: &fakeBlocks{db, three}}, slog.New(slog.DiscardHandler)))
	defer srv.Close()
	q, err = NewClient(srv.URL, srv.Client(), time.Minute).BlockQuerier(ctx, "acme", 0, 3_000_000, []ulid.ULID{{1}})
	require.NoError(t, err)
	set = q.Select(ctx, true, nil, everything)
	require.False(t, set.Next())
	require.ErrorIs(t, set.Err(), ErrUnreachable)
	require.NoError(t, q.Close())
}

func FuzzHead(f *testing.F) {
	whole, err := frameOf(headTag, streamHead{Applied{1: 2}})
	require.NoError(f, err)
	f.Add(whole)
	part := trace.NewPart("there")
	require.NoError(f, part.Root().Add(trace.PageHits, 5))
	tail, err := frameOf(tailTag, streamTail{part.Report()})
	require.NoError(f, err)
	f.Add(tail)
	f.Add([]byte{headTag, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &stream{span: trace.New("query", nil).Root()}
		if ok, err := s.aside(b); ok && err == nil && len(s.head.Applied) > 0 {
			again, err := frameOf(headTag, s.head)
			require.NoError(t, err)
			var back streamHead
			_, err = parseFrame(again, headTag, &back)
			require.NoError(t, err)
			require.Equal(t, s.head, back)
		}
	})
}
