package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/bench/ledger"
	"sluice/schema"
)

// reads are what came of the online reads of one consistency.
type reads struct {
	consistency string

	mu       sync.Mutex // guards the rest
	ok       int
	refused  map[string]int // 503 by its reason
	cut      int            // the answer broke off in its middle
	again    int            // asked of another reader, as the first one did not answer
	problems []string       // anything else
	report   ledger.Report
	gap      time.Duration  // longest time in which one client got errors only
	zoneGap  time.Duration  // the same, without failures while more than one zone could not help
	slowest  time.Duration  // successful read
	when     map[string]int // failures by what was being done
	examples []string       // two of each kind
	shown    map[string]int
}

func (r *reads) failed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.cut
	for _, k := range r.refused {
		n += k
	}
	return n
}

func (r *reads) succeeded() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ok
}

// figures are for the line of a report.
func (r *reads) figures() map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	return map[string]any{
		"ok": r.ok, "refused_503_by_reason": r.refused, "cut_off": r.cut, "asked_again": r.again, "unexplained": len(r.problems),
		"wrong": r.report.Wrong(), "samples_compared": r.report.Returned, "longest_failing_s": r.gap.Seconds(),
		"longest_failing_two_zones_s": r.zoneGap.Seconds(), "slowest_s": r.slowest.Seconds(), "failed_during": r.when,
	}
}

// circumstances says what was being done to the cluster in a span of time: what, and whether a reader may then fail.
type circumstances func(from, to time.Time) (faults []string, excused bool)

// watcher reads one thing after the other while everything goes on, as a client of the load balancer. An error must say
// why, an answer must be right.
type watcher struct {
	c     *cluster
	w     *load
	rng   *rand.Rand
	reads *reads
	what  circumstances
}

// watchers starts n strong and n eventual ones. The returned function stops them.
func (c *cluster) watchers(n int, w *load, seed uint64, what circumstances) (strongly, eventually *reads, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	all := []*reads{}
	for i, consistency := range []string{"strong", "eventual"} {
		r := &reads{consistency: consistency, refused: map[string]int{}, when: map[string]int{}, shown: map[string]int{}}
		all = append(all, r)
		for j := range n {
			one := &watcher{c: c, w: w, rng: rand.New(rand.NewPCG(seed, uint64(100+10*i+j))), reads: r, what: what}
			wg.Go(func() { one.run(ctx) })
		}
	}
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	c.t.Cleanup(stop)
	return all[0], all[1], stop
}

// readPause is between two reads of one watcher: so that they do not need the whole machine.
const readPause = 200 * time.Millisecond

func (o *watcher) run(ctx context.Context) {
	var since time.Time // the first of the failures in a row
	excused := false
	for ctx.Err() == nil {
		begun := time.Now()
		err := o.once(ctx)
		end := time.Now()
		if ctx.Err() != nil {
			return
		}
		o.reads.mu.Lock()
		switch {
		case err != nil:
			faults, may := o.what(begun, end)
			o.reads.note(err, faults, begun)
			if since.IsZero() {
				since, excused = begun, false
			}
			excused = excused || may
		default:
			o.reads.ok++
			o.reads.slowest = max(o.reads.slowest, end.Sub(begun))
			if !since.IsZero() {
				gap := begun.Sub(since)
				if o.reads.gap = max(o.reads.gap, gap); !excused {
					o.reads.zoneGap = max(o.reads.zoneGap, gap)
				}
			}
			since = time.Time{}
		}
		o.reads.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(readPause):
		}
	}
}

var errorID = regexp.MustCompile(`err-sluice-[a-z-]+`)

// note sorts a failure; the caller holds mu.
func (r *reads) note(err error, faults []string, begun time.Time) {
	during := "nothing"
	if len(faults) > 0 {
		during = strings.Join(faults, "+")
	}
	r.when[during]++
	status, body, answered := ledger.Answered(err)
	id := errorID.FindString(body)
	switch {
	case answered && status == http.StatusServiceUnavailable && id != "":
		r.refused[id]++
	case !answered && !inDo(err):
		r.cut++
	default:
		r.problems = append(r.problems, fmt.Sprintf("%s %s read during %s: %v", begun.Format("15:04:05.000"), r.consistency, during, err))
	}
	if r.shown[during+id]++; r.shown[during+id] <= 2 {
		r.examples = append(r.examples, fmt.Sprintf("%s +%dms %s during %s: %.400v", begun.Format("15:04:05.000"), time.Since(begun).Milliseconds(), r.consistency, during, err))
	}
}

// inDo says whether a request got no answer at all.
func inDo(err error) bool {
	var ue *url.Error
	return errors.As(err, &ue)
}

// readTimeout is how long a client waits: longer than a strong read may take.
const readTimeout = 45 * time.Second

// once makes one read, of another reader when one does not answer.
func (o *watcher) once(ctx context.Context) error {
	spec := o.w.ledger.Spec
	tenant := o.rng.IntN(len(spec.Tenants))
	block := o.rng.IntN(spec.Tenants[tenant].Blocks())
	path := []ledger.Path{ledger.PathChunks, ledger.PathSamples, ledger.PathPromQL}[o.rng.IntN(3)]
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var tried []*backend
	var last error
	for {
		b, up := o.c.read.pick(tried)
		if b == nil {
			return last
		}
		tried = append(tried, b)
		_, life, floor := b.state()
		inner, stop := context.WithCancel(ctx)
		release := context.AfterFunc(up, stop)
		v := o.w.verifier(b.url, path)
		v.Patience, v.Slice, v.Floor, v.Eventual = 0, 1<<20, floor, o.reads.consistency == "eventual"
		v.Target.Header = map[string][]string{strong: {o.reads.consistency}}
		v.Target.Client = &http.Client{Transport: o.c.read.transport}
		rep, err := v.Block(inner, path, tenant, block)
		stop()
		release()
		_, now, _ := b.state()
		if now != life && rep.Counts[ledger.Vanished] > 0 { // what another life of the reader has returned binds nobody
			delete(rep.Counts, ledger.Vanished)
			rep.Examples = slices.DeleteFunc(rep.Examples, func(a ledger.Anomaly) bool { return a.Class == ledger.Vanished })
		}
		if err == nil {
			o.reads.mu.Lock()
			o.reads.report.Merge(rep)
			o.reads.mu.Unlock()
			return nil
		}
		died := now != life || up.Err() != nil
		if _, _, answered := ledger.Answered(err); ctx.Err() != nil || answered || !inDo(err) && !died {
			return fmt.Errorf("reader %s: %w", b.url, err)
		}
		last = err
		o.reads.mu.Lock()
		o.reads.again++
		o.reads.mu.Unlock()
	}
}

// right demands that nothing wrong was returned and that every failure said why.
func (r *reads) right(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.examples {
		t.Log("failed read: ", e)
	}
	require.Zero(t, r.report.Wrong(), "%s reads under fire: %s", r.consistency, r.report.String())
	require.Empty(t, r.problems, "%s reads that failed in a way that says nothing", r.consistency)
	require.Positive(t, r.ok)
}

// writeConfig is a load that goes to the producers through a load balancer.
func (c *cluster) writeConfig(client *http.Client, rate float64) ledger.WriteConfig {
	client.Timeout = 20 * time.Second
	return ledger.WriteConfig{
		URL: "http://producers/api/v1/push", TenantHeader: schema.TenantHeader, Writers: 2, Rate: rate, Ticks: 10, Duplicate: 25,
		MaxBackoff: 500 * time.Millisecond, Client: client,
	}
}
