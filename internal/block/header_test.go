package block

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/stretchr/testify/require"

	"sluice/schema"
)

// manySeries makes a finished block of n series with a label of n values and a rare one.
func manySeries(t testing.TB, dir string, n int) (*schema.BlockMeta, string) {
	var list []storage.ChunkSeries
	symbols := []string{"__name__", "a", "half", "instance", "yes"}
	for i := range n {
		instance := fmt.Sprintf("host-%06d.example.com:9100", i)
		symbols = append(symbols, instance)
		b := labels.NewBuilder(labels.FromStrings("__name__", "a", "instance", instance))
		if i%2 == 0 {
			b.Set("half", "yes")
		}
		var samples []chunks.Sample
		for j := range 1 + i%5 {
			samples = append(samples, sample{int64(j), float64(i * j)})
		}
		list = append(list, storage.NewSeriesToChunkEncoder(storage.NewListSeries(b.Labels(), samples)))
	}
	slices.SortFunc(list, func(a, b storage.ChunkSeries) int { return labels.Compare(a.Labels(), b.Labels()) })
	slices.Sort(symbols)
	tmp := filepath.Join(dir, "tmp")
	c, err := Write(context.Background(), tmp, index.NewStringListIter(symbols), newSet(list...))
	require.NoError(t, err)
	meta, final, err := Finish(tmp, c, origin, "test", 1, nil)
	require.NoError(t, err)
	return meta, final
}

func TestHeaderOfABlock(t *testing.T) {
	meta, dir := manySeries(t, t.TempDir(), 5000)
	again, dirAgain := manySeries(t, t.TempDir(), 5000)
	require.Equal(t, meta, again)
	raw, err := os.ReadFile(filepath.Join(dir, schema.HeaderFile))
	require.NoError(t, err)
	same, err := os.ReadFile(filepath.Join(dirAgain, schema.HeaderFile))
	require.NoError(t, err)
	require.Equal(t, raw, same)
	is, err := ReadLocal(dir)
	require.NoError(t, err)
	require.Equal(t, meta, is)

	// The ID is the one that the block has without a header.
	without := *meta
	without.Compaction.Sources = nil
	without.Thanos.Files = slices.DeleteFunc(slices.Clone(meta.Thanos.Files), func(f schema.BlockFile) bool { return f.Path == schema.HeaderFile })
	require.Len(t, without.Thanos.Files, len(meta.Thanos.Files)-1)
	id, err := deriveID(&without)
	require.NoError(t, err)
	require.Equal(t, meta.ULID, id)

	h, err := DecodeHeader(raw)
	require.NoError(t, err)
	require.Equal(t, raw, h.Append(nil))
	file, err := os.ReadFile(filepath.Join(dir, schema.IndexFile))
	require.NoError(t, err)
	require.Less(t, len(raw), len(file)/50)
	holdAgainst(t, h, file)
	require.Equal(t, []string{"", "__name__", "half", "instance"}, names(h))
	require.Equal(t, 5000, h.Label("instance").Values)
	require.Nil(t, h.Label("nothing"))
	require.Positive(t, h.LongestSeries)
	require.Positive(t, h.LongestChunk)

	// Prometheus and its tools take the block as it is.
	series, samples, err := Walk(context.Background(), dir)
	require.NoError(t, err)
	require.Equal(t, [2]uint64{meta.Stats.NumSeries, meta.Stats.NumSamples}, [2]uint64{series, samples})

	bkt, root := openBucket(t)
	require.NoError(t, Upload(context.Background(), bkt, dir, meta))
	e := meta.Entry(0)
	require.Empty(t, Verify(context.Background(), bkt, &e, true, t.TempDir()))
	other, err := LocalHeader(dir, schema.BlockFile{Size: int64(len(file))}) // whole, but another's
	require.NoError(t, err)
	path := filepath.Join(root, "a", meta.ULID.String(), schema.HeaderFile)
	require.NoError(t, os.WriteFile(path, other, 0o644))
	require.Len(t, Verify(context.Background(), bkt, &e, false, ""), 1)
	e.Files = slices.Clone(e.Files)
	for i := range e.Files {
		if e.Files[i].Path == schema.HeaderFile {
			e.Files[i].Hash = nil
		}
	}
	errs := Verify(context.Background(), bkt, &e, true, t.TempDir())
	require.Len(t, errs, 1)
	require.ErrorIs(t, errs[0], ErrCorrupt)

	require.NoError(t, Delete(context.Background(), bkt, "a", meta.ULID))
	require.NoDirExists(t, filepath.Dir(path))
}

