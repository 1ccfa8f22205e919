package usage

// hashBytes is how much of a series' hash is told. Of a million known series, one new series in a million is mistaken for
// one of them.
const hashBytes = 5

// short is the part of a hash that is told.
func short(hash uint64) uint64 { return hash & (1<<(8*hashBytes) - 1) }

// hashSet is a set of short hashes in a flat table, at most three quarters full: some 14 bytes each.
type hashSet struct {
	slots []uint64 // a hash plus one; 0 = free
	n     int
}

// add adds a short hash; false if it is there already.
func (s *hashSet) add(h uint64) bool {
	if 4*(s.n+1) > 3*len(s.slots) {
		old := s.slots
		s.slots, s.n = make([]uint64, max(16, 2*len(old))), 0
		for _, v := range old {
			if v != 0 {
				s.add(v - 1)
			}
		}
	}
	at := s.find(h)
	if s.slots[at] != 0 {
		return false
	}
	s.slots[at] = h + 1
	s.n++
	return true
}

func (s *hashSet) has(h uint64) bool { return s.n > 0 && s.slots[s.find(h)] != 0 }

// find returns the slot of h, or the free one where it belongs.
func (s *hashSet) find(h uint64) uint64 {
	mask := uint64(len(s.slots) - 1)
	for at := spread(h) & mask; ; at = (at + 1) & mask {
		if v := s.slots[at]; v == 0 || v == h+1 {
			return at
		}
	}
}

// spread makes all bits of a hash count: series of one partition have something in common.
func spread(h uint64) uint64 {
	h *= 0x9e3779b97f4a7c15
	return h ^ h>>32
}
