package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// contents are the files below a directory: by path, their size and SHA-256. A file that goes while one looks is left out.
type contents map[string]string

func contentsOf(t *testing.T, dir string) contents {
	t.Helper()
	out := contents{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		out[rel] = fmt.Sprintf("%d bytes, sha256 %x", len(raw), sha256.Sum256(raw))
		return err
	})
	require.NoError(t, err)
	return out
}

// blocks keeps the files of blocks, for which keep (by <tenant>/<ulid>) says yes.
func (c contents) blocks(keep func(block string) bool) contents {
	out := contents{}
	for path, what := range c {
		if tenant, rest, ok := strings.Cut(path, "/"); ok {
			if id, _, ok := strings.Cut(rest, "/"); ok && len(id) == 26 && keep(tenant+"/"+id) {
				out[path] = what
			}
		}
	}
	return out
}

// differ says what is not the same, the first few.
func (c contents) differ(other contents) error {
	var found []string
	for _, path := range slices.Sorted(maps.Keys(c)) {
		switch got, ok := other[path]; {
		case !ok:
			found = append(found, path+" is missing")
		case got != c[path]:
			found = append(found, fmt.Sprintf("%s: want %s, got %s", path, c[path], got))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(other)) {
		if _, ok := c[path]; !ok {
			found = append(found, path+" is too much")
		}
	}
	if len(found) == 0 {
		return nil
	}
	return fmt.Errorf("%d files of %d differ:\n%s", len(found), len(c), strings.Join(found[:min(len(found), 20)], "\n"))
}

// metasOf reads every meta.json of a directory bucket, by <tenant>/<ulid>.
func metasOf(t *testing.T, bucket string) map[string]*schema.BlockMeta {
	t.Helper()
	out := map[string]*schema.BlockMeta{}
	list, err := filepath.Glob(filepath.Join(bucket, "*", "*", schema.MetaFile))
	require.NoError(t, err)
	for _, path := range list {
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // deleted just now
			continue
		}
		require.NoError(t, err)
		m := &schema.BlockMeta{}
		require.NoError(t, json.Unmarshal(raw, m), path)
		rel, err := filepath.Rel(bucket, filepath.Dir(path))
		require.NoError(t, err)
		out[rel] = m
	}
	return out
}

// metric adds up the values of a metric over all its label sets that hold the given name="value" pairs; n is how many.
func (s *instance) metric(name string, pairs ...string) (sum float64, n int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequest(http.MethodGet, s.url("/metrics"), nil)
	if err != nil {
		return 0, 0, err
	}
	r, err := send(ctx, req, "")
	if err != nil {
		return 0, 0, err
	}
	for _, line := range strings.Split(string(r.body), "\n") {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		at := strings.LastIndexByte(rest, ' ')
		if slices.ContainsFunc(pairs, func(p string) bool { return !strings.Contains(rest[:at], p) }) {
			continue
		}
		v, err := strconv.ParseFloat(rest[at+1:], 64)
		if err != nil {
			return 0, 0, fmt.Errorf("metric %s: %w", line, err)
		}
		sum, n = sum+v, n+1
	}
	return sum, n, nil
}

// mustMetric is metric of one that must be there.
func (s *instance) mustMetric(name string, pairs ...string) float64 {
	s.t.Helper()
	v, n, err := s.metric(name, pairs...)
	require.NoError(s.t, err)
	require.Positive(s.t, n, "there is no metric %s%v", name, pairs)
	return v
}

// readyText is what /ready says.
func (s *instance) readyText() (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequest(http.MethodGet, s.url("/ready"), nil)
	require.NoError(s.t, err)
	r, err := send(ctx, req, "")
	if err != nil {
		return 0, err.Error()
	}
	return r.status, string(r.body)
}

// covered waits until no partition has an offset that is in none, or in two, of block, sealed here and head.
func (s *instance) covered(within time.Duration) {
	s.t.Helper()
	eventually(s.t, "no partition has a hole", within, func() error {
		v, n, err := s.metric("sluice_consumer_coverage_gap_offsets")
		switch {
		case err != nil:
			return err
		case n == 0:
			return errors.New("there is no metric sluice_consumer_coverage_gap_offsets")
		case v != 0:
			return fmt.Errorf("sluice_consumer_coverage_gap_offsets is %v", v)
		}
		return nil
	})
}

// offsets are what `sluice log status` says of the partitions of samples.
type offsets struct{ start, end, committed int64 }

