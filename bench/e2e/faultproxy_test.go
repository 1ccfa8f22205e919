package e2e

import (
	"context"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// faultProxy stands before an S3 server. It passes the Host header unchanged, because the signature covers it.
type faultProxy struct {
	addr string

	mu       sync.Mutex // guards all below
	rng      *rand.Rand
	tearOne  int // one upload in so many is cut in its middle; 0 = none
	loseOne  int // one upload in so many is stored, and its answer lost; 0 = none
	happened map[string]int
}

func startFaultProxy(t *testing.T, target string, seed uint64) *faultProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &faultProxy{addr: ln.Addr().String(), rng: rand.New(rand.NewPCG(seed, 3)), happened: map[string]int{}}
	quiet := log.New(io.Discard, "", 0)
	rp := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", target
			r.Out.Host = r.In.Host
		},
		Transport:      &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16},
		ErrorLog:       quiet,
		ModifyResponse: p.answer,
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // a reset, not a 502
	}
	srv := &http.Server{Handler: p.count(rp), ErrorLog: quiet}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(ln)
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
		<-done
	})
	return p
}

// tear makes one upload in `torn` end in its middle and the answer of one in `lost` disappear.
func (p *faultProxy) tear(torn, lost int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tearOne, p.loseOne = torn, lost
}

func (p *faultProxy) counts() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]int{}
	for k, v := range p.happened {
		out[k] = v
	}
	return out
}

func (p *faultProxy) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.happened[what]++
}

func (p *faultProxy) roll(one int) bool { return one > 0 && p.rng.IntN(one) == 0 }

func (p *faultProxy) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.note(r.Method)
		if r.Method == http.MethodPut && r.ContentLength > 1 {
			p.mu.Lock()
			if p.roll(p.tearOne) {
				r.Body = &torn{ReadCloser: r.Body, left: p.rng.Int64N(r.ContentLength)}
				p.happened["put_torn"]++
			}
			p.mu.Unlock()
		}
		next.ServeHTTP(w, r)
	})
}

var errLost = errors.New("answer lost on purpose")

func (p *faultProxy) answer(resp *http.Response) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if resp.Request.Method == http.MethodPut && resp.StatusCode == http.StatusOK && p.roll(p.loseOne) {
		p.happened["put_answer_lost"]++
		return errLost
	}
	return nil
}

// torn is a body that breaks off.
type torn struct {
	io.ReadCloser
	left int64
}

func (b *torn) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("upload torn on purpose")
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
