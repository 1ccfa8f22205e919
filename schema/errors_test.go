package schema

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// docs/errors.md has exactly one entry for each ID, with what to do.
func TestErrorsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/errors.md")
	require.NoError(t, err)
	documented := map[string]string{}
	for _, section := range strings.Split(string(doc), "\n### ")[1:] {
		id, text, _ := strings.Cut(section, "\n")
		require.NotContains(t, documented, id, "twice")
		text, _, _ = strings.Cut(text, "\n## ")
		documented[id] = text
	}
	for _, id := range ErrorIDs() {
		text, ok := documented[string(id)]
		require.True(t, ok, "%s is not in docs/errors.md", id)
		require.Contains(t, text, "Status: ", id)
		require.Contains(t, text, "**What happened.** ", id)
		require.Contains(t, text, "**What to do.** ", id)
		delete(documented, string(id))
	}
	require.Empty(t, documented, "IDs that do not exist")
}

// ErrorIDs has every constant of the type, once, and they look alike.
func TestErrorIDs(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	require.NoError(t, err)
	declared := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			if id, ok := v.Type.(*ast.Ident); ok && id.Name == "ErrorID" {
				declared += len(v.Names)
			}
		}
		return true
	})
	require.Len(t, ErrorIDs(), declared)
	seen := map[ErrorID]bool{}
	for _, id := range ErrorIDs() {
		require.Regexp(t, regexp.MustCompile(`^err-sluice-[a-z]+(-[a-z]+)*$`), string(id))
		require.False(t, seen[id], id)
		seen[id] = true
	}
}

func TestError(t *testing.T) {
	cause := errors.New("broker away")
	e := Unavailable(ErrLogDown, cause, "no answer from %d", 3)
	require.EqualError(t, e, "no answer from 3: broker away (err-sluice-log-unavailable)")
	require.ErrorIs(t, e, cause)
	require.Equal(t, 503, e.Status)
	require.NotZero(t, e.RetryAfter)
	require.EqualError(t, NewError(ErrDecode, 400, "bad"), "bad (err-sluice-decode)")
}
