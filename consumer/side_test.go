package consumer

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"sluice/internal/block"
	"sluice/internal/families"
	"sluice/internal/fetch"
	"sluice/internal/log"
	"sluice/schema"
)

// tell appends a record with a sample, an exemplar and metadata. limit is that of its exemplars; -1 = the default.
func (s *system) tell(ts int64, metric, help string, limit int) {
	s.t.Helper()
	payload, err := (&prompb.TimeSeries{
		Labels:    []prompb.Label{{Name: "__name__", Value: metric}},
		Samples:   []prompb.Sample{{Timestamp: ts, Value: 1}},
		Exemplars: []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace", Value: "x"}}, Value: 3, Timestamp: ts - 100}},
	}).Marshal()
	require.NoError(s.t, err)
	meta, err := (&prompb.MetricMetadata{Type: prompb.MetricMetadata_COUNTER, MetricFamilyName: metric, Help: help, Unit: "u"}).Marshal()
	require.NoError(s.t, err)
	rec := log.Record{
		Key: []byte("a"), Value: schema.AppendMetadata(schema.AppendTimeSeries(nil, payload), meta),
		Headers: []log.Header{{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}},
	}
	if limit >= 0 {
		rec.Headers = append(rec.Headers, log.Header{Key: schema.HeaderExemplarLimit, Value: schema.AppendExemplarLimit(nil, limit)})
	}
	s.append(rec)
}

// held returns the times of the tenant's exemplars that the consumer holds of partition 0, of the log from an offset on.
func (s *system) held(from int64) (times []int64) {
	s.t.Helper()
	b, err := s.log.Bounds(context.Background(), log.TopicSamples, 0)
	require.NoError(s.t, err)
	all := [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")}}
	found, err := s.consumer.Exemplars(context.Background(), "a", 0, math.MaxInt64, all, []fetch.Ask{{From: from, Wait: b.End}})
	require.NoError(s.t, err)
	for _, f := range found {
		for _, e := range f.Exemplars {
			times = append(times, e.Ts)
		}
	}
	return times
}

// shipped returns the same from the blocks in the bucket, by time of the block.
func (s *system) shipped() (times []int64) {
	s.t.Helper()
	require.NoError(s.t, s.catalog.Sync(context.Background()))
	for _, e := range s.catalog.Blocks("a") {
		if !block.HasExemplars(e) {
			continue
		}
		set, err := block.ReadExemplars(context.Background(), s.bucket, e)
		require.NoError(s.t, err)
		for _, f := range set.Select(0, math.MaxInt64, [][]*labels.Matcher{{}}) {
			for _, one := range f.Exemplars {
				require.True(s.t, one.Ts >= e.MinTime-schema.ExemplarReach.Milliseconds() && one.Ts <= e.MaxTime+schema.ExemplarReach.Milliseconds())
				times = append(times, one.Ts)
			}
		}
		require.Empty(s.t, block.Verify(context.Background(), s.bucket, e, true, s.t.TempDir()))
	}
	return times
}

// saved returns the help texts in the bucket.
func (s *system) saved() map[string]string {
	s.t.Helper()
	all, err := families.ReadAll(context.Background(), s.bucket, "a")
	require.NoError(s.t, err)
	out := map[string]string{}
	for name, f := range all {
		out[name] = f.Help
	}
	return out
}

// TestExemplarsAndMetadataOutliveMemory: what a generation brought is answered by the consumer as long as it holds it, after
// that it is beside the blocks in the bucket; and so after a restart, whether sealed before or not.
func TestExemplarsAndMetadataOutliveMemory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	hour := time.Hour.Milliseconds()
	s.tell(1000, "m", "first", -1)
	s.tell(5*hour, "m", "second", -1)
	require.Equal(t, []int64{900, 5*hour - 100}, s.held(0))
	mds, err := s.consumer.Metadata(context.Background(), "a", "")
	require.NoError(t, err)
	require.Equal(t, []metadata.Metadata{{Type: model.MetricTypeCounter, Help: "second", Unit: "u"}}, mds["m"])
	other, err := s.consumer.Metadata(context.Background(), "b", "")
	require.NoError(t, err)
	require.Empty(t, other)
	require.Empty(t, s.saved())

	s.seal()
	require.Equal(t, []int64{900, 5*hour - 100}, s.shipped())
	require.Equal(t, map[string]string{"m": "second"}, s.saved())
	b, err := s.log.Bounds(context.Background(), log.TopicSamples, 0)
	require.NoError(t, err)
	require.Empty(t, s.held(b.End), "the reader has them from the blocks")
	s.stop()

	s = open(t, dir)
	require.Equal(t, map[string]string{"m": "second"}, s.saved())
	// Sealed on this disk while the bucket is away, then stopped: nothing of it is read again.
	require.NoError(t, os.Rename(filepath.Join(dir, "bucket"), filepath.Join(dir, "away")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bucket"), nil, 0o644))
	s.tell(6*hour, "n", "third", -1)
	s.mark(schema.KindSeal)
	s.eventually(func() error {
		found, err := filepath.Glob(filepath.Join(dir, "scratch", "0", "*", sealedFile))
		require.NoError(t, err)
		if len(found) == 0 {
			return os.ErrNotExist
		}
		return nil
	})
	s.stop()
	require.NoError(t, os.Remove(filepath.Join(dir, "bucket")))
	require.NoError(t, os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, "bucket")))
	s = open(t, dir)
	s.seal()
	require.Equal(t, []int64{900, 5*hour - 100, 6*hour - 100}, s.shipped())
	require.Equal(t, map[string]string{"m": "second", "n": "third"}, s.saved())
	require.Zero(t, counter(t, s.reg, "sluice_consumer_samples_total"))
}

