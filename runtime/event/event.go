// Package event keeps what happened: a ring of the newest events, and cursors that read it live.
package event

import (
	"strconv"
	"time"
)

// Event is one thing that happened to a box, or to the daemon.
type Event struct {
	Seq    uint64 // from 1, of all events of the daemon
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
