package reader

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/internal/processes"
)

func pointer[T any](v T) *T { return &v }

// Each case takes a pipeline that is well and breaks one thing.
func TestJudge(t *testing.T) {
	const now, hour = int64(1_000_000_000), int64(3_600_000)
	live := func(id, zone string) holderView {
		return holderView{
			ID: id, Zone: zone, Applied: 100, State: processes.StateLive, heard: true, announced: now, LagRecords: pointer(int64(0)), LagSeconds: pointer(0.0),
			Generation: &processes.Generation{Length: 2 * hour, Began: now - hour}, Unshipped: now - hour,
		}
	}
	well := func() *pipeline {
		return &pipeline{
			Now: now,
			Processes: []processes.Process{
				{ID: "c", Stages: []string{"consumer"}, Told: now, Consumer: &processes.Consumer{Ready: true}},
				{ID: "x", Stages: []string{"producer", "compactor", "reader"}, Told: now, Reader: &processes.Reader{}},
			},
			Partitions: []partitionView{
				{Partition: 0, End: pointer(int64(100)), Committed: pointer(int64(50)), Holders: []holderView{live("c", "a")}},
				{Partition: 1, End: pointer(int64(100)), Committed: pointer(int64(50)), Holders: []holderView{live("c", "a"), live("d", "b")}},
			},
			Zones:      []zoneView{{Zone: "a", Held: 2, Partitions: 2}},
			Compaction: &compactionView{Jobs: 100},
		}
	}
	for _, c := range []struct {
		name   string
		change func(p *pipeline)
		want   []string // severity and sentence
	}{
		{"well", func(*pipeline) {}, nil},
		{"no holder", func(p *pipeline) { p.Partitions[0].Holders = nil },
			[]string{"critical Partition 0: no consumer holds it: queries over its newest samples fail, and its samples stay in the log."}},
		{"last holder silent", func(p *pipeline) { p.Partitions[0].Holders[0].heard = false },
			[]string{"critical Partition 0: no consumer answers for it, the last one was c: queries over its newest samples fail, and its samples stay in the log."}},
		{"one of two silent", func(p *pipeline) { p.Partitions[1].Holders[0].heard = false }, nil},
		{"replaying", func(p *pipeline) {
			p.Partitions[0].Holders[0].State, p.Partitions[0].Holders[0].Replayed = processes.StateReplaying, pointer(0.499)
		}, []string{"critical Partition 0: no consumer answers for it, c is still replaying, 49 % done: queries over its newest samples fail until then."}},
		{"one of two replaying", func(p *pipeline) {
			p.Partitions[1].Holders[0].State, p.Partitions[1].Holders[0].Replayed = processes.StateReplaying, pointer(0.499)
		}, nil},
		{"failed", func(p *pipeline) {
			p.Partitions[0].Holders[0].State, p.Partitions[0].Holders[0].Failure = processes.StateFailed, "disk full."
		}, []string{
			"critical Partition 0: no consumer answers for it, the last one was c: queries over its newest samples fail, and its samples stay in the log.",
			"warning Partition 0: it has stopped in c and is started again and again: disk full.",
		}},
		{"does not answer this reader", func(p *pipeline) { p.Partitions[0].Holders[0].Doubtful = true },
			[]string{"warning Partition 0: c says that it holds it, but did not answer this reader."}},
		{"lag at the bound", func(p *pipeline) { p.Partitions[0].Holders[0].LagSeconds = pointer(60.0) }, nil},
		{"lag", func(p *pipeline) { p.Partitions[0].Holders[0].LagSeconds = pointer(61.0) },
			[]string{"warning Partition 0: whoever holds it is 61 s behind."}},
		{"large lag", func(p *pipeline) { p.Partitions[0].Holders[0].LagSeconds = pointer(3601.0) },
			[]string{"critical Partition 0: nobody has applied it within the last 60 min."}},
		{"lag of one of two", func(p *pipeline) { p.Partitions[1].Holders[0].LagSeconds = pointer(3601.0) }, nil},
		{"lag of one, the other silent", func(p *pipeline) {
			p.Partitions[1].Holders[0].LagSeconds, p.Partitions[1].Holders[1].heard = pointer(3600.0), false
		}, []string{"critical Partition 1: nobody has applied it within the last 1 h."}},
		{"shipping held up", func(p *pipeline) { p.Partitions[0].Holders[0].HeldUp = "upload: no route to host" },
			[]string{"warning Partition 0: shipping by c is held up, and tried again: upload: no route to host."}},
		{"two generations are not in the bucket", func(p *pipeline) { p.Partitions[0].Holders[0].Unshipped = now - 4*hour - 1000 },
			[]string{"warning Partition 0: its samples have not got into the bucket for 4.0 h, a generation is 2 h: is the bucket away?"}},
		{"all is committed", func(p *pipeline) {
			p.Partitions[0].Holders[0].Unshipped, p.Partitions[0].Committed = now-4*hour-1000, pointer(int64(100))
		}, nil},
		{"nobody says since when, the catalogue does", func(p *pipeline) {
			p.Partitions[1].Holders, p.Partitions[1].BlocksTime = nil, now-5*hour
		}, []string{
			"critical Partition 1: no consumer holds it: queries over its newest samples fail, and its samples stay in the log.",
			"warning Partition 1: its samples have not got into the bucket for 5 h, a generation is 2 h: is the bucket away?",
		}},
		{"gap", func(p *pipeline) { p.Partitions[1].Gaps = []gapView{{From: 3, To: 9, Reason: "retention"}} },
			[]string{"critical Partition 1: offsets 3 to 9 are lost (retention): queries over that time fail until somebody runs `sluice log accept-gap --partition 1 --from 3`."}},
		{"accepted gap", func(p *pipeline) { p.Partitions[1].Gaps = []gapView{{From: 3, To: 9, Accepted: true}} }, nil},
		{"loss noted", func(p *pipeline) {
			p.Processes[0].Consumer.Notes = []string{"partition 1 lost offsets 3 to 9 (retention)"}
		},
			[]string{"warning Consumer c: partition 1 lost offsets 3 to 9 (retention)."}},
		{"silent process", func(p *pipeline) {
			p.Processes = append(p.Processes, processes.Process{ID: "y", Stages: []string{"reader"}, Told: now - 90_000, Silent: true, Reader: &processes.Reader{Errors: processes.At(1)}})
		}, []string{"warning Process y (reader) has said nothing for 90 s: it is gone, hangs, or is cut off from the log."}},
		{"no producer and no compactor", func(p *pipeline) { p.Processes = p.Processes[:1] },
			[]string{"warning No producer says that it is there: nothing can be written.", "warning No compactor says that it is there: blocks are not merged, and nothing is deleted."}},
		{"who is there is not known", func(p *pipeline) { p.Processes, p.unknown = nil, []string{"The log does not tell X: timeout"} },
			[]string{"warning The log does not tell X: timeout."}},
		{"bucket fails a reader", func(p *pipeline) { p.Processes[1].Reader.Errors = processes.At(0.25) },
			[]string{"warning Reader x: requests to the bucket fail, 0.25 a second."}},
		{"one zone lacks partitions, but there is one zone", func(p *pipeline) { p.Zones[0].Held = 1 }, nil},
		{"zone silent", func(p *pipeline) { p.Zones = append(p.Zones, zoneView{Zone: "b", Partitions: 2, Silent: true}) },
			[]string{"warning Zone b is silent: none of its consumers has been heard of for 20s."}},
		{"zone lacks partitions", func(p *pipeline) { p.Zones = append(p.Zones, zoneView{Zone: "b", Held: 1, Partitions: 2}) },
			[]string{"warning Zone b answers for 1 of 2 partitions only: the other zones have to do without it."}},
		{"backlog", func(p *pipeline) { p.Compaction.Jobs = 101 }, []string{"warning 101 merges are due: the compactors do not keep up."}},
		{"quarantine", func(p *pipeline) { p.Compaction.Quarantined = 1 },
			[]string{"warning 1 block could not be read for merging: the logs of the compactors say which and why."}},
		{"no compactor has looked", func(p *pipeline) { p.Compaction = nil }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := well()
			c.change(p)
			h := judge(p)
			var got []string
			for _, problem := range h.Problems {
				got = append(got, problem.Severity+" "+problem.What)
			}
			require.Equal(t, c.want, got)
			if len(c.want) == 0 {
				require.Equal(t, stateOK, h.State)
				return
			}
			require.Equal(t, h.Problems[0].Severity, h.State)
			require.Contains(t, h.Summary, h.Problems[0].What)
		})
	}
}

func TestJudgeIsBounded(t *testing.T) {
	p := &pipeline{}
	for i := range int32(1000) {
		p.Partitions = append(p.Partitions, partitionView{Partition: i})
	}
	h := judge(p)
	require.Len(t, h.Problems, maxProblems+1)
	require.Equal(t, critical, h.State)
	require.Equal(t, "902 more problems are not shown here.", h.Problems[maxProblems].What)
	require.Equal(t, int32(7), *h.Problems[7].Partition)
}
