package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"

	"sluice/schema"
)

// Right is something that a user may do.
type Right string

// The rights. None includes another, but that Admin may read metrics.
const (
	Write   Right = "write"   // samples of their tenants
	Read    Right = "read"    // samples of their tenants
	Metrics Right = "metrics" // of the process itself
	Admin   Right = "admin"   // of the process: seal, leave, profiles, configuration
)

var rights = []Right{Write, Read, Metrics, Admin}

// file is the YAML; deploy/users.example.yaml explains it.
type file struct {
	Users []entry `yaml:"users"`
}

type entry struct {
	Name          string   `yaml:"name"`
	Password      string   `yaml:"password_bcrypt"`
	Tokens        []string `yaml:"tokens_sha256"`
	Tenants       []string `yaml:"tenants"`
	DefaultTenant string   `yaml:"default_tenant"`
	Rights        []Right  `yaml:"rights"`
}

// User is one of the users file. It is never changed.
type User struct {
	Name string

	hash     []byte // bcrypt; empty = no password
	slot     chan struct{}
	rights   []Right
	tenants  map[schema.Tenant]bool // by name
	patterns []string               // those with a *
	only     schema.Tenant          // meant when a request names none; empty = it must name one
}

// May tells whether the user has a right.
func (u *User) May(r Right) bool {
	return slices.Contains(u.rights, r) || r == Metrics && slices.Contains(u.rights, Admin)
}

// Has tells whether the tenant is one of the user's.
func (u *User) Has(t schema.Tenant) bool {
	if u.tenants[t] {
		return true
	}
	for _, p := range u.patterns {
		if matches(p, string(t)) {
			return true
		}
	}
	return false
}

// Named returns the user's tenants that are given by name, sorted.
func (u *User) Named() []schema.Tenant { return slices.Sorted(maps.Keys(u.tenants)) }

// Patterns returns the user's tenants that are given by patterns, as in the file: * stands for any characters.
func (u *User) Patterns() []string { return slices.Clone(u.patterns) }

// Default returns the tenant of a request that names none; empty if it has to.
func (u *User) Default() schema.Tenant { return u.only }

// Check returns nil if the tenant is one of the user's, else a *schema.Error.
func (u *User) Check(t schema.Tenant) error {
	if u.Has(t) {
		return nil
	}
	return schema.NewError(schema.ErrTenantForbidden, http.StatusForbidden, "tenant %s is none of user %s", t, u.Name)
}

type userKey struct{}

