package reaper

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls that a seccomp filter may refuse; tests do, too.
var (
	pidfdOpen       = func(pid int) (int, error) { return unix.PidfdOpen(pid, 0) }
	pidfdSendSignal = func(fd int, sig unix.Signal) error { return unix.PidfdSendSignal(fd, sig, nil, 0) }
)

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
