package runtime

import (
	"time"

	"github.com/boxlitefs/boxlite/runtime/event"
)

// eventHistory is how many events the daemon keeps, and boxHistory how many a
// box does.
const (
	eventHistory = 1024
	boxHistory   = 128
)

// history is the events of all boxes, or of one, and their text.
type history struct {
	event.Ring
	texts texts[uint64] // by the state of the ring
}

// text returns the events that are kept as lines, and when the last of them came: the zero
// time without any.
func (h *history) text() (*Text, time.Time) {
	added, last := h.State()
	return h.texts.of(added, func() []byte {
		var text []byte
		for _, e := range h.All() {
			text = e.AppendText(text)
		}
		return text
	}), last
}
