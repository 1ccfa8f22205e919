package kafkatest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestRealCluster kills, restarts and pauses a node of each kind of cluster, and a record survives it.
func TestRealCluster(t *testing.T) {
	if os.Getenv("SLUICE_E2E") != "1" {
		fmt.Fprintln(os.Stderr, "internal/kafkatest: NOT RUNNING real brokers: SLUICE_E2E=1 is not set (make test sets it)")
		t.Skip("SKIPPED: SLUICE_E2E=1 is not set (make test sets it)")
	}
	for _, cfg := range []Config{
		{Version: "3.9"},
		{Version: "4"},
		{Version: "3.9", Nodes: 3},
		{Version: "4", Nodes: 3},
		{Version: "4", TLS: true},
		{Version: "4", SASL: true, TLS: true, ACL: true},
	} {
		t.Run(fmt.Sprintf("%s-%d-tls=%t-sasl=%t", cfg.Version, max(1, cfg.Nodes), cfg.TLS, cfg.SASL), func(t *testing.T) {
			t.Parallel()
			c := Start(t, cfg)
			admin := c.Admin(t)
			_, err := admin.CreateTopic(t.Context(), 1, -1, nil, "x")
			check(t, err)
			client, err := kgo.NewClient(append(c.options(AdminUser, AdminPassword), kgo.SeedBrokers(c.Brokers()...), kgo.ConsumeTopics("x"))...)
			check(t, err)
			defer client.Close()
			check(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "x", Value: []byte("1")}).FirstErr())
			last := len(c.nodes) - 1
			c.Pause(last)
			c.Resume(last)
			c.Kill(last)
			begin := time.Now()
			c.Restart(last)
			t.Logf("restarted after %s", time.Since(begin).Round(time.Millisecond))
			check(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "x", Value: []byte("2")}).FirstErr())
			for got := 0; got < 2; {
				fetches := client.PollFetches(t.Context())
				check(t, fetches.Err())
				got += fetches.NumRecords()
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
