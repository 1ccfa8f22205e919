package fetch

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"net/http"
	"sync"
	"time"
)

const (
	// defaultKeepAlive is how often an answer that is not ready shows that somebody works on it. A client gives up after
	// three times as long.
	defaultKeepAlive = time.Second

	// stuckAfter is how long one write may take to a caller who reads nothing: longer than any query, as its time to
	// read this answer may come last.
	stuckAfter = 5 * time.Minute
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	emptyFrame = []byte{0, 0, 0, 0, 0} // length 0, checksum of nothing
)

// lifeline is an answer that shows signs of life until it is given: the head at first, then sign. It is made for one
// request and must be closed.
type lifeline struct {
	w       http.ResponseWriter
	control *http.ResponseController
	every   time.Duration
	sign    []byte
	timer   *time.Timer

	mu     sync.Mutex // guards the rest, and the writing
	begun  bool       // the head is out
	wrote  bool       // since the last look
	closed bool
	prefix [binary.MaxVarintLen64 + 4]byte
}

// newLifeline makes the answer to a request. The head will have the header of w as it is now.
func newLifeline(w http.ResponseWriter, every time.Duration, sign []byte) *lifeline {
	l := &lifeline{w: w, control: http.NewResponseController(w), every: every, sign: sign}
	l.mu.Lock() // until timer is set
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(every/4, l.look)
	return l
}

// look sends a sign of life unless something was written since the last time.
func (l *lifeline) look() {
	// Before the lock: the write that this is for may be under way. Without a deadline (in a test's recorder) it has none.
	_ = l.control.SetWriteDeadline(time.Now().Add(stuckAfter))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	if !l.wrote {
		l.begin()
		_, _ = l.w.Write(l.sign) // whoever writes the answer sees the error too
	}
	_ = l.control.Flush()
	l.wrote = false
	l.timer.Reset(l.every)
}

func (l *lifeline) begin() {
	if !l.begun {
		l.begun = true
		l.w.WriteHeader(http.StatusOK)
	}
}

// Frame writes one frame.
func (l *lifeline) Frame(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin()
	l.wrote = true
	n := binary.PutUvarint(l.prefix[:], uint64(len(b)))
	binary.BigEndian.PutUint32(l.prefix[n:], crc32.Checksum(b, castagnoli))
	if _, err := l.w.Write(l.prefix[:n+4]); err != nil {
		return err
	}
	_, err := l.w.Write(b)
	return err
}

// close ends the signs of life; it returns once none is being written, and says whether the head is out.
func (l *lifeline) close() (begun bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.timer.Stop()
	return l.begun
}

// refuse answers with err, in the place of an answer that has not begun.
func refuse(w http.ResponseWriter, err error) {
	packed := packError(err)
	w.Header().Del("Trailer")
	w.Header().Set("Content-Type", contentTypeJSON)
	w.WriteHeader(packed.Status)
	_ = json.NewEncoder(w).Encode(packed) // the caller has gone: nobody is left to tell
}

var errNoBlocks = errors.New("no blocks are served here")
