package kafkatest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

var users = []struct{ name, password string }{{AdminUser, AdminPassword}, {SluiceUser, SluicePassword}}

// Both of log4j's generations: Kafka 3.9 has the first, Kafka 4 the second.
const log4j = `log4j.rootLogger=WARN, o
log4j.appender.o=org.apache.log4j.ConsoleAppender
log4j.appender.o.layout=org.apache.log4j.PatternLayout
log4j.appender.o.layout.ConversionPattern=[%d] %p %m (%c)%n
`

const log4j2 = `rootLogger.level=WARN
rootLogger.appenderRefs=o
rootLogger.appenderRef.o.ref=o
appender.o.type=Console
appender.o.name=o
appender.o.layout.type=PatternLayout
appender.o.layout.pattern=[%d] %p %m (%c)%n
`

// write writes what the node is started with.
func (n *node) write(c *Cluster) error {
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	if c.ca != nil {
		if err := c.ca.issue(filepath.Join(n.dir, "broker.pem"), "broker"); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"log4j.properties": log4j, "log4j2.properties": log4j2, "server.properties": string(propertiesFile(n.properties(c))),
	} {
		if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) properties(c *Cluster) map[string]string {
	nodes := len(c.nodes)
	session := "3000"
	if nodes == 1 { // there is nobody to take over
		session = "1000"
	}
	voters := make([]string, nodes)
	for i, other := range c.nodes {
		voters[i] = fmt.Sprintf("%d@127.0.0.1:%d", i+1, other.controller)
	}
	listeners := fmt.Sprintf("CLIENT://127.0.0.1:%d,INTERNAL://127.0.0.1:%d", n.client, n.internal)
	p := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        strconv.Itoa(n.index + 1),
		"broker.rack":                    fmt.Sprintf("rack-%d", n.index),
		"replica.selector.class":         "org.apache.kafka.common.replica.RackAwareReplicaSelector",
		"controller.quorum.voters":       strings.Join(voters, ","),
		"listeners":                      listeners + fmt.Sprintf(",CONTROLLER://127.0.0.1:%d", n.controller),
		"advertised.listeners":           listeners,
		"controller.listener.names":      "CONTROLLER",
		"inter.broker.listener.name":     "INTERNAL",
		"listener.security.protocol.map": "CLIENT:" + c.protocol() + ",INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs":                       filepath.Join(n.dir, "data"),
		"auto.create.topics.enable":      "false",

		// Everything is replicated to all nodes, and three survive the loss of one.
		"default.replication.factor":                       strconv.Itoa(nodes),
		"min.insync.replicas":                              strconv.Itoa(nodes/2 + 1),
		"offsets.topic.replication.factor":                 strconv.Itoa(nodes),
		"transaction.state.log.replication.factor":         strconv.Itoa(nodes),
		"transaction.state.log.min.isr":                    strconv.Itoa(nodes/2 + 1),
		"share.coordinator.state.topic.replication.factor": strconv.Itoa(nodes),
		"share.coordinator.state.topic.min.isr":            strconv.Itoa(nodes/2 + 1),

		// A dead broker is found out in seconds, and groups may be as impatient as a test is. A broker that was killed can't
		// come back before its session has ended.
		"broker.session.timeout.ms":               session,
		"broker.heartbeat.interval.ms":            "250",
		"replica.lag.time.max.ms":                 "4000",
		"group.initial.rebalance.delay.ms":        "0",
		"group.min.session.timeout.ms":            "1000",
		"controller.quorum.election.timeout.ms":   "1000",
		"controller.quorum.fetch.timeout.ms":      "2000",
		"controlled.shutdown.enable":              "false",
		"log.initial.task.delay.ms":               "500",
		"log.cleaner.backoff.ms":                  "200",
		"leader.imbalance.check.interval.seconds": "5",

		// Small: two cores are shared with all that is under test.
		"num.network.threads":                  "2",
		"num.io.threads":                       "2",
		"background.threads":                   "2",
		"offsets.topic.num.partitions":         "4",
		"log.cleaner.dedupe.buffer.size":       "4194304",
		"log.segment.bytes":                    "16777216",
		"log.index.size.max.bytes":             "1048576",
		"offsets.topic.segment.bytes":          "4194304",
		"transaction.state.log.num.partitions": "1",
	}
	if c.cfg.TLS {
		maps.Copy(p, map[string]string{
			"listener.name.client.ssl.keystore.type":       "PEM",
			"listener.name.client.ssl.keystore.location":   filepath.Join(n.dir, "broker.pem"),
			"listener.name.client.ssl.truststore.type":     "PEM",
			"listener.name.client.ssl.truststore.location": c.ca.file,
			"listener.name.client.ssl.client.auth":         "requested",
		})
	}
	if c.cfg.SASL {
		var plainUsers strings.Builder
		for _, u := range users {
			fmt.Fprintf(&plainUsers, " user_%s=%q", u.name, u.password)
		}
		const pkg = "org.apache.kafka.common.security."
		maps.Copy(p, map[string]string{
			"sasl.enabled.mechanisms":                             "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
			"listener.name.client.plain.sasl.jaas.config":         pkg + "plain.PlainLoginModule required" + plainUsers.String() + ";",
			"listener.name.client.scram-sha-256.sasl.jaas.config": pkg + "scram.ScramLoginModule required;",
			"listener.name.client.scram-sha-512.sasl.jaas.config": pkg + "scram.ScramLoginModule required;",
		})
	}
	if c.cfg.ACL {
		p["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
		// The brokers come without a name on their own listeners; clients never do.
		p["super.users"] = "User:" + AdminUser + ";User:ANONYMOUS"
	}
	maps.Copy(p, c.cfg.Properties)
	return p
}

// protocol is Kafka's name for how clients connect.
func (c *Cluster) protocol() string {
	switch {
	case c.cfg.TLS && c.cfg.SASL:
		return "SASL_SSL"
	case c.cfg.TLS:
		return "SSL"
	case c.cfg.SASL:
		return "SASL_PLAINTEXT"
	}
	return "PLAINTEXT"
}
