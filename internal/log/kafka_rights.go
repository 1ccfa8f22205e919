package log

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The rights that the stages need where Kafka's authorizer denies by default; docs/kafka.md has the commands. A group is
// named by its prefix: schema.ConsumerGroup commits, schema.MemberGroup shares out partitions.
//
//	every stage   Describe, DescribeConfigs on the four topics; Create on those that are missing;
//	              Read on sluice.blocks and sluice.control
//	producer      Write on sluice.samples, and on sluice.control, which it does without but for HA pairs; Describe on the group that commits
//	consumer      Read on sluice.samples; Write on sluice.blocks, sluice.control and sluice.dead-letter; Read on both groups
//	compactor     Write on sluice.blocks and sluice.control
//	reader        Write on sluice.control
//
// Who writes its own metrics (--self-monitoring.tenant) needs Write on sluice.samples.
//
// Idempotent producing needs no right of its own: Write on any topic implies it.

// right is what somebody may do with something.
type right struct {
	operation string // Read, Write, Create, Delete, Describe, DescribeConfigs, as kafka-acls.sh has it
	kind      string // topic, group
	name      string
}

func describe(topic string) right { return right{"Describe", "topic", topic} }
func read(topic string) right     { return right{"Read", "topic", topic} }

// fault turns an error of the brokers or the client into ours where a caller decides by it, and into words that say what
// to do where a person must. needs are the rights that the request takes.
func (k *Kafka) fault(err error, needs ...right) error {
	var authority x509.UnknownAuthorityError
	denied := func(kind string) error {
		for _, r := range needs {
			if r.kind == kind {
				who := k.cfg.principal()
				return fmt.Errorf("%s lacks the right %s on %s %s. Fix: kafka-acls.sh --bootstrap-server %s --add --allow-principal %q --operation %s --%s %s: %w",
					who, r.operation, kind, r.name, k.cfg.Brokers[0], who, r.operation, kind, r.name, err)
			}
		}
		return err
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return fmt.Errorf("%w: %w", ErrUnknownPartition, err)
	case errors.Is(err, kgo.ErrClientClosed):
		return fmt.Errorf("%w: %w", ErrClosed, err)
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return denied("topic")
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		return denied("group")
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return fmt.Errorf("the brokers do not accept user %q with %s: the name or the password is wrong, or the user is not known for this mechanism: %w",
			k.cfg.SASL.Username, k.cfg.SASL.Mechanism, err)
	case errors.Is(err, kerr.UnsupportedSaslMechanism):
		return fmt.Errorf("the brokers do not offer the SASL mechanism %s: %w", k.cfg.SASL.Mechanism, err)
	case errors.As(err, &authority):
		return fmt.Errorf("the brokers' certificate is of an authority that is not trusted here, name its certificate as tls.ca_file: %w", err)
	}
	return err
}

// refused reports whether an error says that a right is missing.
func refused(err error) bool {
	return errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.GroupAuthorizationFailed) ||
		errors.Is(err, kerr.ClusterAuthorizationFailed)
}
