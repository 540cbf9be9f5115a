package runtime

import (
	"container/heap"
	"sync"
	"time"
)

// timers is the one timer queue of all boxes: what is due of thousands wakes the
// daemon once, and what is not costs it nothing.
type timers struct {
	mu     sync.Mutex
	queue  timerQueue
	wake   *time.Timer
	closed bool
}

// timer is a moment at which something is to be done. fire is called once for each
// time that it was set; it must not block, and has to look whether it is still
// wanted: a stop may come when it is already on its way.
type timer struct {
	fire  func()
	at    time.Time
	place int // in the queue, from 1; 0: it is not set
}

// set makes t fire at a moment, and at no other.
func (q *timers) set(t *timer, at time.Time) {
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

// arm is called with mu held. A wake-up for what was stopped meanwhile does no harm.
func (q *timers) arm() {
	if len(q.queue) == 0 {
		return
	}
	d := time.Until(q.queue[0].at)
	if q.wake == nil {
		q.wake = time.AfterFunc(d, q.run)
		return
	}
	q.wake.Reset(d)
}

// run fires what is due.
func (q *timers) run() {
	for {
		q.mu.Lock()
		now := time.Now()
		if q.closed || len(q.queue) == 0 || q.queue[0].at.After(now) {
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

// close drops all timers. What is on its way still fires.
func (q *timers) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed, q.queue = true, nil
	if q.wake != nil {
		q.wake.Stop()
	}
}

// timerQueue is a heap by time, of which each timer knows its place.
type timerQueue []*timer

func (q timerQueue) Len() int           { return len(q) }
func (q timerQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
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
