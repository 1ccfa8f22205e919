package store

// Stats returns how many chunks the head holds, and the times of its first and last sample, ms.
func (h *Head) Stats() (chunks, mint, maxt int64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	chunks = int64(len(h.chunks))
	for ref := range uint32(len(h.labels)) {
		if h.series(ref+1).count > 0 {
			chunks++
		}
	}
	return chunks, h.mint, h.maxt
}
