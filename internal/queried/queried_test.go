package queried

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/internal/log"
	"sluice/schema"
)

const (
	waitFor = time.Minute
	tick    = 2 * time.Millisecond
)

func openLog(t *testing.T) log.Log {
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: 1, Fsync: log.FsyncOff}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// clock is a time that tests set.
type clock struct{ s atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.s.Store(1_700_000_000)
	return c
}

func (c *clock) now() time.Time          { return time.Unix(c.s.Load(), 0) }
func (c *clock) advance(d time.Duration) { c.s.Add(int64(d.Seconds())) }

// start runs a tracker that tells nothing by itself until it stops.
func start(t *testing.T, l log.Log, instance string, c *clock) (tr *Tracker, stop func()) {
	control := log.NewTable(l, log.TopicControl)
	tr = New(Config{Instance: instance, Interval: time.Hour, Now: c.now}, l, control, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	followed, done := make(chan error, 1), make(chan error, 1)
	go func() { followed <- control.Run(ctx) }()
	go func() { done <- tr.Run(ctx) }()
	require.Eventually(t, func() bool {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		return tr.loaded
	}, waitFor, tick)
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.ErrorIs(t, <-done, context.Canceled)
			require.NoError(t, <-followed)
		}
	}
	t.Cleanup(stop)
	return tr, stop
}

func matchers(t *testing.T, text ...string) (ms []*labels.Matcher) {
	for i := 0; i < len(text); i += 3 {
		typ := map[string]labels.MatchType{"=": labels.MatchEqual, "!=": labels.MatchNotEqual, "=~": labels.MatchRegexp, "!~": labels.MatchNotRegexp}[text[i+1]]
		m, err := labels.NewMatcher(typ, text[i], text[i+2])
		require.NoError(t, err)
		ms = append(ms, m)
	}
	return ms
}

func ask(tr *Tracker, tenant schema.Tenant, names ...string) {
	q := &Request{}
	for _, name := range names {
		q.Note(tenant, []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "__name__", name)})
	}
	tr.Count(q)
}

func TestNamesOfMatchers(t *testing.T) {
	for _, c := range []struct {
		ms   []string
		want []string
	}{
		{[]string{"__name__", "=", "up"}, []string{"up"}},
		{[]string{"job", "=", "a", "__name__", "=", "up", "job", "=~", "b|c"}, []string{"up"}},
		{[]string{"__name__", "=~", "a|b"}, []string{"a", "b"}},
		{[]string{"__name__", "=~", "x_(a|b)"}, []string{"x_a", "x_b"}},
		{[]string{"__name__", "=~", "a|b", "__name__", "!=", "a"}, []string{"b"}},
		{[]string{"__name__", "=~", "a.*"}, nil},
		{[]string{"__name__", "=~", "a|"}, []string{"a"}},
		{[]string{"__name__", "!=", "a"}, nil},
		{[]string{"__name__", "!~", "a|b"}, nil},
		{[]string{"__name__", "=", ""}, nil},
		{[]string{"job", "=", "up"}, nil},
		{[]string{"__name__", "=", "\xff"}, nil},
		{[]string{"__name__", "=", strings.Repeat("a", maxNameBytes+1)}, nil},
		{nil, nil},
	} {
		require.ElementsMatch(t, c.want, namesOf(matchers(t, c.ms...)), "%q", c.ms)
	}
}

// TestOnceForEachRequest: a name counts once for a request, however many selectors ask for it, and each tenant has its own.
func TestOnceForEachRequest(t *testing.T) {
	c := newClock()
	tr, _ := start(t, openLog(t), "r1", c)
	q := &Request{}
	for range 3 {
		q.Note("acme", matchers(t, "__name__", "=~", "a|b"))
		q.Note("other", matchers(t, "__name__", "=", "a"))
	}
	tr.Count(q)
	tr.Count(q) // it is empty now
	c.advance(time.Minute)
	ask(tr, "acme", "b")
	at := c.now().Unix()
	require.Equal(t, Stats{Since: at - 60, Names: map[string]Usage{"a": {1, at - 60}, "b": {2, at}}}, tr.Stats("acme"))
	require.Equal(t, map[string]Usage{"a": {1, at - 60}}, tr.Stats("other").Names)
	require.Empty(t, tr.Stats("nobody").Names)
	var none *Request
	none.Note("acme", matchers(t, "__name__", "=", "a"))
	tr.Count(none)

	many := &Request{}
	for i := range 2 * maxPerRequest {
		many.Note("many", matchers(t, "__name__", "=", fmt.Sprint("m", i)))
	}
	tr.Count(many)
	require.Len(t, tr.Stats("many").Names, maxPerRequest)
}

