package deadletter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/promslog"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

func openLog(t testing.TB) log.Log {
	clock := time.UnixMilli(1_700_000_000_123)
	l, err := log.OpenEmbedded(log.EmbeddedConfig{
		Dir: t.TempDir(), Partitions: 2, Fsync: log.FsyncOff, Now: func() time.Time { return clock },
	}, promslog.NewNopLogger(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func headers(kv ...string) []log.Header {
	var out []log.Header
	for i := 0; i < len(kv); i += 2 {
		out = append(out, log.Header{Key: kv[i], Value: []byte(kv[i+1])})
	}
	return out
}

// bury puts a dead letter as a consumer does.
func bury(t testing.TB, l log.Log, tenant, value, reason, partition, offset string, more ...string) {
	hs := append(headers(schema.HeaderDeadReason, reason, schema.HeaderDeadPartition, partition, schema.HeaderDeadOffset, offset), headers(more...)...)
	require.NoError(t, l.Append(context.Background(), log.TopicDeadLetter, []log.Record{{Key: []byte(tenant), Value: []byte(value), Headers: hs}}))
}

// samples returns what a partition of the samples holds, one line a record.
func samples(t testing.TB, l log.Log, partition int32) (lines []string) {
	b, err := l.Bounds(context.Background(), log.TopicSamples, partition)
	require.NoError(t, err)
	r, err := l.Reader(log.TopicSamples, partition, b.Start)
	require.NoError(t, err)
	defer r.Close()
	for r.Position() < b.End {
		recs, err := r.Next(context.Background())
		require.NoError(t, err)
		for _, rec := range recs {
			line := fmt.Sprintf("%s %s", rec.Key, rec.Value)
			for _, h := range rec.Headers {
				line += fmt.Sprintf(" %s=%s", h.Key, h.Value)
			}
			lines = append(lines, line)
		}
	}
	return lines
}

func list(t testing.TB, l log.Log, opts Options) []string {
	var out bytes.Buffer
	require.NoError(t, List(context.Background(), l, &out, opts))
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

func TestList(t *testing.T) {
	l := openLog(t)
	require.Equal(t, []string{""}, list(t, l, Options{}))
	bury(t, l, "acme", "12345", "truncated message", "1", "77", "v", "\x01")
	bury(t, l, "acme", "", "unknown record version 09", "0", "3")
	bury(t, l, "other", "x", "truncated message", "0", "9")
	all := list(t, l, Options{})
	require.Equal(t, []string{
		`offset=0 time=2023-11-14T22:13:20.123Z partition=1 partition_offset=77 tenant="acme" bytes=5 reason="truncated message"`,
		`offset=1 time=2023-11-14T22:13:20.123Z partition=0 partition_offset=3 tenant="acme" bytes=0 reason="unknown record version 09"`,
		`offset=2 time=2023-11-14T22:13:20.123Z partition=0 partition_offset=9 tenant="other" bytes=1 reason="truncated message"`,
	}, all)
	require.Equal(t, all[:2], list(t, l, Options{Tenant: "acme"}))
	require.Equal(t, []string{all[0], all[2]}, list(t, l, Options{Reason: "truncated"}))
	require.Equal(t, all[1:], list(t, l, Options{From: 1}))
	require.Equal(t, all[1:2], list(t, l, Options{From: 1, To: 2}))
	require.Equal(t, all[:1], list(t, l, Options{Limit: 1}))
	require.Equal(t, all[2:], list(t, l, Options{Tenant: "other", Limit: 1}))
	require.Equal(t, []string{""}, list(t, l, Options{From: 3}))
	require.ErrorContains(t, List(context.Background(), l, brokenPipe{}, Options{}), "broken pipe")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.Error(t, List(ctx, l, brokenPipe{}, Options{}))
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestReplay(t *testing.T) {
	ctx, l := context.Background(), openLog(t)
	bury(t, l, "acme", "one", "r", "1", "77", "v", "\x01")
	bury(t, l, "acme", "two", "r", "0", "3", "v", "\x01", "reason", "the sender's own")
	bury(t, l, "other", "three", "r", "0", "9")
	n, err := Replay(ctx, l, Options{Tenant: "acme"})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, []string{"acme one v=\x01"}, samples(t, l, 1))
	require.Equal(t, []string{"acme two v=\x01 reason=the sender's own"}, samples(t, l, 0))
	require.Len(t, list(t, l, Options{}), 3, "the dead letters stay")

	n, err = Replay(ctx, l, Options{From: 2, To: 3})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, "other three", samples(t, l, 0)[1])
}

// Whatever the headers say, nothing lands in a partition that does not exist, and one bad letter stops no other.
func TestReplayOfHostileLetters(t *testing.T) {
	ctx, l := context.Background(), openLog(t)
	for _, partition := range []string{"", "-1", "+1", "01", "2", "4294967296", "99999999999999999999", "1e0", "x\n\x00"} {
		bury(t, l, "t", "bad", "r", partition, "0")
	}
	require.NoError(t, l.Append(ctx, log.TopicDeadLetter, []log.Record{{Key: []byte("t"), Value: []byte("no headers")}}))
	bury(t, l, "t", "", "r", "0", "1", schema.HeaderKind, schema.KindSeal)
	bury(t, l, "", "", "r", "0", "1", schema.HeaderKind, schema.KindTick)
	bury(t, l, "../evil", "good", "r", "1", "garbage", schema.HeaderKind, "from the future")
	n, err := Replay(ctx, l, Options{})
	require.Equal(t, 1, n)
	require.ErrorContains(t, err, `dead letter 0: its header partition, "", is not a partition`)
	require.ErrorContains(t, err, "dead letter 4: it is from partition 2, and sluice.samples has 2")
	require.ErrorContains(t, err, "and 2 more")
	require.Empty(t, samples(t, l, 0))
	require.Equal(t, []string{"../evil good kind=from the future"}, samples(t, l, 1))

	lines := list(t, l, Options{})
	require.Len(t, lines, 13)
	require.Contains(t, lines[9], `partition=unknown partition_offset=unknown tenant="t" bytes=10 reason=""`)
	require.Contains(t, lines[12], "partition_offset=unknown")
	require.LessOrEqual(t, len(Letter{Reason: strings.Repeat("\x00", 5000), Tenant: strings.Repeat("\xff", 5000)}.String()), 3000)
}

// More letters than one append takes, and a log that fails on the way.
func TestReplayInBatches(t *testing.T) {
	ctx, l := context.Background(), openLog(t)
	recs := make([]log.Record, 1200)
	for i := range recs {
		recs[i] = log.Record{Key: []byte("t"), Value: fmt.Appendf(nil, "%d", i), Headers: headers(schema.HeaderDeadPartition, "0")}
	}
	require.NoError(t, l.Append(ctx, log.TopicDeadLetter, recs))
	n, err := Replay(ctx, l, Options{})
	require.NoError(t, err)
	require.Equal(t, 1200, n)
	got := samples(t, l, 0)
	require.Len(t, got, 1200)
	require.Equal(t, "t 1199", got[1199])

	n, err = Replay(ctx, &failing{Log: l, left: 1}, Options{Limit: 700})
	require.ErrorIs(t, err, log.ErrOverloaded)
	require.LessOrEqual(t, n, batchRecords)
}

type failing struct {
	log.Log
	left int
}

func (f *failing) Append(ctx context.Context, topic string, recs []log.Record) error {
	if f.left--; f.left < 0 {
		return log.ErrOverloaded
	}
	return f.Log.Append(ctx, topic, recs)
}

// holed is a log whose dead-letter topic begins later than its bounds said, and ends with offsets that hold no record.
type holed struct {
	log.Log
	start int64
}

func (h *holed) Reader(topic string, p int32, offset int64) (log.Reader, error) {
	r, err := h.Log.Reader(topic, p, offset)
	return &holedReader{Reader: r, of: h, at: offset}, err
}

type holedReader struct {
	log.Reader
	of *holed
	at int64
}

func (r *holedReader) Position() int64 { return r.at }
func (r *holedReader) Next(ctx context.Context) ([]log.Record, error) {
	switch {
	case r.at < r.of.start:
		return nil, &log.OutOfRangeError{Topic: log.TopicDeadLetter, Offset: r.at, Bounds: log.Bounds{Start: r.of.start, End: 4}}
	case r.at == r.of.start:
		r.at++
		return []log.Record{{Offset: r.of.start, Key: []byte("t")}}, nil
	}
	r.at = 4
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestTopicWithHoles(t *testing.T) {
	l := openLog(t)
	for range 4 {
		bury(t, l, "t", "x", "r", "0", "0")
	}
	lines := list(t, &holed{Log: l, start: 2}, Options{})
	require.Len(t, lines, 1)
	require.Contains(t, lines[0], "offset=2 ")
}

// FuzzOriginal: no headers and no content make a record for a partition that is not there, or a line that is two.
func FuzzOriginal(f *testing.F) {
	f.Add([]byte("t"), []byte("v"), []byte("1"), []byte("12"), []byte("reason"), []byte(""))
	f.Add([]byte("\n"), []byte(""), []byte("99"), []byte("-3"), []byte("a\nb"), []byte("tick"))
	f.Fuzz(func(t *testing.T, key, value, partition, offset, reason, kind []byte) {
		rec := &log.Record{Key: key, Value: value, Headers: []log.Header{
			{Key: schema.HeaderDeadReason, Value: reason}, {Key: schema.HeaderDeadPartition, Value: partition},
			{Key: schema.HeaderDeadOffset, Value: offset}, {Key: schema.HeaderKind, Value: kind},
		}}
		letter := read(rec)
		require.NotContains(t, letter.String(), "\n")
		got, err := original(found{letter, rec}, 3)
		if err != nil {
			return
		}
		require.True(t, got.Partition >= 0 && got.Partition < 3)
		require.Equal(t, fmt.Sprint(got.Partition), string(partition))
		require.Equal(t, []log.Header{{Key: schema.HeaderKind, Value: kind}}, got.Headers)
		require.Len(t, rec.Headers, 4, "the letter is as it was")
	})
}
