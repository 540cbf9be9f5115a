//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"math"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

const (
	// maxLate bounds how many processes of probes are left behind that were killed
	// and have not died: in a frozen box, or on a file system that does not answer.
	maxLate = 8
	// bodyWaitNs is how much longer the body of a response may take than its head.
	bodyWaitNs = 200e6
)

// What is wrong with a probe that is no command, or that did not come to be one.
const (
	reasonFork       = "cannot start a process"
	reasonConnecting = "not connected in time"
	reasonWaiting    = "no HTTP response in time"
	reasonEmpty      = "connection closed without an HTTP response"
	reasonNotHTTP    = "not an HTTP response"
	reasonInterim    = "no HTTP response after an interim one (status 1xx)"
)

// probe is the probe that runs, if one does. What it needs is made for the first
// one and kept: the heap of a shim is so small that no garbage is ever collected,
// which has to stay so however often it probes.
type probe struct {
	running  bool
	seq      uint32
	begun    int64 // monotonic time
	deadline int64 // monotonic time
	over     bool  // it has ended with result
	result   wire.ProbeResult
	out      []byte // what is kept of the output
	fd       int    // the pipe of a command's output, or the socket; 0, which is /dev/null, for none

	child   *child
	files   []string         // what the child tries to execute
	pid     int              // the process of a command; 0 for none
	group   int              // its process group
	starter int              // the OCI runtime that is to start it; 0 for none
	report  int              // the pipe that tells why it was not executed; 0 for none
	late    [maxLate]int     // processes of others that were killed and have not been reaped
	calls   [maxLate]bool    // which of them are runtimes that were to start one
	why     trouble          // of the last that could not be executed
	whyNot  wire.ProbeResult // the same in words

	peer    *peerSearch
	addrs   []unix.Sockaddr
	try     int   // which of addrs it is
	refused error // how the one before failed
	sent    int   // bytes of the request; -1 until there is a connection
	resp    response
	decided bool // the head has come: result stands, and the body is taken
}

// mayProbe says why no probe can begin now, or 0.
func (s *supervisor) mayProbe() unix.Errno {
	switch {
	case !s.alive:
		return unix.ESRCH
	case s.spec.Probe.Kind == wire.ProbeNone:
		return unix.ENOENT
	case s.stopping || s.paused || s.probe.running || s.probe.place(0) < 0:
		return unix.EBUSY
	}
	return 0
}

// place returns where among the late ones pid is, or -1.
func (p *probe) place(pid int) int {
	for i, late := range p.late {
		if late == pid {
			return i
		}
	}
	return -1
}

// beginProbe starts Spec.Probe, which mayProbe has allowed. It may be over when
// beginProbe returns.
func (s *supervisor) beginProbe(seq uint32, now int64) {
	p := &s.probe
	if p.out == nil {
		p.out = make([]byte, 0, wire.MaxProbeOutput)
	}
	p.running, p.over, p.seq, p.begun = true, false, seq, now
	p.deadline = now + min(s.spec.Probe.TimeoutNs, math.MaxInt64-now)
	p.out = p.out[:0]
	p.sent, p.resp, p.decided = -1, response{}, false
	if s.spec.Probe.Kind == wire.ProbeCommand {
		s.startProgram()
		return
	}
	if p.addrs == nil {
		p.addrs = addresses(&s.spec.Probe)
	}
	s.connect(0)
}

// decide notes how the probe has ended, as far as it is known now.
func (p *probe) decide(r wire.ProbeResult) {
	r.Duration = time.Duration(monotonic() - p.begun)
	p.result = r
}

// finish ends the probe with r.
func (p *probe) finish(r wire.ProbeResult) {
	p.decide(r)
	p.over = true
}

// concludeProbe tells how a probe ended, if it has.
func (s *supervisor) concludeProbe() {
	p := &s.probe
	if !p.running || !p.over {
		return
	}
	s.endProbe()
	p.result.Output = p.out
	s.srv.tell(s, &wire.LineAnswer{Op: wire.LineProbe, Seq: p.seq, Result: p.result})
}

// endProbe forgets the probe, if one runs, and kills what it started.
func (s *supervisor) endProbe() {
	p := &s.probe
	if p.starter != 0 {
		s.dropStarter()
	}
	if p.pid != 0 {
		// It may be too young to have a group of its own.
		kill(p.pid)
		kill(-p.group)
		p.late[p.place(0)] = p.pid
		p.pid = 0
	}
	if p.searching() {
		p.peer.holders.giveUp(monotonic())
	}
	s.closeProbe()
	if p.report != 0 {
		sys.Close(p.report)
		p.report = 0
	}
	p.running = false
}

// closeProbe closes the pipe or socket of the probe.
func (s *supervisor) closeProbe() {
	if fd := s.probe.fd; fd != 0 {
		s.probe.fd = 0
		s.unwatch(fd)
		sys.Close(fd)
	}
}

func kill(pid int) {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		say("cannot kill a probe: " + err.Error())
	}
}

