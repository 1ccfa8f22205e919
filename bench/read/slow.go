package read

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"sync"
	"time"
)

// slow stands before an S3 server, lets every request wait, as a store on the other side of a network does, and counts.
type slow struct {
	addr string
	srv  *http.Server
	done chan struct{}

	mu    sync.Mutex
	calls []call // guarded by mu: since the last reset
}

// call is one request to the store.
type call struct {
	method     string
	bytes      int64
	begin, end time.Time
}

// Requests are what a query cost at the store.
type Requests struct {
	Count int   `json:"requests"`
	Bytes int64 `json:"bytes"`
	// InARow is the longest sequence of requests of which each began after the one before had ended: as many times the
	// query waited for the network at least, unless it waited for its own work in between.
	InARow int `json:"in_a_row"`
}

func startSlow(target string, wait time.Duration) (*slow, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &slow{addr: ln.Addr().String(), done: make(chan struct{})}
	quiet := log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", target
			r.Out.Host = r.In.Host // the signature covers it
		},
		Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
		ErrorLog:  quiet,
	}
	s.srv = &http.Server{ErrorLog: quiet, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := call{method: r.Method, begin: time.Now()}
		time.Sleep(wait)
		counted := &counter64{ResponseWriter: w}
		proxy.ServeHTTP(counted, r)
		c.bytes, c.end = counted.n, time.Now()
		s.mu.Lock()
		s.calls = append(s.calls, c)
		s.mu.Unlock()
	})}
	go func() {
		defer close(s.done)
		_ = s.srv.Serve(ln) // until stop
	}()
	return s, nil
}

func (s *slow) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.srv.Shutdown(ctx) != nil {
		_ = s.srv.Close() // what is under way is of no interest any more
	}
	<-s.done
}

func (s *slow) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = nil
}

// seen sums up the GETs since the reset.
func (s *slow) seen() Requests {
	s.mu.Lock()
	defer s.mu.Unlock()
	var gets []call
	var r Requests
	for _, c := range s.calls {
		if c.method == http.MethodGet || c.method == http.MethodHead {
			gets = append(gets, c)
			r.Bytes += c.bytes
		}
	}
	r.Count, r.InARow = len(gets), inARow(gets)
	return r
}

// inARow is the classic choice of the most intervals that do not overlap: always the one that ends first.
func inARow(calls []call) (n int) {
	slices.SortFunc(calls, func(a, b call) int { return a.end.Compare(b.end) })
	var last time.Time
	for _, c := range calls {
		if n == 0 || !c.begin.Before(last) {
			n, last = n+1, c.end
		}
	}
	return n
}

// counter64 counts what is written.
type counter64 struct {
	http.ResponseWriter
	n int64
}

func (c *counter64) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n += int64(n)
	return n, err
}

func (c *counter64) Unwrap() http.ResponseWriter { return c.ResponseWriter }
