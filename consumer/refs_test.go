package consumer

import (
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

func defining(epoch uint64, ref uint32, name string) *schema.Columns {
	var w schema.RecordWriter
	w.Define(ref, schema.AppendLabels(nil, []schema.Label{{Name: []byte("__name__"), Value: []byte(name)}}))
	var c schema.Columns
	if err := c.Parse(w.Append(nil, epoch)); err != nil {
		panic(err)
	}
	return &c
}

// TestRefs: what a ref stands for depends on epoch, tenant and log time, and on nothing else.
func TestRefs(t *testing.T) {
	r := newRefs()
	var scratch schema.Series
	name := func(tenant schema.Tenant, epoch uint64, ref uint32, at int64) string {
		d := r.of(tenant, epoch).get(ref, at)
		if d == nil {
			return ""
		}
		return d.lset.Get("__name__")
	}
	require.NoError(t, r.define("a", defining(1, 7, "x"), 1000, &scratch))
	require.NoError(t, r.define("a", defining(2, 7, "y"), 1000, &scratch))
	require.NoError(t, r.define("a", defining(1, 700, "z"), 2000, &scratch))
	require.ErrorIs(t, r.define("b", defining(1, 8, "theirs"), 1000, &scratch), errOtherTenant)

	require.Equal(t, "x", name("a", 1, 7, 1000))
	require.Equal(t, "y", name("a", 2, 7, 1000))
	require.Equal(t, "z", name("a", 1, 700, 1000))
	require.Empty(t, name("b", 1, 7, 1000), "another tenant's")
	require.Empty(t, name("a", 1, 8, 1000))
	require.Empty(t, name("a", 1, 1<<20, 1000))
	require.Empty(t, name("a", 3, 7, 1000))

	require.Equal(t, "x", name("a", 1, 7, 1000+refMemory))
	require.Empty(t, name("a", 1, 7, 1001+refMemory), "too old")
	r.forget(1000)
	r.forget(1 << 40)
	require.Equal(t, 3, r.known, "a leap into the future costs nothing")
	r.forget(1000)
	r.forget(1000 + refMemory/2)
	r.forget(1001 + refMemory)
	require.Equal(t, 1, r.known)
	require.Equal(t, "z", name("a", 1, 700, 2000+refMemory))
	require.Nil(t, r.of("a", 2), "an epoch without definitions is gone")
	require.NoError(t, r.define("a", defining(1, 7, "new"), 5000, &scratch))
	require.Equal(t, "new", name("a", 1, 7, 5000))
	r.forget(2 * refMemory)
	r.forget(5001 + refMemory*2)
	require.Zero(t, r.known)
	require.Empty(t, r.epochs)
}

// TestUnresolvedRefs: a sample whose series nobody has defined is counted and becomes a dead letter; the others of its record stay.
func TestUnresolvedRefs(t *testing.T) {
	s := open(t, t.TempDir())
	var w schema.RecordWriter
	lset := labels.FromStrings("__name__", "m")
	w.Define(3, schema.AppendLabels(nil, []schema.Label{{Name: []byte("__name__"), Value: []byte("m")}}))
	w.Float(3, 1000, 0, 1)
	w.Float(4, 1000, 0, 2)
	s.append(log.Record{Key: []byte("a"), Value: w.Append(nil, 9), Headers: []log.Header{{Key: schema.HeaderVersion, Value: []byte{schema.RecordV2}}}})
	l := ledger{}
	l.add("a", lset, sample{t: 1000, v: 1})
	s.verify(l)
	require.EqualValues(t, 1, counter(t, s.reg, "sluice_consumer_unresolved_refs_total"))
	require.EqualValues(t, 1, counter(t, s.reg, "sluice_consumer_dead_letters_total"))
}

// TestDeadLettersAreSelfContained: a dead letter means the same when its definitions are long gone.
func TestDeadLettersAreSelfContained(t *testing.T) {
	s := open(t, t.TempDir())
	var w schema.RecordWriter
	w.Define(3, schema.AppendLabels(nil, []schema.Label{{Name: []byte("__name__"), Value: []byte("m")}}))
	w.Float(3, 1000, 900, 1.5)
	w.Histogram(3, []byte{0x08, 0x01}) // decodes, and is refused by the head or not: what counts is the float's way
	rec := log.Record{Time: 5, Key: []byte("a"), Value: w.Append(nil, 9), Headers: []log.Header{{Key: schema.HeaderVersion, Value: []byte{schema.RecordV2}}}}
	p := s.consumer.open()[0]
	s.stop() // its goroutine is gone: the partition is ours
	p.refs = newRefs()
	require.Same(t, &rec, p.selfContained("a", &rec, schema.RecordV2), "nothing is defined")
	p.onlyDefinitions(&rec)
	dead := p.selfContained("a", &rec, schema.RecordV2)
	v, _ := dead.Header(schema.HeaderVersion)
	require.Equal(t, []byte{schema.RecordV1}, v)
	h := newHead("a", 1)
	tl, _ := applyV1(h, dead.Value)
	require.Equal(t, 1, tl.floats)
	f, rest, err := schema.NextField(dead.Value)
	require.NoError(t, err)
	var series schema.Series
	require.NoError(t, series.Parse(f.Payload))
	require.Equal(t, "m", string(series.Labels[0].Value))
	require.EqualValues(t, 900, series.Samples[0].Start)
	require.NotEmpty(t, rest)
}
