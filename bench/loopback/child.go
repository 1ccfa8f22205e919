package loopback

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// child is a program that is started again whenever it ends.
type child struct {
	Program
	log string       // file of its output
	pid atomic.Int64 // of its life right now
	// settled is set once the program has shown that it works. Before, its end is an error: it would end again.
	settled atomic.Bool
	say     func(format string, args ...any)
}

const (
	stopTimeout  = 30 * time.Second // from SIGTERM to SIGKILL
	restartDelay = time.Second
)

// run keeps the program alive until ctx ends, then stops it.
func (c *child) run(ctx context.Context) error {
	for ctx.Err() == nil {
		end, err := c.live(ctx)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		if !c.settled.Load() {
			return fmt.Errorf("%s ended before it was ready (%s); the end of %s:\n%s", c.Name, end, c.log, tail(c.log))
		}
		c.say("%s has ended (%s) and is started again; its log is %s", c.Name, end, c.log)
		select {
		case <-ctx.Done():
		case <-time.After(restartDelay):
		}
	}
	return nil
}

// live runs the program once and says how it ended.
func (c *child) live(ctx context.Context) (end string, err error) {
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return "", fmt.Errorf("open the log of %s: %w", c.Name, err)
	}
	defer out.Close()
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Stdout, cmd.Stderr, cmd.Env, cmd.SysProcAttr = out, out, append(os.Environ(), c.Env...), childAttributes()
	// Linux ends a child with the thread that started it, not with the process: so the thread stays ours.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start %s: %w", c.Name, err)
	}
	c.pid.Store(int64(cmd.Process.Pid))
	ended := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		// Errors mean that it has ended by itself meanwhile.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(stopTimeout):
			c.say("%s does not stop within %s and is killed", c.Name, stopTimeout)
			_ = cmd.Process.Kill()
		}
	}()
	if err := cmd.Wait(); err != nil {
		end = err.Error()
	} else {
		end = "exit status 0"
	}
	close(ended)
	<-stopped
	c.pid.Store(0)
	return end, nil
}

// tail returns the end of a file.
func tail(name string) []byte {
	text, err := os.ReadFile(name)
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-2000):]
}
