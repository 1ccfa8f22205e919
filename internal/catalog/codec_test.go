package catalog

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

func TestDecodeRefuses(t *testing.T) {
	good := entry(t, "t", "a live")
	rec, err := encodeBlock(&good)
	require.NoError(t, err)
	aid := id('a').String()
	for name, kv := range map[string][2]string{
		"unknown kind":       {"stripe/1", "{}"},
		"no ID":              {"block/t", string(rec.Value)},
		"bad ID":             {"block/t/xyz", string(rec.Value)},
		"ID with bad letter": {"block/t/" + aid[:25] + "!", string(rec.Value)},
		"bad tenant":         {"block/../" + aid, string(rec.Value)},
		"reserved tenant":    {"block/__t/" + aid, string(rec.Value)},
		"other tenant":       {"block/u/" + aid, string(rec.Value)},
		"other ID":           {"block/t/" + id('b').String(), string(rec.Value)},
		"not JSON":           {"block/t/" + aid, "{"},
		"unknown state":      {"block/t/" + aid, strings.Replace(string(rec.Value), `"live"`, `"frozen"`, 1)},
		"ends before start":  {"block/t/" + aid, strings.Replace(string(rec.Value), `"max_time":107`, `"max_time":1`, 1)},
		"no number":          {"partition/", "{}"},
		"padded number":      {"partition/01", "{}"},
		"negative number":    {"partition/-1", "{}"},
		"huge number":        {"partition/2147483648", "{}"},
		"backward range":     {"partition/1", `{"from":9,"to":3}`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decode([]byte(kv[0]), []byte(kv[1]))
			require.Error(t, err)
		})
	}
}

func TestEncodeTooLarge(t *testing.T) {
	e := entry(t, "t", "a live")
	for range 20_000 {
		e.Files = append(e.Files, schema.BlockFile{Path: "chunks/000001", Size: 1 << 29, Hash: &schema.FileHash{Func: "SHA256", String: strings.Repeat("0", 64)}})
	}
	_, err := encodeBlock(&e)
	require.ErrorIs(t, err, log.ErrTooLarge)
}

func FuzzDecode(f *testing.F) {
	e := entry(f, "t", "a live replaces=bc sources=abc")
	e.Ranges = []schema.LogRange{{TopicID: "x", Partition: 3, From: 1, To: 9}}
	rec, err := encodeBlock(&e)
	require.NoError(f, err)
	f.Add(rec.Key, rec.Value)
	f.Add(rec.Key, []byte(nil))
	rec, err = encodePartition(7, schema.PartitionState{TopicID: "x", From: 1, To: 9, LogTime: 5, Gaps: []schema.Gap{{LogRange: e.Ranges[0], Reason: "retention"}}})
	require.NoError(f, err)
	f.Add(rec.Key, rec.Value)
	f.Add([]byte("block/t/"), []byte("{}"))
	f.Add([]byte("other/1"), []byte("{}"))
	rec, err = encodeAccepted(schema.Gap{LogRange: e.Ranges[0], Reason: "retention"})
	require.NoError(f, err)
	f.Add(rec.Key, rec.Value)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		ev, err := decode(key, value)
		if err != nil {
			return
		}
		s := newState()
		s.apply(ev, 0)
		switch {
		case ev.entry != nil:
			if ev.entry.ID != ev.id || ev.entry.Tenant != ev.tenant {
				t.Fatalf("entry %v under the key of %s %s", ev.entry, ev.tenant, ev.id)
			}
			again, err := encodeBlock(ev.entry)
			if err != nil {
				t.Fatalf("encode what was decoded: %v", err)
			}
			back, err := decode(again.Key, again.Value)
			require.NoError(t, err)
			require.Equal(t, ev.entry.ID, back.entry.ID)
		case ev.state != nil:
			again, err := encodePartition(ev.partition, *ev.state)
			require.NoError(t, err)
			require.Equal(t, string(key), string(again.Key))
		case ev.accept != nil:
			require.Equal(t, string(key), string(acceptedKey(*ev.accept)))
			require.Equal(t, len(value) > 0, s.accepted[*ev.accept])
		}
	})
}
