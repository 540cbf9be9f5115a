//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

const (
	// requestTimeoutNs is how long a connection may take to send its request.
	requestTimeoutNs = 5e9
)

// server answers the control socket: one request a connection, one answer, and
// the connection is closed, but for those that watch the log, and for the line.
// Nothing here waits; a client that does not take its answer loses it.
type server struct {
	conns  [wire.MaxConns]conn
	n      int
	line   line
	packet [max(wire.MaxMessage, wire.MaxLineAnswer)]byte
}

type conn struct {
	fd       int
	kept     bool    // it has sent its request and stays: a watcher, or the line
	watches  wire.Op // what a watcher watches
	deadline int64   // monotonic time by which the request must have come
}

// line is the one connection over which LineCalls come.
type line struct {
	fd     int // of its conn; 0, which is /dev/null, where there is none
	log    bool
	logSeq uint32 // of the LineLog that waits, if log

	// For epollWait: the answer to a ping but for its Seq, and what was read, with
	// room for one byte more than a call has.
	pong   [wire.PongSize]byte
	packet [wire.LineCallSize + 1]byte
	got    int
}

// accept takes all waiting connections. Root's only: the socket is private to
// the daemon, and this holds even where its directory is not. A request that has
// come is answered before the next connection is taken: many may have waited for a
// shim that stood still, and none of them is silent.
func (v *server) accept(s *supervisor, now int64) {
	for {
		fd, err := sys.Retry(func() (int, error) {
			fd, _, err := unix.Accept4(wire.FDListen, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			return fd, err
		})
		if errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			if !errors.Is(err, unix.EAGAIN) {
				say("cannot accept a connection: " + err.Error())
			}
			return
		}
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || cred.Uid != 0 || v.n == wire.MaxConns && !v.evict(s) {
			sys.Close(fd)
			continue
		}
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			say("cannot watch a connection: " + err.Error())
			sys.Close(fd)
			continue
		}
		v.conns[v.n] = conn{fd: fd, deadline: now + requestTimeoutNs}
		v.n++
		v.serve(s, fd, now)
	}
}

// evict drops the connection that has been silent for longest, so that silent
// ones never keep the daemon out. It reports whether there was one.
func (v *server) evict(s *supervisor) bool {
	oldest := -1
	for i := range v.n {
		if !v.conns[i].kept && (oldest < 0 || v.conns[i].deadline < v.conns[oldest].deadline) {
			oldest = i
		}
	}
	if oldest < 0 {
		return false
	}
	v.drop(s, oldest)
	return true
}

// serve takes what came on the connection fd. An event of one that was closed
// in the same turn finds none.
func (v *server) serve(s *supervisor, fd int, now int64) {
	if i := v.find(fd); i >= 0 && !v.answer(s, i, now) {
		v.drop(s, i)
	}
}

// find returns the place of the connection fd in the table, or -1.
func (v *server) find(fd int) int {
	for i := range v.n {
		if v.conns[i].fd == fd {
			return i
		}
	}
	return -1
}

// answer reports whether the connection is to be kept. If not it has dropped none.
func (v *server) answer(s *supervisor, i int, now int64) bool {
	fd := v.conns[i].fd
	if fd == v.line.fd {
		return v.hear(s, now)
	}
	n, err := sys.Retry(func() (int, error) { return unix.Read(fd, v.packet[:]) })
	if errors.Is(err, unix.EAGAIN) {
		return true
	}
	if err != nil || n == 0 || v.conns[i].kept {
		return false
	}
	req, err := wire.DecodeRequest(v.packet[:n])
	if err != nil {
		return false
	}
	if req.Op.OnExec() {
		v.conns[i].kept = true // it may be answered later, or be already
		reply, ready := s.handleExec(req, fd, now)
		if ready {
			sendExecReply(fd, &reply)
		}
		return !ready
	}
	if req.Op == wire.OpEnd {
		s.sendEnd(fd, req.Run)
		return false
	}
	reply := s.handle(req, now)
	if req.Op == wire.OpLine {
		return v.open(s, i, reply.Errno)
	}
	if !send(fd, reply.Append(v.packet[:0])) {
		return false
	}
	v.conns[i].kept = req.Op == wire.OpWatchLog || req.Op == wire.OpWatchExecs
	v.conns[i].watches = req.Op
	return v.conns[i].kept
}

// send reports whether there was room for the packet.
func send(fd int, packet []byte) bool {
	return unix.Send(fd, packet, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) == nil
}

// open makes a connection the line, instead of the one that was it.
func (v *server) open(s *supervisor, i int, refused unix.Errno) bool {
	fd := v.conns[i].fd
	hello := wire.LineAnswer{Op: wire.LineHello, Errno: refused, Alive: s.alive, Stopping: s.stopping, Paused: s.paused}
	if !send(fd, hello.Append(v.packet[:0])) || refused != 0 {
		return false
	}
	v.conns[i].kept = true
	v.hangUp(s)
	v.line = line{fd: fd}
	return true
}

// hear takes what came over the line, and reports whether to go on.
func (v *server) hear(s *supervisor, now int64) bool {
	l := &v.line
	n := l.got
	l.got = 0
	if n == 0 {
		var err error
		n, err = sys.Retry(func() (int, error) { return unix.Read(l.fd, l.packet[:]) })
		if errors.Is(err, unix.EAGAIN) {
			return true
		}
		if err != nil {
			return false
		}
	}
	c, err := wire.DecodeLineCall(l.packet[:n])
	if err != nil {
		return false
	}
	v.call(s, c, now)
	return true
}

