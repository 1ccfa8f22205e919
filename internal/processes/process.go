// Package processes is how one process of a cluster knows what the others do: each says so every five seconds in the control
// topic (Announcer), and a Directory follows that. In go the figures that stages have of themselves, out come those of all
// processes with their age. It never asks a process, and nothing but what people look at may depend on it: who holds
// what is a matter of internal/members.
package processes

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Process is one process and what it does: the value under its key, as JSON. Times are in ms.
type Process struct {
	ID      string   `json:"id"`
	Addr    string   `json:"addr"` // under which others reach it
	Zone    string   `json:"zone,omitempty"`
	Version string   `json:"version"`
	Started int64    `json:"started"`                          // by its own clock
	Told    int64    `json:"told,omitempty"`                   // log time of the announcement; set by the Directory
	Silent  bool     `json:"silent"`                           // it has said nothing for SilentAfter; set by the Directory
	Stages  []string `json:"stages"`                           // producer, consumer, compactor, reader
	Self    string   `json:"self_monitoring_tenant,omitempty"` // that it writes its own metrics to

	Producer  *Producer  `json:"producer,omitempty"`
	Consumer  *Consumer  `json:"consumer,omitempty"`
	Compactor *Compactor `json:"compactor,omitempty"`
	Reader    *Reader    `json:"reader,omitempty"`
}

// Producer is what a producer does.
type Producer struct {
	Samples       Rate  `json:"samples_per_second,omitzero"` // acknowledged, floats and histograms
	Requests      Rate  `json:"requests_per_second,omitzero"`
	Rejected      Rate  `json:"rejected_per_second,omitzero"` // samples and whole requests
	InflightBytes int64 `json:"inflight_bytes"`
	KnownSeries   int64 `json:"known_series"` // whose labels are remembered
	Tenants       int   `json:"tenants"`      // seen lately
}

// Consumer is what a consumer does.
type Consumer struct {
	Ready      bool        `json:"ready"`
	Notes      []string    `json:"notes"`       // what was lost
	HeadSeries int64       `json:"head_series"` // in the generations that grow
	HeadBytes  int64       `json:"head_bytes"`  // of the records in them
	Samples    Rate        `json:"samples_per_second,omitzero"`
	Partitions []Partition `json:"partitions,omitempty"`
}

// States of a partition.
const (
	StateLive      = "live"
	StateReplaying = "replaying"
	StateFailed    = "failed"
)

// Partition is a partition that a consumer holds, or is about to.
type Partition struct {
	Partition   int32   `json:"partition"`
	State       string  `json:"state"`
	From        int64   `json:"from"`
	Applied     int64   `json:"applied"`                // every record before it is in the heads
	AppliedTime int64   `json:"applied_time,omitempty"` // log time of the record before Applied
	Behind      int64   `json:"behind,omitempty"`       // records in the log and not applied, at the last look
	Replayed    float64 `json:"replayed,omitempty"`     // 0 to 1, of what was in the log when the partition was opened
	Failure     string  `json:"failure,omitempty"`
	Leaving     bool    `json:"leaving,omitempty"` // it goes to another consumer

	Generation *Generation `json:"generation,omitempty"` // that grows
	Waiting    int         `json:"waiting,omitempty"`    // generations that wait to be written as blocks
	Sealing    int         `json:"sealing,omitempty"`    // that are being written
	Shipping   int         `json:"shipping,omitempty"`   // that are on their way to the bucket

	Unshipped   int64  `json:"unshipped_since,omitempty"` // log time of the first record that is not in the bucket
	LastShipped int64  `json:"last_shipped,omitempty"`    // by the consumer's clock
	HeldUp      string `json:"held_up,omitempty"`         // the step between heads and the committed offset that fails at the moment, and why
}

// Generation is the one that grows.
type Generation struct {
	From    int64  `json:"from"`
	Began   int64  `json:"began,omitempty"` // log time of its first record; 0 = there is none yet
	Bytes   int64  `json:"bytes"`           // of records
	Series  int    `json:"series"`
	Samples int64  `json:"samples"`
	Length  int64  `json:"length"`               // after which it ends at the latest, ms
	Ended   string `json:"end_reason,omitempty"` // what ended the one before it: time, seal, bytes, series
}

// Compactor is what a compactor does.
type Compactor struct {
	JobsDue     int     `json:"jobs_due"` // at its last look, of whichever compactor
	DueBytes    int64   `json:"due_bytes,omitempty"`
	Waiting     int     `json:"waiting,omitempty"` // of the jobs due, those that failed here and are put off
	TooLarge    int     `json:"too_large,omitempty"`
	Quarantined int     `json:"quarantined,omitempty"` // blocks that some compactor could not read
	Looked      int64   `json:"looked,omitempty"`      // when that look was, by its clock; 0 = there was none yet
	Running     []Job   `json:"running"`
	Done        int64   `json:"done"`   // since it started
	Failed      int64   `json:"failed"` // likewise
	Settle      int64   `json:"settle"` // ms
	Ranges      []int64 `json:"ranges"` // ms
	MaxBytes    int64   `json:"max_job_bytes"`
	MaxSeries   uint64  `json:"max_job_series"`
}

