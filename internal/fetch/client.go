package fetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"

	"sluice/internal/cardinality"
	"sluice/internal/trace"
	"sluice/schema"
)

const (
	// defaultSilence is how long a client waits for anything at all.
	defaultSilence = 3 * defaultKeepAlive
	dialTimeout    = time.Second

	// readAhead is how much of an answer about partitions is read before the first series is given out, so that a member
	// that fails in the middle of it does so while another can still be asked. What is larger is not held back.
	readAhead = 64 << 20
)

// NewTransport makes the transport for clients of many members.
func NewTransport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute,
	}
}

// Client is a Source and Blocks on the other side of HTTP.
type Client struct {
	base    string
	hc      *http.Client
	silence time.Duration
}

// NewClient makes a client of the process at baseURL (http://host:port, with or without a path); a bare host:port is
// taken as http. A call fails with ErrSilent when nothing has come from there for silence (0 = 3 s). hc must not limit
// the time of a whole request shorter than a query may take.
func NewClient(baseURL string, hc *http.Client, silence time.Duration) *Client {
	if !strings.Contains(baseURL, "://") {
		baseURL = "http://" + baseURL
	}
	if silence == 0 {
		silence = defaultSilence
	}
	return &Client{base: strings.TrimRight(baseURL, "/"), hc: hc, silence: silence}
}

var (
	_ Source = (*Client)(nil)
	_ Blocks = (*Client)(nil)
	_ Times  = (*Client)(nil)
)

// Querier returns a querier that sends the asks with each of its calls; it talks to nobody before the first of them. So
// a HoleError comes from the calls, and the deadline of ctx bounds each call's opening on the other side.
func (c *Client) Querier(ctx context.Context, tenant schema.Tenant, mint, maxt int64, asks []Ask) (storage.Querier, error) {
	head := request{Tenant: tenant, Mint: mint, Maxt: maxt, Asks: asks}
	if deadline, ok := ctx.Deadline(); ok {
		head.Patience = max(time.Until(deadline), 1)
	}
	return &querier{client: c, head: head}, nil
}

// Held asks for the times of what is held. A member that does not know the question may hold anything.
func (c *Client) Held(ctx context.Context, tenant schema.Tenant, asks []Ask) ([]Interval, Applied, error) {
	req := request{Tenant: tenant, Asks: asks}
	if deadline, ok := ctx.Deadline(); ok {
		req.Patience = max(time.Until(deadline), 1)
	}
	var held []Interval
	applied, err := c.call(ctx, pathHeld, &req, &held)
	if errors.Is(err, errUnknownCall) {
		return []Interval{Always}, nil, nil
	}
	return held, applied, err
}

// errUnknownCall is what a member of an older version says.
var errUnknownCall = errors.New("member does not know the call")

// BlockQuerier returns a querier of blocks; as Querier's, it talks to nobody before its first call.
func (c *Client) BlockQuerier(_ context.Context, tenant schema.Tenant, mint, maxt int64, ids []ulid.ULID) (storage.Querier, error) {
	return &querier{client: c, head: request{Tenant: tenant, Mint: mint, Maxt: maxt, Blocks: ids}}, nil
}

// Exemplars asks for exemplars.
func (c *Client) Exemplars(ctx context.Context, tenant schema.Tenant, start, end int64, matchers [][]*labels.Matcher, asks []Ask) ([]exemplar.QueryResult, error) {
	req := request{Tenant: tenant, Mint: start, Maxt: end, Asks: asks}
	for _, ms := range matchers {
		req.Sets = append(req.Sets, packMatchers(ms))
	}
	var packed []exemplarAnswer
	if _, err := c.call(ctx, pathExemplars, &req, &packed); err != nil {
		return nil, err
	}
	return unpackExemplars(packed), nil
}

// Metadata asks for metadata.
func (c *Client) Metadata(ctx context.Context, tenant schema.Tenant, metric string) (map[string][]metadata.Metadata, error) {
	var found metadataAnswer
	_, err := c.call(ctx, pathMetadata, &request{Tenant: tenant, Metric: metric}, &found)
	return found, err
}

// Cardinality asks for counts of series.
func (c *Client) Cardinality(ctx context.Context, tenant schema.Tenant, q cardinality.Query, asks []Ask) (*cardinality.Result, error) {
	req := &request{Tenant: tenant, Asks: asks, Mint: q.Since, Maxt: q.Until, Matchers: packMatchers(q.Matchers), All: q.All, Values: q.Values, Pairs: q.Pairs}
	var found cardinality.Result
	_, err := c.call(ctx, pathCardinality, req, &found)
	return &found, err
}

