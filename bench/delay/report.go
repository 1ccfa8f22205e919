package delay

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Report is what was measured. All times are in milliseconds.
type Report struct {
	Seconds    float64 `json:"seconds"`     // of the whole measurement
	IntervalMs float64 `json:"interval_ms"` // between two writes, as asked for
	Series     int     `json:"series"`

	Written       int `json:"written"`        // samples sent, each once
	WritesFailed  int `json:"writes_failed"`  // without a 2xx: what became of them is not known, they are not measured
	Seen          int `json:"seen"`           // acked and then seen
	NotSeen       int `json:"not_seen"`       // acked and not seen until the end
	Queries       int `json:"queries"`        // while something was pending
	QueriesFailed int `json:"queries_failed"` // errors, 503 among them

	Ack   Times `json:"ack_ms"`      // from sending a write until its 2xx
	Delay Times `json:"delay_ms"`    // from the 2xx until an answer with the value
	Query Times `json:"query_ms"`    // of a query that was answered: a part of every delay
	Gap   Times `json:"poll_gap_ms"` // between an answer and the next while something was pending: the resolution of Delay
	Slip  Times `json:"slip_ms"`     // how much later than appointed writes were sent

	LastError string `json:"last_error,omitempty"`
}

// Times sums up many times, in milliseconds.
type Times struct {
	Count  int     `json:"count"`
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
}

// timesOf takes percentiles by nearest rank: each is a time that was measured.
func timesOf(list []time.Duration) Times {
	if len(list) == 0 {
		return Times{}
	}
	slices.Sort(list)
	rank := func(percent int) float64 {
		i := (len(list)*percent + 99) / 100
		return float64(list[max(i, 1)-1].Microseconds()) / 1000
	}
	return Times{Count: len(list), Median: rank(50), P99: rank(99), Max: rank(100)}
}

func (r *Report) sum(cfg Config, s samples, notSeen int) {
	r.IntervalMs, r.Series = float64(cfg.Interval.Microseconds())/1000, cfg.Series
	r.Seen, r.NotSeen = len(s.delay), notSeen
	r.Ack, r.Delay, r.Query, r.Gap, r.Slip = timesOf(s.ack), timesOf(s.delay), timesOf(s.query), timesOf(s.gap), timesOf(s.slip)
}

// Err is not nil if the measurement saw what must not be: an acked value that never turned up, or nothing acked at all.
func (r *Report) Err() error {
	switch {
	case r.NotSeen > 0:
		return fmt.Errorf("%d of %d acked values were never seen; last error: %q", r.NotSeen, r.Seen+r.NotSeen, r.LastError)
	case r.Seen == 0:
		return fmt.Errorf("none of %d writes was acked; last error: %q", r.Written, r.LastError)
	}
	return nil
}

// Print writes the report as a table for people and one line of JSON for programs.
func (r *Report) Print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "ms\tmedian\tp99\tmax\tcount\twhat")
	for _, row := range []struct {
		name, what string
		t          Times
	}{
		{"ack", "from sending a write until its 2xx", r.Ack},
		{"delay", "from the 2xx until an answer that contains the value", r.Delay},
		{"query", "one query; every delay contains one", r.Query},
		{"poll gap", "from answer to answer: delay is known no finer", r.Gap},
		{"slip", "how much later than appointed writes were sent", r.Slip},
	} {
		fmt.Fprintf(tw, "%s\t%.1f\t%.1f\t%.1f\t%d\t%s\n", row.name, row.t.Median, row.t.P99, row.t.Max, row.t.Count, row.what)
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	_, err := fmt.Fprintf(w, "%d written over %d series, %d failed; %d seen, %d not seen; %d queries, %d failed\n",
		r.Written, r.Series, r.WritesFailed, r.Seen, r.NotSeen, r.Queries, r.QueriesFailed)
	if err != nil {
		return fmt.Errorf("print the counts: %w", err)
	}
	if err := json.NewEncoder(w).Encode(r); err != nil {
		return fmt.Errorf("print the JSON: %w", err)
	}
	return nil
}
