package runtime

import (
	"container/heap"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// timers is the one timer queue of all boxes. It has a timerfd, which the prober's
// loop waits for: a timer of the Go runtime starts a goroutine, and so wakes a second
// thread each time that looks for more.
type timers struct {
	fd int

	mu     sync.Mutex
	queue  timerQueue
	armed  moment // what fd was set to; 0: nothing
	closed bool
}

// timer is a moment at which something is to be done. fire is called once for each
// time that it was set; it must not block, and has to look whether it is still
// wanted: a stop may come when it is already on its way.
type timer struct {
	fire  func()
	at    moment
	place int // in the queue, from 1; 0: it is not set
}

func newTimers() (*timers, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	return &timers{fd: fd}, nil
}

// set makes t fire at a time, and at no other. From now on that is a moment: else all
// that is behind one in the queue waits for it when the clock is set back.
func (q *timers) set(t *timer, at time.Time) { q.setAt(t, momentOf(at)) }

// setAt is set for a moment.
func (q *timers) setAt(t *timer, at moment) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	t.at = at
	if t.place == 0 {
		heap.Push(&q.queue, t)
	} else {
		heap.Fix(&q.queue, t.place-1)
	}
	q.arm()
}

// stop makes t fire no more.
func (q *timers) stop(t *timer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.place != 0 && !q.closed {
		heap.Remove(&q.queue, t.place-1)
	}
}

// arm is called with mu held. It looks at the first only: a wake-up for what was
// stopped meanwhile does no harm.
func (q *timers) arm() {
	if len(q.queue) == 0 || q.queue[0].at == q.armed {
		return
	}
	q.armed = q.queue[0].at
	q.wake(q.armed.sub(bootTime()))
}

// wake makes fd readable after a time. mu is held.
func (q *timers) wake(after time.Duration) {
	if errno := rawTimer(q.fd, after); errno != 0 {
		panic("timerfd_settime: " + errno.Error()) // a bug here, and all that is timed would stand still
	}
}

// run fires what is due. It is called when fd is readable.
func (q *timers) run() {
	var ticks [8]byte
	_, _ = rawRead(q.fd, ticks[:]) // EAGAIN: it was set again meanwhile
	q.mu.Lock()
	q.armed = 0
	q.mu.Unlock()
	for {
		q.mu.Lock()
		if q.closed || len(q.queue) == 0 || q.queue[0].at > bootTime() {
			if !q.closed {
				q.arm()
			}
			q.mu.Unlock()
			return
		}
		t, _ := heap.Pop(&q.queue).(*timer)
		q.mu.Unlock()
		t.fire()
	}
}

// close drops all timers, and wakes who waits for them. What is on its way still
// fires.
func (q *timers) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.queue = true, nil
	q.wake(0)
}

// timerQueue is a heap by time, of which each timer knows its place.
type timerQueue []*timer

func (q timerQueue) Len() int           { return len(q) }
func (q timerQueue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q timerQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i+1, j+1
}

func (q *timerQueue) Push(x any) {
	t, _ := x.(*timer)
	*q = append(*q, t)
	t.place = len(*q)
}

func (q *timerQueue) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q, t.place = old[:len(old)-1], 0
	return t
}
