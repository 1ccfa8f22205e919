package ha

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"sluice/internal/log"
	"sluice/schema"
)

// What stands in the control topic, by key:
//
//	ha/elect/<tenant>/<cluster>   a claim: {"v":1,"replica":…,"epoch":…,"timeout_ms":…,"seen":…,"as_of":…}
//	                              or a statement of what was decided: {"v":1,"replica":…,"epoch":…,"timeout_ms":…,"seen":…,"claim":…,"since":…}
//	                              no value: the cluster is forgotten; the header "claim" names the term that this is about
//	ha/seen/<instance>/<n>        which elected replicas a producer has heard of within their time-out (see encodeSeen)
//	ha/time                       nothing; whoever starts writes it, to learn the log's time
//
// # The rule
//
// Each election is for an epoch, one more than the last. Of all valid claims the one of the highest epoch counts, and of
// those for one epoch the first in the log. So who is elected is the maximum over a set of claims: it does not depend on the
// order in which, or how often, a follower hears of them, and the followers who have heard the same agree.
//
// Whether a claim is valid can be told from its record alone, by the times that the log gave to records:
//
//   - It is not late: the claimant had read the log up to as_of, and its claim stands there at most maxLate later. What was
//     held up in a process that stood still, or in a client's buffer, does not count: the world has moved on.
//   - It is not early: from seen, the last sign of life of the replica in office, until the claim the time-out has passed.
//
// The claimant must also have waited for the time-out by its own monotonic clock, so that no jump of a wall clock,
// neither a broker's nor ours, moves an election.
//
// # What compaction may do to it
//
// Compaction keeps the last record of a key. If that is a claim that did not count, who starts afterwards would take the
// loser for elected. So whoever sees a record that is not about the term in office states, after a moment and unless somebody
// else has, what was decided: the epoch and the offset of the claim, which is all that the rule needs. A statement is a
// member of the same set as claims are; one that is old or wrong loses like any other.
const (
	electPrefix = "ha/elect/"
	seenPrefix  = "ha/seen/"
	timeKey     = "ha/time"
	claimHeader = "claim"
	version     = 1

	maxLate = 5000 // ms
	// slack is what rounding and the way of a record through the log may take off a time-out, ms.
	slack    = 500
	maxEpoch = 1 << 40
	maxSpan  = 24 * 3600 * 1000 // ms; the longest time-out

	// MaxNameBytes bounds the names of clusters and of replicas.
	MaxNameBytes = 1024
)

// term is who is elected.
type term struct {
	epoch   int64
	claim   int64 // offset of the claim that began it
	replica string
	since   int64 // log time of that claim, ms
	timeout int64 // ms, of the claim
}

// beats tells which of two terms of a cluster counts. It is a total order over different claims.
func (t term) beats(o term) bool {
	return t.epoch > o.epoch || t.epoch == o.epoch && t.claim < o.claim
}

// ballot is the value under a cluster's key: a claim, or a statement if it has a Claim.
type ballot struct {
	Version int    `json:"v"`
	Replica string `json:"replica"`
	Epoch   int64  `json:"epoch"`
	Timeout int64  `json:"timeout_ms"`
	// Seen is the log time of the last sign of life, ms: of the replica that a claim would replace, 0 = there is none; of the
	// elected one in a statement.
	Seen  int64  `json:"seen"`
	AsOf  int64  `json:"as_of,omitempty"` // of a claim: the newest log time that the claimant knows, ms
	Claim *int64 `json:"claim,omitempty"` // of a statement: offset of the claim
	Since int64  `json:"since,omitempty"` // and its log time, ms
}

// valid says whether a claim counts, going by its record's log time.
func (b *ballot) valid(at int64) bool {
	switch {
	case b.Claim != nil:
		return true
	case at-b.AsOf > maxLate:
		return false
	}
	return b.Epoch == 1 || at-b.Seen >= b.Timeout-slack
}

// term is what the ballot, found at an offset and log time, says.
func (b *ballot) term(offset, at int64) term {
	t := term{epoch: b.Epoch, claim: offset, replica: b.Replica, since: at, timeout: b.Timeout}
	if b.Claim != nil {
		t.claim, t.since = *b.Claim, b.Since
	}
	return t
}

// change is a decoded record about one cluster: a ballot, or else the cluster is forgotten.
type change struct {
	tenant  schema.Tenant
	cluster string
	ballot  *ballot
	forgets *int64 // offset of the claim; nil = whichever
}

