package fsapi

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

func TestALaneBoundsThoseWhoReadAndNobodyElse(t *testing.T) {
	l := newLane()
	slots := l.free
	var inside, most atomic.Int64
	visit := func() {
		n := inside.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		inside.Add(-1)
	}
	wake := make(chan struct{})
	var all, waiting sync.WaitGroup
	for uid := range uint32(2) {
		for range 100 {
			waiting.Add(1)
			all.Go(func() {
				leave := l.read(uid)
				defer leave()
				turn := l.turn(&fuse.Context{Caller: fuse.Caller{Owner: fuse.Owner{Uid: uid}}})
				defer turn.end()
				// All hundred wait at once: outside.
				if errno := turn.await(func() syscall.Errno {
					waiting.Done()
					<-wake
					return 0
				}); errno != 0 {
					t.Error(errno)
				}
				visit()
			})
		}
	}
	waiting.Wait()
	for range 3 * slots {
		l.read(0)() // root's are never bounded
	}
	close(wake)
	all.Wait()
	if n := most.Load(); n > int64(slots) {
		t.Errorf("%d answered at once", n)
	}
	if l.free != slots {
		t.Errorf("%d of %d never left", slots-l.free, slots)
	}
	if turn := l.turn(context.Background()); !turn.root {
		t.Error("the daemon's own is not root's")
	}
}

func TestALaneLetsRootsInFirst(t *testing.T) {
	l := &lane{}
	queue := []<-chan struct{}{l.queue(false), l.queue(true), l.queue(false), l.queue(true)}
	for _, next := range []int{1, 3, 0, 2} {
		l.leave()
		for i, in := range queue {
			select {
			case <-in:
				if i != next {
					t.Fatalf("%d is let in before %d", i, next)
				}
				queue[i] = nil
			default:
			}
		}
		if queue[next] != nil {
			t.Fatalf("%d is not let in", next)
		}
	}
	l.leave()
	if l.free != 1 {
		t.Errorf("%d places are free", l.free)
	}
}
