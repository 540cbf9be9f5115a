package fsapi

import "sync"

// shared makes one value for all calls that come at the same time. One is made at a time. A
// call that comes while one is being made gets the next, and never a value that was begun
// before the call.
type shared[T any] struct {
	of   func() T
	turn chan struct{} // is full while one is made

	mu   sync.Mutex  // guards next; nothing is waited for under it
	next *sharing[T] // not begun yet
}

type sharing[T any] struct {
	done  chan struct{}
	value T
}

func share[T any](value func() T) *shared[T] {
	return &shared[T]{of: value, turn: make(chan struct{}, 1)}
}

func (s *shared[T]) get() T {
	s.mu.Lock()
	v := s.next
	if v != nil {
		s.mu.Unlock()
		<-v.done
		return v.value
	}
	v = &sharing[T]{done: make(chan struct{})}
	s.next = v
	s.mu.Unlock()

	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	defer close(v.done)
	v.value = s.of()
	return v.value
}
