package trace

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/schema"
)

func TestBudget(t *testing.T) {
	b := NewBudget(100, "--memory")
	begin := func() (*Query, context.Context) {
		q := New("q", nil)
		q.Share(b)
		return q, With(context.Background(), q)
	}
	large, ctx := begin()
	require.NoError(t, Add(ctx, Memory, 90))
	require.NoError(t, Add(ctx, Memory, -10))

	small, ctx := begin()
	err := Add(ctx, Memory, 30) // for others' sake
	require.True(t, IsLimit(err))
	var se *schema.Error
	require.ErrorAs(t, err, &se)
	require.Equal(t, schema.ErrOverloaded, se.ID)
	require.NotZero(t, se.RetryAfter)
	small.Release()
	small.Release()
	require.NoError(t, Add(ctx, Memory, -30)) // it lets go afterwards
	require.EqualValues(t, 80, b.Used())

	_, ctx = begin()
	large.Release()
	require.Zero(t, b.Used())
	err = Add(ctx, Memory, 101) // for its own
	require.ErrorAs(t, err, &se)
	require.Equal(t, schema.ErrMaxMemoryPerQuery, se.ID)
	require.Contains(t, se.Message, "100 (--memory)")
}
