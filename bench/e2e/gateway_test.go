package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"sluice/internal/kafkatest"
)

// guarded is what a gateway needs on disk, and a client that trusts it.
type guarded struct {
	dir    string
	client *http.Client
}

func newGuarded(t *testing.T, dir string) *guarded {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sluice e2e"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	raw, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	g := &guarded{dir: dir}
	g.write(t, "server.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	g.write(t, "server.key", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})))
	g.write(t, "web.yml", "tls_server_config: {cert_file: server.pem, key_file: server.key}\n")
	g.write(t, "secret", "secret-of-the-e2e-cluster\n")
	trusted := x509.NewCertPool()
	require.True(t, trusted.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}
	t.Cleanup(transport.CloseIdleConnections)
	g.client = &http.Client{Transport: transport, Timeout: time.Minute}
	return g
}

func (g *guarded) path(name string) string { return filepath.Join(g.dir, name) }

func (g *guarded) write(t *testing.T, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(g.path(name), []byte(text), 0o600))
}

func (g *guarded) flags() []string {
	return []string{
		"--web.config-file", g.path("web.yml"), "--auth.users-file", g.path("users.yaml"), "--cluster.secret-file", g.path("secret"),
		"--cluster.tls-ca-file", g.path("server.pem"),
	}
}

// token is a user's.
func token(user string) string { return "token-of-" + user + "-in-the-e2e-tests" }

// users writes the users file: name → tenants and rights as YAML. Each has a token; prometheus has a password too.
func (g *guarded) users(t *testing.T, users map[string]string) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	require.NoError(t, err)
	text := "users:\n"
	for _, name := range slices.Sorted(maps.Keys(users)) {
		sum := sha256.Sum256([]byte(token(name)))
		text += fmt.Sprintf("  - {name: %s, tokens_sha256: [%s], password_bcrypt: '%s', %s}\n", name, hex.EncodeToString(sum[:]), hash, users[name])
	}
	g.write(t, "users.yaml", text)
}

// do sends a request as a user; empty = as nobody.
func (g *guarded) do(t *testing.T, method, url, user, tenant string, body []byte) reply {
	t.Helper()
	r, err := g.try(method, url, user, tenant, body)
	require.NoError(t, err)
	return r
}

func (g *guarded) try(method, url, user, tenant string, body []byte) (reply, error) {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	switch name, password, basic := strings.Cut(user, ":"); {
	case basic:
		req.SetBasicAuth(name, password)
	case user != "":
		req.Header.Set("Authorization", "Bearer "+token(user))
	}
	if tenant != "" {
		req.Header.Set("X-Scope-OrgID", tenant)
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	read, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, read}, err
}

// query asks for the values of an instant query by series.
func (g *guarded) query(base, user, tenant, expr string) (result, error) {
	r, err := g.try(http.MethodGet, base+"/prometheus/api/v1/query?query="+url.QueryEscape(expr), user, tenant, nil)
	if err != nil {
		return nil, err
	}
	var e envelope
	if err := json.Unmarshal(r.body, &e); err != nil || r.status != http.StatusOK {
		return nil, fmt.Errorf("status %d: %.300s", r.status, r.body)
	}
	return decode(e.Data)
}

func (g *guarded) ready(t *testing.T, s *instance) {
	t.Helper()
	eventually(t, s.name+" is ready", time.Minute, func() error {
		if !s.running() {
			return fmt.Errorf("%s has exited: %v", s.name, s.err)
		}
		r, err := g.try(http.MethodGet, "https://"+s.addr+"/ready", "", "", nil)
		if err == nil && r.status != http.StatusOK {
			err = fmt.Errorf("status %d: %.300s", r.status, r.body)
		}
		return err
	})
}

func writeRequest(t *testing.T, series ...prompb.TimeSeries) []byte {
	t.Helper()
	raw, err := (&prompb.WriteRequest{Timeseries: series}).Marshal()
	require.NoError(t, err)
	return snappy.Encode(nil, raw)
}

