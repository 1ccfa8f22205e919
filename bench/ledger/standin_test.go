package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"
)

// standIn is a system that is right: a TSDB per tenant behind Prometheus' own handlers.
type standIn struct {
	t   *testing.T
	eng *promql.Engine

	mu      sync.Mutex
	tenants map[string]*standInTenant
	pushes  int
	failing int // every n-th push is stored and answered with 503; 0 = none
}

type standInTenant struct {
	db          *tsdb.DB
	write, read http.Handler
}

func newStandIn(t *testing.T) *standIn {
	return &standIn{t: t, tenants: map[string]*standInTenant{}, eng: promql.NewEngine(promql.EngineOpts{
		MaxSamples: 50e6, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{}),
	})}
}

func (s *standIn) tenant(name string) *standInTenant {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.tenants[name]; ok {
		return st
	}
	opts := tsdb.DefaultOptions()
	opts.OutOfOrderTimeWindow = (100 * 24 * time.Hour).Milliseconds()
	opts.RetentionDuration = 0
	opts.StripeSize = 1 << 8
	db, err := tsdb.Open(s.t.TempDir(), slog.New(slog.DiscardHandler), nil, opts, nil)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { db.Close() })
	quiet := slog.New(slog.DiscardHandler)
	st := &standInTenant{
		db:    db,
		write: remote.NewWriteHandler(quiet, prometheus.NewRegistry(), db, remoteapi.MessageTypes{remoteapi.WriteV1MessageType, remoteapi.WriteV2MessageType}, false, false, false),
		read:  remote.NewReadHandler(quiet, prometheus.NewRegistry(), queryables{db, db}, func() config.Config { return config.Config{} }, 1e8, 10, 1<<20),
	}
	s.tenants[name] = st
	return st
}

type queryables struct {
	storage.Queryable
	storage.ChunkQueryable
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	st := s.tenant(r.Header.Get("X-Scope-OrgID"))
	switch r.URL.Path {
	case "/api/v1/push":
		s.mu.Lock()
		s.pushes++
		fail := s.failing > 0 && s.pushes%s.failing == 0
		s.mu.Unlock()
		if fail {
			st.write.ServeHTTP(discard{http.Header{}}, r)
			w.Header().Set("Retry-After", "0")
			http.Error(w, "stored, but who knows", http.StatusServiceUnavailable)
			return
		}
		st.write.ServeHTTP(w, r)
	case "/api/v1/read":
		st.read.ServeHTTP(w, r)
	case "/api/v1/query":
		s.query(w, r, st)
	case "/api/v1/series":
		s.series(w, r, st)
	default:
		http.NotFound(w, r)
	}
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

func (s *standIn) query(w http.ResponseWriter, r *http.Request, st *standInTenant) {
	at, err := strconv.ParseFloat(r.FormValue("time"), 64)
	require.NoError(s.t, err)
	q, err := s.eng.NewInstantQuery(r.Context(), st.db, nil, r.FormValue("query"), time.UnixMilli(int64(math.Round(at*1000))))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	defer q.Close()
	res := q.Exec(r.Context())
	if res.Err != nil {
		http.Error(w, res.Err.Error(), http.StatusUnprocessableEntity)
		return
	}
	num := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	sec := func(ms int64) json.Number { return json.Number(fmt.Sprintf("%d.%03d", ms/1000, ms%1000)) }
	data := map[string]any{"resultType": res.Value.Type()}
	switch val := res.Value.(type) {
	case promql.Matrix:
		result := []any{}
		for _, ser := range val {
			values, hists := [][2]any{}, [][2]any{}
			for _, p := range ser.Floats {
				values = append(values, [2]any{sec(p.T), num(p.F)})
			}
			for _, p := range ser.Histograms {
				hists = append(hists, [2]any{sec(p.T), map[string]string{"count": num(p.H.Count), "sum": num(p.H.Sum)}})
			}
			result = append(result, map[string]any{"metric": ser.Metric.Map(), "values": values, "histograms": hists})
		}
		data["result"] = result
	case promql.Vector:
		result := []any{}
		for _, smp := range val {
			result = append(result, map[string]any{"metric": smp.Metric.Map(), "value": [2]any{sec(smp.T), num(smp.F)}})
		}
		data["result"] = result
	}
	s.answer(w, data)
}

func (s *standIn) series(w http.ResponseWriter, r *http.Request, st *standInTenant) {
	q, err := st.db.Querier(math.MinInt64, math.MaxInt64)
	require.NoError(s.t, err)
	defer q.Close()
	set := q.Select(context.Background(), true, &storage.SelectHints{Start: math.MinInt64, End: math.MaxInt64, Func: "series"}, labels.MustNewMatcher(labels.MatchNotEqual, "__name__", ""))
	data := []map[string]string{}
	for set.Next() {
		data = append(data, set.At().Labels().Map())
	}
	s.answer(w, data)
}

func (s *standIn) answer(w http.ResponseWriter, data any) {
	require.NoError(s.t, json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": data}))
}
