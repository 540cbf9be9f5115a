//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"math"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

const (
	// maxExecs bounds the execs that the shim knows of, ended ones too.
	maxExecs = 2 * wire.MaxExecs
	// execFD is how the shim opens what lies in an exec's directory: it must never wait.
	execFD = unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOFOLLOW
)

// execReply is an answer with what does not go into its packet but beside it.
type execReply struct {
	wire.ExecReply
	pid   int // of the command; 0 for none
	stdin int // what to write to; 0 for none
}

// execs are the commands that were started beside the box's own.
//
// What they read and write goes through FIFOs on disk, which the shim keeps open: data
// stays there whoever of the daemon, its successor and the command is gone. Each of the
// three has opened them by itself, so that nobody's O_NONBLOCK is another's. Between the
// FIFO of stdin and the command is a pipe: see inPump.
type execs struct {
	list    []*execProcess // those with an empty name are free
	child   *child         // what all have in common
	running int            // phases starting and running
	timed   int            // with a deadline
}

// execProcess is one of them.
type execProcess struct {
	name    string
	phase   wire.ExecPhase
	pid     int // of the command, as long as it was not reaped; 0 for none
	starter int // the OCI runtime that is to start it; 0 for none
	group   int // its process group, as long as there may be members; 0 for none
	report  int // the pipe that tells whether it was executed; 0 for none
	conn    int // the connection that waits for that to be known; 0 for none
	stdin   int // a writer, so that the command meets no EOF; 0 once it is closed
	in      inPump
	stdout  int // these keep what was not read
	stderr  int

	order     execOrder
	deadline  int64 // monotonic time at which the group is killed; 0: never
	late      bool  // it was
	doomed    bool  // it was killed before it began
	unwritten bool  // its end is not on record; see pending
	state     wire.ExecState
	tty       tty
}

// find returns the exec of that name, or nil.
func (x *execs) find(name string) *execProcess {
	for _, e := range x.list {
		if e.name == name {
			return e
		}
	}
	return nil
}

// place returns a free exec, or nil.
func (x *execs) place() *execProcess {
	if e := x.find(""); e != nil {
		return e
	}
	if len(x.list) == maxExecs {
		return nil
	}
	x.list = append(x.list, new(execProcess))
	return x.list[len(x.list)-1]
}

// handleExec does what a request on an exec asks for. It reports false if the answer
// is to come when the exec has begun: then the connection fd waits for it.
func (s *supervisor) handleExec(req wire.Request, fd int, now int64) (execReply, bool) {
	if req.Run != s.spec.Run {
		return refuseExec(unix.ESTALE), true
	}
	if req.Op == wire.OpExec {
		errno := s.execs.begin(s, req.Exec, fd, now)
		return refuseExec(errno), errno != 0
	}
	e := s.execs.find(req.Exec)
	if e == nil {
		return refuseExec(unix.ENOENT), true
	}
	var errno unix.Errno
	switch req.Op {
	case wire.OpExecState:
		return e.begunReply(), true
	case wire.OpExecSignal:
		errno = unix.ESRCH
		if e.pid != 0 {
			errno = toErrno(unix.Kill(e.pid, req.Signal))
		}
	case wire.OpExecKill:
		e.kill()
	case wire.OpExecEOF:
		e.closeStdin(s)
	case wire.OpExecForget:
		if e.phase.Active() {
			errno = unix.EBUSY
			break
		}
		e.forget(s)
		return execReply{}, true
	}
	return e.reply(errno), true
}

func refuseExec(errno unix.Errno) execReply {
	return execReply{ExecReply: wire.ExecReply{Errno: errno}}
}

func (e *execProcess) reply(errno unix.Errno) execReply {
	r := execReply{ExecReply: wire.ExecReply{Errno: errno, State: e.state}, pid: e.pid}
	r.State.Phase, r.State.StdinClosed = e.phase, e.stdin == 0
	return r
}

// begunReply is the reply to who may want to write to the command.
func (e *execProcess) begunReply() execReply {
	r := e.reply(0)
	if e.phase == wire.ExecRunning && e.stdin != 0 {
		r.stdin = e.in.pipe
	}
	return r
}

// mayExec says why no exec can begin now, or 0.
func (s *supervisor) mayExec() unix.Errno {
	switch {
	case !s.alive:
		return unix.ESRCH
	case s.stopping || s.paused:
		return unix.EBUSY
	}
	return 0
}

// begin starts an exec. The shim does not wait for it to be executed: see child.
func (x *execs) begin(s *supervisor, name string, conn int, now int64) unix.Errno {
	if errno := s.mayExec(); errno != 0 {
		return errno
	}
	if !plainName(name) {
		return unix.EINVAL
	}
	e := x.find(name)
	switch {
	case e == nil:
		if e = x.place(); e == nil {
			return unix.ENOSPC
		}
	case e.phase.Active():
		return unix.EBUSY
	default:
		e.forget(s) // the daemon has removed that one
	}
	dir, err := s.openExec(name)
	if err != nil {
		return toErrno(err)
	}
	defer sys.Close(dir)
	// The end of one that had the name before may have been put on record after that was
	// removed, and this one made.
	if err := unix.Unlinkat(dir, wire.RecordName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return toErrno(err)
	}
	*e = execProcess{name: name, phase: wire.ExecStarting, conn: conn, state: wire.ExecState{StartedNs: wallclock()}}
	if err := e.order.read(dir); err != nil {
		*e = execProcess{}
		return toErrno(err)
	}
	x.running++
	if failed := e.start(s, dir); failed != nil {
		if s.spec.Container != nil {
			forget(name, "json", "sock") // they would take room for ever
		}
		e.notBegun(s, failedCode, failed.Error())
		return 0
	}
	if t := e.order.TimeoutNs; t > 0 {
		e.deadline = now + min(t, math.MaxInt64-now)
		x.timed++
	}
	return 0
}

// plainName reports whether name is that of a file in a directory.
func plainName(name string) bool {
	return name != "" && name[0] != '.' && len(name) <= 64 && strings.IndexByte(name, '/') < 0
}

func (s *supervisor) openExec(name string) (int, error) {
	return sys.Retry(func() (int, error) {
		return unix.Openat(s.dirfd, wire.ExecDir+"/"+name, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	})
}

// sendExecReply sends a reply with the pid of the exec as credentials, which the
// kernel translates for the receiver.
func sendExecReply(fd int, r *execReply) {
	packet := r.Append(nil)
	var oob []byte
	if r.pid != 0 {
		oob = unix.UnixCredentials(&unix.Ucred{Pid: int32(r.pid)})
	}
	if r.stdin != 0 {
		// An older daemon has no room for it, and never gets it then.
		oob = append(oob, unix.UnixRights(r.stdin)...)
	}
	err := unix.Sendmsg(fd, packet, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err != nil && !errors.Is(err, unix.EPIPE) {
		say("cannot answer for an exec: " + err.Error())
	}
}

// event takes an event of the descriptor fd, if it is one of an exec's.
func (x *execs) event(s *supervisor, fd int) bool {
	for _, e := range x.list {
		switch {
		case e.name == "":
		case fd == e.report:
			e.reported(s)
			return true
		case e.in.has(fd):
			e.pumpStdin(s)
			return true
		case e.tty.has(e, fd):
			e.pumpTTY(s)
			return true
		}
	}
	return false
}

// hungUp forgets a connection that waits for an exec to begin.
func (x *execs) hungUp(fd int) {
	for _, e := range x.list {
		if e.conn == fd {
			e.conn = 0
		}
	}
}
