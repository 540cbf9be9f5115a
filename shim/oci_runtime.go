//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// spawnContainer has the runtime start the container, and returns the pid of its
// command. It waits for the runtime, as a shim that starts has nothing else to do.
func spawnContainer(s *supervisor, logFD int) (int, *wire.StartError) {
	if failed := s.callRuntime(logFD, "run", "--detach", "--bundle", wire.ContainerDir, "--pid-file", pidFile, s.spec.Box); failed != nil {
		return 0, failed
	}
	pid, failed := readPID(pidFile)
	if failed == nil && (s.spec.Probe.Kind == wire.ProbeTCP || s.spec.Probe.Kind == wire.ProbeHTTP) {
		failed = s.joinNetwork(pid)
	}
	return pid, failed
}

// callRuntime runs the OCI runtime with its output to out, and waits for its end.
func (s *supervisor) callRuntime(out int, args ...string) *wire.StartError {
	c := s.spec.Container
	child, failed := s.newRuntime(runtimeArgv(c, runtimeLog, args...))
	if failed != nil {
		return failed
	}
	child.files = [3]uintptr{wire.FDNull, uintptr(out), uintptr(out)}
	pid, errno := forkExec(child)
	runtimeAfterFork()
	if errno != 0 {
		return forkFailed(errno)
	}
	var status unix.WaitStatus
	if _, err := sys.Retry(func() (int, error) { return unix.Wait4(int(pid), &status, 0, nil) }); err != nil {
		return wire.NewStartError(wire.StepFork, "cannot reap the runtime", err)
	}
	switch {
	case child.step != 0:
		return child.failure(s.spec, c.Runtime[0])
	case status.Exited() && status.ExitStatus() == 0:
		return nil
	}
	return &wire.StartError{Step: wire.StepRuntime, Detail: c.Runtime[0] + runtimeComplaint(status, runtimeLog)}
}

// newRuntime prepares a child that is the OCI runtime: root on the host, in the
// box's cgroups.
func (s *supervisor) newRuntime(argv []string) (*child, *wire.StartError) {
	root := *s.spec
	root.Env, root.Workdir = []string{"PATH=" + wire.DefaultPath}, "/"
	root.UID, root.GID, root.Groups, root.Rlimits = 0, 0, nil, nil
	root.NoNewPrivs, root.Capabilities, root.CapAmbient = false, ^uint64(0), 0
	c, err := newChild(&root, argv, argv[:1])
	if err == nil {
		err = s.unshield(c)
	}
	if err != nil {
		return nil, wire.NewStartError(wire.StepFork, "cannot prepare the runtime", err)
	}
	c.join = s.join
	return c, nil
}

// runtimeComplaint says why a runtime failed: the last of what it has logged.
func runtimeComplaint(status unix.WaitStatus, log string) string {
	if status.Signaled() {
		return " was killed by signal " + strconv.Itoa(int(status.Signal()))
	}
	fd, err := sys.Retry(func() (int, error) { return unix.Open(log, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err == nil {
		defer sys.Close(fd)
		buf := make([]byte, 2048)
		var size int64
		if size, err = unix.Seek(fd, 0, 2); err == nil {
			var n int
			if n, err = sys.Retry(func() (int, error) { return unix.Pread(fd, buf, max(size-int64(len(buf)), 0)) }); err == nil {
				text := strings.TrimSpace(string(buf[:n]))
				if text != "" {
					return ": " + logMessage(text[strings.LastIndexByte(text, '\n')+1:])
				}
			}
		}
	}
	return " exited with status " + strconv.Itoa(status.ExitStatus())
}

// logMessage takes the message out of a line of a runtime's log.
func logMessage(line string) string {
	_, after, found := strings.Cut(line, ` msg="`)
	if !found {
		if _, after, found = strings.Cut(line, "Z: "); found { // crun: a time and the message
			return after
		}
		return line
	}
	if msg, err := strconv.Unquote(`"` + strings.TrimSuffix(after, `"`) + `"`); err == nil {
		return msg
	}
	return after
}

func readPID(file string) (int, *wire.StartError) {
	const what = "cannot read the pid of the container"
	fd, err := sys.Retry(func() (int, error) { return unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return 0, wire.NewStartError(wire.StepRuntime, what, err)
	}
	defer sys.Close(fd)
	var buf [16]byte
	n, err := sys.Retry(func() (int, error) { return unix.Read(fd, buf[:]) })
	if err != nil {
		return 0, wire.NewStartError(wire.StepRuntime, what, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil || pid <= 1 {
		return 0, &wire.StartError{Step: wire.StepRuntime, Detail: what}
	}
	return pid, nil
}

// joinNetwork moves the shim's thread into the network of the container, where its
// probes connect. The control socket is a file, and stays where it is.
func (s *supervisor) joinNetwork(pid int) *wire.StartError {
	runtime.LockOSThread()
	var own, its unix.Stat_t
	fd, err := sys.Retry(func() (int, error) {
		return unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	})
	if err == nil {
		if err = errors.Join(unix.Stat("/proc/thread-self/ns/net", &own), unix.Fstat(fd, &its)); err == nil {
			s.sharedNet = own.Dev == its.Dev && own.Ino == its.Ino
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		sys.Close(fd)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EACCES) { // it has ended already
		return wire.NewStartError(wire.StepNetwork, "cannot join the network of the container", err)
	}
	return nil
}

// obeys reports whether the command of a container does anything about a signal. The
// first process of a pid namespace is spared what it has not asked for: a signal that
// would end any other process is nothing to it.
func obeys(pid int, sig syscall.Signal) bool {
	switch sig {
	case unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return true // it would not end any other process either
	}
	fd, err := sys.Retry(func() (int, error) {
		return unix.Open("/proc/"+strconv.Itoa(pid)+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return true
	}
	defer sys.Close(fd)
	buf := make([]byte, 4096)
	n, err := sys.Retry(func() (int, error) { return unix.Read(fd, buf) })
	if err != nil {
		return true
	}
	for line := range strings.SplitSeq(string(buf[:n]), "\n") {
		// Blocked, ignored, caught: in each case it means to.
		name, mask, _ := strings.Cut(line, ":\t")
		if name != "SigBlk" && name != "SigIgn" && name != "SigCgt" {
			continue
		}
		if bits, err := strconv.ParseUint(mask, 16, 64); err != nil || bits&(1<<(sig-1)) != 0 {
			return true
		}
	}
	return false
}

// runtimeArgv is a command line of the runtime.
func runtimeArgv(c *wire.Container, log string, args ...string) []string {
	argv := append([]string{}, c.Runtime...)
	return append(append(argv, "--root", wire.ContainerState, "--log", log), args...)
}
