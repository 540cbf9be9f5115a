package runtime

import (
	"sync"
	"weak"
)

// Text is what a file shows of one state. All who look at that state have the same, and
// it is never changed.
type Text struct{ Bytes []byte }

// texts makes a text once for each state, however many look at it, and forgets it when
// nobody has it any more: it costs memory for one, and only while it is read. K is what
// tells states apart.
type texts[K comparable] struct {
	mu   sync.Mutex // held while one is made, so that no two are
	last weak.Pointer[madeText[K]]
}

type madeText[K comparable] struct {
	Text
	of K
}

// of returns the text of a state. It is made, if need be, under a lock: make asks nobody
// who could wait for a text.
func (t *texts[K]) of(state K, make func() []byte) *Text {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.last.Value(); m != nil && m.of == state {
		return &m.Text
	}
	m := &madeText[K]{Text{make()}, state}
	t.last = weak.Make(m)
	return &m.Text
}
