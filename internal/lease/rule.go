package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"sluice/internal/log"
)

// A lease lives under one key of the control topic:
//
//	lease/<name>   value: a claim as JSON, {"v":1,"holder":…,"ttl_ms":…,"seq":…,"renews":{"since":…,"until":…}}
//	               no value: the lease is given up by whom the header "release" names, {"v":1,"holder":…,"since":…,"until":…};
//	               without that header by an operator, whoever holds it
//
// The rule, which every follower applies to every record in the order of the log (see judge):
//
//   - A claim is granted if at its place nobody else holds the lease, for ttl from the claim's log time on. Time is the
//     record's, set by the log: no clock of a process decides. A holder claims again to keep what it has.
//   - Giving up counts if it names who holds the lease at that place.
//   - Every other record changes nothing.
//
// # What compaction may do to it
//
// Compaction keeps the last record of a key, which may be one that changed nothing: a claim that lost a race by
// milliseconds, or a release that came late. A follower that starts after that knows less than the others. It is put right
// by three things:
//
//   - A loser's claim makes it believe in the loser for one ttl from that claim on, not longer, since a loser does not
//     renew; and that is at least as long as the winner's own grant lasts. All who claim a name must use the same ttl.
//   - The holder claims again as soon as it sees a record that changed nothing, so that the last record is its own again.
//   - Who renews or gives up says since which offset it has had the lease, and until which log time before this record. If
//     that was written in time, nobody else can have held the lease since then: of two who hold it without a break, the
//     older one does.
//
// What remains: a follower that was started between such a record and its holder's next one, while that holder died, may
// grant itself a lease that the others see with somebody else, for up to a third of a ttl. A lease keeps work from being
// done twice. It is no lock, no process that was stopped and goes on can know what it has lost, and whatever is done
// under one must be harmless when it is done twice or late.
const (
	keyPrefix     = "lease/"
	releaseHeader = "release"
	version       = 1

	maxNameBytes = 200
	maxTTL       = 24 * 3600 * 1000 // ms
)

// claim is the value of a record that asks for a lease or renews it.
type claim struct {
	Version int    `json:"v"`
	Holder  string `json:"holder"`
	TTL     int64  `json:"ttl_ms"`
	Seq     int64  `json:"seq"` // counts the claims of the holder, so that it knows which one it sees
	Renews  *term  `json:"renews,omitempty"`
}

// term is what a holder had when it wrote its renewal.
type term struct {
	Since int64 `json:"since"` // offset of the claim that it began with
	Until int64 `json:"until"` // log time at which it would end, ms
}

// release is the header of a record that gives a lease up.
type release struct {
	Version int    `json:"v"`
	Holder  string `json:"holder"`
	term
}

// entry is who holds a lease at some place of the log.
type entry struct {
	holder  string
	since   int64 // offset of the claim that its term began with
	expires int64 // log time, ms
	ttl     int64 // ms
}

// judge is the rule: who holds the lease after a claim at that offset and log time, given who held it before (nil =
// nobody), and whether the claim was granted.
func judge(cur *entry, offset, at int64, c *claim) (entry, bool) {
	next := entry{holder: c.Holder, since: offset, expires: at + c.TTL, ttl: c.TTL}
	unbroken := c.Renews != nil && at < c.Renews.Until
	if unbroken {
		next.since = c.Renews.Since
	}
	switch {
	case cur == nil || cur.expires <= at:
	case cur.holder == c.Holder:
		next.since = cur.since
	case unbroken && c.Renews.Since < cur.since:
	default:
		return *cur, false
	}
	return next, true
}

// judgeRelease says whether giving up at that log time frees the lease that cur holds. r is nil for an operator's.
func judgeRelease(cur entry, at int64, r *release) bool {
	return r == nil || r.Holder == cur.holder || at < r.Until && r.Since < cur.since
}

// change is a decoded record: a claim, or else the lease is given up.
type change struct {
	name    string
	claim   *claim
	release *release // nil = by an operator
}

// decode reads one record of the control topic; ours is false for what is no lease.
func decode(rec *log.Record) (ch change, ours bool, err error) {
	name, ours := strings.CutPrefix(string(rec.Key), keyPrefix)
	if !ours {
		return change{}, false, nil
	}
	if err := checkName(name); err != nil {
		return change{}, true, err
	}
	ch.name = name
	if len(rec.Value) == 0 {
		raw, ok := rec.Header(releaseHeader)
		if !ok {
			return ch, true, nil
		}
		ch.release = &release{}
		if err := json.Unmarshal(raw, ch.release); err != nil {
			return change{}, true, fmt.Errorf("release of lease %s: %w", name, err)
		}
		if ch.release.Version != version {
			return change{}, true, fmt.Errorf("release of lease %s: version %d is not known", name, ch.release.Version)
		}
		return ch, true, nil
	}
	var c claim
	if err := json.Unmarshal(rec.Value, &c); err != nil {
		return change{}, true, fmt.Errorf("claim of lease %s: %w", name, err)
	}
	switch {
	case c.Version != version:
		return change{}, true, fmt.Errorf("claim of lease %s: version %d is not known", name, c.Version)
	case c.Holder == "":
		return change{}, true, fmt.Errorf("claim of lease %s: no holder", name)
	case c.TTL <= 0 || c.TTL > maxTTL:
		return change{}, true, fmt.Errorf("claim of lease %s: ttl of %d ms", name, c.TTL)
	case c.Renews != nil && (c.Renews.Since < 0 || c.Renews.Since >= rec.Offset):
		return change{}, true, fmt.Errorf("claim of lease %s: at offset %d it renews a term since %d", name, rec.Offset, c.Renews.Since)
	}
	ch.claim = &c
	return ch, true, nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxNameBytes {
		return fmt.Errorf("name of a lease %.40q has %d bytes, want 1 to %d", name, len(name), maxNameBytes)
	}
	return nil
}

func encodeClaim(name string, c claim) (log.Record, error) {
	value, err := json.Marshal(c)
	if err != nil {
		return log.Record{}, fmt.Errorf("encode claim of lease %s: %w", name, err)
	}
	return log.Record{Key: []byte(keyPrefix + name), Value: value}, nil
}

// encodeRelease makes the record with which the holder of e gives it up.
func encodeRelease(name string, e entry) (log.Record, error) {
	raw, err := json.Marshal(release{version, e.holder, term{e.since, e.expires}})
	if err != nil {
		return log.Record{}, fmt.Errorf("encode release of lease %s: %w", name, err)
	}
	return log.Record{Key: []byte(keyPrefix + name), Headers: []log.Header{{Key: releaseHeader, Value: raw}}}, nil
}

// ErrLost is why the context of a lease has ended when it could not be renewed in time or somebody else has it.
var ErrLost = errors.New("lease lost")
