package ledger

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"sync"
	"time"
)

// The ledger file is text, one event a line, times in ms since the epoch:
//
//	# {"seed":…,"tenants":[…]}                           the Spec, first line
//	I <id> <tenant> <block> <from> <to> <late 0|1> <proto>   intent: written before the first byte is sent
//	A <id> <start> <end> <status> <written>              an attempt: HTTP status (0 = no answer), samples admitted by a 2.0 receiver
//	O <id> acked|rejected|unknown                        outcome
//
// An intent without an outcome is unknown: the samples may be there, once, or not.

// Outcome is what a sender knows of a request in the end.
type Outcome byte

// The outcomes. Unknown is the zero value: it needs no line.
const (
	Unknown  Outcome = iota // no 2xx, and no 4xx either: the samples may be there once
	Acked                   // 2xx: the samples must be there, once
	Rejected                // 4xx: the samples must not be there
)

func (o Outcome) String() string { return [...]string{"unknown", "acked", "rejected"}[o] }

type entry struct {
	Request
	outcome Outcome
}

// place is where the requests of one writer line lie one after the other in ticks.
type place struct {
	tenant, block int
	late          bool
}

// Ledger is what was promised, in memory and in a file.
type Ledger struct {
	Spec Spec

	f    *os.File
	stop chan struct{}
	done chan struct{}

	mu      sync.RWMutex // guards all below
	w       *bufio.Writer
	werr    error
	entries map[uint64]*entry
	places  map[place][]*entry // ascending by From
	nextID  uint64
}

func newLedger(spec Spec) *Ledger {
	return &Ledger{Spec: spec, entries: map[uint64]*entry{}, places: map[place][]*entry{}, nextID: 1}
}

// syncEvery bounds what a crash of the checker itself can forget.
const syncEvery = 100 * time.Millisecond

// Create starts a ledger in a new file. Close ends it.
func Create(path string, spec Spec) (*Ledger, error) {
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("spec: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create ledger: %w", err)
	}
	l := newLedger(spec)
	l.f, l.w = f, bufio.NewWriter(f)
	l.stop, l.done = make(chan struct{}), make(chan struct{})
	head, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	fmt.Fprintf(l.w, "# %s\n", head)
	go l.syncLoop()
	return l, nil
}

func (l *Ledger) syncLoop() {
	defer close(l.done)
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-tick.C:
			l.sync()
		}
	}
}

func (l *Ledger) sync() {
	l.mu.Lock()
	err := l.w.Flush()
	if l.werr == nil {
		l.werr = err
	}
	l.mu.Unlock()
	if err := l.f.Sync(); err != nil {
		l.mu.Lock()
		l.werr = errors.Join(l.werr, err)
		l.mu.Unlock()
	}
}

// Close writes what is left and returns the first error that any write met.
func (l *Ledger) Close() error {
	close(l.stop)
	<-l.done
	l.sync()
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.werr, l.f.Close())
}

// Intend gives the request an ID and notes it. It must be called before the first attempt, and for each place in
// ascending order of ticks.
func (l *Ledger) Intend(r Request) Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.ID = l.nextID
	l.nextID++
	l.add(r)
	late := 0
	if r.Late {
		late = 1
	}
	fmt.Fprintf(l.w, "I %d %d %d %d %d %d %d\n", r.ID, r.Tenant, r.Block, r.From, r.To, late, r.Proto)
	return r
}

func (l *Ledger) add(r Request) {
	e := &entry{Request: r}
	l.entries[r.ID] = e
	p := place{r.Tenant, r.Block, r.Late}
	l.places[p] = append(l.places[p], e)
}

// Attempt notes one try. written is what a remote-write 2.0 receiver admitted to, -1 = it did not say.
func (l *Ledger) Attempt(id uint64, start, end time.Time, status, written int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, "A %d %d %d %d %d\n", id, start.UnixMilli(), end.UnixMilli(), status, written)
}

// Settle notes the outcome.
func (l *Ledger) Settle(id uint64, o Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[id].outcome = o
	fmt.Fprintf(l.w, "O %d %s\n", id, o)
}

// Load reads a ledger file back, for a second look at a run. A torn last line is forgiven.
func Load(path string) (*Ledger, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	var l *Ledger
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // a line without its end was torn by a crash
		}
		if err != nil {
			return nil, fmt.Errorf("read ledger: %w", err)
		}
		if l, err = l.parse(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return nil, fmt.Errorf("ledger line %d: %w", n, err)
		}
	}
	if l == nil {
		return nil, errors.New("ledger is empty")
	}
	return l, nil
}

func (l *Ledger) parse(line []byte) (*Ledger, error) {
	if l == nil {
		var spec Spec
		if err := json.Unmarshal(bytes.TrimPrefix(line, []byte("# ")), &spec); err != nil {
			return nil, fmt.Errorf("spec: %w", err)
		}
		return newLedger(spec), spec.Validate()
	}
	if len(line) == 0 {
		return nil, errors.New("empty line")
	}
	switch line[0] {
	case 'I':
		var r Request
		var late int
		if _, err := fmt.Sscanf(string(line), "I %d %d %d %d %d %d %d", &r.ID, &r.Tenant, &r.Block, &r.From, &r.To, &late, &r.Proto); err != nil {
			return nil, fmt.Errorf("intent: %w", err)
		}
		r.Late = late == 1
		l.nextID = max(l.nextID, r.ID+1)
		l.add(r)
	case 'O':
		var id uint64
		var what string
		if _, err := fmt.Sscanf(string(line), "O %d %s", &id, &what); err != nil {
			return nil, fmt.Errorf("outcome: %w", err)
		}
		e := l.entries[id]
		if e == nil {
			return nil, fmt.Errorf("outcome of request %d, which nobody intended", id)
		}
		for _, o := range []Outcome{Unknown, Acked, Rejected} {
			if o.String() == what {
				e.outcome = o
			}
		}
	case 'A':
	default:
		return nil, fmt.Errorf("unknown event %q", line[0])
	}
	return l, nil
}

// find returns the request that a sample belongs to, or ok = false when nobody ever meant to send it.
func (l *Ledger) find(tenant, slot int, tick int64) (e entry, ok bool) {
	p := place{tenant, slot / SlotsPerBlock, l.Spec.Late(slot, tick)}
	l.mu.RLock()
	defer l.mu.RUnlock()
	es := l.places[p]
	i := sort.Search(len(es), func(i int) bool { return es[i].To > tick })
	if i == len(es) || es[i].From > tick {
		return entry{}, false
	}
	return *es[i], true
}

// acked returns the requests of a block that are acked at this moment.
func (l *Ledger) acked(tenant, block int) []Request {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var out []Request
	for _, late := range []bool{false, true} {
		for _, e := range l.places[place{tenant, block, late}] {
			if e.outcome == Acked {
				out = append(out, e.Request)
			}
		}
	}
	return out
}

// front is the first tick of a block that nobody has meant to send yet.
func (l *Ledger) front(tenant, block int) int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var to int64
	for _, late := range []bool{false, true} {
		if es := l.places[place{tenant, block, late}]; len(es) > 0 {
			to = max(to, es[len(es)-1].To)
		}
	}
	return to
}

// Outcomes counts the requests by outcome.
func (l *Ledger) Outcomes() map[Outcome]int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := map[Outcome]int{}
	for _, e := range l.entries {
		n[e.outcome]++
	}
	return n
}
