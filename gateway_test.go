package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v2"

	"sluice/internal/auth"
	"sluice/internal/catalog"
	"sluice/internal/limits"
	"sluice/internal/log"
	"sluice/internal/members"
)

// cliContext is what `sluice args…` hands to its action.
func cliContext(t *testing.T, args ...string) *cli.Context {
	var got *cli.Context
	a := app()
	for _, c := range a.Commands {
		if c.Name == args[0] {
			c.Action = func(c *cli.Context) error { got = c; return nil }
		}
	}
	require.NoError(t, a.Run(append([]string{"sluice"}, args...)))
	require.NotNil(t, got)
	return got
}

// mounted is a process with all stages, none of which runs.
func mounted(t *testing.T, args ...string) *process {
	args = append([]string{"all", "--data-dir", t.TempDir(), "--self-monitoring.tenant", ""}, args...)
	return built(t, args, "producer", "consumer", "compactor", "reader", selfMonitoring)
}

// built is a process of the given stages, none of which runs.
func built(t *testing.T, args []string, stages ...string) *process {
	c := cliContext(t, args...)
	p := &process{cli: c, logger: slog.New(slog.DiscardHandler), reg: prometheus.NewRegistry(), mux: http.NewServeMux(), instance: "test", advertise: "127.0.0.1:1"}
	require.NoError(t, p.openGateway(stages))
	var err error
	p.log, err = openLog(c, p.logger, p.reg, false)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.log.Close()) })
	p.bucket, err = openBucket(c, p.logger, p.reg)
	require.NoError(t, err)
	p.limits, err = limits.New(limits.Config{}, p.logger, p.reg)
	require.NoError(t, err)
	p.catalog, p.control = catalog.New(p.log, p.logger, p.reg), log.NewTable(p.log, log.TopicControl)
	p.directory = members.NewDirectory(p.control, p.logger)
	require.NoError(t, p.build(stages))
	return p
}

// patterns are those on a mux, which has no method that tells them.
func patterns(mux *http.ServeMux) map[string]bool {
	found, seen := map[string]bool{}, map[uintptr]bool{}
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			if v.IsNil() || seen[v.Pointer()] {
				return
			}
			seen[v.Pointer()] = true
			walk(v.Elem())
		case reflect.Struct:
			if v.Type().Name() == "pattern" {
				found[v.FieldByName("str").String()] = true
				return
			}
			for i := range v.NumField() {
				walk(v.Field(i))
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i))
			}
		case reflect.Map:
			for it := v.MapRange(); it.Next(); {
				walk(it.Value())
			}
		}
	}
	walk(reflect.ValueOf(mux).Elem().FieldByName("tree"))
	return found
}

// An endpoint without a line in rights, or a line without an endpoint, is a mistake.
func TestEveryEndpointHasARight(t *testing.T) {
	found, table := patterns(mounted(t).mux), rights()
	require.Greater(t, len(found), 60, "net/http has changed: this test does not find the patterns any more")
	for pattern := range found {
		if table[pattern] == "" {
			t.Errorf("%s is mounted, but rights() in gateway.go does not say who may use it", pattern)
		}
	}
	for pattern := range table {
		if !found[pattern] {
			t.Errorf("rights() in gateway.go has a line for %s, which is not mounted", pattern)
		}
	}
}

// request makes a request that the pattern takes.
func request(pattern string, header http.Header) *http.Request {
	method, path, ok := strings.Cut(pattern, " ")
	if !ok {
		method, path = http.MethodPost, pattern
	}
	path = strings.NewReplacer("{$}", "", "{name}", "job").Replace(path)
	r := httptest.NewRequest(method, path, strings.NewReader(""))
	for k, v := range header {
		r.Header[k] = v
	}
	return r
}

const testSecret = "the-secret-of-the-cluster"

