package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/oklog/ulid/v2"

	"sluice/internal/log"
	"sluice/schema"
)

// Keys of the topic of blocks:
//
//	block/<tenant>/<ulid>   value: schema.BlockEntry as JSON
//	partition/<n>           value: schema.PartitionState as JSON, of the consumers of an installation without zones
//	partition/<n>/<zone>    the same of the consumers of one zone: two zones that shared a key could take each other's offset back
//	accepted-gap/<n>/<from>-<to>/<topic ID>
//	                        value: schema.Gap as JSON, a gap of partition n that an operator has accepted
//
// An accepted gap has a key of its own because the partition's belongs to its consumer, for the same reason.
//
// A record without a value forgets its key. An unknown kind of key is counted and skipped, so that a later version may
// add one.
const (
	blockPrefix     = "block/"
	partitionPrefix = "partition/"
	acceptedPrefix  = "accepted-gap/"
)

// event is one decoded record: a block, a partition or an accepted gap.
type event struct {
	accept   *schema.LogRange // nil = not an accepted gap
	accepted bool             // false = forget that it is accepted

	tenant schema.Tenant // "" for a partition
	id     ulid.ULID
	entry  *schema.BlockEntry // nil = forget the block

	partition int32
	zone      string
	state     *schema.PartitionState // nil = forget the partition
}

func blockKey(tenant schema.Tenant, id ulid.ULID) []byte {
	return []byte(blockPrefix + string(tenant) + "/" + id.String())
}

func partitionKey(p int32, zone string) []byte {
	key := strconv.AppendInt([]byte(partitionPrefix), int64(p), 10)
	if zone != "" {
		key = append(append(key, '/'), zone...)
	}
	return key
}

// decode reads one record. Key and value must agree: a path in the bucket is built from them, so nothing that is not a
// tenant and an ID gets through.
func decode(key, value []byte) (event, error) {
	k := string(key)
	if rest, ok := strings.CutPrefix(k, blockPrefix); ok {
		return decodeBlock(rest, value)
	}
	if rest, ok := strings.CutPrefix(k, partitionPrefix); ok {
		return decodePartition(rest, value)
	}
	if rest, ok := strings.CutPrefix(k, acceptedPrefix); ok {
		return decodeAccepted(rest, value)
	}
	return event{}, fmt.Errorf("unknown kind of key %.60q", k)
}

func decodeBlock(rest string, value []byte) (event, error) {
	name, text, ok := strings.Cut(rest, "/")
	if !ok {
		return event{}, errors.New("key of a block without an ID")
	}
	tenant, err := schema.ParseTenant(name)
	if err != nil {
		return event{}, fmt.Errorf("key of a block: %w", err)
	}
	id, err := ulid.ParseStrict(text)
	if err != nil {
		return event{}, fmt.Errorf("key of a block of tenant %s: ID %.40q: %w", tenant, text, err)
	}
	ev := event{tenant: tenant, id: id}
	if len(value) == 0 {
		return ev, nil
	}
	var e schema.BlockEntry
	if err := json.Unmarshal(value, &e); err != nil {
		return event{}, fmt.Errorf("entry of block %s of tenant %s: %w", id, tenant, err)
	}
	switch {
	case e.ID != id || e.Tenant != tenant:
		return event{}, fmt.Errorf("entry under the key of block %s of tenant %s is of %s of %.60q", id, tenant, e.ID, e.Tenant)
	case e.State != schema.BlockLive && e.State != schema.BlockDeleted:
		return event{}, fmt.Errorf("entry of block %s of tenant %s: unknown state %.40q", id, tenant, e.State)
	case e.MinTime > e.MaxTime:
		return event{}, fmt.Errorf("entry of block %s of tenant %s: ends at %d before it starts at %d", id, tenant, e.MaxTime, e.MinTime)
	}
	ev.entry = &e
	return ev, nil
}

