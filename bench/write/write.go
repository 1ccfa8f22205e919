// Package write measures what it costs to take remote write: it starts Sluice and, where they are installed, its peers, one
// after the other and several times, sends each of them the very same requests, and reads CPU, memory and disk of the
// process from the system. In comes a load, out go figures with ratios; absolute figures do not travel between machines.
package write

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"sluice/bench/peers"
)

// settle is how long a target may take to fall idle.
const settle = 20 * time.Second

// Config of a run.
type Config struct {
	Load        Load
	Targets     []peers.Target
	Rounds      int // each target is measured so many times, in turn
	Connections int
	Dir         string // for the targets' data; emptied after each
}

// Figures are those of one target in one round.
type Figures struct {
	Target string `json:"target"`
	Round  int    `json:"round"`
	// Of the first scrape, in which every series is new: CPU-µs a series.
	ColdCPU float64 `json:"cold_cpu_us_per_series"`
	// Of all others, until the process is idle: CPU-µs per 1,000 samples, and what it took by the clock.
	CPU  float64 `json:"cpu_us_per_1000_samples"`
	Rate float64 `json:"samples_per_second"`
	P50  float64 `json:"request_p50_ms"`
	P99  float64 `json:"request_p99_ms"`
	Idle int64   `json:"idle_rss_bytes"`
	Peak int64   `json:"peak_rss_bytes"`
	// Bytes a sample in the log and in all files, at the end; 0 = it has none.
	Log  float64 `json:"log_bytes_per_sample"`
	Disk float64 `json:"disk_bytes_per_sample"`

	series float64
}

// Run measures every target Rounds times.
func Run(ctx context.Context, cfg Config, progress io.Writer) ([]Figures, error) {
	if err := cfg.Load.Build(); err != nil {
		return nil, err
	}
	protocol := fmt.Sprintf("remote write %d.0", cfg.Load.Version)
	if cfg.Load.Version == ProtocolOTLP {
		protocol = "OTLP"
	}
	fmt.Fprintf(progress, "%d series, %d scrapes, %d samples a request, %s, %.1f bytes a sample on the wire\n",
		cfg.Load.Series, cfg.Load.Scrapes, cfg.Load.PerRequest, protocol, cfg.Load.bytesPerSample())
	var all []Figures
	for round := range cfg.Rounds {
		for _, t := range cfg.Targets {
			f, err := measure(ctx, &cfg, t)
			if err != nil {
				return all, fmt.Errorf("measure %s: %w", t.Name, err)
			}
			f.Round = round + 1
			all = append(all, f)
			fmt.Fprintf(progress, "round %d: %s: %.0f CPU-µs per 1,000 samples\n", f.Round, f.Target, f.CPU)
		}
	}
	return all, nil
}

func measure(ctx context.Context, cfg *Config, t peers.Target) (f Figures, err error) {
	dir := filepath.Join(cfg.Dir, t.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return f, fmt.Errorf("make a folder: %w", err)
	}
	defer os.RemoveAll(dir)
	p, err := t.Start(ctx, dir, 30*time.Second)
	if err != nil {
		return f, err
	}
	defer p.Kill()
	if err := p.Idle(ctx, settle); err != nil {
		return f, err
	}
	f.Target, f.series = t.Name, float64(cfg.Load.Series)
	if f.Idle, err = p.Memory("VmRSS"); err != nil {
		return f, err
	}
	cold, _, _, err := send(ctx, p, cfg, cfg.Load.requests[:1])
	if err != nil {
		return f, err
	}
	f.ColdCPU = cold * 1e6 / float64(cfg.Load.Series)
	cpu, took, latencies, err := send(ctx, p, cfg, cfg.Load.requests[1:])
	if err != nil {
		return f, err
	}
	samples := float64(cfg.Load.Series * (cfg.Load.Scrapes - 1))
	f.CPU, f.Rate = cpu*1e9/samples, samples/took.Seconds()
	slices.Sort(latencies)
	at := func(q float64) float64 { return latencies[int(q*float64(len(latencies)-1))].Seconds() * 1000 }
	f.P50, f.P99 = at(0.5), at(0.99)
	if f.Peak, err = p.Memory("VmHWM"); err != nil {
		return f, err
	}
	written := float64(cfg.Load.Series * cfg.Load.Scrapes)
	for _, l := range t.Logs {
		f.Log += float64(peers.Size(filepath.Join(dir, l))) / written
	}
	f.Disk = float64(peers.Size(dir)) / written
	return f, nil
}

