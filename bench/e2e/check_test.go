package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
)

// TestCheckFindsPlanted: `sluice check` finds nothing in a sound installation and each kind of damage when it is planted.
func TestCheckFindsPlanted(t *testing.T) {
	enabled(t)
	dir := workDir(t)
	s := newInstance(t, dir, "all")
	s.start()
	s.ready(60 * time.Second)
	now := time.Now()
	for i := range 50 {
		for _, tenant := range []string{"team-a", "team-b"} {
			r := s.push(tenant, series("planted", float64(i), now.Add(time.Duration(i-50)*time.Second), "i", fmt.Sprint(i%7)))
			require.Less(t, r.status, 300, string(r.body))
		}
	}
	s.seal(time.Minute)
	s.stop()
	checkClean(t, s)

	sound := filepath.Join(dir, "sound")
	require.NoError(t, os.CopyFS(sound, os.DirFS(s.data)))
	blocks := func(data string) []string {
		list, err := filepath.Glob(filepath.Join(data, "bucket", "team-a", "*", "meta.json"))
		require.NoError(t, err)
		require.NotEmpty(t, list)
		for i := range list {
			list[i] = filepath.Dir(list[i])
		}
		return list
	}
	for _, c := range []struct {
		name  string
		want  string // regular expression that a line of the output must match
		plant func(t *testing.T, data, block string)
	}{
		{"flipped byte in a chunk", `(?i)unreadable|corrupt|hash|damaged`, func(t *testing.T, _, block string) { flip(t, filepath.Join(block, "chunks", "000001")) }},
		{"flipped byte in an index", `(?i)unreadable|corrupt|hash|damaged`, func(t *testing.T, _, block string) { flip(t, filepath.Join(block, "index")) }},
		{"index removed", `(?i)unreadable|missing`, func(t *testing.T, _, block string) { require.NoError(t, os.Remove(filepath.Join(block, "index"))) }},
		{"chunk file cut short", `(?i)unreadable|corrupt|size|truncated`, func(t *testing.T, _, block string) {
			require.NoError(t, os.Truncate(filepath.Join(block, "chunks", "000001"), 20))
		}},
		{"block copied under another ID", `(?i)orphan|unknown`, func(t *testing.T, _, block string) {
			require.NoError(t, os.CopyFS(filepath.Join(filepath.Dir(block), oldULID(t)), os.DirFS(block)))
		}},
		{"block removed", `(?i)missing|unreadable`, func(t *testing.T, _, block string) { require.NoError(t, os.RemoveAll(block)) }},
		{"half an upload", `(?i)partial|orphan|incomplete`, func(t *testing.T, _, block string) {
			to := filepath.Join(filepath.Dir(block), oldULID(t))
			require.NoError(t, os.CopyFS(to, os.DirFS(block)))
			require.NoError(t, os.Remove(filepath.Join(to, "meta.json")))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := filepath.Join(t.TempDir(), "data")
			require.NoError(t, os.CopyFS(data, os.DirFS(sound)))
			c.plant(t, data, blocks(data)[0])
			age(t, data)
			out, exit := sluice(t, time.Minute, "check", "--data-dir", data, "--deep")
			require.Equal(t, 1, exit, out)
			require.Regexp(t, regexp.MustCompile(c.want), out)
			require.Contains(t, out, "team-a", "the finding names the tenant")
			t.Log(out)
		})
	}
}

// flip changes one bit in the middle of a file.
func flip(t *testing.T, path string) {
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	raw[len(raw)/2] ^= 1
	require.NoError(t, os.WriteFile(path, raw, 0o644))
}

// oldULID is an ID that is a day old: a folder of now might be an upload under way.
func oldULID(t *testing.T) string {
	id, err := ulid.New(ulid.Timestamp(time.Now().Add(-24*time.Hour)), rand.Reader)
	require.NoError(t, err)
	return id.String()
}

// age makes every file of the bucket a day old, for the same reason.
func age(t *testing.T, data string) {
	old := time.Now().Add(-24 * time.Hour)
	require.NoError(t, filepath.WalkDir(filepath.Join(data, "bucket"), func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, old, old)
	}))
}
