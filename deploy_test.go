package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"

	"sluice/bench/loopback"
	"sluice/internal/bucket"
	"sluice/internal/limits"
)

// What deploy/ promises about this program is held against the program: its commands, flags, environment variables, pages
// and files. Nothing here needs Docker or Kubernetes; what they alone can know is not tested.

var deployStages = []string{"producer", "consumer", "compactor", "reader"}

// findCommand returns the command that args call, and what is left of them.
func findCommand(args []string) (*cli.Command, []string, error) {
	commands := app().Commands
	var found *cli.Command
	for len(args) > 0 && len(commands) > 0 {
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[0]) })
		if i < 0 {
			break
		}
		found, commands, args = commands[i], commands[i].Subcommands, args[1:]
	}
	if found == nil || len(found.Subcommands) > 0 {
		return nil, nil, fmt.Errorf("no command in %q", args)
	}
	return found, args, nil
}

// checkCall says what is wrong with a call of the program: an unknown command, flag or variable, or a value that its flag
// does not take. args begin with the command; of env, only what begins with SLUICE_ is looked at.
func checkCall(args []string, env map[string]string) (*flag.FlagSet, error) {
	command, rest, err := findCommand(args)
	if err != nil {
		return nil, err
	}
	set := flag.NewFlagSet(command.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	variables := map[string]string{} // name of the flag by name of the variable
	for _, f := range command.Flags {
		if err := f.Apply(set); err != nil {
			return nil, err
		}
		if d, ok := f.(cli.DocGenerationFlag); ok {
			for _, v := range d.GetEnvVars() {
				variables[v] = f.Names()[0]
			}
		}
	}
	for key, value := range env {
		if !strings.HasPrefix(key, "SLUICE_") {
			continue
		}
		name, ok := variables[key]
		if !ok {
			return nil, fmt.Errorf("%s: no flag reads the variable %s", command.Name, key)
		}
		if err := set.Set(name, value); err != nil {
			return nil, fmt.Errorf("%s: %s=%q: %w", command.Name, key, value, err)
		}
	}
	if err := set.Parse(rest); err != nil {
		return nil, fmt.Errorf("%s: %w", command.Name, err)
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("%s: arguments %q that no flag takes", command.Name, set.Args())
	}
	return set, nil
}

// TestCheckCallRefuses: the check that all others here stand on can fail.
func TestCheckCallRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"unknown command":    {args: []string{"distributor"}, want: "no command"},
		"group of commands":  {args: []string{"log"}, want: "no command"},
		"unknown flag":       {args: []string{"reader", "--reader.cash-bytes=1"}, want: "not defined"},
		"flag of another":    {args: []string{"reader", "--consumer.zone=a"}, want: "not defined"},
		"bad value":          {args: []string{"consumer", "--consumer.session-timeout=soon"}, want: "invalid value"},
		"unknown variable":   {args: []string{"reader"}, env: map[string]string{"SLUICE_KAFKA_BROKER": "k:1"}, want: "SLUICE_KAFKA_BROKER"},
		"bad value in env":   {args: []string{"reader"}, env: map[string]string{"SLUICE_LOG_PARTITIONS": "many"}, want: "SLUICE_LOG_PARTITIONS"},
		"stray argument":     {args: []string{"reader", "now"}, want: "now"},
		"a flag without any": {args: []string{"reader", "--instance"}, want: "needs an argument"},
	} {
		_, err := checkCall(c.args, c.env)
		require.ErrorContains(t, err, c.want, name)
	}
	set, err := checkCall([]string{"consumer", "--consumer.zone=a"}, map[string]string{"SLUICE_LOG_PARTITIONS": "12", "HOME": "/"})
	require.NoError(t, err)
	require.Equal(t, "12", set.Lookup("log.partitions").Value.String())
	require.Equal(t, "a", set.Lookup("consumer.zone").Value.String())
}

// served says whether every process answers a GET of path.
func served(path string) bool {
	p := &process{reg: prometheus.NewRegistry(), mux: http.NewServeMux()}
	p.mountCommon()
	w := httptest.NewRecorder()
	p.mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code == http.StatusOK
}

func TestServed(t *testing.T) {
	require.True(t, served("/ready"))
	require.True(t, served("/-/healthy"))
	require.False(t, served("/healthz"))
}

// openBucketConfig makes a client of a bucket, which says what it does not understand in the YAML; it does not connect.
func openBucketConfig(t *testing.T, text []byte) {
	t.Helper()
	b, err := bucket.Open(text, t.TempDir(), slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err, "%s", text)
	require.NoError(t, b.Close())
}

func openLimits(t *testing.T, path string) {
	t.Helper()
	_, err := limits.New(limits.Config{Path: path}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err, path)
}

