package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"sluice/internal/log"
	"sluice/internal/web"
	"sluice/schema"
)

// printWelcome says what one can do now, where a person looks first.
func printWelcome(w io.Writer, base string) {
	fmt.Fprintf(w, `
Sluice is up. Its own metrics are in already: look at them in a browser,

    %[1]s/

or with

    curl '%[1]s/prometheus/api/v1/query?query=up'

Send it a Prometheus' samples (prometheus.yml):

    remote_write:
      - url: %[1]s/api/v1/push

Grafana: a Prometheus data source with the URL %[1]s/prometheus

`, base)
}

// serveIndex lists what this process serves.
func (p *process) serveIndex(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "Sluice")
	if p.producer != nil {
		fmt.Fprintf(w, "\nremote_write:\n  - url: %s://%s/api/v1/push\n", p.scheme, r.Host)
	}
	if p.reader != nil {
		fmt.Fprintf(w, "\nGrafana's Prometheus data source: %s://%s/prometheus\n", p.scheme, r.Host)
	}
	if p.producer != nil {
		fmt.Fprintln(w, "\n/distributor/ha_tracker")
	}
	fmt.Fprint(w, "\n/ready  /-/healthy  /metrics  /config  /debug/pprof/\n")
}

// serveConfig shows the flags in force. What an inline bucket configuration holds may be secret and is left out.
func (p *process) serveConfig(w http.ResponseWriter, _ *http.Request) {
	names := []string{}
	for _, f := range p.cli.Command.Flags {
		names = append(names, f.Names()[0])
	}
	slices.Sort(names)
	w.Header().Set("Content-Type", "text/yaml; charset=utf-8")
	for _, name := range names {
		value := fmt.Sprint(p.cli.Value(name))
		if name == "objstore.config" && value != "" {
			value = "<secret>"
		}
		fmt.Fprintf(w, "%s: %s\n", name, strings.ReplaceAll(value, "\n", " "))
	}
}

// sealTimeout bounds how long POST /-/seal?wait=true waits.
const sealTimeout = 10 * time.Minute

// serveSeal ends the live generations: it writes a seal record into every partition. With wait=true it answers once
// everything before the seals is in the bucket.
func (p *process) serveSeal(w http.ResponseWriter, r *http.Request) {
	offsets, err := p.producer.Seal(r.Context())
	if err != nil {
		web.Error(w, r, err)
		return
	}
	if r.FormValue("wait") == "true" {
		ctx, cancel := context.WithTimeout(r.Context(), sealTimeout)
		defer cancel()
		if err := waitCommitted(ctx, p.log, offsets); err != nil {
			web.Error(w, r, schema.Unavailable(schema.ErrNotReady, err, "the seal is in the log, but not all is in the bucket yet"))
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"seals": offsets}})
}

// serveLeave gives the partitions of this process' consumer to the others of its zone, before it is taken away for good. It
// answers once they are handed over.
func (p *process) serveLeave(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), sealTimeout)
	defer cancel()
	if err := p.consumer.Leave(ctx); err != nil {
		web.Error(w, r, schema.Unavailable(schema.ErrNotReady, err, "the partitions are not all handed over yet"))
		return
	}
	fmt.Fprintln(w, "left: nothing is held here any more, the process can be stopped")
}

// waitCommitted waits until the consumers have committed past the given offsets of the samples.
func waitCommitted(ctx context.Context, l log.Log, offsets map[int32]int64) error {
	for {
		committed, err := l.Committed(ctx, schema.ConsumerGroup, log.TopicSamples)
		if err != nil {
			return fmt.Errorf("read committed offsets: %w", err)
		}
		behind := 0
		for p, offset := range offsets {
			if committed[p] <= offset {
				behind++
			}
		}
		if behind == 0 {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%d of %d partitions have not committed their seal", behind, len(offsets)), ctx.Err())
		}
	}
}
