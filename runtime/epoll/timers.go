package epoll

import (
	"container/heap"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Timers is a queue of timers with one timerfd, which a Loop waits for: a timer of the Go runtime
// starts a goroutine, and so wakes a second thread each time that looks for more.
type Timers struct {
	fd int

	mu     sync.Mutex // guards all that follows; held for timerfd_settime, which does not wait
	queue  timerQueue
	armed  time.Duration // what fd was set to, since boot; 0: nothing
	closed bool
}

// Timer is a point in time at which something is to be done. Its zero value with Fire is ready to
// be set.
type Timer struct {
	// Fire is called once for each time that the timer was set. It must not block, and has to
	// look whether it is still wanted: Stop may come when it is already on its way.
	Fire func()

	at    time.Duration // since boot
	place int           // in the queue, from 1; 0: it is not set
}

// NewTimers returns an empty queue.
func NewTimers() (*Timers, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	return &Timers{fd: fd}, nil
}

// FD returns the timerfd. Who finds it readable calls Run.
func (q *Timers) FD() int { return q.fd }

// Set makes t fire at a time, and at no other. The time of day is looked at only now: else all
// that is behind t in the queue would wait for it when the clock is set back.
func (q *Timers) Set(t *Timer, at time.Time) { q.SetSinceBoot(t, SinceBoot()+time.Until(at)) }

// SetSinceBoot is Set for a time by SinceBoot.
func (q *Timers) SetSinceBoot(t *Timer, at time.Duration) {
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

// Stop makes t fire no more.
func (q *Timers) Stop(t *Timer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.place != 0 && !q.closed {
		heap.Remove(&q.queue, t.place-1)
	}
}

// arm sets the timerfd for the first timer. What was stopped may still wake the loop once: that
// does no harm. The caller holds mu.
func (q *Timers) arm() {
	if len(q.queue) == 0 || q.queue[0].at == q.armed {
		return
	}
	q.armed = q.queue[0].at
	q.wake(q.armed - SinceBoot())
}

// wake makes fd readable after a time. The caller holds mu.
func (q *Timers) wake(after time.Duration) {
	if errno := setTimer(q.fd, after); errno != 0 {
		panic("timerfd_settime: " + errno.Error()) // a bug here, and all that is timed would stand still
	}
}

// Run fires what is due. It is called when the timerfd is readable.
func (q *Timers) Run() {
	var ticks [8]byte
	_, _ = Read(q.fd, ticks[:]) // EAGAIN: it was set again meanwhile
	q.mu.Lock()
	q.armed = 0
	q.mu.Unlock()
	for {
		q.mu.Lock()
		if q.closed || len(q.queue) == 0 || q.queue[0].at > SinceBoot() {
			if !q.closed {
				q.arm()
			}
			q.mu.Unlock()
			return
		}
		t, _ := heap.Pop(&q.queue).(*Timer)
		q.mu.Unlock()
		t.Fire()
	}
}

// Drop drops all timers, takes no more, and wakes who waits for the timerfd. What is on its way
// still fires.
func (q *Timers) Drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.queue = true, nil
	q.wake(0)
}

// Close closes the timerfd. Drop comes before it, and the end of the loop that waits for it.
func (q *Timers) Close() error { return unix.Close(q.fd) }

// timerQueue is a heap by time, of which each timer knows its place.
type timerQueue []*Timer

func (q timerQueue) Len() int           { return len(q) }
func (q timerQueue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q timerQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i+1, j+1
}

func (q *timerQueue) Push(x any) {
	t, _ := x.(*Timer)
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
