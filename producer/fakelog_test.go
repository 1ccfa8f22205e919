package producer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"sluice/internal/log"
	"sluice/schema"
)

// fakeLog keeps what is appended to the samples topic, and holds its writers to the contract.
type fakeLog struct {
	partitions int32

	mu      sync.Mutex // guards all below
	topicID string
	recs    map[int32][]log.Record
	before  map[int32]definitions // what was defined before the last reset
	appends int
	err     error // returned by Append, which then keeps nothing
	lose    error // returned by Append, which then keeps everything
	discard bool  // keep nothing and look at nothing: for benchmarks
	ctxs    []context.Context
}

func newFakeLog(partitions int32) *fakeLog {
	return &fakeLog{partitions: partitions, recs: map[int32][]log.Record{}}
}

func (f *fakeLog) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeLog) Partitions(context.Context, string) (int32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.partitions == 0 {
		return 0, errors.New("nobody home")
	}
	return f.partitions, nil
}

func (f *fakeLog) Append(ctx context.Context, topic string, recs []log.Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.appends++
	switch {
	case f.discard:
		return nil
	case f.err != nil:
		return f.err
	case ctx.Err() != nil:
		return ctx.Err()
	case topic != log.TopicSamples:
		return log.ErrUnknownPartition
	}
	f.ctxs = append(f.ctxs, ctx)
	for i := range recs {
		r := &recs[i]
		size := len(r.Key) + len(r.Value)
		for _, h := range r.Headers {
			size += len(h.Key) + len(h.Value)
		}
		if size > log.MaxRecordBytes {
			return log.ErrTooLarge
		}
		if r.Partition < 0 || r.Partition >= f.partitions {
			return log.ErrUnknownPartition
		}
		r.Offset = int64(len(f.recs[r.Partition]))
		c := *r
		c.Key, c.Value = append([]byte{}, r.Key...), append([]byte{}, r.Value...)
		f.recs[r.Partition] = append(f.recs[r.Partition], c)
	}
	return f.lose
}

func (f *fakeLog) TopicID(context.Context, string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.topicID, nil
}
func (f *fakeLog) Reader(string, int32, int64) (log.Reader, error) { return nil, log.ErrClosed }
func (f *fakeLog) Bounds(context.Context, string, int32) (log.Bounds, error) {
	return log.Bounds{}, log.ErrClosed
}
func (f *fakeLog) Ends(context.Context, string) ([]int64, error) { return nil, log.ErrClosed }
func (f *fakeLog) Join(context.Context, log.Membership, string, func([]int32)) error {
	return log.ErrClosed
}
func (f *fakeLog) Leave(context.Context, log.Membership) error { return log.ErrClosed }
func (f *fakeLog) OffsetAt(context.Context, string, int32, time.Time) (int64, error) {
	return 0, log.ErrClosed
}
func (f *fakeLog) Commit(context.Context, string, string, int32, int64) error { return log.ErrClosed }
func (f *fakeLog) Committed(context.Context, string, string) (map[int32]int64, error) {
	return nil, log.ErrClosed
}
func (f *fakeLog) Trim(context.Context, string, int32, int64) error { return log.ErrClosed }
func (f *fakeLog) Run(context.Context) error                        { return nil }
func (f *fakeLog) Close() error                                     { return nil }

// records returns what was appended, by partition.
func (f *fakeLog) records() map[int32][]log.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := map[int32][]log.Record{}
	for p, recs := range f.recs {
		out[p] = append([]log.Record{}, recs...)
	}
	return out
}

func (f *fakeLog) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, recs := range f.recs {
		for _, r := range recs {
			f.defined(p).take(r)
		}
	}
	f.recs, f.ctxs = map[int32][]log.Record{}, nil
}

// content decodes all samples records with Prometheus' own decoder, in order of partition and offset, and checks that each
// is a record that schema can parse and that each series is where schema says it belongs.
func (f *fakeLog) content(t testing.TB) prompb.WriteRequest {
	t.Helper()
	var all prompb.WriteRequest
	recs := f.selfContained(t)
	for p := range f.partitions {
		for _, r := range recs[p] {
			if _, mark := r.Header(schema.HeaderKind); mark {
				require.Empty(t, r.Value)
				continue
			}
			tenant, err := schema.ParseTenant(string(r.Key))
			require.NoError(t, err)
			checkRecord(t, f.partitions, tenant, r)
			var req prompb.WriteRequest
			require.NoError(t, req.Unmarshal(r.Value))
			all.Timeseries = append(all.Timeseries, req.Timeseries...)
			all.Metadata = append(all.Metadata, req.Metadata...)
		}
	}
	return all
}

// defined returns the definitions of a partition as of the last reset.
func (f *fakeLog) defined(p int32) definitions {
	if f.before == nil {
		f.before = map[int32]definitions{}
	}
	if f.before[p] == nil {
		f.before[p] = definitions{}
	}
	return f.before[p]
}