// readyPong prepares the answer to pings that come before anything else happens.
func (v *server) readyPong(s *supervisor) {
	if v.line.fd != 0 {
		(&wire.LineAnswer{Op: wire.LinePing, Alive: s.alive, Stopping: s.stopping, Paused: s.paused}).Append(v.line.pong[:0])
	}
}

// hangUp drops the line, if there is one.
func (v *server) hangUp(s *supervisor) {
	if v.line.fd != 0 {
		v.drop(s, v.find(v.line.fd))
	}
}

// tell sends an answer over the line. A line without room for it is dropped: who
// waits for an answer must not wait for one that was lost.
func (v *server) tell(s *supervisor, a *wire.LineAnswer) {
	if v.line.fd == 0 {
		return
	}
	a.Alive, a.Stopping, a.Paused = s.alive, s.stopping, s.paused
	if !send(v.line.fd, a.Append(v.packet[:0])) {
		v.hangUp(s)
	}
}

// call does what came over the line.
func (v *server) call(s *supervisor, c wire.LineCall, now int64) {
	a := wire.LineAnswer{Op: c.Op, Seq: c.Seq}
	switch c.Op {
	case wire.LinePing:
	case wire.LineProbe:
		a.Errno = s.mayProbe()
		if a.Begun = a.Errno == 0; a.Begun {
			s.probe.begin(s, c.Seq, now)
		}
	case wire.LineLog:
		v.line.log, v.line.logSeq = true, c.Seq
		return
	default:
		a.Errno = unix.ENOSYS
	}
	v.tell(s, &a)
	s.probe.conclude(s)
}

// handle does what req asks for.
func (s *supervisor) handle(req wire.Request, now int64) wire.Reply {
	var errno unix.Errno
	if req.Run != "" && req.Run != s.spec.Run {
		return wire.Reply{Errno: unix.ESTALE, State: wire.State{Run: s.spec.Run}}
	}
	switch req.Op {
	case wire.OpSignal:
		errno = s.signal(req.Signal)
	case wire.OpStop:
		s.stop(wire.StoppedByStop, req.Signal, int64(req.Grace), now)
	case wire.OpPause:
		errno = s.pause()
	case wire.OpResume:
		errno = s.resume()
	}
	return wire.Reply{Errno: errno, State: wire.State{
		Run:       s.spec.Run,
		Stopping:  s.stopping,
		Paused:    s.paused,
		Alive:     s.alive,
		PID:       s.pid,
		StartedNs: s.startedNs,
	}}
}

// logChanged tells those who watch the log. A watcher whose queue is full is told
// nothing: it has packets to read, and looks at the log after each of them.
func (v *server) logChanged(s *supervisor) {
	if v.line.log {
		v.line.log = false
		v.tell(s, &wire.LineAnswer{Op: wire.LineLog, Seq: v.line.logSeq})
	}
	v.changed(s, wire.OpWatchLog)
}

// execsChanged tells those who watch the execs.
func (v *server) execsChanged(s *supervisor) {
	s.pending.untold = !v.changed(s, wire.OpWatchExecs) && s.pending.execs > 0
}

// endPending says that there is something which could not be put on record, to those who
// have not heard of it.
func (v *server) endPending(s *supervisor) {
	if s.pending.untold {
		v.execsChanged(s)
	}
	if s.pending.end != nil && s.pending.alone {
		v.tell(s, &wire.LineAnswer{Op: wire.LineEnd})
	}
}

// sendEnd answers who asks how the run has ended.
func (s *supervisor) sendEnd(fd int, run string) {
	end := s.pending.end
	if run != s.spec.Run || !s.pending.alone {
		end = nil
	}
	send(fd, wire.AppendEndReply(s.srv.packet[:0], end)) // who does not take it asks again
}

// changed reports whether all were told.
func (v *server) changed(s *supervisor, what wire.Op) bool {
	all := true
	for i := v.n - 1; i >= 0; i-- {
		if !v.conns[i].kept || v.conns[i].watches != what {
			continue
		}
		packet := wire.AppendChange(v.packet[:0], what, s.pending.execs > 0)
		err := unix.Send(v.conns[i].fd, packet, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS):
			all = false
		default:
			v.drop(s, i)
		}
	}
	return all
}

// nextDeadline returns when expire has something to do.
func (v *server) nextDeadline() int64 {
	next := int64(math.MaxInt64)
	for i := range v.n {
		if !v.conns[i].kept {
			next = min(next, v.conns[i].deadline)
		}
	}
	return next
}

// expire drops connections that sent no request in time.
func (v *server) expire(s *supervisor, now int64) {
	for i := v.n - 1; i >= 0; i-- {
		if !v.conns[i].kept && now >= v.conns[i].deadline {
			v.drop(s, i)
		}
	}
}

// drop closes a connection; the last one takes its place in the table. The other
// end is told even if the child of a probe still has it. A probe of a line has
// nobody left to be told.
func (v *server) drop(s *supervisor, i int) {
	fd := v.conns[i].fd
	s.unwatch(fd)
	// ENOTCONN: the other end is gone.
	_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	sys.Close(fd)
	v.n--
	v.conns[i] = v.conns[v.n]
	s.execs.hungUp(fd)
	if fd == v.line.fd {
		v.line = line{}
		s.probe.end(s)
	}
}
