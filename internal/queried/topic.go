package queried

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"sluice/internal/log"
	"sluice/schema"
)

const (
	keyPrefix = "queried/"
	// chunkNames is how many names a chunk has on average at most, and chunkBytes how long its record may be.
	chunkNames = 512
	chunkBytes = 480 << 10
	maxChunks  = 64
	// batchBytes is how much is appended at once.
	batchBytes = 1 << 20
)

// recordKey says whose names are in a record.
type recordKey struct {
	tenant   schema.Tenant
	chunk    int
	instance string
}

func (k recordKey) String() string {
	return keyPrefix + string(k.tenant) + "/" + strconv.Itoa(k.chunk) + "/" + k.instance
}

var errKey = errors.New("key makes no sense")

// parseKey reads what String writes; ok is false for keys that are not ours.
func parseKey(key string) (k recordKey, ok bool, err error) {
	rest, ok := strings.CutPrefix(key, keyPrefix)
	if !ok {
		return k, false, nil
	}
	tenant, rest, _ := strings.Cut(rest, "/")
	number, instance, _ := strings.Cut(rest, "/")
	if k.tenant, err = schema.ParseTenant(tenant); err != nil {
		return k, true, err
	}
	k.instance = instance
	if k.chunk, err = strconv.Atoi(number); err != nil || k.chunk < 0 || k.chunk >= maxChunks || instance == "" || k.String() != key {
		return k, true, errKey
	}
	return k, true, nil
}

// chunk is a decoded record.
type chunk struct {
	since int64 // s
	names map[string]Usage
	time  int64 // log time, ms
}

// record is a record's value.
type record struct {
	Since int64                `json:"since"`
	Names map[string][2]uint64 `json:"names"` // requests, minutes since the epoch
}

const maxMinute = 1 << 40

func decode(value []byte) (*chunk, error) {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, err
	}
	c := &chunk{since: r.Since, names: make(map[string]Usage, len(r.Names))}
	for name, n := range r.Names {
		if n[1] > maxMinute {
			return nil, fmt.Errorf("minute %d", n[1])
		}
		c.names[name] = Usage{n[0], int64(n[1]) * 60}
	}
	return c, nil
}

// chunkOf returns in which of some chunks a name is.
func chunkOf(name string, chunks int) int { return int(xxhash.Sum64String(name) % uint64(chunks)) }

// grow makes more chunks when there are too many names for those that there are; all are told then.
func (n *tenantNames) grow() {
	chunks := len(n.chunks)
	for len(n.names) > chunks*chunkNames && chunks < maxChunks {
		chunks *= 2
	}
	n.split(chunks)
}

func (n *tenantNames) split(chunks int) {
	if chunks <= len(n.chunks) {
		return
	}
	n.chunks = make([]chunkState, chunks)
	for i := range n.chunks {
		n.chunks[i].names = true
	}
}

// apply takes one record of the topic over.
func (t *Tracker) apply(rec *log.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newest = max(t.newest, rec.Time)
	key, ok, err := parseKey(string(rec.Key))
	if !ok || t.loaded && key.instance == t.cfg.Instance {
		return
	}
	var c *chunk
	if err == nil && len(rec.Value) > 0 {
		c, err = decode(rec.Value)
	}
	if err != nil {
		t.logger.Warn("record of queried metrics skipped", "key", string(rec.Key), "offset", rec.Offset, "err", err)
		return
	}
	if had := t.others[key]; had != nil {
		t.known -= len(had.names)
		delete(t.others, key)
	}
	if c == nil {
		return
	}
	if t.known+len(c.names) > maxOthers {
		if !t.cut {
			t.logger.Warn("other readers tell of more queried metrics than are kept: some of their requests do not count here", "names", t.known)
		}
		t.cut = true
		return
	}
	c.time = rec.Time
	t.known += len(c.names)
	t.others[key] = c
}

