package catalog

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// id makes the ID of a letter: a..z.
func id(letter rune) ulid.ULID {
	var u ulid.ULID
	u[15] = byte(letter)
	return u
}

func ids(letters string) []ulid.ULID {
	var out []ulid.ULID
	for _, l := range letters {
		out = append(out, id(l))
	}
	return out
}

// entry reads "m live replaces=ab sources=abc" into an entry of the tenant.
func entry(t testing.TB, tenant schema.Tenant, text string) schema.BlockEntry {
	f := strings.Fields(text)
	e := schema.BlockEntry{ID: id(rune(f[0][0])), Tenant: tenant, State: f[1], MinTime: int64(f[0][0]), MaxTime: int64(f[0][0]) + 10, Level: 1}
	for _, kv := range f[2:] {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "replaces":
			e.Replaces = ids(v)
		case "sources":
			e.Sources = ids(v)
		default:
			t.Fatalf("unknown field %q", kv)
		}
	}
	return e
}

// feed encodes and decodes on the way in, as the topic does.
func feed(t testing.TB, s *state, tenant schema.Tenant, texts ...string) {
	for _, text := range texts {
		if letter, ok := strings.CutPrefix(text, "forget "); ok {
			ev, err := decode(blockKey(tenant, id(rune(letter[0]))), nil)
			require.NoError(t, err)
			s.apply(ev, 0)
			continue
		}
		e := entry(t, tenant, text)
		rec, err := encodeBlock(&e)
		require.NoError(t, err)
		ev, err := decode(rec.Key, rec.Value)
		require.NoError(t, err)
		s.apply(ev, 0)
	}
}

// show prints the live blocks and the status of each letter.
func show(s *state, tenant schema.Tenant, letters string) string {
	t := s.tenants[tenant]
	if t == nil {
		t = &tenantState{}
	}
	if t.sorted == nil {
		t.sort()
	}
	var b strings.Builder
	for _, e := range t.sorted {
		b.WriteByte(e.ID[15])
	}
	for _, l := range letters {
		fmt.Fprintf(&b, " %c=%s", l, t.status(id(l)))
	}
	return b.String()
}

func TestStatus(t *testing.T) {
	for _, tc := range []struct {
		name   string
		events []string
		want   string
	}{
		{"nothing", nil, " a=absent"},
		{"live", []string{"a live sources=a"}, "a a=live b=absent"},
		{"replaced", []string{"a live sources=a", "b live sources=b", "m live replaces=ab sources=ab"}, "m a=replaced b=replaced m=live"},
		{"replacer first", []string{"m live replaces=ab sources=ab", "b live", "a live"}, "m a=replaced b=replaced"},
		{"replaced without an entry", []string{"m live replaces=a"}, "m a=replaced"},
		{"tombstone wins over replaced", []string{"m live replaces=a", "a deleted"}, "m a=deleted"},
		{"tombstone overwritten by a replay stays replaced", []string{"m live replaces=a sources=a", "a deleted", "a live sources=a"}, "m a=replaced"},
		{"a deleted replacer still replaces", []string{"a live", "m live replaces=a", "m deleted replaces=a"}, " a=replaced m=deleted"},
		{"a replaced replacer still replaces", []string{"a live", "m live replaces=a", "n live replaces=m"}, "n a=replaced m=replaced n=live"},
		{"source of a merged block, all between forgotten", []string{"a live sources=a", "m live replaces=a sources=a", "n live replaces=m sources=a", "a deleted", "forget a", "m deleted", "forget m"}, "n a=replaced m=replaced n=live"},
		{"a live source that nobody replaces is live", []string{"a live sources=a", "n live sources=a"}, "an a=live n=live"},
		{"forgotten replacer brings back", []string{"a live", "m live replaces=a", "forget m"}, "a a=live m=absent"},
		{"replacing oneself means nothing", []string{"a live replaces=ab sources=a", "b live"}, "a a=live b=replaced"},
		{"replaces changes", []string{"a live", "b live", "m live replaces=a", "m live replaces=b"}, "am a=live b=replaced"},
		{"twice the same", []string{"a live", "m live replaces=aa", "m live replaces=a", "forget m"}, "a a=live"},
		{"forget what is unknown", []string{"forget a"}, " a=absent"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newState()
			feed(t, s, "t", tc.events...)
			letters := ""
			for _, f := range strings.Fields(tc.want) {
				if i := strings.IndexByte(f, '='); i == 1 {
					letters += f[:1]
				}
			}
			require.Equal(t, tc.want, show(s, "t", letters))
		})
	}
}

