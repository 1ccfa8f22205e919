// Package usage is how producers know how many series a tenant has, and which. In goes, at the consumers, each series
// that a record defines; a Tracker counts them and says in the control topic what has changed. Out comes, at the
// producers, a Table of that topic: the series of a tenant, those of a metric name, and whether a given series is known.
// It decides nothing about a series and never holds up a record.
//
// # What is in the topic
//
// Every consumer speaks for the partitions that it holds under keys of its own, so that the consumers of two zones, or the
// old and the new owner of a partition, cannot overwrite each other; who reads counts a partition once.
//
//	usage/<partition>///<instance>                 beat: how far the partition is applied; JSON
//	usage/<partition>/<tenant>//<instance>         summary: the number of series, the metrics with most; JSON
//	usage/<partition>/<tenant>/<chunk>/<instance>  chunk: hashes of series that are known; binary, see codec.go
//
// Chunks are told of tenants with a limit only. A series costs five bytes once, when it is new; a chunk that is full is never written
// again, and one that is not is small. When a quarter of what was told is gone, all is told anew under another
// version. So the traffic follows the number of new series, and not the number of series.
package usage
