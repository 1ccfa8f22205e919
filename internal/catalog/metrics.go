package catalog

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	blocks      prometheus.Gauge
	tenants     prometheus.Gauge
	replaced    prometheus.Gauge
	tombstones  prometheus.Gauge
	undecodable prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		blocks: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_catalog_blocks", Help: "Live blocks in the catalogue: those that queries read."}),
		tenants: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_catalog_tenants", Help: "Tenants that the catalogue has an entry of, in whatever state."}),
		replaced: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_catalog_replaced_blocks", Help: "Blocks that were merged into another one and wait for their deletion."}),
		tombstones: f.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_catalog_tombstones", Help: "Deleted blocks that are remembered so that no replay of the log brings them back."}),
		undecodable: f.NewCounter(prometheus.CounterOpts{
			Name: "sluice_catalog_undecodable_total", Help: "Records of the topic of blocks that could not be read and were skipped. Always 0 in a healthy cluster."}),
	}
}

func (m *metrics) set(s *state) {
	m.blocks.Set(float64(s.blocks))
	m.tenants.Set(float64(len(s.tenants)))
	m.replaced.Set(float64(s.replaced))
	m.tombstones.Set(float64(s.tombstones))
}
