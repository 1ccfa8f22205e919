package read

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// table prints one number of each query at each place.
type table struct {
	title   string
	get     func(*Figures) float64
	targets bool // PERFORMANCE has one for its ratio to Prometheus
}

// Print writes the figures as tables, and the ratios of Sluice to each peer with the targets beside them.
func Print(w io.Writer, all []*Figures) error {
	var places, queries []string
	figures := map[[2]string]*Figures{}
	for _, f := range all {
		if !slices.Contains(places, f.Place) {
			places = append(places, f.Place)
		}
		if !slices.Contains(queries, f.Query) {
			queries = append(queries, f.Query)
		}
		figures[[2]string{f.Place, f.Query}] = f
	}
	for _, t := range []table{
		{"warm, p50 in ms", func(f *Figures) float64 { return f.P50 }, true},
		{"warm, p99 in ms", func(f *Figures) float64 { return f.P99 }, false},
		{"warm, CPU-ms a query", func(f *Figures) float64 { return f.CPU }, true},
		{"cold, ms", func(f *Figures) float64 { return f.ColdMs }, false},
		{"cold, CPU-ms", func(f *Figures) float64 { return f.ColdCPU }, false},
	} {
		if err := t.print(w, places, queries, figures); err != nil {
			return fmt.Errorf("print: %w", err)
		}
	}
	if err := printRequests(w, all); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	for _, f := range all {
		if f.Differs != "" {
			fmt.Fprintf(w, "DIFFERS: %s: %s: %s\n", f.Place, f.Query, f.Differs)
		}
	}
	return nil
}

// Save writes each figure as a line of JSON into the folder of the data.
func Save(dir string, all []*Figures) (path string, err error) {
	var lines bytes.Buffer
	for _, f := range all {
		if err := json.NewEncoder(&lines).Encode(f); err != nil {
			return "", fmt.Errorf("encode figures: %w", err)
		}
	}
	path = filepath.Join(dir, "figures.jsonl")
	return path, os.WriteFile(path, lines.Bytes(), 0o644)
}

// print writes the numbers of the places, then Sluice's over those of the peers; a ratio above its target has a mark.
func (t *table) print(w io.Writer, places, queries []string, figures map[[2]string]*Figures) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := []string{t.title}
	head = append(head, places...)
	type pair struct{ ours, peer string }
	var pairs []pair
	for _, ours := range places {
		for _, peer := range places {
			if strings.HasPrefix(ours, "sluice") && !strings.HasPrefix(peer, "sluice") {
				pairs = append(pairs, pair{ours, peer})
				head = append(head, strings.TrimPrefix(ours, "sluice-")+"/"+peer)
			}
		}
	}
	if t.targets {
		head = append(head, "target /prometheus")
	}
	lines, some := []string{strings.Join(head, "\t")}, false
	for _, q := range queries {
		line := []string{q}
		for _, p := range places {
			v := t.get(figures[[2]string{p, q}])
			some = some || v > 0
			line = append(line, number(v))
		}
		limit := most[figures[[2]string{places[0], q}].class]
		for _, p := range pairs {
			ours, peer := t.get(figures[[2]string{p.ours, q}]), t.get(figures[[2]string{p.peer, q}])
			switch {
			case ours == 0 || peer == 0:
				line = append(line, "")
			case t.targets && p.peer == Prometheus && ours/peer > limit:
				line = append(line, fmt.Sprintf("%.2f !", ours/peer))
			default:
				line = append(line, fmt.Sprintf("%.2f", ours/peer))
			}
		}
		if t.targets {
			line = append(line, fmt.Sprintf("<= %.1f", limit))
		}
		lines = append(lines, strings.Join(line, "\t"))
	}
	if !some {
		return nil
	}
	fmt.Fprintln(tw, strings.Join(lines, "\n"))
	fmt.Fprintln(tw)
	return tw.Flush()
}

func number(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// printRequests writes what the S3 server was asked.
func printRequests(w io.Writer, all []*Figures) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	some := false
	fmt.Fprintln(tw, "at the S3 server\tcold: GETs\tKB\tin a row\twarm, one round: GETs\tKB")
	for _, f := range all {
		if f.ColdS3 == nil && f.WarmS3 == nil {
			continue
		}
		some = true
		cold, warm := f.ColdS3, f.WarmS3
		if cold == nil {
			cold = &Requests{}
		}
		if warm == nil {
			warm = &Requests{}
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%d\n", f.Query, cold.Count, cold.Bytes>>10, cold.InARow, warm.Count, warm.Bytes>>10)
	}
	if !some {
		return nil
	}
	return tw.Flush()
}
