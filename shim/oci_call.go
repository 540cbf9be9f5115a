//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// In a container it is the OCI runtime that starts a process: it joins the namespaces,
// sets up the process as config.json and its orders say, and ends. The process is the
// shim's child then, as every orphan of the box. Its pid is in a file.

// callFile is where a call of the runtime has a file: its orders, pid, log or console.
func callFile(name, kind string) string { return callsDir + "/" + name + "." + kind }

// strays are the last processes that were reaped while a call of the runtime was
// under way: the one that is started may end before it is known which it is.
type strays struct {
	calls int  // under way
	cut   bool // one was killed: what it has started is nobody's
	last  [256]stray
	next  int
}

type stray struct {
	pid    int
	status unix.WaitStatus
}

func (x *strays) add(pid int, status unix.WaitStatus) {
	if x.calls > 0 {
		x.last[x.next] = stray{pid, status}
		x.next = (x.next + 1) % len(x.last)
	}
}

// callEnded ends a call of the runtime, which was reaped. What was started by one that
// was killed is told from what is wanted when no other is under way.
func (s *supervisor) callEnded() {
	x := &s.strays
	if x.calls--; x.calls > 0 {
		return
	}
	x.last = [len(x.last)]stray{}
	if x.cut {
		x.cut = false
		s.killOrphans()
	}
}

// killOrphans kills the children of the shim that it knows nothing of.
func (s *supervisor) killOrphans() {
	// Orphans become the main thread's.
	fd, err := sys.Retry(func() (int, error) { return unix.Open("/proc/self/task/1/children", unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		say("cannot look for orphans: " + err.Error())
		return
	}
	defer sys.Close(fd)
	// Enough for twice the execs that there may be.
	buf := make([]byte, 8*maxExecs)
	n, err := sys.Retry(func() (int, error) { return unix.Read(fd, buf) })
	if err != nil {
		say("cannot look for orphans: " + err.Error())
		return
	}
	for word := range strings.FieldsSeq(string(buf[:n])) {
		if pid, err := strconv.Atoi(word); err == nil && !s.knows(pid) {
			kill(pid)
			kill(-pid)
		}
	}
}

// knows reports whether a child is one whose end matters to somebody.
func (s *supervisor) knows(pid int) bool {
	if pid == s.pid || pid == s.init.pid || pid == s.probe.pid || pid == s.probe.starter || s.probe.place(pid) >= 0 {
		return true
	}
	for _, e := range s.execs.list {
		if pid == e.pid || pid == e.starter {
			return true
		}
	}
	return false
}

// newCall prepares a child that has the runtime start a process, by a name of its own,
// as the JSON of a process says.
func (s *supervisor) newCall(name string, process []byte, tty bool) (*child, *wire.StartError) {
	if err := unix.Unlink(callFile(name, "json")); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, wire.NewStartError(wire.StepRuntime, "cannot remove the orders of an earlier call", err)
	}
	if err := writeFile(callFile(name, "json"), process, 0); err != nil {
		return nil, wire.NewStartError(wire.StepRuntime, "cannot write the orders of the runtime", err)
	}
	argv := runtimeArgv(s.spec.Container, callFile(name, "log"), "exec", "--detach", "--process", callFile(name, "json"), "--pid-file", callFile(name, "pid"))
	if tty {
		argv = append(argv, "--console-socket", callFile(name, "sock"))
	}
	c, failed := s.newRuntime(append(argv, s.spec.Box))
	if failed != nil {
		return nil, failed
	}
	c.apart = true
	return c, nil
}

// forget removes what a call has left behind. What cannot be removed is in the way of
// nobody: the next call of the name overwrites it.
func forget(name string, kinds ...string) {
	for _, kind := range kinds {
		_ = unix.Unlink(callFile(name, kind))
	}
}

// endCall takes what came of a call of the runtime that has ended: the pid of the
// process, or why there is none. ended says that the process has ended as well, with
// status; nobody will hear of it again.
func (s *supervisor) endCall(name string, runtime unix.WaitStatus) (pid int, ended bool, status unix.WaitStatus, failed *wire.StartError) {
	defer forget(name, "pid", "log")
	if !runtime.Exited() || runtime.ExitStatus() != 0 {
		return 0, false, 0, &wire.StartError{Step: wire.StepRuntime, Detail: s.spec.Container.Runtime[0] + runtimeComplaint(runtime, callFile(name, "log"))}
	}
	if pid, failed = readPID(callFile(name, "pid")); failed != nil {
		return 0, false, 0, failed
	}
	for _, x := range s.strays.last {
		if x.pid == pid {
			return pid, true, x.status, nil
		}
	}
	var info unix.Siginfo
	if _, err := sys.Retry(func() (int, error) {
		return 0, unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	}); err != nil {
		return 0, false, 0, &wire.StartError{Step: wire.StepRuntime, Detail: "the process that the runtime has started is lost among those that end"}
	}
	return pid, false, 0, nil
}

// runtimeCode is the exit code that a shell would give for what a runtime could not
// execute.
func runtimeCode(failed *wire.StartError) int {
	switch text := failed.Detail; {
	case strings.Contains(text, "not found") || strings.Contains(text, "no such file") || strings.Contains(text, "No such file"):
		return 127
	case strings.Contains(text, "ermission denied") || strings.Contains(text, "xec format error"):
		return 126
	}
	return failedCode
}

// newCall prepares the runtime to start an exec.
func (e *execProcess) newCall(s *supervisor) (*child, *wire.StartError) {
	if e.order.TTY {
		if failed := e.listenConsole(); failed != nil {
			return nil, failed
		}
	}
	return s.newCall(e.name, e.order.Process, e.order.TTY)
}

// starterEnded is told how the runtime ended that was to start an exec.
func (e *execProcess) starterEnded(s *supervisor, runtime unix.WaitStatus) {
	defer s.callEnded()
	e.starter = 0
	s.strays.cut = s.strays.cut || runtime.Signaled()
	pid, ended, status, failed := s.endCall(e.name, runtime)
	forget(e.name, "json", "sock")
	if failed == nil && e.tty.listen != 0 {
		failed = e.takeConsole(s)
	}
	if failed != nil {
		if pid != 0 && !ended {
			kill(pid)
		}
		if e.doomed && e.phase == wire.ExecStarting {
			e.phase = wire.ExecRunning
			e.ended(s, runtime)
			e.answerBegin(s)
			return
		}
		e.notBegun(s, runtimeCode(failed), failed.Error())
		return
	}
	group, err := unix.Getpgid(pid)
	if err != nil {
		group = pid
	}
	if ended && e.phase == wire.ExecStarting {
		// An answer that names a process which is reaped is sent to nobody: that it has
		// ended is the answer.
		e.phase, e.group = wire.ExecRunning, group
		e.ended(s, status)
		e.answerBegin(s)
		return
	}
	e.began(s, pid)
	e.group = group
	if ended {
		e.ended(s, status)
	} else if e.doomed {
		e.kill()
	}
}

// listenConsole makes the socket that the runtime sends the terminal of an exec to.
func (e *execProcess) listenConsole() *wire.StartError {
	const what = "cannot make the socket for a terminal"
	path := callFile(e.name, "sock")
	if err := unix.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return wire.NewStartError(wire.StepExecFiles, what, err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return wire.NewStartError(wire.StepExecFiles, what, err)
	}
	e.tty.listen = fd
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		return wire.NewStartError(wire.StepExecFiles, what, err)
	}
	return nil
}

