package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"sluice/schema"
)

func hashOf(t testing.TB, password string) string {
	h, err := Hash(strings.NewReader(password), false, bcrypt.MinCost)
	require.NoError(t, err)
	return h
}

func basic(name, password string) http.Header {
	return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))}}
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

func open(t testing.TB, users string) (*Auth, *prometheus.Registry, string) {
	path := filepath.Join(t.TempDir(), "users.yaml")
	require.NoError(t, os.WriteFile(path, []byte(users), 0o600))
	reg := prometheus.NewRegistry()
	a, err := New(Config{UsersFile: path}, slog.New(slog.DiscardHandler), reg)
	require.NoError(t, err)
	return a, reg, path
}

func requireError(t testing.TB, err error, status int, id schema.ErrorID) {
	t.Helper()
	var se *schema.Error
	require.ErrorAs(t, err, &se)
	require.Equal(t, status, se.Status)
	require.Equal(t, id, se.ID)
}

const goodToken = "a-token-of-more-than-twenty-characters"

func twoUsers(t testing.TB) string {
	return fmt.Sprintf(`
users:
  - name: ann
    password_bcrypt: %q
    tenants: [a]
    rights: [write, read]
  - name: robot
    tokens_sha256: [%s]
    tenants: ["dev-*", b]
    rights: [read]
`, hashOf(t, "secret"), tokenHash(goodToken))
}

func TestCredentials(t *testing.T) {
	a, reg, _ := open(t, twoUsers(t))
	for name, c := range map[string]struct {
		h    http.Header
		user string
	}{
		"password":                  {basic("ann", "secret"), "ann"},
		"token":                     {bearer(goodToken), "robot"},
		"any case of the scheme":    {http.Header{"Authorization": {"bEARER  " + goodToken}}, "robot"},
		"wrong password":            {basic("ann", "Secret"), ""},
		"no password":               {basic("ann", ""), ""},
		"unknown user":              {basic("bob", "secret"), ""},
		"user without a password":   {basic("robot", goodToken), ""},
		"the decoy's empty name":    {basic("", "secret"), ""},
		"wrong token":               {bearer(goodToken + "x"), ""},
		"hash instead of the token": {bearer(tokenHash(goodToken)), ""},
		"hash as password":          {basic("ann", hashOf(t, "secret")), ""},
		"empty token":               {bearer(""), ""},
		"no header":                 {http.Header{}, ""},
		"two headers":               {http.Header{"Authorization": {"Bearer " + goodToken, "Bearer " + goodToken}}, ""},
		"other scheme":              {http.Header{"Authorization": {"Digest x"}}, ""},
		"no base64":                 {http.Header{"Authorization": {"Basic !!"}}, ""},
		"no colon":                  {http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("ann"))}}, ""},
		"too long, the same begin":  {basic("ann", "secret"+strings.Repeat("x", 72)), ""},
	} {
		for range 2 { // the second time it is remembered
			u, err := a.User(context.Background(), c.h)
			if c.user == "" {
				requireError(t, err, http.StatusUnauthorized, schema.ErrUnauthorized)
				require.NotContains(t, err.Error(), "secret", name)
				continue
			}
			require.NoError(t, err, name)
			require.Equal(t, c.user, u.Name, name)
		}
	}
	require.InDelta(t, 6, testutil.ToFloat64(a.metrics.requests.WithLabelValues(resultKnown)), 0)
	require.InDelta(t, 30, testutil.ToFloat64(a.metrics.requests.WithLabelValues(resultRefused)), 0)
	n, err := testutil.GatherAndCount(reg, "sluice_auth_requests_total")
	require.NoError(t, err)
	require.Equal(t, 3, n)
}

