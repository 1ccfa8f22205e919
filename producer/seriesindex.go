package producer

// seriesIndex finds the place of a series by its key: open addressing over slots of eight bytes, which hold a part of the
// key, so that the series itself is looked at when it is the right one. A look-up is two misses of the processor's
// cache, where a map takes three.
type seriesIndex struct {
	slots []seriesSlot  // a power of two of them, at most three quarters full
	pages []*seriesPage // the series by their places; what this points to never moves
	used  int
}

type seriesSlot struct {
	tag uint32 // of the key
	at  uint32 // 1 + place in the pages; 0 = empty
}

func (x *seriesIndex) at(at uint32) *knownSeries { return &x.pages[at/pageSeries][at%pageSeries] }

func (x *seriesIndex) find(key seriesKey) *knownSeries {
	var near uint32
	return x.findNear(key, &near)
}

// findNear is find with a guess: senders send their series in the same order each time, and have got their places in that order,
// so the one to find is mostly in the place after that of the one before. Then there is no look-up, and memory is read in
// order. near is that place; it is brought up to date.
func (x *seriesIndex) findNear(key seriesKey, near *uint32) *knownSeries {
	if int(*near/pageSeries) < len(x.pages) {
		if s := x.at(*near); s.key == key {
			*near++
			return s
		}
	}
	if i, ok := x.slot(key); ok {
		at := x.slots[i].at - 1
		*near = at + 1
		return x.at(at)
	}
	return nil
}

func (x *seriesIndex) slot(key seriesKey) (i uint64, ok bool) {
	if x.used == 0 {
		return 0, false
	}
	mask, tag := uint64(len(x.slots)-1), uint32(key[1])
	for i = key[0] & mask; ; i = (i + 1) & mask {
		s := x.slots[i]
		if s.at == 0 {
			return 0, false
		}
		if s.tag == tag && x.at(s.at-1).key == key {
			return i, true
		}
	}
}

// add puts in the key of the series at a place; it is not there yet.
func (x *seriesIndex) add(key seriesKey, at uint32) {
	if 4*(x.used+1) > 3*len(x.slots) {
		old := x.slots
		x.slots = make([]seriesSlot, max(64, 2*len(old)))
		for _, s := range old {
			if s.at != 0 {
				x.put(x.at(s.at - 1).key[0], s)
			}
		}
	}
	x.put(key[0], seriesSlot{uint32(key[1]), at + 1})
	x.used++
}

func (x *seriesIndex) put(hash uint64, s seriesSlot) {
	mask := uint64(len(x.slots) - 1)
	i := hash & mask
	for x.slots[i].at != 0 {
		i = (i + 1) & mask
	}
	x.slots[i] = s
}

// remove takes a key out, and moves up those behind it that it had kept from their places: no slot is left dead.
func (x *seriesIndex) remove(key seriesKey) {
	hole, ok := x.slot(key)
	if !ok {
		return
	}
	mask := uint64(len(x.slots) - 1)
	for i := (hole + 1) & mask; x.slots[i].at != 0; i = (i + 1) & mask {
		home := x.at(x.slots[i].at - 1).key[0] & mask
		if (i-home)&mask >= (i-hole)&mask { // the hole lies on the way from its home to where it is
			x.slots[hole] = x.slots[i]
			hole = i
		}
	}
	x.slots[hole] = seriesSlot{}
	x.used--
}
