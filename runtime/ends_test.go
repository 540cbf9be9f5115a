package runtime

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// What can wait does not begin while somebody has to be told something, and is done
// one by one; only a few tell at once.
func TestEndsAreToldBeforeTheyAreKept(t *testing.T) {
	const n = 200
	e := new(ends)
	var telling, keeping, told, kept atomic.Int32
	begun := make(chan struct{})
	var work sync.WaitGroup
	for range n {
		work.Go(func() {
			e.tell(func() {
				<-begun
				if now := telling.Add(1); now > tellers {
					t.Errorf("%d tell at once", now)
				}
				if now := keeping.Load(); now > 0 {
					t.Error("one tells while another keeps that began later")
				}
				telling.Add(-1)
				told.Add(1)
			})
			e.keep(func() {
				if now := keeping.Add(1); now > 1 {
					t.Errorf("%d keep at once", now)
				}
				if now := told.Load(); now < n {
					t.Errorf("the first keeps after %d of %d were told", now, n)
				}
				keeping.Add(-1)
				kept.Add(1)
			})
		})
	}
	for all := false; !all; { // there
		runtime.Gosched()
		e.mu.Lock()
		all = len(e.untold)+e.telling == n
		e.mu.Unlock()
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
