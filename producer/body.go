package producer

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"

	"sluice/internal/web"
	"sluice/schema"
)

// Encodings of bodies.
const (
	encodingNone   = ""
	encodingSnappy = "snappy" // the block format
	encodingZstd   = "zstd"
	encodingGzip   = "gzip"
)

const (
	// maxZstdWindow is how far back a frame of zstd may refer: what every decoder has to take by RFC 8878, and no more.
	maxZstdWindow = 8 << 20
	// usualZstdWindow is what senders need for the bodies that they send. A decoder for it is kept, a larger one is not.
	usualZstdWindow = 1 << 20
)

// inflaters are decompressors, kept by a pooled request. The one of zstd works in the goroutine that reads from it.
type inflaters struct {
	gzip *gzip.Reader
	zstd *zstd.Decoder
	body bytesReader
}

// memory is about what is kept allocated.
func (in *inflaters) memory() (n int) {
	if in.gzip != nil {
		n += 48 << 10
	}
	if in.zstd != nil {
		n += 2 * usualZstdWindow
	}
	return n
}

// bytesReader reads step by step: of a bytes.Buffer zstd would decode all at once, whatever the frame claims.
type bytesReader struct{ rest []byte }

func (r *bytesReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// read reads and decompresses the body into q.decoded. Nothing is allocated by what the sender only claims.
func (q *request) read(r *http.Request, encoding string) error {
	if r.ContentLength > q.p.cfg.MaxBodyBytes {
		return bodyTooLarge("body", r.ContentLength, q.p.cfg.MaxBodyBytes)
	}
	if err := q.readBody(r); err != nil {
		return err
	}
	switch encoding {
	case encodingSnappy:
		return q.unsnappy()
	case encodingNone:
		if n := int64(len(q.body)); n > q.p.cfg.MaxDecodedBytes {
			return bodyTooLarge("body", n, q.p.cfg.MaxDecodedBytes)
		}
		q.decoded = q.body
		return q.reserveOut(len(q.body))
	}
	return q.inflate(encoding)
}

// reserveOut holds room for the records made of n bytes.
func (q *request) reserveOut(n int) error {
	if err := q.hold(int64(n)); err != nil {
		return err
	}
	q.outReserved = int64(n)
	return nil
}

// maxSnappyRatio is the most that snappy can do: a copy of 64 bytes takes three.
const maxSnappyRatio = 22

// unsnappy decompresses a snappy block.
func (q *request) unsnappy() error {
	n, err := snappy.DecodedLen(q.body)
	switch {
	case err != nil && len(q.body) == 0:
		return undecompressable("the body is empty, not even an empty snappy block")
	case err != nil:
		return undecompressable("the body is no snappy block: %v", err)
	case int64(n) > q.p.cfg.MaxDecodedBytes:
		return bodyTooLarge("decompressed body", int64(n), q.p.cfg.MaxDecodedBytes)
	case n > maxSnappyRatio*len(q.body)+64:
		return undecompressable("the body is no snappy block: %d bytes cannot become the %d that it promises", len(q.body), n)
	}
	if err := q.hold(2 * int64(n)); err != nil {
		return err
	}
	q.outReserved = int64(n)
	q.decodeBuf = grow(q.decodeBuf, n)
	if q.decoded, err = snappy.Decode(q.decodeBuf[:n], q.body); err != nil {
		return undecompressable("the body is no snappy block: %v", err)
	}
	return nil
}

// inflate decompresses what is compressed as a stream, as far as the limit goes: such a body may become anything, and only
// reading tells.
func (q *request) inflate(encoding string) (err error) {
	if len(q.body) == 0 {
		return undecompressable("the body is empty, and should be %s", encoding)
	}
	if encoding == encodingGzip {
		err = q.gunzip()
	} else if err = q.unzstd(usualZstdWindow); errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = q.unzstd(maxZstdWindow)
	}
	q.inflaters.body.rest = nil
	var se *schema.Error
	switch {
	case errors.As(err, &se):
		return err
	case err != nil:
		return undecompressable("the body cannot be decompressed as %s: %v", encoding, err)
	}
	q.decoded = q.decodeBuf
	return q.reserveOut(len(q.decoded))
}

func (q *request) gunzip() (err error) {
	in := &q.inflaters
	in.body.rest = q.body
	if in.gzip == nil {
		in.gzip = &gzip.Reader{}
	}
	if err := in.gzip.Reset(&in.body); err != nil {
		return err
	}
	q.decodeBuf, err = q.readAll(in.gzip, q.decodeBuf, "decompressed body", q.p.cfg.MaxDecodedBytes)
	return err
}

func (q *request) unzstd(window int64) (err error) {
	in := &q.inflaters
	in.body.rest = q.body
	d := in.zstd
	if d == nil || window > usualZstdWindow {
		if err := q.hold(2 * window); err != nil { // what it keeps to refer back to
			return err
		}
		d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(uint64(window)))
		if err != nil {
			return fmt.Errorf("make a zstd decoder: %w", err)
		}
		if window == usualZstdWindow {
			in.zstd = d
		}
	}
	if err := d.Reset(&in.body); err != nil {
		return err
	}
	q.decodeBuf, err = q.readAll(d, q.decodeBuf, "decompressed body", q.p.cfg.MaxDecodedBytes)
	return err
}

func undecompressable(format string, args ...any) error {
	return schema.NewError(schema.ErrDecompress, http.StatusBadRequest, format, args...)
}

func bodyTooLarge(what string, size, limit int64) error {
	return schema.NewError(schema.ErrBodyTooLarge, http.StatusRequestEntityTooLarge, "%s of %d bytes is larger than the limit of %d", what, size, limit)
}

// readBody reads the body into q.body.
func (q *request) readBody(r *http.Request) (err error) {
	q.bodyBuf, err = q.readAll(r.Body, q.bodyBuf, "body", q.p.cfg.MaxBodyBytes)
	q.body = q.bodyBuf
	var se *schema.Error
	if err == nil || errors.As(err, &se) {
		return err
	}
	return unreadable(r, err)
}

// readAll reads src into buf, with room that grows with what has arrived.
func (q *request) readAll(src io.Reader, buf []byte, what string, limit int64) ([]byte, error) {
	buf = buf[:0]
	room := int64(0)
	for {
		if int64(len(buf)) == room {
			step := min(max(room, firstRead), limit+1-room)
			if err := q.hold(step); err != nil {
				return buf, err
			}
			room += step
			buf = slices.Grow(buf, int(step))
		}
		n, err := src.Read(buf[len(buf):room])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > limit:
			return buf, schema.NewError(schema.ErrBodyTooLarge, http.StatusRequestEntityTooLarge, "%s is larger than the limit of %d bytes", what, limit)
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			return buf, err
		}
	}
}

// firstRead is the room that a body gets before its first byte has arrived: little, as thousands of clients may be slow.
const firstRead = 16 << 10

// unreadable says why a body did not arrive.
func unreadable(r *http.Request, err error) error {
	switch {
	case r.Context().Err() != nil:
		return fmt.Errorf("read body: %w", err) // 499
	case errors.Is(err, io.ErrUnexpectedEOF):
		return schema.NewError(schema.ErrBodyUnreadable, web.StatusClientClosedRequest, "the body ended before its announced length")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return schema.NewError(schema.ErrBodyUnreadable, http.StatusRequestTimeout, "the body did not arrive in time")
	}
	return schema.NewError(schema.ErrBodyUnreadable, http.StatusBadRequest, "the body could not be read: %v", err)
}

func grow[T any](b []T, n int) []T {
	if cap(b) < n {
		return make([]T, n)
	}
	return b[:n]
}
