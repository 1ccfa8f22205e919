package store

import "container/list"

// sized is what an lru keeps.
type sized interface{ bytes() int64 }

// lru keeps values up to a number of bytes, but always the one used last. Its owner locks it.
type lru[V sized] struct {
	limit, bytes int64
	order        *list.List // front = used last
	byKey        map[string]*list.Element
}

type lruItem[V sized] struct {
	key   string
	value V
}

func newLRU[V sized](limit int64) *lru[V] {
	return &lru[V]{limit: limit, order: list.New(), byKey: map[string]*list.Element{}}
}

func (l *lru[V]) get(key string) (value V, ok bool) {
	e := l.byKey[key]
	if e == nil {
		return value, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*lruItem[V]).value, true
}

// add puts a value in the place of what the key had.
func (l *lru[V]) add(key string, value V) {
	if e := l.byKey[key]; e != nil {
		l.remove(e)
	}
	l.byKey[key] = l.order.PushFront(&lruItem[V]{key, value})
	l.bytes += value.bytes()
	for l.bytes > l.limit && l.order.Len() > 1 {
		l.remove(l.order.Back())
	}
}

func (l *lru[V]) remove(e *list.Element) {
	item := l.order.Remove(e).(*lruItem[V])
	delete(l.byKey, item.key)
	l.bytes -= item.value.bytes()
}
