//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"math"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

const (
	// maxExecs bounds the execs that the shim knows of, ended ones too.
	maxExecs = 2 * wire.MaxExecs
	// execFD is how the shim opens what lies in an exec's directory: it must never wait.
	execFD = unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOFOLLOW
)

// timedOutCode is the exit code of an exec that took too long, as timeout(1) has it.
const timedOutCode = 124

// execReply is an answer with what does not go into its packet but beside it.
type execReply struct {
	wire.ExecReply
	pid   int // of the command; 0 for none
	stdin int // what to write to; 0 for none
}

// execs are the commands that were started beside the box's own.
//
// What they read and write goes through FIFOs on disk, which the shim keeps open: data
// stays there whoever of the daemon, its successor and the command is gone. Each of the
// three has opened them by itself, so that nobody's O_NONBLOCK is another's. Between the
// FIFO of stdin and the command is a pipe: see inPump.
type execs struct {
	list    []*execProcess // those with an empty name are free
	child   *child         // what all have in common
	running int            // phases starting and running
	timed   int            // with a deadline
}

// execProcess is one of them.
type execProcess struct {
	name    string
	phase   wire.ExecPhase
	pid     int // of the command, as long as it was not reaped; 0 for none
	starter int // the OCI runtime that is to start it; 0 for none
	group   int // its process group, as long as there may be members; 0 for none
	report  int // the pipe that tells whether it was executed; 0 for none
	conn    int // the connection that waits for that to be known; 0 for none
	stdin   int // a writer, so that the command meets no EOF; 0 once it is closed
	in      inPump
	stdout  int // these keep what was not read
	stderr  int

	order     execOrder
	deadline  int64 // monotonic time at which the group is killed; 0: never
	late      bool  // it was
	doomed    bool  // it was killed before it began
	unwritten bool  // its end is not on record; see pending
	state     wire.ExecState
	tty       tty
}

// find returns the exec of that name, or nil.
func (x *execs) find(name string) *execProcess {
	for _, e := range x.list {
		if e.name == name {
			return e
		}
	}
	return nil
}

// place returns a free exec, or nil.
func (x *execs) place() *execProcess {
	if e := x.find(""); e != nil {
		return e
	}
	if len(x.list) == maxExecs {
		return nil
	}
	x.list = append(x.list, new(execProcess))
	return x.list[len(x.list)-1]
}

// handleExec does what a request on an exec asks for. It reports false if the answer
// is to come when the exec has begun: then the connection fd waits for it.
func (s *supervisor) handleExec(req wire.Request, fd int, now int64) (execReply, bool) {
	if req.Run != s.spec.Run {
		return refuseExec(unix.ESTALE), true
	}
	if req.Op == wire.OpExec {
		errno := s.beginExec(req.Exec, fd, now)
		return refuseExec(errno), errno != 0
	}
	e := s.execs.find(req.Exec)
	if e == nil {
		return refuseExec(unix.ENOENT), true
	}
	var errno unix.Errno
	switch req.Op {
	case wire.OpExecState:
		return e.begunReply(), true
	case wire.OpExecSignal:
		errno = unix.ESRCH
		if e.pid != 0 {
			errno = toErrno(unix.Kill(e.pid, req.Signal))
		}
	case wire.OpExecKill:
		s.killExec(e)
	case wire.OpExecEOF:
		s.closeStdin(e)
	case wire.OpExecForget:
		if e.phase.Active() {
			errno = unix.EBUSY
			break
		}
		s.forgetExec(e)
		return execReply{}, true
	}
	return e.reply(errno), true
}

func refuseExec(errno unix.Errno) execReply {
	return execReply{ExecReply: wire.ExecReply{Errno: errno}}
}

func (e *execProcess) reply(errno unix.Errno) execReply {
	r := execReply{ExecReply: wire.ExecReply{Errno: errno, State: e.state}, pid: e.pid}
	r.State.Phase, r.State.StdinClosed = e.phase, e.stdin == 0
	return r
}

// begunReply is the reply to who may want to write to the command.
func (e *execProcess) begunReply() execReply {
	r := e.reply(0)
	if e.phase == wire.ExecRunning && e.stdin != 0 {
		r.stdin = e.in.pipe
	}
	return r
}

// mayExec says why no exec can begin now, or 0.
func (s *supervisor) mayExec() unix.Errno {
	switch {
	case !s.alive:
		return unix.ESRCH
	case s.stopping || s.paused:
		return unix.EBUSY
	}
	return 0
}

