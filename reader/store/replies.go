package store

import (
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
)

// replies remembers what blocks have said of their labels, and which matchers none of a block's series has: dashboards ask for
// the same again and again, and most blocks have nothing of most metrics. A block never changes, so it would say the same.
type replies struct {
	asked *prometheus.CounterVec

	mu    sync.Mutex
	known *lru[reply] // guarded by mu
}

// reply is a list of names or values; an empty one says that no series matches. Or it is counts.
type reply struct {
	list   []string
	counts *Counts
	cost   int64
}

func (r reply) bytes() int64 { return r.cost }

// replyOverhead is what a reply costs beside its texts.
const replyOverhead = 200

func newReplies(limit int64, m *metrics) *replies {
	return &replies{asked: m.answers, known: newLRU[reply](limit)}
}

// Kinds of questions.
const (
	aboutNames  = "names"
	aboutValues = "values"
	aboutSeries = "series"
	aboutCounts = "counts"
)

// question is a key for what is asked of a block. The order of the matchers says nothing.
func question(about string, f *file, name string, hints *storage.LabelHints, ms []*labels.Matcher) string {
	limit := 0
	if hints != nil {
		limit = hints.Limit
	}
	texts := make([]string, len(ms))
	for i, m := range ms {
		texts[i] = m.String()
	}
	slices.Sort(texts)
	return strings.Join(append([]string{about, f.key, name, strconv.Itoa(limit)}, texts...), "\x00")
}

// get returns a reply for the caller to keep.
func (r *replies) get(question string) (list []string, ok bool) {
	known, ok := r.look(question)
	return slices.Clone(known.list), ok
}

// getCounts returns counts, which everybody shares.
func (r *replies) getCounts(question string) (*Counts, bool) {
	known, ok := r.look(question)
	return known.counts, ok
}

func (r *replies) look(question string) (known reply, ok bool) {
	r.mu.Lock()
	known, ok = r.known.get(question)
	r.mu.Unlock()
	result := "miss"
	if ok {
		result = "hit"
	}
	r.asked.WithLabelValues(result).Inc()
	return known, ok
}

// put remembers a reply, unless it alone would take much of the place that there is.
func (r *replies) put(question string, list []string) {
	cost := int64(replyOverhead + len(question))
	for _, s := range list {
		cost += 16 + int64(len(s))
	}
	r.add(question, reply{list: list, cost: cost})
}

func (r *replies) putCounts(question string, c *Counts) {
	r.add(question, reply{counts: c, cost: replyOverhead + int64(len(question)) + c.Bytes()})
}

func (r *replies) add(question string, said reply) {
	if said.cost > r.known.limit/8 {
		return
	}
	said.list = slices.Clone(said.list)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known.add(question, said)
}
