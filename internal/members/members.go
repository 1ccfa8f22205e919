// Package members is how the processes of a cluster find each other: every process that can be asked for something says so
// in the control topic, and a Directory follows that topic. In go announcements and what its callers found out about
// members, out comes who holds a partition, the best to ask first, and which readers there are. It never calls a
// member: a caller that finds one silent asks the next one and says so (Suspect).
package members

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/internal/log"
)

// Kinds of members.
const (
	KindConsumer = "consumer"
	KindReader   = "reader"
)

// The ages from which an announcement is doubted: its member comes after all others. Consumers announce every 2 s,
// readers every 5 s.
const (
	StaleAfter       = 8 * time.Second
	ReaderStaleAfter = 20 * time.Second
)

// maxPenalty bounds how long a member that failed time and again is not trusted, however often it announces itself.
const maxPenalty = time.Minute

// keyPrefix starts the key of every announcement in the control topic.
const keyPrefix = "member/"

// Coverage says what a member can answer for: every sample of the partition whose offset is in [From, Applied).
type Coverage struct {
	TopicID   string `json:"topic_id,omitempty"` // incarnation of the topic of samples; "" = not told
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	Applied   int64  `json:"applied"`
}

// Member is one process and what it holds.
type Member struct {
	ID         string     `json:"id"`
	Addr       string     `json:"addr"` // base URL or host:port under which the others reach it
	Kind       string     `json:"kind"`
	Zone       string     `json:"zone,omitempty"`
	Time       int64      `json:"time"` // log time of the announcement, ms; Announce need not set it
	Partitions []Coverage `json:"partitions,omitempty"`
}

// Holder is a member that announced a partition.
type Holder struct {
	Member
	Coverage
	// Doubtful is a member that was suspected, or has not been heard of lately: to be asked only when nobody else is there.
	Doubtful bool
}

// Announce appends m to the control topic, replacing what the member said before. It returns once that is durable.
func Announce(ctx context.Context, l log.Log, m Member) error {
	if m.ID == "" {
		return fmt.Errorf("announce member: no ID")
	}
	value, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode member %s: %w", m.ID, err)
	}
	return put(ctx, l, m.ID, value)
}

// Withdraw takes the member out of every directory; a process does it last of all when it stops.
func Withdraw(ctx context.Context, l log.Log, id string) error { return put(ctx, l, id, nil) }

func put(ctx context.Context, l log.Log, id string, value []byte) error {
	rec := log.Record{Key: []byte(keyPrefix + id), Value: value}
	if err := l.Append(ctx, log.TopicControl, []log.Record{rec}); err != nil {
		return fmt.Errorf("announce member %s: %w", id, err)
	}
	return nil
}

// Directory knows the members as of the control topic.
type Directory struct {
	control *log.Table
	logger  *slog.Logger

	mu       sync.RWMutex
	members  map[string]Member
	suspects map[string]suspicion
	newest   int64 // log time of the newest announcement seen, ms: ages are measured against it, as clocks differ
}

// suspicion of a member that failed. It ends with the announcement whose log time is until or later: the next one after
// the first failure, later ones when a member announces itself but cannot be reached.
type suspicion struct {
	failures int   // in a row
	since    int64 // log time of the announcement that was known at the last failure, ms
	until    int64 // ms
}

// NewDirectory makes an empty directory, which control, the table of the control topic, fills.
func NewDirectory(control *log.Table, logger *slog.Logger) *Directory {
	d := &Directory{control: control, logger: logger, members: map[string]Member{}, suspects: map[string]suspicion{}}
	control.On(d.apply)
	return d
}

// Sync waits until everything that was announced before the call is known here.
func (d *Directory) Sync(ctx context.Context) error { return d.control.Sync(ctx) }

func (d *Directory) apply(rec *log.Record) {
	id, ok := strings.CutPrefix(string(rec.Key), keyPrefix)
	if !ok {
		return // other keys of the control topic are not ours
	}
	var m Member
	if rec.Value != nil {
		if err := json.Unmarshal(rec.Value, &m); err != nil || m.ID != id {
			d.logger.Warn("announcement skipped", "key", string(rec.Key), "offset", rec.Offset, "err", err)
			return
		}
		m.Time = rec.Time
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.newest = max(d.newest, rec.Time)
	if rec.Value == nil {
		delete(d.members, id)
		delete(d.suspects, id)
		return
	}
	d.members[id] = m
}

// Suspect notes that the member did not answer. It comes last until it announces itself again; if it fails again and
// again all the same, until it has done so for longer and longer, up to a minute.
func (d *Directory) Suspect(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, ok := d.members[id]
	if !ok {
		return
	}
	s := d.suspects[id]
	if s.failures > 0 && s.since == m.Time {
		return // many calls failed at once: that is one failure
	}
	penalty := time.Millisecond
	if s.failures > 0 {
		penalty = min(maxPenalty, 2*time.Second<<min(s.failures, 10))
	}
	d.suspects[id] = suspicion{s.failures + 1, m.Time, m.Time + penalty.Milliseconds()}
}

// Trust notes that the member has answered.
func (d *Directory) Trust(id string) {
	d.mu.RLock()
	_, suspected := d.suspects[id]
	d.mu.RUnlock()
	if !suspected {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.suspects, id)
}

// doubtful says whether m is to be asked only when there is nobody else. The caller holds mu.
func (d *Directory) doubtful(m *Member) bool {
	stale := StaleAfter
	if m.Kind == KindReader {
		stale = ReaderStaleAfter
	}
	s, suspected := d.suspects[m.ID]
	return suspected && m.Time < s.until || d.newest-m.Time > stale.Milliseconds()
}

// Members returns every member known, sorted by ID. The caller must not change their Partitions.
func (d *Directory) Members() []Member {
	d.mu.RLock()
	defer d.mu.RUnlock()
	all := make([]Member, 0, len(d.members))
	for _, m := range d.members {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// Holders returns the members that announced the partition, the one that has applied most of the log first; after them,
// in the same order, those that are doubtful.
func (d *Directory) Holders(partition int32) []Holder {
	var found []Holder
	d.mu.RLock()
	for _, m := range d.members {
		for _, c := range m.Partitions {
			if c.Partition == partition {
				found = append(found, Holder{m, c, d.doubtful(&m)})
				break
			}
		}
	}
	d.mu.RUnlock()
	slices.SortFunc(found, func(a, b Holder) int {
		switch {
		case a.Doubtful != b.Doubtful && b.Doubtful:
			return -1
		case a.Doubtful != b.Doubtful:
			return 1
		}
		return cmp.Or(cmp.Compare(b.Applied, a.Applied), strings.Compare(a.ID, b.ID))
	})
	return found
}

// Readers returns the readers that there is no doubt about, sorted by ID.
func (d *Directory) Readers() []Member {
	var found []Member
	d.mu.RLock()
	for _, m := range d.members {
		if m.Kind == KindReader && !d.doubtful(&m) {
			found = append(found, m)
		}
	}
	d.mu.RUnlock()
	slices.SortFunc(found, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return found
}
