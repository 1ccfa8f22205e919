// Package schema is the vocabulary of Sluice: the types and bytes that two stages must agree on, and nothing that does
// I/O. In come raw bytes from a sender or the log, out go the same bytes named and checked. It never opens a file,
// never talks to a network and never imports another package of this module.
//
// # Glossary
//
//   - tenant: whose data it is. Everything (record, head, block, query) belongs to exactly one tenant.
//   - series: a set of labels of one tenant, sorted by name. Its hash decides the partition.
//   - topic, partition, offset: as in Kafka. Order exists inside a partition only.
//   - record: one entry of a partition; carries samples of one tenant, or is a tick or a seal.
//   - definition, ref: a record of version 2 says once that a small integer, the ref, stands for a series, and then uses it.
//   - epoch: whose refs they are: a random number that a producer draws for a tenant when it begins to know its series.
//   - log time: the time at which the log accepted a record, in ms. Never a sender's or a consumer's clock.
//   - generation: the log range [from, to) of one partition that becomes one set of blocks.
//   - head: the samples of one tenant in one live generation, in memory.
//   - zone: a failure domain. The consumers of each hold every partition between them.
//   - lease: leave to do a piece of work alone for a while, decided by the order of claims in the log.
//   - block: an immutable TSDB block of one tenant; its ID follows from its content and its place in the log.
//   - level: how often the samples of a block were merged; 1 = written by a consumer.
//   - catalogue: what the bucket holds, as told by the topic of blocks.
package schema
