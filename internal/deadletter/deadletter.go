// Package deadletter looks at the records that could not be applied, and puts them back. In goes the dead-letter topic,
// whose records carry the original key, value and headers and, in headers of their own, where they stood and why they
// were refused; out come one line for each, or the original records again, at the end of the partition that they came
// from. It never removes a dead letter, never believes a header, and never puts back what only meant something at its
// time (ticks and seals).
package deadletter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/internal/log"
	"sluice/schema"
)

// Options choose dead letters. The zero value is all of them.
type Options struct {
	Tenant string // only of this tenant, as the record's key has it; "" = any
	Reason string // only with this text in the reason; "" = any
	From   int64  // first offset in the dead-letter topic
	To     int64  // offset in the dead-letter topic to stop before; 0 = what is there at the time of the call
	Limit  int    // most letters; 0 = no limit
}

// Letter is a dead letter, read without trust. Strings are as found: they may be anything.
type Letter struct {
	Offset    int64 // in the dead-letter topic
	Time      int64 // log time of the dead letter, ms
	Tenant    string
	Reason    string
	Partition int32 // where it stood in the topic of samples; -1 = the header is missing or no number
	Origin    int64 // its offset there; -1 = the header is missing or no number
	Bytes     int   // of the value
}

func read(rec *log.Record) Letter {
	l := Letter{Offset: rec.Offset, Time: rec.Time, Tenant: string(rec.Key), Partition: -1, Origin: -1, Bytes: len(rec.Value)}
	if v, ok := rec.Header(schema.HeaderDeadReason); ok {
		l.Reason = string(v)
	}
	if n, ok := number(rec, schema.HeaderDeadPartition, 32); ok {
		l.Partition = int32(n)
	}
	if n, ok := number(rec, schema.HeaderDeadOffset, 64); ok {
		l.Origin = n
	}
	return l
}

