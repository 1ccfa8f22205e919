package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"sluice/internal/cardinality"
	"sluice/internal/trace"
	"sluice/schema"
)

// HandlerConfig says what a Handler serves. Source and Blocks may be nil: then nothing of that kind is held here.
type HandlerConfig struct {
	Source    Source
	Blocks    Blocks
	KeepAlive time.Duration // how often a call that takes long shows a sign of life; 0 = 1 s
}

// Handler serves what cfg says under /fetch/. The caller is another process of the same cluster: there is no tenancy
// here, the tenant is part of the request.
func Handler(cfg HandlerConfig, logger *slog.Logger) http.Handler {
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = defaultKeepAlive
	}
	h := &handler{cfg: cfg, logger: logger}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathSelect, h.selectSeries)
	mux.HandleFunc("POST "+pathLabelNames, h.answer(h.labelNames))
	mux.HandleFunc("POST "+pathLabelValues, h.answer(h.labelValues))
	mux.HandleFunc("POST "+pathExemplars, h.answer(h.exemplars))
	mux.HandleFunc("POST "+pathMetadata, h.answer(h.metadata))
	mux.HandleFunc("POST "+pathCardinality, h.answer(h.cardinality))
	mux.HandleFunc("POST "+pathHeld, h.answer(h.held))
	return mux
}

type handler struct {
	cfg    HandlerConfig
	logger *slog.Logger
}

func readRequest(w http.ResponseWriter, r *http.Request) (*request, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBytes))
	if err != nil {
		return nil, schema.NewError(schema.ErrBodyUnreadable, http.StatusBadRequest, "request cannot be read: %v", err)
	}
	req := &request{}
	if err := json.Unmarshal(body, req); err != nil {
		return nil, schema.NewError(schema.ErrDecode, http.StatusBadRequest, "request is no JSON: %v", err)
	}
	if _, err := schema.ParseTenant(string(req.Tenant)); err != nil {
		return nil, err
	}
	return req, nil
}

// answer wraps an endpoint whose answer is one JSON value.
func (h *handler) answer(serve func(*http.Request, *request) (envelope, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		req, err := readRequest(w, r)
		if err != nil {
			refuse(w, err)
			return
		}
		w.Header().Set("Content-Type", contentTypeJSON)
		life := newLifeline(w, h.cfg.KeepAlive, []byte("\n"))
		r, part := followed(r, req)
		packed, err := func() (envelope, error) {
			defer life.close() // whatever panics
			return serve(r, req)
		}()
		part.Root().End(err)
		packed.Trace = part.Report()
		switch begun := life.close(); {
		case err != nil && !begun:
			refuse(w, err)
			return
		case err != nil:
			packed = envelope{Error: packError(err), Trace: packed.Trace}
		}
		writeEnvelope(w, packed)
	}
}

// followed makes the work for a caller who wants to know of it be followed.
func followed(r *http.Request, req *request) (*http.Request, *trace.Query) {
	if !req.Trace {
		return r, nil
	}
	part := trace.NewPart("there")
	return r.WithContext(trace.With(r.Context(), part)), part
}

// querier opens what req asks for and hands it to use with the matchers of req.
func (h *handler) querier(r *http.Request, req *request, use func(storage.Querier, []*labels.Matcher) error) error {
	ms, err := unpackMatchers(req.Matchers)
	if err != nil {
		return schema.NewError(schema.ErrDecode, http.StatusBadRequest, "%v", err)
	}
	q, err := h.open(r.Context(), req)
	if err != nil {
		return err
	}
	return errors.Join(use(q, ms), q.Close())
}

func (h *handler) open(ctx context.Context, req *request) (storage.Querier, error) {
	if req.Patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.Patience)
		defer cancel()
	}
	switch {
	case len(req.Blocks) > 0 && h.cfg.Blocks == nil:
		return nil, errNoBlocks
	case len(req.Blocks) > 0:
		return h.cfg.Blocks.BlockQuerier(ctx, req.Tenant, req.Mint, req.Maxt, req.Blocks)
	}
	if err := h.lacks(req); err != nil {
		return nil, err
	}
	return h.cfg.Source.Querier(ctx, req.Tenant, req.Mint, req.Maxt, req.Asks)
}

// lacks says that no partition is held here.
func (h *handler) lacks(req *request) error {
	if h.cfg.Source != nil {
		return nil
	}
	hole := &HoleError{Held: -1}
	if len(req.Asks) > 0 {
		hole.Partition, hole.From = req.Asks[0].Partition, req.Asks[0].From
	}
	return hole
}

func (h *handler) labelNames(r *http.Request, req *request) (answer envelope, _ error) {
	err := h.querier(r, req, func(q storage.Querier, ms []*labels.Matcher) error {
		names, warnings, err := q.LabelNames(r.Context(), &storage.LabelHints{Limit: req.Limit}, ms...)
		answer = envelope{Applied: AppliedOf(q), Answer: stringsAnswer{names, packNotes(warnings)}}
		return err
	})
	return answer, err
}

