package store

// table finds refs by hash: open addressing over refs alone, four bytes a slot, half to three quarters full. The hashes
// are the caller's.
type table struct {
	slots []uint32 // 0 = empty; a power of two of them
	used  int
}

// find returns the ref with this hash that same agrees to, or 0. hashes are by ref - 1.
func (t *table) find(hash uint64, hashes []uint64, same func(ref uint32) bool) uint32 {
	if len(t.slots) == 0 {
		return 0
	}
	mask := uint64(len(t.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		ref := t.slots[i]
		if ref == 0 || hashes[ref-1] == hash && same(ref) {
			return ref
		}
	}
}

// add puts a ref in, whose hash is in hashes already.
func (t *table) add(hash uint64, ref uint32, hashes []uint64) {
	if 4*(t.used+1) > 3*len(t.slots) {
		old := t.slots
		t.slots = make([]uint32, max(16, 2*len(old)))
		for _, r := range old {
			if r != 0 {
				t.put(hashes[r-1], r)
			}
		}
	}
	t.put(hash, ref)
	t.used++
}

func (t *table) put(hash uint64, ref uint32) {
	mask := uint64(len(t.slots) - 1)
	i := hash & mask
	for t.slots[i] != 0 {
		i = (i + 1) & mask
	}
	t.slots[i] = ref
}