var statusLine = regexp.MustCompile(`(?m)^sluice\.samples +partition (\d+) +start (\d+) +end (\d+) +(?:committed (\d+))?`)

func logStatus(t *testing.T, args ...string) map[int32]offsets {
	t.Helper()
	out, exit := sluice(t, time.Minute, append([]string{"log", "status", "--log.level", "error"}, args...)...)
	require.Zero(t, exit, out)
	all := map[int32]offsets{}
	for _, m := range statusLine.FindAllStringSubmatch(out, -1) {
		var n [4]int64
		for i := range n {
			n[i], _ = strconv.ParseInt(m[i+1], 10, 64) // an absent commit is 0
		}
		all[int32(n[0])] = offsets{n[1], n[2], n[3]}
	}
	require.NotEmpty(t, all, out)
	return all
}

// catalogue is what the topic of blocks says in the end: the last event of each key.
type catalogue struct {
	blocks     map[string]schema.BlockEntry // by <tenant>/<ulid>
	partitions map[int32]schema.PartitionState
}

var dumpLine = regexp.MustCompile(`^sluice\.blocks/0 offset=\d+ time=\d+ key="([^"]+)" bytes=\d+ ?(.*)$`)

func catalogueOf(t *testing.T, args ...string) catalogue {
	t.Helper()
	out, exit := sluice(t, time.Minute, append([]string{"log", "dump", "--log.level", "error", "--topic", "sluice.blocks", "--limit", "0"}, args...)...)
	require.Zero(t, exit, out)
	c := catalogue{blocks: map[string]schema.BlockEntry{}, partitions: map[int32]schema.PartitionState{}}
	for _, line := range strings.Split(out, "\n") {
		m := dumpLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		raw := m[2][max(0, strings.IndexByte(m[2], '{')):]
		if name, ok := strings.CutPrefix(m[1], "block/"); ok {
			if delete(c.blocks, name); raw != "" {
				var e schema.BlockEntry
				require.NoError(t, json.Unmarshal([]byte(raw), &e), line)
				c.blocks[name] = e
			}
		}
		if name, ok := strings.CutPrefix(m[1], "partition/"); ok {
			n, err := strconv.ParseInt(name, 10, 32)
			require.NoError(t, err)
			if delete(c.partitions, int32(n)); raw != "" {
				var s schema.PartitionState
				require.NoError(t, json.Unmarshal([]byte(raw), &s), line)
				c.partitions[int32(n)] = s
			}
		}
	}
	return c
}

// promised holds what is left after a crash against the rule that everything rests on: an offset is committed only after
// its event, and an event is written only after its blocks. bucket is a directory.
func promised(bucket string, c catalogue, status map[int32]offsets) error {
	for p, o := range status {
		if to := c.partitions[p].To; o.committed > to {
			return fmt.Errorf("partition %d: %d is committed, the catalogue's blocks end at %d", p, o.committed, to)
		}
	}
	for name, e := range c.blocks {
		if e.State != schema.BlockLive {
			continue
		}
		if _, err := os.Stat(filepath.Join(bucket, name, schema.MetaFile)); err != nil {
			return fmt.Errorf("block %s is in the catalogue: %w", name, err)
		}
		for _, f := range e.Files {
			st, err := os.Stat(filepath.Join(bucket, name, f.Path))
			switch {
			case f.Path == schema.MetaFile:
			case err != nil:
				return fmt.Errorf("block %s is in the catalogue: %w", name, err)
			case st.Size() != f.Size:
				return fmt.Errorf("block %s is in the catalogue: %s has %d bytes instead of %d", name, f.Path, st.Size(), f.Size)
			}
		}
	}
	return nil
}

// report prints figures of any shape, as the kill tests print theirs.
func report(t *testing.T, scenario string, what map[string]any) {
	t.Helper()
	what["scenario"] = scenario
	var buf bytes.Buffer
	require.NoError(t, json.NewEncoder(&buf).Encode(what))
	fmt.Printf("SLUICE-FIGURES %s", buf.String())
}

// countFiles is how many files are below a directory.
func countFiles(dir string) (n int, bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error { // what goes while one counts is not counted
		if err == nil && !e.IsDir() {
			if st, err := e.Info(); err == nil {
				n, bytes = n+1, bytes+st.Size()
			}
		}
		return nil
	})
	return n, bytes
}
