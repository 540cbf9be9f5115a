//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// timedOutCode is the exit code of an exec that took too long, as timeout(1) has it.
const timedOutCode = 124

// killExec kills an exec with all of its group.
func (s *supervisor) killExec(e *execProcess) {
	if e.starter != 0 {
		e.doomed = true // it may have done its work by now
		kill(e.starter)
	}
	if e.pid != 0 {
		kill(e.pid) // it may be too young to have a group of its own
		kill(-e.pid)
	}
	if e.group != 0 && e.group != e.pid {
		kill(-e.group)
	}
}

// closeStdin gives the command of an exec EOF once it has read what is there.
func (s *supervisor) closeStdin(e *execProcess) {
	if e.stdin != 0 {
		sys.Close(e.stdin)
		e.stdin = 0
	}
	if e.in.pipe != 0 {
		s.pumpStdin(e) // and what is the end of the FIFO is that of the pipe
	}
}

// execReaped is told of each process that was reaped.
func (s *supervisor) execReaped(pid int, status unix.WaitStatus) {
	if len(s.execs.list) == 0 {
		return
	}
	for _, e := range s.execs.list {
		if e.name == "" {
			continue
		}
		switch pid {
		case e.starter:
			s.starterEnded(e, status)
		case e.pid:
			s.execEnded(e, status)
		}
		if e.group != 0 && e.pid == 0 && errors.Is(unix.Kill(-e.group, 0), unix.ESRCH) {
			// From now on another may get the number.
			e.group = 0
			s.disarm(e)
		}
	}
}

// execEnded says how the command of an exec ended. What is left of its group lives
// on, as long as the timeout lets it.
func (s *supervisor) execEnded(e *execProcess, status unix.WaitStatus) {
	if e.phase == wire.ExecStarting {
		s.reported(e) // before it died
		s.execBegan(e, e.pid)
	}
	e.pid = 0
	if e.phase != wire.ExecRunning {
		e.group = 0
		return
	}
	switch {
	case e.late:
		e.state.Code, e.state.Signal, e.state.TimedOut = timedOutCode, int(unix.SIGKILL), true
	case status.Signaled():
		e.state.Signal = int(status.Signal())
		e.state.Code = 128 + e.state.Signal
	default:
		e.state.Code = status.ExitStatus()
	}
	s.execEnds(e, wire.ExecEnded)
}

// execEnds brings an exec to its end, and has it on record, if that can be, before anybody
// is told.
func (s *supervisor) execEnds(e *execProcess, phase wire.ExecPhase) {
	s.closeReport(e)
	s.closeTTY(e)
	s.closeStdin(e)
	if phase == wire.ExecFailed {
		s.closePump(e)
	}
	e.phase = phase
	e.state.EndedNs = wallclock()
	s.execs.running--
	s.recordExec(e)
	s.srv.execsChanged(s)
}

// disarm takes the timeout from an exec.
func (s *supervisor) disarm(e *execProcess) {
	if e.deadline != 0 {
		e.deadline = 0
		s.execs.timed--
	}
}

// execsLate kills the execs whose time is over.
func (s *supervisor) execsLate(now int64) {
	for _, e := range s.execs.list {
		if e.deadline == 0 || now < e.deadline {
			continue
		}
		e.late = e.pid != 0 || e.starter != 0
		s.disarm(e)
		s.killExec(e)
	}
}

// nextDeadline returns when execsLate has something to do.
func (x *execs) nextDeadline() int64 {
	next := int64(math.MaxInt64)
	if x.timed == 0 {
		return next
	}
	for _, e := range x.list {
		if e.deadline != 0 {
			next = min(next, e.deadline)
		}
	}
	return next
}

// forgetExec frees an exec that has ended, with what was not read of it.
func (s *supervisor) forgetExec(e *execProcess) {
	s.disarm(e)
	s.execWritten(e)
	if e.starter != 0 {
		s.callEnded() // it is of no use any more how it ends
	}
	s.closePump(e)
	for _, fd := range [...]int{e.stdin, e.stdout, e.stderr} {
		if fd != 0 {
			sys.Close(fd)
		}
	}
	*e = execProcess{}
}

// endExecs ends the execs with the box, and waits for those that ran: their death
// would hold up the shim's own as well.
func (s *supervisor) endExecs() {
	if s.execs.running == 0 {
		return
	}
	s.killAll()
	for s.execs.running > 0 {
		var status unix.WaitStatus
		pid, err := sys.Retry(func() (int, error) { return unix.Wait4(-1, &status, 0, nil) })
		if err != nil {
			return
		}
		s.execReaped(pid, status)
	}
}
