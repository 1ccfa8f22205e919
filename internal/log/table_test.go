package log

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// moody is a log that does not tell its bounds the first few times it is asked.
type moody struct {
	Log
	refusals int
}

func (m *moody) Bounds(ctx context.Context, topic string, partition int32) (Bounds, error) {
	if m.refusals > 0 {
		m.refusals--
		return Bounds{}, errors.New("a leader is being elected")
	}
	return m.Log.Bounds(ctx, topic, partition)
}

// TestTableOutlivesAnElection: a log that does not answer when the table begins to follow it ends neither the table nor
// the process that it is in.
func TestTableOutlivesAnElection(t *testing.T) {
	l, err := OpenEmbedded(EmbeddedConfig{Dir: t.TempDir(), Partitions: 1}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(t, l.Append(ctx, TopicControl, []Record{{Key: []byte("k"), Value: []byte("v")}}))
	seen := make(chan string, 1)
	table := NewTable(&moody{Log: l, refusals: 2}, TopicControl, func(r *Record) { seen <- string(r.Key) })
	done := make(chan error)
	following, stop := context.WithCancel(ctx)
	go func() { done <- table.Run(following) }()
	select {
	case key := <-seen:
		require.Equal(t, "k", key)
	case err := <-done:
		require.NoError(t, err, "the table has given up")
	}
	stop()
	require.NoError(t, <-done)
	require.NoError(t, l.Close())
}