// bcrypt knows 72 bytes: a password of 72 is told from others, one of 73 is refused before.
func TestLongestPassword(t *testing.T) {
	longest := strings.Repeat("p", maxPassword)
	a, _, _ := open(t, fmt.Sprintf("users: [{name: ann, password_bcrypt: %q, tenants: [a], rights: [read]}]", hashOf(t, longest)))
	_, err := a.User(context.Background(), basic("ann", longest))
	require.NoError(t, err)
	_, err = a.User(context.Background(), basic("ann", longest[1:]))
	require.Error(t, err)
	_, err = a.User(context.Background(), basic("ann", longest+"p"))
	require.Error(t, err)
	_, err = Hash(strings.NewReader(longest+"p"), false, bcrypt.MinCost)
	require.Error(t, err)
}

func TestTenantsOfAUser(t *testing.T) {
	a, _, _ := open(t, twoUsers(t)+`
  - name: many
    tokens_sha256: [`+tokenHash("1")+`]
    tenants: [x, y, "*-shared"]
    default_tenant: y
    rights: [admin, read]
  - name: all
    tokens_sha256: [`+tokenHash("2")+`]
    tenants: ["*"]
    rights: [write]
`)
	user := func(name string) *User { return a.users.Load().byName[name] }
	for _, c := range []struct {
		user, tenant string
		has          bool
	}{
		{"ann", "a", true}, {"ann", "A", false}, {"ann", "aa", false},
		{"robot", "b", true}, {"robot", "dev-", true}, {"robot", "dev-1", true}, {"robot", "xdev-1", false}, {"robot", "dev", false},
		{"many", "x", true}, {"many", "q-shared", true}, {"many", "q-shared-", false}, {"many", "z", false},
		{"all", "anything", true},
	} {
		require.Equal(t, c.has, user(c.user).Has(schema.Tenant(c.tenant)), "%s %s", c.user, c.tenant)
		if !c.has {
			requireError(t, user(c.user).Check(schema.Tenant(c.tenant)), http.StatusForbidden, schema.ErrTenantForbidden)
		}
	}
	require.EqualValues(t, "a", user("ann").Default())
	require.Empty(t, user("robot").Default())
	require.EqualValues(t, "y", user("many").Default())
	require.Empty(t, user("all").Default())

	require.True(t, user("ann").May(Write) && user("ann").May(Read))
	require.False(t, user("ann").May(Admin) || user("ann").May(Metrics) || user("all").May(Read))
	require.True(t, user("many").May(Metrics), "whoever administers sees the metrics")
	require.False(t, user("many").May(Write))
	require.False(t, user("many").May("internal") || user("many").May("everybody"))
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"*", "", true}, {"*", "x", true}, {"a*", "a", true}, {"a*", "ba", false},
		{"*a", "a", true}, {"*a", "ab", false}, {"a*b", "ab", true}, {"a*b", "a", false}, {"a*b", "axxb", true}, {"a*a", "a", false},
		{"a*b*c", "abc", true}, {"a*b*c", "aXbYbZc", true}, {"a*b*c", "acb", false}, {"**", "x", true}, {"a**b", "ab", true},
		{"*ab*ab", "ab", false}, {"*ab*ab", "abab", true}, {"*aab", "aaab", true},
	} {
		require.Equal(t, c.want, matches(c.pattern, c.s), "%s %s", c.pattern, c.s)
	}
}

