package store

import (
	"container/list"

	"github.com/prometheus/client_golang/prometheus"
)

// lru keeps opened blocks up to a number of bytes, but always the one used last. Its owner locks it.
type lru struct {
	limit, bytes int64
	order        *list.List // front = used last
	byKey        map[string]*list.Element
	count, size  prometheus.Gauge
}

type lruItem struct {
	key   string
	block *block
}

func newLRU(limit int64, count, size prometheus.Gauge) *lru {
	return &lru{limit: limit, order: list.New(), byKey: map[string]*list.Element{}, count: count, size: size}
}

func (l *lru) get(key string) *block {
	e := l.byKey[key]
	if e == nil {
		return nil
	}
	l.order.MoveToFront(e)
	return e.Value.(*lruItem).block
}

func (l *lru) add(key string, b *block) {
	l.byKey[key] = l.order.PushFront(&lruItem{key, b})
	l.bytes += b.index.bytes()
	for l.bytes > l.limit && l.order.Len() > 1 {
		last := l.order.Back()
		item := l.order.Remove(last).(*lruItem)
		delete(l.byKey, item.key)
		l.bytes -= item.block.index.bytes()
	}
	l.count.Set(float64(l.order.Len()))
	l.size.Set(float64(l.bytes))
}
