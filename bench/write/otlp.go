package write

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"

	"github.com/prometheus/prometheus/model/labels"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
)

// ProtocolOTLP is a Load.Version beside those of remote write.
const ProtocolOTLP = 3

// otlpBody is a request of a collector with the same series: one resource for each pod, with job and instance, and the other
// labels on the data points. Collectors compress with gzip unless told otherwise.
func otlpBody(all []labels.Labels, from, to, scrape int, t int64, rnd *rand.Rand) ([]byte, error) {
	md := pmetric.NewMetrics()
	var metrics pmetric.MetricSlice
	instance := ""
	for i := from; i < to; i++ {
		if now := all[i].Get("instance"); now != instance {
			instance = now
			rm := md.ResourceMetrics().AppendEmpty()
			rm.Resource().Attributes().PutStr("service.name", all[i].Get("job"))
			rm.Resource().Attributes().PutStr("service.instance.id", instance)
			metrics = rm.ScopeMetrics().AppendEmpty().Metrics()
		}
		m := metrics.AppendEmpty()
		m.SetName(all[i].Get("__name__"))
		sum := m.SetEmptySum()
		sum.SetIsMonotonic(true)
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		d := sum.DataPoints().AppendEmpty()
		d.SetTimestamp(pcommon.Timestamp(t * 1e6))
		d.SetDoubleValue(valueOf(i, scrape, rnd))
		all[i].Range(func(l labels.Label) {
			switch l.Name {
			case "__name__", "job", "instance":
			default:
				d.Attributes().PutStr(l.Name, l.Value)
			}
		})
	}
	raw, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err = w.Write(raw); err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("compress request: %w", err)
	}
	return out.Bytes(), nil
}