// WithUser returns a context that carries the user.
func WithUser(ctx context.Context, u *User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// UserFrom returns the user that WithUser put into ctx; nil if there is none.
func UserFrom(ctx context.Context) *User {
	u, _ := ctx.Value(userKey{}).(*User)
	return u
}

// matches tells whether s is what pattern says, in which each * stands for any characters. A * is a character of tenant IDs
// too, which it thereby matches.
func matches(pattern, s string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	for {
		var part string
		if part, rest, star = strings.Cut(rest, "*"); !star {
			return strings.HasSuffix(s, part)
		}
		// The first place is the best: it leaves most for what follows.
		at := strings.Index(s, part)
		if at < 0 {
			return false
		}
		s = s[at+len(part):]
	}
}

// table is one good reading of the users file. It is never changed once it can be seen.
type table struct {
	byName  map[string]*User
	byToken map[[sha256.Size]byte]*User
	decoy   *User // with a password that nobody has, as costly as that of others; nil if nobody has a password
}

// maxCost bounds what one wrong password costs us: 2^14 rounds are a second.
const maxCost = 14

var bcryptHash = regexp.MustCompile(`^\$2[aby]?\$[0-9]{2}\$[./A-Za-z0-9]{53}$`)

// parseUsers reads a users file.
func parseUsers(content []byte) (*table, error) {
	var f file
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, hidden(err)
	}
	if err := dec.Decode(&file{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	t := &table{byName: make(map[string]*User, len(f.Users)), byToken: map[[sha256.Size]byte]*User{}}
	for i := range f.Users {
		if err := t.add(&f.Users[i]); err != nil {
			return nil, fmt.Errorf("user %d, %.50q: %w", i+1, f.Users[i].Name, err)
		}
	}
	if len(t.byName) == 0 {
		return nil, errors.New("the file has no users: nobody could do anything")
	}
	return t, nil
}

// hidden is a YAML error without what it may quote of the file: somebody may have put a password there.
func hidden(err error) error {
	var types *yaml.TypeError
	if !errors.As(err, &types) {
		return err
	}
	lines := make([]string, len(types.Errors))
	for i, e := range types.Errors {
		lines[i], _, _ = strings.Cut(fmt.Sprint(e), ":")
		if strings.Contains(fmt.Sprint(e), "not found in type") {
			lines[i] = strings.TrimSuffix(fmt.Sprint(e), " in type auth.entry")
		} else {
			lines[i] += ": a value of the wrong type"
		}
	}
	return errors.New(strings.Join(lines, "; "))
}

// add checks an entry and takes it in.
func (t *table) add(e *entry) error {
	switch {
	case e.Name == "":
		return errors.New("it has no name")
	case strings.ContainsFunc(e.Name, func(r rune) bool { return r < ' ' || r == ':' || r == 0x7f }):
		return errors.New("the name has a colon or a control character, which Basic cannot carry")
	case t.byName[e.Name] != nil:
		return errors.New("the name is there twice")
	case e.Password == "" && len(e.Tokens) == 0:
		return errors.New("it has neither password_bcrypt nor tokens_sha256")
	case len(e.Rights) == 0:
		return errors.New("it has no rights: write, read, metrics, admin")
	}
	u := &User{Name: e.Name, slot: make(chan struct{}, 1), tenants: map[schema.Tenant]bool{}, rights: e.Rights}
	for _, r := range e.Rights {
		if !slices.Contains(rights, r) {
			return errors.New("a right is none of write, read, metrics, admin")
		}
	}
	if (u.May(Write) || u.May(Read)) && len(e.Tenants) == 0 {
		return errors.New("it may write or read but has no tenants")
	}
	if err := u.setTenants(e); err != nil {
		return err
	}
	if err := t.setPassword(u, e.Password); err != nil {
		return err
	}
	for _, text := range e.Tokens {
		raw, err := hex.DecodeString(text)
		if err != nil || len(raw) != sha256.Size {
			return errors.New("tokens_sha256 has what is not the SHA-256 of a token in 64 hex digits: make it with sluice auth hash --token")
		}
		if t.byToken[[sha256.Size]byte(raw)] != nil {
			return errors.New("a token is there twice")
		}
		t.byToken[[sha256.Size]byte(raw)] = u
	}
	t.byName[e.Name] = u
	return nil
}

func (u *User) setTenants(e *entry) error {
	for _, name := range e.Tenants {
		if strings.Contains(name, "*") {
			if len(name) > schema.MaxTenantLength {
				return fmt.Errorf("tenants: a pattern of %d bytes is longer than %d", len(name), schema.MaxTenantLength)
			}
			u.patterns = append(u.patterns, name)
			continue
		}
		tenant, err := schema.ParseTenant(name)
		if err != nil {
			return fmt.Errorf("tenants: %w", err)
		}
		u.tenants[tenant] = true
		u.only = tenant
	}
	if len(u.tenants) > 1 || len(u.patterns) > 0 {
		u.only = ""
	}
	if e.DefaultTenant == "" {
		return nil
	}
	tenant, err := schema.ParseTenant(e.DefaultTenant)
	switch {
	case err != nil:
		return fmt.Errorf("default_tenant: %w", err)
	case !u.Has(tenant):
		return errors.New("default_tenant is none of its tenants")
	}
	u.only = tenant
	return nil
}

func (t *table) setPassword(u *User, hash string) error {
	if hash == "" {
		return nil
	}
	if !bcryptHash.MatchString(hash) {
		return errors.New("password_bcrypt is no bcrypt hash: make it with sluice auth hash")
	}
	cost, err := bcrypt.Cost([]byte(hash))
	switch {
	case err != nil:
		return errors.New("password_bcrypt is no bcrypt hash: make it with sluice auth hash")
	case cost > maxCost:
		return fmt.Errorf("password_bcrypt has a cost of %d, at most %d is taken: each step doubles the time of a check", cost, maxCost)
	}
	u.hash = []byte(hash)
	if t.decoy == nil {
		t.decoy = &User{Name: "", hash: u.hash, slot: make(chan struct{}, 1)}
	}
	return nil
}
