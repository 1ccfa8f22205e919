package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// s3 is a real S3 server over a directory, with a proxy in front of it that breaks things.
type s3 struct {
	t     *testing.T
	dir   string
	path  string // of the server's binary
	addr  string
	proxy *faultProxy
	*process
	yaml string // objstore configuration
}

const (
	s3Bucket = "blocks"
	s3Key    = "sluice-test-key"
	s3Secret = "sluice-test-secret"
)

func startS3(t *testing.T, dir string, seed uint64) *s3 {
	t.Helper()
	s := &s3{t: t, dir: dir, path: tool(t, "versitygw", "make test installs it"), addr: freeAddr(t)}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "s3", s3Bucket), 0o755))
	s.start()
	s.proxy = startFaultProxy(t, s.addr, seed)
	s.yaml = filepath.Join(dir, "objstore.yaml")
	require.NoError(t, os.WriteFile(s.yaml, fmt.Appendf(nil, `type: S3
config:
  bucket: %s
  endpoint: %s
  region: us-east-1
  access_key: %s
  secret_key: %s
  insecure: true
`, s3Bucket, s.proxy.addr, s3Key, s3Secret), 0o644))
	return s
}

// retries sets how often a request is tried, for those who start after it. Without it, ten times: some eight seconds.
func (s *s3) retries(n int) {
	s.t.Helper()
	raw, err := os.ReadFile(s.yaml)
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(s.yaml, fmt.Appendf(raw, "  max_retries: %d\n", n), 0o644))
}

func (s *s3) start() {
	s.t.Helper()
	s.process = launch(s.t, s.dir, "versitygw", []string{"ROOT_ACCESS_KEY=" + s3Key, "ROOT_SECRET_KEY=" + s3Secret},
		s.path, "--quiet", "--port", s.addr, "posix", filepath.Join(s.dir, "s3"))
	eventually(s.t, "the S3 server answers", 20*time.Second, func() error {
		_, err := post(context.Background(), "http://"+s.addr+"/", "", "", nil)
		return err
	})
}

// TestKillS3 is TestKill with the bucket on a real S3 server that goes away twice, hangs once, and to which every fifth
// upload is torn.
func TestKillS3(t *testing.T) {
	enabled(t)
	t.Parallel()
	dir := workDir(t)
	store := startS3(t, dir, seed(t))
	s := newInstance(t, dir, "all", append(fast(), "--tenancy.required", "--objstore.config-file", store.yaml)...)
	fig := &figures{Scenario: "kill -9 of sluice all, bucket on S3, server down, uploads torn"}
	kills := killCount(t, 8)
	store.proxy.tear(5, 10)
	c := &chaos{kills: kills, before: func(kill int) {
		switch kill {
		case kills / 2:
			t.Log("S3 server killed for 10 s")
			store.kill()
			stillAcks(t, s, 10*time.Second)
			store.start()
		case kills * 3 / 4:
			t.Log("S3 server stopped for 5 s: it accepts and does not answer")
			store.signal(syscall.SIGSTOP)
			stillAcks(t, s, 5*time.Second)
			store.signal(syscall.SIGCONT)
		}
	}}
	storm(t, fig, s, c, 200, 10_000, "--objstore.config-file", store.yaml)
	fig.Faults = store.proxy.counts()
	fig.print(t)
	require.Positive(t, store.proxy.counts()["put_torn"], "no upload was torn: the test proves nothing")
}

// stillAcks demands, for so long, that a write is acked within seconds although the bucket is away.
func stillAcks(t *testing.T, s *instance, long time.Duration) {
	t.Helper()
	for end := time.Now().Add(long); time.Now().Before(end); {
		begun := time.Now()
		r := s.push("outage", series("written_during_outage", 1, begun, "at", begun.Format(time.RFC3339Nano)))
		require.Less(t, r.status, 300, "a write while the bucket is away: %s", r.body)
		require.Less(t, time.Since(begun), 10*time.Second, "a write waits for the bucket")
		<-time.After(250 * time.Millisecond)
	}
}
