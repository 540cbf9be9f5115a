package fsapi

import (
	"context"
	goruntime "runtime"
	"syscall"
)

// lane lets a few requests through at a time, in the order in which they came.
//
// Every request has a goroutine, and a goroutine that can run keeps others from running:
// with all processors busy the Go scheduler looks for what descriptors and timers have to
// tell every 10 ms at best, and a command has several such steps. So those who only look
// get half the processors, and the rest is there for commands: what is written to ctl or
// config.yaml and its close, mkdir and rmdir, and whatever root does, wait for nobody who
// reads.
//
// The answers of those who wait in wait/ go through a lane as well, root's through one of
// its own: an event may wake ten thousand of them at once.
type lane chan struct{}

func newLane() lane { return make(lane, max(1, goruntime.GOMAXPROCS(0)/2)) }

func (l lane) enter() { l <- struct{}{} }
func (l lane) leave() { <-l }

// lanes are the lane of root and that of everybody else.
type lanes struct{ root, users lane }

func newLanes() lanes { return lanes{root: newLane(), users: newLane()} }

// read lets a request through that only looks; the caller leaves when it is answered.
// Root's waits for nobody.
func (l lanes) read(uid uint32) (leave func()) {
	if uid == 0 {
		return func() {}
	}
	l.users.enter()
	return l.users.leave
}

// turn is the place of a read that blocks.
type turn struct {
	lane   lane
	inside bool
	root   bool
}

// turn is asked for by a read that lanes.read has let through, and that may have to wait.
func (l lanes) turn(ctx context.Context) turn {
	if caller(ctx).UID == 0 {
		return turn{lane: l.root, root: true}
	}
	return turn{lane: l.users, inside: true}
}

// await waits outside of the lane, and comes back in for the answer.
func (t *turn) await(wait func() syscall.Errno) syscall.Errno {
	if t.inside {
		t.lane.leave()
	}
	errno := wait()
	t.lane.enter()
	t.inside = true
	return errno
}

// end gives up what lanes.read does not know of.
func (t *turn) end() {
	if t.root && t.inside {
		t.lane.leave()
	}
}
