// Package auth knows who may do what. In goes a file of users, read again when it changes, and the Authorization header of a
// request; out comes the user with their tenants and rights, or the reason why not. A second file has the secret by which the
// processes of one cluster know each other. It never keeps or logs a password or a token, and a file that it cannot
// use never replaces one that it could.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"sluice/internal/watch"
	"sluice/schema"
)

// Config of Auth.
type Config struct {
	UsersFile  string        // YAML; empty = nobody is asked who they are
	SecretFile string        // secrets of the cluster, one a line, the first is the one to send; empty = none
	Reload     time.Duration // how often the files are looked at; default 10 s
}

// Validate fills in the defaults and refuses what cannot be meant.
func (c *Config) Validate() error {
	if c.Reload < 0 {
		return fmt.Errorf("reload interval of the users file is %s, must not be negative", c.Reload)
	}
	if c.Reload == 0 {
		c.Reload = 10 * time.Second
	}
	return nil
}

// Auth answers from the last good reading of its files.
type Auth struct {
	cfg     Config
	metrics *metrics
	users   *watch.File[table]   // nil without a users file
	secrets *watch.File[secrets] // nil without a secret
	checks  *checks
}

// New reads the files, which must be there and valid.
func New(cfg Config, logger *slog.Logger, reg prometheus.Registerer) (*Auth, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Auth{cfg: cfg, metrics: newMetrics(reg)}
	var err error
	if a.checks, err = newChecks(time.Now); err != nil {
		return nil, err
	}
	if cfg.UsersFile != "" {
		if a.users, err = openFile(a, cfg.UsersFile, parseUsers, logger); err != nil {
			return nil, err
		}
	}
	if cfg.SecretFile != "" {
		if a.secrets, err = openFile(a, cfg.SecretFile, parseSecrets, logger); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func openFile[T any](a *Auth, path string, parse func([]byte) (*T, error), logger *slog.Logger) (*watch.File[T], error) {
	return watch.Open(watch.Config[T]{
		Path: path, Every: a.cfg.Reload,
		Parse: func(content []byte, _ *T) (*T, error) { return parse(content) },
		Good:  func() { a.metrics.success(path) },
		Bad:   func() { a.metrics.failures.WithLabelValues(path).Inc() },
	}, logger)
}

// Run looks at the files every Config.Reload until ctx ends.
func (a *Auth) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { <-ctx.Done(); return ctx.Err() })
	if a.users != nil {
		g.Go(func() error { return a.users.Run(ctx) })
	}
	if a.secrets != nil {
		g.Go(func() error { return a.secrets.Run(ctx) })
	}
	return g.Wait()
}

// HasUsers tells whether requests must say who they are from.
func (a *Auth) HasUsers() bool { return a.users != nil }

// HasSecret tells whether the cluster has a secret.
func (a *Auth) HasSecret() bool { return a.secrets != nil }

// User returns the user whose credentials h carries. The error is a *schema.Error: 401, or 503 when too many passwords are
// to be checked at once. Only with a users file.
func (a *Auth) User(ctx context.Context, h http.Header) (*User, error) {
	c, err := parseAuthorization(h)
	if err != nil {
		a.metrics.requests.WithLabelValues(resultRefused).Inc()
		return nil, err
	}
	u, err := a.find(ctx, c)
	switch {
	case err != nil:
		a.metrics.requests.WithLabelValues(resultBusy).Inc()
		return nil, err
	case u == nil:
		a.metrics.requests.WithLabelValues(resultRefused).Inc()
		return nil, unauthorized("the password or the token is wrong")
	}
	a.metrics.requests.WithLabelValues(resultKnown).Inc()
	return u, nil
}