// TestSharedAndKept: two readers add up, both know it, and it is there after a restart of either, of whatever size it is.
func TestSharedAndKept(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	l, c := openLog(t), newClock()
	began := c.now().Unix()
	one, stopOne := start(t, l, "r1", c)
	two, stopTwo := start(t, l, "r2", c)
	var names []string
	for i := range 3 * chunkNames {
		names = append(names, fmt.Sprintf("metric_%d", i))
	}
	ask(one, "acme", names[:maxPerRequest]...)
	ask(one, "acme", names[maxPerRequest:]...)
	ask(two, "acme", "metric_0", "another")
	c.advance(time.Hour)
	ask(one, "acme", "metric_0")
	last := c.now().Unix() / 60 * 60

	check := func(tr *Tracker) {
		t.Helper()
		require.Eventually(t, func() bool { return tr.Stats("acme").Names["metric_0"].Requests == 3 }, waitFor, tick)
		s := tr.Stats("acme")
		require.Equal(t, began, s.Since)
		require.Len(t, s.Names, len(names)+1)
		require.GreaterOrEqual(t, s.Names["metric_0"].Last, last)
		require.Equal(t, uint64(1), s.Names["metric_1"].Requests)
		require.Equal(t, uint64(1), s.Names["another"].Requests)
	}
	stopOne()
	stopTwo()
	c.advance(time.Hour)
	one, stopOne = start(t, l, "r1", c)
	check(one)
	b, err := l.Bounds(context.Background(), log.TopicControl, 0)
	require.NoError(t, err)
	stopOne()
	after, err := l.Bounds(context.Background(), log.TopicControl, 0)
	require.NoError(t, err)
	require.Equal(t, b.End, after.End, "nothing has changed, so nothing is told")
	two, _ = start(t, l, "r2", c)
	check(two)
	third, _ := start(t, l, "r3", c)
	check(third)
	ask(two, "acme", "metric_0")
	require.Equal(t, uint64(4), two.Stats("acme").Names["metric_0"].Requests)
}

// TestTelling: new names are told at the next look, larger numbers later and in their chunk alone, and what could not be told
// is told again.
func TestTelling(t *testing.T) {
	l, c := openLog(t), newClock()
	tr := New(Config{Instance: "r1", Interval: time.Minute, Now: c.now}, l, log.NewTable(l, log.TopicControl), slog.New(slog.DiscardHandler))
	ask(tr, "acme", "up")
	require.Empty(t, tr.collect(true), "not before it is known what was told before")
	tr.load()
	require.Len(t, tr.collect(false), 1)
	ask(tr, "acme", "up")
	c.advance(time.Minute)
	require.Empty(t, tr.collect(false))
	c.advance(countsFor * time.Minute)
	recs := tr.collect(false)
	require.Len(t, recs, 1)
	require.Equal(t, "queried/acme/0/r1", string(recs[0].Key))
	require.JSONEq(t, fmt.Sprintf(`{"since":1700000000,"names":{"up":[2,%d]}}`, 1_700_000_000/60), string(recs[0].Value))
	require.Empty(t, tr.collect(true))
	tr.again(recs)
	require.Equal(t, recs, tr.collect(false))
	ask(tr, "acme", "down")
	require.Len(t, tr.collect(false), 1)
	ask(tr, "acme", "down")
	require.Len(t, tr.collect(true), 1, "at the end at once")
	c.advance(tellAgain)
	require.Len(t, tr.collect(false), 1, "so that nobody takes us for gone")

	for i := range 4 * chunkNames {
		ask(tr, "acme", fmt.Sprint("m", i))
	}
	require.Len(t, tr.collect(false), 8)
	ask(tr, "acme", "one more")
	require.Len(t, tr.collect(false), 1)
}

// TestBounds: names, tenants and all of them together are bounded; what was asked for last stays, and what is forgotten is
// withdrawn.
func TestBounds(t *testing.T) {
	l, c := openLog(t), newClock()
	tr, _ := start(t, l, "r1", c)
	for i := range maxNames + 10 {
		c.advance(time.Second)
		ask(tr, "large", "first", fmt.Sprint("m", i))
	}
	s := tr.Stats("large").Names
	require.Len(t, s, maxNames)
	require.Equal(t, uint64(maxNames+10), s["first"].Requests)
	require.NotContains(t, s, "m0")
	require.Contains(t, s, fmt.Sprint("m", maxNames+9))

	ask(tr, "small", "up")
	require.NoError(t, tr.tell(context.Background(), true))
	for i := range maxTenants - 1 {
		c.advance(time.Second)
		ask(tr, "small", "up")
		ask(tr, schema.Tenant(fmt.Sprint("t", i)), "up")
	}
	require.Len(t, tr.tenants, maxTenants)
	require.Empty(t, tr.Stats("large").Names)
	require.NotEmpty(t, tr.Stats("small").Names)
	require.Equal(t, maxTenants, tr.total)
	withdrawn := 0
	for _, rec := range tr.collect(false) {
		if rec.Value == nil {
			require.True(t, strings.HasPrefix(string(rec.Key), "queried/large/"), string(rec.Key))
			withdrawn++
		}
	}
	require.Equal(t, 64, withdrawn)

	for i := range maxTotal/maxNames + 1 {
		for j := range maxNames {
			ask(tr, schema.Tenant(fmt.Sprint("huge", i)), fmt.Sprint("m", j))
		}
	}
	require.LessOrEqual(t, tr.total, maxTotal)
}