// TestExemplarLimit: what the record says holds for all that are there; the oldest go, and 0 is none.
func TestExemplarLimit(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range int64(4) {
		s.tell(1000*(i+1), "m", "h", 3)
	}
	require.Equal(t, []int64{1900, 2900, 3900}, s.held(0))
	s.tell(5000, "m", "h", 0)
	require.Equal(t, []int64{1900, 2900, 3900}, s.held(0))
	s.tell(6000, "m", "h", 2)
	require.Equal(t, []int64{3900, 5900}, s.held(0))
	s.tell(7000, "m", "h", -1)
	require.Equal(t, []int64{3900, 5900, 6900}, s.held(0))
	s.seal()
	require.Equal(t, []int64{3900, 5900, 6900}, s.shipped())
}

// TestMetadataIsBounded: so many metrics and no more, until those that nobody tells of any more make room.
func TestMetadataIsBounded(t *testing.T) {
	add := func(s *side, name string, at int64) {
		m := schema.Metadata{Name: []byte(name), Help: []byte("h")}
		require.NoError(t, s.addMetadata("a", m.AppendPayload(nil), at, 2))
	}
	s := newSide()
	add(&s, "one", 1)
	add(&s, "two", families.Kept.Milliseconds())
	add(&s, "three", families.Kept.Milliseconds()+1)
	require.Contains(t, s.unsaved()["a"], "one")
	require.NotContains(t, s.unsaved()["a"], "three")
	add(&s, "three", families.Kept.Milliseconds()+2)
	require.Len(t, s.unsaved()["a"], 2)
	require.Contains(t, s.unsaved()["a"], "three")

	s.saved("a", s.unsaved()["a"])
	require.Empty(t, s.unsaved())
	add(&s, "three", families.Kept.Milliseconds()+3)
	require.Empty(t, s.unsaved(), "what is known costs the bucket nothing")
	add(&s, "three", families.Kept.Milliseconds()+families.Refreshed.Milliseconds()+3)
	require.Len(t, s.unsaved(), 1, "but once a day")
}