// find returns nil for credentials that are nobody's.
func (a *Auth) find(ctx context.Context, c credentials) (*User, error) {
	t := a.users.Load()
	if c.token != "" {
		// The map is looked up by a hash of what was sent: its time says nothing about the tokens.
		return t.byToken[sha256.Sum256([]byte(c.token))], nil
	}
	u := t.byName[c.name]
	if u == nil || len(u.hash) == 0 {
		if t.decoy == nil { // nobody has a password
			return nil, nil
		}
		// As long as for a user who is there, and never more than one of them at a time.
		_, err := a.checks.password(ctx, t.decoy, c.name, c.password)
		return nil, err
	}
	ok, err := a.checks.password(ctx, u, c.name, c.password)
	if err != nil || !ok {
		return nil, err
	}
	return u, nil
}

// Peer returns nil if h carries the cluster's secret, else a *schema.Error.
func (a *Auth) Peer(h http.Header) error {
	if a.secrets == nil {
		return unauthorized("processes ask each other here: it needs --cluster.secret-file, the same for all")
	}
	c, err := parseAuthorization(h)
	if err != nil {
		return err
	}
	got, known := sha256.Sum256([]byte(c.token)), 0
	for _, want := range a.secrets.Load().hashes {
		known |= subtle.ConstantTimeCompare(got[:], want[:])
	}
	if known == 0 {
		return unauthorized("this is not the cluster's secret")
	}
	return nil
}

// Secret returns what this process shows to others; empty = nothing.
func (a *Auth) Secret() string {
	if a.secrets == nil {
		return ""
	}
	return a.secrets.Load().first
}

func unauthorized(format string, args ...any) *schema.Error {
	return schema.NewError(schema.ErrUnauthorized, http.StatusUnauthorized, format, args...)
}

// credentials are a name with a password, or a token.
type credentials struct {
	name, password string
	token          string
}

// maxPassword is what bcrypt looks at; it would take a longer password for its beginning.
const maxPassword = 72

// parseAuthorization reads the one Authorization header. What is wrong with it is a 401 that does not repeat it.
func parseAuthorization(h http.Header) (c credentials, err error) {
	values := h.Values("Authorization")
	switch {
	case len(values) == 0:
		return c, unauthorized("no Authorization header: send a user's password (Basic) or token (Bearer)")
	case len(values) > 1:
		return c, unauthorized("%d Authorization headers, must be one", len(values))
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	rest = strings.TrimLeft(rest, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		if c.token = rest; c.token == "" {
			return c, unauthorized("the Bearer token is empty")
		}
		return c, nil
	case strings.EqualFold(scheme, "Basic"):
		raw, err := base64.StdEncoding.DecodeString(rest)
		if err != nil {
			return c, unauthorized("the Basic credentials are not base64")
		}
		var found bool
		c.name, c.password, found = strings.Cut(string(raw), ":")
		switch {
		case !found || c.name == "":
			return credentials{}, unauthorized("the Basic credentials are not a name, a colon and a password")
		case len(c.password) > maxPassword:
			return credentials{}, unauthorized("the password is longer than %d bytes", maxPassword)
		}
		return c, nil
	}
	return c, unauthorized("the Authorization header is neither Basic nor Bearer")
}

// secrets are those of a cluster.
type secrets struct {
	first  string
	hashes [][sha256.Size]byte
}

// minSecret keeps out what could be guessed.
const minSecret = 16

// parseSecrets reads a file of secrets, one a line. Several are for changing it: first all processes learn the new one in the
// second line, then it moves up.
func parseSecrets(content []byte) (*secrets, error) {
	s := &secrets{}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
			continue
		case len(line) < minSecret:
			return nil, fmt.Errorf("a secret of %d bytes is too short, must have at least %d", len(line), minSecret)
		case strings.ContainsFunc(line, func(r rune) bool { return r <= ' ' || r > '~' }):
			return nil, errors.New("a secret has a character that no header can carry: use letters and digits")
		}
		if s.first == "" {
			s.first = line
		}
		s.hashes = append(s.hashes, sha256.Sum256([]byte(line)))
	}
	if s.first == "" {
		return nil, errors.New("the file has no secret")
	}
	return s, nil
}
