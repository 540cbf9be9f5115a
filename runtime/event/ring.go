package event

import (
	"sync"
	"time"
)

// Ring keeps the newest events. Readers hold a cursor, not a subscription: a slow one loses the
// oldest events and learns how many, and never holds up the writer.
type Ring struct {
	Max int // events that it keeps; it is set before the first comes

	mu   sync.Mutex // guards all that follows; nothing is waited for under it
	ring []Event    // from head on, and then from the beginning, the oldest first
	head int
	// added counts all events ever put in; a cursor is a position in that count.
	added uint64
	over  bool          // no event can come any more
	more  chan struct{} // closed at the next event; nil while nobody waits
}

// Add puts an event into the ring. One that is the last ends it: none is taken after that.
func (r *Ring) Add(e Event, last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	r.over = last
	if len(r.ring) < r.Max {
		r.ring = append(r.ring, e)
	} else {
		r.ring[r.head] = e
		r.head = (r.head + 1) % r.Max
	}
	r.added++
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// All returns the events that are kept, the oldest first.
func (r *Ring) All() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Event, 0, len(r.ring))
	out = append(out, r.ring[r.head:]...)
	return append(out, r.ring[:r.head]...)
}

// State tells states of the ring apart: it is how many events were ever put in. at is when
// the last came, the zero time without any.
func (r *Ring) State() (added uint64, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.ring); n > 0 {
		at = r.ring[(r.head+n-1)%n].Time
	}
	return r.added, at
}

// Cursor reads events live, from the moment it was made on. It is for one reader.
type Cursor struct {
	r    *Ring
	next uint64
}

// Follow returns a cursor that has read all events of until now.
func (r *Ring) Follow() *Cursor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &Cursor{r: r, next: r.added}
}

// Next returns the events since the last call, at most limit of them, and how many were lost
// before them because the reader fell behind. Where there are neither, more is closed at the next
// event; it is nil if no event can come any more.
func (c *Cursor) Next(limit int) (got []Event, lost uint64, more <-chan struct{}) {
	r := c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := r.added - uint64(len(r.ring))
	if c.next < kept {
		lost = kept - c.next
		c.next = kept
	}
	for ; c.next < r.added && len(got) < limit; c.next++ {
		got = append(got, r.ring[(r.head+int(c.next-kept))%len(r.ring)])
	}
	if len(got) == 0 && lost == 0 && !r.over {
		if r.more == nil {
			r.more = make(chan struct{})
		}
		more = r.more
	}
	return got, lost, more
}
