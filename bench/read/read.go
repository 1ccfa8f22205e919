// Package read measures what it costs to ask: it brings the same data into Sluice and, where they are installed, its peers,
// sends each of them the requests of dashboards, and reads latency, CPU and, at an S3 server, requests and bytes. In come
// the size of the data and the places that it is asked for in, out go figures with ratios; absolute figures do not travel
// between machines. Answers are held against each other, so that nobody is fast by being wrong.
package read

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"
)

// Config of a run.
type Config struct {
	Data        Data
	Places      []string       // of Places(); those that are not installed are left out
	Only        *regexp.Regexp // names of queries; nil = all
	Rounds      int            // each query is measured so many times at each place, in turn; 0 = only cold
	Cold        bool           // measure queries right after a start, too
	Connections int            // while loading
	Dir         string         // for the data: what a run finds there it does not load again
	Delay       time.Duration  // of each request to the S3 server

	Sluice     string   // the program
	SluiceArgs []string // added to its arguments
	S3Server   string   // program of the S3 server versitygw; empty = the place S3 is left out
}

// Validate refuses what cannot be measured.
func (c *Config) Validate() error {
	switch {
	case c.Data.Series < 1 || c.Data.Interval < time.Millisecond || c.Data.samples() < 2 || c.Rounds < 0 || c.Connections < 1:
		return errors.New("want at least one series, two samples of each, no negative rounds and one connection")
	case c.Data.Interval > window:
		return fmt.Errorf("an interval of %s is more than %s", c.Data.Interval, window)
	}
	for i, name := range c.Places {
		if !slices.Contains(Places(), name) {
			return fmt.Errorf("place %q is none of %q", name, Places())
		}
		// Each is made of the one before.
		source := map[string]string{Bucket: Heads, S3: Bucket}[name]
		if p := newPlace(c, name); source != "" && !slices.Contains(c.Places[:i], source) && (p == nil || !p.has(&c.Data)) {
			return fmt.Errorf("%q is made of %q, which must come before it", name, source)
		}
	}
	return nil
}

