package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"sluice/internal/auth"
	"sluice/internal/fetch"
	"sluice/internal/page"
	"sluice/internal/web"
	"sluice/schema"
)

// What stands before every endpoint: who asks, and may they. docs/gateway.md is for those who set it up.

// gatewayFlags belong to every command that serves HTTP.
func gatewayFlags() []cli.Flag {
	return []cli.Flag{
		stringFlag("web.config-file", "", "Prometheus' web configuration: the certificate to serve HTTPS with, client certificates; read again when it changes"),
		stringFlag("auth.users-file", "", "YAML file with users, their passwords or tokens, tenants and rights; read again when it changes; default is to trust the X-Scope-OrgID header (docs/gateway.md)"),
		stringFlag("cluster.secret-file", "", "file with the secret by which the processes of one cluster know each other, one a line, the first is sent: needed where a users file and several processes come together"),
		stringFlag("cluster.tls-ca-file", "", "certificates that other processes' certificates are checked with; default is the system's"),
		stringFlag("cluster.tls-cert-file", "", "certificate to show to other processes, where --web.config-file asks clients for one"),
		stringFlag("cluster.tls-key-file", "", "its key"),
		stringFlag("cluster.tls-server-name", "", "name that is expected in other processes' certificates, where it is not the host in --http.advertise"),
		boolFlag("tenancy.off", "take every request as tenant anonymous, whatever X-Scope-OrgID says: for one team behind a proxy that sets it by habit"),
	}
}

// tenancyWriteFlags belong to the producer, tenancyReadFlags to the reader.
func tenancyWriteFlags() []cli.Flag {
	return []cli.Flag{
		stringFlag("tenancy.label", "", "label whose value is the tenant of a series, so that one Prometheus writes for many tenants; series without it go to the request's own tenant"),
		boolFlag("tenancy.label-strip", "take the label of --tenancy.label off the series"),
	}
}

func tenancyReadFlags() []cli.Flag {
	return []cli.Flag{
		boolFlag("tenancy.federation", "let a query be about several tenants, X-Scope-OrgID: a|b; its series get the label __tenant_id__"),
		intFlag("tenancy.federation-max-tenants", 50, "most tenants that one query may be about: each is a query of its own"),
	}
}

// Who may use an endpoint; beside these, a right of the users file.
const (
	everybody auth.Right = "everybody" // says nothing that is anybody's
	internal  auth.Right = "internal"  // other processes of the cluster
	somebody  auth.Right = "somebody"  // any user, whatever his rights
)

// rights says, for every pattern on the mux, which right it needs. TestEveryEndpointHasARight holds it to be complete; what
// is missing nevertheless needs auth.Admin.
func rights() map[string]auth.Right {
	table := map[string]auth.Right{
		"/fetch/": internal,

		"GET /{$}":       everybody,
		"GET /ready":     everybody,
		"GET /-/ready":   everybody,
		"GET /-/healthy": everybody,

		"GET /metrics":  auth.Metrics,
		"GET /config":   auth.Admin,
		"POST /-/seal":  auth.Admin,
		"POST /-/leave": auth.Admin,

		"GET /-/active_queries":         auth.Admin, // of every tenant
		"POST /-/active_queries/cancel": auth.Admin,
		"GET /-/top_queries":            auth.Admin,
		"GET /-/pipeline":               auth.Admin,

		"/debug/pprof/":        auth.Admin,
		"/debug/pprof/cmdline": auth.Admin,
		"/debug/pprof/profile": auth.Admin,
		"/debug/pprof/symbol":  auth.Admin,
		"/debug/pprof/trace":   auth.Admin,

		"GET /-/tenants": auth.Admin, // every tenant

		"GET /distributor/ha_tracker": auth.Admin, // shows every tenant

		"GET /api/v1/user_limits": auth.Read,
		"GET /api/v1/rejects":     auth.Read,

		"/otlp/v1/metrics":        auth.Write,
		"/api/v1/otlp/v1/metrics": auth.Write,

		"/api/v1/push":    auth.Write,
		"/api/prom/push":  auth.Write,
		"/api/v1/write":   auth.Write,
		"/api/v1/receive": auth.Write,
	}
	for _, pattern := range page.Patterns() { // the same for all; what it shows comes from the API
		table[pattern] = everybody
	}
	for _, prefix := range []string{"/prometheus", "/api/prom", ""} {
		table[prefix+"/federate"] = auth.Read
	}
	for _, prefix := range []string{"/prometheus/api/v1", "/api/prom/api/v1", "/api/v1"} {
		for _, endpoint := range []string{
			"/query", "/query_range", "/query_exemplars", "/format_query", "/parse_query", "/series", "/labels",
			"/label/{name}/values", "/search/metric_names", "/search/label_names", "/search/label_values",
			"/metadata", "/read", "/rules", "/alerts", "/alertmanagers", "/targets", "/targets/metadata", "/targets/relabel_steps",
			"/scrape_pools", "/scrape_pools/config", "/notifications", "/notifications/live",
			"/status/buildinfo", "/status/config", "/status/flags", "/status/runtimeinfo", "/features",
			"/status/tsdb", "/status/tsdb/blocks", "/status/metric_names_stats", "/status/walreplay",
			"/cardinality/label_names", "/cardinality/label_values", "/cardinality/active_series", "/cardinality/over_time",
		} {
			table[prefix+endpoint] = auth.Read
		}
		table["GET "+prefix+"/status/active_queries"] = auth.Read // a tenant's own
		table["POST "+prefix+"/status/active_queries/cancel"] = auth.Read
		table["DELETE "+prefix+"/status/active_queries/{id}"] = auth.Read
		table["GET "+prefix+"/status/top_queries"] = auth.Read
		table["GET "+prefix+"/status/tenant"] = auth.Read
		table["GET "+prefix+"/status/blocks"] = auth.Read
		table["GET "+prefix+"/status/blocks/{id}"] = auth.Read
		table["GET "+prefix+"/status/access"] = somebody // says what he may do
	}
	return table
}

