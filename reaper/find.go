package reaper

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper/procfs"
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