// takeConsole takes the terminal that the runtime has sent by now.
func (e *execProcess) takeConsole(s *supervisor) *wire.StartError {
	const what = "cannot take the terminal from the runtime"
	conn, err := sys.Retry(func() (int, error) {
		fd, _, err := unix.Accept4(e.tty.listen, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return fd, err
	})
	if err != nil {
		return wire.NewStartError(wire.StepExecFiles, what, err)
	}
	defer sys.Close(conn)
	var name [4096]byte // its path, in the container
	oob := make([]byte, unix.CmsgSpace(4))
	n, err := sys.Retry(func() (int, error) {
		_, n, _, _, err := unix.Recvmsg(conn, name[:], oob, unix.MSG_CMSG_CLOEXEC)
		return n, err
	})
	var fds []int
	if err == nil {
		var messages []unix.SocketControlMessage
		if messages, err = unix.ParseSocketControlMessage(oob[:n]); err == nil && len(messages) == 1 {
			fds, err = unix.ParseUnixRights(&messages[0])
		}
	}
	if err == nil && len(fds) != 1 {
		err = unix.EBADMSG
	}
	if err == nil {
		e.tty.master = fds[0]
		err = unix.SetNonblock(e.tty.master, true)
	}
	if err != nil {
		return wire.NewStartError(wire.StepExecFiles, what, err)
	}
	e.pumpTTY(s)
	return nil
}

// probeCall is a name that no exec has.
const probeCall = ".probe"

// startContained has the runtime start the command of a probe.
func (p *probe) startContained(s *supervisor) {
	if p.child == nil {
		c, failed := s.newCall(probeCall, s.spec.Container.Probe, false)
		if failed != nil {
			p.finish(wire.ProbeResult{Code: failedCode, Reason: failed.Error()})
			return
		}
		p.child = c
	}
	if errno := p.fork(s, p.child); errno != 0 {
		p.finish(wire.ProbeResult{Code: failedCode, Reason: reasonFork + ": " + errno.Error()})
		return
	}
	s.strays.calls++
	p.starter, p.pid = p.pid, 0
}

// started is told how the runtime ended that was to start a probe.
func (p *probe) started(s *supervisor, runtime unix.WaitStatus) {
	defer s.callEnded()
	p.starter = 0
	s.strays.cut = s.strays.cut || runtime.Signaled()
	pid, ended, status, failed := s.endCall(probeCall, runtime)
	if failed != nil {
		p.finish(wire.ProbeResult{Code: runtimeCode(failed), Reason: failed.Detail})
		p.conclude(s)
		return
	}
	p.pid, p.group = pid, pid
	if group, err := unix.Getpgid(pid); err == nil {
		p.group = group
	}
	if ended {
		p.ended(s, status)
	}
}

// dropStarter kills the runtime that is to start a probe, and what it may have started.
func (p *probe) dropStarter(s *supervisor) {
	kill(p.starter)
	i := p.place(0)
	p.late[i], p.calls[i] = p.starter, true
	p.starter = 0
	s.strays.cut = true
	forget(probeCall, "pid", "log")
}
