package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/internal/failpoint"
)

const (
	root   = "../.."
	module = "sluice"
)

// source is one parsed Go file; dir is its package's path inside of the repository, "." for main.
type source struct {
	dir, path string
	test      bool
	file      *ast.File
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	fset := token.NewFileSet()
	require.NoError(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); rel != "." && (strings.HasPrefix(name, ".") || name == "testdata" || rel == "data") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return fmt.Errorf("parse %s: %w", rel, err)
		}
		rel = filepath.ToSlash(rel)
		out = append(out, source{dir: path.Dir(rel), path: rel, test: strings.HasSuffix(rel, "_test.go"), file: f})
		return nil
	}))
	require.NotEmpty(t, out)
	return out
}

// own returns the packages of this module that a file imports, as paths inside of the repository.
func (s source) own() []string {
	var out []string
	for _, p := range s.imports() {
		if p == module {
			out = append(out, ".")
		} else if rest, ok := strings.CutPrefix(p, module+"/"); ok {
			out = append(out, rest)
		}
	}
	return out
}

func (s source) imports() []string {
	var out []string
	for _, i := range s.file.Imports {
		if p, err := strconv.Unquote(i.Path.Value); err == nil {
			out = append(out, p)
		}
	}
	return out
}

func top(dir string) string { return strings.SplitN(dir, "/", 2)[0] }

var stages = []string{"producer", "consumer", "compactor", "reader"}

// layer is how high a package stands. Imports go down only; inside of internal and of one stage they may go sideways. What
// measures stands beside the stages, for `sluice bench` calls it; the tests of the binary stand above everything.
func layer(dir string) int {
	switch t := top(dir); {
	case t == "schema":
		return 1
	case t == "internal":
		return 2
	case slices.Contains(stages, t), t == "bench" && dir != "bench/e2e":
		return 3
	case dir == ".":
		return 4
	case dir == "bench/e2e":
		return 5
	}
	return 0
}

// TestImportsGoDown: main → stages → internal → schema, and no stage knows another.
func TestImportsGoDown(t *testing.T) {
	for _, s := range sources(t) {
		if layer(s.dir) == 0 {
			t.Errorf("%s: package %s stands in no layer; see CONTRIBUTING.md", s.path, s.dir)
		}
		for _, imp := range s.own() {
			switch {
			case imp == "internal/arch":
				t.Errorf("%s imports %s, which has nothing to import", s.path, imp)
			case imp == kafkatest && !s.test:
				t.Errorf("%s imports %s, which is for tests", s.path, imp)
			case top(s.dir) == "bench":
				benchImport(t, s, imp)
			case layer(imp) > layer(s.dir):
				t.Errorf("%s imports %s: upwards", s.path, imp)
			case layer(s.dir) == 3 && layer(imp) == 3 && top(imp) != top(s.dir):
				t.Errorf("%s imports %s: stages meet in the log, the bucket and internal/fetch, never in Go", s.path, imp)
			case imp == ".":
				t.Errorf("%s imports main", s.path)
			}
		}
	}
}

// kafkatest starts Kafka for tests. It knows nothing of the product.
const kafkatest = "internal/kafkatest"

// benchImport: the witness knows nothing of the product, so that it cannot share its mistakes; what measures and the tests
// of the binary know its names only.
func benchImport(t *testing.T, s source, imp string) {
	if s.dir == "bench/ledger" || top(imp) != "schema" && top(imp) != "bench" && imp != kafkatest {
		t.Errorf("%s imports %s: code under bench/ must not lean on the product", s.path, imp)
	}
}

// TestOneHome: a heavy dependency has one place in which it is used.
func TestOneHome(t *testing.T) {
	for dependency, home := range map[string]string{
		"github.com/twmb/franz-go/":         "internal/log",
		"github.com/dgraph-io/ristretto/v2": "reader",
		"github.com/urfave/cli/v2":          ".",
	} {
		for _, s := range sources(t) {
			if s.test || s.dir == kafkatest || s.dir == home || strings.HasPrefix(s.dir, home+"/") {
				continue
			}
			for _, p := range s.imports() {
				if strings.HasPrefix(p, dependency) {
					t.Errorf("%s imports %s: only %s does", s.path, p, home)
				}
			}
		}
	}
}

// TestEveryPackageSaysWhatItIs: a package comment of more than a word.
func TestEveryPackageSaysWhatItIs(t *testing.T) {
	longest := map[string]string{}
	for _, s := range sources(t) {
		text := ""
		if s.file.Doc != nil && (!s.test || !hasCode(t, s.dir)) {
			text = s.file.Doc.Text()
		}
		if len(text) >= len(longest[s.dir]) {
			longest[s.dir] = text
		}
	}
	for dir, text := range longest {
		want := "Package " + path.Base(dir) + " "
		if dir == "." {
			want = "Command " + module + " "
		}
		if !strings.HasPrefix(text, want) || strings.Count(text, ".") < 2 {
			t.Errorf("package %s: its comment must begin with %q and say what comes in, what goes out and what it never does; it is %.80q", dir, want, text)
		}
	}
}

func hasCode(t *testing.T, dir string) bool {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(root, dir))
	require.NoError(t, err)
	return slices.ContainsFunc(list, func(e os.DirEntry) bool {
		return strings.HasSuffix(e.Name(), ".go") && !strings.HasSuffix(e.Name(), "_test.go")
	})
}

var (
	inBackticks = regexp.MustCompile("`([^`\n]+)`")
	pathLike    = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.*/-]*$`)
	fileLike    = regexp.MustCompile(`\.(go|md|yaml|yml|sh|mod|sum|conf|example)$`)
)

// TestDocumentsNameWhatExists: a path in backticks leads somewhere. A name with a slash counts when it ends like a file
// or begins with a folder of this repository; a bare file name must exist in some folder.
func TestDocumentsNameWhatExists(t *testing.T) {
	names, folders := map[string]bool{}, map[string]bool{}
	require.NoError(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == ".cache" || p == filepath.Join(root, "data")) {
			return fs.SkipDir
		}
		names[d.Name()] = true
		if rel, err := filepath.Rel(root, p); err == nil && d.IsDir() && !strings.Contains(rel, string(filepath.Separator)) {
			folders[rel] = true
		}
		return nil
	}))
	for _, doc := range []string{"ARCHITECTURE.md", "CONTRIBUTING.md"} {
		text, err := os.ReadFile(filepath.Join(root, doc))
		require.NoError(t, err)
		for i, line := range strings.Split(string(text), "\n") {
			for _, m := range inBackticks.FindAllStringSubmatch(line, -1) {
				name := m[1]
				if !pathLike.MatchString(name) {
					continue
				}
				if !strings.Contains(name, "/") {
					if fileLike.MatchString(name) && !strings.Contains(name, "*") && !names[name] {
						t.Errorf("%s:%d names %s, and no file is called that", doc, i+1, name)
					}
					continue
				}
				if !fileLike.MatchString(name) && !folders[top(name)] || slices.Contains(failpoint.Names(), name) {
					continue // a content type, a path in the bucket, a path of the API, a failpoint
				}
				if found, err := filepath.Glob(filepath.Join(root, name)); err != nil || len(found) == 0 {
					t.Errorf("%s:%d names %s, which does not exist", doc, i+1, name)
				}
			}
		}
	}
}
