// Package loopback runs a whole installation on this machine, to try it out: Kafka, an S3 server, two producers, two
// consumers in each of two zones, two compactors, two readers, each a process of its own that comes back when it is killed.
// In go a folder and the programs to run; out come addresses on 127.0.0.1 and one log file per process. It imports nothing of
// the product: it knows the names of its commands and flags, as whoever deploys it does. It never deletes data, and it is
// no way to run anything that matters: one machine, one disk, one broker.
package loopback

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// Config of an installation on loopback.
type Config struct {
	// Sluice is the program that all stages run. Required.
	Sluice string
	// Dir is the folder for data, configuration and logs; created if it is not there. Required.
	Dir string
	// Brokers of a Kafka that runs already, host:port, comma-separated. Empty = one is started from Jars.
	Brokers string
	// Jars is the folder with Kafka's jars, or the one above it with a folder per version.
	Jars string
	// Java is the program that runs them. Default java.
	Java string
	// S3 is the program of an S3 server that is called like versitygw. Empty = the bucket is a folder in Dir.
	S3 string
	// Partitions of the samples topic when it is created. Default 4.
	Partitions int
	// FirstPort is the first of the ports: the parts have tens of their own from there on. Default 9010.
	FirstPort int
}

// Validate fills in defaults and refuses what cannot work.
func (c *Config) Validate() error {
	if c.Sluice == "" || c.Dir == "" {
		return errors.New("loopback: the program and the folder must be given")
	}
	if c.Java == "" {
		c.Java = "java"
	}
	if c.Partitions == 0 {
		c.Partitions = 4
	}
	if c.FirstPort == 0 {
		c.FirstPort = 9010
	}
	if last := c.FirstPort + kafkaPorts + 1; c.FirstPort < 1024 || last > 65535 {
		return fmt.Errorf("loopback: ports %d to %d, must be within 1024 and 65535", c.FirstPort, last)
	}
	if c.Brokers != "" {
		return nil
	}
	jars, err := findJars(c.Jars)
	c.Jars = jars
	return err
}

// Where the ports of the parts begin, counted from FirstPort.
const (
	producerPorts  = 0
	readerPorts    = 10
	compactorPorts = 20
	consumerPorts  = 30 // zone a; the next ten are zone b's
	s3Ports        = 50
	kafkaPorts     = 60 // the listener for clients, and the controller's
)

// Program is a process of the installation.
type Program struct {
	Name string // of the process, its instance name and its log file
	Path string
	Args []string
	Env  []string // added to the environment
	Addr string   // host:port that it serves on
}

func (c *Config) addr(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.FirstPort+port))
}

func (c *Config) brokers() string {
	if c.Brokers != "" {
		return c.Brokers
	}
	return c.addr(kafkaPorts)
}

func (c *Config) path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}

// Stages returns the processes of the product: any of them may be killed at any time.
func (c *Config) Stages() []Program {
	var out []Program
	add := func(stage, name string, port int, args ...string) {
		addr := c.addr(port)
		out = append(out, Program{Name: name, Path: c.Sluice, Addr: addr, Args: append([]string{
			stage, "--instance", name, "--http.listen", addr, "--data-dir", c.path(name), "--kafka.brokers", c.brokers(),
			"--objstore.config-file", c.path("objstore.yaml"), "--log.partitions", strconv.Itoa(c.Partitions),
		}, args...)})
	}
	for i := range 2 {
		add("producer", fmt.Sprint("producer-", i), producerPorts+i)
	}
	for z, zone := range []string{"a", "b"} {
		for i := range 2 {
			// A member that dies for good is missed after ten seconds, not 45: whoever tries this out is waiting.
			add("consumer", fmt.Sprint("consumer-", zone, "-", i), consumerPorts+10*z+i,
				"--consumer.zone", zone, "--consumer.assignment", "group", "--consumer.session-timeout", "10s")
		}
	}
	for i := range 2 {
		add("compactor", fmt.Sprint("compactor-", i), compactorPorts+i)
	}
	for i := range 2 {
		add("reader", fmt.Sprint("reader-", i), readerPorts+i, "--reader.cache-bytes", strconv.Itoa(128<<20))
	}
	return out
}

// The bucket and the keys of the S3 server. It listens on loopback only; the keys keep nobody out.
const (
	bucketName = "blocks"
	s3Key      = "sluice-loopback"
	s3Secret   = "sluice-loopback-secret"
)

func (c *Config) s3() Program {
	addr := c.addr(s3Ports)
	return Program{
		Name: "s3", Path: c.S3, Addr: addr, Args: []string{"--quiet", "--port", addr, "posix", c.path("s3")},
		Env: []string{"ROOT_ACCESS_KEY=" + s3Key, "ROOT_SECRET_KEY=" + s3Secret},
	}
}

// writeFiles writes the bucket's configuration and a Prometheus' that goes with the installation.
func (c *Config) writeFiles() error {
	bucket, objstore := c.path("bucket"), ""
	if c.S3 == "" {
		objstore = fmt.Sprintf("type: FILESYSTEM\nconfig:\n  directory: %q\n", bucket)
	} else {
		bucket = c.path("s3", bucketName) // a bucket of the server is a folder in its own
		objstore = fmt.Sprintf("type: S3\nconfig:\n  bucket: %s\n  endpoint: %s\n  region: us-east-1\n  access_key: %s\n  secret_key: %s\n  insecure: true\n",
			bucketName, c.addr(s3Ports), s3Key, s3Secret)
	}
	for _, dir := range []string{bucket, c.path("logs")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create folder: %w", err)
		}
	}
	for name, text := range map[string]string{"objstore.yaml": objstore, "prometheus.yml": c.prometheusYAML()} {
		if err := os.WriteFile(c.path(name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	return nil
}

// prometheusYAML scrapes all stages and sends to one producer: a Prometheus knows one URL, so in earnest a load balancer
// stands there.
func (c *Config) prometheusYAML() string {
	text := "global:\n  scrape_interval: 5s\n  external_labels:\n    cluster: loopback\nscrape_configs:\n  - job_name: sluice\n    static_configs:\n"
	for _, p := range c.Stages() {
		text += fmt.Sprintf("      - targets: [%q]\n        labels: {instance: %s, stage: %s}\n", p.Addr, p.Name, p.Args[0])
	}
	return text + fmt.Sprintf("remote_write:\n  - url: http://%s/api/v1/push\n    send_exemplars: true\n    send_native_histograms: true\n", c.addr(producerPorts))
}
