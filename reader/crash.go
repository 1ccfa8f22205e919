package reader

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// tracker writes into a mapped file which queries are under way, so that the next start can tell what ran when the process
// died: Prometheus' own tracker, which logs that itself. All methods may be called on nil.
type tracker struct {
	file  *promql.ActiveQueryTracker
	lock  fileutil.Releaser
	slots chan struct{} // what does not find one is not written down: queries never wait for the file

	mu     sync.RWMutex
	closed bool // guarded by mu: the file is no longer mapped
}

// trackedQueries is how many are written down at one time, a kilobyte each.
const trackedQueries = 500

// openTracker opens the file below dir, which no other process may have open.
func openTracker(dir string, logger *slog.Logger) (*tracker, error) {
	lock, _, err := fileutil.Flock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	file, err := promql.NewActiveQueryTracker(dir, trackedQueries, logger)
	if err != nil {
		_ = lock.Release() // the other error says more
		return nil, err
	}
	return &tracker{file: file, lock: lock, slots: make(chan struct{}, trackedQueries)}, nil
}

// begin writes a query down and returns how to strike it out.
func (t *tracker) begin(text string) (end func()) {
	nothing := func() {}
	if t == nil {
		return nothing
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return nothing
	}
	select {
	case t.slots <- struct{}{}:
	default:
		return nothing
	}
	at, err := t.file.Insert(context.Background(), text) // there is a slot: it does not wait
	if err != nil {
		<-t.slots
		return nothing
	}
	return func() {
		t.mu.RLock()
		defer t.mu.RUnlock()
		if !t.closed {
			t.file.Delete(at)
			<-t.slots
		}
	}
}

func (t *tracker) close() error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if err := t.file.Close(); err != nil {
		return err
	}
	return t.lock.Release()
}
