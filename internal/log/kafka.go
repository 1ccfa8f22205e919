package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka is a Log in a Kafka cluster.
type Kafka struct {
	cfg      KafkaConfig
	logger   *slog.Logger
	metrics  *metrics
	client   *kgo.Client // asks
	admin    *kadm.Client
	producer atomic.Pointer[kgo.Client]
	buffered atomic.Int64 // bytes that wait for the broker

	life   sync.RWMutex // held for reading by each Append, for writing by Close
	done   chan struct{}
	closed bool // guarded by life

	mu      sync.Mutex // guards the rest
	topics  map[string]kafkaTopic
	readers map[*kafkaReader]struct{}
	renewed time.Time // when the producing client was replaced last
}

// kafkaTopic is what was last seen of a topic.
type kafkaTopic struct {
	id         kadm.TopicID
	partitions int32
	replicas   int // of the partition that has the fewest
	brokers    int // that were there
	at         time.Time
	err        error // of the broker; kerr.UnknownTopicOrPartition if there is none
}

// topicMaxAge is how long a topic is remembered before it is asked for again.
const topicMaxAge = 10 * time.Second

// NewKafka returns a log in a Kafka cluster. It connects when it is used. reg may be nil.
func NewKafka(cfg KafkaConfig, logger *slog.Logger, reg prometheus.Registerer) (*Kafka, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.SASL.Mechanism == "PLAIN" && cfg.TLS == nil {
		logger.Warn("the password for Kafka goes over the network as it is: use TLS, or SCRAM")
	}
	client, err := kgo.NewClient(cfg.clientOptions()...)
	if err != nil {
		return nil, fmt.Errorf("create Kafka client: %w", err)
	}
	producer, err := kgo.NewClient(append(cfg.producerOptions(), cfg.clientOptions()...)...)
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("create Kafka client: %w", err)
	}
	k := &Kafka{
		cfg: cfg, logger: logger, metrics: newMetrics(reg), client: client, admin: kadm.NewClient(client),
		done: make(chan struct{}), topics: map[string]kafkaTopic{}, readers: map[*kafkaReader]struct{}{},
	}
	k.producer.Store(producer)
	return k, nil
}

// renewProducer replaces a producing client that the brokers have refused to give a producer ID: it remembers that for
// ever, though the right may be given any moment. Not more often than once a second.
func (k *Kafka) renewProducer(old *kgo.Client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.producer.Load() != old || time.Since(k.renewed) < time.Second {
		return
	}
	client, err := kgo.NewClient(append(k.cfg.producerOptions(), k.cfg.clientOptions()...)...)
	if err != nil {
		k.logger.Warn("creating a Kafka client again", "err", err)
		return
	}
	k.renewed = time.Now()
	k.producer.Store(client)
	old.Close()
}

// topic returns what is known of a topic, asking the broker if that is older than maxAge.
func (k *Kafka) topic(ctx context.Context, name string, maxAge time.Duration) (kafkaTopic, error) {
	k.mu.Lock()
	t, ok := k.topics[name]
	k.mu.Unlock()
	if ok && time.Since(t.at) < maxAge {
		return t, nil
	}
	seen, err := k.describe(ctx, name)
	if err != nil {
		return kafkaTopic{}, fmt.Errorf("describe topic %s: %w", name, k.fault(err, describe(name)))
	}
	t = seen[name]
	if t.err != nil {
		return kafkaTopic{}, fmt.Errorf("describe topic %s: %w", name, k.fault(t.err, describe(name)))
	}
	k.mu.Lock()
	k.topics[name] = t
	k.mu.Unlock()
	return t, nil
}

// describe asks a broker for topics. (kadm answers from a cache, which does not know a topic that was made just now, and
// knows one that was made again under its old ID.)
func (k *Kafka) describe(ctx context.Context, names ...string) (map[string]kafkaTopic, error) {
	return describeBy(ctx, k.client, names...)
}