// usersFile writes users whose names are their one right and whose tokens are their names, ten times.
func usersFile(t *testing.T, dir string) string {
	text := "users:\n"
	for _, right := range []auth.Right{auth.Write, auth.Read, auth.Metrics, auth.Admin} {
		sum, err := auth.Hash(strings.NewReader(strings.Repeat(string(right), 10)), true, 0)
		require.NoError(t, err)
		text += "  - {name: " + string(right) + ", tokens_sha256: [" + sum + "], tenants: [a], rights: [" + string(right) + "]}\n"
	}
	path := filepath.Join(dir, "users.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func tokenOf(right auth.Right) http.Header {
	token := strings.Repeat(string(right), 10)
	if right == internal {
		token = testSecret
	}
	return http.Header{"Authorization": {"Bearer " + token}}
}

// Each endpoint is tried with each right: whoever has not the one that it needs gets no further than the gateway.
func TestRights(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	require.NoError(t, os.WriteFile(secret, []byte(testSecret), 0o600))
	p := mounted(t, "--auth.users-file", usersFile(t, dir), "--cluster.secret-file", secret)
	var reached bool
	behind := http.NewServeMux() // the same patterns, without what is behind them
	for pattern := range patterns(p.mux) {
		behind.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) { reached = true })
	}
	behind.HandleFunc("POST /a/new/one", func(http.ResponseWriter, *http.Request) { reached = true })
	p.mux = behind
	h := p.gateway()
	try := func(pattern string, header http.Header) (int, http.Header) {
		reached = false
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request(pattern, header))
		if reached {
			return 0, nil
		}
		return w.Code, w.Header()
	}
	table := rights()
	table["POST /a/new/one"] = auth.Admin // it has no line: nobody else may
	for pattern, need := range table {
		for _, has := range []auth.Right{auth.Write, auth.Read, auth.Metrics, auth.Admin, internal} {
			code, _ := try(pattern, tokenOf(has))
			switch {
			case need == everybody, has == need, need == auth.Metrics && has == auth.Admin, need == somebody && has != internal:
				require.Zero(t, code, "%s with %s", pattern, has)
			case has == internal || need == internal: // not known there at all
				require.Equal(t, http.StatusUnauthorized, code, "%s with %s", pattern, has)
			default:
				require.Equal(t, http.StatusForbidden, code, "%s with %s", pattern, has)
			}
		}
		code, header := try(pattern, nil)
		if need == everybody {
			require.Zero(t, code, pattern)
			continue
		}
		require.Equal(t, http.StatusUnauthorized, code, pattern)
		require.Len(t, header.Values("WWW-Authenticate"), 2)
		_, header = try(pattern, http.Header{"X-Requested-With": {"XMLHttpRequest"}})
		require.Equal(t, []string{`Bearer realm="sluice"`}, header.Values("WWW-Authenticate"), "a browser must not open its own form over the page's")
		code, _ = try(pattern, http.Header{"X-Scope-Orgid": {"a"}})
		require.Equal(t, http.StatusUnauthorized, code, "%s: a header is nobody", pattern)
	}

	// A way round the table would be a path that the mux takes for another.
	for _, path := range []string{"//metrics", "/./metrics", "/ready/../metrics", "/%6detrics", "/fetch/../metrics"} {
		w := httptest.NewRecorder()
		reached = false
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path = path
		h.ServeHTTP(w, r)
		require.False(t, reached, path)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/no/such/page", nil))
	require.Equal(t, http.StatusNotFound, w.Code)
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/-/seal", nil))
	require.Equal(t, http.StatusMethodNotAllowed, w.Code)
	w = httptest.NewRecorder()
	reached = false
	h.ServeHTTP(w, httptest.NewRequest(http.MethodOptions, "/prometheus/api/v1/query", nil))
	require.True(t, reached, "a browser asks first, without credentials")
	w = httptest.NewRecorder()
	reached = false
	h.ServeHTTP(w, httptest.NewRequest(http.MethodOptions, "/api/v1/push", nil))
	require.False(t, reached)
}

