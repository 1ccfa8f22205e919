package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/schema"
)

const samplesTopic = "sluice.samples"

func admin(t *testing.T, broker *kfake.Cluster) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker.ListenAddrs()...))
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

// spread pushes n series at the time of now, which land in all partitions.
func spread(t *testing.T, s *instance, metric string, n int) {
	t.Helper()
	for i := range n {
		r := s.push("team-a", series(metric, float64(i), time.Now(), "i", fmt.Sprint(i)))
		require.Less(t, r.status, 300, string(r.body))
	}
}

// asked runs count(metric) as a strong read and returns the value (empty = no series), warnings, and the error.
func asked(s *instance, metric string, partial bool) (string, []string, error) {
	form := url.Values{"query": {"count(" + metric + ")"}, "time": {seconds(time.Now())}}
	if partial {
		form.Set("partial_response", "true")
	}
	e, err := api(s.url("/prometheus"), "team-a", "/api/v1/query", form, map[string]string{strong: "strong"})
	if err != nil {
		return "", nil, err
	}
	r, err := decode(e.Data)
	for _, points := range r {
		for _, v := range points {
			return v, e.Warnings, err
		}
	}
	return "", e.Warnings, err
}

// says returns what the process has logged since the mark.
func (s *instance) says(mark int64) string {
	raw, err := os.ReadFile(filepath.Join(s.dir, s.name+".log"))
	require.NoError(s.t, err)
	return string(raw[mark:])
}

func (s *instance) mark() int64 {
	st, err := os.Stat(filepath.Join(s.dir, s.name+".log"))
	if err != nil {
		return 0
	}
	return st.Size()
}

// told demands that a loss is in the log (since the mark) and in what /ready says, with its partition and its reason.
func told(t *testing.T, s *instance, mark int64, reason string, partitions ...int) {
	t.Helper()
	_, ready := s.readyText()
	t.Logf("/ready: %s", ready)
	var errs []string
	for _, line := range strings.Split(s.says(mark), "\n") {
		if strings.Contains(line, "level=ERROR") {
			errs = append(errs, line)
		}
	}
	for _, p := range partitions {
		require.Contains(t, ready, fmt.Sprintf("partition %d lost", p))
		require.Contains(t, ready, reason)
		require.Regexp(t, fmt.Sprintf("partition=%d .*reason=%s", p, reason), strings.Join(errs, "\n"))
	}
}

func lossInstance(t *testing.T, flags []string) *instance {
	t.Helper()
	s := newInstance(t, workDir(t), "all", append(flags, "--log.partitions", "2", "--tenancy.required", "--self-monitoring.tenant", "",
		"--producer.tick-interval", "1s", "--consumer.generation", "1h", "--consumer.retain-shipped", "1s",
		"--compactor.interval", "1s", "--compactor.reconcile-interval", "3s")...)
	s.start()
	s.ready(60 * time.Second)
	return s
}

// TestLossIsLoud: what the log has lost before anybody read it is counted, announced, marked, and missed by queries.
func TestLossIsLoud(t *testing.T) {
	enabled(t)
	t.Parallel()
	t.Run("records deleted before they were read", deletedRecords)
	t.Run("topic created again while stopped", func(t *testing.T) { recreatedTopic(t, "stopped") })
	t.Run("topic created again while running", func(t *testing.T) { recreatedTopic(t, "running") })
	t.Run("topic created again and filled while asleep", func(t *testing.T) { recreatedTopic(t, "asleep") })
}

func deletedRecords(t *testing.T) {
	broker, flags := kafka(t)
	adm := admin(t, broker)
	s := lossInstance(t, flags)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	spread(t, s, "kept", 40)
	s.seal(time.Minute)
	spread(t, s, "lost", 40)
	v, _, err := asked(s, "lost", false)
	require.NoError(t, err)
	require.Equal(t, "40", v)
	s.kill()

	status := logStatus(t, append(flags, "--data-dir", s.data)...)
	upTo := status[0].end - 2 // two records stay: ticks, or samples
	require.Greater(t, upTo, status[0].committed, "nothing to lose: %v", status)
	missing := upTo - status[0].committed
	at := kadm.Offsets{}
	at.Add(kadm.Offset{Topic: samplesTopic, Partition: 0, At: upTo})
	deleted, err := adm.DeleteRecords(ctx, at)
	require.NoError(t, err)
	require.NoError(t, deleted.Error())

	mark := s.mark()
	s.start()
	s.ready(60 * time.Second) // not for want of what can never be had
	require.EqualValues(t, missing, s.mustMetric("sluice_consumer_missed_offsets_total", `partition="0"`))
	require.Zero(t, s.mustMetric("sluice_consumer_missed_offsets_total", `partition="1"`))
	told(t, s, mark, "retention", 0)

	// A query that may lack samples says so; one that may not is answered.
	_, _, err = asked(s, "kept", false)
	require.ErrorContains(t, err, string(schema.ErrSamplesLost))
	require.ErrorContains(t, err, "partition 0")
	t.Logf("a query over the hole: %v", err)
	v, warnings, err := asked(s, "kept", true)
	require.NoError(t, err)
	require.Equal(t, "40", v)
	require.NotEmpty(t, warnings)
	require.Contains(t, strings.Join(warnings, " "), "partition 0")
	t.Logf("with partial_response: %q", warnings)
	long := time.Now().Add(-48 * time.Hour)
	_, err = instant(s.url("/prometheus"), "team-a", "count(kept)", long)
	require.NoError(t, err, "a query about the time before the hole")

	// Everything goes on, the partition with the hole too.
	spread(t, s, "after", 40)
	v, _, err = asked(s, "after", true)
	require.NoError(t, err)
	require.Equal(t, "40", v)
	s.covered(30 * time.Second)
	s.seal(time.Minute)
	v, _, err = asked(s, "after", true)
	require.NoError(t, err)
	require.Equal(t, "40", v)
	marked := 0
	for _, m := range metasOf(t, filepath.Join(s.data, "bucket")) {
		for _, g := range m.Sluice.Gaps {
			require.Equal(t, int32(0), g.Partition)
			require.Equal(t, missing, g.To-g.From)
			marked++
		}
	}
	require.Positive(t, marked, "no block says that samples are missing from it")
	require.NotEmpty(t, catalogueOf(t, append(flags, "--data-dir", s.data)...).partitions[0].Gaps)

	// It is remembered.
	s.stop()
	s.start()
	s.ready(60 * time.Second)
	_, _, err = asked(s, "kept", false)
	require.ErrorContains(t, err, string(schema.ErrSamplesLost))
	out, exit := sluice(t, time.Minute, append([]string{"check", "--data-dir", s.data}, flags...)...)
	require.Equal(t, 1, exit, out)
	require.Contains(t, out, "gap")
	t.Logf("sluice check:\n%s", out)
	report(t, "records deleted before they were read", map[string]any{"missed_offsets": missing, "blocks_marked": marked})
}

