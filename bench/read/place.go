package read

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sluice/bench/peers"
)

// The places that the data is asked for in. Those of Sluice hold it in heads, in a directory as the bucket, and in an S3
// server that is far away.
const (
	Prometheus      = "prometheus"
	Prometheus3     = "prometheus3"
	VictoriaMetrics = "victoriametrics"
	Heads           = "sluice-heads"
	Bucket          = "sluice-bucket"
	S3              = "sluice-s3"
)

// Places are all of them, in the order of the tables.
func Places() []string {
	return []string{Prometheus, Prometheus3, VictoriaMetrics, Heads, Bucket, S3}
}

const (
	s3Bucket = "blocks"
	s3Key    = "sluice-bench-key"
	s3Secret = "sluice-bench-secret"

	startTimeout = 5 * time.Minute // a replay of everything included
	stopTimeout  = 2 * time.Minute
	settle       = 10 * time.Minute // Prometheus' compactions after everything came at once
)

// place is a target with the data in it.
type place struct {
	name   string
	dir    string
	target peers.Target
	client client
	// forget are the folders below dir that a start from nothing does without: what a reader keeps of a bucket.
	forget []string

	*peers.Process
	store  *peers.Process // the S3 server
	remote *slow
}

// newPlace returns the place of that name; nil when its program is not installed.
func newPlace(cfg *Config, name string) *place {
	p := &place{name: name, dir: filepath.Join(cfg.Dir, name)}
	p.client = client{http: &http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: 5 * time.Minute}}
	switch name {
	case Prometheus, Prometheus3:
		p.target = peers.Prometheus()
		if name == Prometheus3 {
			p.target = peers.Prometheus3()
		}
		// So that a restart does not replay hours.
		p.target.Args = append(p.target.Args, "--enable-feature=memory-snapshot-on-shutdown", "--storage.tsdb.retention.time=100y")
	case VictoriaMetrics:
		p.target = peers.VictoriaMetrics()
		p.client.extra = url.Values{"nocache": {"1"}}
	default:
		p.target = peers.Sluice(cfg.Sluice)
		// A day is the longest that samples stay in heads.
		p.target.Args = append(p.target.Args, "--consumer.generation", "24h")
		p.target.Args = append(p.target.Args, cfg.SluiceArgs...)
		p.client.header = http.Header{"Cache-Control": {"no-store"}} // no results of earlier queries
	}
	found := peers.Installed([]peers.Target{p.target})
	if len(found) == 0 {
		return nil
	}
	p.target = found[0]
	p.target.Name = name
	return p
}

// ours says whether it is Sluice.
func (p *place) ours() bool { return strings.HasPrefix(p.name, "sluice") }

// start starts the place on its data.
func (p *place) start(ctx context.Context, cfg *Config) error {
	t := p.target
	if p.name == S3 {
		if err := p.startStore(ctx, cfg); err != nil {
			return err
		}
		t.Args = append(t.Args[:len(t.Args):len(t.Args)], "--objstore.config", fmt.Sprintf(
			"{type: S3, config: {bucket: %s, endpoint: %q, region: us-east-1, access_key: %s, secret_key: %s, insecure: true}}", s3Bucket, p.remote.addr, s3Key, s3Secret))
	}
	var err error
	if p.Process, err = t.Start(ctx, filepath.Join(p.dir, "data"), startTimeout); err != nil {
		return err
	}
	p.client.base = p.URL("/api/v1")
	if p.ours() {
		p.client.base = p.URL("/prometheus/api/v1")
	}
	return nil
}

func (p *place) startStore(ctx context.Context, cfg *Config) (err error) {
	if p.store == nil {
		server := peers.Target{
			Name: "S3 server", Path: cfg.S3Server, Args: []string{"--quiet", "--port", "ADDR", "posix", "DIR"},
			Env: []string{"ROOT_ACCESS_KEY=" + s3Key, "ROOT_SECRET_KEY=" + s3Secret},
		}
		if p.store, err = server.Start(ctx, filepath.Join(p.dir, "s3"), startTimeout); err != nil {
			return err
		}
	}
	if p.remote == nil {
		p.remote, err = startSlow(p.store.Addr, cfg.Delay)
	}
	return err
}

// stop ends the place, so that it can be started again.
func (p *place) stop() error {
	if p.Process == nil {
		return nil
	}
	defer func() { p.Process = nil }()
	return p.Stop(stopTimeout)
}

// close ends it for good.
func (p *place) close() error {
	err := p.stop()
	if p.remote != nil {
		p.remote.stop()
	}
	if p.store != nil {
		p.store.Kill()
	}
	return err
}

// restart is a start from nothing: no cache of the process and no page of its files is left.
func (p *place) restart(ctx context.Context, cfg *Config) error {
	if err := p.stop(); err != nil {
		return err
	}
	for _, dir := range p.forget {
		if err := os.RemoveAll(filepath.Join(p.dir, "data", dir)); err != nil {
			return err
		}
	}
	if err := evict(p.dir); err != nil {
		return err
	}
	if err := p.start(ctx, cfg); err != nil {
		return err
	}
	return p.Idle(ctx, 20*time.Second)
}

