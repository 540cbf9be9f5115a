// Package endqueue orders the work at the ends of many runs. A thousand boxes may end at the same
// moment: a request that comes in then would wait until each of a thousand goroutines has had its
// turn. So what others wait for is done first, by only a few at once. What can wait (the removal
// of cgroups, the writing of records) comes when nothing urgent is left, one at a time.
package endqueue

import (
	"runtime"
	"sync"
)

// Queue is the order of the work of all runs. Its zero value is ready for use.
type Queue struct {
	mu         sync.Mutex // guards all that follows; nothing is waited for under it
	urgent     []job      // in the order in which they came
	deferred   []job      // in the order in which they came
	doing      int        // goroutines that do what is urgent
	doingLater bool       // one does what is deferred
}

type job struct {
	work func()
	done chan struct{}
}

// atOnce is how many jobs that are urgent are done at once.
const atOnce = 2

// Urgent does work that others wait for, and returns when it is done.
func (q *Queue) Urgent(work func()) {
	q.mu.Lock()
	if q.doing == atOnce {
		j := job{work, make(chan struct{})}
		q.urgent = append(q.urgent, j)
		q.mu.Unlock()
		<-j.done
		return
	}
	q.doing++
	q.mu.Unlock()
	work()
	runtime.Gosched() // see do
	if j, more := q.next(); more {
		go q.doUrgent(j)
	}
}

// next takes the next urgent job. Without any, one goroutine less does them.
func (q *Queue) next() (job, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.urgent) == 0 {
		q.doing--
		q.goLater()
		return job{}, false
	}
	j := q.urgent[0]
	q.urgent = q.urgent[1:]
	return j, true
}

func (q *Queue) doUrgent(j job) {
	for more := true; more; j, more = q.next() {
		j.do()
	}
}

// Later does work that nobody waits for, when nothing is urgent, and returns when it is done.
// Of such work one is done at a time. It may call Urgent.
func (q *Queue) Later(work func()) {
	j := job{work, make(chan struct{})}
	q.mu.Lock()
	q.deferred = append(q.deferred, j)
	q.goLater()
	q.mu.Unlock()
	<-j.done
}

// goLater begins what is deferred, if it may begin. The caller holds mu.
func (q *Queue) goLater() {
	if len(q.deferred) > 0 && q.doing == 0 && !q.doingLater {
		q.doingLater = true
		go q.doLater()
	}
}

func (q *Queue) doLater() {
	for {
		q.mu.Lock()
		if len(q.deferred) == 0 || q.doing > 0 {
			q.doingLater = false
			q.mu.Unlock()
			return
		}
		j := q.deferred[0]
		q.deferred = q.deferred[1:]
		q.mu.Unlock()
		j.do()
	}
}

// do does one job, and then gives others the processor. The scheduler would take it only after
// up to 10 ms, and whoever answers a request waits as long at each step.
func (j job) do() {
	j.work()
	close(j.done)
	runtime.Gosched()
}