// TestGateway: TLS and users before the whole of it, with a real Prometheus that writes by its password.
func TestGateway(t *testing.T) {
	enabled(t)
	t.Parallel()
	promBin := tool(t, "prometheus", aptHint)
	dir := workDir(t)
	g := newGuarded(t, dir)
	users := map[string]string{
		"prometheus": "tenants: [team-a], rights: [write]",
		"shared":     "tenants: ['team-*', own], default_tenant: own, rights: [write]",
		"grafana":    "tenants: ['team-*', own], rights: [read]",
		"watcher":    "rights: [metrics]",
		"operator":   "rights: [admin]",
	}
	g.users(t, users)
	s := newInstance(t, dir, "all", append(g.flags(), "--self-monitoring.tenant", "team-b", "--tenancy.federation", "--tenancy.label", "team")...)
	s.start()
	base, push := "https://"+s.addr, "https://"+s.addr+"/api/v1/push"
	g.ready(t, s)

	addr := freeAddr(t)
	g.write(t, "prometheus.yml", fmt.Sprintf(`global: {scrape_interval: 1s}
scrape_configs:
  - job_name: prometheus
    static_configs: [{targets: ['%s']}]
remote_write:
  - url: %s
    basic_auth: {username: prometheus, password: right}
    tls_config: {ca_file: server.pem}
    queue_config: {batch_send_deadline: 500ms}
`, addr, push))
	launch(t, dir, "prometheus", nil, promBin, "--config.file="+g.path("prometheus.yml"), "--storage.tsdb.path="+g.path("prometheus"),
		"--web.listen-address="+addr, "--log.level=warn")
	eventually(t, "Prometheus' samples can be read", 40*time.Second, func() error {
		r, err := g.query(base, "grafana", "team-a", `up{job="prometheus"} == 1`)
		if err == nil && len(r) != 1 {
			err = fmt.Errorf("%d series", len(r))
		}
		return err
	})

	t.Run("refusals", func(t *testing.T) {
		body := writeRequest(t, series("refused", 1, time.Now()))
		for _, c := range []struct {
			user, tenant string
			status       int
			id           string
		}{
			{"prometheus:right", "", 204, ""},
			{"prometheus:right", "team-a", 204, ""},
			{"prometheus:wrong", "", 401, "err-sluice-unauthorized"},
			{"nobody:right", "", 401, "err-sluice-unauthorized"},
			{"", "team-a", 401, "err-sluice-unauthorized"},
			{"stranger", "team-a", 401, "err-sluice-unauthorized"},
			{"prometheus:right", "team-b", 403, "err-sluice-tenant-forbidden"},
			{"grafana", "team-a", 403, "err-sluice-forbidden"},
			{"prometheus:right", "team-a|team-b", 400, "err-sluice-tenant-invalid"},
		} {
			r := g.do(t, http.MethodPost, push, c.user, c.tenant, body)
			require.Equal(t, c.status, r.status, "%+v: %s", c, r.body)
			require.Contains(t, string(r.body), c.id)
			require.Equal(t, c.status == 401, r.header.Get("WWW-Authenticate") != "")
		}
		for _, c := range []struct {
			user, tenant string
			status       string
		}{{"grafana", "other", "status 403"}, {"grafana", "team-a|other", "status 403"}, {"grafana", "", "status 400"}, {"prometheus", "team-a", "status 403"}, {"", "team-a", "status 401"}} {
			_, err := g.query(base, c.user, c.tenant, "up")
			require.ErrorContains(t, err, c.status, "%+v", c)
		}
		plain, err := http.Get("http://" + s.addr + "/ready")
		require.NoError(t, err)
		require.NoError(t, plain.Body.Close())
		require.Equal(t, 400, plain.StatusCode, "no plain text on a TLS port")
		_, err = http.Get(base + "/ready")
		require.Error(t, err, "a certificate of nobody we know")
	})

	t.Run("rights", func(t *testing.T) { g.rights(t, base) })

	t.Run("federation", func(t *testing.T) {
		eventually(t, "both tenants have series", 30*time.Second, func() error {
			r, err := g.query(base, "grafana", "team-b|team-a", `count by (__tenant_id__) (up)`)
			if err == nil && (r[`{"__tenant_id__":"team-a"}`] == nil || r[`{"__tenant_id__":"team-b"}`] == nil || len(r) != 2) {
				err = fmt.Errorf("answer: %v", r)
			}
			return err
		})
		r := g.do(t, http.MethodGet, base+"/api/v1/label/__tenant_id__/values?match[]=prometheus_build_info", "grafana", "team-a|team-b", nil)
		require.JSONEq(t, `{"status":"success","data":["team-a"]}`, string(r.body))
	})

	t.Run("one stream for many tenants", func(t *testing.T) {
		now := time.Now()
		body := writeRequest(t, series("split", 1, now, "team", "team-x"), series("split", 2, now, "team", "team-y"), series("split", 3, now), series("split", 4, now, "team", "prod"))
		r := g.do(t, http.MethodPost, push, "shared", "", body)
		require.Equal(t, 400, r.status, string(r.body))
		require.Contains(t, string(r.body), "err-sluice-tenant-forbidden")
		for tenant, want := range map[string]string{"team-x": "1", "team-y": "2", "own": "3"} {
			eventually(t, "the part of "+tenant, 20*time.Second, func() error {
				r, err := g.query(base, "grafana", tenant, "sum(split)")
				if err == nil && (len(r) != 1 || r.one(t) != want) {
					err = fmt.Errorf("answer: %v", r)
				}
				return err
			})
		}
	})

	t.Run("commands", func(t *testing.T) {
		g.write(t, "token", token("operator")+"\n")
		for _, c := range []struct {
			args []string
			exit int
		}{
			{[]string{"ready", "--url", base, "--url.ca-file", g.path("server.pem")}, 0},
			{[]string{"ready", "--url", base, "--url.insecure"}, 0},
			{[]string{"ready", "--url", base}, 1},
			{[]string{"log", "seal", "--wait", "--url", base, "--url.ca-file", g.path("server.pem"), "--url.token-file", g.path("token")}, 0},
			{[]string{"log", "seal", "--url", base, "--url.ca-file", g.path("server.pem")}, 1},
		} {
			out, exit := sluice(t, time.Minute, c.args...)
			require.Equal(t, c.exit, exit, "%q: %s", c.args, out)
		}
	})

	t.Run("a user more", func(t *testing.T) {
		require.Equal(t, 401, g.do(t, http.MethodPost, push, "late:right", "", writeRequest(t)).status)
		g.write(t, "users.yaml", "users: [")
		users["late"] = "tenants: [team-z], rights: [write]"
		delete(users, "watcher")
		g.users(t, users)
		eventually(t, "the new user may write", 50*time.Second, func() error {
			r, err := g.try(http.MethodPost, push, "late:right", "", writeRequest(t, series("late", 1, time.Now())))
			if err == nil && r.status != 204 {
				err = fmt.Errorf("status %d: %s", r.status, r.body)
			}
			return err
		})
		require.Equal(t, 401, g.do(t, http.MethodGet, base+"/metrics", "watcher", "", nil).status, "who was taken out may nothing")
		require.Equal(t, 204, g.do(t, http.MethodPost, push, "prometheus:right", "", writeRequest(t)).status)
	})
	failed, err := instant("http://"+addr, "", `prometheus_remote_storage_samples_failed_total + prometheus_remote_storage_samples_dropped_total`, time.Now())
	require.NoError(t, err)
	require.Equal(t, "0", failed.one(t), "samples that Prometheus could not deliver")
	s.stop()
}