// TestChunksFit: whatever names are made up, a record fits into the log.
func TestChunksFit(t *testing.T) {
	l, c := openLog(t), newClock()
	tr, stop := start(t, l, "r1", c)
	var bad []string
	for i := 0; len(bad) < 1500; i++ {
		name := fmt.Sprint(i, strings.Repeat("\x01", maxNameBytes-10)) // six bytes each as JSON
		if chunkOf(name, 4) == 0 {
			bad = append(bad, name)
		}
	}
	ask(tr, "acme", bad[:maxPerRequest]...)
	ask(tr, "acme", bad[maxPerRequest:]...)
	for _, rec := range tr.collect(false) {
		require.Less(t, len(rec.Value), 512<<10)
		_, err := decode(rec.Value)
		require.NoError(t, err)
	}
	stop()
}

// TestGoneReaders: what a reader told counts for 30 days, and is then withdrawn by another.
func TestGoneReaders(t *testing.T) {
	l, c := openLog(t), newClock()
	one, stop := start(t, l, "r1", c)
	ask(one, "acme", "up")
	stop()
	two, _ := start(t, l, "r2", c)
	require.Equal(t, uint64(1), two.Stats("acme").Names["up"].Requests)
	two.mu.Lock()
	two.newest += goneAfter.Milliseconds()
	two.mu.Unlock()
	require.Empty(t, two.collect(false))
	two.mu.Lock()
	two.newest += time.Minute.Milliseconds()
	two.mu.Unlock()
	require.NoError(t, two.tell(context.Background(), false))
	require.Eventually(t, func() bool { return len(two.Stats("acme").Names) == 0 }, waitFor, tick)
	require.Zero(t, two.known)
}

// TestHostileRecords: records that make no sense change nothing and stop nobody.
func TestHostileRecords(t *testing.T) {
	l := openLog(t)
	tr := New(Config{Instance: "r1"}, l, log.NewTable(l, log.TopicControl), slog.New(slog.DiscardHandler))
	good := `{"since":1,"names":{"up":[2,3]}}`
	for key, value := range map[string]string{
		"member/x": good, "queried/": good, "queried/acme": good, "queried/acme/0": good, "queried/acme/0/": good, "queried/acme/-1/r2": good,
		"queried/acme/64/r2": good, "queried/acme/00/r2": good, "queried/../0/r2": good, "queried//0/r2": good, "queried/a|b/0/r2": good,
		"queried/acme/1/r2": `{`, "queried/acme/2/r2": `{"names":{"up":[-1,2]}}`, "queried/acme/3/r2": `{"names":{"up":[1,18446744073709551615]}}`, "queried/acme/4/r2": `[]`,
	} {
		tr.apply(&log.Record{Key: []byte(key), Value: []byte(value)})
		require.Empty(t, tr.others, key)
	}
	tr.apply(&log.Record{Key: []byte("queried/acme/0/r/2"), Value: []byte(good)})
	require.Equal(t, map[string]Usage{"up": {2, 180}}, tr.Stats("acme").Names)
	tr.apply(&log.Record{Key: []byte("queried/acme/0/r/2")})
	require.Empty(t, tr.others)
}

// TestBytes measures what telling of 1,000 names takes.
func TestBytes(t *testing.T) {
	l, c := openLog(t), newClock()
	tr := New(Config{Instance: "reader-0", Now: c.now}, l, log.NewTable(l, log.TopicControl), slog.New(slog.DiscardHandler))
	tr.load()
	for i := range 1000 {
		for range 1 + i%50 {
			ask(tr, "acme", fmt.Sprintf("namespace_subsystem_operation_seconds_%d", i))
		}
	}
	size := func(recs []log.Record) (n int) {
		for _, rec := range recs {
			n += len(rec.Key) + len(rec.Value)
		}
		return n
	}
	recs := tr.collect(false)
	all := size(recs)
	ask(tr, "acme", "one_more")
	one := tr.collect(false)
	t.Logf("SLUICE-FIGURES 1,000 names: %d bytes in %d records; one more: %d bytes in %d", all, len(recs), size(one), len(one))
	require.Less(t, all, 100_000)
	require.Less(t, size(one), all)
}

func BenchmarkCount(b *testing.B) {
	tr := New(Config{Instance: "r1"}, nil, log.NewTable(nil, log.TopicControl), slog.New(slog.DiscardHandler))
	ms := []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "__name__", "up"), labels.MustNewMatcher(labels.MatchEqual, "job", "a")}
	b.ReportAllocs()
	for b.Loop() {
		q := &Request{}
		q.Note("acme", ms)
		tr.Count(q)
	}
}
