package log

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"go.yaml.in/yaml/v3"
)

// KafkaConfig are the settings of a log in Kafka. Those with a YAML name may stand in the file that LoadKafka reads; the
// others belong to the process.
type KafkaConfig struct {
	// Brokers are the addresses to begin with, host:port; one that answers is enough. Required.
	Brokers []string `yaml:"brokers"`
	// ClientRack is the broker.rack nearest to this process: records are then read from a replica there, where the brokers
	// have replica.selector.class set to RackAwareReplicaSelector. Writes go to the leaders in any case.
	ClientRack string `yaml:"client_rack"`
	// TLS, if not nil, is used for every connection; an empty one trusts the system's authorities.
	TLS *promconfig.TLSConfig `yaml:"tls"`
	// SASL says how to authenticate; without a mechanism not at all.
	SASL KafkaSASL `yaml:"sasl"`
	// ReplicationFactor of the topics that EnsureTopics creates. Default: the brokers' default.replication.factor.
	ReplicationFactor int16 `yaml:"replication_factor"`
	// MaxBufferedBytes bounds the records that wait for the brokers: beyond it Append returns ErrOverloaded. Default 256 MiB.
	MaxBufferedBytes int64 `yaml:"max_buffered_bytes"`
	// Compression of produced batches: snappy (default), zstd, lz4, gzip or none.
	Compression string `yaml:"compression"`
	// DeliveryTimeout is after how long an Append that the brokers do not acknowledge fails; 2 s later if they do not
	// answer at all. Default 10 s, at least 1 s.
	DeliveryTimeout time.Duration `yaml:"delivery_timeout"`

	// Partitions of sluice.samples when EnsureTopics creates it. Default 12.
	Partitions int32 `yaml:"-"`
	// ClientID names this process in the brokers' logs and quotas. Default "sluice".
	ClientID string `yaml:"-"`
	// Retention of sluice.samples and sluice.dead-letter that EnsureTopics sets and insists on. Default 24 h.
	Retention time.Duration `yaml:"-"`
	// Options are added to those of every client; for tests.
	Options []kgo.Opt `yaml:"-"`
}

// KafkaSASL is a user and how it authenticates.
type KafkaSASL struct {
	Mechanism string `yaml:"mechanism"` // PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512
	Username  string `yaml:"username"`
	// One of these. The file is read anew for each connection, so that a password can be changed under a running process;
	// a newline at its end is not part of it.
	Password     promconfig.Secret `yaml:"password"`
	PasswordFile string            `yaml:"password_file"`
}

// LoadKafka reads settings from a YAML file; a key that it does not know is an error. They are yet to be validated.
func LoadKafka(path string) (KafkaConfig, error) {
	var c KafkaConfig
	raw, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read Kafka settings: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, fmt.Errorf("parse Kafka settings %s: %w", path, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return c, fmt.Errorf("parse Kafka settings %s: more than one document", path)
	}
	return c, nil
}

// Validate fills in defaults and refuses what cannot work.
func (c *KafkaConfig) Validate() error {
	if len(c.Brokers) == 0 {
		return errors.New("log: no Kafka brokers")
	}
	c.Partitions = cmp.Or(c.Partitions, 12)
	c.ReplicationFactor = cmp.Or(c.ReplicationFactor, brokersDefault)
	c.ClientID = cmp.Or(c.ClientID, "sluice")
	c.Retention = cmp.Or(c.Retention, 24*time.Hour)
	c.MaxBufferedBytes = cmp.Or(c.MaxBufferedBytes, 256<<20)
	c.DeliveryTimeout = cmp.Or(c.DeliveryTimeout, 10*time.Second)
	c.Compression = cmp.Or(c.Compression, "snappy")
	switch {
	case c.Partitions < 0:
		return fmt.Errorf("log: %d partitions", c.Partitions)
	case c.ReplicationFactor < brokersDefault:
		return fmt.Errorf("log: replication factor %d", c.ReplicationFactor)
	case c.MaxBufferedBytes < 0:
		return fmt.Errorf("log: buffer of %d bytes", c.MaxBufferedBytes)
	case c.DeliveryTimeout < time.Second:
		return fmt.Errorf("log: delivery time-out of %s, want at least 1s", c.DeliveryTimeout)
	}
	if _, ok := codecs[c.Compression]; !ok {
		return fmt.Errorf("log: compression %q, want snappy, zstd, lz4, gzip or none", c.Compression)
	}
	if _, err := c.tls(); err != nil {
		return err
	}
	_, err := c.sasl()
	return err
}

// brokersDefault as a replication factor leaves it to the brokers.
const brokersDefault = -1

var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "snappy": kgo.SnappyCompression(), "zstd": kgo.ZstdCompression(),
	"lz4": kgo.Lz4Compression(), "gzip": kgo.GzipCompression(),
}

// tls returns what connections are made with; nil means plain TCP. A client certificate is read anew for each of them.
func (c *KafkaConfig) tls() (*tls.Config, error) {
	if c.TLS == nil {
		return nil, nil
	}
	t, err := promconfig.NewTLSConfig(c.TLS)
	if err != nil {
		return nil, fmt.Errorf("log: Kafka TLS: %w", err)
	}
	return t, nil
}