// A secret alone closes what is between processes, and nothing else.
func TestSecretAlone(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte(testSecret), 0o600))
	p := mounted(t, "--cluster.secret-file", secret)
	h := p.gateway()
	code := func(pattern string, header http.Header) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request(pattern, header))
		return w.Code
	}
	require.Equal(t, http.StatusUnauthorized, code("POST /fetch/select", nil))
	require.NotEqual(t, http.StatusUnauthorized, code("POST /fetch/select", tokenOf(internal)))
	require.Equal(t, http.StatusOK, code("GET /config", nil))
	require.Equal(t, http.StatusOK, code("GET /metrics", nil))

	open := mounted(t)
	require.Same(t, open.mux, open.gateway(), "neither users nor a secret: nothing stands before the mux")
}

func TestGatewayFlagsThatExclude(t *testing.T) {
	users := usersFile(t, t.TempDir())
	for _, c := range []struct {
		args []string
		ok   bool
	}{
		{[]string{"all", "--tenancy.off"}, true},
		{[]string{"all", "--tenancy.off", "--auth.users-file", users}, false},
		{[]string{"all", "--tenancy.off", "--tenancy.required"}, false},
		{[]string{"all", "--tenancy.off", "--tenancy.federation"}, false},
		{[]string{"all", "--tenancy.off", "--tenancy.label", "x"}, false},
		{[]string{"all", "--tenancy.federation", "--tenancy.federation-max-tenants", "0"}, false},
		{[]string{"all", "--tenancy.federation"}, true},
		{[]string{"all", "--auth.users-file", users}, true},
		{[]string{"all", "--auth.users-file", users + "x"}, false},
		{[]string{"reader", "--auth.users-file", users, "--kafka.brokers", "127.0.0.1:1"}, false},
		{[]string{"consumer", "--auth.users-file", users, "--kafka.brokers", "127.0.0.1:1"}, false},
		{[]string{"producer", "--auth.users-file", users, "--kafka.brokers", "127.0.0.1:1"}, true},
	} {
		p := &process{cli: cliContext(t, c.args...), logger: slog.New(slog.DiscardHandler), reg: prometheus.NewRegistry()}
		stages := []string{c.args[0]}
		if c.args[0] == "all" {
			stages = []string{"producer", "consumer", "compactor", "reader"}
		}
		if err := p.openGateway(stages); c.ok {
			require.NoError(t, err, "%q", c.args)
		} else {
			require.Error(t, err, "%q", c.args)
		}
	}
}

// deploy/users.example.yaml is a users file, and its comments tell the truth about its passwords and tokens.
func TestExampleUsers(t *testing.T) {
	a, err := auth.New(auth.Config{UsersFile: "deploy/users.example.yaml"}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.SetBasicAuth("team-a", "change-me")
	u, err := a.User(t.Context(), r.Header)
	require.NoError(t, err)
	require.EqualValues(t, "team-a", u.Default())
	require.True(t, u.May(auth.Write) && u.May(auth.Read) && !u.May(auth.Admin))
	for token, name := range map[string]string{"example-token-of-grafana": "grafana", "example-token-of-the-operator": "operator"} {
		u, err := a.User(t.Context(), http.Header{"Authorization": {"Bearer " + token}})
		require.NoError(t, err, token)
		require.Equal(t, name, u.Name)
	}
}

func TestAuthCommand(t *testing.T) {
	run := func(in string, args ...string) (string, error) {
		var out bytes.Buffer
		a := app()
		a.Reader, a.Writer, a.ErrWriter = strings.NewReader(in), &out, io.Discard
		err := a.RunContext(context.Background(), append([]string{"sluice", "auth"}, args...))
		return strings.TrimSpace(out.String()), err
	}
	hash, err := run("change-me\n", "hash", "--cost", "4")
	require.NoError(t, err)
	require.Regexp(t, `^\$2a\$04\$.{53}$`, hash)
	sum, err := run("example-token-of-grafana\n", "hash", "--token")
	require.NoError(t, err)
	require.Len(t, sum, 64)
	both, err := run("", "token")
	require.NoError(t, err)
	token, sum, ok := strings.Cut(both, "\n")
	require.True(t, ok)
	again, err := run(token, "hash", "--token")
	require.NoError(t, err)
	require.Equal(t, sum, again)
	_, err = run("", "hash")
	require.Error(t, err)
}
