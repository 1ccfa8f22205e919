package log

import (
	"bytes"
	"encoding/hex"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write golden files")

// goldenRecords are in testdata/frames.hex, one frame a line. A frame that was ever written stays readable: add lines,
// change none.
var goldenRecords = []Record{
	{Offset: 1, Time: 2},
	{Offset: 1 << 40, Time: 1_700_000_000_000, Key: []byte{}, Value: []byte{}},
	{Offset: 7, Time: -1, Key: []byte("tenant"), Value: []byte("value")},
	{Offset: 8, Key: []byte("k"), Headers: []Header{{Key: "v", Value: []byte{1}}, {Key: ""}, {Key: "e", Value: []byte{}}}},
	{Offset: 9, Value: []byte("v"), Headers: []Header{{Key: strings.Repeat("h", 200), Value: bytes.Repeat([]byte{7}, 130)}}},
}

func encode(r *Record, group uint32) []byte {
	f, _ := encodeFrame(r)
	setPrefix(f, r.Offset, r.Time, group)
	return f
}

func TestFrameGolden(t *testing.T) {
	path := filepath.Join("testdata", "frames.hex")
	if *update {
		var b strings.Builder
		for i := range goldenRecords {
			b.WriteString(hex.EncodeToString(encode(&goldenRecords[i], uint32(i))) + "\n")
		}
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	lines := strings.Fields(string(text))
	require.Len(t, lines, len(goldenRecords))
	for i, line := range lines {
		frame, err := hex.DecodeString(line)
		require.NoError(t, err)
		require.Equal(t, line, hex.EncodeToString(encode(&goldenRecords[i], uint32(i))))
		var r Record
		group, _, err := decodeFrame(frame, &r, nil)
		require.NoError(t, err)
		require.Equal(t, goldenRecords[i], r)
		require.Equal(t, r.Offset-int64(i), group)
	}
}

func TestEncodeFrameCopies(t *testing.T) {
	in := Record{Key: []byte("key"), Value: []byte("value"), Headers: []Header{{Key: "h", Value: []byte("x")}}}
	_, c := encodeFrame(&in)
	in.Key[0], in.Value[0], in.Headers[0].Value[0] = '!', '!', '!'
	require.Equal(t, Record{Key: []byte("key"), Value: []byte("value"), Headers: []Header{{Key: "h", Value: []byte("x")}}}, c)
}

func TestCompressFrame(t *testing.T) {
	for _, n := range []int{0, 10, 64, 1000, 70_000, MaxRecordBytes} {
		r := Record{Offset: 5, Time: 6, Value: []byte(strings.Repeat("abcdefgh", n/8))}
		frame, _ := encodeFrame(&r)
		block, prefix, _ := compressFrame(nil, frame)
		setPrefix(frame, 5, 6, 2)
		if n < minCompress {
			require.Nil(t, block)
			continue
		}
		copy(block[prefix:], frame[:framePrefix])
		got, err := decompressFrame([]byte("before"), block)
		require.NoError(t, err)
		require.True(t, string(got) == "before"+string(frame))
	}
	noise := make([]byte, 10_000)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	frame, _ := encodeFrame(&Record{Value: noise})
	block, _, _ := compressFrame(nil, frame)
	require.Nil(t, block)
}

func FuzzDecodeFrame(f *testing.F) {
	for i := range goldenRecords {
		f.Add(encode(&goldenRecords[i], 0))
	}
	f.Add([]byte{})
	f.Add(append(make([]byte, framePrefix), 0xff, 0xff, 0xff, 0xff, 0x0f))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Record
		group, headers, err := decodeFrame(b, &r, nil)
		if len(headers) > len(b) {
			t.Fatal("more headers than bytes")
		}
		if err != nil {
			return
		}
		again := encode(&r, uint32(r.Offset-group))
		var r2 Record
		if _, _, err := decodeFrame(again, &r2, nil); err != nil && len(again) <= maxFrame {
			t.Fatal(err)
		}
	})
}

func FuzzDecompressFrame(f *testing.F) {
	frame, _ := encodeFrame(&Record{Value: bytes.Repeat([]byte("x"), 1000)})
	block, _, _ := compressFrame(nil, frame)
	f.Add(bytes.Clone(block))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := decompressFrame(nil, b); err == nil && len(out) > maxFrame {
			t.Fatal(len(out))
		}
	})
}

// FuzzScanner reads any bytes as a segment: it ends, never panics, and gives out only what a checksum covers.
func FuzzScanner(f *testing.F) {
	f.Add([]byte{})
	f.Add(segmentOf([]byte("abc"), bytes.Repeat([]byte("x"), 2*pageSize)))
	f.Add(segmentOf(bytes.Repeat([]byte("y"), pageSize-fragmentHeader-3), []byte("z"))[:pageSize+5])
	f.Fuzz(func(_ *testing.T, b []byte) {
		var s scanner
		s.reset(bytes.NewReader(b), 0, int64(len(b)))
		for {
			if _, err := s.next(nil); err == io.EOF { //nolint:errorlint // it is never wrapped
				return
			}
		}
	})
}

func segmentOf(recs ...[]byte) (b []byte) {
	for _, r := range recs {
		b = appendFragments(b, 0, r, false)
	}
	return b
}

func randomRecords(rnd *rand.Rand) [][]byte {
	var recs [][]byte
	for range 200 {
		n := rnd.IntN(200)
		switch rnd.IntN(5) {
		case 0:
			n = rnd.IntN(3 * pageSize)
		case 1:
			n = pageSize - rnd.IntN(3*fragmentHeader)
		}
		recs = append(recs, bytes.Repeat([]byte{byte(len(recs))}, n))
	}
	return recs
}

// TestSegmentFormat reads what we write with Prometheus' reader, and what Prometheus writes with ours.
func TestSegmentFormat(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		recs := randomRecords(rnd)
		var b []byte
		for _, r := range recs {
			frame := append(make([]byte, framePrefix), r...)
			rec, compressed := frame, false
			if block, _, _ := compressFrame(nil, frame); block != nil {
				rec, compressed = block, true
			}
			before := int64(len(b))
			b = appendFragments(b, 0, rec, compressed)
			require.LessOrEqual(t, int64(len(b))-before, fragmentsSize(len(frame)))
		}
		theirs := wlog.NewReader(io.MultiReader(bytes.NewReader(b), bytes.NewReader(zeros[:(pageSize-len(b)%pageSize)%pageSize])))
		for i, r := range recs {
			require.True(t, theirs.Next(), "record %d: %v", i, theirs.Err())
			require.True(t, string(theirs.Record()[framePrefix:]) == string(r))
		}
		require.False(t, theirs.Next())
		require.NoError(t, theirs.Err())
	}
	for _, codec := range []compression.Type{compression.None, compression.Snappy} {
		dir := t.TempDir()
		wl, err := wlog.NewSize(nil, nil, dir, 64<<20, codec)
		require.NoError(t, err)
		recs := randomRecords(rnd)
		require.NoError(t, wl.Log(recs...))
		require.NoError(t, wl.Close())
		b, err := os.ReadFile(segmentPath(dir, 0))
		require.NoError(t, err)
		var s scanner
		s.reset(bytes.NewReader(b), 0, int64(len(b)))
		for i, r := range recs {
			got, err := s.next(nil)
			require.NoError(t, err, i)
			require.True(t, string(got) == string(r), i)
		}
		_, err = s.next(nil)
		require.Equal(t, io.EOF, err)
	}
}
