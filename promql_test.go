package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"

	"sluice/bench/queries"
	"sluice/internal/web"
	"sluice/reader"
	"sluice/schema"
)

// TestAcceptance runs Prometheus' own acceptance tests of PromQL over everything: its scripts' samples go through the
// producer, the log and the consumer, its queries through the readers. The same scripts run again and again, while the samples
// move from heads to sealed blocks, to the bucket, and into merged blocks.
func TestAcceptance(t *testing.T) {
	in, _ := startInstallation(t, t.TempDir(), acceptanceLimits, "--compactor.interval", "200ms", "--compactor.settle", "1ms")
	a := &acceptance{installation: in, seen: map[schema.Tenant][]queries.Sample{}}

	a.run(t, "heads", in.near, whole) // the first run writes
	if testing.Short() {              // the race detector has seen enough of it when the blocks have been read
		in.ship(in.seal())
		a.run(t, "bucket", in.near, whole)
		return
	}
	a.run(t, "heads of another process", in.far, whole)
	older, newer := a.halves()
	a.pushAll(older)
	a.holds(0, 0)

	in.gate.shut()
	shipping := in.seal()
	a.run(t, "sealed, in another process", in.far, whole)
	a.holds(0, 0)

	in.ship(shipping)
	a.holds(1, 0)
	a.run(t, "bucket", in.near, whole)

	a.pushAll(newer)
	a.run(t, "bucket and heads", in.far, halved)

	in.ship(in.seal())
	in.compact(slices.Sorted(maps.Keys(older)))
	a.holds(1, 2)
	a.run(t, "merged", in.near, halved)
	t.Logf("SLUICE-FIGURES acceptance tests of PromQL: %d queries of %d tenants, all as expected in each of 6 places", a.asked, len(a.seen))
}

const acceptanceLimits = `
default:
  enabled_promql_experimental_functions: all
  enabled_promql_extended_range_selectors: all
  enabled_promql_duration_expressions: true
  enabled_promql_fill_modifiers: true
  enable_delayed_name_removal: true
  enable_start_timestamps: true
classes:
  "*-narrow-*": {partition_shard_size: 1}
`

// acceptance is one run of the scripts after the other. Each state that the storage of a script is in when it is asked
// becomes a tenant, which is written in the first run and found again by the others.
type acceptance struct {
	*installation
	seen  map[schema.Tenant][]queries.Sample
	asked int // in one run
}

// The prefixes of tenants that are written at once, and of those whose samples come in two halves.
const (
	whole  = "whole"
	halved = "halved"
)

func (a *acceptance) run(t *testing.T, name string, from *reader.Reader, prefix string) {
	opened := 0
	engine := &tenantEngine{reader: from}
	defer func() {
		if a.asked == 0 {
			a.asked = engine.asked
		}
		require.Equal(t, a.asked, engine.asked, "%s: every run asks the same", name)
	}()
	t.Run(name, func(t *testing.T) {
		promqltest.RunBuiltinTestsWithStorage(t, engine, func(testing.TB) storage.Storage {
			opened++
			return &scriptStorage{acceptance: a, prefix: prefix, name: fmt.Sprintf("%s-%d", []string{"narrow", "wide"}[opened%2], opened)}
		})
	})
}

// halves cuts what each third tenant has in the middle of its time, for other tenants.
func (a *acceptance) halves() (older, newer map[schema.Tenant][]queries.Sample) {
	older, newer = map[schema.Tenant][]queries.Sample{}, map[schema.Tenant][]queries.Sample{}
	for i, tenant := range slices.Sorted(maps.Keys(a.seen)) {
		if i%3 > 0 {
			continue
		}
		samples := a.seen[tenant]
		mint, maxt := int64(math.MaxInt64), int64(math.MinInt64)
		for _, s := range samples {
			mint, maxt = min(mint, s.T), max(maxt, s.T)
		}
		half := schema.Tenant(strings.Replace(string(tenant), whole, halved, 1))
		for _, s := range samples {
			if s.T <= mint+(maxt-mint)/2 {
				older[half] = append(older[half], s)
			} else {
				newer[half] = append(newer[half], s)
			}
		}
	}
	maps.Copy(a.seen, older) // who asks for them finds them written
	return older, newer
}

