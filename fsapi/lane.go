package fsapi

import (
	"context"
	goruntime "runtime"
	"sync"
	"syscall"
)

// lane lets those through who only look, a few at a time: root's first, else in the order in
// which they came.
//
// Every request has a goroutine, and a goroutine that can run keeps others from running:
// with all processors busy the Go scheduler looks for what descriptors and timers have to
// tell every 10 ms at best, and a command has several such steps. So those who only look
// get half the processors, and the rest is there for commands: what is written to ctl or
// config.yaml and its close, mkdir and rmdir, and whatever root does, wait for nobody who
// reads.
//
// The answers of those who wait in wait/ go through the lane as well, also root's: an event
// may wake ten thousand of them at once.
type lane struct {
	mu          sync.Mutex
	free        int
	root, users []chan struct{} // who waits to be let in
}

func newLane() *lane { return &lane{free: max(1, goruntime.GOMAXPROCS(0)/2)} }

func (l *lane) enter(root bool) {
	if in := l.queue(root); in != nil {
		<-in
	}
}

// queue returns nil if there is room, else what tells when there is.
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

// read lets a request through that only looks; the caller leaves when it is answered.
// Root's waits for nobody.
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

// turn is asked for by a read that lane.read has let through, and that may have to wait.
func (l *lane) turn(ctx context.Context) turn {
	root := caller(ctx).UID == 0
	return turn{lane: l, inside: !root, root: root}
}

// await waits outside of the lane, and comes back in for the answer.
func (t *turn) await(wait func() syscall.Errno) syscall.Errno {
	if t.inside {
		t.lane.leave()
	}
	errno := wait()
	t.lane.enter(t.root)
	t.inside = true
	return errno
}

// end gives up what lane.read does not know of.
func (t *turn) end() {
	if t.root && t.inside {
		t.lane.leave()
	}
}
