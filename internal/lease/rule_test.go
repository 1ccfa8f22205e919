package lease

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/internal/log"
)

// follow applies records to a fresh follower and tells, after each, who holds lease "x" until when. A record is written
//
//	<offset> <log time> <holder> claims <ttl>
//	<offset> <log time> <holder> renews <ttl> since=<offset> until=<log time>
//	<offset> <log time> <holder> releases since=<offset> until=<log time>        (holder "-": an operator's)
func follow(t *testing.T, records ...string) (told []string) {
	s := New(nil, log.NewTable(nil, log.TopicControl), "follower", slog.New(slog.DiscardHandler), nil)
	v := NewView("x", slog.New(slog.DiscardHandler))
	for _, text := range records {
		rec := parse(t, text)
		s.apply(rec)
		v.Apply(rec)
		holder := ""
		if e, ok := s.entries["x"]; ok && e.expires > rec.Time {
			holder = e.holder
		}
		require.Equal(t, holder, v.Holder("x"), "who only looks sees the same, after %s", text)
		if e, ok := s.entries["x"]; ok {
			told = append(told, fmt.Sprintf("%s until %d", e.holder, e.expires))
		} else {
			told = append(told, "free")
		}
	}
	return told
}

func parse(t *testing.T, text string) *log.Record {
	f := strings.Fields(text)
	num := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		require.NoError(t, err, text)
		return n
	}
	had := term{}
	for _, kv := range f[4:] {
		if n, ok := strings.CutPrefix(kv, "since="); ok {
			had.Since = num(n)
		} else if n, ok := strings.CutPrefix(kv, "until="); ok {
			had.Until = num(n)
		}
	}
	var rec log.Record
	var err error
	switch f[3] {
	case "releases":
		rec, err = encodeRelease("x", entry{holder: f[2], since: had.Since, expires: had.Until})
		if f[2] == "-" {
			rec.Headers = nil
		}
	case "claims":
		rec, err = encodeClaim("x", claim{Version: version, Holder: f[2], TTL: num(f[4])})
	case "renews":
		rec, err = encodeClaim("x", claim{Version: version, Holder: f[2], TTL: num(f[4]), Renews: &had})
	default:
		t.Fatal(text)
	}
	require.NoError(t, err)
	rec.Offset, rec.Time = num(f[0]), num(f[1])
	return &rec
}

func TestRule(t *testing.T) {
	for name, c := range map[string]struct{ records, told []string }{
		"the first claim wins": {
			[]string{"0 100 a claims 30", "1 101 b claims 30", "2 129 b claims 30"},
			[]string{"a until 130", "a until 130", "a until 130"},
		},
		"an ended lease is free": {
			[]string{"0 100 a claims 30", "1 130 b claims 30", "2 131 a claims 30"},
			[]string{"a until 130", "b until 160", "b until 160"},
		},
		"renewed in time": {
			[]string{"0 100 a claims 30", "1 110 a renews 30 since=0 until=130", "2 130 b claims 30", "3 140 b claims 30"},
			[]string{"a until 130", "a until 140", "a until 140", "b until 170"},
		},
		"renewed too late, but nobody else came": {
			[]string{"0 100 a claims 30", "1 150 a renews 30 since=0 until=130", "2 160 b claims 30"},
			[]string{"a until 130", "a until 180", "a until 180"},
		},
		"renewed too late": {
			[]string{"0 100 a claims 30", "1 140 b claims 30", "2 150 a renews 30 since=0 until=130"},
			[]string{"a until 130", "b until 170", "b until 170"},
		},
		"given up": {
			[]string{"0 100 a claims 30", "1 101 a releases since=0 until=130", "2 102 b claims 30"},
			[]string{"a until 130", "free", "b until 132"},
		},
		"somebody else cannot give it up": {
			[]string{"0 100 a claims 30", "1 140 b claims 30", "2 141 a releases since=0 until=130", "3 142 c claims 30"},
			[]string{"a until 130", "b until 170", "b until 170", "b until 170"},
		},
		"an operator can": {
			[]string{"0 100 a claims 30", "1 101 - releases"},
			[]string{"a until 130", "free"},
		},
		"log time goes back": {
			[]string{"0 100 a claims 30", "1 90 b claims 30", "2 131 b claims 30"},
			[]string{"a until 130", "a until 130", "b until 161"},
		},
		// What a follower sees that starts after compaction has dropped offset 0.
		"compacted: only the loser's claim is left": {
			[]string{"1 101 b claims 30", "2 132 c claims 30"},
			[]string{"b until 131", "c until 162"},
		},
		"compacted: the winner's renewal puts it right": {
			[]string{"1 101 b claims 30", "2 102 a renews 30 since=0 until=130", "3 131 c claims 30"},
			[]string{"b until 131", "a until 132", "a until 132"},
		},
		"compacted: the winner gives up": {
			[]string{"1 101 b claims 30", "2 102 a releases since=0 until=130", "3 103 c claims 30"},
			[]string{"b until 131", "free", "c until 133"},
		},
		"compacted: a late release left, the holder renews": {
			[]string{"2 141 a releases since=0 until=130", "3 142 b renews 30 since=1 until=170"},
			[]string{"free", "b until 172"},
		},
		"two that believe to hold it: the older one stays": {
			[]string{"5 100 b claims 30", "6 110 b renews 30 since=5 until=130", "7 111 a renews 30 since=3 until=120", "8 112 b renews 30 since=5 until=140"},
			[]string{"b until 130", "b until 140", "a until 141", "a until 141"},
		},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.told, follow(t, c.records...)) })
	}
}

