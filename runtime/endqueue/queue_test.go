package endqueue

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// until waits for what mu guards.
func (q *Queue) until(is func() bool) {
	for all := false; !all; {
		runtime.Gosched()
		q.mu.Lock()
		all = is()
		q.mu.Unlock()
	}
}

// No more than so many are done at once, and each that waits has its turn.
func TestOnlyAFewUrgentJobsAreDoneAtOnce(t *testing.T) {
	const n = 50
	q := new(Queue)
	var doing, most, done atomic.Int32
	begun := make(chan struct{})
	var work sync.WaitGroup
	for range n {
		work.Go(func() {
			q.Urgent(func() {
				most.Store(max(most.Load(), doing.Add(1)))
				<-begun
				doing.Add(-1)
				done.Add(1)
			})
		})
	}
	q.until(func() bool { return len(q.urgent)+q.doing == n })
	if now := doing.Load(); now > atOnce {
		t.Errorf("%d are done at once", now)
	}
	close(begun)
	work.Wait()
	if done.Load() != n || most.Load() > atOnce {
		t.Errorf("%d of %d were done, %d at once", done.Load(), n, most.Load())
	}
}

// What can wait does not begin while something is urgent, and is done one by one.
func TestUrgentJobsAreDoneBeforeDeferredOnes(t *testing.T) {
	const n = 50
	q := new(Queue)
	var doing, done atomic.Int32
	begun := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() { q.Urgent(func() { <-begun }) })
	q.until(func() bool { return q.doing == 1 })
	for range n {
		work.Go(func() {
			q.Later(func() {
				if now := doing.Add(1); now > 1 {
					t.Errorf("%d are done at once", now)
				}
				doing.Add(-1)
				done.Add(1)
			})
		})
	}
	q.until(func() bool { return len(q.deferred) == n || q.doingLater })
	if q.doingLater {
		t.Error("one is done while something is urgent")
	}
	close(begun)
	work.Wait()
	if done.Load() != n {
		t.Errorf("%d of %d were done", done.Load(), n)
	}
}

// An urgent job that comes while deferred ones are done is done at once.
func TestAnUrgentJobDoesNotWaitForADeferredOne(t *testing.T) {
	q := new(Queue)
	var order []string
	q.Later(func() {
		q.Urgent(func() { order = append(order, "urgent") })
		order = append(order, "later")
	})
	if len(order) != 2 || order[0] != "urgent" {
		t.Errorf("%v", order)
	}
}

// An urgent job that comes while deferred ones are done is done before the next of them.
func TestDeferredJobsGiveWay(t *testing.T) {
	q := new(Queue)
	var work sync.WaitGroup
	var second atomic.Bool
	later, urgent := make(chan struct{}), make(chan struct{})
	work.Go(func() { q.Later(func() { <-later }) })
	q.until(func() bool { return q.doingLater })
	work.Go(func() { q.Later(func() { second.Store(true) }) })
	q.until(func() bool { return len(q.deferred) == 1 || second.Load() })
	work.Go(func() { q.Urgent(func() { <-urgent }) })
	q.until(func() bool { return q.doing == 1 })
	close(later)
	q.until(func() bool { return !q.doingLater || second.Load() })
	if second.Load() {
		t.Error("the second is done beside the first, or before what is urgent")
	}
	close(urgent)
	work.Wait()
	if !second.Load() {
		t.Error("the second was never done")
	}
}
