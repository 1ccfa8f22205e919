// Package limits knows what each tenant may do. In goes a YAML file with defaults, classes and overrides, read again when it
// changes; out comes a tenant's schema.Limits, without a lock. It enforces nothing, and a file that it cannot use never
// replaces one that it could.
package limits

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/schema"
)

// Config of Limits.
type Config struct {
	Path   string        // YAML file; empty = schema.DefaultLimits for every tenant
	Reload time.Duration // how often the file is looked at; default 10 s
}

// Validate fills in defaults and refuses what cannot be meant.
func (c *Config) Validate() error {
	if c.Reload < 0 {
		return fmt.Errorf("limits reload interval is %s, must not be negative", c.Reload)
	}
	if c.Reload == 0 {
		c.Reload = 10 * time.Second
	}
	return nil
}

// Limits answers For from the last good reading of the file.
type Limits struct {
	cfg     Config
	logger  *slog.Logger
	metrics *metrics
	now     func() time.Time

	current atomic.Pointer[table]

	// Owned by New, then by Run.
	content []byte // of the file, when current was made from it
	pending []byte // content seen once that differs from it
	lastErr string // so that a file that stays broken is logged once
}

// New reads the file, which must be there and valid: a process that starts with limits other than those asked for is worse
// than one that does not start.
func New(cfg Config, logger *slog.Logger, reg prometheus.Registerer) (*Limits, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l := &Limits{cfg: cfg, logger: logger, metrics: newMetrics(reg), now: time.Now}
	if cfg.Path == "" {
		t, err := parse(nil, nil)
		if err != nil {
			return nil, err
		}
		l.current.Store(t)
		return l, nil
	}
	if err := l.reload(); err != nil {
		return nil, err
	}
	return l, nil
}

// For returns the limits of tenant. They belong to everybody and must not be changed.
func (l *Limits) For(tenant schema.Tenant) *schema.Limits {
	t := l.current.Load()
	if o := t.overrides[tenant]; o != nil {
		return &o.limits
	}
	if c := t.classOf(string(tenant)); c != nil {
		return &c.limits
	}
	return t.fallback
}

// Source says which parts of the file made the limits of tenant.
type Source struct {
	Class    string `json:"class"`    // the pattern of its class, empty for none
	Override bool   `json:"override"` // it has settings of its own
}

// Source returns where the limits of tenant come from.
func (l *Limits) Source(tenant schema.Tenant) Source {
	t := l.current.Load()
	if o := t.overrides[tenant]; o != nil {
		return Source{Class: o.class, Override: true}
	}
	if c := t.classOf(string(tenant)); c != nil {
		return Source{Class: c.pattern}
	}
	return Source{}
}

// Run looks at the file every Config.Reload until ctx ends, and uses what it has found the same twice. A file that is gone or wrong changes nothing; it is counted
// each time and logged once.
func (l *Limits) Run(ctx context.Context) error {
	if l.cfg.Path == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	ticker := time.NewTicker(l.cfg.Reload)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		err := l.reload()
		switch {
		case err == nil && l.pending == nil:
			l.lastErr = ""
		case err == nil: // to be decided at the next look
		case err.Error() != l.lastErr:
			l.lastErr = err.Error()
			l.logger.Error("limits file refused, the old limits stay", "path", l.cfg.Path, "err", err)
		}
	}
}

// reload reads the file and, if it is good, makes it current. New content counts once it has been read twice: a file that is
// being written in place is short for a moment, and what is left of it may be valid and give a tenant the wrong retention.
func (l *Limits) reload() error {
	content, err := os.ReadFile(l.cfg.Path)
	if err != nil {
		l.metrics.failures.Inc()
		return fmt.Errorf("read limits: %w", err)
	}
	first := l.current.Load() == nil
	switch {
	case !first && bytes.Equal(content, l.content):
		l.pending = nil
		l.metrics.success(l.now())
		return nil
	case !first && (l.pending == nil || !bytes.Equal(content, l.pending)):
		l.pending = append([]byte{}, content...)
		return nil
	}
	t, err := parse(content, l.current.Load())
	if err != nil {
		l.metrics.failures.Inc()
		return fmt.Errorf("read limits %s: %w", l.cfg.Path, err)
	}
	l.content, l.pending = content, nil
	l.current.Store(t)
	l.metrics.success(l.now())
	if !first {
		l.logger.Info("limits reloaded", "path", l.cfg.Path, "classes", len(t.classes), "overrides", len(t.overrides))
	}
	return nil
}
