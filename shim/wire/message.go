package wire

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
	// change of the log, until the shim ends.
	OpWatchLog
	// OpLine turns the connection into the shim's line: see LineOp.
	OpLine
	// OpExec starts Exec. What follows is for requests on it: those
	// are answered with ENOENT where the shim knows no such exec, and are dropped by a
	// shim of a version that has no execs.
	OpExec
	// OpExecState asks for the ExecState.
	OpExecState
	// OpExecSignal sends Signal to the command: ESRCH when that has ended.
	OpExecSignal
	// OpExecKill kills what is left of the exec's process group.
	OpExecKill
	// OpExecEOF closes the command's stdin: it meets EOF when it has read the rest.
	OpExecEOF
	// OpExecForget drops an exec that has ended, with what was not read of it: EBUSY
	// when it has not ended.
	OpExecForget
	// OpWatchExecs turns the connection into one that gets a packet after each end of
	// an exec, until the shim ends. The packet says, since shims have
	// OpEnd, whether there are ends that could not be put on record.
	OpWatchExecs
	// OpEnd asks for the ExitRecord of a run that has ended and could not be put on
	// record: EBUSY as long as anything of it goes on.
	OpEnd

	opEnd
)

// OnExec reports whether a Request has Exec.
func (o Op) OnExec() bool { return o >= OpExec && o <= OpExecForget }

// Request is what the daemon asks a shim.
type Request struct {
	Op Op
	// Run is the run that is meant. The shim of another one does nothing and
	// answers ESTALE. Empty means whichever it is.
	Run    string
	Signal syscall.Signal
	Grace  time.Duration
	// Exec is the name of the exec that is meant.
	Exec string
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
}

// MaxMessage bounds a packet on the control socket, in bytes.
const MaxMessage = 1024

// signal reads a signal number; none above the kernel's 64 is let through.
func (d *decoder) signal() syscall.Signal {
	n := d.u32()
	if n > 64 {
		d.bad = true
		return 0
	}
	return syscall.Signal(n)
}

// Append appends the request as it is to be sent, in one packet.
func (r Request) Append(b []byte) []byte {
	b = append(b, Version, byte(r.Op))
	b = appendString(b, r.Run)
	b = appendU32(b, uint32(r.Signal))
	b = appendI64(b, int64(r.Grace))
	if r.Op.OnExec() {
		b = appendString(b, r.Exec)
	}
	return b
}

// DecodeRequest is the inverse of Append. It refuses an Op that this version does not know.
func DecodeRequest(b []byte) (Request, error) {
	d := decoder{buf: b}
	version := d.u8()
	r := Request{Op: Op(d.u8()), Run: d.string(), Signal: d.signal(), Grace: time.Duration(d.i64())}
	if r.Op.OnExec() {
		r.Exec = d.string()
	}
	if version != Version || r.Op == 0 || r.Op >= opEnd || r.Grace < 0 {
		d.bad = true
	}
	return r, d.end()
}

// Append appends the reply as it is to be sent, in one packet.
func (r *Reply) Append(b []byte) []byte {
	b = append(b, Version)
	b = appendU32(b, uint32(r.Errno))
	b = appendString(b, r.State.Run)
	b = appendBool(b, r.State.Stopping)
	b = appendBool(b, r.State.Paused)
	b = appendBool(b, r.State.Alive)
	b = appendU32(b, uint32(r.State.PID))
	return appendI64(b, r.State.StartedNs)
}

// DecodeReply is the inverse of Append.
func DecodeReply(b []byte) (Reply, error) {
	d := decoder{buf: b}
	if d.u8() != Version {
		d.bad = true
	}
	r := Reply{Errno: syscall.Errno(d.u32())}
	r.State = State{Run: d.string(), Stopping: d.bool(), Paused: d.bool(), Alive: d.bool(), PID: d.natural(), StartedNs: d.i64()}
	return r, d.end()
}

// AppendEndReply encodes the answer to OpEnd: the record is nil as long as there is none.
func AppendEndReply(b []byte, r *ExitRecord) []byte {
	b = append(b, Version)
	if r == nil {
		return appendString(appendU32(b, uint32(syscall.EBUSY)), "")
	}
	b = appendU32(b, 0)
	var buf [MaxMessage / 2]byte
	return appendString(b, string(r.AppendJSON(buf[:0])))
}

// DecodeEndReply is the inverse of AppendEndReply: record is the ExitRecord as JSON, and
// errno is why there is none, or 0.
func DecodeEndReply(b []byte) (errno syscall.Errno, record []byte, err error) {
	d := decoder{buf: b}
	if d.u8() != Version {
		d.bad = true
	}
	errno = syscall.Errno(d.u32())
	record = d.bytes()
	return errno, record, d.end()
}

// MaxChange is the size of the largest packet of a watch, in bytes.
const MaxChange = 2

// AppendChange encodes the packet of a watch, which says that what is watched has changed:
// what is OpWatchLog or OpWatchExecs, and unwritten is of the latter only.
func AppendChange(b []byte, what Op, unwritten bool) []byte {
	b = append(b, Version)
	if what == OpWatchExecs {
		b = appendBool(b, unwritten)
	}
	return b
}

// DecodeChange reports of a packet of a watch of execs whether there may be ends that are
// not on record. A shim that cannot say so says nothing else either.
func DecodeChange(b []byte) (unwritten bool) { return len(b) < MaxChange || b[1] != 0 }
