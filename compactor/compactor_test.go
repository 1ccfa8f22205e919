package compactor

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/internal/block"
	"sluice/internal/catalog"
	"sluice/internal/exemplars"
	"sluice/schema"
)

// noLeaks asserts, after all other clean-up, that the test has left no goroutine behind.
func noLeaks(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
}

func TestConfigValidate(t *testing.T) {
	for name, c := range map[string]Config{
		"no scratch":       {},
		"negative":         {Scratch: "x", Settle: -1},
		"not multiples":    {Scratch: "x", Ranges: []time.Duration{2 * time.Hour, 5 * time.Hour}},
		"not ascending":    {Scratch: "x", Ranges: []time.Duration{2 * time.Hour, 2 * time.Hour}},
		"short tombstones": {Scratch: "x", TombstoneRetention: time.Minute},
	} {
		require.Error(t, c.Validate(), name)
	}
	c := Config{Scratch: "x"}
	require.NoError(t, c.Validate())
	require.Equal(t, []time.Duration{2 * time.Hour, 12 * time.Hour, 24 * time.Hour}, c.Ranges)
	require.Equal(t, 30*time.Second, c.LeaseTTL)
	c = Config{Scratch: "x", Interval: time.Second}
	require.NoError(t, c.Validate())
	require.Equal(t, 3*time.Second, c.LeaseTTL)
}

// generations are the blocks of a day of one tenant: two partitions, late samples, two values for one sample, every kind
// of sample.
func generations(w *world) []data {
	day := midnight
	min := int64(60_000)
	hs := tsdbutil.GenerateTestHistograms(40)
	fhs := tsdbutil.GenerateTestFloatHistograms(40)
	var hist, fhist []sample
	for i := range hs {
		hist = append(hist, sample{t: day + int64(i)*min, h: hs[i]})
		fhist = append(fhist, sample{t: day + int64(i)*min, fh: fhs[i]})
	}
	stale := math.Float64frombits(value.StaleNaN)
	all := []data{
		0: {"a": floats(day, day+2*hour, min, 1), "b": floats(day, day+2*hour, min, 2), "h": hist[:25]},
		1: {"c": floats(day, day+2*hour, min, 3), "fh": fhist[:20]},
		2: {"a": append(floats(day+2*hour, day+4*hour, min, 4), sample{t: day + 4*hour - 1, f: stale}), "h": []sample{{t: day + 3*hour, h: hs[3]}}},
		3: {"a": append(floats(day+hour, day+hour+3*min, min, 99), floats(day+hour+30_000, day+hour+6*min, min, 5)...), "h": hist[15:]}, // late: the first three lose
		4: {"c": floats(day+13*hour, day+14*hour, min, 6)},
		5: {"fh": fhist[10:]},
	}
	slices.SortFunc(all[3]["a"], func(a, b sample) int { return int(a.t - b.t) })
	w.ship("t", 0, 0, all[0])
	w.ship("t", 1, 0, all[1])
	w.ship("t", 0, 2, all[2])
	w.ship("t", 0, 4, all[3])
	w.ship("t", 1, 13, all[4])
	w.ship("t", 1, 15, all[5])
	return all
}

