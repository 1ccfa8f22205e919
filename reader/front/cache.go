package front

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"github.com/prometheus/prometheus/promql"
)

// extent is what is known of a query's steps from first to last, without gaps.
type extent struct {
	first, last int64 // ms
	print       fingerprint
	matrix      promql.Matrix
	remarks     []remark
}

// entry is the extents of one query in one bucket, encoded. It does not change.
type entry struct {
	key     string
	extents []packed
}

type packed struct {
	first, last int64
	print       fingerprint
	data        []byte
	remarks     []remark
}

// cache keeps results up to a number of bytes.
type cache struct {
	entries *ristretto.Cache[string, *entry]
	bytes   int64
	metrics *metrics
}

// maxExtents is how many pieces of a bucket are remembered for a query.
const maxExtents = 4

// entryBytes is what an entry costs beside its data.
const entryBytes = 300

func newCache(bytes int64, m *metrics) (*cache, error) {
	c, err := ristretto.NewCache(&ristretto.Config[string, *entry]{
		NumCounters: max(bytes>>10, 1000), MaxCost: bytes, BufferItems: 64, IgnoreInternalCost: true,
		OnExit: func(*entry) {},
	})
	if err != nil {
		return nil, err
	}
	return &cache{entries: c, bytes: bytes, metrics: m}, nil
}

func (c *cache) close() { c.entries.Close() }

// bucketKey is the key of a query's results in the bucket-th time of so many ms.
func bucketKey(key string, length, bucket int64) string {
	b := binary.AppendVarint(nil, length)
	return string(binary.AppendVarint(b, bucket)) + key
}

// get returns what is known, in order of time.
func (c *cache) get(key string) (extents []*extent) {
	e, ok := c.entries.Get(key)
	if !ok || e.key != key { // two keys may have one hash
		return nil
	}
	for _, p := range e.extents {
		m, err := decodeMatrix(p.data)
		if err != nil {
			continue // it is worked out again
		}
		extents = append(extents, &extent{first: p.first, last: p.last, print: p.print, matrix: m, remarks: p.remarks})
	}
	return extents
}

// put remembers extents, which do not overlap.
func (c *cache) put(key string, extents []*extent, ttl time.Duration) {
	slices.SortFunc(extents, func(a, b *extent) int { return cmp.Compare(b.last-b.first, a.last-a.first) })
	extents = extents[:min(len(extents), maxExtents)]
	slices.SortFunc(extents, func(a, b *extent) int { return cmp.Compare(a.first, b.first) })
	e := &entry{key: key}
	cost := int64(entryBytes + len(key))
	for _, x := range extents {
		p := packed{first: x.first, last: x.last, print: x.print, data: encodeMatrix(x.matrix), remarks: x.remarks}
		cost += int64(len(p.data))
		for _, r := range x.remarks {
			cost += int64(len(r.raw) + len(r.full))
		}
		e.extents = append(e.extents, p)
	}
	if cost > c.bytes/8 { // one panel is not to empty the cache for all others
		return
	}
	if c.entries.SetWithTTL(key, e, cost, ttl) {
		c.metrics.stored.Inc()
	}
}
