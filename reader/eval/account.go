package eval

import (
	"github.com/prometheus/prometheus/util/stats"
)

// account puts the samples that subtrees have read in the place of those that the engine has read of their results.
func (x *execution) account(sum *stats.QuerySamples) {
	for _, s := range x.subtrees {
		total, read, at := s.done.total-s.points, s.done.read-s.points, s.readAt
		for _, l := range s.path {
			total, read, at = l.above(total, read, at)
		}
		sum.TotalSamples += total
		sum.SamplesRead += read
		sum.UpdatePeak(s.peak)
	}
}

// give notes the points that the engine is given in the place of the samples that they were made of.
func (s *subtree) give(all []series) {
	for _, one := range all {
		for k, v := range one.values {
			if isMissing(v) {
				continue
			}
			s.points++
			if s.readAt != nil {
				s.readAt[k]--
			}
		}
	}
}

// above returns what samples counted below the level are counted as above it: all, those read, and those read by step,
// which is nil where nobody wants to know.
func (l *level) above(total, read int64, at []int64) (int64, int64, []int64) {
	steps := l.grid.steps()
	if l.subquery == nil {
		if at != nil {
			at = make([]int64, steps)
			at[0] = read
		}
		return total * int64(steps), read, at
	}
	child := stats.NewChildWithStepTracking(l.inner.start, l.inner.end, l.inner.interval)
	child.SamplesRead, child.SamplesReadPerStep = read, at
	sum := stats.NewChildWithStepTracking(l.grid.start, l.grid.end, l.grid.interval)
	var offset, rng int64
	if l.call {
		total = 0 // the function counts its windows of the subquery's results
		offset, rng = l.subquery.OriginalOffset.Milliseconds(), l.subquery.Range.Milliseconds()
	}
	sum.MergeSamplesReadFromSubquery(child, l.grid.start, l.grid.interval, steps, offset, rng)
	return total, sum.SamplesRead, sum.SamplesReadPerStep
}
