package store

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// memory is bytes as TSDB's decoders want them.
type memory []byte

func (m memory) Len() int                    { return len(m) }
func (m memory) Range(start, end int) []byte { return m[start:end] }

const tocBytes = 6*8 + 4

// TestForgedIndex changes bytes of the index and makes the checksums right again: whatever it says then, it is an answer
// or an error, never a panic, a hang or the memory that a number claims.
func TestForgedIndex(t *testing.T) {
	dir, entry := makeBlock(t, 20, 20)
	clean, err := os.ReadFile(filepath.Join(dir, "index"))
	require.NoError(t, err)
	toc, err := index.NewTOCFromByteSlice(memory(clean))
	require.NoError(t, err)
	be32 := func(off int) (from, to int) { // a section: length, content, checksum
		return off + 4, off + 4 + int(binary.BigEndian.Uint32(clean[off:]))
	}
	var frames [][2]int
	add := func(from, to int) { frames = append(frames, [2]int{from, to}) }
	add(be32(int(toc.Symbols)))
	add(be32(int(toc.PostingsTable)))
	add(len(clean)-tocBytes, len(clean)-4)
	require.NoError(t, index.ReadPostingsOffsetTable(memory(clean), toc.PostingsTable, func(_, _ []byte, off uint64, _ int) error {
		add(be32(int(off)))
		return nil
	}))
	for off := (int(toc.Series) + seriesAlign - 1) / seriesAlign * seriesAlign; off < int(toc.LabelIndices); {
		length, n := binary.Uvarint(clean[off:])
		if n <= 0 || length == 0 {
			break
		}
		add(off+n, off+n+int(length))
		off = (off + n + int(length) + 4 + seriesAlign - 1) / seriesAlign * seriesAlign
	}
	require.Greater(t, len(frames), 40)
	rng := rand.New(rand.NewPCG(3, 4))
	forged := make([]byte, len(clean))
	bkt := newBucket()
	bkt.upload(t, dir, entry)
	bkt.set(nil, func(name string, off int64, b []byte) []byte {
		if strings.HasSuffix(name, "/index") {
			copy(b, forged[off:])
		}
		return b
	})
	failed := 0
	for range 1500 {
		copy(forged, clean)
		f := frames[rng.IntN(len(frames))]
		if rng.IntN(3) == 0 {
			f = frames[rng.IntN(3)] // the tables matter most
		}
		for range 1 + rng.IntN(3) {
			at := f[0] + rng.IntN(f[1]-f[0])
			if rng.IntN(3) == 0 {
				at = f[0] + rng.IntN(min(8, f[1]-f[0])) // counts
			}
			forged[at] = [...]byte{0, 1, 0x7f, 0x80, 0xff, byte(rng.Uint32())}[rng.IntN(6)]
		}
		binary.BigEndian.PutUint32(forged[f[1]:], crc32.Checksum(forged[f[0]:f[1]], castagnoli()))
		s, err := New(bkt, Config{CacheBytes: 1 << 20}, slog.New(slog.DiscardHandler), nil)
		require.NoError(t, err)
		if err := selectAll(context.Background(), s, entry); err != nil {
			failed++
			if !strings.Contains(err.Error(), "comes twice") && !strings.Contains(err.Error(), "comes after") { // said by the test
				var se *schema.Error
				require.ErrorAs(t, err, &se)
			}
		}
		s.Close()
	}
	require.Positive(t, failed)
}
