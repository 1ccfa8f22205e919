// Package peers runs programs that are measured beside each other: Sluice and what else is installed here that does the
// same. In comes how a program is called, out go a process with its address, and CPU, memory and files as the system counts
// them. It knows no protocol and judges nothing.
package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Target is a program that can be measured.
type Target struct {
	Name string
	Path string
	// Args are its arguments; DIR and ADDR in them stand for its folder and an address to listen on.
	Args  []string
	Env   []string // added to the environment
	Ready string   // path that answers 200 once the program is ready; empty = any answer will do
	Push  string   // path of its remote-write endpoint
	Logs  []string // below DIR: what it writes before it acknowledges
}

// Sluice is everything in one process, which writes nothing of its own.
func Sluice(program string) Target {
	return Target{
		Name: "sluice", Path: program, Ready: "/ready", Push: "/api/v1/push", Logs: []string{"log/sluice.samples"},
		Args: []string{"all", "--data-dir", "DIR", "--http.listen", "ADDR", "--self-monitoring.tenant", "", "--log.level", "warn"},
	}
}

// Prometheus is the one that Debian has.
func Prometheus() Target {
	return Target{
		Name: "prometheus", Path: "prometheus", Ready: "/-/ready", Push: "/api/v1/write", Logs: []string{"wal"},
		Args: []string{"--config.file=/dev/null", "--storage.tsdb.path=DIR", "--web.listen-address=ADDR", "--web.enable-remote-write-receiver", "--log.level=error"},
	}
}

// Prometheus3 is a newer one, which .ci/peers builds where it is wanted.
func Prometheus3() Target {
	t := Prometheus()
	t.Path = filepath.FromSlash(".cache/bin/prometheus3")
	t.Args = append(t.Args, "--web.enable-otlp-receiver")
	return t
}

// VictoriaMetrics is the one that Debian has.
func VictoriaMetrics() Target {
	return Target{
		Name: "victoriametrics", Path: "victoria-metrics", Ready: "/health", Push: "/api/v1/write",
		Args: []string{"-storageDataPath=DIR", "-httpListenAddr=ADDR", "-retentionPeriod=100y", "-loggerLevel=ERROR"},
	}
}

// Installed returns those of all that are there, with the paths of their programs.
func Installed(all []Target) (found []Target) {
	for _, t := range all {
		if p, err := exec.LookPath(t.Path); err == nil {
			t.Path = p
			found = append(found, t)
		}
	}
	return found
}

// Process is a target that runs.
type Process struct {
	Target
	Addr string

	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts the target on the folder dir and returns once it is ready, within the time given. Its output goes to the
// standard error.
func (t Target) Start(ctx context.Context, dir string, within time.Duration) (*Process, error) {
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	p := &Process{Target: t, Addr: addr, done: make(chan struct{})}
	args := make([]string, len(t.Args))
	for i, a := range t.Args {
		args[i] = strings.NewReplacer("DIR", dir, "ADDR", p.Addr).Replace(a)
	}
	p.cmd = exec.Command(t.Path, args...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Env = append(os.Environ(), t.Env...)
	p.cmd.Stdout, p.cmd.Stderr = io.Discard, os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", t.Name, err)
	}
	go func() {
		_ = p.cmd.Wait() // it is killed in the end
		close(p.done)
	}()
	if err := p.ready(ctx, within); err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// FreeAddr returns a loopback address that nobody listens on.
func FreeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a port: %w", err)
	}
	if err := ln.Close(); err != nil {
		return "", fmt.Errorf("find a port: %w", err)
	}
	return ln.Addr().String(), nil
}

// URL is the address of a path of the process.
func (p *Process) URL(path string) string { return "http://" + p.Addr + path }

func (p *Process) ready(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL(p.Ready), nil)
		if err != nil {
			return fmt.Errorf("ask whether %s is ready: %w", p.Name, err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK || p.Ready == "" {
				return nil
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-p.done:
			return fmt.Errorf("%s has ended", p.Name)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", p.Name, errors.Join(err, ctx.Err()))
		}
	}
}

// Kill ends the process at once.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// Stop asks the process to end, waits for that, and kills it if it takes longer.
func (p *Process) Stop(within time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		<-p.done
		return nil // it has ended by itself
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(within):
		p.Kill()
		return fmt.Errorf("%s does not stop within %s", p.Name, within)
	}
}

// Running says whether it has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// ticks of the clock that /proc counts by, a second.
const ticks = 100

// CPU is what the process has used so far, user and system, in seconds.
func (p *Process) CPU() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	// The name, in parentheses, may hold spaces. Behind it, utime and stime are the 12th and 13th field.
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("read CPU time: %d fields", len(f))
	}
	user, err1 := strconv.ParseFloat(f[11], 64)
	system, err2 := strconv.ParseFloat(f[12], 64)
	return (user + system) / ticks, errors.Join(err1, err2)
}

// Memory is a field of /proc's status, VmRSS or VmHWM, in bytes.
func (p *Process) Memory(field string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("read memory: no %s", field)
}

// Idle waits until the process has done next to nothing for a second, or for the time given.
func (p *Process) Idle(ctx context.Context, within time.Duration) error {
	for end := time.Now().Add(within); time.Now().Before(end); {
		before, err := p.CPU()
		if err != nil {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		if after, err := p.CPU(); err != nil || after-before < 0.05 {
			return err
		}
	}
	return nil
}

// Size is what the files below the folder take, in bytes.
func Size(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // a file that has gone has no size
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
