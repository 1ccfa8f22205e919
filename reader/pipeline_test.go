package reader

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/internal/members"
	"sluice/internal/processes"
	"sluice/schema"
)

// pipelineLog is a fakeLog with committed offsets; what hangs waits until its context ends.
type pipelineLog struct {
	fakeLog
	committed map[int32]int64
	hangs     bool
}

func (l *pipelineLog) hang(ctx context.Context) error {
	if !l.hangs {
		return l.err
	}
	<-ctx.Done()
	return ctx.Err()
}

func (l *pipelineLog) Partitions(ctx context.Context, topic string) (int32, error) {
	return int32(len(l.bounds)), nil // as a client remembers it
}

func (l *pipelineLog) Bounds(ctx context.Context, _ string, p int32) (log.Bounds, error) {
	return l.bounds[p], l.hang(ctx)
}

func (l *pipelineLog) Committed(ctx context.Context, _, _ string) (map[int32]int64, error) {
	return l.committed, l.hang(ctx)
}

type fakeProcesses struct {
	all  []processes.Process
	now  int64
	sync func(context.Context) error
}

func (p *fakeProcesses) List() ([]processes.Process, int64) { return p.all, p.now }
func (p *fakeProcesses) Sync(ctx context.Context) error     { return p.sync(ctx) }

// fakeMembers doubts those that were not heard of within StaleAfter.
type fakeMembers struct {
	all []members.Member
	now int64
}

func (m *fakeMembers) Sync(context.Context) error { return nil }
func (m *fakeMembers) Members() []members.Member  { return append([]members.Member(nil), m.all...) }
func (m *fakeMembers) Holders(p int32) (out []members.Holder) {
	for _, member := range m.all {
		for _, c := range member.Partitions {
			if c.Partition == p {
				out = append(out, members.Holder{Member: member, Coverage: c, Doubtful: m.now-member.Time > members.StaleAfter.Milliseconds()})
			}
		}
	}
	return out
}

func noWait(context.Context) error { return nil }

// Two zones hold two partitions; of zone b one consumer is silent and another one replays.
func pipelineOf() (*Pipeline, *pipelineLog, *fakeProcesses, *fakeMembers, *fakeCat) {
	const now = int64(10_000_000)
	l := &pipelineLog{fakeLog: fakeLog{bounds: []log.Bounds{{Start: 5, End: 100}, {Start: 0, End: 50}}}, committed: map[int32]int64{0: 40}}
	cat := &fakeCat{snapshots: []snapshot{{shipped: map[int32]int64{0: 40}, gaps: []schema.Gap{
		{LogRange: schema.LogRange{Partition: 0, From: 2, To: 5}, Reason: "accepted: retention"},
	}}}}
	held := func(p int32, from, applied int64) members.Coverage {
		return members.Coverage{Partition: p, From: from, Applied: applied}
	}
	dir := &fakeMembers{now: now, all: []members.Member{
		{ID: "a-1", Zone: "a", Kind: members.KindConsumer, Time: now - 1000, Partitions: []members.Coverage{held(0, 40, 100), held(1, 0, 50)}},
		{ID: "b-1", Zone: "b", Kind: members.KindConsumer, Time: now - 60_000, Partitions: []members.Coverage{held(0, 40, 90)}},
		{ID: "b-9", Zone: "c", Kind: members.KindConsumer, Time: now - 4_000_000, Partitions: []members.Coverage{held(0, 40, 50)}},
	}}
	procs := &fakeProcesses{now: now, sync: noWait, all: []processes.Process{
		{ID: "a-1", Zone: "a", Told: now - 2000, Stages: []string{"consumer"}, Consumer: &processes.Consumer{Partitions: []processes.Partition{
			{Partition: 0, State: "live", From: 40, Applied: 99, AppliedTime: now - 2100, Generation: &processes.Generation{From: 40, Began: now - 9000, Samples: 7, Length: 7_200_000}, Shipping: 1, Unshipped: now - 9000},
			{Partition: 1, State: "live", Applied: 30, AppliedTime: now - 32_000, Behind: 20},
			{Partition: 7, State: "failed"}, // of a topic that had more
		}}},
		{ID: "b-1", Zone: "b", Told: now - 60_000, Silent: true, Stages: []string{"consumer"}, Consumer: &processes.Consumer{Partitions: []processes.Partition{
			{Partition: 0, State: "live", From: 40, Applied: 90, AppliedTime: now - 61_000},
		}}},
		{ID: "b-2", Zone: "b", Told: now - 2000, Stages: []string{"consumer"}, Consumer: &processes.Consumer{Partitions: []processes.Partition{
			{Partition: 1, State: "replaying", Applied: 10, AppliedTime: now - 900_000, Behind: 40, Replayed: 0.2},
			{Partition: 0, State: "live"}, // given away since
		}}},
		{ID: "k-1", Told: now, Stages: []string{"compactor"}, Compactor: &processes.Compactor{JobsDue: 3, DueBytes: 30, Quarantined: 1, Looked: 1}},
		{ID: "k-2", Told: now, Stages: []string{"compactor"}, Compactor: &processes.Compactor{JobsDue: 4, DueBytes: 20, TooLarge: 2, Looked: 1}},
		{ID: "k-3", Told: now, Silent: true, Stages: []string{"compactor"}, Compactor: &processes.Compactor{JobsDue: 99, Looked: 1}},
		{ID: "k-4", Told: now, Stages: []string{"compactor", "producer"}, Compactor: &processes.Compactor{}},
	}}
	return NewPipeline(l, cat, dir, procs), l, procs, dir, cat
}

