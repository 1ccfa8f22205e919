package members

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/internal/log"
)

func TestDirectory(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	logger := slog.New(slog.DiscardHandler)
	l, err := log.OpenEmbedded(log.EmbeddedConfig{Dir: t.TempDir(), Partitions: 2}, logger, nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	control := log.NewTable(l, log.TopicControl)
	d := NewDirectory(control, logger)
	done := make(chan error, 1)
	go func() { done <- control.Run(ctx) }()
	defer func() {
		cancel()
		err := <-done
		require.True(t, err == nil || errors.Is(err, context.Canceled), "%v", err)
		require.NoError(t, l.Close())
	}()

	require.NoError(t, d.Sync(ctx))
	require.Empty(t, d.Members())
	a := Member{ID: "a", Addr: "host-a:1", Kind: KindConsumer, Partitions: []Coverage{{Partition: 0, Applied: 10}, {Partition: 1, From: 5, Applied: 50}}}
	b := Member{ID: "b", Addr: "host-b:1", Kind: KindConsumer, Partitions: []Coverage{{Partition: 0, From: 2, Applied: 20}}}
	require.NoError(t, Announce(ctx, l, a))
	require.NoError(t, Announce(ctx, l, b))
	require.Error(t, Announce(ctx, l, Member{}))
	require.NoError(t, l.Append(ctx, log.TopicControl, []log.Record{{Key: []byte("member/c"), Value: []byte("{")}, {Key: []byte("other"), Value: []byte("x")}}))
	require.NoError(t, d.Sync(ctx))
	got := d.Members()
	require.Len(t, got, 2)
	require.Equal(t, "host-a:1", got[0].Addr)
	require.Equal(t, a.Partitions, got[0].Partitions)
	require.Equal(t, []string{"b", "a"}, holders(d.Holders(0)))
	require.Equal(t, []string{"a"}, holders(d.Holders(1)))
	require.Empty(t, d.Holders(7))

	require.NoError(t, Withdraw(ctx, l, "b"))
	require.NoError(t, d.Sync(ctx))
	require.Equal(t, []string{"a"}, holders(d.Holders(0)))
}

func TestStaleMembersComeLast(t *testing.T) {
	d := &Directory{logger: slog.New(slog.DiscardHandler), members: map[string]Member{}}
	say := func(id string, at, applied int64) {
		d.apply(&log.Record{Time: at, Key: []byte("member/" + id), Value: []byte(`{"id":"` + id + `","partitions":[{"partition":0,"applied":` + string(rune('0'+applied)) + `}]}`)})
	}
	say("old", 1000, 9)
	say("older", 500, 8)
	say("x", 20_000, 1)
	say("y", 20_000, 1)
	say("z", 19_000, 2)
	require.Equal(t, []string{"z", "x", "y", "old", "older"}, holders(d.Holders(0)))
}

// at makes a directory into which say puts announcements with their log times.
func at() (d *Directory, say func(id, kind string, at int64)) {
	d = NewDirectory(log.NewTable(nil, log.TopicControl), slog.New(slog.DiscardHandler))
	return d, func(id, kind string, at int64) {
		d.apply(&log.Record{Time: at, Key: []byte("member/" + id), Value: []byte(`{"id":"` + id + `","kind":"` + kind + `","partitions":[{"partition":0,"applied":5}]}`)})
	}
}

func TestSuspects(t *testing.T) {
	d, say := at()
	say("a", KindConsumer, 1000)
	say("b", KindConsumer, 1000)
	require.Equal(t, []string{"a", "b"}, holders(d.Holders(0)))
	d.Suspect("nobody")
	d.Suspect("a")
	require.Equal(t, []string{"b", "a"}, holders(d.Holders(0)))
	require.True(t, d.Holders(0)[1].Doubtful)
	say("b", KindConsumer, 3000)
	require.Equal(t, []string{"b", "a"}, holders(d.Holders(0)), "others' announcements say nothing about it")
	say("a", KindConsumer, 3000)
	require.Equal(t, []string{"a", "b"}, holders(d.Holders(0)))

	// It announces itself, and cannot be reached: it comes last for longer each time.
	for _, quiet := range []int64{4000, 8000, 16_000, 32_000, 60_000, 60_000} {
		was := d.members["a"].Time
		d.Suspect("a")
		d.Suspect("a") // by a query that ran at the same time
		say("b", KindConsumer, was+quiet)
		say("a", KindConsumer, was+quiet-1)
		require.Equal(t, []string{"b", "a"}, holders(d.Holders(0)))
		say("a", KindConsumer, was+quiet)
		require.Equal(t, []string{"a", "b"}, holders(d.Holders(0)))
	}
	d.Trust("a")
	d.Suspect("a")
	was := d.members["a"].Time
	say("a", KindConsumer, was+1)
	require.Equal(t, []string{"a", "b"}, holders(d.Holders(0)), "an answer makes up for all of it")

	d.Suspect("a")
	d.apply(&log.Record{Time: was + 2, Key: []byte("member/a")})
	say("a", KindConsumer, was+2)
	require.Equal(t, []string{"a", "b"}, holders(d.Holders(0)), "one that withdrew comes back as another")
}

func TestReaders(t *testing.T) {
	d, say := at()
	say("r2", KindReader, 1000)
	say("r1", KindReader, 1000)
	say("c", KindConsumer, 1000)
	require.Equal(t, []string{"r1", "r2"}, ids(d.Readers()))
	d.Suspect("r1")
	require.Equal(t, []string{"r2"}, ids(d.Readers()))
	say("c", KindConsumer, 1000+ReaderStaleAfter.Milliseconds())
	say("r1", KindReader, 3000)
	require.Equal(t, []string{"r1", "r2"}, ids(d.Readers()))
	say("c", KindConsumer, 1001+ReaderStaleAfter.Milliseconds())
	require.Equal(t, []string{"r1"}, ids(d.Readers()))
}

func FuzzApply(f *testing.F) {
	f.Add([]byte("member/a"), []byte(`{"id":"a","partitions":[{"partition":1,"from":2,"applied":3}]}`))
	f.Add([]byte("member/a"), []byte(nil))
	f.Fuzz(func(_ *testing.T, key, value []byte) {
		d := &Directory{logger: slog.New(slog.DiscardHandler), members: map[string]Member{}}
		d.apply(&log.Record{Key: key, Value: value})
		d.Holders(1)
		d.Members()
	})
}

func holders(hs []Holder) []string {
	var out []string
	for _, h := range hs {
		out = append(out, h.ID)
	}
	return out
}

func ids(ms []Member) []string {
	var out []string
	for _, m := range ms {
		out = append(out, m.ID)
	}
	return out
}
