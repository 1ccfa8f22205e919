// Package limits knows what each tenant may do. In goes a YAML file with defaults, classes and overrides, read again when it
// changes; out comes a tenant's schema.Limits, without a lock. It enforces nothing, and a file that it cannot use never
// replaces one that it could.
package limits

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"sluice/internal/watch"
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
	file    *watch.File[table]
	metrics *metrics
	now     func() time.Time
}

// New reads the file, which must be there and valid: a process that starts with limits other than those asked for is worse
// than one that does not start.
func New(cfg Config, logger *slog.Logger, reg prometheus.Registerer) (*Limits, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l := &Limits{metrics: newMetrics(reg), now: time.Now}
	if cfg.Path == "" {
		t, err := parse(nil, nil)
		if err != nil {
			return nil, err
		}
		l.file = watch.Fixed(t)
		return l, nil
	}
	var err error
	l.file, err = watch.Open(watch.Config[table]{
		Path: cfg.Path, Every: cfg.Reload, Parse: parse,
		Good: func() { l.metrics.success(l.now()) }, Bad: l.metrics.failures.Inc,
	}, logger)
	if err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	return l, nil
}

// For returns the limits of tenant. They belong to everybody and must not be changed.
func (l *Limits) For(tenant schema.Tenant) *schema.Limits {
	t := l.file.Load()
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
	t := l.file.Load()
	if o := t.overrides[tenant]; o != nil {
		return Source{Class: o.class, Override: true}
	}
	if c := t.classOf(string(tenant)); c != nil {
		return Source{Class: c.pattern}
	}
	return Source{}
}

// Run looks at the file every Config.Reload until ctx ends, and uses what it has found the same twice.
func (l *Limits) Run(ctx context.Context) error { return l.file.Run(ctx) }