// number reads a header that a consumer has written: decimal, not negative, and in no other spelling.
func number(rec *log.Record, name string, bits int) (int64, bool) {
	v, ok := rec.Header(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(string(v), 10, bits)
	return n, err == nil && n >= 0 && strconv.FormatInt(n, 10) == string(v)
}

// String is the letter as one line that no content can break or make long.
func (l Letter) String() string {
	position := func(n int64) string {
		if n < 0 {
			return "unknown"
		}
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("offset=%d time=%s partition=%s partition_offset=%s tenant=%.160q bytes=%d reason=%.300q",
		l.Offset, time.UnixMilli(l.Time).UTC().Format("2006-01-02T15:04:05.000Z"), position(int64(l.Partition)), position(l.Origin), l.Tenant, l.Bytes, l.Reason)
}

func (o *Options) take(l *Letter) bool {
	return (o.Tenant == "" || o.Tenant == l.Tenant) && strings.Contains(l.Reason, o.Reason)
}

// List writes a line for each dead letter that opts choose, in order. What is written while it lists is not listed.
func List(ctx context.Context, l log.Log, w io.Writer, opts Options) error {
	return each(ctx, l, opts, func(letters []found) error {
		for _, f := range letters {
			if _, err := fmt.Fprintln(w, f.letter); err != nil {
				return fmt.Errorf("write the list of dead letters: %w", err)
			}
		}
		return nil
	})
}

// Bounds of one Append, so that a replay neither overfills the log's buffer nor waits for a sync per record.
const (
	batchRecords = 500
	batchBytes   = 4 << 20
)

// maxRefusals is how many letters that cannot be put back are named in the error; the others are counted.
const maxRefusals = 10

// Replay appends the records of the dead letters that opts choose to the partition of the samples that each came from,
// with their own key, value and headers, and returns how many. What cannot go back (no valid partition, a tick, a seal)
// is passed over and named in the error, beside which the others have been put back. Any other error ends the replay:
// it may be done again, as a sample that is there twice counts once. The dead letters stay where they are.
func Replay(ctx context.Context, l log.Log, opts Options) (replayed int, err error) {
	partitions, err := l.Partitions(ctx, log.TopicSamples)
	if err != nil {
		return 0, fmt.Errorf("look up the partitions of %s: %w", log.TopicSamples, err)
	}
	var refusals []error
	refused := 0
	err = each(ctx, l, opts, func(letters []found) error {
		var batch []log.Record
		size := 0
		flush := func() error {
			if len(batch) == 0 {
				return nil
			}
			if err := l.Append(ctx, log.TopicSamples, batch); err != nil {
				return fmt.Errorf("put %d records back: %w", len(batch), err)
			}
			replayed += len(batch)
			batch, size = batch[:0], 0
			return nil
		}
		for _, f := range letters {
			rec, err := original(f, partitions)
			if err != nil {
				if refused++; refused <= maxRefusals {
					refusals = append(refusals, fmt.Errorf("dead letter %d: %w", f.letter.Offset, err))
				}
				continue
			}
			if len(batch) == batchRecords || len(batch) > 0 && size+len(rec.Value) > batchBytes {
				if err := flush(); err != nil {
					return err
				}
			}
			batch, size = append(batch, rec), size+len(rec.Value)
		}
		return flush()
	})
	if more := refused - len(refusals); more > 0 {
		refusals = append(refusals, fmt.Errorf("and %d more that cannot be put back", more))
	}
	return replayed, errors.Join(append(refusals, err)...)
}

// original is the record as it was before it was copied here.
func original(f found, partitions int32) (log.Record, error) {
	switch {
	case f.letter.Partition < 0:
		v, _ := f.rec.Header(schema.HeaderDeadPartition)
		return log.Record{}, fmt.Errorf("its header %s, %.40q, is not a partition", schema.HeaderDeadPartition, v)
	case f.letter.Partition >= partitions:
		return log.Record{}, fmt.Errorf("it is from partition %d, and %s has %d", f.letter.Partition, log.TopicSamples, partitions)
	}
	rec := log.Record{Partition: f.letter.Partition, Key: f.rec.Key, Value: f.rec.Value, Headers: slices.Clone(f.rec.Headers)}
	// The consumer's headers stand first; others of the same name came with the record.
	for _, name := range []string{schema.HeaderDeadReason, schema.HeaderDeadPartition, schema.HeaderDeadOffset} {
		if i := slices.IndexFunc(rec.Headers, func(h log.Header) bool { return h.Key == name }); i >= 0 {
			rec.Headers = slices.Delete(rec.Headers, i, i+1)
		}
	}
	if kind, ok := rec.Header(schema.HeaderKind); ok && (string(kind) == schema.KindTick || string(kind) == schema.KindSeal) {
		return log.Record{}, fmt.Errorf("it is a %s, which meant something at its time only", kind)
	}
	return rec, nil
}

// found is a chosen letter and the record that it was read from, good for the call that it is passed to.
type found struct {
	letter Letter
	rec    *log.Record
}

// lookAgain is how often each sees whether the reader has passed offsets that hold no record.
const lookAgain = 500 * time.Millisecond

// each passes the chosen letters on, in order and as many at a time as the log has at hand.
func each(ctx context.Context, l log.Log, opts Options, pass func([]found) error) error {
	b, err := l.Bounds(ctx, log.TopicDeadLetter, 0)
	if err != nil {
		return fmt.Errorf("read bounds of %s: %w", log.TopicDeadLetter, err)
	}
	end := b.End
	if opts.To > 0 {
		end = min(end, opts.To)
	}
	left := opts.Limit
	for from := max(opts.From, b.Start); from < end; {
		from, err = eachFrom(ctx, l, from, end, &left, opts, pass)
		var out *log.OutOfRangeError
		switch {
		case errors.As(err, &out) && out.Bounds.Start > from: // retention took it away under us
			from = out.Bounds.Start
		case err != nil:
			return fmt.Errorf("read %s: %w", log.TopicDeadLetter, err)
		}
	}
	return nil
}

// eachFrom does it with one reader, and returns where it came to.
func eachFrom(ctx context.Context, l log.Log, from, end int64, left *int, opts Options, pass func([]found) error) (_ int64, err error) {
	r, err := l.Reader(log.TopicDeadLetter, 0, from)
	if err != nil {
		return from, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for r.Position() < end {
		wait, cancel := context.WithTimeout(ctx, lookAgain)
		recs, err := r.Next(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return r.Position(), ctx.Err()
		case err != nil && !errors.Is(err, context.DeadlineExceeded):
			return r.Position(), err
		}
		var chosen []found
		full := false
		for i := range recs {
			if recs[i].Offset >= end || full {
				break
			}
			letter := read(&recs[i])
			if !opts.take(&letter) {
				continue
			}
			chosen = append(chosen, found{letter, &recs[i]})
			if *left > 0 {
				*left--
				full = *left == 0
			}
		}
		if err := pass(chosen); err != nil {
			return r.Position(), err
		}
		if full {
			return end, nil
		}
	}
	return end, nil
}
