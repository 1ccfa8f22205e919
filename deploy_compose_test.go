package main

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// composeFile is as much of the Compose format as our file uses: a key that is not here is a mistake in it.
type composeFile struct {
	Name     string
	Services map[string]composeService
	Configs  map[string]struct{ File string }
	Volumes  map[string]any
	Rest     map[string]any `yaml:",inline"` // x-…: what is merged from
}

type composeService struct {
	Image       string
	Build       *struct{ Context, Dockerfile string }
	Entrypoint  []string
	Command     []string
	Hostname    string
	Profiles    []string
	Restart     string
	ReadOnly    bool     `yaml:"read_only"`
	CapDrop     []string `yaml:"cap_drop"`
	SecurityOpt []string `yaml:"security_opt"`
	StopGrace   string   `yaml:"stop_grace_period"`
	Environment map[string]string
	Ports       []string
	Volumes     []string
	Networks    map[string]struct{ Aliases []string }
	Configs     []struct{ Source, Target string }
	DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
	Healthcheck *struct {
		Test              []string
		Interval, Timeout string
		StartPeriod       string `yaml:"start_period"`
		Retries           int
	}
}

const composeDir = "deploy/compose"

func loadCompose(t *testing.T) composeFile {
	t.Helper()
	f, err := os.Open(filepath.Join(composeDir, "docker-compose.yml"))
	require.NoError(t, err)
	defer f.Close()
	var c composeFile
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	require.NoError(t, d.Decode(&c))
	for key := range c.Rest {
		require.True(t, strings.HasPrefix(key, "x-"), "key %s", key)
	}
	return c
}

// names returns what a service can be reached by, from within the network.
func (c composeFile) names() map[string]bool {
	out := map[string]bool{}
	for name, s := range c.Services {
		out[name] = true
		for _, n := range s.Networks {
			for _, alias := range n.Aliases {
				out[alias] = true
			}
		}
	}
	return out
}

// TestDeployComposeCalls: every stage is called with flags that exist, under its own name, and doubled: the consumers in each
// of two zones.
func TestDeployComposeCalls(t *testing.T) {
	count := map[string]int{}
	for name, s := range loadCompose(t).Services {
		if s.Image != "sluice" {
			kind, _, _ := strings.Cut(name, "-")
			count[kind]++
			continue
		}
		require.NotEmpty(t, s.Command, name)
		set, err := checkCall(s.Command, s.Environment)
		require.NoError(t, err, name)
		require.Equal(t, name, set.Lookup("instance").Value.String())
		listen := port(t, s.Environment["SLUICE_HTTP_LISTEN"])
		if s.Command[0] != "producer" { // nobody calls a producer by its name
			require.Equal(t, net.JoinHostPort(name, listen), set.Lookup("http.advertise").Value.String())
		}
		zone := ""
		if s.Command[0] == "consumer" {
			zone = set.Lookup("consumer.zone").Value.String()
			require.Contains(t, name, "consumer-"+zone+"-")
		}
		count[s.Command[0]+zone]++

		require.NotNil(t, s.Healthcheck, name)
		require.Equal(t, []string{"CMD", "/usr/local/bin/sluice"}, s.Healthcheck.Test[:2])
		health, err := checkCall(s.Healthcheck.Test[2:], nil)
		require.NoError(t, err, name)
		require.Equal(t, "http://127.0.0.1:"+listen, health.Lookup("url").Value.String())
		require.True(t, s.ReadOnly, name)
		for _, p := range s.Ports {
			require.Regexp(t, `^127\.0\.0\.1:\d+:`+listen+`$`, p, "%s: loopback only, and the port that it listens on", name)
		}
		for _, b := range strings.Split(s.Environment["SLUICE_KAFKA_BROKERS"], ",") {
			host, p, err := net.SplitHostPort(b)
			require.NoError(t, err)
			require.Equal(t, "9092", p)
			require.Contains(t, s.DependsOn, host)
		}
	}
	require.Equal(t, map[string]int{
		"kafka": 3, "s3": 1, "producer": 2, "consumera": 2, "consumerb": 2, "compactor": 2, "reader": 2, "prometheus": 1, "grafana": 1,
	}, count)
}

