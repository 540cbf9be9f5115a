package image

import (
	"cmp"
	"context"
	"sync"
)

// flights does each thing once for all who want it at the same time. What is under way
// lasts as long as anybody waits for it.
type flights[T any] struct {
	mu      sync.Mutex
	current map[string]*flight[T]
	work    sync.WaitGroup
}

type flight[T any] struct {
	done    chan struct{}
	result  T
	err     error
	waiters int
	cancel  context.CancelFunc
}

// do returns what fn returns, of the flight of that key that is under way or a new
// one, and whether others had a part in it. It returns ctx's error when ctx ends
// before; the context of fn ends when all have left. fn is begun under ground, which
// ends it too: do does not wait for that, since fn may wait for a disk.
func (f *flights[T]) do(ctx, ground context.Context, key string, fn func(context.Context) (T, error)) (T, bool, error) {
	for {
		var zero T
		if err := cmp.Or(ctx.Err(), ground.Err()); err != nil {
			return zero, false, err
		}
		f.mu.Lock()
		c, shared := f.current[key], true
		switch {
		case c == nil:
			shared = false
			c = f.begin(ground, key, fn)
		case c.waiters == 0:
			// It was given up. It must have ended before it is begun again.
			f.mu.Unlock()
			select {
			case <-c.done:
				continue
			case <-ctx.Done():
				return zero, false, ctx.Err()
			case <-ground.Done():
				return zero, false, ground.Err()
			}
		}
		c.waiters++
		f.mu.Unlock()
		select {
		case <-c.done:
			return c.result, shared, c.err
		case <-ctx.Done():
		case <-ground.Done():
		}
		f.mu.Lock()
		if c.waiters--; c.waiters == 0 {
			c.cancel()
		}
		f.mu.Unlock()
		return zero, shared, cmp.Or(ctx.Err(), ground.Err())
	}
}

// begin begins a flight. mu is held.
func (f *flights[T]) begin(ground context.Context, key string, fn func(context.Context) (T, error)) *flight[T] {
	c := &flight[T]{done: make(chan struct{})}
	ctx, cancel := context.WithCancel(ground)
	c.cancel = cancel
	if f.current == nil {
		f.current = map[string]*flight[T]{}
	}
	f.current[key] = c
	f.work.Go(func() {
		c.result, c.err = fn(ctx)
		cancel()
		f.mu.Lock()
		delete(f.current, key)
		f.mu.Unlock()
		close(c.done)
	})
	return c
}