// answer is a member's answer under way. ctx is its own, ended by cancel with the reason; close must be called.
type answer struct {
	*http.Response
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (a *answer) close() {
	a.cancel(nil)
	a.Body.Close()
}

// explain returns what it means that reading the answer ended with err.
func (a *answer) explain(err error) error { return explain(a.ctx, err) }

// explain tells the caller's leaving and silence from a connection that broke.
func explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrUnreachable):
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// watched is a body that ends its request when nothing comes while somebody reads it. How long nobody reads it does not
// matter: meanwhile the other side waits too.
type watched struct {
	io.ReadCloser
	timer   *time.Timer
	silence time.Duration
}

func (w *watched) Read(b []byte) (int, error) {
	w.timer.Reset(w.silence)
	n, err := w.ReadCloser.Read(b)
	w.timer.Stop()
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	return w.ReadCloser.Close()
}

// post sends req and returns the answer, whose status is 200.
func (c *Client) post(ctx context.Context, path string, req *request) (_ *answer, err error) {
	req.Trace = trace.From(ctx) != nil
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(c.silence, func() { cancel(fmt.Errorf("fetch %s%s: nothing came for %s: %w", c.base, path, c.silence, ErrSilent)) })
	defer func() {
		timer.Stop()
		if err != nil {
			cancel(nil)
		}
	}()
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	hr.Header.Set("Content-Type", contentTypeJSON)
	resp, err := c.hc.Do(hr)
	if err != nil {
		return nil, explain(ctx, fmt.Errorf("fetch: %w", err))
	}
	resp.Body = &watched{ReadCloser: resp.Body, timer: timer, silence: c.silence}
	if resp.StatusCode == http.StatusOK {
		return &answer{resp, ctx, cancel}, nil
	}
	defer resp.Body.Close()
	if path == pathHeld && resp.StatusCode == http.StatusNotFound {
		return nil, errUnknownCall
	}
	var packed wireError
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return nil, explain(ctx, fmt.Errorf("fetch %s%s: status %d, body: %w", c.base, path, resp.StatusCode, err))
	}
	if json.Unmarshal(said, &packed) != nil || packed.Message == "" {
		return nil, fmt.Errorf("%w: fetch %s%s: status %d: %.200s", ErrUnreachable, c.base, path, resp.StatusCode, said)
	}
	return nil, packed.unpack()
}

// call asks for one value.
func (c *Client) call(ctx context.Context, path string, req *request, into any) (Applied, error) {
	a, err := c.post(ctx, path, req)
	if err != nil {
		return nil, err
	}
	defer a.close()
	packed := envelope{Answer: into}
	if err := readEnvelope(a.Body, &packed); err != nil {
		return nil, a.explain(fmt.Errorf("read answer of %s%s: %w", c.base, path, err))
	}
	limit := trace.Current(ctx).Attach(packed.Trace)
	if packed.Error != nil {
		return nil, packed.Error.unpack()
	}
	return packed.Applied, limit
}

// querier is the querier of a Client.
type querier struct {
	client *Client
	head   request

	mu      sync.Mutex // guards the rest
	applied Applied
	open    []*stream
}

// Applied is for AppliedOf.
func (q *querier) Applied() Applied {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.applied
}

// Select sends the request and returns once the other side has the first series; partitions are read ahead.
func (q *querier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	req := q.head
	req.Matchers, req.Hints = packMatchers(ms), packHints(hints)
	a, err := q.client.post(ctx, pathSelect, &req)
	if err != nil {
		return storage.ErrSeriesSet(err)
	}
	mint, maxt := q.head.Mint, q.head.Maxt
	if hints != nil {
		mint, maxt = hints.Start, hints.End
		if hints.DisableTrimming {
			mint, maxt = minTime, maxTime
		}
	}
	s := newStream(a, len(req.Blocks), mint, maxt)
	q.mu.Lock()
	q.open = append(q.open, s)
	q.mu.Unlock()
	s.begin()
	if len(req.Blocks) == 0 {
		s.readAhead(readAhead)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.applied = s.head.Applied
	return s
}

func (q *querier) strings(ctx context.Context, path string, req *request, hints *storage.LabelHints, ms []*labels.Matcher) ([]string, annotations.Annotations, error) {
	req.Matchers = packMatchers(ms)
	if hints != nil {
		req.Limit = hints.Limit
	}
	var found stringsAnswer
	applied, err := q.client.call(ctx, path, req, &found)
	if err != nil {
		return nil, nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.applied = applied
	return found.Values, found.notes.unpack(), nil
}

// LabelNames asks for the names of labels.
func (q *querier) LabelNames(ctx context.Context, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	req := q.head
	return q.strings(ctx, pathLabelNames, &req, hints, ms)
}

// LabelValues asks for the values of a label.
func (q *querier) LabelValues(ctx context.Context, name string, hints *storage.LabelHints, ms ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	req := q.head
	req.Name = name
	return q.strings(ctx, pathLabelValues, &req, hints, ms)
}

// Close ends the streams that were not read to their end.
func (q *querier) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.open {
		s.close()
	}
	q.open = nil
	return nil
}
