package kafkatest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// require returns the folder of the jars of a version and the path of Java, or skips the test.
func require(t testing.TB, version string) (jars, java string) {
	t.Helper()
	why := ""
	jars, err := jarFolder(version)
	if err != nil {
		why = err.Error()
	} else if java, err = exec.LookPath("java"); err != nil {
		why = "java is not installed; Debian has it as openjdk-17-jre-headless"
	}
	if why == "" {
		return jars, java
	}
	if os.Getenv("SLUICE_REQUIRE_ALL") == "1" {
		t.Fatalf("must not be skipped (SLUICE_REQUIRE_ALL=1): %s", why)
	}
	t.Skipf("SKIPPED: %s", why)
	return "", ""
}

// jarFolder finds the jars: below SLUICE_KAFKA_JARS, or below .cache/kafka of the repository.
func jarFolder(version string) (string, error) {
	root := os.Getenv("SLUICE_KAFKA_JARS")
	if root == "" {
		dir, err := os.Getwd()
		if err != nil {
			return "", err
		}
		for {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				break
			}
			parent := filepath.Dir(dir)
			if parent == dir {
				return "", fmt.Errorf("no repository around the working directory, and SLUICE_KAFKA_JARS is not set")
			}
			dir = parent
		}
		root = filepath.Join(dir, ".cache", "kafka")
	}
	folder := filepath.Join(root, version)
	if found, _ := filepath.Glob(filepath.Join(folder, "kafka_2.13-*.jar")); len(found) == 0 {
		return "", fmt.Errorf("the jars of Kafka %s are missing; `make tools` fetches them with Maven", version)
	}
	return folder, nil
}

var given sync.Map // ports that were given out

// FreePorts returns ports of loopback that nobody listens on and that nobody in this process was given. They are below those
// that the system gives to outgoing connections, or one of these could take the port of a process that is down for a moment.
// From 21,000 on they are left to tests that need many in a row.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	const first, last = 10_000, 21_000
	var out []int
	for tries := 0; len(out) < n; tries++ {
		if tries > 10_000 {
			t.Fatal("kafkatest: no free ports")
		}
		port := first + rand.IntN(last-first)
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		ln.Close()
		if _, taken := given.LoadOrStore(port, true); !taken {
			out = append(out, port)
		}
	}
	return out
}
