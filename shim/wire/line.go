package wire

import (
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// A line is a connection to a shim that stays open. The daemon sends a LineCall a
// packet and gets LineAnswers, in the order in which things happen. Nothing about it
// waits, at either end.
//
// It is closed, and so loses its probe, when another is opened, when something
// malformed comes, and when there is no room for an answer because nobody reads
// them: an answer is never lost while the line is open. The end of the shim is its
// end too.

// LineOp is what a LineCall asks for.
type LineOp uint8

const (
	// LineHello is no call: it marks the answer to OpLine, which comes first.
	// Errno is ESTALE, and the line is closed, where the shim is of another run.
	LineHello LineOp = iota
	// LinePing asks for the state of the box, which each answer has, and is
	// answered at once.
	LinePing
	// LineProbe runs Spec.Probe. It is answered at once, with Begun or with the
	// Errno why not: EBUSY while one runs, when too many could not be killed, and in
	// a box that is paused or stopping; ESRCH when the command has ended; ENOENT
	// where Spec has no probe. After Begun it is answered once more, with Result,
	// when the probe is over. A pause stops a command's probe as well, and its time
	// goes on.
	LineProbe
	// LineLog is answered once, when the log has grown since the call. A second
	// call before the answer takes the place of the first.
	LineLog
	// LineEnd is no call: it says, unasked and with Seq 0, that the run has ended and
	// that there is something which could not be put on record. See OpEnd.
	LineEnd
)

// LineCall is what the daemon asks over a line. The answers repeat Seq. One whose
// Op the shim does not know is answered with ENOSYS.
type LineCall struct {
	Op  LineOp
	Seq uint32
}

// LineAnswer is one answer to a LineCall.
type LineAnswer struct {
	Op    LineOp
	Seq   uint32
	Errno syscall.Errno
	// Begun says that a probe has begun, and that Result follows in another answer.
	Begun bool
	// Alive, Stopping and Paused are those of State, at the time of the answer.
	Alive, Stopping, Paused bool
	Result                  ProbeResult
}

// ProbeResult is how a probe ended.
type ProbeResult struct {
	// TimedOut says that it was not over in Spec.Probe.TimeoutNs.
	TimedOut bool
	// Code is 0 for healthy. For a command it is the exit code as a shell has it:
	// 128+N for signal N, 127 when the program was not found, 126 when it could not
	// be executed, 125 when a step before that failed. For the others it is 0 or 1.
	Code int
	// Duration is how long it took until that was known.
	Duration time.Duration
	// Reason says in short words what went wrong, and is empty for a probe that is
	// healthy and for a command that ended by itself.
	Reason string
	// Output is the beginning of what a command wrote to stdout and stderr, or of
	// the body of an HTTP response: at most MaxProbeOutput bytes, of any value.
	Output []byte
}

// foreignPrefix is followed by the inode of the socket.
const foreignPrefix = "it is no process of this box that listens there: socket "

// ForeignReason is the ProbeResult.Reason of a probe that was answered by a socket which
// is not the box's, with its inode.
func ForeignReason(inode uint32) string {
	return foreignPrefix + strconv.FormatUint(uint64(inode), 10)
}

// ForeignSocket is the inverse of ForeignReason: ok is false for any other reason.
func ForeignSocket(reason string) (inode uint64, ok bool) {
	text, ok := strings.CutPrefix(reason, foreignPrefix)
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(text, 10, 32)
	return inode, err == nil
}

// MaxProbeOutput bounds ProbeResult.Output, in bytes.
const MaxProbeOutput = 1024

// maxReason bounds ProbeResult.Reason, in bytes. It may name a PATH.
const maxReason = 256

// Sizes of encoded messages, in bytes.
const (
	// LineCallSize is the size of a LineCall.
	LineCallSize = 6
	// PongSize is the size of a LineAnswer without Reason and Output.
	PongSize = 35
	// MaxLineAnswer is the size of the largest LineAnswer, in bytes.
	MaxLineAnswer = PongSize + maxReason + MaxProbeOutput
)

// Append appends the call as it is to be sent, in one packet.
func (c LineCall) Append(b []byte) []byte {
	return appendU32(append(b, Version, byte(c.Op)), c.Seq)
}

// DecodeLineCall is the inverse of Append. It refuses an Op that is no call.
func DecodeLineCall(b []byte) (LineCall, error) {
	d := decoder{buf: b}
	version := d.u8()
	c := LineCall{Op: LineOp(d.u8()), Seq: d.u32()}
	if version != Version || c.Op == LineHello || c.Op == LineEnd {
		d.bad = true
	}
	return c, d.end()
}

// Append appends the answer as it is to be sent, in one packet: its Reason and Output are
// cut to what there is room for.
func (a *LineAnswer) Append(b []byte) []byte {
	b = append(b, Version, byte(a.Op))
	b = appendU32(b, a.Seq)
	b = appendU32(b, uint32(a.Errno))
	b = appendBool(b, a.Begun)
	b = appendBool(b, a.Alive)
	b = appendBool(b, a.Stopping)
	b = appendBool(b, a.Paused)
	b = appendBool(b, a.Result.TimedOut)
	b = appendU32(b, uint32(a.Result.Code))
	b = appendI64(b, int64(a.Result.Duration))
	b = appendString(b, Cut(a.Result.Reason, maxReason))
	out := a.Result.Output[:min(len(a.Result.Output), MaxProbeOutput)]
	b = appendU32(b, uint32(len(out)))
	return append(b, out...)
}

// DecodeLineAnswer is for what comes over a line, a packet. It keeps nothing of b.
func DecodeLineAnswer(b []byte) (LineAnswer, error) {
	d := decoder{buf: b}
	version := d.u8()
	a := LineAnswer{Op: LineOp(d.u8()), Seq: d.u32(), Errno: syscall.Errno(d.u32())}
	a.Begun, a.Alive, a.Stopping, a.Paused = d.bool(), d.bool(), d.bool(), d.bool()
	a.Result = ProbeResult{TimedOut: d.bool(), Code: d.natural(), Duration: time.Duration(d.i64()), Reason: d.string(), Output: d.bytes()}
	if version != Version || len(a.Result.Reason) > maxReason || len(a.Result.Output) > MaxProbeOutput {
		d.bad = true
	}
	if err := d.end(); err != nil {
		return LineAnswer{}, err
	}
	return a, nil
}

// Cut returns the beginning of s, of at most n bytes and whole characters.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