// TestDeployComposeReferences: what a service mounts, waits for and calls is there.
func TestDeployComposeReferences(t *testing.T) {
	c := loadCompose(t)
	volumes, configs, ports := map[string]string{}, map[string]bool{}, map[string]string{}
	for name, s := range c.Services {
		require.NotNil(t, s.Healthcheck, "%s: a service says when it is well", name)
		require.Equal(t, "unless-stopped", s.Restart, name)
		for on, how := range s.DependsOn {
			require.Equal(t, "service_healthy", how.Condition, "%s on %s", name, on)
			require.NotNil(t, c.Services[on].Healthcheck, "%s waits for the health of %s", name, on)
		}
		for _, v := range s.Volumes {
			volume, target, ok := strings.Cut(v, ":")
			require.True(t, ok && filepath.IsAbs(target), "%s: %s", name, v)
			require.Contains(t, c.Volumes, volume, name)
			require.Empty(t, volumes[volume], "%s and %s share volume %s", name, volumes[volume], volume)
			volumes[volume] = name
		}
		for _, use := range s.Configs {
			require.Contains(t, c.Configs, use.Source, name)
			configs[use.Source] = true
		}
		if file := s.Environment["SLUICE_OBJSTORE_CONFIG_FILE"]; s.Image == "sluice" {
			require.Equal(t, file, s.Configs[0].Target, name)
		}
		for _, p := range s.Ports {
			host := p[:strings.LastIndex(p, ":")]
			require.Empty(t, ports[host], "%s and %s publish %s", name, ports[host], host)
			ports[host] = name
		}
		if b := s.Build; b != nil {
			_, err := os.Stat(filepath.Join(composeDir, b.Context, b.Dockerfile))
			require.NoError(t, err)
		}
	}
	require.Len(t, volumes, len(c.Volumes), "a volume that nobody mounts")
	require.Len(t, configs, len(c.Configs), "a configuration that nobody reads")
	for name, file := range c.Configs {
		_, err := os.Stat(filepath.Join(composeDir, file.File))
		require.NoError(t, err, name)
	}
}

// TestDeployComposeKafka: three nodes that know each other, and acks that mean two disks.
func TestDeployComposeKafka(t *testing.T) {
	ids := map[string]bool{}
	for name, s := range loadCompose(t).Services {
		if !strings.HasPrefix(name, "kafka-") {
			continue
		}
		e := s.Environment
		require.Equal(t, name, s.Hostname)
		require.Equal(t, "PLAINTEXT://"+name+":9092", e["KAFKA_ADVERTISED_LISTENERS"])
		require.Contains(t, strings.Split(e["KAFKA_CONTROLLER_QUORUM_VOTERS"], ","), e["KAFKA_NODE_ID"]+"@"+name+":9093")
		require.Equal(t, []string{"3", "2"}, []string{e["KAFKA_DEFAULT_REPLICATION_FACTOR"], e["KAFKA_MIN_INSYNC_REPLICAS"]})
		require.Equal(t, []string{name + ":" + e["KAFKA_LOG_DIRS"]}, s.Volumes)
		require.Len(t, e["CLUSTER_ID"], 22, "sixteen bytes in base64")
		ids[e["KAFKA_NODE_ID"]] = true
	}
	require.Len(t, ids, 3)
}

// TestDeployComposeFiles: the files beside it are understood by those who read them, and name services that exist.
func TestDeployComposeFiles(t *testing.T) {
	c := loadCompose(t)
	names := c.names()
	objstore, err := os.ReadFile(filepath.Join(composeDir, "objstore.yaml"))
	require.NoError(t, err)
	openBucketConfig(t, objstore)
	var o struct {
		Config struct{ Bucket, Endpoint string }
	}
	require.NoError(t, yaml.Unmarshal(objstore, &o))
	require.Equal(t, "s3:7070", o.Config.Endpoint)
	s3 := c.Services["s3"]
	require.Contains(t, strings.Join(s3.Entrypoint, " "), "--port :7070 ")
	require.Contains(t, strings.Join(s3.Entrypoint, " "), "/srv/s3/"+o.Config.Bucket+" ", "the server makes the bucket")
	producer := c.Services["producer-0"].Environment
	require.Equal(t, s3.Environment["ROOT_ACCESS_KEY"], producer["AWS_ACCESS_KEY_ID"])
	require.Equal(t, s3.Environment["ROOT_SECRET_KEY"], producer["AWS_SECRET_ACCESS_KEY"])

	prom := loadPrometheus(t, filepath.Join(composeDir, "prometheus.yml"))
	target := prom.RemoteWriteConfigs[0].URL
	require.True(t, names[target.Hostname()], "remote_write to %s", target)
	require.Equal(t, "/api/v1/push", target.Path)
	raw, err := os.ReadFile(filepath.Join(composeDir, "prometheus.yml"))
	require.NoError(t, err)
	scraped := map[string]bool{}
	for _, m := range regexp.MustCompile(`"([a-z0-9-]+):9009"`).FindAllStringSubmatch(string(raw), -1) {
		scraped[m[1]] = true
	}
	for name, s := range c.Services {
		require.Equal(t, s.Image == "sluice", scraped[name], "%s is scraped", name)
	}

	raw, err = os.ReadFile(filepath.Join(composeDir, "grafana-datasources.yaml"))
	require.NoError(t, err)
	var g struct{ Datasources []struct{ URL, Type string } }
	require.NoError(t, yaml.Unmarshal(raw, &g))
	require.Len(t, g.Datasources, 1)
	source, err := url.Parse(g.Datasources[0].URL)
	require.NoError(t, err)
	require.True(t, names[source.Hostname()], "Grafana asks %s", source)
	require.Equal(t, "/prometheus", source.Path)
}
