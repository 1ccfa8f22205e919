package usage

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"sluice/schema"
)

const keyPrefix = "usage/"

// key names what a record of the topic speaks of. tenant "" = the beat of the partition, chunk −1 = the summary.
type key struct {
	partition int32
	tenant    schema.Tenant
	chunk     int
	instance  string
}

func (k key) encode() []byte {
	chunk := ""
	if k.chunk >= 0 {
		chunk = strconv.Itoa(k.chunk)
	}
	return fmt.Appendf(nil, "%s%d/%s/%s/%s", keyPrefix, k.partition, k.tenant, chunk, k.instance)
}

var errKey = errors.New("not a key of usage")

// decodeKey reads a key; ours tells whether it is one of this package at all.
func decodeKey(b []byte) (k key, ours bool, err error) {
	rest, ours := strings.CutPrefix(string(b), keyPrefix)
	if !ours {
		return k, false, nil
	}
	parts := strings.SplitN(rest, "/", 4)
	if len(parts) != 4 || parts[3] == "" {
		return k, true, errKey
	}
	p, err := strconv.ParseInt(parts[0], 10, 32)
	if err != nil || p < 0 {
		return k, true, errKey
	}
	k = key{partition: int32(p), chunk: -1, instance: parts[3]}
	if parts[1] == "" {
		if parts[2] != "" {
			return k, true, errKey
		}
		return k, true, nil
	}
	if k.tenant, err = schema.ParseTenant(parts[1]); err != nil {
		return k, true, err
	}
	if parts[2] != "" {
		if k.chunk, err = strconv.Atoi(parts[2]); err != nil || k.chunk < 0 || k.chunk > maxChunks {
			return k, true, errKey
		}
	}
	return k, true, nil
}

// beat says that an instance speaks for a partition, and how far it has applied it. What it said in another run does not
// hold any more.
type beat struct {
	Run     uint64 `json:"run"`
	TopicID string `json:"topic_id"`
	Applied int64  `json:"applied"`
	LogTime int64  `json:"log_time"` // of the last record applied, ms
}

// summary says what is known of a tenant in a partition.
type summary struct {
	Run       uint64           `json:"run"`
	Series    int64            `json:"series"`              // active
	InHeads   int64            `json:"in_heads"`            // of the generation that is growing
	Metrics   map[string]int64 `json:"metrics,omitempty"`   // series of the metric names that have most, and of those that a limit cares about
	Limited   bool             `json:"limited,omitempty"`   // the tenant has a limit, and chunks are told
	Version   uint32           `json:"version,omitempty"`   // of the chunks
	Known     int64            `json:"known,omitempty"`     // hashes in the chunks
	Producers []uint32         `json:"producers,omitempty"` // that write for the tenant lately
}

const (
	// fullChunk is how many hashes a chunk has that is written once, tailChunk how many one has that is written again for
	// every few series that are new.
	fullChunk = 16384
	tailChunk = 256
	// maxChunks bounds what a key can make a reader remember.
	maxChunks = 1 << 20

	chunkV1     = 1
	chunkHeader = 1 + 8 + 4
)

var errChunk = errors.New("not a chunk of hashes")

// appendChunk appends a chunk: a byte 1, run (8 bytes, little endian), version (4), then the hashes, 5 bytes each.
func appendChunk(dst []byte, run uint64, version uint32, hashes []uint64) []byte {
	dst = append(dst, chunkV1)
	dst = binary.LittleEndian.AppendUint64(dst, run)
	dst = binary.LittleEndian.AppendUint32(dst, version)
	for _, h := range hashes {
		dst = append(dst, byte(h), byte(h>>8), byte(h>>16), byte(h>>24), byte(h>>32))
	}
	return dst
}

// chunk is a decoded chunk; hashes are still bytes.
type chunk struct {
	run     uint64
	version uint32
	hashes  []byte
}

func decodeChunk(b []byte) (c chunk, err error) {
	if len(b) < chunkHeader || b[0] != chunkV1 || (len(b)-chunkHeader)%hashBytes != 0 {
		return c, errChunk
	}
	return chunk{binary.LittleEndian.Uint64(b[1:]), binary.LittleEndian.Uint32(b[9:]), b[chunkHeader:]}, nil
}

func (c *chunk) len() int { return len(c.hashes) / hashBytes }

func (c *chunk) at(i int) uint64 {
	b := c.hashes[hashBytes*i:]
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32
}

func encodeJSON(v any) []byte {
	b, _ := json.Marshal(v) // numbers and strings: it cannot fail
	return b
}