// Figures are those of one query at one place.
type Figures struct {
	Place string `json:"place"`
	Query string `json:"query"`
	// Warm: asked many times.
	Asked int     `json:"asked"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	CPU   float64 `json:"cpu_ms"`
	// Cold: the first query after a start, no page of its files in memory; 0 = not measured.
	ColdMs   float64   `json:"cold_ms,omitempty"`
	ColdCPU  float64   `json:"cold_cpu_ms,omitempty"`
	ColdS3   *Requests `json:"cold_s3,omitempty"`
	WarmS3   *Requests `json:"warm_s3,omitempty"` // of all queries of one round
	Series   int       `json:"series"`
	Points   int       `json:"points"`
	Differs  string    `json:"differs,omitempty"` // from the reference
	MaxRSSMB int64     `json:"peak_rss_mb"`

	class     class
	latencies []time.Duration
	cpu       float64
}

// Run brings the data to the places and measures.
func Run(ctx context.Context, cfg Config, out io.Writer) (all []*Figures, err error) {
	progress := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	var places []*place
	for _, name := range cfg.Places {
		if p := newPlace(&cfg, name); p != nil && (name != S3 || cfg.S3Server != "") {
			places = append(places, p)
		} else {
			progress("%s: not installed, left out", name)
		}
	}
	defer func() {
		for _, p := range places {
			err = errors.Join(err, p.close())
		}
	}()
	progress("%d series, %s every %s, %d samples", cfg.Data.pods()*podSeries, cfg.Data.Length, cfg.Data.Interval, cfg.Data.pods()*podSeries*cfg.Data.samples())
	for _, p := range places {
		if err := p.fill(ctx, &cfg, progress); err != nil {
			return nil, err
		}
	}
	queries := Queries(&cfg.Data)
	if cfg.Only != nil {
		queries = slices.DeleteFunc(queries, func(q Query) bool { return !cfg.Only.MatchString(q.Name) })
	}
	figures := map[string]map[string]*Figures{} // by place and query
	for _, p := range places {
		figures[p.name] = map[string]*Figures{}
		for i := range queries {
			f := &Figures{Place: p.name, Query: queries[i].Name, class: queries[i].Class}
			figures[p.name][f.Query] = f
			all = append(all, f)
		}
	}
	if cfg.Cold {
		for _, p := range places {
			if p.name == Heads {
				continue // they are in memory as soon as there is an answer
			}
			for i := range queries {
				if err := p.cold(ctx, &cfg, &queries[i], figures[p.name][queries[i].Name]); err != nil {
					return all, err
				}
			}
			progress("%s: asked cold", p.name)
		}
	}
	for _, p := range places {
		if p.Process == nil {
			if err := p.start(ctx, &cfg); err != nil {
				return all, err
			}
		}
	}
	if len(places) == 0 {
		return all, errors.New("nothing to measure")
	}
	for i := range queries {
		if err := warm(ctx, &cfg, places, &queries[i], figures); err != nil {
			return all, err
		}
		progress("%s", queries[i].Name)
	}
	return all, nil
}

// cold asks once after a start.
func (p *place) cold(ctx context.Context, cfg *Config, q *Query, f *Figures) error {
	if err := p.restart(ctx, cfg); err != nil {
		return err
	}
	if p.remote != nil {
		p.remote.reset()
	}
	before, err := p.CPU()
	if err != nil {
		return err
	}
	path, form := q.request(&cfg.Data)
	took, err := p.client.ask(ctx, path, form, nil, drop)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", p.name, q.Name, err)
	}
	after, err := p.CPU()
	if err != nil {
		return err
	}
	f.ColdMs, f.ColdCPU = ms(took), (after-before)*1000
	if p.remote != nil {
		seen := p.remote.seen()
		f.ColdS3 = &seen
	}
	return nil
}

// A turn of a query at a place lasts so long, or takes so many requests.
const (
	turnTime  = 300 * time.Millisecond
	turnTimes = 100
)

// warm asks every place in turn, so that what else happens on the machine meets all of them.
func warm(ctx context.Context, cfg *Config, places []*place, q *Query, figures map[string]map[string]*Figures) error {
	path, form := q.request(&cfg.Data)
	answers := map[string]content{}
	for _, p := range places {
		var got content
		if _, err := p.client.ask(ctx, path, form, nil, got.decode); err != nil {
			return fmt.Errorf("%s: %s: %w", p.name, q.Name, err)
		}
		answers[p.name] = got
	}
	ref := reference(places)
	for _, p := range places {
		f := figures[p.name][q.Name]
		f.Series, f.Points = len(answers[p.name]), answers[p.name].points()
		// Versions of Prometheus before 3 extrapolate a rate otherwise near the beginning of a counter.
		f.Differs = differs(answers[ref], answers[p.name], q.Approx && (p.name == VictoriaMetrics || ref == Prometheus3 && p.name == Prometheus))
	}
	for round := range cfg.Rounds {
		for _, p := range places {
			if p.remote != nil {
				p.remote.reset()
			}
			f := figures[p.name][q.Name]
			before, err := p.CPU()
			if err != nil {
				return err
			}
			for begin, n := time.Now(), 0; n == 0 || n < turnTimes && time.Since(begin) < turnTime; n++ {
				took, err := p.client.ask(ctx, path, form, nil, drop)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", p.name, q.Name, err)
				}
				f.latencies = append(f.latencies, took)
			}
			after, err := p.CPU()
			if err != nil {
				return err
			}
			f.cpu += after - before
			if p.remote != nil && round == 0 {
				seen := p.remote.seen()
				f.WarmS3 = &seen
			}
			if rss, err := p.Memory("VmHWM"); err == nil {
				f.MaxRSSMB = rss >> 20
			}
		}
	}
	for _, p := range places {
		figures[p.name][q.Name].sumUp()
	}
	return nil
}

// reference is the place whose answers are right: the newest Prometheus, or else the first place.
func reference(places []*place) string {
	for _, p := range places {
		if p.name == Prometheus3 {
			return p.name
		}
	}
	return places[0].name
}

func (f *Figures) sumUp() {
	slices.Sort(f.latencies)
	if f.Asked = len(f.latencies); f.Asked == 0 {
		return
	}
	at := func(q float64) float64 { return ms(f.latencies[int(q*float64(f.Asked-1))]) }
	f.P50, f.P99, f.CPU = at(0.5), at(0.99), f.cpu*1000/float64(f.Asked)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
