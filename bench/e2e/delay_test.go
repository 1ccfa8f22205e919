package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/bench/delay"
)

// measure runs `sluice bench delay` and returns what it reports. The figures are printed, not judged: how long something
// takes is the machine's affair, that every acked value is seen is ours.
func measure(t *testing.T, scenario, write, read string, args ...string) delay.Report {
	t.Helper()
	out, exit := sluice(t, 3*time.Minute, append([]string{"bench", "delay", "--write.url", write + "/api/v1/push", "--read.url", read + "/prometheus"}, args...)...)
	require.Zero(t, exit, "%s", out)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var r delay.Report
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &r), "%s", out)
	t.Logf("%s:\n%s", scenario, strings.Join(lines[:len(lines)-1], "\n"))
	fmt.Printf("SLUICE-FIGURES {\"scenario\":%q,\"delay\":%s}\n", scenario, lines[len(lines)-1])
	require.Equal(t, r.Written, r.Ack.Count+r.WritesFailed)
	require.Equal(t, r.Ack.Count, r.Seen)
	require.Equal(t, r.Seen, r.Delay.Count)
	require.Zero(t, r.NotSeen)
	return r
}

// TestDelay measures the time from an ack until the value is seen, of everything in one process.
func TestDelay(t *testing.T) {
	enabled(t)
	s := newInstance(t, workDir(t), "all", "--tenancy.required", "--self-monitoring.tenant", "")
	s.start()
	s.ready(time.Minute)
	r := measure(t, "delay, one process, embedded log", s.url(""), s.url(""), "--tenant", "team-a", "--duration", "5s", "--interval", "20ms")
	require.Equal(t, 250, r.Written)
	require.Zero(t, r.WritesFailed)
	require.Zero(t, r.QueriesFailed)

	out, exit := sluice(t, time.Minute, "bench", "delay", "--write.url", s.url("/api/v1/push"), "--read.url", s.url("/prometheus"), "--duration", "50ms")
	require.NotZero(t, exit, "without a tenant nothing is acked: %s", out)
	require.Contains(t, out, "err-sluice-no-tenant")
	s.stop()
}

// TestBenchCluster: `sluice bench cluster` starts everything with a real Kafka and a real S3 server, a value is seen while
// a consumer is killed, the consumer comes back, and one signal ends all of it.
func TestBenchCluster(t *testing.T) {
	enabled(t)
	s3 := tool(t, "versitygw", "make test installs it")
	jars := os.Getenv("SLUICE_KAFKA_JARS")
	if jars == "" {
		jars = filepath.Join(repo, ".cache", "kafka")
	}
	if found, err := filepath.Glob(filepath.Join(jars, "*", "kafka-clients-*.jar")); err != nil || len(found) == 0 {
		skip(t, "no Kafka jars in "+jars+"; make tools fetches them")
	}
	if _, err := exec.LookPath("java"); err != nil {
		skip(t, "java is not installed")
	}
	dir := workDir(t)
	first := freeTens(t)
	p := launch(t, dir, "cluster", nil, sluiceBin, "bench", "cluster", "--dir", filepath.Join(dir, "cluster"), "--kafka.jars", jars,
		"--s3.server", s3, "--first-port", strconv.Itoa(first))
	said := func(what string) func() error {
		return func() error {
			if !p.running() {
				return fmt.Errorf("it has ended: %v", p.err)
			}
			if text, err := os.ReadFile(p.log); err != nil || !regexp.MustCompile(what).Match(text) {
				return fmt.Errorf("it has not said %q yet: %w", what, err)
			}
			return nil
		}
	}
	eventually(t, "the cluster is ready", 3*time.Minute, said("Everything is ready"))
	at := func(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", first+port) }
	measure(t, "delay, Kafka, S3, two zones, loopback", at(0), at(10), "--duration", "5s", "--interval", "50ms")

	text, err := os.ReadFile(p.log)
	require.NoError(t, err)
	pids := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9-]+) .* pid (\d+) `).FindAllStringSubmatch(string(text), -1) {
		pids[m[1]], err = strconv.Atoi(m[2])
		require.NoError(t, err)
	}
	require.Len(t, pids, 12)
	require.NoError(t, syscall.Kill(pids["consumer-a-0"], syscall.SIGKILL))
	r := measure(t, "delay, the same while a consumer of one zone is away", at(1), at(11), "--duration", "5s", "--interval", "50ms")
	require.Zero(t, r.QueriesFailed, "the other zone answers: %s", r.LastError)
	eventually(t, "the consumer is started again", time.Minute, said(`consumer-a-0 has ended \(signal: killed\)`))
	eventually(t, "the consumer is ready again", time.Minute, func() error { return expect(context.Background(), at(30)+"/ready", "", 200) })

	p.terminate(2 * time.Minute)
	for name, pid := range pids {
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "%s has gone", name)
	}
	for port := range 62 {
		require.Error(t, expect(context.Background(), at(port)+"/ready", "", 200), "nothing serves at %d any more", first+port)
	}
}

// freeTens returns a port with the sixty after it free, as far as anybody can know.
func freeTens(t *testing.T) int {
	t.Helper()
	for first := 21000; first < 31000; first += 100 {
		if portsFree(first, 62) {
			return first
		}
	}
	require.Fail(t, "no free ports")
	return 0
}

func portsFree(first, n int) bool {
	for port := first; port < first+n; port++ {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return false
		}
		ln.Close()
	}
	return true
}
