package compactor

import (
	"context"
	"encoding/json"
	"maps"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"sluice/internal/block"
	"sluice/internal/catalog"
	"sluice/schema"
)

// upload puts a block into the bucket that the catalogue does not learn of.
func (w *world) upload(tenant schema.Tenant, d data, change func(*schema.BlockMeta)) *schema.BlockMeta {
	meta, dir := writeBlock(w.t, w.t.TempDir(), d, schema.BlockOrigin{Tenant: tenant, LogFrom: midnight, LogTime: midnight + 2*hour,
		Ranges: []schema.LogRange{{TopicID: "x", From: 0, To: 10}}})
	require.NoError(w.t, block.Upload(context.Background(), w.bkt, dir, meta))
	if change != nil {
		change(meta)
		raw, err := json.Marshal(meta)
		require.NoError(w.t, err)
		w.put(block.Key(tenant, meta.ULID, schema.MetaFile), raw)
	}
	return meta
}

func TestReconcile(t *testing.T) {
	one := data{"a": floats(midnight, midnight+hour, 1000, 1)}
	ctx := context.Background()
	for name, tc := range map[string]struct {
		plant  func(w *world) ulid.ULID
		found  string
		status catalog.Status
		stays  bool
	}{
		"whole block of ours": {
			plant: func(w *world) ulid.ULID { return w.upload("t", one, nil).ULID },
			found: foundAdopted, status: catalog.Live, stays: true,
		},
		"foreign block": {
			plant: func(w *world) ulid.ULID {
				return w.upload("t", one, func(m *schema.BlockMeta) { m.Sluice = schema.BlockOrigin{}; m.Thanos.Files = nil }).ULID
			},
			found: foundAdopted, status: catalog.Live, stays: true,
		},
		"foreign block cut short": {
			plant: func(w *world) ulid.ULID {
				m := w.upload("t", one, func(m *schema.BlockMeta) { m.Sluice = schema.BlockOrigin{} })
				w.put(block.Key("t", m.ULID, schema.MetaFile), []byte(`{"ulid":`))
				return m.ULID
			},
			found: foundPartial,
		},
		"upload never finished": {
			plant: func(w *world) ulid.ULID {
				m := w.upload("t", one, nil)
				require.NoError(w.t, w.bkt.Delete(ctx, block.Key("t", m.ULID, schema.MetaFile)))
				return m.ULID
			},
			found: foundPartial,
		},
		"rotten block of ours": {
			plant: func(w *world) ulid.ULID {
				m := w.upload("t", one, nil)
				w.flip(block.Key("t", m.ULID, "chunks", "000001"), 30)
				return m.ULID
			},
			found: foundUnverified, stays: true,
		},
		"another tenant's": {
			plant: func(w *world) ulid.ULID {
				return w.upload("t", one, func(m *schema.BlockMeta) { m.Sluice.Tenant = "u" }).ULID
			},
			found: foundForeignTenant, stays: true,
		},
		"another tenant's of Cortex": {
			plant: func(w *world) ulid.ULID {
				return w.upload("t", one, func(m *schema.BlockMeta) {
					m.Sluice = schema.BlockOrigin{}
					m.Thanos.Labels = map[string]string{"__org_id__": "u"}
				}).ULID
			},
			found: foundForeignTenant, stays: true,
		},
		"marked by somebody": {
			plant: func(w *world) ulid.ULID {
				m := w.upload("t", one, nil)
				w.put(block.Key("t", m.ULID, schema.DeletionMarkFile), []byte("{}"))
				return m.ULID
			},
			found: foundMarked, stays: true,
		},
		"source of a known block": {
			plant: func(w *world) ulid.ULID {
				m := w.upload("t", one, nil)
				by := w.upload("t", data{"a": floats(midnight, midnight+2*hour, 1000, 1)}, nil)
				e := by.Entry(midnight)
				e.Level, e.Sources = 2, []ulid.ULID{m.ULID}
				require.NoError(w.t, w.cat.Add(ctx, []schema.BlockEntry{e}, nil))
				return m.ULID
			},
			found: foundLeftover, status: catalog.Replaced,
		},
		"merge that came too late": {
			plant: func(w *world) ulid.ULID {
				input := w.upload("t", data{"a": floats(midnight, midnight+2*hour, 1000, 1)}, nil).Entry(midnight)
				by := w.upload("t", data{"a": floats(midnight, midnight+3*hour, 1000, 1)}, nil).Entry(midnight)
				by.Replaces = []ulid.ULID{input.ID}
				require.NoError(w.t, w.cat.Add(ctx, []schema.BlockEntry{input, by}, nil))
				return w.upload("t", one, func(m *schema.BlockMeta) { m.Sluice.Replaces = []ulid.ULID{input.ID} }).ULID
			},
			found: foundLeftover,
		},
		"merge that was not announced": {
			plant: func(w *world) ulid.ULID {
				input := w.upload("t", data{"a": floats(midnight, midnight+hour, 2000, 1)}, nil).Entry(midnight)
				require.NoError(w.t, w.cat.Add(ctx, []schema.BlockEntry{input}, nil))
				return w.upload("t", one, func(m *schema.BlockMeta) { m.Sluice.Replaces = []ulid.ULID{input.ID} }).ULID
			},
			found: foundAdopted, status: catalog.Live, stays: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.Settle = 1000 * time.Hour
			id := tc.plant(w)
			c := w.compactor()
			w.setClock(time.Now().Add(11 * time.Hour))
			require.NoError(t, c.RunOnce(ctx))
			require.NoError(t, w.cat.Sync(ctx))
			require.Contains(t, w.folders("t"), id.String(), "may be an upload under way")
			require.NotEqual(t, catalog.Live, w.cat.Status("t", id))
			require.Zero(t, w.metric("sluice_compactor_reconcile_corrections_total", tc.found))

			w.setClock(w.now().Add(2 * time.Hour))
			require.NoError(t, c.RunOnce(ctx))
			require.NoError(t, w.cat.Sync(ctx))
			require.EqualValues(t, 1, w.metric("sluice_compactor_reconcile_corrections_total", tc.found))
			require.Equal(t, tc.status, w.cat.Status("t", id))
			if tc.stays {
				require.Contains(t, w.folders("t"), id.String())
			} else {
				require.NotContains(t, w.folders("t"), id.String())
			}
			if tc.status == catalog.Live {
				e, _ := w.cat.Entry("t", id)
				require.Empty(t, block.Verify(ctx, w.bkt, e, true, t.TempDir()))
				require.Positive(t, e.Bytes)
			}
		})
	}
}

