//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// The init of a container is pid 1 of its pid namespace. What an exec or a probe leaves
// there is an orphan that the kernel gives to pid 1, and a command that was not written
// to be pid 1 leaves it a zombie.
//
// The init is the process that makes the container's namespaces, which the OCI runtime
// then joins. The runtime starts the command from outside, so the command is the shim's
// child: the shim signals it, and learns how it ended, without the init. So the init has
// nothing to do. It ignores SIGCHLD, and the kernel reaps what is given to it at once. It
// sleeps for ever in a page of code, without memory, descriptors or capabilities, and it is
// not in the box's cgroup.
//
// The box cannot signal the init: pid 1 takes no signal from its own namespace that it
// has no handler for. Nor can it look into it: the init is not dumpable, and its memory is
// of the host's user namespace, so CAP_SYS_PTRACE in the box is no right over it. The shim's
// mount namespace and program, which the init has, depend on that. The kernel shows
// without that right what a process has mounted and its network. So the init has the
// container's root for its root, and the container's network namespace.

// containerInit is the process that has made a container's namespaces.
type containerInit struct {
	pid    int // 0 when it has ended
	begin  int // the write end of a pipe, of which the process reads a byte before it enters the root
	failed int // the read end of a pipe, to which it writes a trouble; step is 0 when it is the init
}

// initChild is all that the process needs, prepared before the fork because it must
// not allocate.
type initChild struct {
	begin, failed uintptr
	loopback      bool
	lo            ifreq
	root, slash   *byte
	header        capHeader
	none          [2]capData
	ignore, reset sigaction
	mask          uint64
	word          byte

	trouble
}

// ifreq is a struct ifreq for the flags of an interface.
type ifreq struct {
	name  [unix.IFNAMSIZ]byte
	flags uint16
	_     [22]byte
}

// The steps of the process, in order.
const (
	initLoopback = 1 + iota
	initBegin
	initRoot
	initUser
	initCapabilities
	initHidden
	initSignals
)

var initSteps = [...]string{
	initLoopback:     "cannot bring up the loopback interface",
	initBegin:        "cannot read",
	initRoot:         "cannot enter the root",
	initUser:         "cannot become the root user",
	initCapabilities: "cannot drop capabilities",
	initHidden:       "cannot keep the box from looking into it",
	initSignals:      "cannot ignore signals",
}

// makeNamespaces makes the user namespace of a container, and the others if it has an
// init. It takes a process to make one, which waits. It returns the user namespace.
func makeNamespaces(c *wire.Container) (x containerInit, ids int, err error) {
	x.begin, x.failed, ids = -1, -1, -1
	child := &initChild{
		loopback: c.Init && c.PrivateNet,
		header:   capHeader{version: capVersion3},
		lo:       ifreq{name: [unix.IFNAMSIZ]byte{'l', 'o'}, flags: unix.IFF_UP},
		ignore:   sigaction{handler: 1}, // SIG_IGN
	}
	if child.root, err = syscall.BytePtrFromString(wire.ContainerRoot); err != nil {
		return x, ids, err
	}
	if child.slash, err = syscall.BytePtrFromString("/"); err != nil {
		return x, ids, err
	}
	var begin, failed [2]int
	if err = unix.Pipe2(begin[:], unix.O_CLOEXEC); err != nil {
		return x, ids, err
	}
	x.begin, child.begin = begin[1], uintptr(begin[0])
	if err = unix.Pipe2(failed[:], unix.O_CLOEXEC); err != nil {
		return x, ids, errors.Join(err, unix.Close(begin[0]))
	}
	x.failed, child.failed = failed[0], uintptr(failed[1])

	flags := uintptr(unix.SIGCHLD | unix.CLONE_NEWUSER)
	if c.Init {
		flags |= unix.CLONE_NEWPID
		if c.PrivateNet {
			flags |= unix.CLONE_NEWNET
		}
	}
	x.pid, err = forkInitAs(c.Owner, child, flags)
	// With these open the end of the process would not be seen.
	err = errors.Join(err, unix.Close(begin[0]), unix.Close(failed[1]))
	if err != nil {
		return x, ids, err
	}
	ids, err = x.mapIDs(c)
	return x, ids, err
}

// forkInitAs forks the process as a user of the host, who owns the namespaces.
func forkInitAs(owner uint32, child *initChild, flags uintptr) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if errno := actAs(uintptr(owner)); errno != 0 {
		return 0, errno
	}
	pid, cloneErrno := forkInit(child, flags)
	runtimeAfterFork()
	if errno := actAs(0); errno != 0 {
		fatal("setresuid", errno)
	}
	if cloneErrno != 0 {
		return 0, unix.Errno(cloneErrno)
	}
	return int(pid), nil
}