// openGateway reads who may do what.
func (p *process) openGateway(stages []string) (err error) {
	c := p.cli
	p.tenancy = web.Tenancy{Required: c.Bool("tenancy.required"), Off: c.Bool("tenancy.off"), Users: c.String("auth.users-file") != ""}
	if c.Bool("tenancy.federation") {
		if p.tenancy.MaxFederated = c.Int("tenancy.federation-max-tenants"); p.tenancy.MaxFederated < 1 {
			return fmt.Errorf("--tenancy.federation-max-tenants is %d, must be at least 1", p.tenancy.MaxFederated)
		}
	}
	if p.tenancy.Off && (p.tenancy.Required || p.tenancy.Users || p.tenancy.MaxFederated > 0 || c.String("tenancy.label") != "") {
		return errors.New("--tenancy.off excludes --auth.users-file and the other --tenancy flags")
	}
	p.auth, err = auth.New(auth.Config{UsersFile: c.String("auth.users-file"), SecretFile: c.String("cluster.secret-file")}, p.logger, p.reg)
	if err != nil {
		return err
	}
	kafka, err := kafkaConfig(c)
	if err != nil {
		return err
	}
	asked := false // whether others ask this process
	for _, s := range stages {
		asked = asked || s == "consumer" || s == "reader"
	}
	if kafka != nil && asked && p.auth.HasUsers() && !p.auth.HasSecret() {
		return errors.New("--auth.users-file needs --cluster.secret-file here: the processes of the cluster ask each other, and nobody else may")
	}
	return nil
}

// gateway is the handler of the whole port. Without a users file and a secret it is the mux itself.
func (p *process) gateway() http.Handler {
	if !p.auth.HasUsers() && !p.auth.HasSecret() {
		return p.mux
	}
	table := rights()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, pattern := p.mux.Handler(r)
		need, listed := table[pattern]
		switch {
		case pattern == "": // there is nothing, which the mux says best
			need = everybody
		case !listed:
			need = auth.Admin
		}
		ctx, err := p.admit(r, need)
		if err != nil {
			refuse(w, r, err)
			return
		}
		p.mux.ServeHTTP(w, r.WithContext(ctx))
	})
}

// admit finds out who asks and whether they may.
func (p *process) admit(r *http.Request, need auth.Right) (context.Context, error) {
	ctx := r.Context()
	switch {
	case need == everybody:
		return ctx, nil
	case need == internal:
		return ctx, p.auth.Peer(r.Header)
	case !p.auth.HasUsers():
		return ctx, nil
	case need == auth.Read && r.Method == http.MethodOptions: // a browser asks whether it may ask, and shows nothing yet
		return ctx, nil
	}
	u, err := p.auth.User(ctx, r.Header)
	if err != nil {
		return nil, err
	}
	if need != somebody && !u.May(need) {
		return nil, schema.NewError(schema.ErrForbidden, http.StatusForbidden, "user %s does not have the right %q, which %.100s needs", u.Name, need, r.URL.Path)
	}
	return auth.WithUser(ctx, u), nil
}

