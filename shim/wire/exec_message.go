package wire

import "syscall"

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

// Active reports whether an exec has not ended.
func (p ExecPhase) Active() bool { return p == ExecStarting || p == ExecRunning }

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
//
// While the command runs, its pid comes with the packet as the credentials of the sender;
// and with the answers to OpExec and OpExecState, as long as it may meet no EOF, a
// descriptor to write its stdin to, unless that is a terminal.
type ExecReply struct {
	Errno syscall.Errno
	State ExecState
}

// MaxFailed bounds ExecState.Failed, in bytes. It may name a PATH.
const MaxFailed = 512

// Append appends the reply as it is to be sent, in one packet.
func (r *ExecReply) Append(b []byte) []byte {
	b = append(b, Version)
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

// DecodeExecReply is the inverse of Append.
func DecodeExecReply(b []byte) (ExecReply, error) {
	d := decoder{buf: b}
	if d.u8() != Version {
		d.bad = true
	}
	r := ExecReply{Errno: syscall.Errno(d.u32())}
	r.State = ExecState{
		Phase: ExecPhase(d.u8()), StdinClosed: d.bool(), Code: d.natural(), Signal: int(d.signal()), TimedOut: d.bool(),
		StartedNs: d.i64(), EndedNs: d.i64(), Failed: d.string(),
	}
	if r.State.Phase > ExecFailed || r.State.Phase == 0 && r.Errno == 0 && r.State != (ExecState{}) {
		d.bad = true
	}
	return r, d.end()
}
