package log

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// wantedTopic is what a topic must be like.
type wantedTopic struct {
	name       string
	partitions int32 // to create it with
	exact      bool  // it must have just that many
	compact    bool
}

func (k *Kafka) wantedTopics() []wantedTopic {
	return []wantedTopic{
		{name: TopicSamples, partitions: k.cfg.Partitions},
		{name: TopicBlocks, partitions: 1, exact: true, compact: true},
		{name: TopicControl, partitions: 1, exact: true, compact: true},
		{name: TopicDeadLetter, partitions: 1},
	}
}

// settings are those that a topic with so many replicas is created with.
func (k *Kafka) settings(w wantedTopic, replicas int16) map[string]*string {
	s := map[string]*string{
		// The log's time, not a sender's, decides where generations end and what is old.
		"message.timestamp.type": kadm.StringPtr("LogAppendTime"),
	}
	if w.compact {
		s["cleanup.policy"] = kadm.StringPtr("compact")
	} else {
		s["cleanup.policy"] = kadm.StringPtr("delete")
		s["retention.ms"] = kadm.StringPtr(strconv.FormatInt(k.cfg.Retention.Milliseconds(), 10))
		s["retention.bytes"] = kadm.StringPtr("-1")
	}
	if replicas > 1 {
		s["unclean.leader.election.enable"] = kadm.StringPtr("false")
	}
	if replicas >= 3 {
		s["min.insync.replicas"] = kadm.StringPtr("2") // or acks=all may mean one
	}
	return s
}

// EnsureTopics creates the topics that are missing, and checks those that exist: one whose settings would break a
// promise is refused, in words that hold the command which mends it. It changes no topic that exists.
func (k *Kafka) EnsureTopics(ctx context.Context) error {
	wanted := k.wantedTopics()
	names := make([]string, len(wanted))
	for i, w := range wanted {
		names[i] = w.name
	}
	existing, err := k.describe(ctx, names...)
	if err != nil {
		return fmt.Errorf("list topics: %w", k.fault(err))
	}
	for _, w := range wanted {
		switch err := existing[w.name].err; {
		case err == nil:
			continue
		case !errors.Is(err, kerr.UnknownTopicOrPartition):
			return fmt.Errorf("describe topic %s: %w", w.name, k.fault(err, describe(w.name)))
		}
		if err := k.create(ctx, w); err != nil {
			return fmt.Errorf("create topic %s: %w", w.name, k.fault(err, right{"Create", "topic", w.name}))
		}
	}
	if existing, err = k.visible(ctx, names); err != nil {
		return err
	}
	var errs []error
	for _, w := range wanted { // one by one: a missing right is an error of the whole answer
		configs, err := k.admin.DescribeTopicConfigs(ctx, w.name)
		var c kadm.ResourceConfig
		if err == nil {
			if c, err = configs.On(w.name, nil); err == nil {
				err = c.Err
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("describe topic %s: %w", w.name, k.fault(err, right{"DescribeConfigs", "topic", w.name})))
			continue
		}
		values := map[string]string{}
		for i := range c.Configs {
			values[c.Configs[i].Key] = c.Configs[i].MaybeValue()
		}
		errs = append(errs, k.checkTopic(w, existing[w.name], values))
	}
	return errors.Join(errs...)
}

// create creates a topic. How many replicas it gets is asked first where that is left to the brokers: what else is set
// depends on it.
func (k *Kafka) create(ctx context.Context, w wantedTopic) error {
	replicas := k.cfg.ReplicationFactor
	if replicas == brokersDefault {
		would, err := k.admin.ValidateCreateTopics(ctx, w.partitions, replicas, nil, w.name)
		if err != nil {
			return err
		}
		replicas = would[w.name].ReplicationFactor // 0 if it is not told, then it is checked afterwards
	}
	_, err := k.admin.CreateTopic(ctx, w.partitions, k.cfg.ReplicationFactor, k.settings(w, replicas), w.name)
	if errors.Is(err, kerr.TopicAlreadyExists) { // another process was faster
		return nil
	}
	if err == nil {
		k.logger.Info("created a topic", "topic", w.name, "partitions", w.partitions, "replicas", replicas)
	}
	return err
}

