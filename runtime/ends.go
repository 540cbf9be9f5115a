package runtime

import "sync"

// ends orders the work at the ends of runs. A thousand boxes may end at the same
// moment: a request that comes in then would wait until each of a thousand
// goroutines has had its turn, so that only a few tell at once. What can wait (the
// removal of cgroups, the writing down) comes when nobody has to tell anything.
type ends struct {
	mu         sync.Mutex
	turn, idle *sync.Cond
	untold     int // tell and wait for it
	telling    int
	keeping    bool
}

// tellers is how many tell at once.
const tellers = 2

func newEnds() *ends {
	e := &ends{}
	e.turn, e.idle = sync.NewCond(&e.mu), sync.NewCond(&e.mu)
	return e
}

// tell does what others wait for.
func (e *ends) tell(work func()) {
	e.mu.Lock()
	e.untold++
	for e.telling == tellers {
		e.turn.Wait()
	}
	e.telling++
	e.mu.Unlock()
	work()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.telling--
	e.untold--
	e.turn.Signal()
	e.next()
}

// keep does what nobody waits for, one at a time.
func (e *ends) keep(work func()) {
	e.mu.Lock()
	for e.untold > 0 || e.keeping {
		e.idle.Wait()
	}
	e.keeping = true
	e.mu.Unlock()
	work()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keeping = false
	e.next()
}

// next lets one go on who keeps, if there is nothing to be told.
func (e *ends) next() {
	if e.untold == 0 && !e.keeping {
		e.idle.Signal()
	}
}
