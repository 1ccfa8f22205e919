package log

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// idleFirst is how long a reader waits before it asks whether offsets without records hold it up; each time that
	// they do not, it waits twice as long, up to idleMax.
	idleFirst = 500 * time.Millisecond
	idleMax   = 30 * time.Second

	retryFirst = 50 * time.Millisecond
	retryMax   = 5 * time.Second
)

// kafkaReader reads one partition through a client of its own: no consumer group, no reset of the position.
type kafkaReader struct {
	log       *Kafka
	topic     string
	partition int32
	off       int64

	mu     sync.Mutex  // guards client and shutOff: Kafka.Close may come at any time
	client *kgo.Client // nil until Next needs it and after the position was found to be out of range
	ended  bool

	reads   bool          // something was read: there is the right to
	failed  error         // came with records that were returned first
	idle    time.Duration // see idleFirst
	idleEnd time.Time
	retry   time.Duration
	recs    []Record
	headers []Header
}

// Reader implements Log. Each has connections and buffers of its own (up to some 16 MiB).
func (k *Kafka) Reader(name string, partition int32, offset int64) (Reader, error) {
	ctx, cancel := context.WithTimeout(context.Background(), k.cfg.DeliveryTimeout)
	defer cancel()
	if err := k.known(ctx, name, partition); err != nil {
		return nil, err
	}
	r := &kafkaReader{log: k, topic: name, partition: partition, off: offset, idle: idleFirst, retry: retryFirst}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.readers == nil {
		return nil, ErrClosed
	}
	k.readers[r] = struct{}{}
	return r, nil
}

// Position implements Reader.
func (r *kafkaReader) Position() int64 { return r.off }

// Close implements Reader.
func (r *kafkaReader) Close() error {
	r.log.mu.Lock()
	delete(r.log.readers, r)
	r.log.mu.Unlock()
	r.shut()
	return nil
}

// shut makes Next return ErrClosed from now on.
func (r *kafkaReader) shut() {
	r.mu.Lock()
	r.ended = true
	client := r.client
	r.mu.Unlock()
	if client != nil {
		client.Close()
	}
}

// Next implements Reader. Errors of the brokers are waited out and counted.
func (r *kafkaReader) Next(ctx context.Context) ([]Record, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := r.failed
		r.failed = nil
		if err == nil {
			var recs []Record
			recs, err = r.poll(ctx)
			if len(recs) > 0 {
				r.failed, r.reads = err, true
				r.idle, r.idleEnd, r.retry = idleFirst, time.Time{}, retryFirst
				return recs, nil
			}
		}
		switch fatal := r.judge(ctx, err); {
		case fatal != nil:
			return nil, fatal
		case err != nil:
			r.wait(ctx, err)
		}
	}
}

// judge returns what Next must return for an error, or nil if it is to try again.
func (r *kafkaReader) judge(ctx context.Context, err error) error {
	r.mu.Lock()
	ended := r.ended
	r.mu.Unlock()
	if ended {
		return ErrClosed
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var out *OutOfRangeError
	var loss *kgo.ErrDataLoss
	switch {
	case errors.As(err, &out):
		return out
	case refused(err):
		// From the start it is a mistake; later it may be one that is being mended, or a broker that is not up yet.
		err = r.log.fault(err, read(r.topic))
		if !r.reads {
			return fmt.Errorf("read %s/%d: %w", r.topic, r.partition, err)
		}
		r.log.logger.Warn("reading from Kafka is held up", "topic", r.topic, "partition", r.partition, "err", err)
	case errors.Is(err, kerr.OffsetOutOfRange), errors.As(err, &loss):
		// The client goes no further, or would go on elsewhere. A new one begins at our position again.
		r.drop()
		b, berr := r.log.Bounds(ctx, r.topic, r.partition)
		if berr != nil {
			return nil
		}
		if r.off >= b.Start && r.off <= b.End && loss == nil {
			return nil
		}
		return &OutOfRangeError{Topic: r.topic, Partition: r.partition, Offset: r.off, Bounds: b}
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID),
		errors.Is(err, ErrUnknownPartition):
		// While a leader moves, brokers say so too. The topic's metadata decide. A topic that was made again has other
		// offsets: the client is given up, and the position checked.
		r.drop()
		if _, terr := r.log.topic(ctx, r.topic, 0); errors.Is(terr, ErrUnknownPartition) {
			return terr
		}
	}
	return nil
}

// wait backs off after an error.
func (r *kafkaReader) wait(ctx context.Context, err error) {
	r.log.metrics.readRetries.Inc()
	r.log.logger.Debug("reading from Kafka", "topic", r.topic, "partition", r.partition, "offset", r.off, "err", err)
	timer := time.NewTimer(r.retry)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-r.log.done:
	}
	r.retry = min(2*r.retry, retryMax)
}

