//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"math"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// failedCode is the exit code of a shim whose command never ran.
const failedCode = 125

// Main is the boxlite-shim program. It does not return.
func Main() {
	if syscall.Getpid() != 1 || !inherited() {
		write(wire.FDStderr, []byte("boxlite-shim: this program is started by boxlited, once for each box; it does nothing by hand\n"))
		syscall.Exit(2)
	}
	makeThreads()
	syscall.Exit(boxInit())
}

// inherited reports whether the descriptors are those that Launch gives. It
// keeps them from the box and closes all others, which the daemon may itself
// have inherited from whoever started it.
func inherited() bool {
	for fd := wire.FDSpec; fd <= wire.FDListen; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return false
		}
	}
	// Only there with a Spec that wants it, which is not known yet.
	if _, err := unix.FcntlInt(wire.FDHold, unix.F_SETFD, unix.FD_CLOEXEC); err != nil && !errors.Is(err, unix.EBADF) {
		return false
	}
	return unix.CloseRange(wire.FDHold+1, math.MaxUint32, 0) == nil
}

// boxInit is the life of a shim; it returns the exit code.
func boxInit() int {
	s := &supervisor{dirfd: wire.FDDir, freezer: -1}
	// What needs no spec is done while the daemon still writes down the pid.
	failed := s.prepare()
	spec, err := readSpec()
	if errors.Is(err, errNoSpec) {
		return failedCode
	}
	if err != nil {
		s.spec = &wire.Spec{}
		return s.startFailed(&wire.StartError{Step: wire.StepSpec, Detail: err.Error()})
	}
	s.spec = spec
	s.rankCommand()
	if failed == nil {
		failed = s.start()
	}
	if failed != nil {
		return s.startFailed(failed)
	}
	report(s.startedNs, nil)
	s.run()
	return s.finish()
}

// prepare does what is the same for all boxes.
func (s *supervisor) prepare() *wire.StartError {
	const what = "cannot prepare the shim"
	// The kernel named the process after the file it was started from. prctl would name the
	// thread that calls it, which need not be the first one.
	if err := overwrite("/proc/self/comm", []byte("boxlite-shim")); err != nil {
		return wire.NewStartError(wire.StepNamespace, what, err)
	}
	unix.Umask(0o022)
	s.shield()
	if err := detachMounts(); err != nil {
		return err
	}
	var err error
	if s.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return wire.NewStartError(wire.StepNamespace, what, err)
	}
	if s.sigfd, err = signalEvents(); err != nil {
		return wire.NewStartError(wire.StepNamespace, what, err)
	}
	for _, fd := range [...]int{s.sigfd, wire.FDListen} {
		if err := s.watch(fd); err != nil {
			return wire.NewStartError(wire.StepNamespace, what, err)
		}
	}
	return nil
}

// openCgroups opens the files of the box's cgroups while the host's /sys is
// there.
func (s *supervisor) openCgroups() *wire.StartError {
	for _, path := range s.spec.Cgroups {
		fd, err := openCgroup(path, s.spec.ReadonlyRoot)
		if err != nil {
			return err
		}
		s.join = append(s.join, uintptr(fd))
	}
	if s.spec.Freezer == "" {
		return nil
	}
	fd, err := openCgroup(s.spec.Freezer, s.spec.ReadonlyRoot)
	if err == nil {
		s.freezer = fd
	}
	return err
}

// openCgroup opens a file for writing. With aside it does so through a mount of its
// own: one in which a file is open for writing cannot be made read-only.
func openCgroup(path string, aside bool) (int, *wire.StartError) {
	fd, err := sys.Retry(func() (int, error) {
		if !aside {
			return unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		}
		slash := strings.LastIndexByte(path, '/')
		tree, err := unix.OpenTree(unix.AT_FDCWD, path[:slash], unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return -1, err
		}
		defer sys.Close(tree)
		return unix.Openat(tree, path[slash+1:], unix.O_WRONLY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, wire.NewStartError(wire.StepCgroup, "cannot open "+path, err)
	}
	return fd, nil
}

func (s *supervisor) watch(fd int) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	return unix.EpollCtl(s.epfd, unix.EPOLL_CTL_ADD, fd, &ev)
}

// unwatch takes fd out of the epoll set, before it is closed: closing it does not,
// as long as the child of a probe has it too. It may not have been in the set.
func (s *supervisor) unwatch(fd int) {
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_DEL, fd, nil); err != nil && !errors.Is(err, unix.ENOENT) {
		fatal("epoll_ctl", err)
	}
}

