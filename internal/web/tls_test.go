package web

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// authority signs certificates for tests.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return &authority{dir, cert, key}
}

// issue writes name.pem and name.key for 127.0.0.1 and the name.
func (a *authority) issue(t *testing.T, name string, serial int64) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	require.NoError(t, err)
	raw, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), 0o600))
}

func client(t *testing.T, c ClientTLS) *http.Client {
	conf, err := c.Config()
	require.NoError(t, err)
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
}

func serveTLS(t *testing.T, webConfig string) *Server {
	s := New(Config{Listen: "127.0.0.1:0", WebConfig: webConfig}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("Authorization"))
	}), slog.New(slog.DiscardHandler))
	require.NoError(t, s.Listen())
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-stopped, context.Canceled)
	})
	return s
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	ca.issue(t, "server", 10)
	conf := filepath.Join(dir, "web.yml")
	require.NoError(t, os.WriteFile(conf, []byte("tls_server_config: {cert_file: server.pem, key_file: server.key}\n"), 0o600))
	s := serveTLS(t, conf)
	require.Equal(t, "https", s.Scheme())
	trusting := ClientTLS{CAFile: filepath.Join(dir, "ca.pem")}
	serial := func() int64 {
		resp, err := client(t, trusting).Get("https://" + s.Addr())
		require.NoError(t, err)
		resp.Body.Close()
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	require.EqualValues(t, 10, serial())
	ca.issue(t, "server", 11) // renewed: no restart
	require.EqualValues(t, 11, serial())

	_, err := client(t, ClientTLS{}).Get("https://" + s.Addr())
	require.Error(t, err, "nobody we know has signed it")
	resp, err := client(t, ClientTLS{Insecure: true}).Get("https://" + s.Addr())
	require.NoError(t, err)
	resp.Body.Close()
	trusting.ServerName = "server"
	require.EqualValues(t, 11, serial())
	trusting.ServerName = "other"
	_, err = client(t, trusting).Get("https://" + s.Addr())
	require.Error(t, err)
	resp, err = client(t, trusting).Get("http://" + s.Addr())
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusBadRequest, resp.StatusCode, "no plain text")
}

func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	ca.issue(t, "server", 10)
	ca.issue(t, "peer", 11)
	conf := filepath.Join(dir, "web.yml")
	require.NoError(t, os.WriteFile(conf, []byte(`tls_server_config:
  {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert}`), 0o600))
	s := serveTLS(t, conf)
	trusting := ClientTLS{CAFile: filepath.Join(dir, "ca.pem")}
	_, err := client(t, trusting).Get("https://" + s.Addr())
	require.Error(t, err)
	trusting.CertFile, trusting.KeyFile = filepath.Join(dir, "peer.pem"), filepath.Join(dir, "peer.key")
	hc := client(t, trusting)
	token := "one"
	hc.Transport = WithBearer(hc.Transport, func() string { return token })
	for _, token = range []string{"one", "two", ""} {
		resp, err := hc.Get("https://" + s.Addr())
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		want := "Bearer " + token
		if token == "" {
			want = ""
		}
		require.Equal(t, want, string(body))
	}
}

func TestWebConfigsThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	newAuthority(t, dir)
	for name, text := range map[string]string{
		"no certificate": "tls_server_config: {key_file: x}",
		"no such file":   "tls_server_config: {cert_file: none.pem, key_file: none.key}",
		"unknown key":    "tls: {}",
		"no YAML":        "tls_server_config: {",
	} {
		conf := filepath.Join(dir, "web.yml")
		require.NoError(t, os.WriteFile(conf, []byte(text), 0o600))
		require.Error(t, New(Config{Listen: "127.0.0.1:0", WebConfig: conf}, nil, slog.New(slog.DiscardHandler)).Listen(), name)
	}
	require.Error(t, New(Config{Listen: "127.0.0.1:0", WebConfig: filepath.Join(dir, "none")}, nil, slog.New(slog.DiscardHandler)).Listen())
	_, err := ClientTLS{CAFile: filepath.Join(dir, "none")}.Config()
	require.Error(t, err)

	// Without tls_server_config it is plain HTTP still.
	conf := filepath.Join(dir, "plain.yml")
	require.NoError(t, os.WriteFile(conf, []byte("http_server_config: {http2: false}"), 0o600))
	s := serveTLS(t, conf)
	require.Equal(t, "http", s.Scheme())
	resp, err := http.Get("http://" + s.Addr())
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
}