func TestMergeKeepsEverySample(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	all := generations(w)
	other := w.ship("u", 0, 0, all[0])
	want := expect(all...)
	requireView(t, want, w.view("t", w.live("t")), "")
	require.Equal(t, "1", want[fmt.Sprintf("a@%d", hour)], "the first value in log order wins")
	changes := w.watch("t", want)

	c := w.compactor()
	w.at(c, 4) // nothing is closed
	require.Len(t, w.live("t"), 6)
	w.at(c, 4.5) // [0h,2h): the two partitions and what came late
	require.Len(t, w.live("t"), 3, "%v", w.live("t"))
	w.at(c, 14.5) // [0h,12h)
	require.Len(t, w.live("t"), 2)
	w.at(c, 26.5) // the day
	blocks := w.live("t")
	require.Len(t, blocks, 1)
	w.at(c, 27)
	require.Greater(t, *changes, 10)

	day := blocks[0]
	require.EqualValues(t, len(want), day.Samples)
	require.Len(t, day.Sources, 6)
	require.Equal(t, 4, day.Level)
	require.Equal(t, midnight, day.LogFrom)
	require.Equal(t, midnight+17*hour, day.LogTime)
	require.Equal(t, uint64(day.LogTime), day.ID.Time())
	require.Equal(t, []schema.LogRange{
		{TopicID: "x", Partition: 0, From: 0, To: 10}, {TopicID: "x", Partition: 0, From: 20, To: 40},
		{TopicID: "x", Partition: 1, From: 10, To: 20}, {TopicID: "x", Partition: 1, From: 40, To: 60},
	}, day.Ranges)
	require.Empty(t, block.Verify(context.Background(), w.bkt, day, true, t.TempDir()))
	require.Equal(t, []string{day.ID.String()}, w.folders("t"), "the inputs are gone")
	require.Equal(t, []string{other.ID.String()}, w.folders("u"), "another tenant's block is untouched")
	require.EqualValues(t, 3, w.metric("sluice_compactor_jobs_total", resultDone))
	require.EqualValues(t, 8, w.metric("sluice_compactor_deleted_blocks_total", reasonReplaced))
}

// TestMergeKeepsExemplars: a merged block has the exemplars of all its inputs, each once; blocks without any stay without.
func TestMergeKeepsExemplars(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	inputs := []*schema.BlockEntry{{ID: ulid.ULID{1}}, {ID: ulid.ULID{2}}, {ID: ulid.ULID{3}}}
	add := func(e *schema.BlockEntry, times ...int64) {
		var set exemplars.Set
		for _, at := range times {
			set.Add(labels.FromStrings("__name__", "m"), exemplar.Exemplar{Ts: at, HasTs: true}, len(times))
		}
		folder := filepath.Join(dir, e.ID.String())
		require.NoError(t, os.MkdirAll(folder, 0o755))
		require.NoError(t, block.WriteExemplars(folder, &set))
	}
	add(inputs[0])
	require.NoError(t, mergeExemplars(dir, inputs[:1], out))
	require.NoFileExists(t, filepath.Join(out, schema.ExemplarsFile))
	add(inputs[1], 1, 5)
	add(inputs[2], 5, 3)
	require.NoError(t, mergeExemplars(dir, inputs, out))
	merged, err := block.LocalExemplars(out)
	require.NoError(t, err)
	var times []int64
	for _, f := range merged.Select(0, 10, [][]*labels.Matcher{{}}) {
		for _, e := range f.Exemplars {
			times = append(times, e.Ts)
		}
	}
	require.Equal(t, []int64{1, 3, 5}, times)
	require.NoError(t, os.Truncate(filepath.Join(dir, inputs[1].ID.String(), schema.ExemplarsFile), 9))
	require.ErrorIs(t, mergeExemplars(dir, inputs, out), exemplars.ErrCorrupt)
}

func TestLateSamplesJoinTheDay(t *testing.T) {
	w := newWorld(t)
	all := generations(w)
	c := w.compactor()
	w.at(c, 26.5)
	require.Len(t, w.live("t"), 1)
	late := data{"a": append(floats(midnight+hour, midnight+hour+60_000, 30_000, -1), sample{t: midnight + 5*hour, f: 8}), "new": floats(midnight+hour, midnight+hour+10, 1, 7)}
	e := w.ship("t", 0, 30, late)
	require.Equal(t, midnight+32*hour, e.At)
	want := expect(append(all, late)...)
	w.watch("t", want)
	w.at(c, 33) // waits for a settle time
	require.Len(t, w.live("t"), 2)
	w.at(c, 34.5)
	require.Len(t, w.live("t"), 1)
	requireView(t, want, w.view("t", w.live("t")), "")
}

