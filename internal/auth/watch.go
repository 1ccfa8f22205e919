package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// maxFile bounds what is read of a file: a hundred thousand users.
const maxFile = 32 << 20

// watched is a file that is read again when it changes. What it was last good for stays.
type watched[T any] struct {
	path    string
	parse   func(content []byte) (parsed *T, entries int, err error)
	metrics *metrics
	logger  *slog.Logger

	current atomic.Pointer[T]

	// Owned by watch, then by run.
	content []byte // of the file, when current was made of it
	pending []byte // content seen once that differs from it
	lastErr string // so that a file that stays broken is logged once
}

// watch reads the file for the first time; it must be good.
func watch[T any](path string, parse func([]byte) (*T, int, error), m *metrics, logger *slog.Logger) (*watched[T], error) {
	w := &watched[T]{path: path, parse: parse, metrics: m, logger: logger}
	return w, w.reload()
}

func (w *watched[T]) run(ctx context.Context, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		err := w.reload()
		switch {
		case err == nil && w.pending == nil:
			w.lastErr = ""
		case err != nil && err.Error() != w.lastErr:
			w.lastErr = err.Error()
			w.logger.Error("file refused, what it said before stays in force", "path", w.path, "err", err)
		}
	}
}

// reload reads the file and, if it is good, makes it current. New content counts once it has been read twice: a file that is
// being written in place is short for a moment, and what is left of it may be valid and lock users out.
func (w *watched[T]) reload() error {
	content, err := readFile(w.path)
	if err != nil {
		w.metrics.failures.WithLabelValues(w.path).Inc()
		return fmt.Errorf("read %s: %w", w.path, err)
	}
	first := w.current.Load() == nil
	switch {
	case !first && bytes.Equal(content, w.content):
		w.pending = nil
		w.metrics.success(w.path)
		return nil
	case !first && (w.pending == nil || !bytes.Equal(content, w.pending)):
		w.pending = append([]byte{}, content...)
		return nil
	}
	parsed, entries, err := w.parse(content)
	if err != nil {
		w.metrics.failures.WithLabelValues(w.path).Inc()
		return fmt.Errorf("read %s: %w", w.path, err)
	}
	w.content, w.pending = content, nil
	w.current.Store(parsed)
	w.metrics.success(w.path)
	if !first {
		w.logger.Info("file read again", "path", w.path, "entries", entries)
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = errors.New("the file is larger than 32 MiB")
	}
	return content, err
}