// evict makes the system forget the pages of the files below dir.
func evict(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Sync(); err != nil { // a page that is not written yet stays
			return fmt.Errorf("sync %s: %w", path, err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return fmt.Errorf("forget pages of %s: %w", path, err)
		}
		return nil
	})
}

// loaded is the file that says what a place holds.
type loaded struct {
	Data    Data      `json:"data"`
	Version int       `json:"version"`
	At      time.Time `json:"at"`
}

const (
	loadedFile  = "loaded.json"
	dataVersion = 2 // of what Data makes; another one is loaded again
)

// has says whether the place holds the data already.
func (p *place) has(d *Data) bool {
	raw, err := os.ReadFile(filepath.Join(p.dir, loadedFile))
	var l loaded
	if err != nil || json.Unmarshal(raw, &l) != nil || l.Data != *d || l.Version != dataVersion {
		return false
	}
	// Heads end after a day.
	return p.name != Heads || time.Since(l.At) < 20*time.Hour
}

// fill brings the data into the place, unless it is there. Heads must be filled before Bucket, and that before S3.
func (p *place) fill(ctx context.Context, cfg *Config, progress func(string, ...any)) error {
	if p.has(&cfg.Data) {
		progress("%s: has the data already", p.name)
		return nil
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return err
	}
	data := filepath.Join(p.dir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	var err error
	switch p.name {
	case Bucket:
		err = p.sealed(ctx, cfg, data, progress)
	case S3:
		if err = os.CopyFS(data, os.DirFS(filepath.Join(cfg.Dir, "sluice-bucket", "data"))); err == nil {
			if err = os.MkdirAll(filepath.Join(p.dir, "s3"), 0o755); err == nil {
				err = os.Rename(filepath.Join(data, "bucket"), filepath.Join(p.dir, "s3", s3Bucket))
			}
		}
	default:
		if err = p.start(ctx, cfg); err == nil {
			if err = cfg.Data.load(ctx, p.Process, cfg.Connections, progress); err == nil {
				err = p.Idle(ctx, settle)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("fill %s: %w", p.name, err)
	}
	if err := p.stop(); err != nil {
		return err
	}
	raw, err := json.Marshal(loaded{cfg.Data, dataVersion, time.Now()})
	if err != nil {
		return err
	}
	progress("%s: %.2f bytes a sample on disk", p.name, float64(peers.Size(p.dir))/float64(cfg.Data.samples()*cfg.Data.pods()*podSeries))
	return os.WriteFile(filepath.Join(p.dir, loadedFile), raw, 0o644)
}

// sealed makes blocks of a copy of the heads, and merges them.
func (p *place) sealed(ctx context.Context, cfg *Config, data string, progress func(string, ...any)) error {
	if err := os.CopyFS(data, os.DirFS(filepath.Join(cfg.Dir, "sluice-heads", "data"))); err != nil {
		return fmt.Errorf("copy the heads: %w", err)
	}
	measured := p.target.Args
	defer func() { p.target.Args = measured }()
	p.target.Args = append(measured[:len(measured):len(measured)], "--compactor.settle", "1s", "--compactor.interval", "1s", "--compactor.deletion-delay", "1s")
	if err := p.start(ctx, cfg); err != nil {
		return err
	}
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL("/-/seal?wait=true"), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	defer resp.Body.Close()
	if said, err := io.ReadAll(io.LimitReader(resp.Body, 1000)); err != nil || resp.StatusCode/100 != 2 {
		return fmt.Errorf("seal: status %d: %s: %w", resp.StatusCode, said, err)
	}
	progress("%s: sealed after %.0f s", p.name, time.Since(began).Seconds())
	// Three quiet looks in a row: between two merges there is nothing due for a moment.
	for quiet, passes := 0, -1.0; quiet < 3; {
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
		n, err := p.metric(ctx, `sluice_compactor_passes_total{result="ok"}`)
		if err != nil {
			return err
		}
		backlog, err := p.metric(ctx, "sluice_compactor_backlog_jobs")
		if err != nil {
			return err
		}
		if quiet++; n == passes || backlog > 0 {
			quiet = 0
		}
		passes = n
	}
	merges, err := p.metric(ctx, `sluice_compactor_jobs_total{result="done"}`)
	progress("%s: %.0f merges done after %.0f s", p.name, merges, time.Since(began).Seconds())
	return err
}

// metric reads a number that the process tells of itself; 0 when it does not.
func (p *place) metric(ctx context.Context, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL("/metrics"), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindSubmatch(text)
	if m == nil {
		return 0, nil
	}
	return strconv.ParseFloat(string(m[1]), 64)
}
