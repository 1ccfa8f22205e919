package schema

import (
	"encoding/binary"
	"sort"

	"github.com/cespare/xxhash/v2"
)

// SeriesHash is the hash that places a series: xxhash of the tenant and the sorted labels, each part ended by 0xff
// (which no UTF-8 text contains). buf is scratch space, returned grown.
func SeriesHash(tenant Tenant, labels []Label, buf []byte) (uint64, []byte) {
	buf = append(buf[:0], tenant...)
	buf = append(buf, 0xff)
	for i := range labels {
		buf = append(buf, labels[i].Name...)
		buf = append(buf, 0xff)
		buf = append(buf, labels[i].Value...)
		buf = append(buf, 0xff)
	}
	return xxhash.Sum64(buf), buf
}

// MetadataHash is the hash that places what is known of a metric family: that of a series of this name without labels.
func MetadataHash(tenant Tenant, family []byte, buf []byte) (uint64, []byte) {
	buf = append(buf[:0], tenant...)
	buf = append(buf, "\xff__name__\xff"...)
	buf = append(buf, family...)
	buf = append(buf, 0xff)
	return xxhash.Sum64(buf), buf
}

// Shard is the set of partitions that a tenant's series go to.
type Shard []int32

// ShardOf returns the tenant's shuffle shard: size of the n partitions, chosen by rendezvous hashing, so that growing n or
// size moves little. size 0 or >= n is all of them.
func ShardOf(tenant Tenant, n int32, size int) Shard {
	all := make(Shard, n)
	for i := range all {
		all[i] = int32(i)
	}
	if size <= 0 || size >= int(n) {
		return all
	}
	weight := func(p int32) uint64 {
		return xxhash.Sum64(binary.BigEndian.AppendUint32(append([]byte(tenant), 0xff), uint32(p)))
	}
	sort.Slice(all, func(i, j int) bool { return weight(all[i]) > weight(all[j]) })
	shard := all[:size]
	sort.Slice(shard, func(i, j int) bool { return shard[i] < shard[j] })
	return shard
}

// Partition returns the partition of a series with that hash. A partition that is added to the
// shard takes its share from all others, and one that is taken out gives its own to all: nothing else moves.
func (s Shard) Partition(hash uint64) int32 {
	if last := len(s) - 1; int(s[last]) != last {
		return s.highest(hash)
	}
	// All partitions, 0 to last: jump consistent hashing (Lamping and Veach, 2014), in steps that are as many as the
	// logarithm of their number.
	b, j := int64(-1), int64(0)
	for j < int64(len(s)) {
		b = j
		hash = hash*2862933555777941757 + 1
		j = int64(float64(b+1) * (float64(1<<31) / float64(hash>>33+1)))
	}
	return int32(b)
}

// highest is rendezvous hashing: of a shard's partitions, that with the highest weight for this hash.
func (s Shard) highest(hash uint64) (best int32) {
	highest := uint64(0)
	for i, p := range s {
		// The finaliser of SplitMix64.
		w := hash + uint64(p+1)*0x9e3779b97f4a7c15
		w = (w ^ w>>30) * 0xbf58476d1ce4e5b9
		w = (w ^ w>>27) * 0x94d049bb133111eb
		w ^= w >> 31
		if i == 0 || w > highest {
			best, highest = p, w
		}
	}
	return best
}

// ConsumerGroup is the group under which the consumers' progress is committed: everything before the committed offset
// of a partition is in blocks that the bucket holds.
const ConsumerGroup = "sluice-consumer"

// MemberGroup is the group by which the consumers of a zone share out the partitions. It commits nothing.
func MemberGroup(zone string) string {
	if zone == "" {
		return ConsumerGroup + "-members"
	}
	return ConsumerGroup + "-members-" + zone
}
