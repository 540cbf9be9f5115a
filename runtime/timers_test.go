package runtime

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
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
			if time.Now().Before(all[i].at) {
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
	q := testRuntime(t).timers
	var x timer
	x.fire = func() {}
	q.set(&x, time.Now().Add(time.Hour).Round(0))
	if !steady(x.at) {
		t.Errorf("a timer was set to %s", x.at)
	}
}

// Close drops the timers early, and ends the prober much later or at once.
func TestProberEndsHoweverItsTimersWereDropped(t *testing.T) {
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 1000 {
				rt := &Runtime{}
				var err error
				if rt.timers, err = newTimers(); err == nil {
					rt.prober, err = newProber(rt, 1)
				}
				if err != nil {
					t.Error(err)
					return
				}
				ended := make(chan error, 1)
				rt.timers.close()
				for began, wait := time.Now(), time.Duration(rand.IntN(100_000)); time.Since(began) < wait; {
					continue // the loop takes that wake-up in some microseconds, and this is to be in the middle of it
				}
				go func() { ended <- rt.prober.close() }()
				select {
				case err := <-ended:
					if err != nil {
						t.Error(err)
					}
				case <-time.After(10 * time.Second):
					t.Error("the prober does not end")
					return
				}
			}
		})
	}
	wg.Wait()
}