func TestTenantsAreApart(t *testing.T) {
	s := newState()
	feed(t, s, "t", "a live")
	feed(t, s, "u", "m live replaces=a sources=a")
	require.Equal(t, "a a=live m=absent", show(s, "t", "am"))
	require.Equal(t, "m a=replaced m=live", show(s, "u", "am"))
	feed(t, s, "u", "forget m")
	require.Len(t, s.tenants, 1, "a tenant without entries is gone")
}

// TestOrderDoesNotMatter applies random histories as they were written, compacted, and compacted in another order: all
// must agree, and with a plain computation from the latest values.
func TestOrderDoesNotMatter(t *testing.T) {
	const letters = "abcdefgh"
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		pick := func() string {
			var b []byte
			for _, l := range letters {
				if rng.IntN(4) == 0 {
					b = append(b, byte(l))
				}
			}
			return string(b)
		}
		var history []string
		for range 60 {
			l := string(letters[rng.IntN(len(letters))])
			switch rng.IntN(6) {
			case 0:
				history = append(history, "forget "+l)
			case 1:
				history = append(history, l+" deleted replaces="+pick()+" sources="+pick())
			default:
				history = append(history, l+" live replaces="+pick()+" sources="+pick())
			}
		}
		latest := map[string]string{}
		for _, h := range history {
			latest[strings.TrimPrefix(h, "forget ")[:1]] = h
		}
		compacted := slices.Sorted(maps.Values(latest))
		full, short, shuffled := newState(), newState(), newState()
		feed(t, full, "t", history...)
		feed(t, short, "t", compacted...)
		rng.Shuffle(len(compacted), func(i, j int) { compacted[i], compacted[j] = compacted[j], compacted[i] })
		feed(t, shuffled, "t", compacted...)

		want := model(t, latest, letters)
		for name, s := range map[string]*state{"full": full, "compacted": short, "shuffled": shuffled} {
			require.Equal(t, want, show(s, "t", letters), "seed %d, %s", seed, name)
			live, replaced, dead := 0, 0, 0
			if ts := s.tenants["t"]; ts != nil {
				for eid, e := range ts.entries {
					switch {
					case e.State == schema.BlockDeleted:
						dead++
					case ts.status(eid) == Replaced:
						replaced++
					default:
						live++
					}
				}
			}
			require.Equal(t, live, (&Catalog{state: s}).Totals()["t"].Blocks, "seed %d, %s", seed, name)
			require.Equal(t, []int{live, replaced, dead}, []int{s.blocks, s.replaced, s.tombstones}, "seed %d, %s: totals", seed, name)
		}
	}
}

// model computes the statuses from the latest values in the plainest way.
func model(t *testing.T, latest map[string]string, letters string) string {
	known := map[ulid.ULID]schema.BlockEntry{}
	for _, h := range latest {
		if !strings.HasPrefix(h, "forget ") {
			e := entry(t, "t", h)
			known[e.ID] = e
		}
	}
	listed := func(x ulid.ULID, list func(schema.BlockEntry) []ulid.ULID) bool {
		for other, e := range known {
			if other != x && slices.Contains(list(e), x) {
				return true
			}
		}
		return false
	}
	status := func(x ulid.ULID) Status {
		e, ok := known[x]
		switch {
		case ok && e.State == schema.BlockDeleted:
			return Deleted
		case listed(x, func(e schema.BlockEntry) []ulid.ULID { return e.Replaces }):
			return Replaced
		case ok:
			return Live
		case listed(x, func(e schema.BlockEntry) []ulid.ULID { return e.Sources }):
			return Replaced
		}
		return Absent
	}
	var b, st strings.Builder
	for _, l := range letters {
		if status(id(l)) == Live {
			b.WriteRune(l)
		}
		fmt.Fprintf(&st, " %c=%s", l, status(id(l)))
	}
	return b.String() + st.String()
}

func TestCompareRank(t *testing.T) {
	at := func(letter rune, logFrom int64, ranges ...schema.LogRange) *schema.BlockEntry {
		return &schema.BlockEntry{ID: id(letter), LogFrom: logFrom, Ranges: ranges}
	}
	in := []*schema.BlockEntry{
		at('a', 5, schema.LogRange{Partition: 1, From: 7}),
		at('b', 5, schema.LogRange{Partition: 1, From: 3}),
		at('c', 5, schema.LogRange{Partition: 0, From: 9}),
		at('d', 4, schema.LogRange{Partition: 9}),
		at('e', 0),
		at('f', 0, schema.LogRange{Partition: 0}),
	}
	slices.SortFunc(in, CompareRank)
	var got string
	for _, e := range in {
		got += string(rune(e.ID[15]))
	}
	require.Equal(t, "efdcba", got)
}