// progress takes what came of the probe's descriptor.
func (s *supervisor) progress() {
	p := &s.probe
	switch {
	case s.spec.Probe.Kind == wire.ProbeCommand:
		s.takeOutput()
	case p.searching():
	case p.sent < 0:
		s.connected()
	default:
		s.converse()
	}
	s.concludeProbe()
}

// probeLate ends a probe whose time is over.
func (s *supervisor) probeLate() {
	p := &s.probe
	switch {
	case p.decided:
		p.over = true
	case s.spec.Probe.Kind == wire.ProbeCommand:
		p.finish(wire.ProbeResult{TimedOut: true, Code: 128 + int(unix.SIGKILL)})
	case p.searching():
		p.finish(wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonWhose})
	case p.sent < 0:
		p.finish(wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonConnecting})
	default:
		p.finish(wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonWaiting})
	}
	s.concludeProbe()
}

// startProgram starts the command of a probe.
func (s *supervisor) startProgram() {
	p := &s.probe
	if s.spec.Container != nil {
		s.startContained()
		return
	}
	if p.child == nil {
		argv := s.spec.Probe.Argv
		p.files = wire.Candidates(s.spec.Env, argv[0])
		c, err := s.newChild(argv, p.files)
		if err != nil {
			p.finish(wire.ProbeResult{Code: failedCode, Reason: err.Error()})
			return
		}
		c.apart = true
		p.child = c
	}
	if errno := s.fork(p.child); errno != 0 {
		p.finish(wire.ProbeResult{Code: failedCode, Reason: reasonFork + ": " + errno.Error()})
	}
}

// fork starts the child of a probe and its two pipes.
func (s *supervisor) fork(c *child) unix.Errno {
	p := &s.probe
	var out, report [2]int
	if err := unix.Pipe2(out[:], unix.O_CLOEXEC); err != nil {
		return toErrno(err)
	}
	p.fd = out[0]
	defer sys.Close(out[1])
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return toErrno(err)
	}
	p.report = report[0]
	defer sys.Close(report[1])
	// The box's end stays blocking, as with the log.
	if err := unix.SetNonblock(out[0], true); err != nil {
		return toErrno(err)
	}
	if err := s.watch(out[0]); err != nil {
		return toErrno(err)
	}
	if err := giveStream(out[1], s.spec.UID, s.spec.GID, outputMode); err != nil {
		return toErrno(err)
	}
	c.files, c.report = [3]uintptr{wire.FDNull, uintptr(out[1]), uintptr(out[1])}, uintptr(report[1])
	pid, errno := forkExec(c)
	runtimeAfterFork()
	if errno != 0 {
		return unix.Errno(errno)
	}
	p.pid, p.group = int(pid), int(pid)
	return 0
}

// takeOutput keeps the beginning of the output and throws the rest away.
func (s *supervisor) takeOutput() {
	p := &s.probe
	for range splicesPerTurn {
		n, err := p.readOutput()
		if n == 0 && len(p.out) == wire.MaxProbeOutput {
			var moved int64
			moved, err = sys.Retry(func() (int64, error) {
				return unix.Splice(p.fd, nil, s.log.null, nil, maxSplice, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			})
			n = int(moved)
		}
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if n <= 0 || err != nil {
			// All that could write are gone, or write elsewhere: epoll would tell for ever.
			s.closeProbe()
			return
		}
	}
}

// readOutput reads into what is left of the room. 0 says that there is none, or
// that the output is at its end.
func (p *probe) readOutput() (int, error) {
	room := p.out[len(p.out):cap(p.out)]
	if len(room) == 0 {
		return 0, nil
	}
	n, err := sys.Retry(func() (int, error) { return unix.Read(p.fd, room) })
	p.out = p.out[:len(p.out)+max(n, 0)]
	return n, err
}

// reaped is told of each process that was reaped.
func (s *supervisor) reaped(pid int, status unix.WaitStatus) {
	p := &s.probe
	if i := p.place(pid); i >= 0 {
		p.late[i] = 0
		if p.calls[i] {
			p.calls[i] = false
			s.callEnded()
		}
		return
	}
	switch pid {
	case p.starter:
		s.probeStarted(status)
	case p.pid:
		s.probeEnded(status)
	}
}

// probeEnded is told how the command of a probe ended.
func (s *supervisor) probeEnded(status unix.WaitStatus) {
	p := &s.probe
	p.pid = 0
	// What it has left behind. The number cannot be another's as long as the group
	// has a member, and takes a while to come round.
	kill(-p.group)
	r := wire.ProbeResult{Code: status.ExitStatus()}
	if status.Signaled() {
		r.Code = 128 + int(status.Signal())
	}
	if p.notExecuted(s.spec) {
		r = p.whyNot
	}
	for p.fd != 0 {
		if n, err := p.readOutput(); n <= 0 || err != nil {
			break
		}
	}
	p.finish(r)
	s.concludeProbe()
}

// notExecuted reports whether the child of the probe failed, and sets whyNot.
func (p *probe) notExecuted(spec *wire.Spec) bool {
	var t trouble
	b := (*[unsafe.Sizeof(t)]byte)(unsafe.Pointer(&t))
	if n, err := sys.Retry(func() (int, error) { return unix.Read(p.report, b[:]) }); err != nil || n != len(b) {
		return false
	}
	if t == p.why {
		return true
	}
	p.why = t
	code, e := p.child.notExecuted(t, spec, spec.Probe.Argv[0], p.files)
	p.whyNot = wire.ProbeResult{Code: code, Reason: e.Error()}
	return true
}

// addresses gives where an HTTP or TCP probe connects to.
func addresses(p *wire.Probe) []unix.Sockaddr {
	port := int(p.Port)
	if p.Addr == "" {
		return []unix.Sockaddr{
			&unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}},
			&unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}},
		}
	}
	a, _ := wire.ParseAddress(p.Addr) // Probe.check has seen it
	if a.V4 {
		return []unix.Sockaddr{&unix.SockaddrInet4{Port: port, Addr: [4]byte(a.Bytes[:4])}}
	}
	return []unix.Sockaddr{&unix.SockaddrInet6{Port: port, Addr: a.Bytes}}
}

