// Package shards recommends over how many partitions a tenant's series are to be spread. In goes how many series it has
// and how many partitions there are, out comes the size of its shuffle shard and what that means for it and for its
// neighbours. It never looks at a running installation and changes no limit.
package shards

import (
	"fmt"
	"io"

	"sluice/schema"
)

// PerPartition is how many series of one tenant go well into one partition. It bounds what one tenant can do to the others
// there, as a partition is applied in order by one goroutine: a generation of two hours with a scrape every 15 s of so many series
// is applied again after a crash, and written as a block, within seconds (BenchmarkGeneration in package consumer). The
// rule of thumb that Cortex' users know, replicas × series / 20,000, spreads a tenant over fifteen times as many ingesters: each
// of those holds a copy in memory of its own, and tens of tenants with it; a partition's copy is the log.
const PerPartition = 100_000

// Shards is a recommendation.
type Shards struct {
	Series     int `json:"series"`
	Partitions int `json:"partitions"`

	Size         int       `json:"partition_shard_size"`
	PerPartition int       `json:"series_per_partition"`
	Cortex       int       `json:"cortex_rule_with_3_replicas"` // for comparison
	Overlap      []float64 `json:"overlap"`                     // share of other tenants of this size that have 0, 1, 2 … partitions in common with it
}

// Recommend returns what suits a tenant with so many series in the long run, among so many partitions.
func Recommend(series, partitions int) Shards {
	s := Shards{Series: series, Partitions: partitions}
	s.Size = min(max(1, ceil(series, PerPartition)), partitions)
	s.PerPartition = ceil(series, s.Size)
	s.Cortex = max(1, ceil(3*series, 20_000))
	s.Overlap = overlap(partitions, s.Size)
	return s
}

func ceil(a, b int) int { return (a + b - 1) / b }

// simulated is how many other tenants are looked at.
const simulated = 4000

// overlap simulates other tenants with the very function that places them.
func overlap(partitions, size int) []float64 {
	mine := map[int32]bool{}
	for _, p := range schema.ShardOf("tenant", int32(partitions), size) {
		mine[p] = true
	}
	counts := make([]int, size+1)
	for i := range simulated {
		n := 0
		for _, p := range schema.ShardOf(schema.Tenant(fmt.Sprint("other-", i)), int32(partitions), size) {
			if mine[p] {
				n++
			}
		}
		counts[n]++
	}
	out := make([]float64, len(counts))
	for i, n := range counts {
		out[i] = float64(n) / simulated
	}
	return out
}

// Print writes the recommendation for people.
func (s *Shards) Print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "partition_shard_size: %d      # %d of %d partitions, %d series in each\n", s.Size, s.Size, s.Partitions, s.PerPartition)
	if err != nil {
		return err
	}
	none := s.Overlap[0]
	if s.Size == s.Partitions {
		_, err = fmt.Fprintln(w, "That is all of them: every tenant shares partitions with this one. More partitions would keep others apart from it.")
	} else {
		_, err = fmt.Fprintf(w, "Of other tenants with as many, %.1f %% share no partition with it, %.1f %% share all.\n", 100*none, 100*s.Overlap[s.Size])
	}
	return err
}