// beginExec starts an exec. The shim does not wait for it to be executed: see child.
func (s *supervisor) beginExec(name string, conn int, now int64) unix.Errno {
	if errno := s.mayExec(); errno != 0 {
		return errno
	}
	if !plainName(name) {
		return unix.EINVAL
	}
	e := s.execs.find(name)
	switch {
	case e == nil:
		if e = s.execs.place(); e == nil {
			return unix.ENOSPC
		}
	case e.phase.Active():
		return unix.EBUSY
	default:
		s.forgetExec(e) // the daemon has removed that one
	}
	dir, err := s.openExec(name)
	if err != nil {
		return toErrno(err)
	}
	defer sys.Close(dir)
	// The end of one that had the name before may have been put on record after that was
	// removed, and this one made.
	if err := unix.Unlinkat(dir, wire.RecordName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return toErrno(err)
	}
	*e = execProcess{name: name, phase: wire.ExecStarting, conn: conn, state: wire.ExecState{StartedNs: wallclock()}}
	if err := e.order.read(dir); err != nil {
		*e = execProcess{}
		return toErrno(err)
	}
	s.execs.running++
	if failed := s.startExec(e, dir); failed != nil {
		if s.spec.Container != nil {
			forget(name, "json", "sock") // they would take room for ever
		}
		s.execNotBegun(e, failedCode, failed.Error())
		return 0
	}
	if t := e.order.TimeoutNs; t > 0 {
		e.deadline = now + min(t, math.MaxInt64-now)
		s.execs.timed++
	}
	return 0
}

// plainName reports whether name is that of a file in a directory.
func plainName(name string) bool {
	return name != "" && name[0] != '.' && len(name) <= 64 && strings.IndexByte(name, '/') < 0
}