// describeBy asks a broker, or by the client any of them.
func describeBy(ctx context.Context, to kmsg.Requestor, names ...string) (map[string]kafkaTopic, error) {
	req := kmsg.NewPtrMetadataRequest()
	out := map[string]kafkaTopic{}
	for _, name := range names {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, rt)
		out[name] = kafkaTopic{err: kerr.UnknownTopicOrPartition}
	}
	resp, err := req.RequestWith(ctx, to)
	if err != nil {
		return nil, err
	}
	for _, t := range resp.Topics {
		if t.Topic != nil {
			seen := kafkaTopic{
				id: t.TopicID, partitions: int32(len(t.Partitions)), brokers: len(resp.Brokers), at: time.Now(),
				err: kerr.ErrorForCode(t.ErrorCode),
			}
			for i := range t.Partitions {
				if n := len(t.Partitions[i].Replicas); i == 0 || n < seen.replicas {
					seen.replicas = n
				}
			}
			out[*t.Topic] = seen
		}
	}
	return out, nil
}

// Partitions implements Log.
func (k *Kafka) Partitions(ctx context.Context, name string) (int32, error) {
	t, err := k.topic(ctx, name, 0)
	return t.partitions, err
}

// TopicID implements Log.
func (k *Kafka) TopicID(ctx context.Context, name string) (string, error) {
	t, err := k.topic(ctx, name, 0)
	if err != nil {
		return "", err
	}
	return t.id.String(), nil
}

// known returns ErrUnknownPartition unless the partition exists.
func (k *Kafka) known(ctx context.Context, name string, partition int32) error {
	t, err := k.topic(ctx, name, topicMaxAge)
	if err == nil && partition >= t.partitions {
		t, err = k.topic(ctx, name, 0) // partitions are added, never removed
	}
	if err == nil && (partition < 0 || partition >= t.partitions) {
		err = fmt.Errorf("%w: %s/%d", ErrUnknownPartition, name, partition)
	}
	return err
}

// Append implements Log. Time is set by this process' clock; what a Reader returns has the broker's.
func (k *Kafka) Append(ctx context.Context, name string, recs []Record) error {
	k.life.RLock()
	defer k.life.RUnlock()
	if k.closed {
		return ErrClosed
	}
	last := int32(-1) // the highest partition so far
	size, err := checkRecords(name, recs, func(p int32) error {
		if p >= 0 && p <= last {
			return nil
		}
		last = p
		return k.known(ctx, name, p)
	})
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil { // or the records would be sent while the caller is told that they are not
		return err
	}
	if len(recs) == 0 {
		return k.known(ctx, name, 0)
	}
	if now := k.buffered.Add(size); now > k.cfg.MaxBufferedBytes && now > size {
		k.buffered.Add(-size)
		k.metrics.overloads.Inc()
		return fmt.Errorf("%w: %d bytes are waiting for Kafka", ErrOverloaded, now-size)
	}
	k.metrics.queued.Set(float64(k.buffered.Load()))
	begin := time.Now()
	producer := k.producer.Load()
	err = k.heardOf(ctx, producer, name, last)
	if err == nil {
		err = k.produce(ctx, producer, name, recs, size)
	} else {
		k.metrics.queued.Set(float64(k.buffered.Add(-size)))
	}
	if err != nil {
		k.metrics.appendErrors.WithLabelValues(name).Inc()
		if errors.Is(err, kgo.ErrClientClosed) { // we are open: it was replaced under us, for this reason
			err = kerr.ClusterAuthorizationFailed
		}
		if errors.Is(err, kerr.ClusterAuthorizationFailed) {
			k.renewProducer(producer)
		}
		if errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.UnknownTopicOrPartition) {
			// The topic may have been created anew under its name: the client would ask for the old one for ever.
			producer.PurgeTopicsFromProducing(name)
			k.mu.Lock()
			delete(k.topics, name)
			k.mu.Unlock()
		}
		return fmt.Errorf("produce to %s: %w", name, k.fault(err, right{"Write", "topic", name}))
	}
	k.metrics.appendSeconds.Observe(time.Since(begin).Seconds())
	k.metrics.appendRecords.WithLabelValues(name).Add(float64(len(recs)))
	k.metrics.appendBytes.WithLabelValues(name).Add(float64(size))
	return nil
}

