package log

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"testing"
)

// sampleLike returns n bytes that compress about as well as a body of remote write that was taken apart: label text that
// repeats, with numbers that do not.
func sampleLike(n int) []byte {
	b := make([]byte, 0, n+200)
	random := noise(n)
	for i := 0; len(b) < n; i++ {
		b = append(b, `__name__http_request_duration_seconds_bucketinstancehost-`...)
		b = strconv.AppendInt(b, int64(i%500), 10)
		b = append(b, `jobapile0.25`...)
		b = append(b, random[i*16%(n-16):i*16%(n-16)+16]...)
	}
	return b[:n]
}

func benchLog(b *testing.B, cfg EmbeddedConfig) *Embedded {
	b.Helper()
	cfg.Dir = b.TempDir()
	if cfg.Partitions == 0 {
		cfg.Partitions = 8
	}
	e, err := OpenEmbedded(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	return e
}

// BenchmarkEmbeddedAppend appends records of 100 KiB from several goroutines to 8 partitions.
func BenchmarkEmbeddedAppend(b *testing.B) {
	for _, fsync := range []FsyncMode{FsyncGroup, FsyncOff} {
		for name, value := range map[string][]byte{"noise": noise(100 << 10), "samples": sampleLike(100 << 10)} {
			b.Run(fmt.Sprintf("%s/%s", fsync, name), func(b *testing.B) {
				e := benchLog(b, EmbeddedConfig{Fsync: fsync, MaxBytes: 1})
				b.SetBytes(int64(len(value)))
				b.ReportAllocs()
				b.SetParallelism(16)
				b.RunParallel(func(pb *testing.PB) {
					for i := int32(0); pb.Next(); i++ {
						recs := []Record{{Partition: i % 8, Key: []byte("tenant"), Value: value}}
						if err := e.Append(context.Background(), TopicSamples, recs); err != nil {
							b.Error(err)
							return
						}
						if end := recs[0].Offset; end%500 == 499 { // not to fill the disk
							if err := e.Trim(context.Background(), TopicSamples, i%8, end); err != nil {
								b.Error(err)
							}
						}
					}
				})
			})
		}
	}
}

// BenchmarkEmbeddedAppendSmall appends records of 100 bytes, as ticks and events are.
func BenchmarkEmbeddedAppendSmall(b *testing.B) {
	e := benchLog(b, EmbeddedConfig{Fsync: FsyncOff})
	value := noise(100)
	b.SetBytes(int64(len(value)))
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Append(context.Background(), TopicBlocks, []Record{{Key: value[:10], Value: value}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEmbeddedRead reads 128 MiB of records of 100 KiB from disk (the page cache), over and over.
func BenchmarkEmbeddedRead(b *testing.B) {
	for name, value := range map[string][]byte{"noise": noise(100 << 10), "samples": sampleLike(100 << 10)} {
		b.Run(name, func(b *testing.B) {
			e := benchLog(b, EmbeddedConfig{Fsync: FsyncOff, TailBytes: -1})
			const n = 1280
			for range n {
				if err := e.Append(context.Background(), TopicSamples, []Record{{Key: []byte("tenant"), Value: value}}); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(value)))
			b.ReportAllocs()
			b.ResetTimer()
			var r Reader
			for i := 0; i < b.N; {
				if r == nil || r.Position() == n {
					var err error
					if r, err = e.Reader(TopicSamples, 0, 0); err != nil {
						b.Fatal(err)
					}
					defer r.Close()
				}
				recs, err := r.Next(context.Background())
				if err != nil {
					b.Fatal(err)
				}
				i += len(recs)
			}
		})
	}
}
