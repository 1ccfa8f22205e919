package front

import (
	"iter"
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

const (
	waitFor = time.Minute
	tick    = time.Millisecond
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mapsKeys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }

func counter(t *testing.T, f *Front, result string) float64 {
	return testutil.ToFloat64(f.metrics.parts.WithLabelValues(result))
}