// load goes on from what this reader has told in an earlier life.
func (t *Tracker) load() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.loaded = true
	mine := map[recordKey]*chunk{}
	for key, c := range t.others {
		if key.instance == t.cfg.Instance {
			t.known -= len(c.names)
			delete(t.others, key)
			mine[key] = c
			t.since = min(t.since, c.since)
		}
	}
	type named struct {
		tenantName
		Usage
	}
	var all []named
	chunks := map[schema.Tenant]int{}
	for key, c := range mine {
		chunks[key.tenant] = max(chunks[key.tenant], key.chunk+1)
		for name, u := range c.names {
			all = append(all, named{tenantName{key.tenant, name}, u})
		}
	}
	slices.SortFunc(all, func(a, b named) int { return cmp.Or(cmp.Compare(b.Last, a.Last), strings.Compare(a.name, b.name)) })
	for _, n := range all {
		t.add(n.tenant, n.name, n.Usage, true)
	}
	for tenant, n := range t.tenants {
		n.since = t.since
		known := 1
		for known < chunks[tenant] {
			known *= 2
		}
		n.split(known) // so that what is there under all of these keys is written again
		lists := n.byChunk()
		for i := range n.chunks {
			c := mine[recordKey{tenant, i, t.cfg.Instance}]
			if c == nil || len(n.chunks) != known {
				continue
			}
			if len(lists[i]) == len(c.names) && sameNumbers(lists[i], c.names) { // it is as it was told
				n.chunks[i] = chunkState{at: c.time / 1000}
			}
		}
	}
}

func sameNumbers(list []*counted, told map[string]Usage) bool {
	return !slices.ContainsFunc(list, func(c *counted) bool {
		u, ok := told[c.name]
		return !ok || u.Requests != c.Requests
	})
}

// byChunk returns what is in each chunk, what was asked for last first.
func (n *tenantNames) byChunk() [][]*counted {
	lists := make([][]*counted, len(n.chunks))
	for e := n.order.Front(); e != nil; e = e.Next() {
		c := e.Value.(*counted)
		i := chunkOf(c.name, len(n.chunks))
		lists[i] = append(lists[i], c)
	}
	return lists
}

// encode makes the value of a chunk. What does not fit, of those that were asked for longest ago, is left out: names have to be
// made up for it to come to that.
func encode(since int64, list []*counted) []byte {
	r := record{Since: since, Names: map[string][2]uint64{}}
	bytes := 64
	for _, c := range list {
		text, _ := json.Marshal(c.name) // of a string
		if bytes += len(text) + 40; bytes > chunkBytes {
			break
		}
		r.Names[c.name] = [2]uint64{c.Requests, uint64(c.Last / 60)}
	}
	text, _ := json.Marshal(r) // of strings and numbers
	return text
}

// collect returns what is to be told now; all that has changed, if it is the last time.
func (t *Tracker) collect(last bool) (recs []log.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.loaded {
		return nil
	}
	now := t.cfg.Now()
	for _, tenant := range slices.Sorted(maps.Keys(t.tenants)) {
		n := t.tenants[tenant]
		var lists [][]*counted
		for i := range n.chunks {
			c := &n.chunks[i]
			age := now.Unix() - c.at
			due := age >= int64(countsFor*t.cfg.Interval.Seconds())
			if !c.names && !(c.numbers && (due || last)) && age < int64(tellAgain.Seconds()) {
				continue
			}
			if lists == nil {
				lists = n.byChunk()
			}
			recs = append(recs, log.Record{Key: []byte(recordKey{tenant, i, t.cfg.Instance}.String()), Value: encode(n.since, lists[i])})
			*c = chunkState{at: now.Unix()}
		}
	}
	for key := range t.told {
		k, _, _ := parseKey(key) // we wrote it
		if n := t.tenants[k.tenant]; n == nil || k.chunk >= len(n.chunks) {
			recs = append(recs, log.Record{Key: []byte(key)})
		}
	}
	clear(t.told)
	for key, c := range t.others {
		if t.newest-c.time > goneAfter.Milliseconds() {
			recs = append(recs, log.Record{Key: []byte(key.String())})
		}
	}
	return recs
}

// tell appends what has changed to the control topic.
func (t *Tracker) tell(ctx context.Context, last bool) error {
	recs := t.collect(last)
	for len(recs) > 0 {
		n, bytes := 0, 0
		for n < len(recs) && (n == 0 || bytes+len(recs[n].Value) <= batchBytes) {
			bytes += len(recs[n].Value)
			n++
		}
		if err := t.log.Append(ctx, log.TopicControl, recs[:n]); err != nil {
			t.again(recs)
			return fmt.Errorf("tell which metrics are queried: %w", err)
		}
		recs = recs[n:]
	}
	return nil
}

// again notes that records were not told.
func (t *Tracker) again(recs []log.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range recs {
		k, _, _ := parseKey(string(recs[i].Key)) // we wrote it
		switch n := t.tenants[k.tenant]; {
		case k.instance != t.cfg.Instance:
		case n != nil && k.chunk < len(n.chunks):
			n.chunks[k.chunk].names = true
		default:
			t.told[string(recs[i].Key)] = struct{}{}
		}
	}
}