func (a *acceptance) pushAll(by map[schema.Tenant][]queries.Sample) {
	for tenant, samples := range by {
		a.push(tenant, samples)
	}
	a.settle()
}

// holds checks that the answers come from where they are meant to: each tenant with samples has that many blocks at least,
// or none at all, and somebody has one of that level.
func (a *acceptance) holds(blocks, level int) {
	a.t.Helper()
	top := 0
	for tenant, samples := range a.seen {
		found, _ := a.process.catalog.Snapshot(tenant)
		if blocks == 0 {
			require.Empty(a.t, found, tenant)
		} else if len(samples) > 0 {
			require.GreaterOrEqual(a.t, len(found), blocks, tenant)
		}
		for _, b := range found {
			top = max(top, b.Level)
		}
	}
	require.GreaterOrEqual(a.t, top, level)
}

// scriptStorage is what a script takes for its database.
type scriptStorage struct {
	storage.Storage
	*acceptance
	prefix, name string
	samples      []queries.Sample
	commits      int
}

// tenant returns the tenant that has all that was loaded so far, and nothing else.
func (s *scriptStorage) tenant() schema.Tenant {
	tenant := schema.Tenant(fmt.Sprintf("%s-%s-%d", s.prefix, s.name, s.commits))
	if _, ok := s.seen[tenant]; !ok && s.prefix != whole {
		tenant = schema.Tenant(strings.Replace(string(tenant), s.prefix, whole, 1))
	}
	if _, ok := s.seen[tenant]; !ok {
		s.seen[tenant] = s.samples
		if len(s.samples) > 0 {
			s.push(tenant, s.samples)
			s.settle()
		}
	}
	return tenant
}

func (s *scriptStorage) AppenderV2(context.Context) storage.AppenderV2 { return &scriptAppender{to: s} }
func (s *scriptStorage) Close() error                                  { return nil }

type scriptAppender struct {
	storage.AppenderV2
	to      *scriptStorage
	samples []queries.Sample
}

func (a *scriptAppender) Append(_ storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, _ storage.AppendV2Options) (storage.SeriesRef, error) {
	a.samples = append(a.samples, queries.Sample{Series: ls, ST: st, T: t, V: v, H: h, FH: fh})
	return 0, nil
}

func (a *scriptAppender) Commit() error {
	a.to.samples = append(a.to.samples[:len(a.to.samples):len(a.to.samples)], a.samples...)
	a.to.commits++
	return nil
}

func (a *scriptAppender) Rollback() error { return nil }

// tenantEngine is the reader's engine, with its questions asked as the tenant that the storage stands for.
type tenantEngine struct {
	reader *reader.Reader
	asked  int
}

func (e *tenantEngine) NewInstantQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, ts time.Time) (promql.Query, error) {
	tenant := q.(*scriptStorage).tenant()
	e.asked++
	query, err := e.reader.Engine().NewInstantQuery(web.WithTenant(ctx, tenant), e.reader, opts, qs, ts)
	return tenantQuery{query, tenant}, err
}

func (e *tenantEngine) NewRangeQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, step time.Duration) (promql.Query, error) {
	tenant := q.(*scriptStorage).tenant()
	e.asked++
	query, err := e.reader.Engine().NewRangeQuery(web.WithTenant(ctx, tenant), e.reader, opts, qs, start, end, step)
	return tenantQuery{query, tenant}, err
}

type tenantQuery struct {
	promql.Query
	tenant schema.Tenant
}

func (q tenantQuery) Exec(ctx context.Context) *promql.Result {
	return q.Query.Exec(web.WithTenant(ctx, q.tenant))
}