func TestUsersFilesThatAreRefused(t *testing.T) {
	h := hashOf(t, "secret")
	token := tokenHash(goodToken)
	for name, text := range map[string]string{
		"empty":                       "",
		"no users":                    "users: []",
		"unknown key":                 "users: [{name: a, password: hunter2hunter2, tenants: [a], rights: [read]}]",
		"plain password":              "users: [{name: a, password_bcrypt: hunter2hunter2, tenants: [a], rights: [read]}]",
		"cut hash":                    "users: [{name: a, password_bcrypt: '" + h[:59] + "', tenants: [a], rights: [read]}]",
		"cost of seconds":             "users: [{name: a, password_bcrypt: '" + strings.Replace(h, "$04$", "$15$", 1) + "', tenants: [a], rights: [read]}]",
		"no name":                     "users: [{password_bcrypt: '" + h + "', tenants: [a], rights: [read]}]",
		"colon in the name":           "users: [{name: 'a:b', password_bcrypt: '" + h + "', tenants: [a], rights: [read]}]",
		"twice":                       "users: [{name: a, tokens_sha256: [" + token + "], rights: [admin]}, {name: a, password_bcrypt: '" + h + "', rights: [admin]}]",
		"no credentials":              "users: [{name: a, tenants: [a], rights: [read]}]",
		"no rights":                   "users: [{name: a, password_bcrypt: '" + h + "', tenants: [a]}]",
		"unknown right":               "users: [{name: a, password_bcrypt: '" + h + "', tenants: [a], rights: [internal]}]",
		"no tenants":                  "users: [{name: a, password_bcrypt: '" + h + "', rights: [write]}]",
		"bad tenant":                  "users: [{name: a, password_bcrypt: '" + h + "', rights: [write], tenants: [a/b]}]",
		"two tenants in one":          "users: [{name: a, password_bcrypt: '" + h + "', rights: [write], tenants: ['a|b']}]",
		"foreign default":             "users: [{name: a, password_bcrypt: '" + h + "', rights: [write], tenants: [a], default_tenant: b}]",
		"plain token":                 "users: [{name: a, tokens_sha256: [hunter2hunter2], rights: [admin]}]",
		"the same token for two":      "users: [{name: a, tokens_sha256: [" + token + "], rights: [admin]}, {name: b, tokens_sha256: [" + token + "], rights: [admin]}]",
		"two documents":               "users: [{name: a, password_bcrypt: '" + h + "', rights: [admin]}]\n---\nusers: []",
		"a list where a name belongs": "users: [{name: [hunter2hunter2], rights: [admin]}]",
		"no YAML":                     "users: [",
	} {
		_, err := parseUsers([]byte(text))
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "hunter2", "%s: an error must not repeat what may be a password", name)
	}
}

// Without a file or with a bad one the process does not start; later a bad one changes nothing.
func TestReload(t *testing.T) {
	_, err := New(Config{UsersFile: filepath.Join(t.TempDir(), "none")}, slog.New(slog.DiscardHandler), nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Error(t, (&Config{Reload: -1}).Validate())

	a, _, path := open(t, twoUsers(t))
	ann := func() error {
		_, err := a.User(context.Background(), basic("ann", "secret"))
		return err
	}
	write := func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	write("users: [")
	require.NoError(t, a.users.Reload(), "seen once")
	require.Error(t, a.users.Reload())
	require.NoError(t, ann())
	require.InDelta(t, 1, testutil.ToFloat64(a.metrics.failures.WithLabelValues(path)), 0)
	require.NoError(t, os.Remove(path))
	require.Error(t, a.users.Reload())
	require.NoError(t, ann())

	write(strings.Replace(twoUsers(t), "name: ann", "name: eve", 1))
	require.NoError(t, a.users.Reload())
	require.NoError(t, ann(), "half a file may look whole: it counts once it was seen twice")
	require.NoError(t, a.users.Reload())
	require.Error(t, ann(), "she was remembered, but is not there any more")
	_, err = a.User(context.Background(), basic("eve", "secret"))
	require.NoError(t, err)

	write(strings.Replace(twoUsers(t), "name: ann", "name: eve", 1)) // another hash of the same password
	require.NoError(t, a.users.Reload())
	require.NoError(t, a.users.Reload())
	_, err = a.User(context.Background(), basic("eve", "secret"))
	require.NoError(t, err)
}

// What is in the files becomes known while Run runs.
func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.yaml")
	require.NoError(t, os.WriteFile(path, []byte(twoUsers(t)), 0o600))
	a, err := New(Config{UsersFile: path, Reload: time.Millisecond}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(twoUsers(t), "name: ann", "name: eve", 1)), 0o600))
	require.Eventually(t, func() bool {
		_, err := a.User(context.Background(), basic("eve", "secret"))
		return err == nil
	}, 10*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
}

