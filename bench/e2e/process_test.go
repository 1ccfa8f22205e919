package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/internal/kafkatest"
)

// process is a child of the test. Its output goes to a file, the end of which is shown when the test fails.
type process struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error // of Wait, once exited is closed
}

// launch starts a program. It is killed at the end of the test at the latest.
func launch(t *testing.T, dir, name string, env []string, path string, args ...string) *process {
	t.Helper()
	logName := filepath.Join(dir, name+".log")
	out, err := os.OpenFile(logName, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	defer out.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start(), "start %s", name)
	p := &process{t: t, name: name, cmd: cmd, log: logName, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(p.cleanup)
	return p
}

func (p *process) cleanup() {
	p.kill()
	if p.t.Failed() {
		if _, shown := shownLogs.LoadOrStore(p.log, true); shown { // of another life of the same process
			return
		}
		if text, err := os.ReadFile(p.log); err == nil {
			p.t.Logf("end of the log of %s (%s):\n%s", p.name, p.log, text[max(0, len(text)-4000):])
		}
	}
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *process) signal(s os.Signal) {
	if p.running() {
		p.cmd.Process.Signal(s)
	}
}

// kill is SIGKILL, and waits for the end.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// terminate is SIGTERM, and demands a clean exit.
func (p *process) terminate(within time.Duration) {
	p.t.Helper()
	require.True(p.t, p.running(), "%s died by itself: %v", p.name, p.err)
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		require.NoError(p.t, p.err, "%s after SIGTERM", p.name)
	case <-time.After(within):
		p.signal(syscall.SIGQUIT) // shows where it hangs
		<-p.exited
		require.Fail(p.t, "does not stop", "%s did not exit within %s of SIGTERM", p.name, within)
	}
}

// memory returns RSS and its peak, in bytes; zero when the process is gone.
func (p *process) memory() (rss, peak int64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0
	}
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			rss = kb << 10
		case "VmHWM:":
			peak = kb << 10
		}
	}
	return rss, peak
}

var shownLogs sync.Map // of failed tests, by file name

// freeAddr is a loopback address that nobody listens on, that no other test was given, and that no connection takes while
// its process is down.
func freeAddr(t *testing.T) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(kafkatest.FreePorts(t, 1)[0]))
}

// instance is a sluice process that can be killed and started again at the same address.
type instance struct {
	t    *testing.T
	dir  string // work directory
	data string // --data-dir
	addr string
	name string
	args []string
	bin  string   // the program; empty = sluice as it is released
	env  []string // added to the environment
	*process
	peak int64 // highest RSS of all its lives
}

// newInstance prepares `sluice command` with its own data directory; start starts it.
func newInstance(t *testing.T, dir, command string, args ...string) *instance {
	s := &instance{t: t, dir: dir, data: filepath.Join(dir, command), addr: freeAddr(t), name: command}
	s.args = append([]string{command, "--data-dir", s.data, "--http.listen", s.addr}, args...)
	return s
}

func (s *instance) url(path string) string { return "http://" + s.addr + path }

func (s *instance) start() {
	s.t.Helper()
	s.process = launch(s.t, s.dir, s.name, s.env, cmp.Or(s.bin, sluiceBin), s.args...)
}

// ready waits for /ready.
func (s *instance) ready(within time.Duration) {
	s.t.Helper()
	eventually(s.t, s.name+" is ready", within, func() error { return s.isReady(context.Background()) })
}

func (s *instance) isReady(ctx context.Context) error {
	if !s.running() {
		return fmt.Errorf("%s has exited: %v", s.name, s.err)
	}
	return expect(ctx, s.url("/ready"), "", 200)
}

func (s *instance) kill() {
	s.notePeak()
	s.process.kill()
}

func (s *instance) stop() {
	s.t.Helper()
	s.notePeak()
	s.terminate(20 * time.Second)
}

func (s *instance) notePeak() {
	_, peak := s.memory()
	s.peak = max(s.peak, peak)
}

// seal ends the generations and waits until they are in the bucket.
func (s *instance) seal(within time.Duration) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	a, err := post(ctx, s.url("/-/seal?wait=true"), "", "", nil)
	require.NoError(s.t, err)
	require.Less(s.t, a.status, 300, "seal: %s", a.body)
}

// sluice runs a command of the binary to its end.
func sluice(t *testing.T, within time.Duration, args ...string) (out string, exit int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return execute(t, ctx, sluiceBin, args...)
}

func execute(t *testing.T, ctx context.Context, path string, args ...string) (out string, exit int) {
	t.Helper()
	cmd := exec.CommandContext(ctx, path, args...)
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	err := cmd.Run()
	require.NoError(t, ctx.Err(), "%s %q took too long:\n%s", path, args, buf.String())
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return buf.String(), cmd.ProcessState.ExitCode()
}
