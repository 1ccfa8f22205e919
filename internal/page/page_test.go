package page

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func serve(t *testing.T, path string, header ...string) *http.Response {
	t.Helper()
	p, err := New(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "plain") }))
	require.NoError(t, err)
	mux := http.NewServeMux()
	p.Register(mux)
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(b)
}

func TestDocument(t *testing.T) {
	for _, view := range append([]string{"/"}, Views[:]...) {
		r := serve(t, view, "Accept", "text/html,application/xhtml+xml")
		require.Equal(t, 200, r.StatusCode, view)
		text := body(t, r)
		require.Contains(t, text, `<div id="app">`, view)
		require.NotContains(t, text, nonceMark)
		nonce := regexp.MustCompile(`name="csp-nonce" content="([^"]+)"`).FindStringSubmatch(text)
		require.Len(t, nonce, 2)
		require.Contains(t, r.Header.Get("Content-Security-Policy"), "'nonce-"+nonce[1]+"'")
		require.NotContains(t, r.Header.Get("Content-Security-Policy"), "unsafe")
		require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
		again := body(t, serve(t, view, "Accept", "text/html"))
		require.NotContains(t, again, nonce[1], "a nonce is used once")
	}
	require.Equal(t, "plain", body(t, serve(t, "/", "Accept", "*/*")))
	require.Equal(t, 404, serve(t, "/nothing", "Accept", "text/html").StatusCode)
	require.Equal(t, 404, serve(t, "/assets/nothing.js").StatusCode)
	require.Equal(t, 404, serve(t, "/assets/..%2findex.html").StatusCode)
}

// TestFiles follows every reference of the document, and holds the page to what the README promises of its size.
func TestFiles(t *testing.T) {
	document := body(t, serve(t, "/query"))
	refs := regexp.MustCompile(`(?:src|href)="\./([^"]+)"`).FindAllStringSubmatch(document, -1)
	require.NotEmpty(t, refs)
	for _, ref := range refs {
		r := serve(t, "/"+ref[1], "Accept-Encoding", "gzip")
		require.Equal(t, 200, r.StatusCode, ref[1])
		require.Equal(t, "nosniff", r.Header.Get("X-Content-Type-Options"))
		if r.Header.Get("Content-Encoding") != "gzip" {
			continue
		}
		z, err := gzip.NewReader(r.Body)
		require.NoError(t, err)
		plain, err := io.ReadAll(z)
		require.NoError(t, err)
		require.Equal(t, body(t, serve(t, "/"+ref[1])), string(plain))
	}
	require.NotContains(t, document, "<style", "the content security policy would refuse it")
	require.NotRegexp(t, `<script(?:[^>]*)>[^<]`, document, "the content security policy would refuse it")
	require.NotRegexp(t, `(?:src|href)="(?:https?:)?//`, document, "the page loads nothing from elsewhere")

	p, err := New(http.NotFoundHandler())
	require.NoError(t, err)
	total := 0
	for name, f := range p.files {
		require.NotEmpty(t, f.kind, name)
		if f.compressed != nil {
			total += len(f.compressed)
		} else {
			total += len(f.raw)
		}
	}
	t.Logf("%d files, %d bytes compressed", len(p.files), total)
	require.Less(t, total, 400_000, "bytes of all files, compressed")
}

func TestViewsAreThoseOfTheApp(t *testing.T) {
	source, err := os.ReadFile("app/src/lib/route.ts")
	require.NoError(t, err)
	list := regexp.MustCompile(`views = new Set\(\[(.*)\]\)`).FindSubmatch(source)
	require.Len(t, list, 2)
	known := strings.NewReplacer("'", "", " ", "").Replace(string(list[1]))
	want := ""
	for _, v := range Views {
		want += "," + strings.TrimPrefix(v, "/")
	}
	require.Equal(t, want, known)
}