// visible waits until the brokers tell of every topic: one that was just made is not known everywhere at once.
func (k *Kafka) visible(ctx context.Context, names []string) (map[string]kafkaTopic, error) {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.DeliveryTimeout)
	defer cancel()
	for {
		seen, err := k.describe(ctx, names...)
		if err != nil {
			return nil, fmt.Errorf("list topics: %w", err)
		}
		var missing error
		for name, t := range seen {
			if t.err != nil {
				missing = fmt.Errorf("describe topic %s: %w", name, t.err)
			} else if t.partitions == 0 {
				missing = fmt.Errorf("describe topic %s: no partitions yet", name)
			}
		}
		if missing == nil {
			missing = k.everywhere(ctx, names)
		}
		if missing == nil {
			return seen, nil
		}
		select {
		case <-ctx.Done():
			return nil, missing
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// everywhere fails while a broker that answers does not know all topics: the next question may go to that one.
func (k *Kafka) everywhere(ctx context.Context, names []string) error {
	for _, b := range k.client.DiscoveredBrokers() {
		seen, err := describeBy(ctx, b, names...)
		if err != nil {
			k.logger.Debug("a broker does not tell its topics", "err", err) // it is away; when it is back it will know them
			continue
		}
		for name, t := range seen {
			if t.err != nil {
				return fmt.Errorf("describe topic %s: %w", name, t.err)
			}
		}
	}
	return nil
}

// checkTopic refuses a topic that would break a promise. A setting that the broker does not tell is taken for good.
func (k *Kafka) checkTopic(w wantedTopic, t kafkaTopic, values map[string]string) error {
	var fixes, wrong []string
	must := func(ok bool, key, want, why string) {
		if v, told := values[key]; told && !ok {
			fixes = append(fixes, key+"="+want)
			wrong = append(wrong, fmt.Sprintf("%s is %s, want %s: %s", key, v, want, why))
		}
	}
	policy := "delete"
	why := "records would be thrown away by key instead of by age"
	if w.compact {
		policy, why = "compact", "it must hold the latest record of each key for ever"
	}
	must(values["cleanup.policy"] == policy, "cleanup.policy", policy, why)
	must(values["message.timestamp.type"] == "LogAppendTime", "message.timestamp.type", "LogAppendTime",
		"log time must be the broker's, not a sender's")
	if ms, err := strconv.ParseInt(values["max.message.bytes"], 10, 64); err == nil {
		must(ms >= 1<<20, "max.message.bytes", strconv.Itoa(1<<20), "records are up to 1 MB")
	}
	if !w.compact {
		wanted := k.cfg.Retention.Milliseconds()
		if ms, err := strconv.ParseInt(values["retention.ms"], 10, 64); err == nil {
			must(ms == -1 || ms >= wanted, "retention.ms", strconv.FormatInt(wanted, 10),
				"samples would be gone before they are in blocks when the consumers stand still for that long")
		}
		if v := values["retention.bytes"]; v != "" && v != "-1" {
			k.logger.Warn("a topic is also bounded by size: when it is reached, records go whether or not they are needed",
				"topic", w.name, "retention.bytes", v)
		}
	}
	if t.replicas > 1 {
		must(values["unclean.leader.election.enable"] != "true", "unclean.leader.election.enable", "false",
			"a replica without what was acknowledged could become the leader")
	}
	inSync, _ := strconv.Atoi(values["min.insync.replicas"])
	if t.replicas >= 3 {
		must(inSync >= 2, "min.insync.replicas", "2", "an acknowledgement could stand for one copy, and be lost with it")
	}
	k.adviseReplicas(w.name, t, inSync)
	var errs []error
	if len(fixes) > 0 {
		errs = append(errs, fmt.Errorf("topic %s: %s. Fix: kafka-configs.sh --bootstrap-server %s --alter --entity-type topics --entity-name %s --add-config %s",
			w.name, strings.Join(wrong, "; "), k.cfg.Brokers[0], w.name, strings.Join(fixes, ",")))
	}
	if w.exact && t.partitions != w.partitions {
		errs = append(errs, fmt.Errorf("topic %s has %d partitions, want %d: it must be totally ordered. Fix, if it holds nothing yet: "+
			"kafka-topics.sh --bootstrap-server %s --delete --topic %s, then start again", w.name, t.partitions, w.partitions, k.cfg.Brokers[0], w.name))
	}
	return errors.Join(errs...)
}

// adviseReplicas warns of what is no mistake but may not be meant.
func (k *Kafka) adviseReplicas(name string, t kafkaTopic, inSync int) {
	switch {
	case t.replicas == 1 && t.brokers >= 3:
		k.logger.Warn("a topic has one replica though there are brokers for three: what is acknowledged is lost with one disk",
			"topic", name, "brokers", t.brokers)
	case t.replicas == 2 && inSync < 2:
		k.logger.Warn("a topic has two replicas, and an acknowledgement may stand for one of them; with min.insync.replicas=2 it "+
			"would be both, and neither broker could be away", "topic", name)
	case t.replicas > 1 && inSync >= t.replicas:
		k.logger.Warn("a topic needs all of its replicas in sync: no broker can be away without writes being refused",
			"topic", name, "replicas", t.replicas, "min.insync.replicas", inSync)
	}
}
