package delay

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"sluice/schema"
)

// metric is the name of the series that are written.
const metric = "sluice_bench_delay_value"

// maxAnswer bounds what is read of an answer: pending values are few.
const maxAnswer = 16 << 20

// push writes one sample by remote write 1.0 and returns nil once a 2xx is there.
func (r *run) push(ctx context.Context, value, ms int64) error {
	raw, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels: []prompb.Label{
			{Name: "__name__", Value: metric},
			{Name: "run", Value: r.id},
			{Name: "turn", Value: strconv.FormatInt(value%int64(r.cfg.Series), 10)},
		},
		Samples: []prompb.Sample{{Timestamp: ms, Value: float64(value)}},
	}}}).Marshal()
	if err != nil {
		return fmt.Errorf("encode a sample: %w", err)
	}
	_, err = r.post(ctx, r.cfg.WriteURL, snappy.Encode(nil, raw), http.Header{
		"Content-Type": {"application/x-protobuf"}, "Content-Encoding": {"snappy"},
		"X-Prometheus-Remote-Write-Version": {"0.1.0"},
	})
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// query returns the values with timestamps of from to to, in ms, both included.
func (r *run) query(ctx context.Context, from, to int64) ([]int64, error) {
	form := url.Values{
		// A range is open on its left.
		"query": {fmt.Sprintf("%s{run=%q}[%dms]", metric, r.id, to-from+1)},
		"time":  {strconv.FormatFloat(float64(to)/1000, 'f', 3, 64)},
	}
	body, err := r.post(ctx, strings.TrimSuffix(r.cfg.ReadURL, "/")+"/api/v1/query", []byte(form.Encode()), http.Header{
		"Content-Type": {"application/x-www-form-urlencoded"},
	})
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct{ Values [][2]any }
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("query: decode the answer: %w", err)
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("query: the answer says %s: %s", answer.Status, answer.Error)
	}
	var out []int64
	for _, series := range answer.Data.Result {
		for _, point := range series.Values {
			v, err := strconv.ParseFloat(fmt.Sprint(point[1]), 64)
			if err != nil {
				return nil, fmt.Errorf("query: a value: %w", err)
			}
			out = append(out, int64(v))
		}
	}
	return out, nil
}

// post returns the body of a 2xx, read to its end.
func (r *run) post(ctx context.Context, target string, body []byte, header http.Header) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = header
	if r.cfg.Tenant != "" {
		req.Header.Set(schema.TenantHeader, r.cfg.Tenant)
	}
	resp, err := r.cfg.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s: %.300s", resp.Status, strings.TrimSpace(string(text)))
	}
	return text, nil
}