// drop gives up the client.
func (r *kafkaReader) drop() {
	r.mu.Lock()
	client := r.client
	r.client = nil
	r.mu.Unlock()
	if client != nil {
		client.Close()
	}
}

// start returns the client, made for the position if there is none, after a look at whether that is in range: the
// client would find out too, but not for a partition without records.
func (r *kafkaReader) start(ctx context.Context) (*kgo.Client, error) {
	r.mu.Lock()
	client, ended := r.client, r.ended
	r.mu.Unlock()
	if ended {
		return nil, ErrClosed
	}
	if client != nil {
		return client, nil
	}
	b, err := r.log.Bounds(ctx, r.topic, r.partition)
	if err != nil {
		return nil, err
	}
	if r.off < b.Start || r.off > b.End {
		return nil, &OutOfRangeError{Topic: r.topic, Partition: r.partition, Offset: r.off, Bounds: b}
	}
	client, err = kgo.NewClient(append(r.log.cfg.readerOptions(r.topic, r.partition, r.off), r.log.cfg.clientOptions()...)...)
	if err != nil {
		return nil, fmt.Errorf("create Kafka client: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		client.Close()
		return nil, ErrClosed
	}
	r.client = client
	return client, nil
}

// poll returns the next records, or an error, or both, the error being the later, or nothing when it has been idle.
func (r *kafkaReader) poll(ctx context.Context) ([]Record, error) {
	client, err := r.start(ctx)
	if err != nil {
		return nil, err
	}
	// Callers may poll with short deadlines: what counts is how long nothing has come.
	if r.idleEnd.IsZero() {
		r.idleEnd = time.Now().Add(r.idle)
	}
	wait, cancel := context.WithDeadline(ctx, r.idleEnd)
	fetches := client.PollRecords(wait, readRecords)
	timedOut := wait.Err() != nil
	cancel()

	r.recs, r.headers = r.recs[:0], r.headers[:0]
	fetches.EachRecord(func(k *kgo.Record) {
		if k.Offset < r.off {
			return
		}
		r.off = k.Offset + 1
		if k.Attrs.IsControl() {
			return
		}
		rec := Record{Partition: k.Partition, Offset: k.Offset, Time: k.Timestamp.UnixMilli(), Key: k.Key, Value: k.Value}
		if len(k.Headers) > 0 {
			first := len(r.headers)
			for _, h := range k.Headers {
				r.headers = append(r.headers, Header{Key: h.Key, Value: h.Value})
			}
			rec.Headers = r.headers[first:len(r.headers):len(r.headers)]
		}
		r.recs = append(r.recs, rec)
	})
	fetches.EachError(func(_ string, _ int32, ferr error) {
		if err == nil && !(timedOut && errors.Is(ferr, wait.Err())) {
			err = ferr
		}
	})
	if len(r.recs) == 0 && err == nil && !time.Now().Before(r.idleEnd) && ctx.Err() == nil {
		r.idle = min(2*r.idle, idleMax)
		r.idleEnd = time.Now().Add(r.idle)
		return nil, r.probe(ctx, client)
	}
	return r.recs, err
}

// probe moves the position over offsets that hold no record, up to the end: those of a compacted topic whose last
// records are gone, tombstones whose time has come. The client passes over such offsets in silence, and at the end of
// the log there is nothing that would show it. A broker says so by answering a fetch from there with nothing.
func (r *kafkaReader) probe(ctx context.Context, client *kgo.Client) error {
	end, err := r.log.listOffset(ctx, r.topic, r.partition, listEnd)
	if err != nil || end <= r.off {
		return err
	}
	t, err := r.log.topic(ctx, r.topic, topicMaxAge)
	if err != nil {
		return err
	}
	leader, _, err := client.PartitionLeader(r.topic, r.partition)
	if err != nil || leader < 0 {
		return err
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes = 1 << 20
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = r.topic, t.id
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = r.partition, r.off, 1<<20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	// Not through the reader's client: there the answer would wait behind a fetch that waits for records.
	kresp, err := r.log.client.Broker(int(leader)).Request(ctx, req)
	if err != nil {
		return err
	}
	resp := kresp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if p.Partition != r.partition {
				continue
			}
			fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
				Offset: r.off, Topic: r.topic, Partition: r.partition, KeepControlRecords: true,
			}, p, kgo.DefaultDecompressor(), nil)
			switch {
			case fp.Err != nil:
				return fp.Err
			case len(fp.Records) > 0: // there is something: the client will come to it
			case len(p.RecordBatches) == 0:
				r.off = max(r.off, p.HighWatermark)
			default: // batches that compaction has emptied
				r.off = max(r.off, next)
				r.idle = idleFirst
			}
		}
	}
	return nil
}
