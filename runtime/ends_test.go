package runtime

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// until waits for what mu guards.
func (e *ends) until(is func() bool) {
	for all := false; !all; {
		runtime.Gosched()
		e.mu.Lock()
		all = is()
		e.mu.Unlock()
	}
}

// No more than so many tell at once, and each that waits has its turn.
func TestOnlyAFewTellAtOnce(t *testing.T) {
	const n = 50
	e := new(ends)
	var telling, most, told atomic.Int32
	begun := make(chan struct{})
	var work sync.WaitGroup
	for range n {
		work.Go(func() {
			e.tell(func() {
				most.Store(max(most.Load(), telling.Add(1)))
				<-begun
				telling.Add(-1)
				told.Add(1)
			})
		})
	}
	e.until(func() bool { return len(e.untold)+e.telling == n })
	if now := telling.Load(); now > tellers {
		t.Errorf("%d tell at once", now)
	}
	close(begun)
	work.Wait()
	if told.Load() != n || most.Load() > tellers {
		t.Errorf("%d of %d were told, %d at once", told.Load(), n, most.Load())
	}
}

// What can wait does not begin while something is to be told, and is done one by one.
func TestEndsAreToldBeforeTheyAreKept(t *testing.T) {
	const n = 50
	e := new(ends)
	var keeping, kept atomic.Int32
	begun := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() { e.tell(func() { <-begun }) })
	e.until(func() bool { return e.telling == 1 })
	for range n {
		work.Go(func() {
			e.keep(func() {
				if now := keeping.Add(1); now > 1 {
					t.Errorf("%d keep at once", now)
				}
				keeping.Add(-1)
				kept.Add(1)
			})
		})
	}
	e.until(func() bool { return len(e.unkept) == n || e.keeping })
	if e.keeping {
		t.Error("one keeps while something is to be told")
	}
	close(begun)
	work.Wait()
	if kept.Load() != n {
		t.Errorf("%d of %d were kept", kept.Load(), n)
	}
}

// An end that comes while others are kept is told at once.
func TestAnEndIsToldWhileOthersAreKept(t *testing.T) {
	e := new(ends)
	var order []string
	e.keep(func() {
		e.tell(func() { order = append(order, "told") })
		order = append(order, "kept")
	})
	if len(order) != 2 || order[0] != "told" {
		t.Errorf("%v", order)
	}
}

// What comes to be told while others are kept is told before the next of them.
func TestKeepingGivesWay(t *testing.T) {
	e := new(ends)
	var work sync.WaitGroup
	var second atomic.Bool
	keep, tell := make(chan struct{}), make(chan struct{})
	work.Go(func() { e.keep(func() { <-keep }) })
	e.until(func() bool { return e.keeping })
	work.Go(func() { e.keep(func() { second.Store(true) }) })
	e.until(func() bool { return len(e.unkept) == 1 || second.Load() })
	work.Go(func() { e.tell(func() { <-tell }) })
	e.until(func() bool { return e.telling == 1 })
	close(keep)
	e.until(func() bool { return !e.keeping || second.Load() })
	if second.Load() {
		t.Error("the second is kept beside the first, or before what is to be told")
	}
	close(tell)
	work.Wait()
	if !second.Load() {
		t.Error("the second was never kept")
	}
}