// recreate deletes the topic of samples and makes it again with the same settings.
func recreate(t *testing.T, adm *kadm.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	configs, err := adm.DescribeTopicConfigs(ctx, samplesTopic)
	require.NoError(t, err)
	rc, err := configs.On(samplesTopic, nil)
	require.NoError(t, err)
	values := map[string]*string{}
	for i := range rc.Configs {
		switch c := rc.Configs[i]; c.Key {
		case "message.timestamp.type", "retention.ms", "retention.bytes", "cleanup.policy", "max.message.bytes":
			values[c.Key] = c.Value
		}
	}
	deleted, err := adm.DeleteTopics(ctx, samplesTopic)
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
	eventually(t, "the topic is made again", 30*time.Second, func() error {
		_, err := adm.CreateTopic(ctx, 2, 1, values, samplesTopic)
		return err
	})
}

// fill writes ticks into the new topic, so that the offset at which a consumer of the old one stands is in it.
func fill(t *testing.T, broker *kfake.Cluster, each int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer cl.Close()
	for i := range 2 * each {
		require.NoError(t, cl.ProduceSync(context.Background(), &kgo.Record{Topic: samplesTopic, Partition: int32(i % 2), Headers: []kgo.RecordHeader{
			{Key: schema.HeaderVersion, Value: []byte{schema.RecordV1}}, {Key: schema.HeaderKind, Value: []byte(schema.KindTick)},
		}}).FirstErr())
	}
}

func recreatedTopic(t *testing.T, while string) {
	broker, flags := kafka(t)
	adm := admin(t, broker)
	s := lossInstance(t, flags)
	spread(t, s, "kept", 40)
	s.seal(time.Minute)
	spread(t, s, "lost", 20)
	mark := s.mark()
	if while == "stopped" {
		s.stop()
		recreate(t, adm)
		s.start()
		s.ready(60 * time.Second)
		require.Positive(t, s.mustMetric("sluice_consumer_log_resets_total"))
		told(t, s, mark, "replaced-log", 0, 1)
	} else {
		if while == "asleep" {
			s.signal(syscall.SIGSTOP)
		}
		recreate(t, adm)
		if while == "asleep" {
			fill(t, broker, 200)
			s.signal(syscall.SIGCONT)
		}
		eventually(t, "the running process notices and tells", 90*time.Second, func() error {
			require.True(t, s.running(), "it has died of it: %v", s.err)
			resets, _, err := s.metric("sluice_consumer_log_resets_total")
			if err != nil || resets < 2 {
				status, ready := s.readyText()
				return fmt.Errorf("%v partitions have noticed; %w; /ready: %d %s", resets, err, status, ready)
			}
			return nil
		})
		s.ready(60 * time.Second)
		told(t, s, mark, "replaced-log", 0, 1)
	}
	// What was in blocks is still there; what comes now is taken and found.
	eventually(t, "writes are taken", 30*time.Second, func() error {
		if r := s.push("team-a", series("after", 0, time.Now(), "i", "0")); r.status/100 != 2 {
			return fmt.Errorf("status %d: %s", r.status, r.body)
		}
		return nil
	})
	spread(t, s, "after", 40)
	for _, metric := range []string{"kept", "after"} {
		eventually(t, metric+" is found", 30*time.Second, func() error {
			v, warnings, err := asked(s, metric, true)
			if err == nil && v != "40" {
				err = errors.New("count is " + v)
			}
			if err == nil {
				t.Logf("%s: warnings %q", metric, warnings)
			}
			return err
		})
	}
	// The samples that were neither in blocks nor in the new topic are gone: that must not look like an answer.
	v, warnings, err := asked(s, "lost", false)
	t.Logf("a query for what was lost: %q, warnings %q, error %v", v, warnings, err)
	require.ErrorContains(t, err, string(schema.ErrSamplesLost))
	s.seal(time.Minute)
	s.covered(30 * time.Second)
	v, _, err = asked(s, "after", true)
	require.NoError(t, err)
	require.Equal(t, "40", v)
	s.stop()
	s.start()
	s.ready(60 * time.Second)
	for _, metric := range []string{"kept", "after"} {
		v, _, err := asked(s, metric, true)
		require.NoError(t, err)
		require.Equal(t, "40", v, metric)
	}
}