// TestForeignBlocksAreMergedWithOurs adopts what another writer has left and merges it: it ranks before everything of ours.
func TestForeignBlocksAreMergedWithOurs(t *testing.T) {
	w := newWorld(t)
	foreign := data{"a": floats(midnight, midnight+hour, 60_000, 7), "f": floats(midnight, midnight+hour, 60_000, 8)}
	ours := data{"a": floats(midnight, midnight+2*hour, 30_000, 1)}
	w.upload("t", foreign, func(m *schema.BlockMeta) { m.Sluice = schema.BlockOrigin{}; m.Thanos.Files = nil })
	w.ship("t", 0, 0, ours)
	c := w.compactor()
	w.at(c, 14)
	require.Len(t, w.live("t"), 2)
	w.at(c, 30)
	require.Len(t, w.live("t"), 1)
	requireView(t, expect(foreign, ours), w.view("t", w.live("t")), "")
}

// TestCatalogueLost starts with a bucket and an empty topic: everything comes back as it was.
func TestCatalogueLost(t *testing.T) {
	before := newWorld(t)
	want := expect(generations(before)...)
	before.at(before.compactor(), 5) // some merged, their inputs still there
	w := newWorld(t)
	w.cfg.Settle = 1000 * time.Hour
	for name, content := range before.bkt.Objects() {
		w.put(name, content)
	}
	w.at(w.compactor(), 24)
	requireView(t, want, w.view("t", w.live("t")), "")
	ids := func(w *world) map[ulid.ULID]bool {
		m := map[ulid.ULID]bool{}
		for _, e := range w.live("t") {
			m[e.ID] = true
		}
		return m
	}
	require.True(t, maps.Equal(ids(before), ids(w)))
}

func TestMissingBlocksAreTold(t *testing.T) {
	w := newWorld(t)
	generations(w)
	e := w.cat.Blocks("t")[0]
	require.NoError(t, block.Delete(context.Background(), w.bkt, "t", e.ID))
	w.at(w.compactor(), 3)
	require.EqualValues(t, 1, w.metric("sluice_compactor_missing_blocks"))
	require.Equal(t, catalog.Live, w.cat.Status("t", e.ID), "never removed silently")
}