func decodePartition(rest string, value []byte) (event, error) {
	number, zone, _ := strings.Cut(rest, "/")
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n < 0 || string(partitionKey(int32(n), zone)) != partitionPrefix+rest {
		return event{}, fmt.Errorf("key of a partition: %.40q", rest)
	}
	ev := event{partition: int32(n), zone: zone}
	if len(value) == 0 {
		return ev, nil
	}
	var s schema.PartitionState
	if err := json.Unmarshal(value, &s); err != nil {
		return event{}, fmt.Errorf("state of partition %d: %w", n, err)
	}
	switch {
	case s.From < 0 || s.To < s.From:
		return event{}, fmt.Errorf("state of partition %d: range [%d, %d)", n, s.From, s.To)
	case s.Zone != zone:
		return event{}, fmt.Errorf("state of partition %d under the key of zone %.40q is of zone %.40q", n, zone, s.Zone)
	}
	ev.state = &s
	return ev, nil
}

func acceptedKey(r schema.LogRange) []byte {
	return fmt.Appendf(nil, "%s%d/%d-%d/%s", acceptedPrefix, r.Partition, r.From, r.To, r.TopicID)
}

func decodeAccepted(rest string, value []byte) (event, error) {
	var r schema.LogRange
	number, tail, ok := strings.Cut(rest, "/")
	offsets, topicID, ok2 := strings.Cut(tail, "/")
	from, to, ok3 := strings.Cut(offsets, "-")
	p, err := strconv.ParseInt(number, 10, 32)
	f, err2 := strconv.ParseInt(from, 10, 64)
	t, err3 := strconv.ParseInt(to, 10, 64)
	r.TopicID, r.Partition, r.From, r.To = topicID, int32(p), f, t
	if !ok || !ok2 || !ok3 || errors.Join(err, err2, err3) != nil || p < 0 || f < 0 || t < f || string(acceptedKey(r)) != acceptedPrefix+rest {
		return event{}, fmt.Errorf("key of an accepted gap: %.60q", rest)
	}
	ev := event{accept: &r, accepted: len(value) > 0}
	if !ev.accepted {
		return ev, nil
	}
	var g schema.Gap
	if err := json.Unmarshal(value, &g); err != nil {
		return event{}, fmt.Errorf("accepted gap %.60q: %w", rest, err)
	}
	if g.LogRange != r {
		return event{}, fmt.Errorf("accepted gap %.60q: its value is of offsets %d to %d of partition %d", rest, g.From, g.To, g.Partition)
	}
	return ev, nil
}

// encodeBlock makes the record of an entry. An entry that no broker would take is refused here, by name.
func encodeBlock(e *schema.BlockEntry) (log.Record, error) {
	rec, err := encode(blockKey(e.Tenant, e.ID), e)
	if err != nil {
		return log.Record{}, fmt.Errorf("encode entry of block %s of tenant %s: %w", e.ID, e.Tenant, err)
	}
	if _, err := decode(rec.Key, rec.Value); err != nil {
		return log.Record{}, fmt.Errorf("refuse to write what nobody could read: %w", err)
	}
	return rec, nil
}

func encodePartition(p int32, s schema.PartitionState) (log.Record, error) {
	rec, err := encode(partitionKey(p, s.Zone), s)
	if err != nil {
		return log.Record{}, fmt.Errorf("encode state of partition %d: %w", p, err)
	}
	if _, err := decode(rec.Key, rec.Value); err != nil {
		return log.Record{}, fmt.Errorf("refuse to write what nobody could read: %w", err)
	}
	return rec, nil
}

func encodeAccepted(g schema.Gap) (log.Record, error) {
	rec, err := encode(acceptedKey(g.LogRange), g)
	if err != nil {
		return log.Record{}, fmt.Errorf("encode accepted gap of partition %d: %w", g.Partition, err)
	}
	if _, err := decode(rec.Key, rec.Value); err != nil {
		return log.Record{}, fmt.Errorf("refuse to write what nobody could read: %w", err)
	}
	return rec, nil
}

func encode(key []byte, v any) (log.Record, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return log.Record{}, err
	}
	if n := len(key) + len(value); n >= log.MaxRecordBytes {
		return log.Record{}, fmt.Errorf("%d bytes of at most %d: %w", n, log.MaxRecordBytes, log.ErrTooLarge)
	}
	return log.Record{Key: key, Value: value}, nil
}
