package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLimitsFile: what the file says of labels is what queries find, before and after it changes, after a crash, and whatever
// version the records have; and the tenant can read what it may do and what was refused.
func TestLimitsFile(t *testing.T) {
	enabled(t)
	for _, version := range []string{"1", "2"} {
		t.Run("records "+version, func(t *testing.T) {
			t.Parallel()
			limitsFile(t, version)
		})
	}
}

func limitsFile(t *testing.T, version string) {
	dir := workDir(t)
	file := filepath.Join(dir, "limits.yaml")
	write := func(rules string) {
		text := "classes:\n  team-*:\n    drop_labels: [pod]\n    metric_relabel_configs:\n    - {source_labels: [__name__], regex: 'go_.*', action: drop}\n" + rules
		require.NoError(t, os.WriteFile(file+".new", []byte(text), 0o644))
		require.NoError(t, os.Rename(file+".new", file))
	}
	write("")
	s := newInstance(t, dir, "all", append(never(), "--limits.file", file, "--producer.record-version", version, "--self-monitoring.tenant", "")...)
	s.start()
	s.ready(time.Minute)
	began := time.Now()
	push := func() {
		t.Helper()
		for i := range 3 { // the second time they are known
			at := began.Add(time.Duration(i) * time.Millisecond)
			r := s.push("team-a", series("up", 1, at, "job", "x", "pod", "1"), series("up", 1, at.Add(time.Hour/60), "job", "x", "pod", "2"), series("go_gc", 1, at))
			require.Equal(t, 204, r.status, string(r.body))
		}
	}
	count := func(expr string) string {
		t.Helper()
		r, err := instant(s.url("/prometheus"), "team-a", expr, began.Add(2*time.Minute))
		require.NoError(t, err)
		return r.one(t)
	}
	ask := func(path string, into any) error {
		req, err := http.NewRequest(http.MethodGet, s.url(path), nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		r, err := send(ctx, req, "team-a")
		if err != nil {
			return err
		}
		require.Equal(t, 200, r.status, string(r.body))
		return json.Unmarshal(r.body, into)
	}
	push()
	require.Equal(t, "6", count(`sum(count_over_time({__name__=~".+"}[10m]))`))
	require.Equal(t, "1", count(`count(count_over_time({__name__="up",job="x",pod=""}[10m]))`), "two series have become one")

	require.Equal(t, 400, s.push("team-a", series("up", 1, began, "job", "y"), labelled("job", "nameless")).status)
	var rejects struct {
		Data struct {
			Rejects []struct{ Reason, Series string }
		}
	}
	require.NoError(t, ask("/api/v1/rejects", &rejects))
	require.Len(t, rejects.Data.Rejects, 1)
	require.Equal(t, `{job="nameless"}`, rejects.Data.Rejects[0].Series)
	out, err := exec.Command(sluiceBin, "explain", rejects.Data.Rejects[0].Reason).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "**What to do.**")

	write("    - {target_label: cluster, replacement: c1}\n")
	eventually(t, "the new file holds", time.Minute, func() error {
		var limits struct {
			Rules  []any `json:"metric_relabel_configs"`
			Source struct{ Class string }
		}
		if err := ask("/api/v1/user_limits", &limits); err != nil || len(limits.Rules) != 2 || limits.Source.Class != "team-*" {
			return fmt.Errorf("limits are %+v: %w", limits, err)
		}
		return nil
	})
	push()
	for range 2 {
		require.Equal(t, "6", count(`sum(count_over_time({cluster="c1"}[10m]))`))
		require.Equal(t, "13", count(`sum(count_over_time({__name__=~".+"}[10m]))`))
		require.Zero(t, s.mustMetric("sluice_consumer_unresolved_refs_total"))
		s.kill()
		s.start()
		s.ready(time.Minute)
	}
}