// rights tries every endpoint with every right, and with none. The list is this test's own.
func (g *guarded) rights(t *testing.T, base string) {
	who := map[string]string{"write": "shared", "read": "grafana", "metrics": "watcher", "admin": "operator", "nobody": ""}
	endpoints := map[string][]string{ // by right
		"write":     {"/api/v1/push", "/api/prom/push", "/api/v1/write", "/api/v1/receive", "/otlp/v1/metrics", "/api/v1/otlp/v1/metrics"},
		"read":      {"/api/v1/user_limits", "/api/v1/rejects"},
		"metrics":   {"/metrics"},
		"admin":     {"/config", "/-/seal", "/distributor/ha_tracker", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/heap"},
		"everybody": {"/", "/ready", "/-/ready", "/-/healthy"},
		"cluster":   {"/fetch/select", "/fetch/labels", "/fetch/anything"},
	}
	for _, prefix := range []string{"/prometheus", "/api/prom", ""} {
		for _, e := range []string{
			"query", "query_range", "query_exemplars", "format_query", "parse_query", "series", "labels", "label/job/values", "metadata", "read",
			"rules", "alerts", "alertmanagers", "targets", "scrape_pools", "status/buildinfo", "status/config", "status/flags", "status/runtimeinfo", "features",
		} {
			endpoints["read"] = append(endpoints["read"], prefix+"/api/v1/"+e)
		}
	}
	tried := 0
	for need, paths := range endpoints {
		for _, path := range paths {
			method := http.MethodGet
			if need == "write" || need == "cluster" || path == "/-/seal" || strings.HasSuffix(path, "/read") {
				method = http.MethodPost
			}
			for has, user := range who {
				r := g.do(t, method, base+path, user, "team-a", nil)
				tried++
				switch {
				case need == "everybody" || need == has || need == "metrics" && has == "admin":
					require.NotContains(t, []int{401, 403, 404}, r.status, "%s as %s: %s", path, has, r.body)
				case has == "nobody" || need == "cluster":
					require.Equal(t, 401, r.status, "%s as %s: %s", path, has, r.body)
				default:
					require.Equal(t, 403, r.status, "%s as %s: %s", path, has, r.body)
				}
			}
		}
	}
	// What would take long or end something is tried with those who must not.
	for _, path := range []string{"/-/leave", "/debug/pprof/profile", "/debug/pprof/trace"} {
		for has, user := range who {
			if has != "admin" {
				require.Contains(t, []int{401, 403}, g.do(t, http.MethodPost, base+path, user, "team-a", nil).status, "%s as %s", path, has)
				tried++
			}
		}
	}
	t.Logf("%d requests", tried)
}

// TestGatewayBetweenProcesses: stages that are processes of their own ask each other over TLS and with their secret, and
// whoever does not have it learns nothing.
func TestGatewayBetweenProcesses(t *testing.T) {
	enabled(t)
	t.Parallel()
	dir := workDir(t)
	g := newGuarded(t, dir)
	g.users(t, map[string]string{"writer": "tenants: [team-a], rights: [write]", "grafana": "tenants: [team-a], rights: [read]", "operator": "rights: [admin]"})
	g.write(t, "wrong", "not-the-secret-of-this-cluster\n")
	broker := kafkatest.Start(t, kafkatest.Config{Version: "4", Nodes: 1, Dir: g.path("kafka")})
	bucket := g.path("bucket.yaml")
	g.write(t, "bucket.yaml", "type: FILESYSTEM\nconfig: {directory: "+g.path("bucket")+"}\n")
	where := []string{"--kafka.brokers", strings.Join(broker.Brokers(), ","), "--objstore.config-file", bucket, "--log.partitions", "2"}

	out, exit := sluice(t, time.Minute, append([]string{"reader", "--data-dir", g.path("none"), "--http.listen", freeAddr(t), "--auth.users-file", g.path("users.yaml")}, where...)...)
	require.NotZero(t, exit)
	require.Contains(t, out, "--cluster.secret-file")

	c := newCluster(t, dir, where...)
	producer := c.prepare("producer", "", "producer-0", g.flags()...)
	consumer := c.prepare("consumer", "", "consumer-0", g.flags()...)
	readers := []*member{c.prepare("reader", "", "reader-0", g.flags()...), c.prepare("reader", "", "reader-1", g.flags()...)}
	foreign := c.prepare("reader", "", "reader-2", append(g.flags(), "--cluster.secret-file", g.path("wrong"))...)
	all := append(readers, producer, consumer, foreign)
	for _, m := range all {
		m.start()
	}
	for _, m := range all {
		g.ready(t, m.instance)
	}
	now := time.Now()
	r := g.do(t, http.MethodPost, "https://"+producer.addr+"/api/v1/push", "writer", "", writeRequest(t, series("m", 7, now)))
	require.Equal(t, 204, r.status, string(r.body))
	sum := func(m *member) (result, error) { return g.query("https://"+m.addr, "grafana", "", "sum(m)") }
	right := func(what string) {
		for _, m := range readers {
			eventually(t, m.name+" answers "+what, time.Minute, func() error {
				r, err := sum(m)
				if err == nil && (len(r) != 1 || r.one(t) != "7") {
					err = fmt.Errorf("answer: %v", r)
				}
				return err
			})
		}
	}
	right("from the consumer")
	_, err := sum(foreign)
	require.ErrorContains(t, err, "status 503", "a reader with another secret gets nothing, and says so")
	for _, user := range []string{"", "grafana", "operator"} {
		require.Equal(t, 401, g.do(t, http.MethodPost, "https://"+consumer.addr+"/fetch/select", user, "team-a", []byte("{}")).status)
	}

	r = g.do(t, http.MethodPost, "https://"+producer.addr+"/-/seal?wait=true", "operator", "", nil)
	require.Less(t, r.status, 300, string(r.body))
	right("from blocks, which the readers share")
	for _, m := range all {
		m.stop()
	}
}