// sasl returns how to authenticate; nil means not at all.
func (c *KafkaConfig) sasl() (sasl.Mechanism, error) {
	s := &c.SASL
	switch {
	case *s == KafkaSASL{}:
		return nil, nil
	case s.Username == "":
		return nil, errors.New("log: SASL without a user name")
	case (s.Password == "") == (s.PasswordFile == ""):
		return nil, errors.New("log: SASL wants either a password or a password file")
	}
	if _, err := s.password(); err != nil {
		return nil, err
	}
	scramAuth := func(context.Context) (scram.Auth, error) {
		password, err := s.password()
		return scram.Auth{User: s.Username, Pass: password}, err
	}
	switch s.Mechanism {
	case "PLAIN":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			password, err := s.password()
			return plain.Auth{User: s.Username, Pass: password}, err
		}), nil
	case "SCRAM-SHA-256":
		return scram.Sha256(scramAuth), nil
	case "SCRAM-SHA-512":
		return scram.Sha512(scramAuth), nil
	}
	return nil, fmt.Errorf("log: SASL mechanism %q, want PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", s.Mechanism)
}

func (s *KafkaSASL) password() (string, error) {
	if s.PasswordFile == "" {
		return string(s.Password), nil
	}
	raw, err := os.ReadFile(s.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("log: read SASL password: %w", err)
	}
	return strings.TrimRight(string(raw), "\r\n"), nil
}

// principal is who the brokers take us for, unless they map names.
func (c *KafkaConfig) principal() string {
	if c.SASL.Mechanism != "" {
		return "User:" + c.SASL.Username
	}
	if t, err := c.tls(); err == nil && t != nil && t.GetClientCertificate != nil {
		if cert, err := t.GetClientCertificate(&tls.CertificateRequestInfo{}); err == nil && len(cert.Certificate) > 0 {
			if leaf, err := x509.ParseCertificate(cert.Certificate[0]); err == nil {
				return "User:" + leaf.Subject.String()
			}
		}
	}
	return "User:ANONYMOUS"
}

// The options of franz-go's clients, each with its reason.

// clientOptions are those of every client.
func (c *KafkaConfig) clientOptions() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		// A leader that moves is found again within a quarter of a second, not five.
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.MetadataMaxAge(time.Minute),
		// A broker that is stopped, not dead, keeps its connections open: give up on it before our callers do.
		kgo.DialTimeout(5 * time.Second),
		kgo.RequestTimeoutOverhead(5 * time.Second),
		kgo.RetryTimeout(10 * time.Second),
	}
	if c.ClientRack != "" {
		opts = append(opts, kgo.Rack(c.ClientRack))
	}
	if t, _ := c.tls(); t != nil {
		opts = append(opts, kgo.DialTLSConfig(t))
	}
	if m, _ := c.sasl(); m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	return append(opts, c.Options...)
}

// producerOptions are those of the one client that produces.
func (c *KafkaConfig) producerOptions() []kgo.Opt {
	return []kgo.Opt{
		// The acknowledgement is the durability. Idempotence is franz-go's default and is left on: it keeps the order of a
		// partition and drops the duplicates of its own retries.
		kgo.RequiredAcks(kgo.AllISRAcks()),
		// Whoever appends names the partition.
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[c.Compression]),
		// Appends that come at about the same time share a batch.
		kgo.ProducerLinger(5 * time.Millisecond),
		// An Append ends in bounded time. Without the second option records in flight would be waited for without bound, to
		// be sure of their fate; our callers live with "may or may not be in the log", and retry.
		kgo.RecordDeliveryTimeout(c.DeliveryTimeout),
		kgo.AllowIdempotentProduceCancellation(),
		kgo.ProduceRequestTimeout(c.DeliveryTimeout),
		// Append bounds the bytes itself: kgo.MaxBufferedBytes makes producers wait for each other and has been seen to
		// deadlock (twmb/franz-go#777), and waiting is not what we want when the broker is slow. So no bound here.
		kgo.MaxBufferedRecords(math.MaxInt),
	}
}

// readerOptions are those of a client that reads one partition.
func (c *KafkaConfig) readerOptions(topic string, partition int32, offset int64) []kgo.Opt {
	return []kgo.Opt{
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(offset)}}),
		// Out of range is an error, and never a jump to where there is something.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		// A batch at a time, answered as soon as there is one; the next is fetched while the last is worked on.
		kgo.FetchMaxWait(5 * time.Second),
		kgo.FetchMaxBytes(8 << 20),
		kgo.FetchMaxPartitionBytes(8 << 20),
		// Kept to move the position over a transaction's markers, and to count what the brokers say.
		kgo.KeepControlRecords(),
		kgo.KeepRetryableFetchErrors(),
	}
}

// memberOptions are those of a client that is a member of a group and fetches nothing. They override clientOptions.
func (c *KafkaConfig) memberOptions(m Membership, topic string) []kgo.Opt {
	return []kgo.Opt{
		kgo.ConsumerGroup(m.Group),
		kgo.ConsumeTopics(topic),
		// A restart moves nothing, …
		kgo.InstanceID(m.Instance),
		// … and whatever happens, only what must move is interrupted.
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(m.SessionTimeout),
		// A rebalance waits for a member that is silent as long as for one that is dead.
		kgo.RebalanceTimeout(m.SessionTimeout),
		kgo.HeartbeatInterval(m.SessionTimeout / 15),
		kgo.DisableAutoCommit(),
		// How old the group leader's view of the topic may get: partitions that are added are shared out within about this.
		kgo.MetadataMaxAge(10 * time.Second),
	}
}
