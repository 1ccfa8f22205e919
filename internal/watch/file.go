// Package watch reads files again when they change. In goes a path and what makes something of its content, out comes the
// last good reading. A file that is gone or wrong changes nothing, and is counted each time and logged once; it never knows
// what a file is about.
package watch

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

// maxFile bounds what is read of a file, in bytes: a hundred thousand users, or tenants with limits of their own.
const maxFile = 32 << 20

// File is the last good reading of a file.
type File[T any] struct {
	cfg    Config[T]
	logger *slog.Logger

	current atomic.Pointer[T]

	// Owned by Open, then by Run.
	content []byte // of the file, when current was made of it
	pending []byte // content seen once that differs from it
	lastErr string // so that a file that stays broken is logged once
}

// Config of a File.
type Config[T any] struct {
	Path  string
	Every time.Duration // how often the file is looked at
	// Parse makes something of the content; before is what was made of the content before it, nil the first time.
	Parse func(content []byte, before *T) (*T, error)
	// Good and Bad are told how each look at the file has ended.
	Good, Bad func()
}

// Open reads the file for the first time: it must be there and good.
func Open[T any](cfg Config[T], logger *slog.Logger) (*File[T], error) {
	f := &File[T]{cfg: cfg, logger: logger}
	return f, f.Reload()
}

// Fixed is what takes the place of a file where there is none.
func Fixed[T any](v *T) *File[T] {
	f := &File[T]{}
	f.current.Store(v)
	return f
}

// Load returns what was made of the file. It belongs to everybody and must not be changed.
func (f *File[T]) Load() *T { return f.current.Load() }

// Run looks at the file every Config.Every until ctx ends.
func (f *File[T]) Run(ctx context.Context) error {
	if f.cfg.Path == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	ticker := time.NewTicker(f.cfg.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		err := f.Reload()
		switch {
		case err == nil && f.pending == nil:
			f.lastErr = ""
		case err != nil && err.Error() != f.lastErr:
			f.lastErr = err.Error()
			f.logger.Error("file refused, what it said before stays in force", "path", f.cfg.Path, "err", err)
		}
	}
}

// Reload reads the file and, if it is good, makes it current. New content counts once it has been read twice: a file that is
// being written in place is short for a moment, and what is left of it may be valid, and lock users out or delete a tenant's
// blocks. For Run, and for tests.
func (f *File[T]) Reload() error {
	content, err := read(f.cfg.Path)
	if err != nil {
		f.cfg.Bad()
		return fmt.Errorf("read %s: %w", f.cfg.Path, err)
	}
	before := f.current.Load()
	switch {
	case before != nil && bytes.Equal(content, f.content):
		f.pending = nil
		f.cfg.Good()
		return nil
	case before != nil && (f.pending == nil || !bytes.Equal(content, f.pending)):
		f.pending = append([]byte{}, content...)
		return nil
	}
	parsed, err := f.cfg.Parse(content, before)
	if err != nil {
		f.cfg.Bad()
		return fmt.Errorf("read %s: %w", f.cfg.Path, err)
	}
	f.content, f.pending = content, nil
	f.current.Store(parsed)
	f.cfg.Good()
	if before != nil {
		f.logger.Info("file read again", "path", f.cfg.Path)
	}
	return nil
}

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = errors.New("the file is larger than 32 MiB")
	}
	return content, err
}