// heardOf waits until the client that produces knows a partition that was added not long ago: it looks for new ones once a
// minute, and refuses what is for others.
func (k *Kafka) heardOf(ctx context.Context, producer *kgo.Client, name string, partition int32) error {
	if first, _, _ := producer.PartitionLeader(name, 0); first < 0 {
		return nil // it knows nothing of the topic yet, and will ask
	}
	for begin := time.Now(); ; {
		if leader, _, err := producer.PartitionLeader(name, partition); leader >= 0 || err != nil {
			return nil
		}
		if time.Since(begin) > k.cfg.DeliveryTimeout {
			return kerr.RequestTimedOut
		}
		producer.ForceMetadataRefresh()
		select {
		case <-time.After(retryFirst):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// produce hands copies of the records to the client and waits for all of them. The client keeps what it has got until it
// knows its fate, so nothing of the caller's may be in it, nor the caller's context: a cancelled record would take its
// neighbours in the batch with it.
func (k *Kafka) produce(ctx context.Context, producer *kgo.Client, name string, recs []Record, size int64) error {
	out := make([]kgo.Record, len(recs))
	var left atomic.Int64
	left.Store(int64(len(recs)))
	all := make(chan struct{})
	var first error
	var once sync.Once
	promise := func(_ *kgo.Record, err error) {
		if err != nil {
			once.Do(func() { first = err })
		}
		if left.Add(-1) == 0 {
			k.metrics.queued.Set(float64(k.buffered.Add(-size)))
			close(all)
		}
	}
	for i := range recs {
		r := &recs[i]
		out[i] = kgo.Record{Topic: name, Partition: r.Partition, Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value)}
		for _, h := range r.Headers {
			out[i].Headers = append(out[i].Headers, kgo.RecordHeader{Key: h.Key, Value: bytes.Clone(h.Value)})
		}
		producer.Produce(context.WithoutCancel(ctx), &out[i], promise)
	}
	// The client looks at its delivery time-out between requests only; one that hangs would make ours later.
	timeout := time.NewTimer(k.cfg.DeliveryTimeout + 2*time.Second)
	defer timeout.Stop()
	select {
	case <-all:
	case <-ctx.Done():
		return ctx.Err()
	case <-timeout.C:
		return kerr.RequestTimedOut
	}
	if first != nil {
		return first
	}
	for i := range recs {
		recs[i].Offset, recs[i].Time = out[i].Offset, out[i].Timestamp.UnixMilli()
	}
	return nil
}

// Kafka's special timestamps of ListOffsets.
const (
	listStart = -2
	listEnd   = -1
)

// listOffset asks the leader of one partition, and no other broker, for an offset.
func (k *Kafka) listOffset(ctx context.Context, name string, partition int32, timestamp int64) (int64, error) {
	if err := k.known(ctx, name, partition); err != nil {
		return 0, err
	}
	offsets, err := k.listOffsets(ctx, name, timestamp, partition)
	if err != nil {
		return 0, err
	}
	return offsets[0], nil
}

// listOffsets asks for an offset of each of the partitions. While a leader is new it may not know yet, and one that has
// just come up may not even know that it leads: they are asked again.
func (k *Kafka) listOffsets(ctx context.Context, name string, timestamp int64, partitions ...int32) (offsets []int64, err error) {
	err = k.patiently(ctx, func() (err error) {
		offsets, err = k.askOffsets(ctx, name, timestamp, partitions...)
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			if t, terr := k.topic(ctx, name, 0); terr == nil && slices.Max(partitions) < t.partitions {
				err = fmt.Errorf("list offsets of %s: %w", name, kerr.LeaderNotAvailable)
			}
		}
		return err
	})
	return offsets, err
}

// askOffsets is one request to every broker that leads some of the partitions.
func (k *Kafka) askOffsets(ctx context.Context, name string, timestamp int64, partitions ...int32) ([]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = name
	for _, p := range partitions {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = p, timestamp
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, k.client)
	if err != nil {
		return nil, fmt.Errorf("list offsets of %s: %w", name, k.fault(err, describe(name)))
	}
	found := map[int32]int64{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if t.Topic != name {
				continue
			}
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("list offsets of %s/%d: %w", name, p.Partition, k.fault(err, describe(name)))
			}
			found[p.Partition] = p.Offset
		}
	}
	out := make([]int64, len(partitions))
	for i, p := range partitions {
		var ok bool
		if out[i], ok = found[p]; !ok {
			return nil, fmt.Errorf("list offsets of %s/%d: not in the answer", name, p)
		}
	}
	return out, nil
}

// Ends implements Log.
func (k *Kafka) Ends(ctx context.Context, name string) ([]int64, error) {
	n, err := k.Partitions(ctx, name)
	if err != nil {
		return nil, err
	}
	partitions := make([]int32, n)
	for p := range partitions {
		partitions[p] = int32(p)
	}
	return k.listOffsets(ctx, name, listEnd, partitions...)
}