func TestSecrets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	for _, bad := range []string{"", "\n\n", "fifteen-letters", "sixteen-letters-\nshort", "with a space in the middle of it", "with\x00nul-in-the-middle"} {
		require.NoError(t, os.WriteFile(path, []byte(bad), 0o600))
		_, err := New(Config{SecretFile: path}, slog.New(slog.DiscardHandler), nil)
		require.Error(t, err, "%q", bad)
		require.NotContains(t, err.Error(), "middle")
	}
	require.NoError(t, os.WriteFile(path, []byte("sixteen-letters-\n\n  the-one-to-come-later\n"), 0o600))
	a, err := New(Config{SecretFile: path}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	require.Equal(t, "sixteen-letters-", a.Secret())
	require.True(t, a.HasSecret())
	require.False(t, a.HasUsers())
	require.NoError(t, a.Peer(bearer("sixteen-letters-")))
	require.NoError(t, a.Peer(bearer("the-one-to-come-later")))
	for _, h := range []http.Header{{}, bearer("sixteen-letters"), bearer(""), basic("x", "sixteen-letters-"), bearer("sixteen-letters-\n")} {
		requireError(t, a.Peer(h), http.StatusUnauthorized, schema.ErrUnauthorized)
	}
	none, err := New(Config{}, slog.New(slog.DiscardHandler), nil)
	require.NoError(t, err)
	require.Empty(t, none.Secret())
	requireError(t, none.Peer(bearer("")), http.StatusUnauthorized, schema.ErrUnauthorized)
}

// Many requests with the same password cost one check, and remembered outcomes of one kind do not push out the other.
func TestChecksAreRemembered(t *testing.T) {
	now := time.Unix(1000, 0)
	c, err := newChecks(func() time.Time { return now })
	require.NoError(t, err)
	u := &User{Name: "ann", hash: []byte(hashOf(t, "secret")), slot: make(chan struct{}, 1)}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			ok, err := c.password(context.Background(), u, "ann", "secret")
			if err != nil || !ok {
				t.Error("refused", err)
			}
		})
	}
	all.Wait()
	u.slot <- struct{}{} // from now on nobody can check
	ask := func(password string) (bool, error) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return c.password(ctx, u, "ann", password)
	}
	ok, err := ask("secret")
	require.True(t, ok && err == nil)
	_, err = ask("wrong")
	requireError(t, err, http.StatusServiceUnavailable, schema.ErrAuthBusy)

	for i := range 3 * maxRemembered {
		c.wrong.add(c.key(u, "ann", fmt.Sprint(i)), now)
	}
	require.LessOrEqual(t, len(c.wrong.young)+len(c.wrong.old), 2*maxRemembered)
	ok, err = ask("secret")
	require.True(t, ok && err == nil, "wrong passwords have not pushed out the right one")
	ok, err = ask(fmt.Sprint(3*maxRemembered - 1))
	require.True(t, !ok && err == nil, "a wrong one is remembered too")

	now = now.Add(remember)
	ok, err = ask("secret")
	require.True(t, ok && err == nil, "it is used, so it stays")
	now = now.Add(remember)
	ok, err = ask("secret")
	require.True(t, ok && err == nil)
	now = now.Add(2 * remember)
	_, err = ask("secret")
	require.Error(t, err, "forgotten")

	changed := *u
	changed.hash = []byte(hashOf(t, "other"))
	require.NotEqual(t, c.key(u, "ann", "secret"), c.key(&changed, "ann", "secret"))
	require.NotEqual(t, c.key(u, "ann", "bsecret"), c.key(u, "annb", "secret"))
}