// finish runs a new compactor over the rest of the day until all that will happen has happened.
func finish(w *world) {
	c := w.compactor()
	// Leases of the dead end in log time, and that stands still while the clock goes back: the tombstones may be late.
	for _, h := range []float64{26.5, 27, 27.5, 24 * 9, 24 * 9.5, 24 * 18, 24 * 18.5, 24 * 27} {
		w.at(c, h)
	}
}

// script is the life of a day's blocks with a crash somewhere in it: run ends at the first error.
func script(w *world, c *Compactor) error {
	for _, h := range []float64{4.5, 5, 26.5, 27, 24*8 + 27.5} {
		w.setClock(time.UnixMilli(midnight + int64(h*float64(hour))))
		if err := c.RunOnce(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// checkFinished asserts that nothing but one block with every sample is left.
func checkFinished(t *testing.T, w *world, want map[string]string, id string) {
	blocks := w.live("t")
	require.Len(t, blocks, 1)
	require.Equal(t, id, blocks[0].ID.String())
	requireView(t, want, w.view("t", blocks), "")
	require.Equal(t, []string{id}, w.folders("t"))
	require.Len(t, w.cat.All(), 1, "the tombstones are forgotten")
}

func TestCrashAfterEachStep(t *testing.T) {
	clean := newWorld(t)
	want := expect(generations(clean)...)
	require.NoError(t, script(clean, clean.compactor()))
	finish(clean)
	id := clean.live("t")[0].ID.String()
	checkFinished(t, clean, want, id)

	times := 2
	if testing.Short() { // under the race detector: the second time differs by what is stored, not by what runs
		times = 1
	}
	for _, step := range []string{stepDownloaded, stepMerged, stepUploaded, stepAdded, stepMarked, stepTombstoned, stepIndexed, stepRemoved} {
		for nth := range times {
			t.Run(fmt.Sprintf("%s-%d", step, nth), func(t *testing.T) {
				w := newWorld(t)
				generations(w)
				w.watch("t", want)
				for crashed, left := false, nth; ; {
					c := w.compactor()
					if !crashed {
						c.step = func(name string) error {
							if name == step {
								if left--; left < 0 {
									crashed = true
									w.mute.Store(true)
								}
							}
							if crashed { // whatever would go on after the death of the process
								return errCrash
							}
							return nil
						}
					}
					err := script(w, c)
					if err == nil {
						require.True(t, crashed, "the step never came")
						break
					}
					require.ErrorIs(t, err, errCrash)
					w.mute.Store(false)
				}
				finish(w)
				checkFinished(t, w, want, id)
			})
		}
	}
}

// TestCrashAtEachChange lets the process die at each append, upload and delete in turn: the change takes effect, and
// nobody hears of it.
func TestCrashAtEachChange(t *testing.T) {
	clean := newWorld(t)
	want := expect(generations(clean)...)
	blocks := clean.cat.All()
	objects := clean.bkt.Objects()
	total := clean.watch("t", want)
	require.NoError(t, script(clean, clean.compactor()))
	finish(clean)
	id := clean.live("t")[0].ID.String()
	require.Greater(t, *total, 20)
	step := 1
	if testing.Short() { // under the race detector: nothing more runs at the same time at one change than at another
		step = 4
	}
	for n := 1; n <= *total; n += step {
		w := newWorld(t)
		for name, content := range objects {
			w.put(name, content)
		}
		for _, e := range blocks {
			require.NoError(t, w.cat.Add(context.Background(), []schema.BlockEntry{*e}, nil))
		}
		left, dead := n, atomic.Bool{}
		w.onChange(func(what string, change func() error) error {
			if dead.Load() {
				return errCrash
			}
			if strings.HasPrefix(what, "say ") {
				return change()
			}
			if left--; left == 0 {
				dead.Store(true)
				return errors.Join(change(), errCrash)
			}
			return change()
		})
		if err := script(w, w.compactor()); err != nil {
			require.ErrorIs(t, err, errCrash)
		}
		w.onChange(nil)
		require.NoError(t, script(w, w.compactor()))
		finish(w)
		checkFinished(t, w, want, id)
	}
}

func TestTwoCompactorsAtOnce(t *testing.T) {
	w := newWorld(t)
	want := expect(generations(w)...)
	w.setClock(time.UnixMilli(midnight + 27*hour))
	a, b := w.compactor(), w.compactor()
	b.cfg.Scratch = t.TempDir()
	var wg sync.WaitGroup
	for _, c := range []*Compactor{a, b} {
		wg.Go(func() { _ = c.RunOnce(context.Background()) })
	}
	wg.Wait()
	require.Len(t, w.live("t"), 1)
	requireView(t, want, w.view("t", w.live("t")), "")
}

func TestReplayDoesNotResurrect(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	all := generations(w)
	inputs := w.cat.Blocks("t")
	want := expect(all...)
	c := w.compactor()
	w.at(c, 26.5)
	statuses := func() (out []catalog.Status) {
		for _, e := range inputs {
			out = append(out, w.cat.Status("t", e.ID))
		}
		return out
	}
	require.Equal(t, slices.Repeat([]catalog.Status{catalog.Replaced}, 6), statuses())
	w.at(c, 27)
	require.Equal(t, slices.Repeat([]catalog.Status{catalog.Deleted}, 6), statuses())

	// A consumer that did not look (or looked too early) uploads and adds one again.
	again := w.ship("t", 0, 0, all[0])
	require.NotContains(t, inputs, again.ID)
	e := *inputs[0]
	d := data{}
	for _, x := range all {
		if id := blockIDOf(w, x, e); id == e.ID {
			d = x
		}
	}
	require.NotEmpty(t, d)
	meta, dir := writeBlock(t, t.TempDir(), d, schema.BlockOrigin{Tenant: "t", LogFrom: e.LogFrom, LogTime: e.LogTime, Ranges: e.Ranges})
	require.Equal(t, e.ID, meta.ULID)
	require.NoError(t, block.Upload(ctx, w.bkt, dir, meta))
	require.NoError(t, w.cat.Add(ctx, []schema.BlockEntry{meta.Entry(w.now().UnixMilli())}, nil))
	require.NoError(t, w.cat.Sync(ctx))
	require.Equal(t, catalog.Replaced, w.cat.Status("t", e.ID))
	requireView(t, want, w.view("t", w.live("t")), "")
	w.at(c, 28)
	require.Equal(t, catalog.Deleted, w.cat.Status("t", e.ID))
	require.NotContains(t, w.folders("t"), e.ID.String(), "its files are removed a second time")
	w.at(c, 24*9+28)
	require.Equal(t, catalog.Replaced, w.cat.Status("t", e.ID), "forgotten, but a source of the merged block")
	requireView(t, want, w.view("t", w.live("t")), "")
}

// blockIDOf is the ID that d gets at the place of e.
func blockIDOf(w *world, d data, e schema.BlockEntry) ulid.ULID {
	meta, _ := writeBlock(w.t, w.t.TempDir(), d, schema.BlockOrigin{Tenant: "t", LogFrom: e.LogFrom, LogTime: e.LogTime, Ranges: e.Ranges})
	return meta.ULID
}

func TestRetention(t *testing.T) {
	w := newWorld(t)
	old := data{"a": floats(midnight, midnight+hour, 1000, 1)}
	young := data{"a": floats(midnight+20*hour, midnight+21*hour, 1000, 1)}
	first := w.ship("t", 0, 0, old)
	second := w.ship("t", 0, 20, young)
	w.cfg.Settle = 1000 * time.Hour
	c := w.compactor()
	w.at(c, 400)
	require.Len(t, w.live("t"), 2, "without a limit they stay")
	w.retain(24 * time.Hour)
	w.at(c, 26)
	require.Equal(t, catalog.Deleted, w.cat.Status("t", first.ID))
	require.Equal(t, catalog.Live, w.cat.Status("t", second.ID))
	require.Len(t, w.folders("t"), 2, "queries may still read it")
	w.at(w.compactor(), 26.2) // also after a restart
	require.Len(t, w.folders("t"), 2)
	w.at(w.compactor(), 26.3)
	require.Equal(t, []string{second.ID.String()}, w.folders("t"))
	w.at(c, 26.4)
	w.at(c, 24*8+25.9)
	require.Equal(t, catalog.Deleted, w.cat.Status("t", first.ID), "remembered longer than the log")
	w.at(c, 24*8+26.1)
	require.Equal(t, catalog.Absent, w.cat.Status("t", first.ID))
	w.at(c, 24*18)
	require.Empty(t, w.cat.All())
	require.Empty(t, w.folders("t"))
}

// A block goes once its last millisecond is older than the retention, and not a millisecond before.
func TestRetentionToTheMillisecond(t *testing.T) {
	for after, want := range map[int64]any{-1: catalog.Live, 0: catalog.Live, 1: catalog.Deleted} {
		w := newWorld(t)
		block := w.ship("t", 0, 0, data{"a": floats(midnight, midnight+hour, 1000, 1)})
		w.cfg.Settle = 1000 * time.Hour
		w.retain(24 * time.Hour)
		w.setClock(time.UnixMilli(block.MaxTime + 24*hour + after))
		require.NoError(t, w.compactor().RunOnce(t.Context()))
		require.NoError(t, w.cat.Sync(t.Context()))
		require.Equal(t, want, w.cat.Status("t", block.ID), "%d ms", after)
	}
}

func TestMergedPastRetentionGoesToo(t *testing.T) {
	w := newWorld(t)
	generations(w)
	w.retain(30 * time.Hour)
	c := w.compactor()
	for h := 4.0; h < 24*20; h += 3 {
		w.at(c, h)
	}
	require.Empty(t, w.cat.All())
	require.Empty(t, w.folders("t"))
}

func TestInputsStayWhileTheirReplacerIsNotThere(t *testing.T) {
	w := newWorld(t)
	generations(w)
	c := w.compactor()
	w.at(c, 26.5)
	day := w.live("t")[0]
	require.NoError(t, w.bkt.Delete(context.Background(), block.Key("t", day.ID, "chunks", "000001")))
	w.setClock(w.now().Add(time.Hour))
	require.Error(t, c.RunOnce(context.Background()))
	require.Len(t, w.folders("t"), 7, "the inputs are the only copy")
	require.EqualValues(t, 1, w.metric("sluice_compactor_passes_total", "failed"))
}

func TestQuarantine(t *testing.T) {
	for name, damage := range map[string]func(w *world, id ulid.ULID){
		"rotten chunk":  func(w *world, id ulid.ULID) { w.flip(block.Key("t", id, "chunks", "000001"), 40) },
		"rotten index":  func(w *world, id ulid.ULID) { w.flip(block.Key("t", id, "index"), 40) },
		"missing index": func(w *world, id ulid.ULID) { _ = w.bkt.Delete(context.Background(), block.Key("t", id, "index")) },
		// A foreign block has no hashes: only reading finds these.
		"rotten chunk without hash": func(w *world, id ulid.ULID) {
			w.flip(block.Key("t", id, "chunks", "000001"), 40)
			forgetHashes(w, id)
		},
		"rotten index without hash": func(w *world, id ulid.ULID) {
			w.flip(block.Key("t", id, "index"), len(w.bkt.Objects()[block.Key("t", id, "index")])-10)
			forgetHashes(w, id)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			all := generations(w)
			bad := w.cat.Blocks("t")[1]
			damage(w, bad.ID)
			healthy := w.ship("u", 0, 0, all[0])
			w.ship("u", 1, 0, all[1])
			c := w.compactor()
			w.setClock(time.UnixMilli(midnight + 27*hour))
			require.Error(t, c.RunOnce(context.Background()))
			require.EqualValues(t, 1, w.metric("sluice_compactor_quarantined_blocks"))
			require.Len(t, w.live("t"), 2, "the rest is merged, the bad one is left alone")
			require.Equal(t, catalog.Live, w.cat.Status("t", bad.ID))
			require.Equal(t, catalog.Replaced, w.cat.Status("u", healthy.ID), "other tenants go on")
			require.NoError(t, c.RunOnce(context.Background()))
			require.Contains(t, w.folders("t"), bad.ID.String())
		})
	}
}

func forgetHashes(w *world, id ulid.ULID) {
	e, ok := w.cat.Entry("t", id)
	require.True(w.t, ok)
	plain := *e
	plain.Files = slices.Clone(e.Files)
	for i := range plain.Files {
		plain.Files[i].Hash = nil
	}
	require.NoError(w.t, w.cat.Add(context.Background(), []schema.BlockEntry{plain}, nil))
	require.NoError(w.t, w.cat.Sync(context.Background()))
}

func TestTransientErrorIsNoQuarantine(t *testing.T) {
	w := newWorld(t)
	generations(w)
	c := w.compactor()
	w.onChange(func(what string, effect func() error) error { return errCrash })
	w.setClock(time.UnixMilli(midnight + 27*hour))
	require.ErrorIs(t, c.RunOnce(context.Background()), errCrash)
	require.Zero(t, w.metric("sluice_compactor_quarantined_blocks"))
	require.EqualValues(t, 1, w.metric("sluice_compactor_backlog_jobs"))
	w.onChange(nil)
	require.NoError(t, c.RunOnce(context.Background()))
	require.Len(t, w.live("t"), 6, "the failed job waits")
	w.at(c, 27.1)
	require.Len(t, w.live("t"), 1)
}

func TestBucketIndex(t *testing.T) {
	w := newWorld(t)
	generations(w)
	c := w.compactor()
	read := func() (idx bucketIndex) {
		z, err := gzip.NewReader(bytes.NewReader(w.bkt.Objects()["t/"+schema.BucketIndexFile]))
		require.NoError(t, err)
		require.NoError(t, json.NewDecoder(z).Decode(&idx))
		return idx
	}
	w.at(c, 4)
	idx := read()
	require.Equal(t, 1, idx.Version)
	require.Len(t, idx.Blocks, 6)
	require.Equal(t, 1, idx.Blocks[0].SegmentsNum)
	require.Empty(t, idx.Marks)
	stamp := idx.UpdatedAt
	w.at(c, 4.1)
	require.Equal(t, stamp, read().UpdatedAt, "not written again without a change")
	w.at(c, 26.5)
	idx = read()
	require.Len(t, idx.Blocks, 7)
	require.Len(t, idx.Marks, 6)
	var mark deletionMark
	require.NoError(t, json.Unmarshal(w.bkt.Objects()["t/"+idx.Marks[0].ID.String()+"/"+schema.DeletionMarkFile], &mark))
	require.Equal(t, deletionMark{ID: idx.Marks[0].ID, Version: 1, Details: reasonReplaced, DeletionTime: idx.Marks[0].DeletionTime}, mark)
	w.at(c, 27)
	idx = read()
	require.Len(t, idx.Blocks, 1)
	require.Empty(t, idx.Marks)
}

func TestRunEndsWithItsContext(t *testing.T) {
	noLeaks(t)
	w := newWorld(t)
	w.cfg.Interval = time.Millisecond
	generations(w)
	c := w.idle()
	w.setClock(time.UnixMilli(midnight + 27*hour))
	ctx, cancel := context.WithCancel(context.Background())
	w.onChange(func(what string, effect func() error) error {
		if what == "append" {
			defer cancel()
		}
		return effect()
	})
	require.ErrorIs(t, c.Run(ctx), context.Canceled)
}
