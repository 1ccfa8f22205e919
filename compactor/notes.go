package compactor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"sluice/internal/log"
	"sluice/internal/plan"
)

// What compactors leave for each other and for themselves after a restart, in the control topic:
//
//	compactor/shard/<n>              value: shardNote as JSON, written by whoever has tidied the shard, under its lease
//	quarantine/<tenant>/<ulid>       value: plan.SetAside as JSON: the block could not be read for merging
//
// A record without a value forgets its key. Losing any of it costs work, never data.
const shardPrefix = "compactor/shard/"

// shardNote says when a shard was last seen to. Times are of the writer's clock, ms: they space out work, and a clock that
// is wrong makes it be done more often.
type shardNote struct {
	By         string `json:"by"`
	Tidied     int64  `json:"tidied"`
	Reconciled int64  `json:"reconciled,omitempty"` // 0 = never
	Missing    int    `json:"missing,omitempty"`    // blocks that were not in the bucket then
}

// notes follows what compactors have left.
type notes struct {
	log     log.Log
	control *log.Table
	logger  *slog.Logger

	aside plan.Quarantine // blocks that could not be read

	mu     sync.Mutex // guards the rest
	shards [shards]shardNote
}

// newNotes makes notes that know what control, the table of the control topic, has read.
func newNotes(l log.Log, control *log.Table, logger *slog.Logger) *notes {
	n := &notes{log: l, control: control, logger: logger}
	control.On(n.apply)
	return n
}

func (n *notes) apply(rec *log.Record) {
	if err := n.take(string(rec.Key), rec.Value); err != nil {
		n.logger.Warn("note of a compactor skipped", "offset", rec.Offset, "err", err)
	}
}

// take takes one record over; what is not ours is no error.
func (n *notes) take(key string, value []byte) error {
	rest, ok := strings.CutPrefix(key, shardPrefix)
	if !ok {
		return n.aside.Take(key, value)
	}
	i, err := strconv.Atoi(rest)
	if err != nil || i < 0 || i >= shards || strconv.Itoa(i) != rest {
		return fmt.Errorf("note of shard %.40q", rest)
	}
	var note shardNote
	if len(value) > 0 {
		if err := json.Unmarshal(value, &note); err != nil {
			return fmt.Errorf("note of shard %d: %w", i, err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.shards[i] = note
	return nil
}

func (n *notes) shard(i int) shardNote {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.shards[i]
}

// missing is how many blocks were not in the bucket at the last listings, over all shards.
func (n *notes) missing() (sum int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.shards {
		sum += s.Missing
	}
	return sum
}

// putShard writes the note of a shard. It holds here once it has come back through the log.
func (n *notes) putShard(ctx context.Context, i int, note shardNote) error {
	return n.put(ctx, shardPrefix+strconv.Itoa(i), note)
}

// putAside writes that a block is set aside, which holds here at once.
func (n *notes) putAside(ctx context.Context, key blockKey, note plan.SetAside) error {
	n.aside.Put(key, &note)
	return n.put(ctx, plan.QuarantineKey(key), note)
}

// lift forgets that a block was set aside.
func (n *notes) lift(ctx context.Context, key blockKey) error {
	n.aside.Put(key, nil)
	if err := n.log.Append(ctx, log.TopicControl, []log.Record{{Key: []byte(plan.QuarantineKey(key))}}); err != nil {
		return fmt.Errorf("forget that block %s of tenant %s was set aside: %w", key.ID, key.Tenant, err)
	}
	return nil
}

func (n *notes) put(ctx context.Context, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode note %s: %w", key, err)
	}
	if err := n.log.Append(ctx, log.TopicControl, []log.Record{{Key: []byte(key), Value: value}}); err != nil {
		return fmt.Errorf("write note %s: %w", key, err)
	}
	return nil
}