// TestFormat pins the bytes in the control topic.
func TestFormat(t *testing.T) {
	rec, err := encodeClaim("compactor/job/1", claim{Version: version, Holder: "host#ABC", TTL: 30_000, Seq: 7, Renews: &term{Since: 5, Until: 123}})
	require.NoError(t, err)
	require.Equal(t, "lease/compactor/job/1", string(rec.Key))
	require.Equal(t, `{"v":1,"holder":"host#ABC","ttl_ms":30000,"seq":7,"renews":{"since":5,"until":123}}`, string(rec.Value))
	rec.Offset = 6
	ch, ours, err := decode(&rec)
	require.NoError(t, err)
	require.True(t, ours)
	require.Equal(t, "compactor/job/1", ch.name)
	require.Equal(t, int64(5), ch.claim.Renews.Since)

	rec, err = encodeRelease("n", entry{holder: "host#ABC", since: 4, expires: 99})
	require.NoError(t, err)
	require.Nil(t, rec.Value)
	require.Equal(t, []log.Header{{Key: "release", Value: []byte(`{"v":1,"holder":"host#ABC","since":4,"until":99}`)}}, rec.Headers)
	ch, _, err = decode(&rec)
	require.NoError(t, err)
	require.Equal(t, change{name: "n", release: &release{1, "host#ABC", term{4, 99}}}, ch)
}

func TestDecodeRefuses(t *testing.T) {
	for name, kv := range map[string][2]string{
		"no name":         {"lease/", `{"v":1,"holder":"a","ttl_ms":1}`},
		"long name":       {"lease/" + strings.Repeat("x", 201), `{"v":1,"holder":"a","ttl_ms":1}`},
		"not JSON":        {"lease/x", "{"},
		"later version":   {"lease/x", `{"v":2,"holder":"a","ttl_ms":1}`},
		"no version":      {"lease/x", `{"holder":"a","ttl_ms":1}`},
		"no holder":       {"lease/x", `{"v":1,"ttl_ms":1}`},
		"no ttl":          {"lease/x", `{"v":1,"holder":"a"}`},
		"ttl of a year":   {"lease/x", `{"v":1,"holder":"a","ttl_ms":31536000000}`},
		"negative ttl":    {"lease/x", `{"v":1,"holder":"a","ttl_ms":-1}`},
		"renews later":    {"lease/x", `{"v":1,"holder":"a","ttl_ms":1,"renews":{"since":10,"until":5}}`},
		"renews negative": {"lease/x", `{"v":1,"holder":"a","ttl_ms":1,"renews":{"since":-1,"until":5}}`},
	} {
		t.Run(name, func(t *testing.T) {
			_, ours, err := decode(&log.Record{Offset: 10, Key: []byte(kv[0]), Value: []byte(kv[1])})
			require.True(t, ours)
			require.Error(t, err)
		})
	}
	for _, header := range []string{"", "{", `{"v":2,"holder":"a"}`} {
		_, ours, err := decode(&log.Record{Key: []byte("lease/x"), Headers: []log.Header{{Key: releaseHeader, Value: []byte(header)}}})
		require.True(t, ours)
		require.Error(t, err, header)
	}
	_, ours, err := decode(&log.Record{Key: []byte("member/a"), Value: []byte("{")})
	require.NoError(t, err)
	require.False(t, ours)
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("lease/x"), []byte(`{"v":1,"holder":"a","ttl_ms":30000,"seq":1,"renews":{"since":1,"until":2}}`), "a", int64(5))
	f.Add([]byte("lease/x"), []byte(nil), `{"v":1,"holder":"a","since":0,"until":9}`, int64(5))
	f.Fuzz(func(t *testing.T, key, value []byte, header string, at int64) {
		s := New(nil, log.NewTable(nil, log.TopicControl), "f", slog.New(slog.DiscardHandler), nil)
		s.apply(&log.Record{Offset: 0, Time: 1, Key: []byte("lease/x"), Value: []byte(`{"v":1,"holder":"a","ttl_ms":30000}`)})
		s.apply(&log.Record{Offset: 3, Time: at, Key: key, Value: value, Headers: []log.Header{{Key: releaseHeader, Value: []byte(header)}}})
		require.LessOrEqual(t, len(s.entries), 2)
		for name, e := range s.entries {
			require.NoError(t, checkName(name))
			require.NotEmpty(t, e.holder)
		}
	})
}

func TestViewOfItsPrefix(t *testing.T) {
	v := NewView("other/", slog.New(slog.DiscardHandler))
	v.Apply(parse(t, "0 100 a#1 claims 30"))
	require.Empty(t, v.Holder("x"))
	v = NewView("", slog.New(slog.DiscardHandler))
	v.Apply(parse(t, "0 100 a#1 claims 30"))
	require.Equal(t, "a", v.Holder("x"), "the process")
	v.Apply(&log.Record{Key: []byte("anything"), Time: 130})
	require.Empty(t, v.Holder("x"), "time has passed")
	v.Apply(&log.Record{Key: []byte("lease/x"), Value: []byte("{"), Time: 131})
	require.Empty(t, v.Holder("x"))
}
