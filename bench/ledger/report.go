package ledger

import (
	"fmt"
	"strings"
)

// Class is a way in which an answer can be wrong.
type Class string

// The classes.
const (
	Lost       Class = "lost"       // acked and not returned
	Duplicated Class = "duplicated" // returned twice
	Altered    Class = "altered"    // returned with another value
	Invented   Class = "invented"   // returned and never sent, or refused when it was
	Foreign    Class = "foreign"    // returned to a tenant that does not own it
	Vanished   Class = "vanished"   // returned before, by the same server, and not now
)

// Classes lists them.
func Classes() []Class { return []Class{Lost, Duplicated, Altered, Invented, Foreign, Vanished} }

// Anomaly is one wrong sample.
type Anomaly struct {
	Class   Class
	Path    Path
	Tenant  string
	Series  int
	Tick    int64
	Time    int64 // ms
	Request uint64
	Detail  string
}

func (a Anomaly) String() string {
	return fmt.Sprintf("%s (%s): tenant %s series %d seq %d time %d request %d %s", a.Class, a.Path, a.Tenant, a.Series, a.Tick, a.Time, a.Request, a.Detail)
}

// Report is a verdict. The zero value is an empty one.
type Report struct {
	Seed     uint64
	Samples  int64 // acked samples that were looked for, over all paths
	Returned int64 // samples that came back
	Unknown  int64 // samples that came back of requests whose outcome is unknown
	Counts   map[Class]int64
	Examples []Anomaly // the first of each class
}

const maxExamples = 8 // per class

func (r *Report) add(a Anomaly) {
	if r.Counts == nil {
		r.Counts = map[Class]int64{}
	}
	if r.Counts[a.Class]++; r.Counts[a.Class] <= maxExamples {
		r.Examples = append(r.Examples, a)
	}
}

// Wrong is how many samples are in any class.
func (r *Report) Wrong() int64 {
	var n int64
	for _, c := range r.Counts {
		n += c
	}
	return n
}

// Merge adds other to r.
func (r *Report) Merge(other Report) {
	r.Seed = max(r.Seed, other.Seed)
	r.Samples += other.Samples
	r.Returned += other.Returned
	r.Unknown += other.Unknown
	for c, n := range other.Counts {
		if r.Counts == nil {
			r.Counts = map[Class]int64{}
		}
		r.Counts[c] += n
	}
	r.Examples = append(r.Examples, other.Examples...)
}

// String is the figures in one line, and the examples below.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: looked for %d, returned %d (unknown %d)", r.Seed, r.Samples, r.Returned, r.Unknown)
	for _, c := range Classes() {
		fmt.Fprintf(&b, " %s %d", c, r.Counts[c])
	}
	for _, e := range r.Examples {
		fmt.Fprintf(&b, "\n  %s", e)
	}
	return b.String()
}
