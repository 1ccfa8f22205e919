package write

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

// Target is a program that takes remote write.
type Target struct {
	Name string
	Path string
	// Args are its arguments; DIR and ADDR in them stand for an empty folder and an address to listen on.
	Args []string
	Push string // path of the endpoint
	Logs []string
}

// Targets are Sluice and its peers, those that are installed here.
func Targets(sluice string, version, tenants int) []Target {
	all := []Target{{
		Name: "sluice", Path: sluice, Push: "/api/v1/push",
		Args: []string{"all", "--data-dir", "DIR", "--http.listen", "ADDR", "--self-monitoring.tenant", "", "--log.level", "warn"},
		Logs: []string{"log/sluice.samples"},
	}}
	if version == ProtocolOTLP {
		all[0].Push = "/otlp/v1/metrics"
	}
	if tenants == 0 { // the peers do not know any
		all = append(all, peers(version)...)
	}
	var found []Target
	for _, t := range all {
		if p, err := exec.LookPath(t.Path); err == nil {
			t.Path = p
			found = append(found, t)
		}
	}
	return found
}

// peers are those that know the protocol. Debian's are from before OTLP and remote write 2.0: for these there is a newer Prometheus.
func peers(version int) []Target {
	newer := Target{Name: "prometheus", Path: filepath.FromSlash(".cache/bin/prometheus3"), Push: "/api/v1/write", Logs: []string{"wal"}, Args: []string{
		"--config.file=/dev/null", "--storage.tsdb.path=DIR", "--web.listen-address=ADDR", "--web.enable-remote-write-receiver", "--web.enable-otlp-receiver", "--log.level=error"}}
	switch version {
	case 1:
		return []Target{
			{Name: "prometheus", Path: "prometheus", Push: "/api/v1/write", Logs: []string{"wal"}, Args: []string{
				"--config.file=/dev/null", "--storage.tsdb.path=DIR", "--web.listen-address=ADDR", "--web.enable-remote-write-receiver", "--log.level=error"}},
			{Name: "victoriametrics", Path: "victoria-metrics", Push: "/api/v1/write", Args: []string{
				"-storageDataPath=DIR", "-httpListenAddr=ADDR", "-retentionPeriod=100y", "-loggerLevel=ERROR"}},
		}
	case ProtocolOTLP:
		newer.Push = "/api/v1/otlp/v1/metrics"
	}
	return []Target{newer}
}

// process is a target that runs.
type process struct {
	Target
	cmd  *exec.Cmd
	dir  string
	addr string
	done chan struct{}
}

func (t Target) start(ctx context.Context, dir string) (*process, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a port: %w", err)
	}
	p := &process{Target: t, dir: dir, addr: ln.Addr().String(), done: make(chan struct{})}
	if err := ln.Close(); err != nil {
		return nil, fmt.Errorf("find a port: %w", err)
	}
	args := make([]string, len(t.Args))
	for i, a := range t.Args {
		args[i] = strings.NewReplacer("DIR", dir, "ADDR", p.addr).Replace(a)
	}
	p.cmd = exec.Command(t.Path, args...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stdout, p.cmd.Stderr = io.Discard, os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", t.Name, err)
	}
	go func() {
		_ = p.cmd.Wait() // it is killed in the end
		close(p.done)
	}()
	if err := p.ready(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// ready waits until the target answers.
func (p *process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	path := map[string]string{"sluice": "/ready", "prometheus": "/-/ready", "victoriametrics": "/health"}[p.Name]
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+path, nil)
		if err != nil {
			return fmt.Errorf("ask whether %s is ready: %w", p.Name, err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-p.done:
			return fmt.Errorf("%s has ended", p.Name)
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", p.Name, errors.Join(err, ctx.Err()))
		}
	}
}

func (p *process) stop() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// ticks of the clock that /proc counts by, a second.
const ticks = 100

// cpu is what the process has used so far, user and system, in seconds.
func (p *process) cpu() (float64, error) {
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

// memory is a field of /proc's status, VmRSS or VmHWM, in bytes.
func (p *process) memory(field string) (int64, error) {
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

// idle waits until the process has done next to nothing for a second, or for 20 s.
func (p *process) idle(ctx context.Context) error {
	for range 20 {
		before, err := p.cpu()
		if err != nil {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		if after, err := p.cpu(); err != nil || after-before < 0.05 {
			return err
		}
	}
	return nil
}

// size is what the files below the folder take, in bytes.
func size(dir string) (n int64) {
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
