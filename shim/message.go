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
	// OpExec starts Exec. Use BeginExec. What follows is for requests on it: those
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
	// an exec, until the shim ends. Use WatchExecs. The packet says, since shims have
	// OpEnd, whether there are ends that could not be put on record.
	OpWatchExecs
	// OpEnd asks for the ExitRecord of a run that has ended and could not be put on
	// record: EBUSY as long as anything of it goes on. Use AskEnd.
	OpEnd

	opEnd
)

// onExec reports whether a Request has Exec.
func (o Op) onExec() bool { return o >= OpExec && o <= OpExecForget }

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
	b = appendI64(b, int64(r.Grace))
	if r.Op.onExec() {
		b = appendString(b, r.Exec)
	}
	return b
}

func decodeRequest(b []byte) (Request, error) {
	d := decoder{buf: b}
	version := d.u8()
	r := Request{Op: Op(d.u8()), Run: d.string(), Signal: d.signal(), Grace: time.Duration(d.i64())}
	if r.Op.onExec() {
		r.Exec = d.string()
	}
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

// appendEndReply encodes the answer to OpEnd: the record is nil as long as there is none.
func appendEndReply(b []byte, r *ExitRecord) []byte {
	b = append(b, wireVersion)
	if r == nil {
		return appendString(appendU32(b, uint32(syscall.EBUSY)), "")
	}
	b = appendU32(b, 0)
	var buf [maxMessage / 2]byte
	return appendString(b, string(r.AppendJSON(buf[:0])))
}

func decodeEndReply(b []byte) (errno syscall.Errno, record []byte, err error) {
	d := decoder{buf: b}
	if d.u8() != wireVersion {
		d.bad = true
	}
	errno = syscall.Errno(d.u32())
	record = d.bytes()
	return errno, record, d.end()
}

// ExecPhase is how far an exec has come.
type ExecPhase uint8

const (
	// ExecStarting: its command has not been executed yet.
	ExecStarting ExecPhase = 1 + iota
	// ExecRunning: it was, and has not ended.
	ExecRunning
	// ExecEnded: it has ended, which is on record unless that could not be written.
	ExecEnded
	// ExecFailed: it could not be executed; as ExecEnded.
	ExecFailed
)

// ExecState is what a shim knows of an exec.
type ExecState struct {
	Phase ExecPhase
	// StdinClosed says that the command meets EOF.
	StdinClosed bool
	// Code is the exit code: 128+N when signal N killed the command, 124 when that was
	// the timeout; 127 when the command was not found, 126 when it could not be
	// executed, and 125 when a step before that failed.
	Code int
	// Signal is the signal that killed the command, or 0.
	Signal int
	// TimedOut says that the timeout killed it.
	TimedOut bool
	// StartedNs and EndedNs are times in nanoseconds since 1970; EndedNs is 0 before.
	StartedNs, EndedNs int64
	// Failed is the sentence why the command could not be executed, else empty.
	Failed string
}

// ExecReply is a shim's answer to a request on an exec. Errno is why it did not do
// what was asked, or 0. State is as it was after the request.
type ExecReply struct {
	Errno syscall.Errno
	State ExecState
	// PID is that of the command as the asker sees it, by the kernel's word, or -1
	// when it does not run.
	PID int
	// Stdin is what to write to, to be closed by who has asked, or -1. It comes with the
	// answers to OpExec and OpExecState while the command runs and may meet no EOF yet;
	// not from older shims, nor for a terminal: those have the FIFO.
	Stdin int

	pid   int // as the shim sees it
	stdin int // the shim's own; 0 for none
}

// timedOutCode is the exit code of an exec that took too long, as timeout(1) has it.
const timedOutCode = 124

// maxFailed bounds ExecState.Failed, in bytes. It may name a PATH.
const maxFailed = 512

func appendExecReply(b []byte, r *ExecReply) []byte {
	b = append(b, wireVersion)
	b = appendU32(b, uint32(r.Errno))
	b = append(b, byte(r.State.Phase))
	b = appendBool(b, r.State.StdinClosed)
	b = appendU32(b, uint32(r.State.Code))
	b = appendU32(b, uint32(r.State.Signal))
	b = appendBool(b, r.State.TimedOut)
	b = appendI64(b, r.State.StartedNs)
	b = appendI64(b, r.State.EndedNs)
	return appendString(b, r.State.Failed)
}

func decodeExecReply(b []byte) (ExecReply, error) {
	d := decoder{buf: b}
	if d.u8() != wireVersion {
		d.bad = true
	}
	r := ExecReply{Errno: syscall.Errno(d.u32()), PID: -1, Stdin: -1}
	r.State = ExecState{
		Phase: ExecPhase(d.u8()), StdinClosed: d.bool(), Code: d.natural(), Signal: int(d.signal()), TimedOut: d.bool(),
		StartedNs: d.i64(), EndedNs: d.i64(), Failed: d.string(),
	}
	if r.State.Phase > ExecFailed || r.State.Phase == 0 && r.Errno == 0 && r.State != (ExecState{}) {
		d.bad = true
	}
	return r, d.end()
}
