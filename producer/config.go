package producer

import (
	"fmt"
	"time"
	"unicode/utf8"

	"sluice/schema"
)

// Config of a Producer. Zero means the default.
type Config struct {
	MaxBodyBytes    int64 // of a request as it arrives, compressed; default 32 MiB
	MaxDecodedBytes int64 // of a request once decompressed, and of the records made from it; default 64 MiB
	// MaxInflightBytes bounds what all requests under way hold in memory together. What does not fit is refused with 503
	// at once. It must have room for one request of the largest size. Default 384 MiB.
	MaxInflightBytes int64

	AppendTimeout    time.Duration // how long the log may take to make a request durable; default 10 s
	TickInterval     time.Duration // between the ticks in every partition; default 15 s
	NoTicks          bool          // it writes none: a process without settings of generations, which ticks carry, must not
	PartitionRefresh time.Duration // how often the number of partitions is asked for; default 10 s

	// Generation is written into every tick and seal: it tells the consumers when a generation ends. All producers of an
	// installation should have the same; where they differ, the first in a generation decides. Zero fields mean the default.
	Generation schema.Generation

	// RecordVersion is the version of the records that are written: 2 (default) carries labels once and then refs, 1 with every
	// sample.
	RecordVersion int
	// TenantLabel is the label whose value is the tenant of a series; empty = all of a request are the request's tenant's.
	TenantLabel      string
	StripTenantLabel bool // and it is taken off the series

	// MaxKnownSeries bounds the series that are remembered, by which records of version 2 become small and cheap: some 60
	// bytes each. Above it series are written with their labels every time. Default 5 million.
	MaxKnownSeries int64

	// RefuseUnsorted refuses series with unsorted labels. The protocol obliges senders to sort; Prometheus' own receiver sorts
	// for those that do not, and so do we by default.
	RefuseUnsorted bool
}

// Validate fills in defaults and refuses what cannot be meant.
func (c *Config) Validate() error {
	for _, b := range []struct {
		name     string
		value    *int64
		fallback int64
	}{
		{"max body bytes", &c.MaxBodyBytes, 32 << 20},
		{"max decoded bytes", &c.MaxDecodedBytes, 64 << 20},
		{"max inflight bytes", &c.MaxInflightBytes, 384 << 20},
	} {
		if *b.value < 0 {
			return fmt.Errorf("%s is %d, must not be negative", b.name, *b.value)
		}
		if *b.value == 0 {
			*b.value = b.fallback
		}
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"append timeout", &c.AppendTimeout, 10 * time.Second},
		{"tick interval", &c.TickInterval, 15 * time.Second},
		{"partition refresh", &c.PartitionRefresh, 10 * time.Second},
	} {
		if *d.value < 0 {
			return fmt.Errorf("%s is %s, must not be negative", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	if c.RecordVersion == 0 {
		c.RecordVersion = schema.RecordV2
	}
	if c.RecordVersion != schema.RecordV1 && c.RecordVersion != schema.RecordV2 {
		return fmt.Errorf("record version is %d, want 1 or 2", c.RecordVersion)
	}
	if !utf8.ValidString(c.TenantLabel) || c.TenantLabel == metricName {
		return fmt.Errorf("the tenant cannot be named by the label %q", c.TenantLabel)
	}
	if c.MaxKnownSeries < 0 {
		return fmt.Errorf("max known series is %d, must not be negative", c.MaxKnownSeries)
	}
	if c.MaxKnownSeries == 0 {
		c.MaxKnownSeries = 5_000_000
	}
	if err := c.Generation.Validate(); err != nil {
		return fmt.Errorf("producer: %w", err)
	}
	if need := c.largestRequest(); c.MaxInflightBytes < need {
		return fmt.Errorf("max inflight bytes is %d, one request of the largest size needs %d", c.MaxInflightBytes, need)
	}
	return nil
}

// largestRequest is what one request may hold: its body, the decoded body, the records, and the index of its largest
// series or of its symbols.
func (c *Config) largestRequest() int64 {
	return c.MaxBodyBytes + 2*c.MaxDecodedBytes + seriesIndexFactor*maxRawSeries + 64*maxSymbols
}

// maxOTLPTree is what an OTLP request may take when decoded: what one request may hold, less what it holds beside.
func (c *Config) maxOTLPTree() int64 {
	return c.MaxInflightBytes - c.MaxBodyBytes - 2*c.MaxDecodedBytes
}
