package epoll

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testTimers is a queue with a loop that fires what is due.
func testTimers(t *testing.T) *Timers {
	t.Helper()
	q, err := NewTimers()
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewLoop("test", func([]unix.EpollEvent) bool { q.Run(); return false })
	if err == nil {
		err = l.Listen(q.FD())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		q.Drop()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

func TestTimersFireInOrderAndOnce(t *testing.T) {
	q := testTimers(t)
	var mu sync.Mutex
	var fired []int
	done := make(chan struct{})
	begin := time.Now().Add(20 * time.Millisecond)
	const n = 200
	all := make([]*Timer, n)
	for _, i := range rand.Perm(n) {
		all[i] = &Timer{Fire: func() {
			mu.Lock()
			defer mu.Unlock()
			if SinceBoot() < all[i].at {
				t.Errorf("timer %d fired early", i)
			}
			if fired = append(fired, i); len(fired) == n/2 {
				close(done)
			}
		}}
		q.Set(all[i], begin.Add(time.Duration(i)*50*time.Microsecond))
	}
	for i := 1; i < n; i += 2 {
		q.Set(all[i], begin.Add(time.Hour)) // set again
		q.Stop(all[i])
		q.Stop(all[i]) // twice
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("not all have fired")
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.IsSorted(fired) || slices.ContainsFunc(fired, func(i int) bool { return i%2 == 1 }) {
		t.Errorf("fired: %v", fired)
	}
}

func TestTimerCanBeSetWhenItFires(t *testing.T) {
	q := testTimers(t)
	done := make(chan struct{})
	n := 0
	var self Timer
	self.Fire = func() {
		if n++; n == 3 {
			close(done)
			return
		}
		q.Set(&self, time.Now().Add(time.Millisecond))
	}
	q.Set(&self, time.Now())
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not go on")
	}
}
