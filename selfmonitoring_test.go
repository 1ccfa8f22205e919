package main

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

// Every stage can write its own metrics; but for the producer it writes no ticks, as it does not know how long generations are.
func TestSelfMonitoringOfOneStage(t *testing.T) {
	for _, stage := range deployStages {
		t.Run(stage, func(t *testing.T) {
			p := built(t, []string{stage, "--data-dir", t.TempDir(), "--self-monitoring.tenant", "own"}, stage, selfMonitoring)
			require.NotNil(t, p.own)
			require.Equal(t, stage != "producer", p.own != p.producer)
			up := prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_test_total"})
			p.reg.MustRegister(up)
			require.NoError(t, p.writeOwnMetrics(t.Context(), "own"))
			require.Equal(t, "own", p.status([]string{stage})().Self)

			records := 0
			for id := range int32(4) {
				b, err := p.log.Bounds(t.Context(), log.TopicSamples, id)
				require.NoError(t, err)
				r, err := p.log.Reader(log.TopicSamples, id, b.Start)
				require.NoError(t, err)
				for r.Position() < b.End {
					recs, err := r.Next(t.Context())
					require.NoError(t, err)
					for i := range recs {
						records++
						require.Equal(t, "own", string(recs[i].Key))
						_, settings := recs[i].Header(schema.HeaderGeneration)
						require.False(t, settings)
					}
				}
				require.NoError(t, r.Close())
			}
			require.Positive(t, records)
		})
	}
	off := built(t, []string{"reader", "--data-dir", t.TempDir()}, "reader", selfMonitoring)
	require.Nil(t, off.own, "a stage of a cluster leaves its metrics to whoever scrapes it")
	all := built(t, []string{"all", "--data-dir", t.TempDir()}, "producer", "consumer", "compactor", "reader", selfMonitoring)
	require.Equal(t, "anonymous", all.ownTenant)
}