// send sends the scrapes one after the other, the requests of each over all connections, and returns the CPU that the
// target took for them, until it was idle, and how long the sending took.
func send(ctx context.Context, p *peers.Process, cfg *Config, scrapes [][]request) (cpu float64, took time.Duration, latencies []time.Duration, err error) {
	before, err := p.CPU()
	if err != nil {
		return 0, 0, nil, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: cfg.Connections}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	began := time.Now()
	var mu sync.Mutex
	for _, requests := range scrapes {
		var next atomic.Int64
		var wg sync.WaitGroup
		for range cfg.Connections {
			wg.Go(func() {
				for {
					i := int(next.Add(1)) - 1
					if i >= len(requests) {
						return
					}
					begin := time.Now()
					perr := post(ctx, p, client, &requests[i], cfg.Load.Version)
					d := time.Since(begin)
					mu.Lock()
					latencies = append(latencies, d)
					if perr != nil && err == nil {
						err = perr
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if err != nil {
			return 0, 0, nil, err
		}
	}
	took = time.Since(began)
	if err := p.Idle(ctx, settle); err != nil {
		return 0, 0, nil, err
	}
	after, err := p.CPU()
	return after - before, took, latencies, err
}

func post(ctx context.Context, p *peers.Process, client *http.Client, r *request, version int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL(p.Push), bytes.NewReader(r.body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	switch version {
	case ProtocolOTLP:
		req.Header.Set("Content-Encoding", "gzip")
	case 1:
		req.Header.Set("Content-Encoding", "snappy")
		req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	case 2:
		req.Header.Set("Content-Encoding", "snappy")
		req.Header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		req.Header.Set("X-Prometheus-Remote-Write-Version", "2.0.0")
	}
	if r.tenant != "" {
		req.Header.Set("X-Scope-OrgID", r.tenant)
	}
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

// Print writes the medians of each target and their ratios to those of the first peer, and each round as a line of JSON.
func Print(w io.Writer, all []Figures) error {
	var names []string
	byTarget := map[string][]Figures{}
	for _, f := range all {
		if byTarget[f.Target] == nil {
			names = append(names, f.Target)
		}
		byTarget[f.Target] = append(byTarget[f.Target], f)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "median of rounds\tCPU-µs/1000 samples\tCPU-µs/new series\tp50 ms\tp99 ms\tk samples/s\tpeak less idle, bytes/series\tlog bytes/sample\tdisk bytes/sample")
	series := math.NaN()
	if len(all) > 0 {
		series = all[0].series
	}
	for _, name := range names {
		m := func(get func(Figures) float64) float64 { return median(byTarget[name], get) }
		fmt.Fprintf(tw, "%s\t%.0f\t%.1f\t%.1f\t%.1f\t%.0f\t%.0f\t%.2f\t%.2f\n", name,
			m(func(f Figures) float64 { return f.CPU }), m(func(f Figures) float64 { return f.ColdCPU }),
			m(func(f Figures) float64 { return f.P50 }), m(func(f Figures) float64 { return f.P99 }), m(func(f Figures) float64 { return f.Rate / 1000 }),
			m(func(f Figures) float64 { return float64(f.Peak-f.Idle) / series }),
			m(func(f Figures) float64 { return f.Log }), m(func(f Figures) float64 { return f.Disk }))
	}
	for _, peer := range names[min(1, len(names)):] {
		ratio := func(get func(Figures) float64) float64 {
			return median(byTarget[names[0]], get) / median(byTarget[peer], get)
		}
		fmt.Fprintf(tw, "%s / %s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\t%.2f\n", names[0], peer,
			ratio(func(f Figures) float64 { return f.CPU }), ratio(func(f Figures) float64 { return f.ColdCPU }),
			ratio(func(f Figures) float64 { return f.P50 }), ratio(func(f Figures) float64 { return f.P99 }), ratio(func(f Figures) float64 { return f.Rate }),
			ratio(func(f Figures) float64 { return float64(f.Peak - f.Idle) }), ratio(func(f Figures) float64 { return f.Disk }))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	for _, f := range all {
		if err := json.NewEncoder(w).Encode(f); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	return nil
}

func median(fs []Figures, get func(Figures) float64) float64 {
	values := make([]float64, len(fs))
	for i, f := range fs {
		values[i] = get(f)
	}
	slices.Sort(values)
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[len(values)/2]
}
