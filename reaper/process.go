package reaper

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper/procfs"
)

// Process is one process under watch. Its descriptors are closed once it has
// ended and been reaped as far as this daemon can.
type Process struct {
	id    Identity
	child bool // of this process
	// blind: there is no pidfd. fd is /proc/PID then, which stands for this
	// process alone too, but does not tell its end.
	blind bool
	// traced: it has ended, and a tracer held it then; the watcher's alone.
	traced bool

	mu     sync.Mutex // guards what follows against use after close
	fd     int
	hint   int           // see Hint; -1: none
	reaped bool          // by this process: its pid may be another's now
	kick   chan struct{} // a blind process is to be looked at

	tell sync.Once
	end  func(Exit)
	done chan struct{}
	exit Exit // valid once done is closed
}

func newProcess(id Identity, fd int) *Process {
	return &Process{id: id, fd: fd, hint: -1, kick: make(chan struct{}, 1), done: make(chan struct{})}
}

// Blind reports whether the kernel gives no descriptor that tells the end of the
// process. It then needs a Hint.
func (p *Process) Blind() bool { return p.blind }

// Hint takes over a descriptor that hangs up (EPOLLHUP or EPOLLRDHUP) when the
// process ends, like a connection to it, and is otherwise silent. It is for a Blind
// process, before its Watch. A hint proves nothing: the process is looked at.
func (p *Process) Hint(fd int) { p.hint = fd }

// Release gives up a process that was found and not put under watch.
func (p *Process) Release() error { return unix.Close(p.fd) }

// abandonBound is how long the end of an abandoned child is waited for.
const abandonBound = 2 * time.Second

// Abandon kills a child that could not be put under watch, waits for its end and
// closes its pidfd. It is for a child that does not run anything yet, whose end
// therefore is a matter of no time.
func Abandon(pid, pidfd int) error {
	err := pidfdSendSignal(pidfd, unix.SIGKILL)
	if refused(err) {
		err = unix.Kill(pid, unix.SIGKILL) // a child keeps its pid until it is reaped
	}
	if err == nil {
		err = awaitEnd(pidfd, unix.POLLIN, abandonBound)
	}
	if err == nil {
		err = waitid(unix.P_PID, pid, new(siginfo), unix.WEXITED, nil)
	}
	return errors.Join(err, unix.Close(pidfd))
}

// awaitEnd waits until poll(2) tells events of a pidfd (or POLLHUP, which says
// that it was reaped), or gives ETIMEDOUT.
func awaitEnd(pidfd int, events int16, bound time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: events}}
	for end := time.Now().Add(bound); ; {
		n, err := unix.Poll(fds, max(0, int(time.Until(end).Milliseconds())))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return unix.ETIMEDOUT
		default:
			return nil
		}
	}
}

// Identity returns what names the process for good.
func (p *Process) Identity() Identity { return p.id }

// PID returns the process id.
func (p *Process) PID() int { return p.id.PID }

// Reaped reports whether a child has been reaped: its pid may be another's then.
func (p *Process) Reaped() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reaped || p.fd < 0
}

// Kill sends SIGKILL to this process and never to another that got its pid. One
// that has ended is no error.
func (p *Process) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 || p.reaped {
		return nil
	}
	// It takes a directory of /proc for a pidfd.
	err := pidfdSendSignal(p.fd, unix.SIGKILL)
	if refused(err) {
		// No signal but by pid is left. A child keeps its pid until it is reaped,
		// which mu holds off; any other is made sure of directly before.
		switch {
		case p.child:
			err = nil
		case p.blind:
			_, err = procfs.At(p.fd).Stat()
		default:
			err = unreaped(p.fd)
		}
		if err == nil {
			err = unix.Kill(p.id.PID, unix.SIGKILL)
		}
	}
	p.lookAt()
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.id.PID, err)
	}
	return nil
}

// lookAt has a blind process looked at.
func (p *Process) lookAt() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Reap waits until the watcher has seen the end of the process, at most until
// the deadline or the end of ctx; both give TimedOut, and the watch goes on.
func (p *Process) Reap(ctx context.Context, deadline time.Time) Exit {
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-p.done:
		return p.exit
	case <-t.C:
	case <-ctx.Done():
	}
	return Exit{Outcome: TimedOut, Code: -1}
}

// Done is closed when the end of the process is proven. It has been reaped then
// as far as this daemon can, unless a tracer holds it.
func (p *Process) Done() <-chan struct{} { return p.done }

