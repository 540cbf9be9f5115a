package runtime

import (
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTimersFireInOrderAndOnce(t *testing.T) {
	q := testRuntime(t).timers
	var mu sync.Mutex
	var fired []int
	done := make(chan struct{})
	begin := time.Now().Add(20 * time.Millisecond)
	const n = 200
	all := make([]*timer, n)
	for _, i := range rand.Perm(n) {
		all[i] = &timer{fire: func() {
			mu.Lock()
			defer mu.Unlock()
			if bootTime() < all[i].at {
				t.Errorf("timer %d fired early", i)
			}
			if fired = append(fired, i); len(fired) == n/2 {
				close(done)
			}
		}}
		q.set(all[i], begin.Add(time.Duration(i)*50*time.Microsecond))
	}
	for i := 1; i < n; i += 2 {
		q.set(all[i], begin.Add(time.Hour)) // set again
		q.stop(all[i])
		q.stop(all[i]) // twice
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
	q := testRuntime(t).timers
	done := make(chan struct{})
	n := 0
	var self timer
	self.fire = func() {
		if n++; n == 3 {
			close(done)
			return
		}
		q.set(&self, time.Now().Add(time.Millisecond))
	}
	q.set(&self, time.Now())
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not go on")
	}
}

func TestTimersKeepToTheMonotonicClock(t *testing.T) {
	// A time without a reading of it prints no "m=", and moves when the clock is set.
	steady := func(at time.Time) bool { return at != at.Round(0) }
	if at := together(time.Now().Add(time.Second), time.Second); !steady(at) {
		t.Errorf("a probe is due at %s", at)
	}
}

// The tick that close makes can be taken together with one before it.
func TestProberEndsWithoutAWakeUp(t *testing.T) {
	rt := &Runtime{}
	var err error
	rt.timers, err = newTimers()
	must(t, err)
	heard := rt.timers.fd
	rt.prober, err = newProber(rt, 1)
	must(t, err)
	rt.timers, err = newTimers() // the loop does not listen to this one
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- rt.prober.close() }()
	select {
	case err := <-ended:
		must(t, errors.Join(err, unix.Close(heard)))
	case <-time.After(10 * time.Second):
		t.Fatal("the prober does not end")
	}
}
