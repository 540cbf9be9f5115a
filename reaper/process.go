package reaper

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Outcome says how the wait for a process's end ended.
type Outcome int

const (
	// TimedOut: the process had not ended when the deadline passed. Nothing
	// that belongs to it may be touched.
	TimedOut Outcome = iota
	// Reaped: it ended and this daemon took its status.
	Reaped
	// AlreadyGone: it ended and had been reaped by another road before.
	AlreadyGone
	// NotOurChild: it ended, and another parent reaps it.
	NotOurChild
)

// String returns the word that events use.
func (o Outcome) String() string {
	switch o {
	case Reaped:
		return "reaped"
	case AlreadyGone:
		return "already-gone"
	case NotOurChild:
		return "not-our-child"
	}
	return "timed-out"
}

// Gone reports whether the outcome proves that the process has ended.
func (o Outcome) Gone() bool { return o != TimedOut }

// Exit is what is known of a process's end.
type Exit struct {
	Outcome Outcome
	// Code is the exit status, or 128+N for death by signal N; -1 if nobody
	// witnessed it.
	Code int
	// Signal is the signal that killed it, or 0.
	Signal unix.Signal
	// CPU is the processor time of the process and of all the children it had
	// waited for; 0 if unknown.
	CPU time.Duration
	// At is when the daemon learnt of it.
	At time.Time
}

// Process is one process under watch. Its pidfd is closed once it has ended.
type Process struct {
	id    Identity
	child bool // of this process

	mu  sync.Mutex // guards fd against use after close
	fd  int
	end func(Exit)

	done chan struct{}
	exit Exit // valid once done is closed
}

// NewChild takes over a child of this process that was just started, with the
// pidfd it was born with. It must not have been waited for.
func NewChild(bootID string, pid, pidfd int) (*Process, error) {
	id, err := identify(bootID, pid, pidfd)
	if err != nil {
		return nil, err
	}
	return &Process{id: id, child: true, fd: pidfd, done: make(chan struct{})}, nil
}

// Identify returns the identity of the process that has the pid now, or ErrGone.
func Identify(bootID string, pid int) (Identity, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if noSuch(err) {
		return Identity{}, ErrGone
	}
	if err != nil {
		return Identity{}, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	id, err := identify(bootID, pid, fd)
	return id, errors.Join(err, unix.Close(fd))
}

// noSuch reports whether pidfd_open failed because no process has the pid. It may
// be that of a thread now: EINVAL, or ENOENT on newer kernels.
func noSuch(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)
}

// Find opens the process with the given identity, or returns ErrGone. One that
// has ended and not been reaped is found: its end is seen at once by the watcher.
func Find(bootID string, id Identity) (*Process, error) {
	if id.BootID != bootID || id.PID <= 0 {
		return nil, ErrGone
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if noSuch(err) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", id.PID, err)
	}
	now, err := identify(bootID, id.PID, fd)
	// The process may have ended, and its pid been given away, between the two
	// steps: the pidfd still answers for the one that was opened.
	if err == nil {
		err = unix.PidfdSendSignal(fd, 0, nil, 0)
	}
	if err != nil || now != id {
		_ = unix.Close(fd)
		if err == nil || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
			return nil, ErrGone
		}
		return nil, fmt.Errorf("identity of process %d: %w", id.PID, err)
	}
	return &Process{id: id, fd: fd, done: make(chan struct{})}, nil
}

// abandonBound is how long the end of an abandoned child is waited for.
const abandonBound = 2 * time.Second

// Abandon kills a child that could not be put under watch, waits for its end and
// closes its pidfd. It is for a child that does not run anything yet, whose end
// therefore is a matter of no time.
func Abandon(pidfd int) error {
	err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	if err == nil {
		err = awaitEnd(pidfd, unix.POLLIN, abandonBound)
	}
	if err == nil {
		err = waitid(pidfd, new(siginfo), nil)
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

// Kill sends SIGKILL through the pidfd. A process that has ended is no error.
func (p *Process) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	if err := unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.id.PID, err)
	}
	return nil
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

// Done is closed when the process has ended and been reaped as far as this
// daemon can.
func (p *Process) Done() <-chan struct{} { return p.done }

