package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"sluice/schema"
)

const (
	// remember is how long the outcome of a check is known after it was last asked for, at least; twice that at most.
	remember = 5 * time.Minute
	// maxRemembered bounds each of the four maps: some 80 bytes an entry.
	maxRemembered = 10_000
	// checkPatience is how long a request waits for its turn. Its sender comes back.
	checkPatience = 2 * time.Second
)

// checks compares passwords with their bcrypt hashes, which is slow on purpose: half of the cores at most do it, one check at
// a time for each user, and what came out is remembered. An outcome never becomes wrong, for its key holds the hash and the
// password. Wrong passwords are remembered apart, so that they cannot push out the right ones.
type checks struct {
	secret [32]byte // keys the hashes under which outcomes are remembered: memory holds nothing that a list of passwords could be tried on
	all    chan struct{}
	right  memory
	wrong  memory
	now    func() time.Time
}

type outcome [sha256.Size]byte

func newChecks(now func() time.Time) (*checks, error) {
	c := &checks{all: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), now: now}
	if _, err := rand.Read(c.secret[:]); err != nil {
		return nil, fmt.Errorf("make a secret for remembered passwords: %w", err)
	}
	return c, nil
}

// password tells whether the password is u's. name is what the sender called themselves. An error means that there was no
// time to find out.
func (c *checks) password(ctx context.Context, u *User, name, password string) (bool, error) {
	key := c.key(u, name, password)
	if ok, known := c.known(key); known {
		return ok, nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	for _, turn := range []chan struct{}{u.slot, c.all} {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return false, schema.Unavailable(schema.ErrAuthBusy, nil, "too many passwords are to be checked at once, more than %s of work", checkPatience)
		}
		if ok, known := c.known(key); known { // whoever was before us asked the same
			return ok, nil
		}
	}
	err := bcrypt.CompareHashAndPassword(u.hash, []byte(password))
	ok := err == nil && u.Name != "" // the decoy is nobody
	if err != nil && !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, nil // a hash that only looks like one
	}
	if ok {
		c.right.add(key, c.now())
	} else {
		c.wrong.add(key, c.now())
	}
	return ok, nil
}

// known returns a remembered outcome.
func (c *checks) known(key outcome) (ok, known bool) {
	now := c.now()
	if c.right.has(key, now) {
		return true, true
	}
	return false, c.wrong.has(key, now)
}

// key has a fixed length before each part, so that no two cases have the same.
func (c *checks) key(u *User, name, password string) (key outcome) {
	h := hmac.New(sha256.New, c.secret[:])
	for _, part := range []string{u.Name, string(u.hash), name, password} {
		fmt.Fprintf(h, "%08x", len(part))
		h.Write([]byte(part))
	}
	h.Sum(key[:0])
	return key
}

// memory is a set that forgets: what was not asked for while one set of entries was young is dropped with it.
type memory struct {
	mu         sync.Mutex // guards all
	young, old map[outcome]struct{}
	since      time.Time
}

func (m *memory) add(key outcome, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.age(now)
	m.put(key, now)
}

func (m *memory) put(key outcome, now time.Time) {
	if len(m.young) >= maxRemembered {
		m.old, m.young, m.since = m.young, nil, now
	}
	if m.young == nil {
		m.young = map[outcome]struct{}{}
	}
	m.young[key] = struct{}{}
}

func (m *memory) has(key outcome, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.age(now)
	if _, ok := m.young[key]; ok {
		return true
	}
	if _, ok := m.old[key]; !ok {
		return false
	}
	m.put(key, now)
	return true
}

// age lets entries grow old, and drops those that are.
func (m *memory) age(now time.Time) {
	switch passed := now.Sub(m.since); {
	case passed >= 2*remember:
		m.old, m.young, m.since = nil, nil, now
	case passed >= remember:
		m.old, m.young, m.since = m.young, nil, now
	}
}
