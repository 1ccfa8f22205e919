package producer

import (
	"sync"
	"time"
)

// rates are what a tenant's limits per second are held against.
type rates struct {
	samples, histograms meter // written; samples include histograms
	requests            meter // seen
}

// meter counts what comes, and tells how much it is a second.
type meter struct {
	mu               sync.Mutex // guards all below
	start            time.Time  // of the current window
	current, earlier int        // counts of the current window and of the one before
	total            int64      // of all windows
}

// meterWindow is the time that a rate is taken over.
const meterWindow = time.Minute

func (m *meter) add(n int, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn(now)
	m.current += n
	m.total += int64(n)
}

// sum returns all that has come.
func (m *meter) sum() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}

// perSecond returns the rate over the last meterWindow, as if what came in the window before had come evenly.
func (m *meter) perSecond(now time.Time) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn(now)
	left := max(0, 1-float64(now.Sub(m.start))/float64(meterWindow))
	return (float64(m.current) + float64(m.earlier)*left) / meterWindow.Seconds()
}

// turn begins a new window if it is time for one. The caller holds mu.
func (m *meter) turn(now time.Time) {
	switch passed := now.Sub(m.start); {
	case passed < meterWindow:
	case passed < 2*meterWindow:
		m.start, m.current, m.earlier = m.start.Add(meterWindow), 0, m.current
	default:
		m.start, m.current, m.earlier = now, 0, 0
	}
}