func loadPrometheus(t *testing.T, path string) *promconfig.Config {
	t.Helper()
	c, err := promconfig.LoadFile(path, false, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return c
}

func TestDeployExamples(t *testing.T) {
	openLimits(t, "deploy/limits.example.yaml")
	text, err := os.ReadFile("deploy/objstore-s3.example.yaml")
	require.NoError(t, err)
	openBucketConfig(t, text)
	require.NotEmpty(t, loadPrometheus(t, "deploy/prometheus.example.yml").RemoteWriteConfigs)
}

// TestDeployLoopback: `sluice bench cluster` calls this program as it wants to be called.
func TestDeployLoopback(t *testing.T) {
	cfg := loopback.Config{Sluice: "sluice", Dir: t.TempDir(), Brokers: "127.0.0.1:9092"}
	require.NoError(t, cfg.Validate())
	calls, addrs := map[string]int{}, map[string]bool{}
	for _, p := range cfg.Stages() {
		set, err := checkCall(p.Args, nil)
		require.NoError(t, err, p.Name)
		require.Equal(t, p.Name, set.Lookup("instance").Value.String())
		require.False(t, addrs[p.Addr], "%s serves on %s, which another has", p.Name, p.Addr)
		addrs[p.Addr] = true
		zone := ""
		if f := set.Lookup("consumer.zone"); f != nil {
			zone = f.Value.String()
		}
		calls[p.Args[0]+zone]++
	}
	require.Equal(t, map[string]int{"producer": 2, "consumera": 2, "consumerb": 2, "compactor": 2, "reader": 2}, calls)
}

// flagInText finds flags with a dot in their names: those are ours, not kubectl's or Docker's.
var flagInText = regexp.MustCompile(`--([a-z][a-z0-9-]*\.[a-z][a-z0-9.-]*[a-z0-9])`)

// TestDeployReadme: the flags, variables and files that it names exist.
func TestDeployReadme(t *testing.T) {
	known := map[string]bool{}
	var walk func([]*cli.Command)
	walk = func(list []*cli.Command) {
		for _, c := range list {
			for _, f := range c.Flags {
				known[f.Names()[0]] = true
				known[env(f.Names()[0])[0]] = true
			}
			walk(c.Subcommands)
		}
	}
	walk(app().Commands)
	raw, err := os.ReadFile("deploy/README.md")
	require.NoError(t, err)
	text := string(raw)
	found := 0
	for _, m := range flagInText.FindAllStringSubmatch(text, -1) {
		require.True(t, known[m[1]], "--%s", m[1])
		found++
	}
	for _, v := range regexp.MustCompile(`SLUICE_[A-Z_]+`).FindAllString(text, -1) {
		require.True(t, known[v], v)
	}
	for _, m := range regexp.MustCompile("`((?:deploy|docs|bench|internal)/[^` ]+)`").FindAllStringSubmatch(text, -1) {
		_, err := os.Stat(m[1])
		require.NoError(t, err)
	}
	for _, m := range regexp.MustCompile("(?:\\./|`)sluice ((?:[a-z-]+ ?)+)").FindAllStringSubmatch(text, -1) {
		_, _, err := findCommand(strings.Fields(m[1]))
		require.NoError(t, err, "sluice %s", m[1])
		found++
	}
	require.Greater(t, found, 5, "the README names flags and commands")
}

// TestDeploySystemd: what the units start, and the variables that their example sets.
func TestDeploySystemd(t *testing.T) {
	execStart := func(unit string) []string {
		text, err := os.ReadFile(filepath.Join("deploy/systemd", unit))
		require.NoError(t, err)
		m := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/sluice (.+)$`).FindStringSubmatch(string(text))
		require.NotNil(t, m, unit)
		return strings.Fields(m[1])
	}
	call := func(unit, stage string, env map[string]string) {
		args := execStart(unit)
		for i := range args {
			args[i] = strings.NewReplacer("%i", stage, "%H", "host", "${STATE_DIRECTORY}", "/var/lib/sluice").Replace(args[i])
			require.NotContains(t, args[i], "%")
			require.NotContains(t, args[i], "$")
		}
		_, err := checkCall(args, env)
		require.NoError(t, err, "%s as %s", unit, stage)
	}
	common := exampleEnv(t, "sluice.env")
	require.Contains(t, common, "SLUICE_KAFKA_BROKERS")
	call("sluice.service", "all", common)
	for _, stage := range deployStages {
		call("sluice@.service", stage, common)
		call("sluice@.service", stage, exampleEnv(t, stage+".env"))
	}
}

// exampleEnv returns what sluice.env.example proposes for a file in /etc/sluice.
func exampleEnv(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("deploy/systemd/sluice.env.example")
	require.NoError(t, err)
	out, here, seen := map[string]string{}, false, false
	for _, line := range strings.Split(string(text), "\n") {
		if head, ok := strings.CutPrefix(line, "# --- "); ok {
			here = strings.Contains(head, file)
			seen = seen || here
		}
		if key, value, ok := strings.Cut(strings.TrimPrefix(line, "#"), "="); ok && here && strings.HasPrefix(key, "SLUICE_") {
			out[key] = value
		}
	}
	require.True(t, seen, "the example has no part about %s", file)
	return out
}

// TestDeploySystemdVerify lets systemd read the units, where it is.
func TestDeploySystemdVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("SKIPPED: systemd-analyze is not installed")
	}
	program, err := os.Executable() // any program that exists
	require.NoError(t, err)
	dir := t.TempDir()
	verify := func(from, name, extra string) (string, error) {
		text, err := os.ReadFile(filepath.Join("deploy/systemd", from))
		require.NoError(t, err)
		changed := strings.ReplaceAll(string(text), "/usr/local/bin/sluice", program)
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(changed+extra), 0o644))
		out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput()
		return string(out), err
	}
	for from, name := range map[string]string{"sluice.service": "sluice.service", "sluice@.service": "sluice@consumer.service"} {
		out, err := verify(from, name, "")
		require.NoError(t, err, out)
		require.Empty(t, out, name)
	}
	out, _ := verify("sluice.service", "wrong.service", "\n[Service]\nDynamicUsers=yes\n")
	require.Contains(t, out, "DynamicUsers", "a mistake is found")
}

// port returns the port of an address, or of a listener like :9009.
func port(t *testing.T, addr string) string {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	require.NoError(t, err, addr)
	return p
}
