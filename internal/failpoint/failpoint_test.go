package failpoint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Names has every constant once.
func TestNames(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "failpoint.go", nil, 0)
	require.NoError(t, err)
	var declared []string
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || strings.HasPrefix(v.Names[0].Name, "Env") {
			return true
		}
		name, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		require.NoError(t, err)
		declared = append(declared, name)
		return true
	})
	require.NotEmpty(t, declared)
	require.Equal(t, declared, Names())
	seen := map[string]bool{}
	for _, n := range Names() {
		require.Regexp(t, regexp.MustCompile(`^(consumer|compactor)/[a-z]+(-[a-z]+)*$`), n)
		require.False(t, seen[n], n)
		seen[n] = true
	}
}