// selfContained returns what was appended, by partition, all of it as records of version 1.
func (f *fakeLog) selfContained(t testing.TB) map[int32][]log.Record {
	t.Helper()
	out := f.records()
	for p, recs := range out {
		for i := range recs {
			v, ok := recs[i].Header(schema.HeaderVersion)
			require.True(t, ok)
			if v[0] == schema.RecordV2 {
				recs[i].Value = f.defined(p).selfContained(t, recs[i])
			} else {
				require.Equal(t, []byte{schema.RecordV1}, v)
			}
		}
	}
	return out
}

// take notes the definitions of a record.
func (d definitions) take(r log.Record) map[uint32][]byte {
	var c schema.Columns
	if v, _ := r.Header(schema.HeaderVersion); v[0] != schema.RecordV2 || c.Parse(r.Value) != nil {
		return nil
	}
	if d[string(r.Key)] == nil {
		d[string(r.Key)] = map[uint64]map[uint32][]byte{}
	}
	refs := d[string(r.Key)][c.Epoch]
	if refs == nil {
		refs = map[uint32][]byte{}
		d[string(r.Key)][c.Epoch] = refs
	}
	for {
		ref, b, ok, err := c.NextDefinition()
		if err != nil || !ok {
			return refs
		}
		refs[ref] = b
	}
}

// definitions are the labels by tenant, epoch and ref of a partition.
type definitions map[string]map[uint64]map[uint32][]byte

// selfContained writes a record of version 2 as one of version 1.
func (d definitions) selfContained(t testing.TB, r log.Record) (value []byte) {
	var c schema.Columns
	require.NoError(t, c.Parse(r.Value))
	refs := d.take(r)
	each := func(next func() (uint32, []byte, bool, error), f func(ref uint32, b []byte)) {
		for {
			ref, b, ok, err := next()
			require.NoError(t, err)
			if !ok {
				return
			}
			f(ref, b)
		}
	}
	each(c.NextDefinition, func(uint32, []byte) {})
	var order []uint32
	series := map[uint32][]byte{}
	add := func(ref uint32, f func(dst []byte) []byte) {
		if series[ref] == nil {
			require.NotEmpty(t, refs[ref], "ref %d is not defined", ref)
			series[ref] = append([]byte{}, refs[ref]...)
			order = append(order, ref)
		}
		series[ref] = f(series[ref])
	}
	for {
		var f schema.Float
		ok, err := c.NextFloat(&f)
		require.NoError(t, err)
		if !ok {
			break
		}
		add(f.Ref, func(dst []byte) []byte { return schema.AppendSample(dst, f.Time, f.Start, f.Value) })
	}
	each(c.NextExemplar, func(ref uint32, b []byte) {
		add(ref, func(dst []byte) []byte { return schema.AppendExemplar(dst, b) })
	})
	each(c.NextHistogram, func(ref uint32, b []byte) {
		add(ref, func(dst []byte) []byte { return schema.AppendHistogram(dst, b) })
	})
	for _, ref := range order {
		value = schema.AppendTimeSeries(value, series[ref])
	}
	for {
		m, ok, err := c.NextMetadata()
		require.NoError(t, err)
		if !ok {
			return value
		}
		value = schema.AppendMetadata(value, m)
	}
}

// checkRecord holds a record to schema: a consumer may rely on all of this.
func checkRecord(t testing.TB, partitions int32, tenant schema.Tenant, r log.Record) {
	shard := schema.ShardOf(tenant, partitions, 0)
	require.NotEmpty(t, r.Value)
	var s schema.Series
	for rest := r.Value; len(rest) > 0; {
		f, next, err := schema.NextField(rest)
		require.NoError(t, err)
		require.NotNil(t, f.Raw)
		rest = next
		if f.Meta {
			name, _, err := schema.DecodeMetadata(f.Payload)
			require.NoError(t, err)
			hash, _ := schema.MetadataHash(tenant, []byte(name), nil)
			require.Equal(t, shard.Partition(hash), r.Partition)
			continue
		}
		require.NoError(t, s.Parse(f.Payload))
		require.NotEmpty(t, s.Labels)
		for i, l := range s.Labels {
			require.NotEmpty(t, l.Name)
			require.NotEmpty(t, l.Value)
			if i > 0 {
				require.Less(t, string(s.Labels[i-1].Name), string(l.Name))
			}
		}
		require.NotZero(t, len(s.Samples)+len(s.Histograms)+len(s.Exemplars))
		for _, h := range s.Histograms {
			_, _, _, _, err := schema.DecodeHistogram(h)
			require.NoError(t, err)
		}
		for _, e := range s.Exemplars {
			_, err := schema.DecodeExemplar(e)
			require.NoError(t, err)
		}
		hash, _ := schema.SeriesHash(tenant, s.Labels, nil)
		require.Equal(t, shard.Partition(hash), r.Partition)
	}
}