// Bounds implements Log.
func (k *Kafka) Bounds(ctx context.Context, name string, partition int32) (b Bounds, err error) {
	if b.Start, err = k.listOffset(ctx, name, partition, listStart); err != nil {
		return Bounds{}, err
	}
	b.End, err = k.listOffset(ctx, name, partition, listEnd)
	return b, err
}

// OffsetAt implements Log.
func (k *Kafka) OffsetAt(ctx context.Context, name string, partition int32, t time.Time) (int64, error) {
	off, err := k.listOffset(ctx, name, partition, max(t.UnixMilli(), 0))
	if err == nil && off < 0 {
		return k.listOffset(ctx, name, partition, listEnd)
	}
	return off, err
}

// patiently asks again while the brokers say that it may yet come right, up to the delivery time-out. The client does that
// for most requests, but not where a group's coordinator has yet to be: the first group of a cluster makes the brokers
// create the topic that they keep groups in, which takes a moment.
func (k *Kafka) patiently(ctx context.Context, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.DeliveryTimeout)
	defer cancel()
	for {
		err := ask()
		if !kerr.IsRetriable(err) || errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(retryFirst):
		}
	}
}

// Commit implements Log: a commit of the consumer group of that name, which has no members.
func (k *Kafka) Commit(ctx context.Context, group, name string, partition int32, offset int64) error {
	if err := k.known(ctx, name, partition); err != nil {
		return err
	}
	os := kadm.Offsets{}
	os.AddOffset(name, partition, offset, -1)
	err := k.patiently(ctx, func() error { return k.admin.CommitAllOffsets(ctx, group, os) })
	if err != nil {
		return fmt.Errorf("commit %s/%d: %w", name, partition, k.fault(err, read(name), right{"Read", "group", group}))
	}
	return nil
}

// Committed implements Log.
func (k *Kafka) Committed(ctx context.Context, group, name string) (map[int32]int64, error) {
	if err := k.known(ctx, name, 0); err != nil {
		return nil, err
	}
	needs := []right{describe(name), {"Describe", "group", group}}
	var all kadm.OffsetResponses
	err := k.patiently(ctx, func() (err error) {
		all, err = k.admin.FetchOffsets(ctx, group)
		return err
	})
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("fetch offsets of group %s: %w", group, k.fault(err, needs...))
	}
	out := map[int32]int64{}
	for p, o := range all[name] {
		if o.Err != nil {
			return nil, fmt.Errorf("fetch offset of group %s for %s/%d: %w", group, name, p, k.fault(o.Err, needs...))
		}
		if o.At >= 0 {
			out[p] = o.At
		}
	}
	return out, nil
}

// Trim implements Log. Kafka keeps nothing before the offset, so it is cut to the log's bounds: beyond them is an error
// there. A compacted topic is not trimmed.
func (k *Kafka) Trim(ctx context.Context, name string, partition int32, before int64) error {
	b, err := k.Bounds(ctx, name, partition)
	if err != nil {
		return err
	}
	if before = min(before, b.End); before <= b.Start || name == TopicBlocks || name == TopicControl {
		return nil
	}
	os := kadm.Offsets{}
	os.AddOffset(name, partition, before, -1)
	err = k.patiently(ctx, func() error {
		resp, err := k.admin.DeleteRecords(ctx, os)
		if err == nil {
			err = resp.Error()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("trim %s/%d: %w", name, partition, k.fault(err, right{"Delete", "topic", name}))
	}
	return nil
}

// Run implements Log: the brokers do the housekeeping.
func (k *Kafka) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-k.done:
	}
	return nil
}

// Close implements Log. It waits for the records that are buffered, up to the delivery time-out.
func (k *Kafka) Close() error {
	k.life.Lock()
	defer k.life.Unlock()
	if k.closed {
		return nil
	}
	k.closed = true
	ctx, cancel := context.WithTimeout(context.Background(), k.cfg.DeliveryTimeout)
	defer cancel()
	err := k.producer.Load().Flush(ctx)
	close(k.done)
	k.mu.Lock()
	readers := k.readers
	k.readers = nil
	k.mu.Unlock()
	for r := range readers {
		r.shut()
	}
	k.producer.Load().Close()
	k.client.Close()
	if err != nil {
		return fmt.Errorf("flush to Kafka: %w", err)
	}
	return nil
}

var _ Log = (*Kafka)(nil)