// collect takes the status of a process whose pidfd is readable, that is: whose
// whole thread group has ended. For the init of a pid namespace the kernel says
// so only when every process of the namespace is gone.
func (p *Process) collect() Exit {
	e := Exit{Outcome: Reaped, Code: -1, At: time.Now()}
	var info siginfo
	var ru unix.Rusage
	err := waitid(p.fd, &info, &ru)
	switch {
	case err == nil && info.pid == 0:
		// A tracer holds the zombie back: it has ended, its status comes to
		// nobody here before the tracer lets go.
		e.Outcome = NotOurChild
		return e
	case err == nil:
		e.Code, e.Signal = decode(info.code, info.status)
		e.CPU = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
		return e
	case !errors.Is(err, unix.ECHILD):
		// Nothing but ECHILD is documented for a readable pidfd; without a
		// status the process is all the same known to have ended.
		e.Outcome = AlreadyGone
		return e
	}
	// Not a child of ours. A zombie still takes signal 0; a reaped one does not.
	e.Outcome = NotOurChild
	if errors.Is(unix.PidfdSendSignal(p.fd, 0, nil, 0), unix.ESRCH) {
		e.Outcome = AlreadyGone
	}
	if code, sig, ok := p.witness(); ok {
		e.Code, e.Signal = code, sig
	}
	return e
}

// witnessBound is how long an ended stranger's own parent is given to reap it,
// after which the kernel tells its exit status to whoever holds a pidfd.
const witnessBound = 200 * time.Millisecond

// witness asks the kernel how a process ended that another parent reaps (Linux
// 6.15 and later). ok is false where the kernel can't tell.
func (p *Process) witness() (code int, sig unix.Signal, ok bool) {
	if err := awaitEnd(p.fd, 0, witnessBound); err != nil {
		return 0, 0, false
	}
	info := pidfdInfo{mask: pidfdInfoExit}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.fd), pidfdGetInfo, uintptr(unsafe.Pointer(&info))); errno != 0 || info.mask&pidfdInfoExit == 0 {
		return 0, 0, false
	}
	ws := unix.WaitStatus(info.exitCode)
	if ws.Signaled() {
		return 128 + int(ws.Signal()), ws.Signal(), true
	}
	return ws.ExitStatus(), 0, true
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h, first version.
type pidfdInfo struct {
	mask     uint64
	cgroupID uint64
	_        [11]uint32 // pid, tgid, ppid and eight user and group ids
	exitCode int32
}

const (
	pidfdInfoExit = 1 << 3
	// pidfdGetInfo is _IOWR(0xFF, 11, struct pidfd_info).
	pidfdGetInfo = 3<<30 | unsafe.Sizeof(pidfdInfo{})<<16 | 0xff<<8 | 11
)

// siginfo is siginfo_t as waitid(2) fills it on 64-bit Linux.
type siginfo struct {
	signo, errno, code int32
	_                  int32
	pid, uid, status   int32
	_                  [100]byte
}

func waitid(pidfd int, info *siginfo, ru *unix.Rusage) error {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_PIDFD, uintptr(pidfd), uintptr(unsafe.Pointer(info)), unix.WEXITED|unix.WNOHANG, uintptr(unsafe.Pointer(ru)), 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// cldExited is CLD_EXITED of siginfo.h: the status is an exit status, not a signal.
const cldExited = 1

func decode(code, status int32) (int, unix.Signal) {
	if code == cldExited {
		return int(status), 0
	}
	return 128 + int(status), unix.Signal(status)
}

// Features returns what this kernel can do for the package: pidfd always,
// pidfd.inode where a pidfd's inode names a process, and pidfd.info where the
// kernel tells the exit status of a process that another parent reaped.
func Features() []string {
	out := []string{"pidfd"}
	fd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) == nil && fs.Type == pidfsMagic {
		out = append(out, "pidfd.inode")
	}
	// Asked of a process that lives, the exit status is never there, but an
	// older kernel does not even know the request, or takes no mask.
	info := pidfdInfo{mask: pidfdInfoExit}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pidfdGetInfo, uintptr(unsafe.Pointer(&info))); errno == 0 {
		out = append(out, "pidfd.info")
	}
	return out
}
