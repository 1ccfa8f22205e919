package kafkatest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// node is one broker and controller.
type node struct {
	index                        int
	dir, jars, java              string
	client, internal, controller int // ports

	mu     sync.Mutex // guards the rest
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended; nil before the first start
	paused bool
}

func (n *node) addr() string { return fmt.Sprintf("127.0.0.1:%d", n.client) }

func (n *node) logFile() string { return filepath.Join(n.dir, "broker.log") }

// jvm are the arguments of every JVM: small, and quick to start rather than fast in the long run.
func (n *node) jvm(heap string, args ...string) []string {
	return append([]string{
		"-Xmx" + heap, "-Xms32m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError",
		"-Djava.net.preferIPv4Stack=true",
		"-Dlog4j.configuration=file:" + filepath.Join(n.dir, "log4j.properties"),
		"-Dlog4j2.configurationFile=file:" + filepath.Join(n.dir, "log4j2.properties"),
		"-cp", filepath.Join(n.jars, "*"),
	}, args...)
}

// format writes the node's settings and prepares its data directory, unless it was before.
func (n *node) format(c *Cluster) error {
	if err := n.write(c); err != nil {
		return fmt.Errorf("write settings of broker %d: %w", n.index, err)
	}
	if _, err := os.Stat(filepath.Join(n.dir, "data", "meta.properties")); err == nil {
		return nil
	}
	args := n.jvm("128m", "kafka.tools.StorageTool", "format", "-t", c.id, "-c", filepath.Join(n.dir, "server.properties"))
	if c.cfg.SASL {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			for _, u := range users {
				args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, u.name, u.password))
			}
		}
	}
	cmd := exec.Command(n.java, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format broker %d: %w\n%s", n.index, err, out)
	}
	return nil
}

// start starts the process. It dies with this one.
func (n *node) start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		return fmt.Errorf("broker %d runs already", n.index)
	}
	out, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open log of broker %d: %w", n.index, err)
	}
	defer out.Close()
	cmd := exec.Command(n.java, n.jvm("320m", "kafka.Kafka", filepath.Join(n.dir, "server.properties"))...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start broker %d: %w", n.index, err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	n.cmd, n.exited, n.paused = cmd, exited, false
	return nil
}

// kill is SIGKILL, and waits for the end.
func (n *node) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	<-n.exited
	n.cmd, n.paused = nil, false
}

func (n *node) pause() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil && !n.paused {
		_ = n.cmd.Process.Signal(syscall.SIGSTOP)
		n.paused = true
	}
}

func (n *node) resume() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil && n.paused {
		_ = n.cmd.Process.Signal(syscall.SIGCONT)
		n.paused = false
	}
}

// running: started, not killed, not paused.
func (n *node) running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd != nil && !n.paused
}

// wait waits for a moment. It returns an error if the process has ended, or the context has.
func (n *node) wait(ctx context.Context, d time.Duration) error {
	n.mu.Lock()
	exited := n.exited
	n.mu.Unlock()
	select {
	case <-exited:
		return errors.New("it has exited")
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// tail is the end of what the broker said.
func (n *node) tail() string {
	text, _ := os.ReadFile(n.logFile())
	return string(text[max(0, len(text)-4000):])
}

// properties are a Java properties file.
func propertiesFile(p map[string]string) []byte {
	keys := make([]string, 0, len(p))
	for k := range p {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var out []byte
	for _, k := range keys {
		out = fmt.Appendf(out, "%s=%s\n", k, p[k])
	}
	return out
}
