package lease

import (
	"log/slog"
	"strings"
	"sync"

	"sluice/internal/log"
)

// View knows who holds the leases under a prefix, for somebody who shows them and claims none. It writes nothing.
type View struct {
	prefix string
	logger *slog.Logger

	mu      sync.Mutex // guards the rest
	entries map[string]entry
	logTime int64 // of the last record seen, ms
}

// NewView makes a view of the leases whose names begin with prefix. Apply fills it.
func NewView(prefix string, logger *slog.Logger) *View {
	return &View{prefix: prefix, logger: logger, entries: map[string]entry{}}
}

// Apply takes a record of the control topic over, whatever it is about; they must come in the order of the log.
func (v *View) Apply(rec *log.Record) {
	ch, ours, err := decode(rec)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.logTime = rec.Time
	switch {
	case !ours || !strings.HasPrefix(ch.name, v.prefix):
		return
	case err != nil:
		v.logger.Warn("lease record skipped", "offset", rec.Offset, "err", err)
		return
	}
	e, known := v.entries[ch.name]
	if ch.claim == nil {
		if known && judgeRelease(e, rec.Time, ch.release) {
			delete(v.entries, ch.name)
		}
		return
	}
	var cur *entry
	if known {
		cur = &e
	}
	v.entries[ch.name], _ = judge(cur, rec.Offset, rec.Time, ch.claim)
}

// Holder tells who holds a lease, without what makes two processes of one name different; "" = nobody, as of the last
// record of the topic.
func (v *View) Holder(name string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	e, ok := v.entries[name]
	if !ok || e.expires <= v.logTime {
		return ""
	}
	return Instance(e.holder)
}

// Instance is the process that a holder is.
func Instance(holder string) string {
	if i := strings.LastIndexByte(holder, '#'); i >= 0 {
		return holder[:i]
	}
	return holder
}