// Job is a merge under way.
type Job struct {
	Tenant string `json:"tenant"`
	Start  int64  `json:"start"`
	End    int64  `json:"end"`
	Blocks int    `json:"blocks"`
	Bytes  int64  `json:"bytes"`
	Since  int64  `json:"since"` // by its clock
}

// Reader is what a reader does.
type Reader struct {
	Queries       Rate  `json:"queries_per_second,omitzero"`
	Running       int   `json:"running"`
	Queued        int   `json:"queued"`
	CacheBytes    int64 `json:"cache_bytes"` // pages of blocks
	CacheHits     int64 `json:"cache_hits"`  // since it started, as the next three
	CacheMisses   int64 `json:"cache_misses"`
	ResultsBytes  int64 `json:"results_cache_bytes"`
	ResultsHits   int64 `json:"results_cache_hits"` // parts of range queries
	ResultsMisses int64 `json:"results_cache_misses"`
	Requests      Rate  `json:"bucket_requests_per_second,omitzero"`
	Bytes         Rate  `json:"bucket_bytes_per_second,omitzero"`
	Errors        Rate  `json:"bucket_errors_per_second,omitzero"`
}

// Rate is a counter's speed. Whoever has the counter sets Total; the Announcer makes PerSecond of it.
type Rate struct {
	Total     float64
	PerSecond float64
	known     bool
}

// Of returns the rate of a counter that stands at total.
func Of(total float64) Rate { return Rate{Total: total} }

// At returns a rate that is known.
func At(perSecond float64) Rate { return Rate{PerSecond: perSecond, known: true} }

// IsZero says that nothing is known of the rate: JSON leaves it out.
func (r Rate) IsZero() bool { return !r.known }

// MarshalJSON is a number, per second.
func (r Rate) MarshalJSON() ([]byte, error) { return json.Marshal(r.PerSecond) }

// UnmarshalJSON reads a number.
func (r *Rate) UnmarshalJSON(b []byte) error {
	r.known = true
	return json.Unmarshal(b, &r.PerSecond)
}

// rates are all of the process, in a fixed order.
func (p *Process) rates() (all []*Rate) {
	if s := p.Producer; s != nil {
		all = append(all, &s.Samples, &s.Requests, &s.Rejected)
	}
	if s := p.Consumer; s != nil {
		all = append(all, &s.Samples)
	}
	if s := p.Reader; s != nil {
		all = append(all, &s.Queries, &s.Requests, &s.Bytes, &s.Errors)
	}
	return all
}

// The most that is told; what is beyond is left out. A record has to stay small, and the topic is read by every process.
const (
	maxPartitions = 1000
	maxNotes      = 20
	maxJobs       = 20
	maxText       = 300
	maxValue      = 900_000
)

// bound cuts off what is too much to tell, and makes lists of what is none.
func (p *Process) bound() {
	if c := p.Consumer; c != nil {
		if c.Notes == nil {
			c.Notes = []string{}
		}
		c.Partitions = c.Partitions[:min(len(c.Partitions), maxPartitions)]
		c.Notes = c.Notes[:min(len(c.Notes), maxNotes)]
		for i := range c.Notes {
			c.Notes[i] = short(c.Notes[i])
		}
		for i := range c.Partitions {
			part := &c.Partitions[i]
			part.Failure, part.HeldUp = short(part.Failure), short(part.HeldUp)
		}
	}
	if c := p.Compactor; c != nil {
		if c.Running == nil {
			c.Running = []Job{}
		}
		c.Running = c.Running[:min(len(c.Running), maxJobs)]
	}
}

// encode returns the value of the announcement, of at most maxValue bytes: if all partitions are in trouble at once, the
// last of them are left out.
func (p *Process) encode() ([]byte, error) {
	p.bound()
	for {
		value, err := json.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("encode what process %s does: %w", p.ID, err)
		}
		if len(value) <= maxValue || p.Consumer == nil || len(p.Consumer.Partitions) == 0 {
			return value, nil
		}
		p.Consumer.Partitions = p.Consumer.Partitions[:len(p.Consumer.Partitions)/2]
	}
}

// short cuts a text at maxText bytes, between two characters.
func short(s string) string {
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

// keyPrefix starts the key of every announcement in the control topic. Two processes of one machine may have its name both,
// so the stages are part of the key.
const keyPrefix = "process/"

func (p *Process) key() []byte {
	return []byte(keyPrefix + p.ID + "/" + strings.Join(p.Stages, "+"))
}

var errNotItsKey = errors.New("it stands under the key of another process")

// decode reads an announcement; ours tells whether the key is one of this package, p is nil where it was withdrawn.
func decode(key, value []byte) (p *Process, ours bool, err error) {
	if !strings.HasPrefix(string(key), keyPrefix) {
		return nil, false, nil
	}
	if value == nil {
		return nil, true, nil
	}
	if len(value) > maxValue {
		return nil, true, fmt.Errorf("announcement of %d bytes", len(value))
	}
	p = &Process{}
	if err := json.Unmarshal(value, p); err != nil {
		return nil, true, fmt.Errorf("decode announcement: %w", err)
	}
	if p.ID == "" || string(p.key()) != string(key) {
		return nil, true, errNotItsKey
	}
	return p, true, nil
}