func (h *handler) labelValues(r *http.Request, req *request) (answer envelope, _ error) {
	err := h.querier(r, req, func(q storage.Querier, ms []*labels.Matcher) error {
		values, warnings, err := q.LabelValues(r.Context(), req.Name, &storage.LabelHints{Limit: req.Limit}, ms...)
		answer = envelope{Applied: AppliedOf(q), Answer: stringsAnswer{values, packNotes(warnings)}}
		return err
	})
	return answer, err
}

func (h *handler) exemplars(r *http.Request, req *request) (envelope, error) {
	sets := make([][]*labels.Matcher, len(req.Sets))
	for i, packed := range req.Sets {
		ms, err := unpackMatchers(packed)
		if err != nil {
			return envelope{}, schema.NewError(schema.ErrDecode, http.StatusBadRequest, "%v", err)
		}
		sets[i] = ms
	}
	if err := h.lacks(req); err != nil {
		return envelope{}, err
	}
	found, err := h.cfg.Source.Exemplars(r.Context(), req.Tenant, req.Mint, req.Maxt, sets, req.Asks)
	return envelope{Answer: packExemplars(found)}, err
}

func (h *handler) metadata(r *http.Request, req *request) (envelope, error) {
	if h.cfg.Source == nil {
		return envelope{Answer: metadataAnswer{}}, nil
	}
	found, err := h.cfg.Source.Metadata(r.Context(), req.Tenant, req.Metric)
	return envelope{Answer: metadataAnswer(found)}, err
}

func (h *handler) cardinality(r *http.Request, req *request) (envelope, error) {
	ms, err := unpackMatchers(req.Matchers)
	if err != nil {
		return envelope{}, schema.NewError(schema.ErrDecode, http.StatusBadRequest, "%v", err)
	}
	if err := h.lacks(req); err != nil {
		return envelope{}, err
	}
	q := cardinality.Query{Matchers: ms, Since: req.Mint, Until: req.Maxt, All: req.All, Values: req.Values, Pairs: req.Pairs}
	found, err := h.cfg.Source.Cardinality(r.Context(), req.Tenant, q, req.Asks)
	return envelope{Answer: found}, err
}

func (h *handler) held(r *http.Request, req *request) (envelope, error) {
	if err := h.lacks(req); err != nil {
		return envelope{}, err
	}
	times, ok := h.cfg.Source.(Times)
	if !ok {
		return envelope{Answer: []Interval{Always}}, nil
	}
	ctx := r.Context()
	if req.Patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.Patience)
		defer cancel()
	}
	held, applied, err := times.Held(ctx, req.Tenant, req.Asks)
	return envelope{Applied: applied, Answer: held}, err
}

// selectSeries streams the series. What goes wrong before the head is out is an ordinary answer with a status, what goes
// wrong later is told in the trailer.
func (h *handler) selectSeries(w http.ResponseWriter, r *http.Request) {
	req, err := readRequest(w, r)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", contentTypeChunks)
	w.Header().Set("Trailer", trailerEnd)
	life := newLifeline(w, h.cfg.KeepAlive, emptyFrame)
	defer life.close()
	r, part := followed(r, req)
	var last end
	err = h.querier(r, req, func(q storage.Querier, ms []*labels.Matcher) error {
		hints := req.Hints.unpack()
		set := &primed{SeriesSet: q.Select(r.Context(), true, hints, ms...)}
		if err := set.prime(); err != nil {
			return err
		}
		head, err := frameOf(headTag, streamHead{Applied: AppliedOf(q)})
		if err != nil {
			return err
		}
		if err := life.Frame(head); err != nil {
			return fmt.Errorf("write head: %w", err)
		}
		warnings, err := streamSeries(life, set, hints != nil && hints.Func == "series", len(req.Blocks) > 0)
		last.notes = packNotes(warnings)
		return err
	})
	if part.Root().End(err); err == nil && part != nil {
		err = writeTail(life, part)
	}
	if begun := life.close(); err != nil && !begun {
		refuse(w, err)
		return
	}
	if err != nil {
		h.logger.Debug("stream of series broke off", "tenant", string(req.Tenant), "err", err)
		last = end{Error: packError(err)}
	}
	w.Header().Set(trailerEnd, header(last))
}

// writeTail tells the caller what was done for it.
func writeTail(life *lifeline, part *trace.Query) error {
	tail, err := frameOf(tailTag, streamTail{Trace: part.Report()})
	if err != nil {
		return err
	}
	if err := life.Frame(tail); err != nil {
		return fmt.Errorf("write tail: %w", err)
	}
	return nil
}

// primed is a set whose first series has been asked for already, so that its error is known before the answer starts.
type primed struct {
	storage.SeriesSet
	asked, has bool
}

func (p *primed) prime() error {
	p.asked, p.has = true, p.SeriesSet.Next()
	if !p.has {
		return p.Err()
	}
	return nil
}

func (p *primed) Next() bool {
	if p.asked {
		p.asked = false
		return p.has
	}
	return p.has && p.SeriesSet.Next()
}
