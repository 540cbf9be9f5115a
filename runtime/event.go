package runtime

import (
	"strconv"
	"sync"
	"time"
)

// eventHistory is how many events the daemon keeps, and boxHistory how many a
// box does.
const (
	eventHistory = 1024
	boxHistory   = 128
)

// Event is one thing that happened to a box, or to the daemon.
type Event struct {
	Seq    uint64
	Time   time.Time
	Box    string // "-" for the daemon itself
	Name   string // daemon created configured command status health exec reaped removed
	Detail string // key=value words
}

// AppendText appends the event as one line of columns, made for
// `while read -r seq time box event detail`.
func (e Event) AppendText(b []byte) []byte {
	b = strconv.AppendUint(b, e.Seq, 10)
	b = append(b, ' ')
	b = e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z")
	b = append(b, ' ')
	b = append(b, e.Box...)
	b = append(b, ' ')
	b = append(b, e.Name...)
	if e.Detail != "" {
		b = append(b, ' ')
		b = append(b, e.Detail...)
	}
	return append(b, '\n')
}

// events is the ring of the newest events, of all boxes or of one. Readers hold
// a cursor, not a subscription: one that is slow loses the oldest and learns how
// many, and never holds up the writer.
type events struct {
	mu   sync.Mutex
	ring []Event // oldest first once full at head
	head int
	max  int
	// added counts all events ever put in; a cursor is a position in that count.
	added uint64
	over  bool          // no event can come any more
	more  chan struct{} // closed and replaced at each event; nil while nobody waits

	texts texts[uint64] // of what is kept, by added
}

// add puts an event into the ring; the last one ends it, and none comes after that.
func (v *events) add(e Event, last bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.over {
		return
	}
	v.over = last
	if len(v.ring) < v.max {
		v.ring = append(v.ring, e)
	} else {
		v.ring[v.head] = e
		v.head = (v.head + 1) % v.max
	}
	v.added++
	if v.more != nil {
		close(v.more)
		v.more = nil
	}
}

// all returns the kept events, oldest first.
func (v *events) all() []Event {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make([]Event, 0, len(v.ring))
	out = append(out, v.ring[v.head:]...)
	return append(out, v.ring[:v.head]...)
}

// text returns the kept events as lines, and when the last of them came; the zero time
// without any.
func (v *events) text() (*Text, time.Time) {
	v.mu.Lock()
	added, last := v.added, time.Time{}
	if n := len(v.ring); n > 0 {
		last = v.ring[(v.head+n-1)%n].Time
	}
	v.mu.Unlock()
	return v.texts.of(added, func() []byte {
		var text []byte
		for _, e := range v.all() {
			text = e.AppendText(text)
		}
		return text
	}), last
}

// Cursor reads events live, from the moment it was made on.
type Cursor struct {
	v    *events
	next uint64
}

func (v *events) cursor() *Cursor {
	v.mu.Lock()
	defer v.mu.Unlock()
	return &Cursor{v: v, next: v.added}
}

// Next returns the events since the last call, the first so many, and how many were
// lost before them because the reader fell behind; without any, a channel that is
// closed at the next one, or none if there will be no next one.
func (c *Cursor) Next(limit int) (got []Event, lost uint64, more <-chan struct{}) {
	v := c.v
	v.mu.Lock()
	defer v.mu.Unlock()
	kept := v.added - uint64(len(v.ring))
	if c.next < kept {
		lost = kept - c.next
		c.next = kept
	}
	for ; c.next < v.added && len(got) < limit; c.next++ {
		got = append(got, v.ring[(v.head+int(c.next-kept))%len(v.ring)])
	}
	if len(got) == 0 && lost == 0 && !v.over {
		if v.more == nil {
			v.more = make(chan struct{})
		}
		more = v.more
	}
	return got, lost, more
}
