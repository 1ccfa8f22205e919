// Package page is the web page: what a browser is given. In go requests for the addresses of its views and of its files,
// out comes one HTML document, the same for every view, and the files that app/ was built into. It never looks at data, tenants or
// rights: the page asks the API for everything, as the user it is shown to.
package page

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

// dist is what `make ui` builds out of app/.
//
//go:embed dist
var dist embed.FS

// Views are the addresses that the document is served under; app/src/lib/route.ts has the same list.
var Views = [...]string{"/query", "/graph", "/cardinality", "/pipeline", "/blocks", "/tenants"}

// nonceMark stands in the document where the nonce of each answer goes.
const nonceMark = "__NONCE__"

// policy lets the page load its own scripts and styles and talk to its own server, and nothing else. The PromQL editor makes a style
// element at run time, with the nonce.
const policy = "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-%s'; img-src 'self' data:; font-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Page serves the document and its files.
type Page struct {
	document string
	files    map[string]file // by path below dist
	plain    http.Handler
}

// file is a file of dist, ready to be sent.
type file struct {
	kind       string // Content-Type
	raw        []byte
	compressed []byte // with gzip; nil = not worth it
}

// New reads the built page. plain answers at / those who do not ask for HTML, such as curl. It fails if the page was never built.
func New(plain http.Handler) (*Page, error) {
	p := &Page{files: map[string]file{}, plain: plain}
	root, err := fs.Sub(dist, "dist")
	if err != nil {
		return nil, err
	}
	document, err := fs.ReadFile(root, "index.html")
	if err != nil {
		return nil, fmt.Errorf("read the web page: %w", err)
	}
	p.document = string(document)
	return p, fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == "index.html" {
			return err
		}
		raw, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		p.files[name] = newFile(name, raw)
		return nil
	})
}

func newFile(name string, raw []byte) file {
	f := file{kind: mime.TypeByExtension(path.Ext(name)), raw: raw}
	switch path.Ext(name) { // the system's own table may say otherwise
	case ".js":
		f.kind = "text/javascript; charset=utf-8"
	case ".css":
		f.kind = "text/css; charset=utf-8"
	case ".svg":
		f.kind = "image/svg+xml"
	}
	var packed bytes.Buffer
	w, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression) // the level exists
	_, _ = w.Write(raw)                                        // into memory
	_ = w.Close()
	if packed.Len() < len(raw)*9/10 {
		f.compressed = packed.Bytes()
	}
	return f
}

// Patterns are those that Register mounts.
func Patterns() []string {
	list := []string{"GET /{$}", "GET /icon.svg", "GET /assets/{name}"}
	for _, v := range Views {
		list = append(list, "GET "+v)
	}
	return list
}

// Register mounts the page.
func (p *Page) Register(mux *http.ServeMux) {
	for _, pattern := range Patterns() {
		switch pattern {
		case "GET /{$}":
			mux.HandleFunc(pattern, p.serveRoot)
		case "GET /icon.svg", "GET /assets/{name}":
			mux.HandleFunc(pattern, p.serveFile)
		default:
			mux.HandleFunc(pattern, p.serveDocument)
		}
	}
}

func (p *Page) serveRoot(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Accept")
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		p.plain.ServeHTTP(w, r)
		return
	}
	p.serveDocument(w, r)
}

func (p *Page) serveDocument(w http.ResponseWriter, _ *http.Request) {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails, says its documentation
	nonce := base64.RawURLEncoding.EncodeToString(random[:])
	guard(w.Header())
	w.Header().Set("Content-Security-Policy", fmt.Sprintf(policy, nonce))
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")                              // a nonce is for one answer
	_, _ = w.Write([]byte(strings.ReplaceAll(p.document, nonceMark, nonce))) // the client has gone, or it has not
}

func (p *Page) serveFile(w http.ResponseWriter, r *http.Request) {
	f, ok := p.files[strings.TrimPrefix(r.URL.Path, "/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	guard(h)
	h.Set("Content-Type", f.kind)
	h.Set("Cache-Control", "public, max-age=3600")
	if strings.HasPrefix(r.URL.Path, "/assets/") { // its name carries a hash of its content
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	body := f.raw
	if f.compressed != nil {
		h.Set("Vary", "Accept-Encoding")
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.Set("Content-Encoding", "gzip")
			body = f.compressed
		}
	}
	_, _ = w.Write(body) // as above
}

// guard sets what holds for everything that a browser is given.
func guard(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}
