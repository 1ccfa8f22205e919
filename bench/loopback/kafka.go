package loopback

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// findJars returns the folder that holds Kafka's jars: dir itself, or the newest version's in it.
func findJars(dir string) (string, error) {
	for _, sub := range []string{"", "4", "3.9"} {
		if found, err := filepath.Glob(filepath.Join(dir, sub, "kafka-clients-*.jar")); err == nil && len(found) > 0 {
			return filepath.Join(dir, sub), nil
		}
	}
	return "", fmt.Errorf("loopback: no Kafka jars in %q: run `make tools`, which fetches them, or name brokers that run already", dir)
}

// properties are server.properties of a broker that is its own controller.
func (c *Config) properties() string {
	return fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%[2]s
listeners=PLAINTEXT://%[1]s,CONTROLLER://%[2]s
advertised.listeners=PLAINTEXT://%[1]s
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=%[3]s
num.network.threads=2
num.io.threads=4
default.replication.factor=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
`, c.addr(kafkaPorts), c.addr(kafkaPorts+1), filepath.ToSlash(c.path("kafka", "data")))
}

func (c *Config) java(args ...string) []string {
	return append([]string{
		"-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-Djava.net.preferIPv4Stack=true", "-Dlog4j2.level=WARN", "-cp", filepath.Join(c.Jars, "*"),
	}, args...)
}

func (c *Config) kafka() Program {
	return Program{Name: "kafka", Path: c.Java, Addr: c.addr(kafkaPorts), Args: c.java("kafka.Kafka", c.path("kafka", "server.properties"))}
}

// formatKafka writes the broker's configuration and, the first time, makes its disk ready.
func (c *Config) formatKafka(ctx context.Context) error {
	if err := os.MkdirAll(c.path("kafka"), 0o755); err != nil {
		return fmt.Errorf("create Kafka's folder: %w", err)
	}
	if err := os.WriteFile(c.path("kafka", "server.properties"), []byte(c.properties()), 0o644); err != nil {
		return fmt.Errorf("write Kafka's configuration: %w", err)
	}
	if _, err := os.Stat(c.path("kafka", "data", "meta.properties")); err == nil {
		return nil
	}
	var id [16]byte
	rand.Read(id[:])
	args := c.java("kafka.tools.StorageTool", "format", "-t", base64.RawURLEncoding.EncodeToString(id[:]), "-c", c.path("kafka", "server.properties"))
	if out, err := exec.CommandContext(ctx, c.Java, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("format Kafka's disk: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// waitKafka waits until the brokers serve. Sluice itself asks them, and so makes its topics before all stages want to at once.
func (c *Config) waitKafka(ctx context.Context) error {
	for {
		out, err := exec.CommandContext(ctx, c.Sluice, "log", "status", "--kafka.brokers", c.brokers(),
			"--log.partitions", fmt.Sprint(c.Partitions), "--log.level", "error", "--data-dir", c.Dir).CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for Kafka at %s: %w\n%s", c.brokers(), err, bytes.TrimSpace(out)), context.Cause(ctx))
		case <-time.After(500 * time.Millisecond):
		}
	}
}
