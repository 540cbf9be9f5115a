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
	l := newLanes()
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
				turn.await(func() syscall.Errno {
					waiting.Done()
					<-wake
					return 0
				})
				visit()
			})
		}
	}
	waiting.Wait()
	for range 3 * cap(l.users) {
		l.read(0)() // root's are never bounded
	}
	close(wake)
	all.Wait()
	if n := most.Load(); n > int64(cap(l.users)+cap(l.root)) {
		t.Errorf("%d answered at once", n)
	}
	if len(l.users) != 0 || len(l.root) != 0 {
		t.Errorf("%d and %d never left", len(l.users), len(l.root))
	}
	if turn := l.turn(context.Background()); !turn.root {
		t.Error("the daemon's own is not root's")
	}
}