func names(h *Header) (out []string) {
	for _, l := range h.Labels {
		out = append(out, l.Name)
	}
	return out
}

// holdAgainst compares the header with what TSDB's own reader says of the index.
func holdAgainst(t *testing.T, h *Header, file []byte) {
	ctx := context.Background()
	r, err := index.NewReader(wholeFile(file), index.DecodePostingsRaw)
	require.NoError(t, err)
	defer r.Close()
	symbols := 0
	for it := r.Symbols(); it.Next(); {
		symbols++
	}
	require.EqualValues(t, symbols, h.SymbolCount)
	for i, s := range h.Symbols {
		require.Equal(t, crc32.Checksum(file[s.From:s.To], castagnoli()), s.Sum)
		if i > 0 {
			require.Equal(t, h.Symbols[i-1].To, s.From)
		}
	}
	for _, l := range h.Labels {
		if l.Name == "" {
			continue
		}
		require.True(t, l.HasRef, l.Name)
		values, err := r.SortedLabelValues(ctx, l.Name, nil)
		require.NoError(t, err)
		require.Equal(t, len(values), l.Values)
		require.Equal(t, values[len(values)-1], l.Last)
		at := 0
		for _, s := range l.Stretches {
			require.Equal(t, values[at], s.First)
			require.Equal(t, crc32.Checksum(file[s.From:s.To], castagnoli()), s.Sum)
			require.True(t, s.Values == 1 || s.End-s.Lists <= stretchPostings)
			require.True(t, s.Values == 1 || s.To-s.From <= stretchBytes)
			p, err := r.Postings(ctx, l.Name, s.First)
			require.NoError(t, err)
			refs, err := index.ExpandPostings(p)
			require.NoError(t, err)
			require.EqualValues(t, len(refs), binary.BigEndian.Uint32(file[s.Lists+4:]))
			at += s.Values
		}
	}
}

func TestSmallIndexesHaveNoHeader(t *testing.T) {
	meta, dir := build(t, t.TempDir(), origin)
	require.NoFileExists(t, filepath.Join(dir, schema.HeaderFile))
	require.Len(t, meta.Thanos.Files, 2)
}

// TestGoldenHeader holds the bytes of version 1: readers must read them for as long as blocks with them may be in a bucket.
func TestGoldenHeader(t *testing.T) {
	h := &Header{
		IndexSize: 5000, IndexSum: [32]byte{1, 2}, IndexFormat: 2, SeriesFrom: 48, SeriesTo: 1000, LongestSeries: 90, LongestChunk: 200,
		Symbols: []SymbolStretch{{0, 9, 20, 0x01020304}, {3, 20, 40, 0xa0b0c0d0}}, SymbolCount: 7,
		Labels: []HeaderLabel{
			{Name: "", Last: "", Values: 1, Stretches: []TableStretch{{"", 1, 3000, 3005, 1000, 1100, 7}}},
			{Name: "job", Ref: 4, HasRef: true, Last: "c", Values: 3, Stretches: []TableStretch{{"a", 2, 3005, 3040, 1100, 1200, 8}, {"c", 1, 3040, 3060, 1200, 1300, 9}}},
		},
	}
	b := h.Append(nil)
	golden, err := os.ReadFile("testdata/header-v1.hex")
	if os.Getenv("SLUICE_GOLDEN") != "" {
		require.NoError(t, os.WriteFile("testdata/header-v1.hex", []byte(hex.EncodeToString(b)+"\n"), 0o644))
		return
	}
	require.NoError(t, err)
	require.Equal(t, string(bytes.TrimSpace(golden)), hex.EncodeToString(b))
	got, err := DecodeHeader(b)
	require.NoError(t, err)
	require.Equal(t, h.Labels, got.Labels)
	require.Equal(t, h.Symbols, got.Symbols)
	require.Equal(t, b, got.Append(nil))
	require.Equal(t, h.IndexSum, got.IndexSum)
	for i := range b { // every bit counts, and every byte
		flipped := slices.Clone(b)
		flipped[i] ^= 1 << (i % 8)
		_, err := DecodeHeader(flipped)
		require.ErrorIs(t, err, ErrHeader)
		_, err = DecodeHeader(b[:i])
		require.ErrorIs(t, err, ErrHeader)
	}
}

