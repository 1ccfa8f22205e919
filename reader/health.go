package reader

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"sluice/internal/processes"
	"sluice/schema"
)

// States of the pipeline, and severities of its problems.
const (
	stateOK  = "ok"
	warning  = "warning"
	critical = "critical"
)

// health is what an operator should know first.
type health struct {
	State    string    `json:"state"`
	Summary  string    `json:"summary"`
	Problems []problem `json:"problems"`
}

// problem is one sentence, and what it is about.
type problem struct {
	Severity  string `json:"severity"`
	What      string `json:"what"`
	Partition *int32 `json:"partition,omitempty"`
	Process   string `json:"process,omitempty"`
}

// The bounds from which something is a problem.
const (
	lagWarning  = 60.0  // s
	lagCritical = 600.0 // s
	jobsWarning = 100
	maxProblems = 100 // that are told one by one
)

// judge says what is wrong. It is a function of p alone.
func judge(p *pipeline) health {
	j := &judgement{pipeline: p}
	for _, what := range p.unknown {
		j.add(warning, "%s.", dot(what))
	}
	for i := range p.Partitions {
		j.partition(&p.Partitions[i])
	}
	j.zones()
	j.processes()
	j.compaction()
	return j.health()
}

type judgement struct {
	*pipeline
	problems []problem
}

func (j *judgement) add(severity, format string, args ...any) *problem {
	j.problems = append(j.problems, problem{Severity: severity, What: fmt.Sprintf(format, args...)})
	return &j.problems[len(j.problems)-1]
}

