package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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

// DecodeSetAside reads a record of the control topic. ours is false for what is no such note, which is no error; note is nil
// when the block is set aside no more.
func DecodeSetAside(key string, value []byte) (block BlockKey, note *SetAside, ours bool, err error) {
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
