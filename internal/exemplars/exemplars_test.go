package exemplars

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
)

func at(ts int64, value float64, trace string) exemplar.Exemplar {
	return exemplar.Exemplar{Ts: ts, HasTs: ts != 0, Value: value, Labels: labels.FromStrings("trace_id", trace)}
}

func all(s *Set) []exemplar.QueryResult { return s.Select(math.MinInt64, math.MaxInt64, everything) }

func TestSet(t *testing.T) {
	var s Set
	a, b := labels.FromStrings("__name__", "m", "i", "a"), labels.FromStrings("__name__", "m", "i", "b")
	s.Add(a, at(10, 1, "x"), 4)
	s.Add(b, at(30, 3, "y"), 4)
	s.Add(a, at(20, 2, "x"), 4)
	s.Add(a, at(20, 2, "x"), 4)
	s.Add(a, at(5, 2, "late"), 4)
	require.Equal(t, 4, s.Len())
	require.Equal(t, []exemplar.QueryResult{
		{SeriesLabels: a, Exemplars: []exemplar.Exemplar{at(5, 2, "late"), at(10, 1, "x"), at(20, 2, "x")}},
		{SeriesLabels: b, Exemplars: []exemplar.Exemplar{at(30, 3, "y")}},
	}, all(&s))
	onlyA := [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "i", "a")}, {labels.MustNewMatcher(labels.MatchEqual, "i", "c")}}
	require.Equal(t, []exemplar.QueryResult{{SeriesLabels: a, Exemplars: []exemplar.Exemplar{at(10, 1, "x")}}}, s.Select(6, 19, onlyA))
	require.Empty(t, s.Select(21, 40, onlyA))

	s.Add(b, at(40, 4, "z"), 4) // a has lost its oldest
	require.Equal(t, []exemplar.Exemplar{at(10, 1, "x"), at(20, 2, "x")}, all(&s)[0].Exemplars)
	s.Add(b, at(50, 4, "z"), 2) // the newest limit holds
	require.Equal(t, 2, s.Len())
	s.Add(b, at(60, 4, "z"), 0)
	require.Equal(t, 2, s.Len(), "none means that no more come")

	parts := s.Split(2, func(ts int64) int { return int(ts/50) - 0 })
	require.Equal(t, s.Len(), parts[0].Len()+parts[1].Len())
	parts[0].AddAll(parts[1], 10)
	require.Equal(t, all(&s), all(parts[0]))
	parts[0].AddAll(parts[1], 1)
	require.Equal(t, int64(50), all(parts[0])[0].Exemplars[0].Ts, "the newest stays")
}

// TestFile: the bytes are what the package comment says, follow from the content alone, and come back as it was.
func TestFile(t *testing.T) {
	var s Set
	s.Add(labels.FromStrings("a", "b"), at(3, 1, "x"), 10)
	s.Add(labels.FromStrings("a", "b"), exemplar.Exemplar{Value: 2}, 10)
	file := s.Append(nil)
	require.Equal(t, "534c455801"+"01"+"0101610162"+"02"+"00"+"0000000000000040"+"00"+"00"+"06"+"000000000000f03f"+"01"+"010874726163655f69640178", hex.EncodeToString(file[:len(file)-4]))

	rnd := rand.New(rand.NewPCG(1, 2))
	var one, other Set
	type entry struct {
		lset labels.Labels
		e    exemplar.Exemplar
	}
	var entries []entry
	for range 500 {
		entries = append(entries, entry{labels.FromStrings("i", fmt.Sprint(rnd.IntN(50))), at(rnd.Int64N(1000)-500, rnd.NormFloat64(), fmt.Sprint(rnd.IntN(3)))})
	}
	for _, i := range rnd.Perm(len(entries)) {
		one.Add(entries[i].lset, entries[i].e, 1000)
	}
	for _, e := range entries {
		other.Add(e.lset, e.e, 1000)
	}
	file = one.Append(nil)
	require.Equal(t, file, other.Append(nil))
	back, err := Decode(file)
	require.NoError(t, err)
	require.Equal(t, all(&one), all(back))
	require.Equal(t, one.Len(), back.Len())
	for n := range len(file) {
		_, err := Decode(file[:n])
		require.ErrorIs(t, err, ErrCorrupt)
	}
	file[20]++
	_, err = Decode(file)
	require.ErrorIs(t, err, ErrCorrupt)
}

func FuzzDecode(f *testing.F) {
	var s Set
	s.Add(labels.FromStrings("a", "b"), at(3, 1, "x"), 10)
	f.Add(s.Append(nil))
	f.Add([]byte(magic + "\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 { // what is behind the checksum
			b = binary.LittleEndian.AppendUint32(b[:len(b)-4:len(b)-4], crc32.Checksum(b[:len(b)-4], crc32.MakeTable(crc32.Castagnoli)))
		}
		s, err := Decode(b)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		again, err := Decode(s.Append(nil))
		require.NoError(t, err)
		require.Equal(t, s.Len(), again.Len())
	})
}
