package write

import (
	"fmt"
	"math/rand/v2"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"sluice/schema"
)

// Load is what is sent: every series once per scrape, in requests that hold the same series each time, as Prometheus'
// shards do. It is made before anything is measured.
type Load struct {
	Series, Scrapes, PerRequest, Tenants int
	Version                              int // of the remote-write protocol, 1 or 2; or ProtocolOTLP

	requests [][]request // by scrape
}

type request struct {
	tenant string // empty = none is sent
	body   []byte
	n      int // samples
}

const (
	scrapeInterval = 15_000 // ms
	start          = 1_700_000_000_000
)

// labelsOf are twelve labels of some 340 bytes, as a container in a cluster has them.
func labelsOf(i int) labels.Labels {
	pod := i / 90 // so many metrics has a pod
	return labels.FromStrings(
		"__name__", fmt.Sprintf("container_network_receive_packets_%02d_total", i%90), "cluster", "eu-west-1", "container", "application-server",
		"endpoint", "https-metrics", "id", fmt.Sprintf("/kubepods/burstable/pod%08x", uint32(pod)*2654435761), "image", "registry.example/app:v1.22.333",
		"instance", fmt.Sprintf("10.12.%d.%d:10250", pod/250, pod%250), "interface", "eth0", "job", "kubelet",
		"namespace", fmt.Sprintf("customer-facing-%02d", pod%40), "node", fmt.Sprintf("ip-10-12-%d-%d.internal", pod/250, pod%250),
		"pod", fmt.Sprintf("application-server-%05d", pod),
	)
}

// valueOf is what an exporter has: three in ten stay as they are, most others are counters and whole gauges, few are seconds
// and ratios.
func valueOf(series, scrape int, rnd *rand.Rand) float64 {
	switch series % 10 {
	case 0, 1, 2:
		return float64(series % 2)
	case 3, 4, 5:
		return float64(series%1000 + scrape*(series%17))
	case 6, 7:
		return float64(int64(series)*1_000_003 + int64(scrape)*int64(10_000+rnd.IntN(50_000)))
	case 8:
		return float64(series%1000)/8 + float64(scrape)*0.015625
	}
	return rnd.Float64()
}

// Build makes the requests.
func (l *Load) Build() error {
	rnd := rand.New(rand.NewPCG(1, 2))
	all := make([]labels.Labels, l.Series)
	raw := make([][]byte, l.Series)
	for i := range all {
		all[i] = labelsOf(i)
		var ls []schema.Label
		all[i].Range(func(lb labels.Label) { ls = append(ls, schema.Label{Name: []byte(lb.Name), Value: []byte(lb.Value)}) })
		raw[i] = schema.AppendLabels(nil, ls)
	}
	for scrape := range l.Scrapes {
		t := int64(start + scrape*scrapeInterval)
		var requests []request
		for from := 0; from < l.Series; from += l.PerRequest {
			to := min(from+l.PerRequest, l.Series)
			var body []byte
			var err error
			switch l.Version {
			case ProtocolOTLP:
				if body, err = otlpBody(all, from, to, scrape, t, rnd); err != nil {
					return err
				}
			case 2:
				symbols := writev2.NewSymbolTable()
				var req writev2.Request
				for i := from; i < to; i++ {
					req.Timeseries = append(req.Timeseries, writev2.TimeSeries{
						LabelsRefs: symbols.SymbolizeLabels(all[i], nil),
						Samples:    []writev2.Sample{{Timestamp: t, Value: valueOf(i, scrape, rnd)}},
					})
				}
				req.Symbols = symbols.Symbols()
				if body, err = req.Marshal(); err != nil {
					return fmt.Errorf("encode request: %w", err)
				}
				body = snappy.Encode(nil, body)
			default:
				for i := from; i < to; i++ {
					payload := schema.AppendSample(append([]byte{}, raw[i]...), t, 0, valueOf(i, scrape, rnd))
					body = schema.AppendTimeSeries(body, payload)
				}
				body = snappy.Encode(nil, body)
			}
			r := request{body: body, n: to - from}
			if l.Tenants > 0 {
				r.tenant = fmt.Sprintf("tenant-%04d", len(requests)%l.Tenants)
			}
			requests = append(requests, r)
		}
		l.requests = append(l.requests, requests)
	}
	return nil
}

// bytesPerSample is what a sample takes on the wire.
func (l *Load) bytesPerSample() float64 {
	size := 0
	for _, r := range l.requests[0] {
		size += len(r.body)
	}
	return float64(size) / float64(l.Series)
}
