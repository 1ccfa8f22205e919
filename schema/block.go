package schema

import (
	"slices"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/tsdb"
)

// Names inside of a block's folder in the bucket: <tenant>/<ulid>/<name>, the layout of Cortex, Mimir and Thanos.
const (
	MetaFile         = "meta.json" // uploaded last: a folder without it is no block
	IndexFile        = "index"
	ChunksDir        = "chunks"
	HeaderFile       = "sluice-header" // of the index, for readers; not every block has one, and none needs it
	ExemplarsFile    = "exemplars"     // only where there are any; internal/exemplars has its layout
	DeletionMarkFile = "deletion-mark.json"
	BucketIndexFile  = "bucket-index.json.gz" // <tenant>/bucket-index.json.gz
	MetadataDir      = "metadata"             // <tenant>/metadata/<partition>.json.gz
)

// BlockMeta is meta.json: Prometheus' own fields, the section that Thanos' tools expect, and ours. Two blocks with the
// same files and the same origin have the same bytes here.
type BlockMeta struct {
	tsdb.BlockMeta
	Thanos ThanosMeta  `json:"thanos"`
	Sluice BlockOrigin `json:"sluice"`
}

// ThanosMeta is the section of meta.json that Thanos, Cortex and Mimir read.
type ThanosMeta struct {
	Version    int               `json:"version,omitempty"`
	Labels     map[string]string `json:"labels"`
	Downsample struct {
		Resolution int64 `json:"resolution"`
	} `json:"downsample"`
	Source string      `json:"source"` // sluice.consumer or sluice.compactor
	Files  []BlockFile `json:"files,omitempty"`
}

// BlockFile is one file of a block: size and hash are verified after upload, after download and by `sluice check`.
type BlockFile struct {
	Path string    `json:"rel_path"`
	Size int64     `json:"size_bytes,omitempty"`
	Hash *FileHash `json:"hash,omitempty"`
}

// FileHash is the hash of a file; Func is always SHA256.
type FileHash struct {
	Func   string `json:"hashFunc"`
	String string `json:"value"`
}

// LogRange is the part [From, To) of a partition's log.
type LogRange struct {
	TopicID   string `json:"topic_id"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"`
}

// BlockOrigin says where a block comes from.
type BlockOrigin struct {
	Version  int         `json:"version"` // 1
	Tenant   Tenant      `json:"tenant"`
	Ranges   []LogRange  `json:"ranges"`             // sorted; one for a block of level 1, all those of its sources for a merged one
	LogTime  int64       `json:"log_time"`           // log time of the end of the (last) range, ms: the time of the block's ULID
	LogFrom  int64       `json:"log_from"`           // log time of the start of the first range, ms: of two values for one sample, the block with the smaller (LogFrom, Partition) wins
	Replaces []ulid.ULID `json:"replaces,omitempty"` // the blocks this one was merged from: they are replaced as long as this one is known
	// Gaps are the parts of Ranges that the log had lost when they were due: the block is without their samples.
	Gaps []Gap `json:"gaps,omitempty"`
}

// Gap is a part of the log that was never read, and never can be.
type Gap struct {
	LogRange
	// FromTime and ToTime are the log times of the records around it, ms; 0 = not known on that side. The samples that
	// are missing were accepted between them, so a query from FromTime on may lack some.
	FromTime int64  `json:"from_time,omitempty"`
	ToTime   int64  `json:"to_time,omitempty"`
	Reason   string `json:"reason"`
}

// Reasons of gaps.
const (
	GapRetention = "retention"    // the log had let go of the records, or could not read them back
	GapReplaced  = "replaced-log" // the topic is another one, or shorter than what was committed: what its former self held from offset From on is lost
)

// PartitionState is the value under the key of a partition and a zone in the topic of blocks: every sample of the
// partition before To is in blocks that stand before this event in the topic.
type PartitionState struct {
	Zone    string `json:"zone,omitempty"` // of the consumers that wrote it
	TopicID string `json:"topic_id"`
	From    int64  `json:"from"` // of the last generation
	To      int64  `json:"to"`
	LogTime int64  `json:"log_time"` // log time of To, ms
	// Gaps are ranges of the log that were never read (retention overtook the consumer, a corrupt segment). Kept for ever.
	Gaps []Gap `json:"gaps,omitempty"`
}

// Block states in the catalogue.
const (
	BlockLive    = "live"
	BlockDeleted = "deleted" // a tombstone: its files are gone or going; kept longer than the log, so that no replay brings it back
)

// BlockEntry is the value under a block's key in the topic of blocks.
type BlockEntry struct {
	ID         ulid.ULID   `json:"id"`
	Tenant     Tenant      `json:"tenant"`
	MinTime    int64       `json:"min_time"` // ms, first sample
	MaxTime    int64       `json:"max_time"` // ms, exclusive
	Level      int         `json:"level"`
	Resolution int64       `json:"resolution"`
	Series     uint64      `json:"series"`
	Samples    uint64      `json:"samples"`
	Bytes      int64       `json:"bytes"`
	LogTime    int64       `json:"log_time"`
	LogFrom    int64       `json:"log_from"`
	Ranges     []LogRange  `json:"ranges,omitempty"`
	Sources    []ulid.ULID `json:"sources,omitempty"`  // blocks of level 1 that this one is made of, itself for level 1
	Replaces   []ulid.ULID `json:"replaces,omitempty"` // see BlockOrigin
	Files      []BlockFile `json:"files,omitempty"`

	State  string `json:"state"`            // BlockLive, BlockDeleted
	Reason string `json:"reason,omitempty"` // of a deletion: replaced, retention
	At     int64  `json:"at"`               // ms, when the state was written
}

// Entry is what the catalogue says of a block with this meta, live at the time now (ms).
func (m *BlockMeta) Entry(now int64) BlockEntry {
	e := BlockEntry{
		ID: m.ULID, Tenant: m.Sluice.Tenant, MinTime: m.MinTime, MaxTime: m.MaxTime, Level: m.Compaction.Level,
		Resolution: m.Thanos.Downsample.Resolution, Series: m.Stats.NumSeries, Samples: m.Stats.NumSamples,
		LogTime: m.Sluice.LogTime, LogFrom: m.Sluice.LogFrom, Ranges: m.Sluice.Ranges,
		Sources: slices.Clone(m.Compaction.Sources), Replaces: m.Sluice.Replaces, Files: m.Thanos.Files,
		State: BlockLive, At: now,
	}
	for _, f := range m.Thanos.Files {
		e.Bytes += f.Size
	}
	return e
}
