//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// supervisor is a running shim. Everything happens in turn on one thread, in
// run; nothing it calls waits for anybody.
type supervisor struct {
	spec   *wire.Spec
	dirfd  int
	epfd   int
	sigfd  int // see signalEvents
	log    logWriter
	srv    server
	probe  probe
	strays strays
	execs  execs
	init   containerInit

	pending pending

	sharedNet bool // the box has no network of its own

	oomScore int  // the shim's oom_score_adj, and once there is a spec the command's
	ranked   bool // oomScore is known

	join    []uintptr // the files of spec.Cgroups
	freezer int       // the file of spec.Freezer, or -1

	pid       int  // of the command
	alive     bool // the command has not been reaped
	status    unix.WaitStatus
	startedNs int64

	stoppedBy string
	stopping  bool
	paused    bool
	killAt    int64 // monotonic time at which a stop kills; 0: not armed
}

// reapsPerTurn bounds how long dying orphans keep the shim from its other work.
const reapsPerTurn = 512

// run supervises until the command has ended, or, after that, until its end need not be
// kept any more.
func (s *supervisor) run() {
	var events [maxEvents]unix.EpollEvent
	unreaped := true // something may have ended before this
	for {
		if unreaped {
			unreaped = s.reap()
		}
		now := monotonic()
		if s.over(now) {
			return
		}
		timeout := 0
		if !unreaped {
			timeout = s.timeout(now)
		}
		s.srv.readyPong(s)
		n, errno := epollWait(s.epfd, &events, timeout, &s.srv.line)
		if errno != 0 && errno != unix.EINTR {
			fatal("epoll_wait", errno)
		}
		now = monotonic()
		for i := range max(n, 0) {
			switch fd := int(events[i].Fd); fd {
			case s.sigfd:
				child, term := takeSignals(fd)
				unreaped = unreaped || child
				if term && s.pending.end != nil {
					s.pending.until = now
				} else if term {
					s.stop(wire.StoppedByTerm, 0, s.spec.StopGraceNs, now)
				}
			case s.log.pipe:
				if s.log.pump(now) {
					s.srv.logChanged(s)
				}
			case s.probe.fd:
				s.probe.progress(s)
			case wire.FDListen:
				s.srv.accept(s, now)
			case wire.FDHold:
				s.daemonDied()
			default:
				if !s.execs.event(s, fd) {
					s.srv.serve(s, fd, now)
				}
			}
		}
		s.timers(now)
	}
}

// timeout returns how many milliseconds epoll may wait.
func (s *supervisor) timeout(now int64) int {
	next := int64(math.MaxInt64)
	if s.killAt != 0 {
		next = s.killAt
	}
	if s.log.lost > 0 {
		next = min(next, s.log.retryAt+logIdleRetryNs)
	}
	if s.probe.running {
		next = min(next, s.probe.deadline)
	}
	if s.probe.searching() {
		next = now
	}
	next = min(next, s.srv.nextDeadline(), s.execs.nextDeadline(), s.pending.next())
	if next == math.MaxInt64 {
		return -1
	}
	return int(min(max(next-now+1e6-1, 0)/1e6, math.MaxInt32))
}

func (s *supervisor) timers(now int64) {
	if s.killAt != 0 && now >= s.killAt {
		s.killAll()
	}
	if s.log.lost > 0 && now >= s.log.retryAt+logIdleRetryNs && s.log.recover(now) {
		s.srv.logChanged(s)
	}
	if s.probe.running && now >= s.probe.deadline {
		s.probe.expire(s)
	}
	if s.probe.searching() {
		s.probe.searchPeer(s, now)
	}
	if s.execs.timed > 0 {
		s.execs.expire(s, now)
	}
	if s.pending.retryAt != 0 && now >= s.pending.retryAt {
		s.writePending(now)
	}
	s.srv.expire(s, now)
}

// reap collects what has ended: the command, and every orphan of the box. It
// reports whether there may be more.
func (s *supervisor) reap() bool {
	for range reapsPerTurn {
		var status unix.WaitStatus
		pid, err := sys.Retry(func() (int, error) { return unix.Wait4(-1, &status, unix.WNOHANG, nil) })
		if err != nil || pid == 0 {
			s.nobodyLeft(errors.Is(err, unix.ECHILD))
			return false
		}
		if pid == s.pid && s.alive {
			s.alive, s.status = false, status
		}
		s.strays.add(pid, status)
		s.probe.reaped(s, pid, status)
		s.execs.reaped(s, pid, status)
	}
	return true
}

