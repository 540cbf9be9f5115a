//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

func openFIFO(dir int, name string, how int) (int, *wire.StartError) {
	fd, err := sys.Retry(func() (int, error) { return unix.Openat(dir, name, how, 0) })
	if err != nil {
		return 0, wire.NewStartError(wire.StepExecFiles, "cannot open its "+name, err)
	}
	return fd, nil
}

// start starts the process of an exec whose order was read, with streams that are
// closed here afterwards. From there on it is began or notBegun that is called,
// by whoever finds out: execs.reaped does the rest.
func (e *execProcess) start(s *supervisor, dir int) *wire.StartError {
	files, failed := e.openStreams(s, dir)
	defer func() {
		for i, fd := range files {
			if fd != 0 && (i == 0 || fd != files[i-1]) {
				sys.Close(fd)
			}
		}
	}()
	if failed != nil {
		return failed
	}
	return e.fork(s, files)
}

// fork starts an exec as a child of the shim, in the namespaces that the box's own
// command has, or the OCI runtime that puts it into those of the container.
func (e *execProcess) fork(s *supervisor, files [3]int) *wire.StartError {
	child := (*execProcess).newChild
	if s.spec.Container != nil {
		child = (*execProcess).newCall
	}
	c, failed := child(e, s)
	if failed != nil {
		return failed
	}
	var report [2]int
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return wire.NewStartError(wire.StepFork, "cannot make a pipe", err)
	}
	e.report = report[0]
	defer sys.Close(report[1])
	if err := s.watch(e.report); err != nil {
		return wire.NewStartError(wire.StepFork, "cannot watch a pipe", err)
	}
	for i, fd := range files {
		c.files[i] = uintptr(fd)
	}
	c.ctty = e.order.TTY && s.spec.Container == nil
	c.report = uintptr(report[1])
	pid, errno := forkExec(c)
	runtimeAfterFork()
	if errno != 0 {
		return forkFailed(errno)
	}
	if s.spec.Container != nil {
		e.starter = int(pid)
		s.strays.calls++
		return nil
	}
	e.pid = int(pid)
	return nil
}

// openStreams opens what the shim keeps of the streams of an exec, and returns what
// the command is to have.
func (e *execProcess) openStreams(s *supervisor, dir int) (files [3]int, failed *wire.StartError) {
	// Through this one the others find their FIFO open at the other end, and do not
	// wait for it.
	both, failed := openFIFO(dir, wire.ExecStdin, unix.O_RDWR|execFD)
	if failed != nil {
		return files, failed
	}
	defer sys.Close(both)
	if e.stdin, failed = openFIFO(dir, wire.ExecStdin, unix.O_WRONLY|execFD); failed != nil {
		return files, failed
	}
	if e.stdout, failed = openFIFO(dir, wire.ExecStdout, unix.O_RDWR|execFD); failed != nil {
		return files, failed
	}
	if e.stderr, failed = openFIFO(dir, wire.ExecStderr, unix.O_RDWR|execFD); failed != nil {
		return files, failed
	}
	if e.order.TTY {
		return e.openTTY(s, dir)
	}
	const own = execFD &^ unix.O_NONBLOCK
	if files[0], failed = e.in.open(dir); failed != nil {
		return files, failed
	}
	if files[1], failed = openFIFO(dir, wire.ExecStdout, unix.O_WRONLY|own); failed != nil {
		return files, failed
	}
	if files[2], failed = openFIFO(dir, wire.ExecStderr, unix.O_WRONLY|own); failed != nil {
		return files, failed
	}
	for i, mode := range [...]uint32{inputMode, outputMode, outputMode} {
		if err := giveStream(files[i], e.order.UID, e.order.GID, mode); err != nil {
			return files, wire.NewStartError(wire.StepExecFiles, "cannot give its streams to the command", err)
		}
	}
	e.pumpStdin(s)
	return files, nil
}

// newChild prepares the child of an exec: as the box's command, but for what its
// order says.
func (e *execProcess) newChild(s *supervisor) (*child, *wire.StartError) {
	if s.execs.child == nil {
		c, failed := s.newChild(s.spec.Argv, s.spec.Argv[:1])
		if failed != nil {
			return nil, failed
		}
		c.apart = true
		s.execs.child = c
	}
	held, err := heldCapabilities()
	if err != nil {
		return nil, wire.NewStartError(wire.StepFork, "cannot prepare the command", err)
	}
	c, o := s.execs.child, &e.order
	c.paths, c.argv, c.envv, c.dir = o.Paths, &o.Argv[0], &o.Envv[0], o.Dir
	c.uid, c.gid, c.groups, c.ngroups = uintptr(o.UID), uintptr(o.GID), o.Groups, uintptr(o.NGroups)
	c.bounding, c.held, c.ambient = o.Capabilities, o.Capabilities&held, 0
	if o.UID != 0 {
		c.held &= o.CapAmbient
		c.ambient = c.held
	}
	return c, nil
}

// reported takes what the child of an exec said before it was executed, or that it
// was.
func (e *execProcess) reported(s *supervisor) {
	var t trouble
	b := (*[unsafe.Sizeof(t)]byte)(unsafe.Pointer(&t))
	n, err := sys.Retry(func() (int, error) { return unix.Read(e.report, b[:]) })
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	if n != len(b) {
		if e.starter != 0 {
			e.closeReport(s) // the runtime runs; what it does is known when it ends
			return
		}
		e.began(s, e.pid)
		return
	}
	if e.starter != 0 {
		e.notBegun(s, failedCode, "cannot run "+s.spec.Container.Runtime[0]+": "+unix.Errno(t.errno).Error())
		return
	}
	o := &e.order
	spec := &wire.Spec{
		Argv: []string{o.name()}, Env: o.env(), Workdir: cString(o.Dir), UID: o.UID, GID: o.GID, Cgroups: s.spec.Cgroups,
	}
	files := make([]string, len(o.Paths))
	for i, p := range o.Paths {
		files[i] = cString(p)
	}
	code, failed := s.execs.child.notExecuted(t, spec, spec.Argv[0], files)
	e.notBegun(s, code, failed.Error())
}

// began says that the command of an exec was executed as pid, a child of the shim
// that leads a process group.
func (e *execProcess) began(s *supervisor, pid int) {
	if e.phase != wire.ExecStarting {
		return
	}
	e.phase, e.pid, e.group = wire.ExecRunning, pid, pid
	e.closeReport(s)
	e.answerBegin(s)
}

// notBegun says why the command of an exec could not be executed.
func (e *execProcess) notBegun(s *supervisor, code int, sentence string) {
	if e.phase != wire.ExecStarting {
		return
	}
	e.state.Code, e.state.Failed = code, wire.Cut(sentence, wire.MaxFailed)
	e.end(s, wire.ExecFailed)
	e.answerBegin(s)
}

// closeReport lets go of what only the start has needed.
func (e *execProcess) closeReport(s *supervisor) {
	if e.report != 0 {
		s.unwatch(e.report)
		sys.Close(e.report)
		e.report = 0
	}
	e.order.free()
}

// answerBegin answers who waits for the exec to begin.
func (e *execProcess) answerBegin(s *supervisor) {
	fd := e.conn
	if fd == 0 {
		s.srv.execsChanged(s) // the daemon that waited is gone
		return
	}
	e.conn = 0
	r := e.begunReply()
	sendExecReply(fd, &r)
	if i := s.srv.find(fd); i >= 0 {
		s.srv.drop(s, i)
	}
}
