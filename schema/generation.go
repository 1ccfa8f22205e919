package schema

import (
	"encoding/json"
	"fmt"
	"time"
)

// Generation says when a generation ends. Consumers must agree on it for ever, whatever their flags say on the day of a
// replay, so it travels in the log: every tick carries it, and the first tick (or seal) of a generation decides for that
// generation. Until one is met, DefaultGeneration holds. So the bounds are a function of the log's content alone.
type Generation struct {
	Length    int64 `json:"length_ms"`  // log time, ms
	MaxBytes  int64 `json:"max_bytes"`  // of record values
	MaxSeries int   `json:"max_series"` // distinct, over all tenants
}

// HeaderGeneration is the header of ticks and seals that carries Generation as JSON.
const HeaderGeneration = "generation"

// DefaultGeneration is part of the record format: changing it changes the blocks of old logs.
func DefaultGeneration() Generation {
	return Generation{Length: (2 * time.Hour).Milliseconds(), MaxBytes: 4 << 30, MaxSeries: 3_000_000}
}

// Validate fills zero fields from DefaultGeneration and refuses what cannot work.
func (g *Generation) Validate() error {
	d := DefaultGeneration()
	if g.Length == 0 {
		g.Length = d.Length
	}
	if g.MaxBytes == 0 {
		g.MaxBytes = d.MaxBytes
	}
	if g.MaxSeries == 0 {
		g.MaxSeries = d.MaxSeries
	}
	switch {
	case g.Length < 1000 || g.Length > (24*time.Hour).Milliseconds():
		return fmt.Errorf("a generation of %d ms is not between a second and a day", g.Length)
	case g.MaxBytes < 1<<20:
		return fmt.Errorf("a generation of at most %d bytes is too small, at least 1 MiB", g.MaxBytes)
	case g.MaxSeries < 1:
		return fmt.Errorf("a generation of at most %d series is too small", g.MaxSeries)
	}
	return nil
}

// Boundary is the log time that ends a generation of a partition, whose first record has the log time logFrom; all in ms. It is
// the next multiple of the length, shifted so that the partitions do not all seal at once.
func (g Generation) Boundary(logFrom int64, partition int32) int64 {
	shift := g.Length * int64(partition%16) / 16
	since := (logFrom - shift) % g.Length
	if since < 0 {
		since += g.Length
	}
	return logFrom - since + g.Length
}

// Encode returns the value of HeaderGeneration.
func (g Generation) Encode() []byte {
	b, _ := json.Marshal(g) // three integers: it cannot fail
	return b
}

// DecodeGeneration reads the value of HeaderGeneration.
func DecodeGeneration(b []byte) (Generation, error) {
	var g Generation
	if err := json.Unmarshal(b, &g); err != nil {
		return g, fmt.Errorf("decode generation: %w", err)
	}
	return g, g.Validate()
}