// tellEnd tells how the process ended; only the first call does.
func (p *Process) tellEnd(e Exit) {
	p.tell.Do(func() {
		p.exit = e
		close(p.done)
		p.end(e)
	})
}

// collectChild takes the status of a child whose pidfd is readable, that is: whose
// whole thread group has ended. For the init of a pid namespace the kernel says
// so only when every process of the namespace is gone. ok is false while a tracer
// holds the zombie back; its status comes when the tracer lets go.
func (p *Process) collectChild() (e Exit, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var info siginfo
	var ru unix.Rusage
	err := waitid(unix.P_PIDFD, p.fd, &info, unix.WEXITED, &ru)
	if err != nil && !errors.Is(err, unix.ECHILD) {
		// P_PIDFD is refused. Its pid is its own until this call.
		err = waitid(unix.P_PID, p.id.PID, &info, unix.WEXITED, &ru)
	}
	if err != nil {
		// Somebody in this process took it. The process is known to have ended.
		p.reaped = true
		return Exit{Outcome: AlreadyGone, Code: -1, At: time.Now()}, true
	}
	if info.pid == 0 {
		return Exit{}, false
	}
	p.reaped = true
	return reapedExit(&info, &ru), true
}

func reapedExit(info *siginfo, ru *unix.Rusage) Exit {
	e := Exit{Outcome: Reaped, At: time.Now(), CPU: time.Duration(ru.Utime.Nano() + ru.Stime.Nano())}
	e.Code, e.Signal = decode(info.code, info.status)
	return e
}

// Ended reports whether the process is known to have ended, before its Watch. Of a
// Blind one it is not known.
func (p *Process) Ended() bool { return !p.blind && awaitEnd(p.fd, unix.POLLIN, 0) == nil }

// collect finds out what can be known at once of a process that is not known to be
// a child and whose pidfd is readable. A late status is for witness to tell.
func (p *Process) collect() Exit {
	var info siginfo
	var ru unix.Rusage
	if waitid(unix.P_PIDFD, p.fd, &info, unix.WEXITED, &ru) == nil && info.pid != 0 {
		return reapedExit(&info, &ru) // this daemon's image was replaced over its children
	}
	// A zombie still takes signal 0; a reaped one does not.
	e := Exit{Outcome: NotOurChild, Code: -1, At: time.Now(), late: &lateStatus{told: make(chan struct{}), code: -1}}
	if errors.Is(unreaped(p.fd), unix.ESRCH) {
		e.Outcome = AlreadyGone
	}
	return e
}

// look finds out whether a blind process has ended.
func (p *Process) look() (e Exit, ended bool) {
	e = Exit{Outcome: AlreadyGone, Code: -1, At: time.Now()}
	st, err := procfs.At(p.fd).Stat()
	if err != nil {
		return e, errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT)
	}
	// As with a pidfd, all threads must have ended: the last one is who ends the
	// pid namespace of an init.
	if st.State != "Z" || st.Threads > 1 {
		return e, false
	}
	e.Outcome = NotOurChild
	if st.Parent == unix.Getpid() {
		var info siginfo
		var ru unix.Rusage
		if waitid(unix.P_PID, p.id.PID, &info, unix.WEXITED, &ru) == nil && info.pid != 0 {
			return reapedExit(&info, &ru), true
		}
	}
	return e, true
}

// witnessBound is how long an ended stranger's own parent is given to reap it,
// after which the kernel tells its exit status to whoever holds a pidfd; and how
// long a tracer has to let go of a child before its end is told without reaping it.
const witnessBound = 200 * time.Millisecond

// witness asks the kernel how a process ended that another parent reaps, and tells
// those who wait for it.
func (p *Process) witness(late *lateStatus) {
	defer close(late.told)
	if err := awaitEnd(p.fd, 0, witnessBound); err != nil {
		return
	}
	info := pidfdInfo{mask: pidfdInfoExit}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.fd), pidfdGetInfo, uintptr(unsafe.Pointer(&info))); errno != 0 || info.mask&pidfdInfoExit == 0 {
		return
	}
	late.code, late.signal = decodeStatus(unix.WaitStatus(info.exitCode))
}

// held tells the end of a child whose zombie a tracer holds back. How it ended is in
// /proc, where its pid is its own until it is reaped.
func (p *Process) held() Exit {
	e := Exit{Outcome: NotOurChild, Code: -1, At: time.Now()}
	st, err := procfs.Of(p.id.PID).Stat()
	if err == nil && st.State == "Z" && st.Parent == unix.Getpid() && st.ExitStatus != 0 {
		e.Code, e.Signal = decodeStatus(st.ExitStatus)
	}
	return e
}
