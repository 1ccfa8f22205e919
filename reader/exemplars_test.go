package reader

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/stretchr/testify/require"
	"github.com/thanos-io/objstore"

	"sluice/internal/block"
	"sluice/internal/exemplars"
	"sluice/internal/families"
	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/schema"
)

// beside is a world whose bucket has exemplars of one block, from a quarter of an hour before its samples on, and the metadata
// of two metrics; the consumer knows one of them better and has the last exemplar as well.
func beside(t *testing.T) (*world, *objstore.InMemBucket, *schema.BlockEntry, string) {
	bkt := objstore.NewInMemBucket()
	w := newWorld(t, bkt, web.Tenancy{})
	w.log.bounds = []log.Bounds{{End: 100}}
	minute := time.Minute.Milliseconds()
	e := &schema.BlockEntry{ID: ulid.ULID{7}, Tenant: "acme", MinTime: 600 * minute, MaxTime: 700 * minute, Files: []schema.BlockFile{{Path: schema.ExemplarsFile}}}
	other := &schema.BlockEntry{ID: ulid.ULID{8}, Tenant: "acme", MinTime: 600 * minute, MaxTime: 700 * minute}
	w.cat.snapshots[0].blocks = []*schema.BlockEntry{e, other}
	var set exemplars.Set
	for _, at := range []int64{585, 650, 699} {
		set.Add(labels.FromStrings("__name__", "m"), exemplar.Exemplar{Ts: at * minute, HasTs: true, Value: float64(at)}, 10)
	}
	ctx := context.Background()
	require.NoError(t, bkt.Upload(ctx, block.Key("acme", e.ID, schema.ExemplarsFile), bytes.NewReader(set.Append(nil))))
	src := &fakeSource{held: map[int32]int64{0: 0}, data: newData(t, nil), meta: map[string][]metadata.Metadata{"m": {{Type: model.MetricTypeCounter, Help: "live"}}}}
	src.found = set.Select(690*minute, 700*minute, [][]*labels.Matcher{{}})
	w.sources["c"], w.dir[0] = src, []string{"c"}
	require.NoError(t, families.Write(ctx, bkt, "acme", 0, map[string]families.Family{
		"m": {Metadata: metadata.Metadata{Type: model.MetricTypeCounter, Help: "saved"}, Seen: 1}, "n": {Metadata: metadata.Metadata{Type: model.MetricTypeGauge, Help: "n"}, Seen: 1},
	}))
	return w, bkt, e, serve(t, w)
}

func TestExemplarsBesideBlocks(t *testing.T) {
	w, bkt, e, base := beside(t)
	ask := func(start, end string) reply {
		return get(t, base+"/api/v1/query_exemplars?query=m&start="+start+"&end="+end)
	}
	require.JSONEq(t, `[{"seriesLabels":{"__name__":"m"},"exemplars":[
		{"labels":{},"value":"585","timestamp":35100},{"labels":{},"value":"650","timestamp":39000},{"labels":{},"value":"699","timestamp":41940}]}]`, string(ask("0", "100000").json.Data))
	require.Contains(t, ask("35000", "35200").body, `"value":"585"`, "before the block's first sample")
	require.NotContains(t, ask("35000", "35200").body, `"value":"650"`)
	src := w.sources["c"].(*fakeSource)
	src.found = nil
	require.JSONEq(t, `[]`, string(get(t, base+"/api/v1/query_exemplars?query=other&start=35000&end=39000").json.Data), "only what a block has, of metrics that are asked for")

	require.NoError(t, bkt.Upload(context.Background(), block.Key("acme", e.ID, schema.ExemplarsFile), bytes.NewReader([]byte("SLEX"))))
	got := ask("0", "100000")
	require.Equal(t, 503, got.code)
	require.Contains(t, got.json.Error, schema.ErrBlockUnreadable)
	got = get(t, base+"/api/v1/query_exemplars?query=m&start=0&end=100000&partial_response=true")
	require.Equal(t, 200, got.code, got.body)

	// Deleted since the catalogue was read: what has taken its place is asked.
	require.NoError(t, bkt.Delete(context.Background(), block.Key("acme", e.ID, schema.ExemplarsFile)))
	w.cat.snapshots = append(w.cat.snapshots, snapshot{})
	got = ask("0", "100000")
	require.Equal(t, 200, got.code, got.body)
	require.NotContains(t, got.body, `"value":"650"`)
}

func TestMetadataOutlivesConsumers(t *testing.T) {
	w, bkt, _, base := beside(t)
	require.JSONEq(t, `{"m":[{"type":"counter","help":"live","unit":""}],"n":[{"type":"gauge","help":"n","unit":""}]}`, string(get(t, base+"/api/v1/metadata").json.Data))
	require.JSONEq(t, `{"n":[{"type":"gauge","help":"n","unit":""}]}`, string(get(t, base+"/api/v1/metadata?metric=n").json.Data))
	w.dir[0] = nil
	require.Contains(t, get(t, base+"/api/v1/metadata").body, "saved")
	require.NoError(t, bkt.Upload(context.Background(), families.Key("acme", 1), bytes.NewReader([]byte("x"))))
	got := get(t, base+"/api/v1/metadata")
	require.Equal(t, 200, got.code)
	require.Contains(t, got.body, "saved")
	require.Len(t, got.json.Warnings, 1)
}