// stop begins a stop, or shortens the grace of the one that is going on.
func (s *supervisor) stop(by string, sig unix.Signal, graceNs, now int64) {
	killAt := max(now+min(graceNs, math.MaxInt64-now), 1)
	if s.stopping {
		if s.killAt != 0 {
			s.killAt = min(s.killAt, killAt)
		}
	} else {
		s.stopping, s.stoppedBy, s.killAt = true, by, killAt
		if sig == 0 {
			sig = s.spec.StopSignal
		}
		if graceNs > 0 {
			s.signal(sig)
			if c := s.spec.Container; c != nil && !c.Init && s.alive && !obeys(s.pid, sig) {
				s.killAt = max(now, 1) // as the signal itself would have done to any other process
			}
		}
		s.resume() // a stopped process takes no signal but SIGKILL
		s.thaw()
	}
	if s.killAt != 0 && now >= s.killAt {
		s.killAll()
	}
}

// signal sends sig to the command.
func (s *supervisor) signal(sig unix.Signal) unix.Errno {
	if !s.alive {
		return unix.ESRCH
	}
	return toErrno(unix.Kill(s.pid, sig))
}

// pause stops, and resume continues, every process of the box. kill(-1) from
// init reaches all of its namespace but init itself.
func (s *supervisor) pause() unix.Errno {
	if s.stopping {
		return unix.EBUSY
	}
	errno := toErrno(unix.Kill(-1, unix.SIGSTOP))
	s.paused = s.paused || errno == 0
	return errno
}

func (s *supervisor) resume() unix.Errno {
	if !s.paused {
		return 0
	}
	s.paused = false
	return toErrno(unix.Kill(-1, unix.SIGCONT))
}

// thaw lets a box run again that the daemon has frozen by its cgroup. A v1
// freezer even keeps the dead from dying, so this comes after each SIGKILL too:
// the daemon may be gone.
func (s *supervisor) thaw() {
	if s.freezer < 0 {
		return
	}
	if _, err := sys.Retry(func() (int, error) { return unix.Write(s.freezer, []byte(s.spec.Thaw)) }); err != nil {
		say("cannot thaw the box: " + err.Error())
	}
}

func (s *supervisor) daemonDied() {
	// Level-triggered and closed for good: it would be reported for ever.
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_DEL, wire.FDHold, nil); err != nil {
		fatal("epoll_ctl", err)
	}
	if !s.stopping {
		s.stopping, s.stoppedBy = true, wire.StoppedByDaemonDied
	}
	s.killAll()
}

// killAll kills every process of the box, so that the command's own status says
// so. What is forked meanwhile dies with the shim.
func (s *supervisor) killAll() {
	s.killAt = 0
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		say("cannot kill the box: " + err.Error())
	}
	s.thaw()
}

// finish keeps what is left of the log and writes how the command ended. It
// returns the exit code.
func (s *supervisor) finish() int {
	now := monotonic()
	s.log.drain(now)
	s.log.close(now)
	r := wire.ExitRecord{
		Run:       s.spec.Run,
		StoppedBy: s.stoppedBy,
		StartedNs: s.startedNs,
		EndedNs:   wallclock(),
		CPUUsec:   childrenCPU(),
	}
	if s.status.Signaled() {
		r.Signal = int(s.status.Signal())
		r.Code = 128 + r.Signal
		r.CoreDumped = s.status.CoreDump()
	} else {
		r.Code = s.status.ExitStatus()
	}
	err := tryWriteRecord(s.dirfd, r.AppendJSON(nil), true)
	s.execs.end(s)
	s.keepEnd(&r, err)
	return r.Code
}

// childrenCPU returns the CPU time in microseconds of all that was reaped.
func childrenCPU() int64 {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &ru); err != nil {
		say("cannot read the CPU time: " + err.Error())
		return 0
	}
	return (ru.Utime.Nano() + ru.Stime.Nano()) / 1000
}

func monotonic() int64 { return clock(unix.CLOCK_MONOTONIC) }
func wallclock() int64 { return clock(unix.CLOCK_REALTIME) }

func clock(id int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		fatal("clock_gettime", err)
	}
	return ts.Nano()
}

func toErrno(err error) unix.Errno {
	if err == nil {
		return 0
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return unix.EIO
}