// FuzzHeader decodes arbitrary bytes whose checksum is right: an error, or a header that is written as the same bytes again.
func FuzzHeader(f *testing.F) {
	_, dir := manySeries(f, f.TempDir(), 1500)
	raw, err := os.ReadFile(filepath.Join(dir, schema.HeaderFile))
	require.NoError(f, err)
	f.Add(raw)
	f.Add(raw[:len(raw)/2])
	f.Add([]byte(headerMagic + "\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= crc32.Size {
			body := len(b) - crc32.Size
			binary.BigEndian.PutUint32(b[body:], crc32.Checksum(b[:body], castagnoli()))
		}
		h, err := DecodeHeader(b)
		if err != nil {
			require.ErrorIs(t, err, ErrHeader)
			return
		}
		again, err := DecodeHeader(h.Append(nil))
		require.NoError(t, err)
		require.Equal(t, h.Labels, again.Labels)
		require.Equal(t, h.Symbols, again.Symbols)
		for _, l := range h.Labels {
			for _, s := range l.Stretches {
				require.True(t, s.From <= s.To && s.To <= h.IndexSize && s.Lists <= s.End && s.End <= h.IndexSize)
			}
		}
	})
}

// TestBrokenIndexHasNoHeader changes every byte of an index's tables: their checksums say so.
func TestBrokenIndexHasNoHeader(t *testing.T) {
	_, dir := manySeries(t, t.TempDir(), 300)
	clean, err := os.ReadFile(filepath.Join(dir, schema.IndexFile))
	require.NoError(t, err)
	from := func(b []byte) IndexSource {
		return func(_ context.Context, from, to int64) io.Reader { return bytes.NewReader(b[from:to]) }
	}
	h, err := BuildHeader(context.Background(), from(clean), int64(len(clean)), true)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 1))
	table := h.Labels[0].Stretches[0].From
	for range 2000 {
		at := rng.Int64N(h.SeriesFrom - 16)
		if rng.IntN(2) == 0 {
			at = table - 8 + rng.Int64N(int64(len(clean))-table+8)
		}
		broken := slices.Clone(clean)
		broken[at] ^= 1 << rng.IntN(8)
		if at == 4 { // the version, which has no checksum
			continue
		}
		_, err := BuildHeader(context.Background(), from(broken), int64(len(clean)), true)
		require.Error(t, err, "byte %d", at)
	}
	for n := range len(clean) {
		if n%97 == 0 {
			_, err := BuildHeader(context.Background(), from(clean[:n]), int64(n), true)
			require.Error(t, err)
		}
	}
}

func BenchmarkBuildHeader(b *testing.B) {
	_, dir := manySeries(b, b.TempDir(), 20_000)
	f := schema.BlockFile{Path: schema.IndexFile}
	info, err := os.Stat(filepath.Join(dir, schema.IndexFile))
	require.NoError(b, err)
	f.Size = info.Size()
	b.ReportAllocs()
	for b.Loop() {
		_, err := LocalHeader(dir, f)
		require.NoError(b, err)
	}
}
