// Package web is the HTTP ground that the stages stand on: one server with sane time-outs, the tenant of a request, and
// the one place where an error becomes an answer. It knows no stage and no endpoint of theirs.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	exporterweb "github.com/prometheus/exporter-toolkit/web"

	"sluice/schema"
)

// Config of a Server.
type Config struct {
	Listen    string // host:port
	WebConfig string // file of Prometheus' kind with TLS, read again when it changes; empty = plain HTTP
}

// Server serves a handler until its context ends.
type Server struct {
	cfg     Config
	handler http.Handler
	logger  *slog.Logger
	ln      net.Listener
	tls     bool // after Listen
}

// New makes a server; Listen or Run opens the port.
func New(cfg Config, handler http.Handler, logger *slog.Logger) *Server {
	return &Server{cfg: cfg, handler: handler, logger: logger}
}

// Listen opens the port, so that Addr is known before Run. Run calls it if nobody has.
func (s *Server) Listen() error {
	if s.ln != nil {
		return nil
	}
	if err := s.readTLS(); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.cfg.Listen, err)
	}
	s.ln = ln
	return nil
}

// Addr is the address in use, host:port; only after Listen.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// drainTimeout is how long requests under way may go on once the context has ended.
const drainTimeout = 10 * time.Second

// Run serves until ctx ends, then lets requests under way finish.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second, // a client that drips its headers is cut
		ReadTimeout:       2 * time.Minute,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    1 << 16,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() {
		done <- exporterweb.Serve(s.ln, srv, &exporterweb.FlagConfig{WebConfigFile: &s.cfg.WebConfig}, s.logger)
	}()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", s.cfg.Listen, err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := srv.Shutdown(drain); err != nil {
		srv.Close()
	}
	<-done
	return ctx.Err()
}

// StatusClientClosedRequest is the status nobody sees: the client has gone. It keeps such requests out of the 5xx.
const StatusClientClosedRequest = 499

// Error answers with err as plain text: the status, Retry-After and ID of a schema.Error, 499 when the client has gone,
// 500 for what we did not foresee.
func Error(w http.ResponseWriter, r *http.Request, err error) {
	var se *schema.Error
	switch {
	case errors.As(err, &se):
		SetRetryAfter(w, se.RetryAfter)
		http.Error(w, oneLine(se.Error()), se.Status)
	case r.Context().Err() != nil:
		http.Error(w, "client closed request", StatusClientClosedRequest)
	default:
		http.Error(w, oneLine(err.Error()), http.StatusInternalServerError)
	}
}

// SetRetryAfter sets the header in whole seconds, at least one; 0 sets nothing.
func SetRetryAfter(w http.ResponseWriter, d time.Duration) {
	if d > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Max(1, math.Ceil(d.Seconds())))))
	}
}

func oneLine(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\n' || c == '\r' {
			return ' '
		}
		return c
	}, s)
}
