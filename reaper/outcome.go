package reaper

import (
	"time"

	"golang.org/x/sys/unix"
)

// Outcome says how the wait for a process's end ended.
type Outcome int

const (
	// TimedOut: the process had not ended when the deadline passed. Nothing
	// that belongs to it may be touched.
	TimedOut Outcome = iota
	// Reaped: it ended and this daemon took its status.
	Reaped
	// AlreadyGone: it ended and had been reaped by another road before.
	AlreadyGone
	// NotOurChild: it ended, and another parent reaps it.
	NotOurChild
)

// String returns the word that events use.
func (o Outcome) String() string {
	switch o {
	case Reaped:
		return "reaped"
	case AlreadyGone:
		return "already-gone"
	case NotOurChild:
		return "not-our-child"
	}
	return "timed-out"
}

// Gone reports whether the outcome proves that the process has ended.
func (o Outcome) Gone() bool { return o != TimedOut }

// Exit is what is known of a process's end.
type Exit struct {
	Outcome Outcome
	// Code is the exit status, or 128+N for death by signal N; -1 if nobody has
	// witnessed it so far (see Witness).
	Code int
	// Signal is the signal that killed it, or 0.
	Signal unix.Signal
	// CPU is the processor time of the process and of all the children it had
	// waited for; 0 if unknown.
	CPU time.Duration
	// At is when the daemon learnt of it.
	At time.Time

	late *lateStatus // nil if no more will be known
}

// lateStatus is the status of a process that another parent reaps.
type lateStatus struct {
	told   chan struct{} // closed when the rest is valid
	code   int
	signal unix.Signal
}

// Witness returns the exit with the status of a process that another parent reaps.
// The kernel tells it once that has reaped it, which is waited for, up to 200 ms
// after the end. It is still -1 if that takes longer, or the kernel can't tell
// (before Linux 6.15).
func (e Exit) Witness() Exit {
	if e.late == nil {
		return e
	}
	<-e.late.told
	e.Code, e.Signal = e.late.code, e.late.signal
	e.late = nil
	return e
}
