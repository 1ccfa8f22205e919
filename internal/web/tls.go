package web

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"os"

	"github.com/prometheus/common/config"
	exporterweb "github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v3"
)

// readTLS refuses a web configuration that cannot be used, and finds out whether it has TLS.
func (s *Server) readTLS() error {
	if s.cfg.WebConfig == "" {
		return nil
	}
	if err := exporterweb.Validate(s.cfg.WebConfig); err != nil {
		return fmt.Errorf("web configuration %s: %w", s.cfg.WebConfig, err)
	}
	content, err := os.ReadFile(s.cfg.WebConfig)
	if err != nil {
		return fmt.Errorf("read web configuration: %w", err)
	}
	var parts struct {
		TLS map[string]any `yaml:"tls_server_config"`
	}
	if err := yaml.Unmarshal(content, &parts); err != nil {
		return fmt.Errorf("web configuration %s: %w", s.cfg.WebConfig, err)
	}
	s.tls = len(parts.TLS) > 0
	return nil
}

// Scheme is how the server is reached, http or https; only after Listen.
func (s *Server) Scheme() string {
	if s.tls {
		return "https"
	}
	return "http"
}

// ClientTLS says how this process trusts others that speak TLS, and what it shows them.
type ClientTLS struct {
	CAFile     string // whose certificates are trusted; empty = the system's
	CertFile   string // shown to servers that ask for a certificate; read again for each connection
	KeyFile    string
	ServerName string // expected in certificates instead of the host that was dialled
	Insecure   bool   // trust anybody; for a look at oneself only
}

// Config returns the settings for a client.
func (c ClientTLS) Config() (*tls.Config, error) {
	return config.NewTLSConfig(&config.TLSConfig{
		CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, ServerName: c.ServerName, InsecureSkipVerify: c.Insecure,
	})
}

// WithBearer is a transport that shows a token, which it asks for before each request.
func WithBearer(next http.RoundTripper, token func() string) http.RoundTripper {
	return bearer{next, token}
}

type bearer struct {
	next  http.RoundTripper
	token func() string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if t := b.token(); t != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+t)
	}
	return b.next.RoundTrip(r)
}
