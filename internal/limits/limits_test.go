package limits

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	tab, err := parse([]byte(`
default: {ingestion_rate: 10, creation_grace_period: 1h}
overrides:
  a: {ingestion_rate: 0, max_label_value_length: 7}
  b:
  c: {compactor_blocks_retention_period: 2w}
`), nil)
	require.NoError(t, err)
	want := schema.DefaultLimits()
	want.IngestionRate = 10
	want.CreationGracePeriod = model.Duration(time.Hour)
	require.Equal(t, want, *tab.fallback)
	require.Equal(t, want, tab.overrides["b"].limits, "an empty override is the default")
	a := want
	a.IngestionRate, a.MaxLabelValueLength = 0, 7
	require.Equal(t, a, tab.overrides["a"].limits, "zero in an override means zero")
	c := want
	c.BlocksRetentionPeriod = model.Duration(14 * 24 * time.Hour)
	require.Equal(t, c, tab.overrides["c"].limits)
	require.Len(t, tab.overrides, 3)

	for _, empty := range []string{"", "# nothing\n", "default:\noverrides:\n", "{}"} {
		tab, err := parse([]byte(empty), nil)
		require.NoError(t, err, "%q", empty)
		require.Equal(t, schema.DefaultLimits(), *tab.fallback)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, content := range map[string]string{
		"unknown key":             "limits: {}",
		"unknown limit":           "default: {ingestion_rat: 1}",
		"unknown limit, override": "overrides: {a: {ingestion_rat: 1}}",
		"negative":                "default: {ingestion_rate: -1}",
		"negative, override":      "overrides: {a: {request_rate: -1}}",
		"text for a number":       "default: {ingestion_rate: many}",
		"bad duration":            "default: {past_grace_period: soon}",
		"bad tenant":              "overrides: {a/b: {}}",
		"dots":                    "overrides: {..: {}}",
		"key twice":               "default: {ingestion_rate: 1, ingestion_rate: 2}",
		"tenant twice":            "overrides: {a: {}, a: {}}",
		"a list":                  "- default",
		"a limit as a list":       "overrides: {a: [1]}",
		"two documents":           "default: {}\n---\ndefault: {}\n",
		"not yaml":                "default: {",
		"binary":                  "\x00\x01",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse([]byte(content), nil)
			require.Error(t, err)
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("default: {ingestion_rate: 10}\noverrides: {a: {request_rate: 1}}"))
	f.Add([]byte("classes: {team-*: {drop_labels: [a]}, '*': {metric_relabel_configs: [{action: labeldrop, regex: x}]}}\noverrides: {team-a: {}}"))
	f.Add([]byte("default: &x {ingestion_rate: 1}\noverrides: {a: *x}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		tab, err := parse(content, nil)
		if err != nil {
			return
		}
		require.NoError(t, tab.fallback.Validate())
		for name, o := range tab.overrides {
			require.NoError(t, o.limits.Validate())
			_, err := schema.ParseTenant(string(name))
			require.NoError(t, err)
		}
		for _, c := range tab.classes {
			require.NoError(t, c.limits.Validate())
			require.True(t, matches(c.pattern, strings.ReplaceAll(c.pattern, "*", "")))
			for _, r := range c.limits.MetricRelabelConfigs.Items() {
				relabel.ProcessBuilder(labels.NewBuilder(labels.FromStrings("__name__", "up", "a", "b")), r.Config)
			}
		}
		again, err := parse(content, tab)
		require.NoError(t, err)
		require.Equal(t, *tab.fallback, *again.fallback)
		for name, o := range tab.overrides {
			require.True(t, o.limits == again.overrides[name].limits, "the same file gives equal limits")
		}
	})
}

func TestNoFile(t *testing.T) {
	l, err := New(Config{}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	require.Equal(t, schema.DefaultLimits(), *l.For("x"))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, l.Run(ctx), context.Canceled)

	_, err = New(Config{Path: filepath.Join(t.TempDir(), "gone")}, slog.New(slog.DiscardHandler), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = New(Config{Reload: -1}, slog.New(slog.DiscardHandler), nil)
	require.Error(t, err)
}

func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limits.yaml")
	write := func(s string) { require.NoError(t, os.WriteFile(path, []byte(s), 0o600)) }
	write("overrides: {a: {request_rate: 1}}")

	reg := prometheus.NewPedanticRegistry()
	l, err := New(Config{Path: path}, slog.New(slog.DiscardHandler), reg)
	require.NoError(t, err)
	l.now = func() time.Time { return time.UnixMilli(1500) }
	require.InDelta(t, 1, l.For("a").RequestRate, 0)
	require.Zero(t, l.For("b").RequestRate)

	write("overrides: {a: {request_rate: 2}}")
	require.NoError(t, l.file.Reload())
	require.InDelta(t, 1, l.For("a").RequestRate, 0, "may be half a file")
	require.NoError(t, l.file.Reload())
	require.InDelta(t, 2, l.For("a").RequestRate, 0)
	require.InDelta(t, 1.5, testutil.ToFloat64(l.metrics.lastSuccess), 0)

	write("overrides: {a: {request_rate: [}}")
	require.NoError(t, l.file.Reload())
	require.Error(t, l.file.Reload())
	require.Error(t, l.file.Reload(), "as long as it is broken")
	require.InDelta(t, 2, l.For("a").RequestRate, 0, "a broken file changes nothing")
	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, l.file.Reload(), os.ErrNotExist)
	require.InDelta(t, 2, l.For("a").RequestRate, 0, "nor does a missing one")
	require.InDelta(t, 3, testutil.ToFloat64(l.metrics.failures), 0)

	write("default: {request_rate: 3}")
	require.NoError(t, l.file.Reload())
	require.NoError(t, l.file.Reload())
	require.InDelta(t, 3, l.For("a").RequestRate, 0)
	require.InDelta(t, 3, testutil.ToFloat64(l.metrics.failures), 0)
}

// A file that is broken while Run looks at it is logged once, counted every time, and picked up once it is mended.
func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limits.yaml")
	write := func(s string) {
		require.NoError(t, os.WriteFile(path+".new", []byte(s), 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	write("default: {request_rate: 1}")
	var logged bytes.Buffer
	l, err := New(Config{Path: path, Reload: time.Millisecond}, slog.New(slog.NewTextHandler(&logged, nil)), nil)
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()

	write("default: {request_rate: -5}")
	require.Eventually(t, func() bool { return testutil.ToFloat64(l.metrics.failures) > 3 }, 10*time.Second, time.Millisecond)
	require.InDelta(t, 1, l.For("a").RequestRate, 0)
	write("default: {request_rate: 5}")
	require.Eventually(t, func() bool { return l.For("a").RequestRate == 5 }, 10*time.Second, time.Millisecond)

	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.Equal(t, 1, bytes.Count(logged.Bytes(), []byte("must not be negative")))
}
