package processes

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/internal/log"
)

// The ages of an announcement, in log time, from which its process counts as silent, and from which it is not shown.
const (
	SilentAfter    = 20 * time.Second
	ForgottenAfter = time.Hour
)

// maxProcesses bounds what the topic can make a reader remember.
const maxProcesses = 10_000

// Directory knows what the processes said.
type Directory struct {
	control *log.Table
	logger  *slog.Logger

	mu     sync.RWMutex
	all    map[string]*Process // guarded by mu; by key
	newest int64               // guarded by mu; log time of the last record of the topic, ms: ages are measured against it, as clocks differ
}

// NewDirectory makes an empty directory, which control, the table of the control topic, fills.
func NewDirectory(control *log.Table, logger *slog.Logger) *Directory {
	d := &Directory{control: control, logger: logger, all: map[string]*Process{}}
	control.On(d.apply)
	return d
}

// Sync waits until everything that was said before the call is known here.
func (d *Directory) Sync(ctx context.Context) error { return d.control.Sync(ctx) }

func (d *Directory) apply(rec *log.Record) {
	p, ours, err := decode(rec.Key, rec.Value)
	if err != nil {
		d.logger.Warn("what a process does skipped", "key", string(rec.Key), "offset", rec.Offset, "err", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.newest = max(d.newest, rec.Time)
	switch {
	case !ours, err != nil:
	case p == nil:
		delete(d.all, string(rec.Key))
	default:
		p.Told = rec.Time
		d.all[string(rec.Key)] = p
		d.forget()
	}
}

// forget drops those that are not shown any more when there are many. The caller holds mu.
func (d *Directory) forget() {
	if len(d.all) <= maxProcesses {
		return
	}
	oldest := ""
	for key, p := range d.all {
		if d.newest-p.Told > ForgottenAfter.Milliseconds() {
			delete(d.all, key)
		} else if oldest == "" || p.Told < d.all[oldest].Told {
			oldest = key
		}
	}
	if len(d.all) > maxProcesses {
		delete(d.all, oldest)
	}
}

// List returns the processes that were heard of within ForgottenAfter, by ID, and the log time now, ms: that of the last
// record of the topic. What the processes point to is shared and must not be changed.
func (d *Directory) List() (all []Process, now int64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, p := range d.all {
		age := d.newest - p.Told
		if age > ForgottenAfter.Milliseconds() {
			continue
		}
		shown := *p
		shown.Silent = age > SilentAfter.Milliseconds()
		all = append(all, shown)
	}
	slices.SortFunc(all, func(a, b Process) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), slices.Compare(a.Stages, b.Stages))
	})
	return all, d.newest
}
