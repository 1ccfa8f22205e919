package store

// arena is memory for the bytes of chunks: few large pieces without pointers, so that millions of chunks are nothing to
// the collector. What is kept stays until the head goes; what is taken may be given back and taken again.
type arena struct {
	slabs [][]byte
	used  int                     // of the last slab
	free  [maxSize/32 + 1][]place // by size / 32
}

// place is where something begins. The zero place is nobody's.
type place struct {
	slab uint32 // 1 + index
	off  uint32
}

// Slabs begin small, for the many small tenants, and double.
const (
	firstSlab = 2 << 10
	lastSlab  = 512 << 10
)

// room returns n bytes of zeros.
func (a *arena) room(n int) place {
	if len(a.slabs) == 0 || a.used+n > len(a.slabs[len(a.slabs)-1]) {
		size := firstSlab
		if len(a.slabs) > 0 {
			size = min(2*len(a.slabs[len(a.slabs)-1]), lastSlab)
		}
		a.slabs = append(a.slabs, make([]byte, max(size, n)))
		a.used = 0
	}
	p := place{uint32(len(a.slabs)), uint32(a.used)}
	a.used += n
	return p
}

// take returns n zeroed bytes, n a multiple of 32 up to maxSize.
func (a *arena) take(n int) place {
	free := &a.free[n/32]
	if l := len(*free); l > 0 {
		p := (*free)[l-1]
		*free = (*free)[:l-1]
		clear(a.bytes(p, n))
		return p
	}
	return a.room(n)
}

// give gives back what was taken.
func (a *arena) give(p place, n int) { a.free[n/32] = append(a.free[n/32], p) }

// keep stores a copy of b for good.
func (a *arena) keep(b []byte) place {
	p := a.room(len(b))
	copy(a.bytes(p, len(b)), b)
	return p
}

func (a *arena) bytes(p place, n int) []byte {
	return a.slabs[p.slab-1][p.off : int(p.off)+n : int(p.off)+n]
}