// start makes the box and runs its command.
func (s *supervisor) start() *wire.StartError {
	if err := s.openCgroups(); err != nil {
		return err
	}
	s.sharedNet = !s.spec.PrivateNet && s.spec.Container == nil // of a container it is seen
	if s.spec.Container != nil {
		if err := s.setUpContainer(); err != nil {
			return err
		}
	} else if err := setUp(s.spec); err != nil {
		return err
	}
	const what = "cannot make the log's pipe"
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return wire.NewStartError(wire.StepLog, what, err)
	}
	// The box's end stays blocking: it is the file description that the box shares.
	if err := unix.SetNonblock(pipe[0], true); err != nil {
		return wire.NewStartError(wire.StepLog, what, err)
	}
	if err := giveStream(pipe[1], s.spec.UID, s.spec.GID, outputMode); err != nil {
		return wire.NewStartError(wire.StepLog, "cannot give the log's pipe to the command", err)
	}
	if err := s.watch(pipe[0]); err != nil {
		return wire.NewStartError(wire.StepLog, what, err)
	}
	if s.spec.DieWithDaemon {
		if err := s.watch(wire.FDHold); err != nil {
			return wire.NewStartError(wire.StepSpec, "the daemon gave no pipe to die with", err)
		}
	}
	// Not fdNull: the box shares that file description, and with a flag of its own
	// (O_APPEND) could make each splice fail.
	null, err := sys.Retry(func() (int, error) { return unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return wire.NewStartError(wire.StepLog, "cannot open /dev/null", err)
	}
	s.log = logWriter{dirfd: s.dirfd, pipe: pipe[0], null: null, max: s.spec.LogMax, fd: -1}
	s.startedNs = wallclock()
	spawn := spawn
	if s.spec.Container != nil {
		spawn = spawnContainer
	}
	pid, failed := spawn(s, pipe[1])
	if failed != nil {
		s.startedNs = 0
		return failed
	}
	// pipe[1] stays open: without it a box that closes its output would leave
	// the pipe at its end, which epoll never tires of telling.
	s.pid, s.alive = pid, true
	return nil
}

func (s *supervisor) startFailed(e *wire.StartError) int {
	say("the command was not run: " + e.Error())
	writeRecord(s.dirfd, &wire.ExitRecord{Run: s.spec.Run, Code: failedCode, Failed: e.Error(), EndedNs: wallclock()})
	report(0, e)
	return failedCode
}

type constError string

func (e constError) Error() string { return string(e) }

// errNoSpec says that the daemon closed the spec pipe before a whole spec came.
const errNoSpec = constError("no spec")

// readSpec waits for the spec.
func readSpec() (*wire.Spec, error) {
	var head [wire.SpecLengthSize]byte
	if err := readFull(head[:]); err != nil {
		return nil, err
	}
	n, err := wire.DecodeSpecLength(head)
	if err != nil {
		return nil, err
	}
	body := make([]byte, n)
	if err := readFull(body); err != nil {
		return nil, err
	}
	if err := unix.Close(wire.FDSpec); err != nil {
		return nil, err
	}
	return wire.DecodeSpec(body)
}

func readFull(b []byte) error {
	for len(b) > 0 {
		n, err := sys.Retry(func() (int, error) { return unix.Read(wire.FDSpec, b) })
		if err != nil {
			return err
		}
		if n == 0 {
			return errNoSpec
		}
		b = b[n:]
	}
	return nil
}

// report tells the daemon how the start went. A daemon that is gone by now
// learns it from the control socket, or from the exit record.
func report(startedNs int64, failed *wire.StartError) {
	write(wire.FDReport, wire.AppendReport(nil, startedNs, failed))
	sys.Close(wire.FDReport)
}