// mapIDs gives the user namespace its ids, and returns it.
func (x *containerInit) mapIDs(c *wire.Container) (int, error) {
	ids := []byte("0 " + strconv.FormatUint(uint64(c.FirstID), 10) + " " + strconv.FormatUint(uint64(c.IDs), 10) + "\n")
	for _, file := range [...]string{"uid_map", "gid_map"} {
		if err := overwrite(x.proc(file), ids); err != nil {
			return -1, err
		}
	}
	return sys.Retry(func() (int, error) { return unix.Open(x.proc("ns/user"), unix.O_RDONLY|unix.O_CLOEXEC, 0) })
}

// proc is a file of the process in /proc.
func (x *containerInit) proc(file string) string {
	return "/proc/" + strconv.Itoa(x.pid) + "/" + file
}

// enter lets the process go on, to become the container's init: its root is mounted.
func (x *containerInit) enter() error {
	_, err := sys.Retry(func() (int, error) { return unix.Write(x.begin, []byte{0}) })
	if errors.Is(err, unix.EPIPE) {
		err = nil // it has failed, and await tells why
	}
	err = errors.Join(err, unix.Close(x.begin))
	x.begin = -1
	return err
}

// await waits until the process is the container's init.
func (x *containerInit) await() *wire.StartError {
	const what = "cannot make the container's init"
	var t trouble
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&t)), unsafe.Sizeof(t))
	n, err := sys.Retry(func() (int, error) { return unix.Read(x.failed, buf) })
	err = errors.Join(err, unix.Close(x.failed))
	x.failed = -1
	switch {
	case err != nil:
		return wire.NewStartError(wire.StepNamespace, what, err)
	case n != len(buf):
		return &wire.StartError{Step: wire.StepNamespace, Detail: what + ": it has ended"}
	case t.step != 0:
		return wire.NewStartError(wire.StepNamespace, what+": it "+initSteps[t.step], unix.Errno(t.errno))
	}
	return nil
}

// end ends the process, if it is none that stays.
func (x *containerInit) end() error {
	if x.pid != 0 {
		kill(x.pid)
		if _, err := sys.Retry(func() (int, error) { return unix.Wait4(x.pid, nil, 0, nil) }); err != nil {
			return err
		}
	}
	for _, fd := range [...]int{x.begin, x.failed} {
		if fd >= 0 {
			sys.Close(fd)
		}
	}
	*x = containerInit{begin: -1, failed: -1}
	return nil
}

// idle gives up the memory of the process, but for the code of this function, and waits
// for ever. No signal may have a handler.
func idle()

// forkInit forks the process. See forkExec, but that this one has its memory for itself.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkInit(c *initChild, flags uintptr) (pid, errno uintptr) {
	var (
		i, fd uintptr
		name  = [16]byte{'b', 'o', 'x', 'l', 'i', 't', 'e', '-', 'i', 'n', 'i', 't'}
	)
	runtimeBeforeFork()
	pid, errno = rawVfork(flags)
	if errno != 0 || pid != 0 {
		return
	}
	runtimeAfterForkInChild()

	// All of this while it has the capabilities of who has made a user namespace.
	if c.loopback {
		c.step = initLoopback
		var e syscall.Errno
		if fd, _, e = syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM, 0); e == 0 {
			_, _, e = syscall.RawSyscall(unix.SYS_IOCTL, fd, unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&c.lo)))
		}
		if e != 0 {
			c.errno = uintptr(e)
			goto failed
		}
	}

	c.step = initBegin
	if n, _, e := syscall.RawSyscall(unix.SYS_READ, c.begin, uintptr(unsafe.Pointer(&c.word)), 1); n != 1 {
		c.errno = uintptr(e)
		goto failed
	}

	// Not of the shim's session, which a signal to a group could reach it by.
	_, _, _ = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0)

	c.step = initRoot
	if _, _, e := syscall.RawSyscall(unix.SYS_CHROOT, uintptr(unsafe.Pointer(c.root)), 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(c.slash)), 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}

	c.step = initUser
	if _, _, e := syscall.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	c.step = initCapabilities
	if _, _, e := syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&c.header)), uintptr(unsafe.Pointer(&c.none)), 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	// After the change of the user, which sets it as fs.suid_dumpable says.
	c.step = initHidden
	if _, _, e := syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}

	// SIGKILL and SIGSTOP give EINVAL, which is all that this call can fail with.
	c.step = initSignals
	for i = 1; i <= 64; i++ {
		_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, i, uintptr(unsafe.Pointer(&c.reset)), 0, 8, 0, 0)
	}
	if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&c.ignore)), 0, 8, 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.mask)), 0, 8, 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name)), 0)

	c.step = 0
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, c.failed, uintptr(unsafe.Pointer(&c.trouble)), unsafe.Sizeof(c.trouble))
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 0, ^uintptr(0)>>32, 0)
	idle()

failed:
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, c.failed, uintptr(unsafe.Pointer(&c.trouble)), unsafe.Sizeof(c.trouble))
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, failedCode, 0, 0)
	}
}
