package reader

import (
	"bytes"
	"math"
	"os"
	"runtime/debug"
	"strconv"
)

// memoryThereIs returns how many bytes of memory this process may use: what GOMEMLIMIT, its control group or the machine
// says, whichever is least; 4 GiB where nobody says.
func memoryThereIs() int64 {
	least := debug.SetMemoryLimit(-1)
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if text, err := os.ReadFile(path); err == nil {
			if n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64); err == nil && n > 0 {
				least = min(least, n)
			}
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		if fields := bytes.Fields(text); len(fields) > 1 && string(fields[0]) == "MemTotal:" {
			if kib, err := strconv.ParseInt(string(fields[1]), 10, 64); err == nil {
				least = min(least, kib<<10)
			}
		}
	}
	if least == math.MaxInt64 {
		return 4 << 30
	}
	return least
}