// health sums up, what is critical first.
func (j *judgement) health() health {
	slices.SortStableFunc(j.problems, func(a, b problem) int { return cmp.Compare(a.Severity, b.Severity) }) // c before w
	h := health{State: stateOK, Problems: j.problems}
	if len(h.Problems) == 0 {
		h.Problems = []problem{}
		h.Summary = fmt.Sprintf("All is well: %s, held and caught up; %s.", count(len(j.Partitions), "partition"), count(len(j.Processes), "process"))
		return h
	}
	h.State, h.Summary = h.Problems[0].Severity, h.Problems[0].What
	if more := len(h.Problems) - 1; more > 0 {
		h.Summary = fmt.Sprintf("%s And %s.", h.Summary, count(more, "more problem"))
	}
	if more := len(h.Problems) - maxProblems; more > 0 {
		h.Problems = append(h.Problems[:maxProblems:maxProblems], problem{Severity: warning, What: fmt.Sprintf("%s are not shown here.", count(more, "more problem"))})
	}
	return h
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if strings.HasSuffix(noun, "s") {
		return fmt.Sprintf("%d %ses", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (j *judgement) partition(part *partitionView) {
	add := func(severity, format string, args ...any) *problem {
		p := j.add(severity, "Partition %d: "+format, append([]any{part.Partition}, args...)...)
		p.Partition = &part.Partition
		return p
	}
	for _, h := range part.Holders {
		switch {
		case h.State == processes.StateFailed && h.heard:
			add(warning, "it has stopped in %s and is started again and again: %s.", h.ID, dot(h.Failure)).Process = h.ID
		case h.serves() && h.Doubtful:
			add(warning, "%s says that it holds it, but did not answer this reader.", h.ID).Process = h.ID
		}
		if h.HeldUp != "" && h.heard {
			add(warning, "shipping by %s is held up, and tried again: %s.", h.ID, dot(h.HeldUp)).Process = h.ID
		}
	}
	j.holders(part, add)
	j.shipping(part, add)
	for _, g := range part.Gaps {
		if !g.Accepted {
			add(critical, "offsets %d to %d are lost (%s): queries over that time fail until somebody runs `sluice log accept-gap --partition %d --from %d`.",
				g.From, g.To, g.Reason, part.Partition, g.From)
		}
	}
}

// holders looks at who answers for the partition, and how far it is.
func (j *judgement) holders(part *partitionView, add func(string, string, ...any) *problem) {
	least, known := math.Inf(1), false
	serving, replaying := 0, holderView{}
	for _, h := range part.Holders {
		switch {
		case h.serves():
			serving++
			if h.LagSeconds == nil {
				least, known = 0, true // not said yet
			} else {
				least, known = min(least, *h.LagSeconds), true
			}
		case h.State == processes.StateReplaying && h.heard:
			replaying = h
		}
	}
	switch {
	case serving > 0 && known && least > lagCritical:
		add(critical, "nobody has applied it within the last %s.", span(least))
	case serving > 0 && known && least > lagWarning:
		add(warning, "whoever holds it is %s behind.", span(least))
	case serving > 0:
	case replaying.Replayed != nil:
		add(critical, "no consumer answers for it, %s is still replaying, %.0f %% done: queries over its newest samples fail until then.", replaying.ID, math.Floor(100**replaying.Replayed)).Process = replaying.ID
	case len(part.Holders) > 0:
		h := part.Holders[0]
		add(critical, "no consumer answers for it, the last one was %s: queries over its newest samples fail, and its samples stay in the log.", h.ID).Process = h.ID
	default:
		add(critical, "no consumer holds it: queries over its newest samples fail, and its samples stay in the log.")
	}
}

// shipping looks at how old the oldest record is that is not in the bucket. Two generations: one that grows, and one that
// is on its way.
func (j *judgement) shipping(part *partitionView, add func(string, string, ...any) *problem) {
	if part.End == nil || part.Committed != nil && *part.End <= *part.Committed {
		return
	}
	since, length := int64(0), int64(0)
	for _, h := range part.Holders {
		if h.Unshipped > since {
			since = h.Unshipped
		}
		if g := h.Generation; g != nil {
			length = max(length, g.Length)
		}
	}
	if since == 0 { // no consumer says
		since = part.BlocksTime
	}
	if length == 0 {
		length = schema.DefaultGeneration().Length
	}
	if age := j.Now - since; since > 0 && age > 2*length {
		add(warning, "its samples have not got into the bucket for %s, a generation is %s: is the bucket away?", span(float64(age)/1000), span(float64(length)/1000))
	}
}

func (j *judgement) zones() {
	if len(j.Zones) < 2 { // what one zone lacks, partitions tell
		return
	}
	for _, z := range j.Zones {
		switch {
		case z.Silent:
			j.add(warning, "Zone %s is silent: none of its consumers has been heard of for %s.", z.Zone, processes.SilentAfter)
		case z.Held < z.Partitions:
			j.add(warning, "Zone %s answers for %d of %s only: the other zones have to do without it.", z.Zone, z.Held, count(z.Partitions, "partition"))
		}
	}
}

func (j *judgement) processes() {
	stages := map[string]bool{}
	for i := range j.Processes {
		p := &j.Processes[i]
		if p.Silent {
			j.add(warning, "Process %s (%s) has said nothing for %s: it is gone, hangs, or is cut off from the log.",
				p.ID, strings.Join(p.Stages, ", "), span(float64(j.Now-p.Told)/1000)).Process = p.ID
			continue
		}
		for _, s := range p.Stages {
			stages[s] = true
		}
		if c := p.Consumer; c != nil {
			for _, note := range c.Notes {
				j.add(warning, "Consumer %s: %s.", p.ID, dot(note)).Process = p.ID
			}
		}
		if r := p.Reader; r != nil && r.Errors.PerSecond > 0 {
			j.add(warning, "Reader %s: requests to the bucket fail, %.3g a second.", p.ID, r.Errors.PerSecond).Process = p.ID
		}
	}
	if len(j.unknown) > 0 {
		return // who is there is not known
	}
	if !stages["producer"] {
		j.add(warning, "No producer says that it is there: nothing can be written.")
	}
	if !stages["compactor"] {
		j.add(warning, "No compactor says that it is there: blocks are not merged, and nothing is deleted.")
	}
}

func (j *judgement) compaction() {
	c := j.Compaction
	if c == nil {
		return
	}
	if c.Jobs > jobsWarning {
		j.add(warning, "%s are due: the compactors do not keep up.", count(c.Jobs, "merge"))
	}
	if c.Quarantined > 0 {
		j.add(warning, "%s could not be read for merging: the logs of the compactors say which and why.", count(c.Quarantined, "block"))
	}
}

// dot takes the last dot off, for a sentence that has its own.
func dot(s string) string { return strings.TrimSuffix(s, ".") }

// span is a time as people say it.
func span(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%.0f days", d.Hours()/24)
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%.0f h", d.Hours())
	case d >= 2*time.Hour:
		return fmt.Sprintf("%.1f h", d.Hours())
	case d >= 2*time.Minute:
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}
