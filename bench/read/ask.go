package read

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// client asks one server.
type client struct {
	base   string // up to and with /api/v1
	extra  url.Values
	header http.Header
	http   *http.Client
}

// ask sends the query and hands the whole answer to take. It returns the time from the request to the last byte.
func (c *client) ask(ctx context.Context, path string, form url.Values, header http.Header, take func(io.Reader) error) (time.Duration, error) {
	values := url.Values{}
	for _, from := range []url.Values{form, c.extra} {
		for k, v := range from {
			values[k] = v
		}
	}
	began := time.Now()
	method, target, body := http.MethodPost, c.base+path, values.Encode()
	if strings.HasPrefix(path, "/label/") { // Prometheus takes no POST there
		method, target, body = http.MethodGet, target+"?"+body, ""
	}
	req, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("make request: %w", err)
	}
	for _, from := range []http.Header{c.header, header} {
		for k, v := range from {
			req.Header[k] = v
		}
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, fmt.Errorf("ask: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, err := io.ReadAll(io.LimitReader(resp.Body, 2000))
		return 0, fmt.Errorf("ask %s: status %d: %s: %w", path, resp.StatusCode, said, err)
	}
	if err := take(resp.Body); err != nil {
		return 0, fmt.Errorf("read the answer of %s: %w", path, err)
	}
	return time.Since(began), nil
}

func drop(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// content is an answer that can be compared: by series, by time in ms, the values. What has no values (series, label values)
// has its names alone.
type content map[string]map[int64]float64

func (c content) points() (n int) {
	for _, points := range c {
		n += len(points)
	}
	return n
}

// decode reads an answer of Prometheus' API.
func (c *content) decode(r io.Reader) error {
	var e struct {
		Status string
		Error  string
		Data   json.RawMessage
	}
	if err := json.NewDecoder(r).Decode(&e); err != nil {
		return err
	}
	if e.Status != "success" {
		return fmt.Errorf("%s: %s", e.Status, e.Error)
	}
	*c = content{}
	var names []json.RawMessage
	if json.Unmarshal(e.Data, &names) == nil {
		for _, n := range names {
			key, err := canonical(n)
			if err != nil {
				return err
			}
			(*c)[key] = nil
		}
		return nil
	}
	type point [2]json.RawMessage
	var d struct {
		Result []struct {
			Metric json.RawMessage
			Value  *point
			Values []point
		}
	}
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return err
	}
	for _, s := range d.Result {
		key, err := canonical(s.Metric)
		if err != nil {
			return err
		}
		points := map[int64]float64{}
		if s.Value != nil {
			s.Values = append(s.Values, *s.Value)
		}
		for _, p := range s.Values {
			t, err := strconv.ParseFloat(string(p[0]), 64)
			if err != nil {
				return err
			}
			v, err := strconv.ParseFloat(strings.Trim(string(p[1]), `"`), 64)
			if err != nil {
				return err
			}
			points[int64(math.Round(t*1000))] = v
		}
		(*c)[key] = points
	}
	return nil
}

// canonical gives a string or an object of labels one spelling.
func canonical(raw json.RawMessage) (string, error) {
	var name string
	if json.Unmarshal(raw, &name) == nil {
		return name, nil
	}
	var labels map[string]string
	if err := json.Unmarshal(raw, &labels); err != nil {
		return "", err
	}
	key, err := json.Marshal(labels) // sorted
	return string(key), err
}

// differs says how got differs from want; "" = not. approx compares only how many series there are.
func differs(want, got content, approx bool) string {
	if approx && len(want) == len(got) {
		return ""
	}
	if len(want) != len(got) {
		return fmt.Sprintf("%d series, want %d", len(got), len(want))
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[key]
		if !ok {
			return "no series " + key
		}
		if len(g) != len(want[key]) {
			return fmt.Sprintf("%d points of %s, want %d", len(g), key, len(want[key]))
		}
		for t, w := range want[key] {
			v, ok := g[t]
			if !ok || v != w && !(math.Abs(v-w) <= 1e-9*math.Max(math.Abs(v), math.Abs(w))) && !(math.IsNaN(v) && math.IsNaN(w)) {
				return fmt.Sprintf("%v at %d of %s, want %v", v, t, key, w)
			}
		}
	}
	return ""
}