// connect begins to connect to the address numbered try.
func (s *supervisor) connect(try int) {
	p := &s.probe
	p.try = try
	family := unix.AF_INET
	if _, v6 := p.addrs[try].(*unix.SockaddrInet6); v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		s.unconnected(err)
		return
	}
	p.fd = fd
	ev := unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(fd)}
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		s.unconnected(err)
		return
	}
	s.connected()
}

// connected looks whether there is a connection, which another connect tells: an
// event may be one of a closed descriptor that had the same number.
func (s *supervisor) connected() {
	p := &s.probe
	err := unix.Connect(p.fd, p.addrs[p.try])
	switch {
	case err == nil || errors.Is(err, unix.EISCONN):
	case errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EALREADY) || errors.Is(err, unix.EINTR):
		return
	default:
		s.unconnected(err)
		return
	}
	if toItself(p.fd) {
		s.unconnected(unix.ECONNREFUSED)
		return
	}
	s.meetPeer()
}

// talk goes on with a probe that is connected to the box.
func (s *supervisor) talk() {
	p := &s.probe
	if s.spec.Probe.Kind == wire.ProbeTCP {
		// An orderly close, not a reset: a service that has just accepted sees the end
		// of a client that said nothing, and not an error to be logged. The price is a
		// minute of TIME_WAIT at this end.
		p.finish(wire.ProbeResult{})
		return
	}
	p.sent = 0
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT, Fd: int32(p.fd)}
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_MOD, p.fd, &ev); err != nil {
		p.finish(wire.ProbeResult{Code: 1, Reason: err.Error()})
		return
	}
	s.converse()
}

// unconnected goes on to the next address, or ends the probe. The first address
// says why.
func (s *supervisor) unconnected(err error) {
	p := &s.probe
	s.closeProbe()
	if p.try == 0 {
		p.refused = err
	}
	if p.try+1 < len(p.addrs) {
		s.connect(p.try + 1)
		return
	}
	p.finish(wire.ProbeResult{Code: 1, Reason: p.refused.Error()})
}

// toItself reports whether a socket is connected to itself. A port of this machine
// that nobody listens on may be the very one that connect takes for its own end;
// the two ends are then one, and it succeeds.
func toItself(fd int) bool {
	var ends [2]unix.RawSockaddrInet6
	for i, call := range [...]uintptr{unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME} {
		size := uint32(unsafe.Sizeof(ends[i]))
		if _, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&ends[i])), uintptr(unsafe.Pointer(&size))); errno != 0 {
			return false
		}
	}
	return ends[0] == ends[1]
}

// converse sends what is left of the request, and takes what came of the response.
func (s *supervisor) converse() {
	p := &s.probe
	if request := s.spec.Probe.Request; p.sent < len(request) {
		rest := unsafe.StringData(request[p.sent:])
		n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(p.fd), uintptr(unsafe.Pointer(rest)), uintptr(len(request)-p.sent), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			p.sent += int(n)
		case unix.EAGAIN, unix.EINTR:
		default:
			// The response may be there all the same; the read tells.
			p.sent = len(request)
		}
		if p.sent == len(request) {
			ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(p.fd)}
			if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_MOD, p.fd, &ev); err != nil {
				p.finish(wire.ProbeResult{Code: 1, Reason: err.Error()})
				return
			}
		}
	}
	buf := s.srv.packet[:]
	n, err := sys.Retry(func() (int, error) { return unix.Read(p.fd, buf) })
	switch {
	case errors.Is(err, unix.EAGAIN):
	case n > 0:
		p.take(buf[:n])
	case p.decided:
		p.over = true
	case p.resp.lines > 0:
		p.finish(p.resp.verdict())
	case err != nil:
		p.finish(wire.ProbeResult{Code: 1, Reason: err.Error()})
	case p.resp.begin > 0:
		p.finish(wire.ProbeResult{Code: 1, Reason: reasonInterim})
	case p.resp.head == 0:
		p.finish(wire.ProbeResult{Code: 1, Reason: reasonEmpty})
	default:
		p.finish(wire.ProbeResult{Code: 1, Reason: reasonNotHTTP})
	}
}
