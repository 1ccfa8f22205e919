package log

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Table follows a topic of one partition from its start, so that somebody's state is a function of it: that of one, or of
// all in a process who want to know of the topic, so that it is read once and not by each of them.
type Table struct {
	log   Log
	topic string

	mu      sync.Mutex // guards the rest
	apply   []func(rec *Record)
	running bool
	pos     int64         // everything before it has been applied
	changed chan struct{} // closed when pos moves or err is set
	err     error         // why Run has ended
}

// NewTable returns a table that calls each apply, and those that On adds, for each record, in order, from the goroutine of
// Run. The record is valid during the call only. In a compacted topic a superseded record may or may not be among them.
func NewTable(l Log, topic string, apply ...func(rec *Record)) *Table {
	return &Table{log: l, topic: topic, apply: apply, changed: make(chan struct{})}
}

// On has apply called as well. It panics once Run is called: whoever came later would have missed the beginning.
func (t *Table) On(apply func(rec *Record)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running {
		panic("log: On after Run")
	}
	t.apply = append(t.apply, apply)
}

// lookAgain is how often Run sees whether the reader's position has moved without a record.
const lookAgain = 500 * time.Millisecond

// Run follows the topic until ctx ends, and then returns nil. It may be called once. A log that does not answer at the
// moment, as while a leader is being elected, is asked again: who waits in Sync has a limit of his own. It fails when
// the log is closed and when the topic is not the one it was.
func (t *Table) Run(ctx context.Context) error {
	t.mu.Lock()
	t.running = true
	t.mu.Unlock()
	err := t.run(ctx)
	if ctx.Err() != nil {
		err = nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err = err; t.err == nil {
		t.err = fmt.Errorf("follow %s: %w", t.topic, context.Canceled)
	}
	close(t.changed)
	t.changed = make(chan struct{})
	return err
}

func (t *Table) run(ctx context.Context) error {
	for {
		b, err := t.log.Bounds(ctx, t.topic, 0)
		var r Reader
		if err == nil {
			r, err = t.log.Reader(t.topic, 0, b.Start)
		}
		switch {
		case err == nil:
		case ctx.Err() != nil, errors.Is(err, ErrClosed), errors.Is(err, ErrUnknownPartition):
			return fmt.Errorf("follow %s: %w", t.topic, err)
		default:
			select {
			case <-ctx.Done():
			case <-time.After(lookAgain):
			}
			continue
		}
		t.moved(b.Start)
		err = errors.Join(t.follow(ctx, r), r.Close())
		// Records before the start are gone, by somebody's will. What follows still holds. An end before the position is
		// another topic under the same name: nothing that was applied holds.
		var out *OutOfRangeError
		if errors.As(err, &out) && out.Offset < out.Bounds.Start {
			continue
		}
		return fmt.Errorf("follow %s: %w", t.topic, err)
	}
}

func (t *Table) follow(ctx context.Context, r Reader) error {
	for {
		wait, cancel := context.WithTimeout(ctx, lookAgain)
		recs, err := r.Next(wait)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		for i := range recs {
			for _, apply := range t.apply { // not changed any more
				apply(&recs[i])
			}
		}
		t.moved(r.Position())
	}
}

func (t *Table) moved(pos int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if pos <= t.pos {
		return
	}
	t.pos = pos
	close(t.changed)
	t.changed = make(chan struct{})
}

// Sync returns when everything has been applied that was in the topic at the time of the call. It may be called before
// Run, and waits for it. It fails when ctx ends, when the log does not tell its end, and when Run has ended.
//
// The last offsets of a compacted topic need not hold a record (a tombstone whose time has come, a transaction's
// marker), so it is the reader's position that is compared and not the last record's offset.
func (t *Table) Sync(ctx context.Context) error {
	b, err := t.log.Bounds(ctx, t.topic, 0)
	if err != nil {
		return fmt.Errorf("catch up with %s: %w", t.topic, err)
	}
	for {
		t.mu.Lock()
		pos, changed, err := t.pos, t.changed, t.err
		t.mu.Unlock()
		if pos >= b.End {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("catch up with %s, at %d of %d: %w", t.topic, pos, b.End, ctx.Err())
		}
	}
}
