// Package log is the durable, partitioned, replayable log that everything in Sluice agrees through. In go records for a
// partition of a topic, acknowledged once they are durable; out come the same records in the same order, from any
// offset that is still kept, as often as one likes. It never looks into a record's value and never drops a record that
// a group has yet to commit.
//
// Two implementations satisfy one conformance suite (logtest): Kafka, for everything that runs on more than one
// machine, and Embedded, for one process. Nothing above this package can tell which it has.
package log

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The topics. Samples has as many partitions as the operator chose; the others have one, so they are totally ordered.
const (
	TopicSamples    = "sluice.samples"     // samples, ticks and seals; deleted by age
	TopicBlocks     = "sluice.blocks"      // what the bucket holds; compacted by key
	TopicControl    = "sluice.control"     // members and what they cover; compacted by key
	TopicDeadLetter = "sluice.dead-letter" // records that could not be applied; deleted by age
)

// MaxRecordBytes bounds key + value + headers (10 bytes each, and theirs) of a record, so that a stock broker
// (message.max.bytes = 1 MiB) works unchanged.
const MaxRecordBytes = 1_000_000 - 16_384

// Header is a name and a value that travel with a record.
type Header struct {
	Key   string
	Value []byte
}

// Record is one entry of a partition.
type Record struct {
	Partition int32
	Offset    int64 // position in the partition; set by the log
	Time      int64 // log time (broker's append time), ms since the epoch; set by the log, never decreases within a partition of an embedded log
	Key       []byte
	Value     []byte // nil in a compacted topic: the key is deleted
	Headers   []Header
}

// Header returns the value of the first header with that name.
func (r *Record) Header(key string) ([]byte, bool) {
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			return r.Headers[i].Value, true
		}
	}
	return nil, false
}

// Bounds are the offsets that a partition holds: [Start, End). End is the offset that the next record will get.
type Bounds struct{ Start, End int64 }

// Membership says who joins which group.
type Membership struct {
	Group    string
	Instance string // stable name: a member that comes back under it within SessionTimeout gets what it had, and nothing else moves
	// SessionTimeout is how long a silent member keeps its partitions; 0 = 45 s.
	SessionTimeout time.Duration
}

// Log is the contract. All methods may be called from many goroutines. A partition that a topic does not have is ErrUnknownPartition.
type Log interface {
	// Partitions returns how many partitions topic has: 0..n-1.
	Partitions(ctx context.Context, topic string) (int32, error)
	// TopicID identifies this incarnation of the topic: deleting and creating it again gives another.
	TopicID(ctx context.Context, topic string) (string, error)

	// Append adds each record to the partition that it names and returns when all are durable, filling in Offset and
	// Time (with Kafka by the clock of this process). Records for one partition keep their order. After an error any of them may or may not be in the log: the
	// caller retries and lives with duplicates. ErrTooLarge: nothing was appended. ErrOverloaded: nothing was appended,
	// the log is slower than its writers. Key, Value and Headers may be reused after the return. In a compacted topic a
	// record must have a key.
	Append(ctx context.Context, topic string, recs []Record) error

	// Reader reads a partition from offset on. It starts nothing until Next is called.
	Reader(topic string, partition int32, offset int64) (Reader, error)

	// Bounds returns the offsets that the partition holds at this moment.
	Bounds(ctx context.Context, topic string, partition int32) (Bounds, error)
	// Ends returns the end offset of every partition, by partition: Bounds' End for all of them in one question.
	Ends(ctx context.Context, topic string) ([]int64, error)
	// OffsetAt returns the offset of the first record whose log time is at or after t, or the end offset.
	OffsetAt(ctx context.Context, topic string, partition int32, t time.Time) (int64, error)

	// Commit stores durably that group needs nothing before offset of the partition any more. Committed returns what was
	// stored, by partition; a partition without a commit is absent.
	Commit(ctx context.Context, group, topic string, partition int32, offset int64) error
	Committed(ctx context.Context, group, topic string) (map[int32]int64, error)

	// Join takes part, until ctx ends, in sharing out the partitions of topic among the members of a group, so that each
	// partition has one. changed is called from one goroutine at a time with all partitions that this member has, sorted:
	// soon after the start, and again whenever they are others. A member that is cut off from the log keeps what it had
	// until it is back and is told what it has; somebody else may have got it by then. Errors that pass are waited out;
	// one that does not is returned: ErrReplaced, a missing right. The group of members and a group that commits are different things.
	Join(ctx context.Context, m Membership, topic string, changed func(partitions []int32)) error

	// Leave takes a member out of its group at once, where a member that is just gone keeps its partitions until its session
	// ends. Its Join must have returned.
	Leave(ctx context.Context, m Membership) error

	// Trim gives leave to drop every record before offset; the log may keep more (whole segments) but not less.
	Trim(ctx context.Context, topic string, partition int32, before int64) error

	// Run does the housekeeping (retention, compaction) until ctx ends.
	Run(ctx context.Context) error
	// Close ends every Reader and releases what the log holds. Appends that are under way finish first.
	Close() error
}

// Reader reads one partition in order. It belongs to one goroutine.
type Reader interface {
	// Next waits for at least one record and returns what is at hand, in order. The records and their bytes are valid
	// until the next call. An offset gap between two records means that what was between them is lost (or, in a
	// compacted topic, superseded). OutOfRangeError: the position is no longer or not yet in the log; the reader stays there.
	Next(ctx context.Context) ([]Record, error)
	// Position is the offset that Next goes on at: every record before it has been returned, or is not there. It may move
	// while Next waits in vain, past offsets that hold no record.
	Position() int64
	Close() error
}

var (
	// ErrUnknownPartition is returned for a topic or partition that does not exist.
	ErrUnknownPartition = errors.New("unknown topic or partition")
	// ErrTooLarge is returned by Append for a record over MaxRecordBytes.
	ErrTooLarge = errors.New("record too large")
	// ErrOverloaded is returned by Append when the buffer of records not yet durable is full.
	ErrOverloaded = errors.New("log overloaded")
	// ErrReplaced is returned by Join to a member when another process has joined under its name. Two processes that were
	// given the same name take it from each other.
	ErrReplaced = errors.New("another process has taken our name in the group: every instance needs a name of its own")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("log closed")
)

// OutOfRangeError is returned by Reader.Next when the wanted offset is outside of the log's bounds.
type OutOfRangeError struct {
	Topic     string
	Partition int32
	Offset    int64
	Bounds    Bounds
}

func (e *OutOfRangeError) Error() string {
	return fmt.Sprintf("offset %d of %s/%d is outside of the log [%d, %d)", e.Offset, e.Topic, e.Partition, e.Bounds.Start, e.Bounds.End)
}