func (s *supervisor) openExec(name string) (int, error) {
	return sys.Retry(func() (int, error) {
		return unix.Openat(s.dirfd, wire.ExecDir+"/"+name, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	})
}

func openFIFO(dir int, name string, how int) (int, *wire.StartError) {
	fd, err := sys.Retry(func() (int, error) { return unix.Openat(dir, name, how, 0) })
	if err != nil {
		return 0, wire.NewStartError(wire.StepExecFiles, "cannot open its "+name, err)
	}
	return fd, nil
}

// startExec starts the process of an exec whose order was read, with streams that are
// closed here afterwards. From there on it is execBegan or execNotBegun that is called,
// by whoever finds out: execReaped does the rest.
func (s *supervisor) startExec(e *execProcess, dir int) *wire.StartError {
	files, failed := s.openStreams(e, dir)
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
	return s.forkExec(e, files)
}

// forkExec starts an exec as a child of the shim, in the namespaces that the box's own
// command has, or the OCI runtime that puts it into those of the container.
func (s *supervisor) forkExec(e *execProcess, files [3]int) *wire.StartError {
	child := s.execChild
	if s.spec.Container != nil {
		child = s.execRuntime
	}
	c, failed := child(e)
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
func (s *supervisor) openStreams(e *execProcess, dir int) (files [3]int, failed *wire.StartError) {
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
		return s.openTTY(e, dir)
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
	s.pumpStdin(e)
	return files, nil
}

// execChild prepares the child of an exec: as the box's command, but for what its
// order says.
func (s *supervisor) execChild(e *execProcess) (*child, *wire.StartError) {
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
func (s *supervisor) reported(e *execProcess) {
	var t trouble
	b := (*[unsafe.Sizeof(t)]byte)(unsafe.Pointer(&t))
	n, err := sys.Retry(func() (int, error) { return unix.Read(e.report, b[:]) })
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	if n != len(b) {
		if e.starter != 0 {
			s.closeReport(e) // the runtime runs; what it does is known when it ends
			return
		}
		s.execBegan(e, e.pid)
		return
	}
	if e.starter != 0 {
		s.execNotBegun(e, failedCode, "cannot run "+s.spec.Container.Runtime[0]+": "+unix.Errno(t.errno).Error())
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
	s.execNotBegun(e, code, failed.Error())
}

// execBegan says that the command of an exec was executed as pid, a child of the shim
// that leads a process group.
func (s *supervisor) execBegan(e *execProcess, pid int) {
	if e.phase != wire.ExecStarting {
		return
	}
	e.phase, e.pid, e.group = wire.ExecRunning, pid, pid
	s.closeReport(e)
	s.answerBegin(e)
}

// execNotBegun says why the command of an exec could not be executed.
func (s *supervisor) execNotBegun(e *execProcess, code int, sentence string) {
	if e.phase != wire.ExecStarting {
		return
	}
	e.state.Code, e.state.Failed = code, wire.Cut(sentence, wire.MaxFailed)
	s.execEnds(e, wire.ExecFailed)
	s.answerBegin(e)
}

// closeReport lets go of what only the start has needed.
func (s *supervisor) closeReport(e *execProcess) {
	if e.report != 0 {
		s.unwatch(e.report)
		sys.Close(e.report)
		e.report = 0
	}
	e.order.free()
}

// answerBegin answers who waits for the exec to begin.
func (s *supervisor) answerBegin(e *execProcess) {
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

// sendExecReply sends a reply with the pid of the exec as credentials, which the
// kernel translates for the receiver.
func sendExecReply(fd int, r *execReply) {
	packet := r.Append(nil)
	var oob []byte
	if r.pid != 0 {
		oob = unix.UnixCredentials(&unix.Ucred{Pid: int32(r.pid)})
	}
	if r.stdin != 0 {
		// An older daemon has no room for it, and never gets it then.
		oob = append(oob, unix.UnixRights(r.stdin)...)
	}
	err := unix.Sendmsg(fd, packet, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if err != nil && !errors.Is(err, unix.EPIPE) {
		say("cannot answer for an exec: " + err.Error())
	}
}

// killExec kills an exec with all of its group.
func (s *supervisor) killExec(e *execProcess) {
	if e.starter != 0 {
		e.doomed = true // it may have done its work by now
		kill(e.starter)
	}
	if e.pid != 0 {
		kill(e.pid) // it may be too young to have a group of its own
		kill(-e.pid)
	}
	if e.group != 0 && e.group != e.pid {
		kill(-e.group)
	}
}

// closeStdin gives the command of an exec EOF once it has read what is there.
func (s *supervisor) closeStdin(e *execProcess) {
	if e.stdin != 0 {
		sys.Close(e.stdin)
		e.stdin = 0
	}
	if e.in.pipe != 0 {
		s.pumpStdin(e) // and what is the end of the FIFO is that of the pipe
	}
}

// execReaped is told of each process that was reaped.
func (s *supervisor) execReaped(pid int, status unix.WaitStatus) {
	if len(s.execs.list) == 0 {
		return
	}
	for _, e := range s.execs.list {
		if e.name == "" {
			continue
		}
		switch pid {
		case e.starter:
			s.starterEnded(e, status)
		case e.pid:
			s.execEnded(e, status)
		}
		if e.group != 0 && e.pid == 0 && errors.Is(unix.Kill(-e.group, 0), unix.ESRCH) {
			// From now on another may get the number.
			e.group = 0
			s.disarm(e)
		}
	}
}

// execEnded says how the command of an exec ended. What is left of its group lives
// on, as long as the timeout lets it.
func (s *supervisor) execEnded(e *execProcess, status unix.WaitStatus) {
	if e.phase == wire.ExecStarting {
		s.reported(e) // before it died
		s.execBegan(e, e.pid)
	}
	e.pid = 0
	if e.phase != wire.ExecRunning {
		e.group = 0
		return
	}
	switch {
	case e.late:
		e.state.Code, e.state.Signal, e.state.TimedOut = timedOutCode, int(unix.SIGKILL), true
	case status.Signaled():
		e.state.Signal = int(status.Signal())
		e.state.Code = 128 + e.state.Signal
	default:
		e.state.Code = status.ExitStatus()
	}
	s.execEnds(e, wire.ExecEnded)
}

// execEnds brings an exec to its end, and has it on record, if that can be, before anybody
// is told.
func (s *supervisor) execEnds(e *execProcess, phase wire.ExecPhase) {
	s.closeReport(e)
	s.closeTTY(e)
	s.closeStdin(e)
	if phase == wire.ExecFailed {
		s.closePump(e)
	}
	e.phase = phase
	e.state.EndedNs = wallclock()
	s.execs.running--
	s.recordExec(e)
	s.srv.execsChanged(s)
}

// disarm takes the timeout from an exec.
func (s *supervisor) disarm(e *execProcess) {
	if e.deadline != 0 {
		e.deadline = 0
		s.execs.timed--
	}
}

// execsLate kills the execs whose time is over.
func (s *supervisor) execsLate(now int64) {
	for _, e := range s.execs.list {
		if e.deadline == 0 || now < e.deadline {
			continue
		}
		e.late = e.pid != 0 || e.starter != 0
		s.disarm(e)
		s.killExec(e)
	}
}

// nextDeadline returns when execsLate has something to do.
func (x *execs) nextDeadline() int64 {
	next := int64(math.MaxInt64)
	if x.timed == 0 {
		return next
	}
	for _, e := range x.list {
		if e.deadline != 0 {
			next = min(next, e.deadline)
		}
	}
	return next
}

// forgetExec frees an exec that has ended, with what was not read of it.
func (s *supervisor) forgetExec(e *execProcess) {
	s.disarm(e)
	s.execWritten(e)
	if e.starter != 0 {
		s.callEnded() // it is of no use any more how it ends
	}
	s.closePump(e)
	for _, fd := range [...]int{e.stdin, e.stdout, e.stderr} {
		if fd != 0 {
			sys.Close(fd)
		}
	}
	*e = execProcess{}
}

// execEvent takes an event of the descriptor fd, if it is one of an exec's.
func (s *supervisor) execEvent(fd int) bool {
	for _, e := range s.execs.list {
		switch {
		case e.name == "":
		case fd == e.report:
			s.reported(e)
			return true
		case e.in.has(fd):
			s.pumpStdin(e)
			return true
		case e.tty.has(e, fd):
			s.pumpTTY(e)
			return true
		}
	}
	return false
}

// hungUp forgets a connection that waits for an exec to begin.
func (x *execs) hungUp(fd int) {
	for _, e := range x.list {
		if e.conn == fd {
			e.conn = 0
		}
	}
}

// endExecs ends the execs with the box, and waits for those that ran: their death
// would hold up the shim's own as well.
func (s *supervisor) endExecs() {
	if s.execs.running == 0 {
		return
	}
	s.killAll()
	for s.execs.running > 0 {
		var status unix.WaitStatus
		pid, err := sys.Retry(func() (int, error) { return unix.Wait4(-1, &status, 0, nil) })
		if err != nil {
			return
		}
		s.execReaped(pid, status)
	}
}

// execOrder is what an exec is to run. It lies outside of the heap, which is never collected
// in a shim that does nothing but supervise, and is given back when the exec has begun.
type execOrder struct {
	wire.ExecOrder
	region unsafe.Pointer // mapped
	size   uintptr
}

// read reads the order of an exec in its directory.
func (o *execOrder) read(dir int) error {
	fd, err := sys.Retry(func() (int, error) { return unix.Openat(dir, wire.ExecSpecName, unix.O_RDONLY|execFD, 0) })
	if err != nil {
		return err
	}
	defer sys.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Size > wire.MaxSpec || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.EINVAL
	}
	return o.load(int(st.Size), func(b []byte) (int, error) {
		return sys.Retry(func() (int, error) { return unix.Read(fd, b) })
	})
}

// load maps a region, fills size bytes of it by read, and takes the order from there.
func (o *execOrder) load(size int, read func([]byte) (int, error)) error {
	const word = int(unsafe.Sizeof(uintptr(0)))
	table := (size + word) / word * word
	words := wire.ExecPointers(size)
	total := uintptr(table + words*word)
	region, err := unix.MmapPtr(-1, 0, nil, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	*o = execOrder{region: region, size: total}
	text := unsafe.Slice((*byte)(region), size)
	for rest := text; len(rest) > 0; {
		n, err := read(rest)
		if err == nil && n == 0 {
			err = unix.EINVAL
		}
		if err != nil {
			o.free()
			return err
		}
		rest = rest[n:]
	}
	var ok bool
	if o.ExecOrder, ok = wire.DecodeExecOrder(text, unsafe.Slice((**byte)(unsafe.Add(region, table)), words)); !ok {
		o.free()
		return unix.EINVAL
	}
	return nil
}

// free gives the region back. Nothing of the order may be used any more.
func (o *execOrder) free() {
	if o.region == nil {
		return
	}
	if err := unix.MunmapPtr(o.region, o.size); err != nil {
		fatal("munmap", err)
	}
	*o = execOrder{}
}

// name returns the first word of the command.
func (o *execOrder) name() string { return cString(o.Argv[0]) }

func (o *execOrder) env() []string {
	env := make([]string, 0, len(o.Envv)-1)
	for _, p := range o.Envv[:len(o.Envv)-1] {
		env = append(env, cString(p))
	}
	return env
}

// cString copies a string that ends with a NUL.
func cString(p *byte) string { return unix.BytePtrToString(p) }