// decodeElect reads a record whose key starts with electPrefix.
func decodeElect(rec *log.Record) (ch change, err error) {
	name, cluster, ok := strings.Cut(strings.TrimPrefix(string(rec.Key), electPrefix), "/")
	if !ok {
		return ch, fmt.Errorf("key %.100q names no cluster", rec.Key)
	}
	if ch.tenant, err = schema.ParseTenant(name); err != nil {
		return ch, err
	}
	if ch.cluster = cluster; !goodName(cluster) {
		return ch, fmt.Errorf("cluster name of %d bytes is empty, too long or not UTF-8", len(cluster))
	}
	if len(rec.Value) == 0 {
		if raw, ok := rec.Header(claimHeader); ok {
			claim, err := strconv.ParseInt(string(raw), 10, 64)
			if err != nil {
				return ch, fmt.Errorf("header %s: %w", claimHeader, err)
			}
			ch.forgets = &claim
		}
		return ch, nil
	}
	var b ballot
	if err := json.Unmarshal(rec.Value, &b); err != nil {
		return ch, err
	}
	switch {
	case b.Version != version:
		return ch, fmt.Errorf("version %d is not known", b.Version)
	case !goodName(b.Replica):
		return ch, fmt.Errorf("replica name of %d bytes is empty, too long or not UTF-8", len(b.Replica))
	case b.Epoch < 1 || b.Epoch > maxEpoch:
		return ch, fmt.Errorf("epoch %d", b.Epoch)
	case b.Timeout < 1 || b.Timeout > maxSpan:
		return ch, fmt.Errorf("time-out of %d ms", b.Timeout)
	case b.Seen < 0 || b.AsOf < 0 || b.Since < 0:
		return ch, fmt.Errorf("negative time: seen %d, as of %d, since %d", b.Seen, b.AsOf, b.Since)
	case b.Claim != nil && (*b.Claim < 0 || *b.Claim >= rec.Offset):
		return ch, fmt.Errorf("at offset %d it states a claim at %d", rec.Offset, *b.Claim)
	}
	ch.ballot = &b
	return ch, nil
}

func goodName(s string) bool { return s != "" && len(s) <= MaxNameBytes && utf8.ValidString(s) }

func electKey(tenant schema.Tenant, cluster string) []byte {
	return []byte(electPrefix + string(tenant) + "/" + cluster)
}

func encodeBallot(tenant schema.Tenant, cluster string, b ballot) log.Record {
	b.Version = version
	value, err := json.Marshal(b)
	if err != nil {
		panic(err) // it is made of strings and numbers
	}
	return log.Record{Key: electKey(tenant, cluster), Value: value}
}

func encodeForget(tenant schema.Tenant, cluster string, claim int64) log.Record {
	return log.Record{
		Key:     electKey(tenant, cluster),
		Headers: []log.Header{{Key: claimHeader, Value: strconv.AppendInt(nil, claim, 10)}},
	}
}

// sign says that a producer heard of the replica that was elected by the claim at this offset, so many ms before the record.
type sign struct{ claim, age int64 }

const (
	// ageUnit is what ages are counted in, ms: one byte reaches far enough.
	ageUnit = 100
	// maxSigns bounds those of one record, far below its largest size.
	maxSigns = 40_000
)

// encodeSeen writes signs, which are in the order of their claims, as
//
//	version (byte)   for each: claim - the one before (uvarint), age in 100 ms (uvarint)
//
// which is three or four bytes for each cluster.
func encodeSeen(dst []byte, signs []sign) []byte {
	dst = append(dst, version)
	before := int64(0)
	for _, s := range signs {
		dst = binary.AppendUvarint(dst, uint64(s.claim-before))
		dst = binary.AppendUvarint(dst, uint64((max(0, s.age)+ageUnit-1)/ageUnit))
		before = s.claim
	}
	return dst
}

var errSeen = errors.New("signs of life are cut off or out of range")

// decodeSeen calls f for each sign in value.
func decodeSeen(value []byte, f func(sign)) error {
	if len(value) == 0 {
		return nil // forgotten
	}
	if value[0] != version {
		return fmt.Errorf("signs of life of version %d", value[0])
	}
	var s sign
	for b := value[1:]; len(b) > 0; {
		delta, n := binary.Uvarint(b)
		if n <= 0 || delta > uint64(1<<62-s.claim) {
			return errSeen
		}
		age, m := binary.Uvarint(b[n:])
		if m <= 0 || age > maxSpan/ageUnit {
			return errSeen
		}
		s.claim, s.age = s.claim+int64(delta), int64(age)*ageUnit
		f(s)
		b = b[n+m:]
	}
	return nil
}