// TestZonesTogether: what the zones say of a partition, written in this order, is together what any of them knows.
func TestZonesTogether(t *testing.T) {
	gap := func(from, toTime int64) schema.Gap {
		return schema.Gap{LogRange: schema.LogRange{TopicID: "x", Partition: 1, From: from, To: from + 1}, ToTime: toTime, Reason: schema.GapRetention}
	}
	for _, c := range []struct {
		name string
		said []schema.PartitionState
		want schema.PartitionState
	}{
		{"no zones", []schema.PartitionState{{TopicID: "x", To: 5}, {TopicID: "x", To: 9}}, schema.PartitionState{TopicID: "x", To: 9}},
		{"the furthest counts", []schema.PartitionState{{Zone: "a", TopicID: "x", From: 5, To: 9, LogTime: 7}, {Zone: "b", TopicID: "x", To: 5}},
			schema.PartitionState{Zone: "a", TopicID: "x", From: 5, To: 9, LogTime: 7}},
		{"a zone that writes late takes nothing back", []schema.PartitionState{{Zone: "a", TopicID: "x", To: 5}, {Zone: "b", TopicID: "x", To: 9}, {Zone: "a", TopicID: "x", To: 6}},
			schema.PartitionState{Zone: "b", TopicID: "x", To: 9}},
		{"another topic", []schema.PartitionState{{Zone: "a", TopicID: "old", To: 900}, {Zone: "b", TopicID: "old", To: 800}, {Zone: "b", TopicID: "new", To: 3}},
			schema.PartitionState{Zone: "b", TopicID: "new", To: 3}},
		{"gaps of all", []schema.PartitionState{{Zone: "a", TopicID: "x", To: 5, Gaps: []schema.Gap{gap(1, 0), gap(2, 0)}}, {Zone: "b", TopicID: "x", To: 4, Gaps: []schema.Gap{gap(2, 8)}}},
			schema.PartitionState{Zone: "a", TopicID: "x", To: 5, Gaps: []schema.Gap{gap(1, 0), gap(2, 8)}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newState()
			for i, said := range c.said {
				rec, err := encodePartition(1, said)
				require.NoError(t, err)
				ev, err := decode(rec.Key, rec.Value)
				require.NoError(t, err)
				s.apply(ev, int64(i))
			}
			require.Equal(t, c.want, s.partitions[1])
			for _, said := range c.said {
				s.apply(event{partition: 1, zone: said.Zone}, 99)
			}
			require.Empty(t, s.partitions)
		})
	}
}

// TestTotals: they follow each change, and are of live blocks alone.
func TestTotals(t *testing.T) {
	s := newState()
	c := &Catalog{state: s}
	put := func(letter rune, e schema.BlockEntry) {
		e.ID, e.Tenant, e.State = id(letter), "t", schema.BlockLive
		s.apply(event{tenant: "t", id: e.ID, entry: &e}, 0)
	}
	require.Empty(t, c.Totals())
	put('a', schema.BlockEntry{MinTime: 10, MaxTime: 20, Bytes: 1, Samples: 5})
	require.Equal(t, map[schema.Tenant]Totals{"t": {1, 1, 5, 10, 20}}, c.Totals())
	put('b', schema.BlockEntry{MinTime: -5, MaxTime: 15, Bytes: 2, Samples: 6})
	require.Equal(t, Totals{2, 3, 11, -5, 20}, c.Totals()["t"])
	put('m', schema.BlockEntry{MinTime: -5, MaxTime: 20, Bytes: 2, Samples: 10, Replaces: []ulid.ULID{id('a'), id('b')}})
	require.Equal(t, Totals{1, 2, 10, -5, 20}, c.Totals()["t"])
	s.apply(event{tenant: "t", id: id('m'), entry: &schema.BlockEntry{ID: id('m'), Tenant: "t", State: schema.BlockDeleted, Replaces: []ulid.ULID{id('a'), id('b')}}}, 0)
	require.Equal(t, Totals{}, c.Totals()["t"])
}
