package fsapi

import (
	"context"
	goruntime "runtime"
	"sync"
	"syscall"
)

// lane admits requests that only read, a few at a time: root's first, then the others in the
// order in which they came.
//
// Every request has a goroutine, and a goroutine that can run keeps others from running. With
// all processors busy the Go scheduler polls descriptors and timers every 10 ms at best, and
// a command has several steps that wait for these. So requests that only read get half the
// processors, and the rest is there for commands. A write to ctl or config.yaml and its
// close, a mkdir or rmdir, and whatever root does, wait for no reader.
//
// The answers to reads that block go through the lane as well, also root's: an event may wake
// ten thousand of them at once.
type lane struct {
	mu          sync.Mutex // guards what follows; nothing is waited for under it
	free        int
	root, users []chan struct{} // closed to admit one
}

func newLane() *lane { return &lane{free: max(1, goruntime.GOMAXPROCS(0)/2)} }

func (l *lane) enter(root bool) {
	if in := l.queue(root); in != nil {
		<-in
	}
}

// queue returns nil if there is room, else a channel that is closed when there is.
func (l *lane) queue(root bool) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free > 0 {
		l.free--
		return nil
	}
	in := make(chan struct{})
	if root {
		l.root = append(l.root, in)
	} else {
		l.users = append(l.users, in)
	}
	return in
}

func (l *lane) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range [...]*[]chan struct{}{&l.root, &l.users} {
		if len(*q) > 0 {
			close((*q)[0])
			*q = (*q)[1:]
			return
		}
	}
	l.free++
}

// read admits a request that only reads. The caller leaves when it is answered. Root's
// requests do not wait.
func (l *lane) read(uid uint32) (leave func()) {
	if uid == 0 {
		return func() {}
	}
	l.enter(false)
	return l.leave
}

// turn is the place of a read that blocks.
type turn struct {
	lane   *lane
	inside bool
	root   bool
}

// turn is asked for by a read that lane.read has admitted, and that may block.
func (l *lane) turn(ctx context.Context) turn {
	root := caller(ctx).UID == 0
	return turn{lane: l, inside: !root, root: root}
}

// await waits outside of the lane, and enters it again for the answer.
func (t *turn) await(wait func() syscall.Errno) syscall.Errno {
	if t.inside {
		t.lane.leave()
	}
	errno := wait()
	t.lane.enter(t.root)
	t.inside = true
	return errno
}

// end leaves the lane for a request of root's: it was entered by await, of which lane.read does
// not know.
func (t *turn) end() {
	if t.root && t.inside {
		t.lane.leave()
	}
}
