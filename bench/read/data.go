package read

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"sluice/bench/peers"
	"sluice/schema"
)

// Data is what every target holds: Series from Start on, one sample each per Interval, for Length. The same numbers always
// give the same samples.
type Data struct {
	Series   int           `json:"series"` // rounded up to whole pods of 100 series
	Length   time.Duration `json:"length"`
	Interval time.Duration `json:"interval"`
}

// Start of all data, in ms: the border of a window of two hours, long ago, so that no target takes it for the present.
const Start = 1_767_693_600_000 // 2026-01-06T10:00:00Z

const (
	podSeries  = 100
	namespaces = 40

	window         = 30 * time.Minute // of samples in a request: Prometheus takes what is up to an hour behind its newest sample
	podsPerRequest = 5
)

var (
	bounds   = [...]string{"0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"}
	below    = [...]float64{0.02, 0.08, 0.22, 0.41, 0.6, 0.78, 0.88, 0.94, 0.97, 0.99, 0.997, 1} // share of requests within each bound
	handlers = [...]string{"/api/v1/orders", "/api/v1/orders/{id}", "/healthz"}
	codes    = [...]string{"200", "404", "500"}
)

func (d *Data) pods() int    { return (d.Series + podSeries - 1) / podSeries }
func (d *Data) samples() int { return int(d.Length / d.Interval) }

// End is the time that queries are asked for, in ms: just before the next sample would come.
func (d *Data) End() int64 { return Start + int64(d.samples())*d.Interval.Milliseconds() }

// at is the time of the n-th sample, in ms. None lies on the border of a step or a range, which versions of Prometheus
// take for inside or outside.
func (d *Data) at(n int) int64 {
	return Start + int64(n)*d.Interval.Milliseconds() + min(d.Interval.Milliseconds()/2, 7001)
}

// kind of a series' values.
type kind int

const (
	constant kind = iota
	counter
	gauge
)

// one is a series: names and values of its labels, and what its samples follow.
type one struct {
	pairs   []string
	kind    kind
	seed    uint64
	rate    float64 // of a counter, per sample
	share   float64 // of a bucket: the part of the counter's rate that falls into it
	restart int     // the sample at which its counter begins again; 0 = never
}

// series returns the i-th series of a pod: 9 counters of requests, 36 buckets of their durations, the memory, and 54 others.
func (d *Data) series(pod, i int) one {
	s := one{kind: counter, seed: uint64(pod)*podSeries + uint64(i), share: 1}
	if pod%10 == 0 { // these restart once
		s.restart = d.samples() * (1 + pod/10%8) / 10
	}
	var name string
	extra := [2][2]string{{"interface", "eth0"}, {"device", "/dev/nvme0n1"}}
	switch {
	case i < 9:
		name = "http_requests_total"
		extra = [2][2]string{{"code", codes[i%3]}, {"handler", handlers[i/3]}}
		s.rate = float64([...]int{400, 23, 7}[i%3] + pod%50)
	case i < 45:
		name = "http_request_duration_seconds_bucket"
		h, le := (i-9)/len(bounds), (i-9)%len(bounds)
		extra = [2][2]string{{"handler", handlers[h]}, {"le", bounds[le]}}
		s.seed = uint64(pod)*podSeries + uint64(h)            // all buckets of one histogram see the same requests
		s.rate, s.share = float64(4000+pod*7%5000), below[le] // so many that hardly two rates are the same
	case i == 45:
		name, s.kind = "container_memory_working_set_bytes", gauge
	default:
		name = fmt.Sprintf("container_network_receive_packets_%02d_total", i)
		s.kind = [...]kind{constant, counter, counter, gauge, constant}[i%5]
		s.rate = float64(1000 * (1 + i%7))
	}
	s.pairs = []string{
		"__name__", name, "cluster", "eu-west-1", extra[0][0], extra[0][1], "container", "application-server", extra[1][0], extra[1][1],
		"id", fmt.Sprintf("/kubepods/burstable/pod%08x", uint32(pod)*2654435761), "image", "registry.example/app:v1.22.333",
		"instance", fmt.Sprintf("10.12.%d.%d:10250", pod/250, pod%250), "job", "kubelet",
		"namespace", fmt.Sprintf("customer-facing-%02d", pod%namespaces), "node", fmt.Sprintf("ip-10-12-%d-%d.internal", pod/250, pod%250),
		"pod", fmt.Sprintf("application-server-%05d", pod),
	}
	return s
}

func (s *one) sorted() labels.Labels { return labels.FromStrings(s.pairs...) }

// encoded are the labels as remote write has them.
func (s *one) encoded() []byte {
	var ls []schema.Label
	s.sorted().Range(func(l labels.Label) { ls = append(ls, schema.Label{Name: []byte(l.Name), Value: []byte(l.Value)}) })
	return schema.AppendLabels(nil, ls)
}

// value of the n-th sample.
func (s *one) value(n int) float64 {
	noise := mix(s.seed*0x9e3779b97f4a7c15 + uint64(n))
	switch s.kind {
	case constant:
		return float64(s.seed % 2)
	case gauge:
		return float64(100<<20+s.seed%1000*4096) + float64(noise%(1<<20))
	}
	if s.restart > 0 && n >= s.restart {
		n -= s.restart
	}
	// Less noise than rate, so that it never goes back.
	total := uint64(float64(n)*s.rate) + noise%uint64(s.rate)
	return float64(uint64(float64(total) * s.share))
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// load sends all of it by remote write 1.0, a window of time after the other, each over all connections.
func (d *Data) load(ctx context.Context, p *peers.Process, connections int, progress func(string, ...any)) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}, Timeout: 2 * time.Minute}
	defer client.CloseIdleConnections()
	perWindow := max(1, int(window/d.Interval))
	began := time.Now()
	for from := 0; from < d.samples(); from += perWindow {
		to := min(from+perWindow, d.samples())
		var next atomic.Int64
		g, ctx := errgroup.WithContext(ctx)
		for range connections {
			g.Go(func() error {
				var raw, payload, body []byte
				for {
					first := int(next.Add(podsPerRequest)) - podsPerRequest
					if first >= d.pods() {
						return nil
					}
					raw = raw[:0]
					for pod := first; pod < min(first+podsPerRequest, d.pods()); pod++ {
						raw, payload = d.appendPod(raw, payload, pod, from, to)
					}
					body = snappy.Encode(body[:cap(body)], raw)
					if err := push(ctx, client, p.URL(p.Push), body); err != nil {
						return fmt.Errorf("load %s: %w", p.Name, err)
					}
				}
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if to == d.samples() || (from/perWindow)%4 == 3 {
			progress("%s: %d of %d samples of each series loaded after %.0f s", p.Name, to, d.samples(), time.Since(began).Seconds())
		}
	}
	return nil
}

// appendPod appends the samples [from, to) of all series of a pod as messages of a request.
func (d *Data) appendPod(raw, payload []byte, pod, from, to int) (request, scratch []byte) {
	for i := range podSeries {
		s := d.series(pod, i)
		payload = append(payload[:0], s.encoded()...)
		for n := from; n < to; n++ {
			payload = schema.AppendSample(payload, d.at(n), 0, s.value(n))
		}
		raw = schema.AppendTimeSeries(raw, payload)
	}
	return raw, payload
}

func push(ctx context.Context, client *http.Client, url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err != nil || resp.StatusCode/100 != 2 {
		return fmt.Errorf("send: status %d: %s: %w", resp.StatusCode, said, err)
	}
	return nil
}
