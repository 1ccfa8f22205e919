package store

import (
	"slices"
	"sync"
)

// values remembers the sorted values of labels that were asked for: sorting is most of what such a question costs, and
// dashboards ask it for each of their variables. A head never forgets a value, so what has as many as the index is whole.
type values struct {
	mu     sync.Mutex
	byName map[string][]string // guarded by mu; what is in it does not change
}

// sortedValues returns all values of a label, sorted. They belong to the caller.
func (h *Head) sortedValues(name string) []string {
	h.values.mu.Lock()
	known := h.values.byName[name]
	h.values.mu.Unlock()
	h.mu.RLock()
	all := h.index.names[name]
	if len(known) == len(all) {
		h.mu.RUnlock()
		return slices.Clone(known)
	}
	found := make([]string, 0, len(all))
	for v := range all {
		found = append(found, v)
	}
	h.mu.RUnlock()
	slices.Sort(found)
	if len(found) < minRemembered {
		return found
	}
	h.values.mu.Lock()
	defer h.values.mu.Unlock()
	if h.values.byName == nil {
		h.values.byName = map[string][]string{}
	}
	if len(found) > len(h.values.byName[name]) {
		h.values.byName[name] = slices.Clone(found)
	}
	return found
}
