package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"sluice/schema"
)

// BlockKey names a block of the cluster.
type BlockKey struct {
	Tenant schema.Tenant
	ID     ulid.ULID
}

// SetAside says why a block is not merged. It lies in the control topic, by key:
//
//	quarantine/<tenant>/<ulid>       value: SetAside as JSON; none = the block is set aside no more
type SetAside struct {
	At    int64  `json:"at"` // by the writer's clock, ms
	By    string `json:"by"` // the holder of the merge's lease
	Cause string `json:"cause"`
}

// quarantineFor is how long a block stays set aside before a merge tries it again: what made it unreadable may have been
// the store's, or somebody may have put it right.
const quarantineFor = 24 * time.Hour

// Fresh says whether merges leave the block alone at the time now.
func (s SetAside) Fresh(now time.Time) bool {
	return now.UnixMilli()-s.At < quarantineFor.Milliseconds()
}

const quarantinePrefix = "quarantine/"

// QuarantineKey is the key of the note of a block.
func QuarantineKey(k BlockKey) string {
	return quarantinePrefix + string(k.Tenant) + "/" + k.ID.String()
}

// decodeSetAside reads a record of the control topic. ours is false for what is no such note, which is no error; note is nil
// when the block is set aside no more.
func decodeSetAside(key string, value []byte) (block BlockKey, note *SetAside, ours bool, err error) {
	rest, ours := strings.CutPrefix(key, quarantinePrefix)
	if !ours {
		return BlockKey{}, nil, false, nil
	}
	name, text, _ := strings.Cut(rest, "/")
	tenant, err := schema.ParseTenant(name)
	id, err2 := ulid.ParseStrict(text)
	if err := errors.Join(err, err2); err != nil {
		return BlockKey{}, nil, true, fmt.Errorf("block set aside %.80q: %w", rest, err)
	}
	block = BlockKey{tenant, id}
	if len(value) == 0 {
		return block, nil, true, nil
	}
	note = &SetAside{}
	if err := json.Unmarshal(value, note); err != nil {
		return BlockKey{}, nil, true, fmt.Errorf("block set aside %s of tenant %s: %w", id, tenant, err)
	}
	return block, note, true, nil
}

// Quarantine knows which blocks are set aside, out of the control topic. The zero value knows none. It may be used from many goroutines.
type Quarantine struct {
	mu    sync.Mutex
	notes map[BlockKey]SetAside // guarded by mu
}

// Take takes a record of the control topic over; what is no such note is no error.
func (q *Quarantine) Take(key string, value []byte) error {
	block, note, ours, err := decodeSetAside(key, value)
	if ours && err == nil {
		q.Put(block, note)
	}
	return err
}

// Put notes that a block is set aside, or with nil that it is no more.
func (q *Quarantine) Put(block BlockKey, note *SetAside) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if note == nil {
		delete(q.notes, block)
		return
	}
	if q.notes == nil {
		q.notes = map[BlockKey]SetAside{}
	}
	q.notes[block] = *note
}

// Of tells whether merges leave the block alone at the time now, and why.
func (q *Quarantine) Of(block BlockKey, now time.Time) (SetAside, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	note, ok := q.notes[block]
	return note, ok && note.Fresh(now)
}

// Count is how many blocks merges leave alone at the time now.
func (q *Quarantine) Count(now time.Time) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, note := range q.notes {
		if note.Fresh(now) {
			n++
		}
	}
	return n
}

// Noted lists the blocks of a tenant that there is a note of, be it an old one.
func (q *Quarantine) Noted(tenant schema.Tenant) (ids []ulid.ULID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for block := range q.notes {
		if block.Tenant == tenant {
			ids = append(ids, block.ID)
		}
	}
	return ids
}

// LeasePrefix and an ID make the name of the lease under which a merge is done.
const LeasePrefix = "compactor/job/"

// ID names a merge: the same inputs are the same job, whoever plans it.
func ID(tenant schema.Tenant, blocks []*schema.BlockEntry) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", tenant)
	for _, e := range blocks {
		fmt.Fprintf(h, "%s\n", e.ID)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
