package loopback

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	promconfig "github.com/prometheus/prometheus/config"
	"github.com/stretchr/testify/require"
)

// sayings collects what a child has to say.
type sayings struct {
	mu   sync.Mutex
	list []string
}

func (s *sayings) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, fmt.Sprintf(format, args...))
}

func shell(t *testing.T, script string) (*child, *sayings) {
	said := &sayings{}
	return &child{
		Program: Program{Name: "shell", Path: "/bin/sh", Args: []string{"-c", script}, Env: []string{"FROM_TEST=yes"}},
		log:     filepath.Join(t.TempDir(), "log"), say: said.say,
	}, said
}

// until waits for a condition; the test's own time-out is the only other end.
func until(t *testing.T, condition func() bool) {
	t.Helper()
	for !condition() {
		select {
		case <-t.Context().Done():
			require.NoError(t, t.Context().Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestChildThatNeverWorked is an error that shows its last words, not something to start for ever.
func TestChildThatNeverWorked(t *testing.T) {
	c, _ := shell(t, `echo "cannot, $FROM_TEST"; exit 3`)
	err := c.run(t.Context())
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "cannot, yes")
	c.Path = filepath.Join(t.TempDir(), "missing")
	require.ErrorContains(t, c.run(t.Context()), "start shell")
}

// TestChildComesBack after it was killed, and goes for good with its context.
func TestChildComesBack(t *testing.T) {
	c, said := shell(t, `echo life >> "$0.lives"; exec sleep 600`)
	c.Args = append(c.Args, c.log) // $0
	lives := func() int {
		text, _ := os.ReadFile(c.log + ".lives")
		return len(text) / len("life\n")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.run(ctx) }()
	until(t, func() bool { return lives() == 1 && c.pid.Load() > 0 })
	c.settled.Store(true)
	first := int(c.pid.Load())
	require.NoError(t, syscall.Kill(first, syscall.SIGKILL))
	until(t, func() bool { pid := int(c.pid.Load()); return lives() == 2 && pid > 0 && pid != first })
	second := int(c.pid.Load())
	cancel()
	require.NoError(t, <-done)
	require.ErrorIs(t, syscall.Kill(second, 0), syscall.ESRCH)
	require.Len(t, said.list, 1)
	require.Contains(t, said.list[0], "killed")
}

func TestValidate(t *testing.T) {
	for _, c := range []Config{{Dir: "d", Brokers: "b:1"}, {Sluice: "s", Brokers: "b:1"}, {Sluice: "s", Dir: "d", Jars: t.TempDir()},
		{Sluice: "s", Dir: "d", Brokers: "b:1", FirstPort: 80}, {Sluice: "s", Dir: "d", Brokers: "b:1", FirstPort: 65500}} {
		require.Error(t, c.Validate(), "%+v", c)
	}
	jars := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(jars, "3.9"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(jars, "3.9", "kafka-clients-3.9.2.jar"), nil, 0o644))
	c := Config{Sluice: "s", Dir: "d", Jars: jars}
	require.NoError(t, c.Validate())
	require.Equal(t, filepath.Join(jars, "3.9"), c.Jars)
}

// TestFiles: Prometheus understands the configuration that is written for it, and knows every stage.
func TestFiles(t *testing.T) {
	for _, s3 := range []string{"", "versitygw"} {
		c := Config{Sluice: "s", Dir: t.TempDir(), Brokers: "b:1", S3: s3}
		require.NoError(t, c.Validate())
		require.NoError(t, c.writeFiles())
		got, err := promconfig.LoadFile(c.path("prometheus.yml"), false, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		require.Equal(t, "http://127.0.0.1:9010/api/v1/push", got.RemoteWriteConfigs[0].URL.String())
		text, err := os.ReadFile(c.path("prometheus.yml"))
		require.NoError(t, err)
		for _, p := range c.Stages() {
			require.Contains(t, string(text), fmt.Sprintf("%q", p.Addr))
		}
	}
}

// TestOccupiedPortIsRefused before anything is started.
func TestOccupiedPortIsRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	dir := filepath.Join(t.TempDir(), "cluster")
	cluster, err := New(Config{Sluice: "/nowhere/sluice", Dir: dir, Brokers: "127.0.0.1:1"}, io.Discard)
	require.NoError(t, err)
	cluster.stages[0].Addr = ln.Addr().String()
	require.ErrorContains(t, cluster.Run(t.Context(), nil), "the port of producer-0")
	require.NoDirExists(t, dir)
}
