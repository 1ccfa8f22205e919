//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Enabled tells whether this build can be killed by name.
const Enabled = true

// plan is what the environment asks for.
type plan struct {
	point string // "" = none
	log   string // "" = none

	mu   sync.Mutex
	left int // guarded by mu; hits of point until the end
}

// process is this process' plan. It must be one for all who call Hit, and exists in builds for tests only.
var process = sync.OnceValue(func() *plan {
	p, err := parse(os.Getenv(EnvPoint), os.Getenv(EnvLog))
	if err != nil { // a test that waits for a step that does not exist would wait for ever
		give(err)
	}
	return p
})

func parse(point, logFile string) (*plan, error) {
	p := &plan{log: logFile, left: 1}
	if point == "" {
		return p, nil
	}
	name, nth, counted := strings.Cut(point, ":")
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("%s: there is no failpoint %q", EnvPoint, name)
	}
	if counted {
		n, err := strconv.Atoi(nth)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%s: %q is not the number of a hit", EnvPoint, nth)
		}
		p.left = n
	}
	p.point = name
	return p, nil
}

// Hit says that the step called name has been done. It does not return if the environment has this hit as the last.
func Hit(name string) {
	p := process()
	last, err := p.hit(name)
	if err != nil {
		give(err)
	}
	if last {
		die()
	}
}

// hit counts, and tells whether this is the end.
func (p *plan) hit(name string) (last bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log != "" {
		if err := appendLine(p.log, name); err != nil {
			return false, err
		}
	}
	if name != p.point {
		return false, nil
	}
	p.left--
	return p.left == 0, nil
}

func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("%s: %w", EnvLog, err)
	}
	if _, err := f.WriteString(line + "\n"); err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", EnvLog, err)
	}
	return f.Close()
}

// die ends the process as a power cut would, and lets nobody who called Hit go on until it has.
func die() {
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		err = self.Kill()
		if err != nil {
			give(err)
		}
	}
	select {}
}

// give up on an environment that cannot be meant.
func give(err error) {
	fmt.Fprintln(os.Stderr, "failpoint:", err)
	os.Exit(3)
}
