package schema

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSeriesLimit(t *testing.T) {
	for _, l := range []SeriesLimit{
		{},
		{MaxSeries: 150_000, MaxPerMetric: 20_000, Partitions: 52, Producer: math.MaxUint32},
		{MaxSeries: maxSeriesLimit, MaxPerMetric: maxSeriesLimit, Partitions: math.MaxInt32},
	} {
		got, err := DecodeSeriesLimit(l.Append(nil))
		require.NoError(t, err)
		require.Equal(t, l, got)
	}
	require.Equal(t, []byte{1, 0xf0, 0x93, 0x09, 0xa0, 0x9c, 0x01, 52, 7}, // the bytes are for ever
		SeriesLimit{MaxSeries: 150_000, MaxPerMetric: 20_000, Partitions: 52, Producer: 7}.Append(nil))
	huge, err := DecodeSeriesLimit(SeriesLimit{MaxSeries: math.MaxInt64}.Append(nil))
	require.NoError(t, err)
	require.EqualValues(t, maxSeriesLimit, huge.MaxSeries)
	good := SeriesLimit{MaxSeries: 5, Partitions: 1}.Append(nil)
	for _, bad := range [][]byte{nil, {2}, good[:3], append(good, 0), {1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0}} {
		_, err := DecodeSeriesLimit(bad)
		require.ErrorIs(t, err, ErrSeriesLimit, "%x", bad)
	}
}

func TestCap(t *testing.T) {
	minutes := func(n int64) int64 { return n * time.Minute.Milliseconds() }
	for _, c := range []struct {
		l       SeriesLimit
		elapsed int64
		want    int64
	}{
		{SeriesLimit{}, 0, 0},
		{SeriesLimit{MaxPerMetric: 5, Partitions: 4}, 0, 0},
		{SeriesLimit{MaxSeries: 1, Partitions: 4}, 0, 1002},
		{SeriesLimit{MaxSeries: 100_000, Partitions: 4}, 0, 51_000},
		{SeriesLimit{MaxSeries: 100_000}, 0, 201_000},
		{SeriesLimit{MaxSeries: 100_000, Partitions: 4}, minutes(1) - 1, 51_000},
		{SeriesLimit{MaxSeries: 100_000, Partitions: 4}, minutes(40), 101_000},
		{SeriesLimit{MaxSeries: 100_000, Partitions: 4}, -minutes(40), 51_000},
		{SeriesLimit{MaxSeries: math.MaxInt64, Partitions: 1}, math.MaxInt64, 1000 + 2<<40 + 2<<40*36},
	} {
		require.Equal(t, c.want, c.l.Cap(c.elapsed), "%+v after %d ms", c.l, c.elapsed)
	}
	// A tenant that replaces all of its series as fast as its limit allows never meets the cap.
	for m := int64(0); m <= 24*60; m++ {
		l := SeriesLimit{MaxSeries: 10_000, Partitions: 1}
		possible := l.MaxSeries * (m/int64(SeriesIdle/time.Minute) + 1)
		require.Greater(t, l.Cap(minutes(m)), possible)
	}
	require.Greater(t, SeriesIdle, RefLife)
}

func FuzzSeriesLimit(f *testing.F) {
	f.Add(SeriesLimit{MaxSeries: 150_000, MaxPerMetric: 20_000, Partitions: 52, Producer: 7}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := DecodeSeriesLimit(b)
		if err != nil {
			return
		}
		again, err := DecodeSeriesLimit(l.Append(nil))
		require.NoError(t, err)
		require.Equal(t, l, again)
		require.GreaterOrEqual(t, l.Cap(math.MaxInt64), l.Cap(0))
	})
}