// refuse answers somebody who may not.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	var se *schema.Error
	if errors.As(err, &se) && se.Status == http.StatusUnauthorized {
		if r.Header.Get("X-Requested-With") != "XMLHttpRequest" { // a page asks for the password itself: the browser must not
			w.Header().Add("WWW-Authenticate", `Basic realm="sluice", charset="UTF-8"`)
		}
		w.Header().Add("WWW-Authenticate", `Bearer realm="sluice"`)
	}
	web.Error(w, r, err)
}

// peers is the client with which this process asks others of the cluster.
func (p *process) peers() (*http.Client, error) {
	t := fetch.NewTransport()
	var err error
	if t.TLSClientConfig, err = clientTLS(p.cli, "cluster.tls-").Config(); err != nil {
		return nil, fmt.Errorf("--cluster.tls-…: %w", err)
	}
	return &http.Client{Transport: web.WithBearer(t, p.auth.Secret)}, nil
}

func clientTLS(c *cli.Context, prefix string) web.ClientTLS {
	return web.ClientTLS{
		CAFile: c.String(prefix + "ca-file"), CertFile: c.String(prefix + "cert-file"), KeyFile: c.String(prefix + "key-file"),
		ServerName: c.String(prefix + "server-name"),
	}
}

// urlFlags are those of commands that ask a running process.
func urlFlags(what string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "url", Value: "http://127.0.0.1:9009", Usage: what},
		&cli.StringFlag{Name: "url.ca-file", Usage: "with https: certificates that the process' own is checked with; default is the system's"},
		&cli.StringFlag{Name: "url.server-name", Usage: "with https: name that is expected in its certificate"},
		&cli.BoolFlag{Name: "url.insecure", Usage: "with https: take any certificate, as for a health check on the machine itself"},
		&cli.StringFlag{Name: "url.token-file", Usage: "file with the bearer token of a user, where the process has a users file"},
	}
}

// askURL sends a request to the process that urlFlags name.
func askURL(c *cli.Context, req *http.Request) (*http.Response, error) {
	trust := clientTLS(c, "url.")
	trust.Insecure = c.Bool("url.insecure")
	conf, err := trust.Config()
	if err != nil {
		return nil, fmt.Errorf("--url.ca-file: %w", err)
	}
	if file := c.String("url.token-file"); file != "" {
		token, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--url.token-file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	t := fetch.NewTransport()
	t.TLSClientConfig = conf
	defer t.CloseIdleConnections()
	return (&http.Client{Transport: t}).Do(req)
}

// address is how others reach this process, as it announces it: host:port, with https:// in front where that is needed.
func (p *process) address() string {
	if p.scheme == "https" {
		return "https://" + p.advertise
	}
	return p.advertise
}

// authCommand makes what a users file holds.
func authCommand() *cli.Command {
	return &cli.Command{
		Name: "auth", Usage: "make what a users file holds",
		Subcommands: []*cli.Command{
			{
				Name: "hash", Usage: "read a password from standard input and print its bcrypt hash, or with --token the SHA-256 of a token",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "token", Usage: "it is a bearer token: print what goes into tokens_sha256"},
					&cli.IntFlag{Name: "cost", Value: auth.DefaultCost, Usage: "of the bcrypt hash: each step doubles the time of a check, for us and for whoever steals the file"},
				},
				Action: func(c *cli.Context) error {
					text, err := auth.Hash(c.App.Reader, c.Bool("token"), c.Int("cost"))
					if err == nil {
						_, err = fmt.Fprintln(c.App.Writer, text)
					}
					return err
				},
			},
			{
				Name: "token", Usage: "print a new random token, and in the second line what goes into tokens_sha256",
				Action: func(c *cli.Context) error {
					token, hash, err := auth.NewToken()
					if err == nil {
						_, err = fmt.Fprintf(c.App.Writer, "%s\n%s\n", token, hash)
					}
					return err
				},
			},
		},
	}
}
