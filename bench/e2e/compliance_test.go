package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestReceiverCompliance runs the receiver tests of Prometheus' compliance suite, which .ci/tools builds, against every
// stage in one process.
func TestReceiverCompliance(t *testing.T) {
	enabled(t)
	suite := tool(t, "remote-write-receiver.test", "make test builds it")
	dir := workDir(t)
	s := newInstance(t, dir, "all", "--tenancy.required")
	s.start()
	s.ready(60 * time.Second)
	config := filepath.Join(dir, "compliance.yml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "remote_write: [{name: sluice, url: '%s', headers: {X-Scope-OrgID: compliance}}]\n", s.url("/api/v1/write")), 0o644))
	t.Setenv("PROMETHEUS_RW2_COMPLIANCE_CONFIG_FILE", config)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, exit := execute(t, ctx, suite, "-test.v")
	require.Zero(t, exit, out)
	require.NotContains(t, out, "--- FAIL")
	require.NotContains(t, out, "--- SKIP")
	passed := strings.Count(out, "--- PASS")
	require.Greater(t, passed, 400, out)
	t.Logf("%d cases passed", passed)
	s.stop()
}
