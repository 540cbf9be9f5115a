package image

import (
	"sync"
	"time"
)

// Progress is how far a pull is.
type Progress struct {
	Layers, Done int   // how many layers there are, and are unpacked
	Bytes, Total int64 // of what is to be fetched
	Step         string
}

// progressEvery is the least time between two calls of a progress function.
const progressEvery = 300 * time.Millisecond

// progress tells all who wait for a pull how far it is.
type progress struct {
	mu    sync.Mutex
	state Progress
	last  time.Time
	next  int
	to    map[int]func(Progress)
}

// join has fn told from now on, until leave is called.
func (p *progress) join(fn func(Progress)) (leave func()) {
	if fn == nil {
		return func() {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to == nil {
		p.to = map[int]func(Progress){}
	}
	id := p.next
	p.next++
	p.to[id] = fn
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.to, id)
	}
}

// change changes the state and tells of it, unless that was done only just now. The
// functions are called one after the other and not after leave.
func (p *progress) change(fn func(*Progress)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn(&p.state)
	now := time.Now()
	if now.Sub(p.last) < progressEvery {
		return
	}
	p.last = now
	for _, tell := range p.to {
		tell(p.state)
	}
}
