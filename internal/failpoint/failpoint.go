// Package failpoint kills the process at a named step, so that a test can see what is left behind there and who mends it.
// In goes the name of the step that has just been done; in a build with the tag `failpoints`, and when the environment
// asks for that step, nothing comes out any more: SIGKILL, as by a power cut. In any other build Hit is empty, costs
// nothing, and looks at no environment. It never returns an error, never runs a deferred function and never decides
// anything else.
//
//	SLUICE_FAILPOINT=name       die at the first hit of name
//	SLUICE_FAILPOINT=name:3     die at the third
//	SLUICE_FAILPOINT_LOG=file   append the name of each hit to file, one a line
package failpoint

// The names, in the order in which a generation and a merge meet them. The step has been done when its name is hit.
const (
	ConsumerFrozen          = "consumer/frozen"           // a generation's end is known, nothing is written
	ConsumerBlockWritten    = "consumer/block-written"    // one local block
	ConsumerSealed          = "consumer/sealed"           // all local blocks of a generation
	ConsumerUploadChunks    = "consumer/upload-chunks"    // a file of chunks of one block
	ConsumerUploadIndex     = "consumer/upload-index"     // the index of one block: all but its meta.json
	ConsumerUploaded        = "consumer/uploaded"         // all blocks, whole
	ConsumerMetadataSaved   = "consumer/metadata-saved"   // what senders said of their metrics
	ConsumerAnnouncedBlocks = "consumer/announced-blocks" // entries of the blocks are durable, the partition's state is not
	ConsumerAnnounced       = "consumer/announced"        // both are
	ConsumerCommitted       = "consumer/committed"        // the offset
	ConsumerForgotten       = "consumer/forgotten"        // the generation has left memory

	CompactorDownloaded   = "compactor/downloaded"    // the inputs of a merge
	CompactorMerged       = "compactor/merged"        // the local block
	CompactorUploadChunks = "compactor/upload-chunks" // a file of its chunks
	CompactorUploadIndex  = "compactor/upload-index"  // its index: all but its meta.json
	CompactorUploaded     = "compactor/uploaded"      // all of it
	CompactorAnnounced    = "compactor/announced"     // its entry, which replaces the inputs
	CompactorMarked       = "compactor/marked"        // deletion marks of the inputs
	CompactorTombstoned   = "compactor/tombstoned"    // entries of blocks that go
	CompactorIndexed      = "compactor/indexed"       // the bucket index, without them
	CompactorHalfDeleted  = "compactor/half-deleted"  // meta.json of a block that goes
	CompactorDeleted      = "compactor/deleted"       // all its files
)

// The environment that a build with the tag looks at.
const (
	EnvPoint = "SLUICE_FAILPOINT"
	EnvLog   = "SLUICE_FAILPOINT_LOG"
)

// Names returns every name, in the order above.
func Names() []string {
	return []string{
		ConsumerFrozen, ConsumerBlockWritten, ConsumerSealed, ConsumerUploadChunks, ConsumerUploadIndex, ConsumerUploaded, ConsumerMetadataSaved,
		ConsumerAnnouncedBlocks, ConsumerAnnounced, ConsumerCommitted, ConsumerForgotten,
		CompactorDownloaded, CompactorMerged, CompactorUploadChunks, CompactorUploadIndex, CompactorUploaded, CompactorAnnounced,
		CompactorMarked, CompactorTombstoned, CompactorIndexed, CompactorHalfDeleted, CompactorDeleted,
	}
}
