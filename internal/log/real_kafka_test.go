package log_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/internal/kafkatest"
	"sluice/internal/log"
)

// load writes a settings file and reads it.
func load(t *testing.T, yaml string) (log.KafkaConfig, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kafka.yml")
	require.NoError(t, os.WriteFile(file, []byte(yaml), 0o600))
	return log.LoadKafka(file)
}

// connect opens a log by a settings file and does something with it.
func connect(t *testing.T, yaml string) error {
	t.Helper()
	cfg, err := load(t, yaml)
	require.NoError(t, err)
	l, err := log.NewKafka(cfg, quiet(), nil)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.EnsureTopics(t.Context()); err != nil {
		return err
	}
	return l.Append(t.Context(), log.TopicSamples, []log.Record{{Value: []byte("x")}})
}

func TestLoadKafka(t *testing.T) {
	cfg, err := load(t, `
brokers: [a:9092, b:9092]
client_rack: eu-1a
tls: {server_name: kafka}
sasl: {mechanism: PLAIN, username: u, password: p}
replication_factor: 3
compression: zstd
delivery_timeout: 7s
max_buffered_bytes: 1000000
`)
	require.NoError(t, err)
	require.NoError(t, cfg.Validate())
	require.Equal(t, []string{"a:9092", "b:9092"}, cfg.Brokers)
	require.Equal(t, 7*time.Second, cfg.DeliveryTimeout)
	require.Equal(t, int16(3), cfg.ReplicationFactor)
	require.NotContains(t, fmt.Sprintf("%v", cfg), `"p"`)
	_, err = load(t, "")
	require.NoError(t, err)
	for _, bad := range []string{"broker: [a]", "tls: {ca: x, cafile: y}", "sasl: {user: x}", "brokers: a", "brokers: [a]\n---\nbrokers: [b]"} {
		_, err := load(t, bad)
		require.Error(t, err, bad)
	}
}

// TestRealSecurity: TLS, each SASL mechanism, and errors that say what is wrong.
func TestRealSecurity(t *testing.T) {
	t.Parallel()
	cluster := realKafka(t, kafkatest.Config{TLS: true, SASL: true})
	const dead = "127.0.0.1:1" // a seed broker that does not answer
	settings := func(ca, mechanism, user, password string) string {
		return fmt.Sprintf("brokers: [%q, %q]\ntls: {%s}\nsasl: {mechanism: %s, username: %s, %s}\n", dead, cluster.Brokers()[0], ca, mechanism, user, password)
	}
	ca := fmt.Sprintf("ca_file: %q", cluster.CAFile())
	right := "password: " + kafkatest.SluicePassword
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		require.NoError(t, connect(t, settings(ca, mechanism, kafkatest.SluiceUser, right)), mechanism)
		err := connect(t, settings(ca, mechanism, kafkatest.SluiceUser, "password: wrong"))
		require.ErrorContains(t, err, `the brokers do not accept user "sluice" with `+mechanism)
		require.NotContains(t, err.Error(), "wrong\"")
	}
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte(kafkatest.SluicePassword+"\n"), 0o600))
	require.NoError(t, connect(t, settings(ca, "PLAIN", kafkatest.SluiceUser, fmt.Sprintf("password_file: %q", file))))
	require.NoError(t, connect(t, settings("insecure_skip_verify: true", "PLAIN", kafkatest.SluiceUser, right)))
	require.ErrorContains(t, connect(t, settings("", "PLAIN", kafkatest.SluiceUser, right)), "tls.ca_file")
}

// TestRealRights takes every right from a user and gives back what the errors ask for, and nothing else, until all that a
// stage does works.
func TestRealRights(t *testing.T) {
	t.Parallel()
	cluster := realKafka(t, kafkatest.Config{SASL: true, ACL: true})
	admin := cluster.Admin(t)
	cfg, err := load(t, fmt.Sprintf("brokers: [%q]\nsasl: {mechanism: SCRAM-SHA-256, username: %s, password: %s}", cluster.Brokers()[0], kafkatest.SluiceUser, kafkatest.SluicePassword))
	require.NoError(t, err)
	l, err := log.NewKafka(cfg, quiet(), nil)
	require.NoError(t, err)
	defer l.Close()
	m := log.Membership{Group: "members", Instance: "a", SessionTimeout: patient}
	var given []string
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"topics", func(ctx context.Context) error { return l.EnsureTopics(ctx) }},
		{"append", func(ctx context.Context) error {
			return l.Append(ctx, log.TopicSamples, []log.Record{{Value: []byte("x")}})
		}},
		{"read", func(ctx context.Context) error {
			r, err := l.Reader(log.TopicSamples, 0, 0)
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = r.Next(ctx)
			return err
		}},
		{"committed", func(ctx context.Context) error {
			_, err := l.Committed(ctx, "commits", log.TopicSamples)
			return err
		}},
		{"commit", func(ctx context.Context) error { return l.Commit(ctx, "commits", log.TopicSamples, 0, 1) }},
		{"join", func(ctx context.Context) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			err := l.Join(ctx, m, log.TopicSamples, func([]int32) { cancel() })
			if ctx.Err() != nil && strings.Contains(err.Error(), context.Canceled.Error()) {
				return nil
			}
			return err
		}},
		{"leave", func(ctx context.Context) error { return l.Leave(ctx, m) }},
		{"trim", func(ctx context.Context) error { return l.Trim(ctx, log.TopicSamples, 0, 1) }},
	} {
		eventually(t, 2*time.Minute, step.name, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			err := step.do(ctx)
			if err == nil {
				return nil
			}
			for line := range strings.SplitSeq(err.Error(), "\n") { // several topics, several lines
				given = append(given, grant(t, admin, line))
			}
			return err
		})
	}
	slices.Sort(given)
	given = slices.Compact(given)
	t.Logf("rights asked for:\n%s", strings.Join(given, "\n"))
	var want []string
	for _, topic := range []string{log.TopicSamples, log.TopicBlocks, log.TopicControl, log.TopicDeadLetter} {
		want = append(want, "Describe topic "+topic, "DescribeConfigs topic "+topic, "Create topic "+topic)
	}
	for _, w := range []string{"Read", "Write", "Delete"} {
		want = append(want, w+" topic "+log.TopicSamples)
	}
	want = append(want, "Describe group commits", "Read group commits", "Read group members")
	require.ElementsMatch(t, want, given)
}

// grant does what the command in an error would.
func grant(t *testing.T, admin *kadm.Client, message string) string {
	t.Helper()
	_, command, ok := strings.Cut(message, "Fix: kafka-acls.sh ")
	require.True(t, ok, message)
	command, _, _ = strings.Cut(command, ": ")
	var server, principal, operation, kind, name string
	for i, f := range strings.Fields(command) {
		switch {
		case i == 1:
			server = f
		case i == 4:
			principal = strings.Trim(f, `"`)
		case i == 6:
			operation = f
		case i == 7:
			kind = strings.TrimPrefix(f, "--")
		case i == 8:
			name = f
		}
	}
	require.Contains(t, server, ":")
	op, err := kmsg.ParseACLOperation(operation)
	require.NoError(t, err, command)
	acl := kadm.NewACLs().Allow(principal).ResourcePatternType(kadm.ACLPatternLiteral).Operations(op)
	switch kind {
	case "topic":
		acl = acl.Topics(name)
	case "group":
		acl = acl.Groups(name)
	default:
		t.Fatalf("cannot do %q", command)
	}
	_, err = admin.CreateACLs(t.Context(), acl.AllowHosts())
	require.NoError(t, err, command)
	return operation + " " + kind + " " + name
}
