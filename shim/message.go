package shim

import (
	"syscall"
	"time"
)

// SocketName is the control socket's name in a box's directory.
const SocketName = "shim.sock"

// Op is what a Request asks for.
type Op uint8

const (
	// OpState asks for the State and changes nothing. It serves as the ping.
	OpState Op = 1 + iota
	// OpSignal sends Signal to the command: ESRCH when that has ended.
	OpSignal
	// OpStop begins a stop and answers at once: the command gets Signal (or
	// Spec.StopSignal when that is 0), and everything is killed after Grace. A
	// further OpStop sends no signal again, and can only shorten the grace.
	OpStop
	// OpPause stops all processes of the box: EBUSY once a stop has begun.
	OpPause
	// OpResume continues all processes of a paused box.
	OpResume
	// OpWatchLog turns the connection into one that gets a packet after each
	// change of the log, until the shim ends. Use WatchLog.
	OpWatchLog
	// OpLine turns the connection into the shim's line. Use OpenLine.
	OpLine

	opEnd
)

// Request is what the daemon asks a shim.
type Request struct {
	Op Op
	// Run is the run that is meant. The shim of another one does nothing and
	// answers ESTALE. Empty means whichever it is.
	Run    string
	Signal syscall.Signal
	Grace  time.Duration
}

// State is what a shim knows of its box.
type State struct {
	// Run is Spec.Run, so that the answer of another run's shim is not taken
	// for this one's.
	Run string
	// Stopping says that a stop has begun.
	Stopping bool
	// Paused says that the box was paused and not resumed.
	Paused bool
	// Alive says that the command has not ended. Its pid, in the box's own pid
	// namespace, is PID.
	Alive bool
	PID   int
	// StartedNs is when the command was started, in nanoseconds since 1970.
	StartedNs int64
}

// Reply is a shim's answer. Errno is why it did not do what was asked, or 0.
// State is as it was after the request.
type Reply struct {
	Errno syscall.Errno
	State State
	// Peer is the shim's pid as the asker sees it, by the kernel's word.
	Peer int
}

// maxMessage bounds a packet on the control socket.
const maxMessage = 1024

// signal reads a signal number; none above the kernel's 64 is let through.
func (d *decoder) signal() syscall.Signal {
	n := d.u32()
	if n > 64 {
		d.bad = true
		return 0
	}
	return syscall.Signal(n)
}

func appendRequest(b []byte, r Request) []byte {
	b = append(b, wireVersion, byte(r.Op))
	b = appendString(b, r.Run)
	b = appendU32(b, uint32(r.Signal))
	return appendI64(b, int64(r.Grace))
}

func decodeRequest(b []byte) (Request, error) {
	d := decoder{buf: b}
	version := d.u8()
	r := Request{Op: Op(d.u8()), Run: d.string(), Signal: d.signal(), Grace: time.Duration(d.i64())}
	if version != wireVersion || r.Op == 0 || r.Op >= opEnd || r.Grace < 0 {
		d.bad = true
	}
	return r, d.end()
}

func appendReply(b []byte, r *Reply) []byte {
	b = append(b, wireVersion)
	b = appendU32(b, uint32(r.Errno))
	b = appendString(b, r.State.Run)
	b = appendBool(b, r.State.Stopping)
	b = appendBool(b, r.State.Paused)
	b = appendBool(b, r.State.Alive)
	b = appendU32(b, uint32(r.State.PID))
	return appendI64(b, r.State.StartedNs)
}

func decodeReply(b []byte) (Reply, error) {
	d := decoder{buf: b}
	if d.u8() != wireVersion {
		d.bad = true
	}
	r := Reply{Errno: syscall.Errno(d.u32())}
	r.State = State{Run: d.string(), Stopping: d.bool(), Paused: d.bool(), Alive: d.bool(), PID: d.natural(), StartedNs: d.i64()}
	return r, d.end()
}
