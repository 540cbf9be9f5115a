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

// kill kills an exec with all of its group.
func (e *execProcess) kill() {
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
func (e *execProcess) closeStdin(s *supervisor) {
	if e.stdin != 0 {
		sys.Close(e.stdin)
		e.stdin = 0
	}
	if e.in.pipe != 0 {
		e.pumpStdin(s) // and what is the end of the FIFO is that of the pipe
	}
}

// reaped is told of each process that was reaped.
func (x *execs) reaped(s *supervisor, pid int, status unix.WaitStatus) {
	if len(x.list) == 0 {
		return
	}
	for _, e := range x.list {
		if e.name == "" {
			continue
		}
		switch pid {
		case e.starter:
			e.starterEnded(s, status)
		case e.pid:
			e.ended(s, status)
		}
		if e.group != 0 && e.pid == 0 && errors.Is(unix.Kill(-e.group, 0), unix.ESRCH) {
			// From now on another may get the number.
			e.group = 0
			e.disarm(s)
		}
	}
}

// ended says how the command of an exec ended. What is left of its group lives
// on, as long as the timeout lets it.
func (e *execProcess) ended(s *supervisor, status unix.WaitStatus) {
	if e.phase == wire.ExecStarting {
		e.reported(s) // before it died
		e.began(s, e.pid)
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
	e.end(s, wire.ExecEnded)
}

// end brings an exec to its end, and has it on record, if that can be, before anybody
// is told.
func (e *execProcess) end(s *supervisor, phase wire.ExecPhase) {
	e.closeReport(s)
	e.closeTTY(s)
	e.closeStdin(s)
	if phase == wire.ExecFailed {
		e.closePump(s)
	}
	e.phase = phase
	e.state.EndedNs = wallclock()
	s.execs.running--
	e.record(s)
	s.srv.execsChanged(s)
}

// disarm takes the timeout from an exec.
func (e *execProcess) disarm(s *supervisor) {
	if e.deadline != 0 {
		e.deadline = 0
		s.execs.timed--
	}
}

// expire kills the execs whose time is over.
func (x *execs) expire(s *supervisor, now int64) {
	for _, e := range x.list {
		if e.deadline == 0 || now < e.deadline {
			continue
		}
		e.late = e.pid != 0 || e.starter != 0
		e.disarm(s)
		e.kill()
	}
}

// nextDeadline returns when expire has something to do.
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

// forget frees an exec that has ended, with what was not read of it.
func (e *execProcess) forget(s *supervisor) {
	e.disarm(s)
	e.written(s)
	if e.starter != 0 {
		s.callEnded() // it is of no use any more how it ends
	}
	e.closePump(s)
	for _, fd := range [...]int{e.stdin, e.stdout, e.stderr} {
		if fd != 0 {
			sys.Close(fd)
		}
	}
	*e = execProcess{}
}

// end ends the execs with the box, and waits for those that ran: their death
// would hold up the shim's own as well.
func (x *execs) end(s *supervisor) {
	if x.running == 0 {
		return
	}
	s.killAll()
	for x.running > 0 {
		var status unix.WaitStatus
		pid, err := sys.Retry(func() (int, error) { return unix.Wait4(-1, &status, 0, nil) })
		if err != nil {
			return
		}
		x.reaped(s, pid, status)
	}
}
