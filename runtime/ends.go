package runtime

import (
	"runtime"
	"sync"
)

// ends orders the work at the ends of runs. A thousand boxes may end at the same
// moment: a request that comes in then would wait until each of a thousand
// goroutines has had its turn, so that only a few tell at once. What can wait (the
// removal of cgroups, the writing down) comes when nobody has to tell anything.
type ends struct {
	mu      sync.Mutex
	untold  []job
	unkept  []job
	telling int // goroutines that tell
	keeping bool
}

type job struct {
	work func()
	done chan struct{}
}

// tellers is how many tell at once.
const tellers = 2

// tell does what others wait for, and returns when it is done.
func (e *ends) tell(work func()) {
	e.mu.Lock()
	if e.telling == tellers {
		j := job{work, make(chan struct{})}
		e.untold = append(e.untold, j)
		e.mu.Unlock()
		<-j.done
		return
	}
	e.telling++
	e.mu.Unlock()
	work()
	runtime.Gosched() // see do
	if j, more := e.next(); more {
		go e.teller(j)
	}
}

// next takes what is to be told next. Without any, one less tells.
func (e *ends) next() (job, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.untold) == 0 {
		e.telling--
		e.goKeep()
		return job{}, false
	}
	j := e.untold[0]
	e.untold = e.untold[1:]
	return j, true
}

func (e *ends) teller(j job) {
	for more := true; more; j, more = e.next() {
		j.do()
	}
}

// keep does what nobody waits for, one at a time, and returns when it is done.
func (e *ends) keep(work func()) {
	j := job{work, make(chan struct{})}
	e.mu.Lock()
	e.unkept = append(e.unkept, j)
	e.goKeep()
	e.mu.Unlock()
	<-j.done
}

// goKeep is called with mu held.
func (e *ends) goKeep() {
	if len(e.unkept) > 0 && e.telling == 0 && !e.keeping {
		e.keeping = true
		go e.keeper()
	}
}

func (e *ends) keeper() {
	for {
		e.mu.Lock()
		if len(e.unkept) == 0 || e.telling > 0 {
			e.keeping = false
			e.mu.Unlock()
			return
		}
		j := e.unkept[0]
		e.unkept = e.unkept[1:]
		e.mu.Unlock()
		j.do()
	}
}

// do does one job, and then lets others have the processor: it would be up to 10 ms
// until the scheduler takes it, and whoever answers a request waits as long at each
// step.
func (j job) do() {
	j.work()
	close(j.done)
	runtime.Gosched()
}