func TestPipeline(t *testing.T) {
	p, _, _, _, _ := pipelineOf()
	mux := http.NewServeMux()
	p.Register(mux)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/-/pipeline", nil))
	require.Equal(t, http.StatusOK, w.Code)
	var got struct {
		Data struct {
			Partitions, Zones, Compaction json.RawMessage
			Processes                     []struct{ Consumer map[string]any }
			Health                        health
		}
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	require.JSONEq(t, `[
		{"partition":0,"start":5,"end":100,"committed":40,"blocks_to":40,"gaps":[{"from":2,"to":5,"reason":"retention","accepted":true}],"holders":[
			{"id":"a-1","zone":"a","from":40,"applied":100,"lag_records":0,"lag_seconds":0,"doubtful":false,"state":"live","unshipped_since":9991000,
			 "generation":{"from":40,"began":9991000,"bytes":0,"series":0,"samples":7,"length":7200000},"waiting":0,"sealing":0,"shipping":1},
			{"id":"b-1","zone":"b","from":40,"applied":90,"lag_records":10,"lag_seconds":61,"doubtful":true,"state":"live","waiting":0,"sealing":0,"shipping":0}]},
		{"partition":1,"start":0,"end":50,"gaps":[],"holders":[
			{"id":"a-1","zone":"a","from":0,"applied":50,"lag_records":20,"lag_seconds":30,"doubtful":false,"state":"live","waiting":0,"sealing":0,"shipping":0},
			{"id":"b-2","zone":"b","from":0,"applied":10,"lag_records":40,"lag_seconds":898,"doubtful":false,"state":"replaying","replayed":0.2,"waiting":0,"sealing":0,"shipping":0}]}
	]`, string(got.Data.Partitions))
	require.JSONEq(t, `[{"zone":"a","partitions_held":2,"partitions":2,"silent":false},{"zone":"b","partitions_held":0,"partitions":2,"silent":false}]`, string(got.Data.Zones))
	require.JSONEq(t, `{"jobs":4,"bytes":30,"too_large":2,"quarantined":1,"waiting":0}`, string(got.Data.Compaction), "the most that one says, of those that speak")
	require.NotContains(t, got.Data.Processes[0].Consumer, "partitions", "once is enough")
	require.Equal(t, warning, got.Data.Health.State)
}

// What a holder announces for queries is newer than what it says of itself.
func TestHolderAnswersSinceItSpoke(t *testing.T) {
	p, _, procs, dir, _ := pipelineOf()
	dir.all = append(dir.all, members.Member{ID: "b-2", Zone: "b", Kind: members.KindConsumer, Time: procs.now - 500, Partitions: []members.Coverage{{Partition: 1, Applied: 50}}})
	out := p.look(t.Context())
	h := out.Partitions[1].Holders[1]
	require.Equal(t, "b-2", h.ID)
	require.Equal(t, processes.StateLive, h.State)
	require.Nil(t, h.Replayed)
	require.Nil(t, h.LagSeconds, "not known yet")
}

// A log that hangs or fails costs what it would have told, and at most five seconds.
func TestPipelineWithoutTheLog(t *testing.T) {
	for name, change := range map[string]func(*pipelineLog, *fakeProcesses){
		"hangs": func(l *pipelineLog, procs *fakeProcesses) {
			l.hangs = true
			procs.sync = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		},
		"fails": func(l *pipelineLog, procs *fakeProcesses) {
			l.err = errors.New("no route")
			procs.sync = func(context.Context) error { return l.err }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, l, procs, _, _ := pipelineOf()
				change(l, procs)
				start := time.Now() // of the bubble: this is no measurement
				out := p.look(t.Context())
				require.LessOrEqual(t, time.Since(start), 5*time.Second)
				require.Len(t, out.Partitions, 2)
				require.Nil(t, out.Partitions[0].End)
				require.Nil(t, out.Partitions[0].Committed)
				require.Equal(t, int64(40), *out.Partitions[0].BlocksTo, "the rest is shown")
				require.Len(t, out.Partitions[0].Holders, 2)
				var said []string
				for _, problem := range out.Health.Problems {
					if strings.HasPrefix(problem.What, "The log does not tell") {
						said = append(said, problem.What)
					}
				}
				require.Len(t, said, 3)

				again := p.look(t.Context())
				require.Same(t, out, again, "many who look cost what one does")
				time.Sleep(pipelineFresh)
				require.NotSame(t, out, p.look(t.Context()))
			})
		})
	}
}