// One user's wrong passwords do not keep others waiting while a core is free.
func TestChecksOfOneUserTakeTurns(t *testing.T) {
	c, err := newChecks(time.Now)
	require.NoError(t, err)
	ann := &User{Name: "ann", hash: []byte(hashOf(t, "secret")), slot: make(chan struct{}, 1)}
	bob := &User{Name: "bob", hash: []byte(hashOf(t, "other")), slot: make(chan struct{}, 1)}
	ann.slot <- struct{}{} // a check of hers is under way
	waiting, stop := context.WithCancel(context.Background())
	var crowd sync.WaitGroup
	for i := range 100 {
		crowd.Go(func() {
			if _, err := c.password(waiting, ann, "ann", fmt.Sprint(i)); err == nil {
				t.Error("checked, although it was not its turn")
			}
		})
	}
	ok, err := c.password(context.Background(), bob, "bob", "other")
	require.True(t, ok && err == nil)
	stop()
	crowd.Wait()
}

func TestHash(t *testing.T) {
	h, err := Hash(strings.NewReader("secret\r\n"), false, bcrypt.MinCost)
	require.NoError(t, err)
	require.NoError(t, bcrypt.CompareHashAndPassword([]byte(h), []byte("secret")))
	h, err = Hash(strings.NewReader(goodToken+"\n"), true, 0)
	require.NoError(t, err)
	require.Equal(t, tokenHash(goodToken), h)
	token, h, err := NewToken()
	require.NoError(t, err)
	require.Equal(t, tokenHash(token), h)
	require.Len(t, token, 43)
	for name, err := range map[string]error{
		"empty":       second(Hash(strings.NewReader("\n"), false, 4)),
		"two lines":   second(Hash(strings.NewReader("a\nb\n"), false, 4)),
		"short token": second(Hash(strings.NewReader("abc"), true, 4)),
		"space":       second(Hash(strings.NewReader(goodToken+" "), true, 4)),
		"cost":        second(Hash(strings.NewReader("a"), false, maxCost+1)),
		"no input":    second(Hash(broken{}, false, 4)),
	} {
		require.Error(t, err, name)
	}
}

func second(_ string, err error) error { return err }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

func FuzzUsersFile(f *testing.F) {
	f.Add([]byte(twoUsers(f)))
	f.Add([]byte("users:\n- &a {name: a, tokens_sha256: [" + tokenHash("x") + "], tenants: ['*'], rights: [read], default_tenant: q}\n- *a\n"))
	f.Add([]byte("users: [{name: a, password_bcrypt: '$2y$04$......................................................'}]"))
	f.Fuzz(func(t *testing.T, content []byte) {
		table, err := parseUsers(content)
		if err != nil {
			return
		}
		require.NotEmpty(t, table.byName)
		for _, u := range table.byName {
			require.NotEmpty(t, u.Name)
			require.NotEmpty(t, u.rights)
			if u.only != "" {
				require.True(t, u.Has(u.only))
			}
			for tenant := range u.tenants {
				_, err := schema.ParseTenant(string(tenant))
				require.NoError(t, err)
			}
		}
	})
}

func FuzzAuthorization(f *testing.F) {
	f.Add("Basic " + base64.StdEncoding.EncodeToString([]byte("ann:secret")))
	f.Add("Bearer " + goodToken)
	f.Add("basic  Og==")
	f.Add("Bearer")
	f.Fuzz(func(t *testing.T, value string) {
		c, err := parseAuthorization(http.Header{"Authorization": {value}})
		if err != nil {
			requireError(t, err, http.StatusUnauthorized, schema.ErrUnauthorized)
			return
		}
		require.NotEqual(t, c.token == "", c.name == "", "either a token or a name")
		require.LessOrEqual(t, len(c.password), maxPassword)
	})
}

func BenchmarkRememberedPassword(b *testing.B) {
	a, _, _ := open(b, twoUsers(b))
	h := basic("ann", "secret")
	for b.Loop() {
		if _, err := a.User(context.Background(), h); err != nil {
			b.Fatal(err)
		}
	}
}
