package reaper

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper/procfs"
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
	// Code is the exit status, or 128+N for death by signal N; -1 if nobody has
	// witnessed it so far (see Witness).
	Code int
	// Signal is the signal that killed it, or 0.
	Signal unix.Signal
	// CPU is the processor time of the process and of all the children it had
	// waited for; 0 if unknown.
	CPU time.Duration
	// At is when the daemon learnt of it.
	At time.Time

	late *lateStatus // nil if no more will be known
}

// lateStatus is the status of a process that another parent reaps.
type lateStatus struct {
	told   chan struct{} // closed when the rest is valid
	code   int
	signal unix.Signal
}

// Witness returns the exit with the status of a process that another parent reaps.
// The kernel tells it once that has reaped it, which is waited for, up to 200 ms
// after the end. It is still -1 if that takes longer, or the kernel can't tell
// (before Linux 6.15).
func (e Exit) Witness() Exit {
	if e.late == nil {
		return e
	}
	<-e.late.told
	e.Code, e.Signal = e.late.code, e.late.signal
	e.late = nil
	return e
}

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

// The calls that a seccomp filter may refuse; tests do, too.
var (
	pidfdOpen       = func(pid int) (int, error) { return unix.PidfdOpen(pid, 0) }
	pidfdSendSignal = func(fd int, sig unix.Signal) error { return unix.PidfdSendSignal(fd, sig, nil, 0) }
)

// refused reports whether a system call is not to be had here, as opposed to one
// that failed: no kernel has it, or a seccomp filter keeps it away.
func refused(err error) bool {
	return errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
}

// NewChild takes over a child of this process that was just started, with the
// pidfd it was born with. It must not have been waited for.
func NewChild(bootID string, pid, pidfd int) (*Process, error) {
	id, err := identify(bootID, pid, pidfd)
	if err != nil {
		return nil, err
	}
	p := newProcess(id, pidfd)
	p.child = true
	return p, nil
}

// Identify returns the identity of the process that has the pid now, or ErrGone.
func Identify(bootID string, pid int) (Identity, error) {
	fd, err := pidfdOpen(pid)
	if noSuch(err) {
		return Identity{}, ErrGone
	}
	if refused(err) {
		id, fd, err := openBlind(bootID, pid)
		if err != nil {
			return Identity{}, err
		}
		return id, unix.Close(fd)
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
//
// Where pidfd_open is refused the process is Blind: it is recognised by its start
// time alone, and its end has to be told by a Hint.
func Find(bootID string, id Identity) (*Process, error) {
	if id.BootID != bootID || id.PID <= 0 {
		return nil, ErrGone
	}
	fd, err := pidfdOpen(id.PID)
	if noSuch(err) {
		return nil, ErrGone
	}
	if refused(err) {
		now, fd, err := openBlind(bootID, id.PID)
		if err != nil {
			return nil, err
		}
		if !now.same(id) {
			return nil, errors.Join(ErrGone, unix.Close(fd))
		}
		p := newProcess(id, fd)
		p.blind = true
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", id.PID, err)
	}
	now, err := identify(bootID, id.PID, fd)
	if err == nil && unreaped(fd) != nil {
		// The process may have ended, and its pid been given away, between the two
		// steps: the pidfd still answers for the one that was opened.
		err = ErrGone
	}
	if err != nil || !now.same(id) {
		_ = unix.Close(fd)
		if err == nil || errors.Is(err, ErrGone) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
			return nil, ErrGone
		}
		return nil, fmt.Errorf("identity of process %d: %w", id.PID, err)
	}
	return newProcess(now, fd), nil
}

// Lives reports whether the process with the given identity has not ended, as far as can be
// known.
func Lives(bootID string, id Identity) (bool, error) {
	p, err := Find(bootID, id)
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ended := p.Ended()
	return !ended, unix.Close(p.fd)
}

// openBlind opens the directory in /proc of the process that has the pid now: the
// kernel answers in it for that process only, never for one that got its pid later.
func openBlind(bootID string, pid int) (Identity, int, error) {
	id := Identity{BootID: bootID, PID: pid}
	if err := CheckProc(); err != nil {
		return id, -1, err
	}
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return id, -1, ErrGone
	}
	if err != nil {
		return id, -1, fmt.Errorf("open /proc/%d: %w", pid, err)
	}
	st, err := procfs.At(fd).Stat()
	if err == nil {
		var status procfs.Status
		status, err = procfs.At(fd).Status()
		if err == nil && status.Field("Tgid") != strconv.Itoa(pid) {
			err = ErrGone // it is a thread's
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
			err = ErrGone
		}
		return id, -1, err
	}
	id.StartTicks = st.StartTicks
	return id, fd, nil
}

// unreaped returns an error if the process of a pidfd has been reaped.
func unreaped(pidfd int) error {
	err := pidfdSendSignal(pidfd, 0)
	if !refused(err) {
		return err
	}
	pid, err := procfs.PidfdPID(pidfd)
	if err == nil && pid < 0 {
		err = unix.ESRCH
	}
	return err
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

// waitid never blocks: info.pid is 0 if there is nothing to be had.
func waitid(idType, id int, info *siginfo, options int, ru *unix.Rusage) error {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, uintptr(idType), uintptr(id), uintptr(unsafe.Pointer(info)), uintptr(options|unix.WNOHANG), uintptr(unsafe.Pointer(ru)), 0)
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

func decodeStatus(ws unix.WaitStatus) (int, unix.Signal) {
	if ws.Signaled() {
		return 128 + int(ws.Signal()), ws.Signal()
	}
	return ws.ExitStatus(), 0
}

// Features returns what this kernel can do for the package: pidfd where it lets
// processes be opened and signalled by pidfd, pidfd.inode where a pidfd's inode
// names a process, and pidfd.info where the kernel tells the exit status of a
// process that another parent reaped.
func Features() []string {
	fd, err := pidfdOpen(unix.Getpid())
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	if pidfdSendSignal(fd, 0) != nil {
		return nil
	}
	out := []string{"pidfd"}
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
