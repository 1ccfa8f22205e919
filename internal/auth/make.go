package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// DefaultCost of a bcrypt hash: some 60 ms.
const DefaultCost = bcrypt.DefaultCost

// minToken keeps out tokens that could be guessed from their SHA-256, which is fast.
const minToken = 20

// Hash reads a password or a token, up to a line break, and returns what the users file holds of it.
func Hash(r io.Reader, token bool, cost int) (string, error) {
	raw, err := io.ReadAll(io.LimitReader(r, 1<<16))
	if err != nil {
		return "", fmt.Errorf("read standard input: %w", err)
	}
	text := strings.TrimRight(string(raw), "\r\n")
	switch {
	case text == "":
		return "", errors.New("nothing came on standard input")
	case strings.ContainsAny(text, "\r\n"):
		return "", errors.New("standard input has more than one line")
	case token && len(text) < minToken:
		return "", fmt.Errorf("a token of %d characters can be guessed, take at least %d: sluice auth token makes one", len(text), minToken)
	case token && strings.TrimSpace(text) != text:
		return "", errors.New("a token cannot begin or end with a space")
	case token:
		return tokenHash(text), nil
	case len(text) > maxPassword:
		return "", fmt.Errorf("a password of %d bytes is longer than bcrypt can tell apart, %d", len(text), maxPassword)
	case cost > maxCost:
		return "", fmt.Errorf("a cost of %d is more than the users file may have, %d", cost, maxCost)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(text), cost)
	return string(hash), err
}

// NewToken returns a random token of 256 bits, and what the users file holds of it.
func NewToken() (token, hash string, err error) {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", "", fmt.Errorf("make a token: %w", err)
	}
	token = base64.RawURLEncoding.EncodeToString(raw)
	return token, tokenHash(token), nil
}

func tokenHash(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}
