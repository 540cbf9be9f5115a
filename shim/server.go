//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"
)

const (
	// maxConns bounds the control connections that are open at once, of which
	// each watcher of the log has one.
	maxConns = 64
	// requestTimeoutNs is how long a connection may take to send its request.
	requestTimeoutNs = 5e9
)

// server answers the control socket: one request a connection, one answer, and
// the connection is closed, but for those that watch the log. Nothing here
// waits; a client that does not take its answer loses it.
type server struct {
	conns  [maxConns]conn
	n      int
	packet [maxMessage]byte
}

type conn struct {
	fd       int
	watching bool
	deadline int64 // monotonic time by which the request must have come
}

// accept takes all waiting connections. Root's only: the socket is private to
// the daemon, and this holds even where its directory is not. A request that has
// come is answered before the next connection is taken: many may have waited for a
// shim that stood still, and none of them is silent.
func (v *server) accept(s *supervisor, now int64) {
	for {
		fd, err := retry(func() (int, error) {
			fd, _, err := unix.Accept4(fdListen, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
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
		if err != nil || cred.Uid != 0 || v.n == maxConns && !v.evict() {
			closeFD(fd)
			continue
		}
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			say("cannot watch a connection: " + err.Error())
			closeFD(fd)
			continue
		}
		v.conns[v.n] = conn{fd: fd, deadline: now + requestTimeoutNs}
		v.n++
		if !v.answer(s, &v.conns[v.n-1], now) {
			v.drop(v.n - 1)
		}
	}
}

// evict drops the connection that has been silent for longest, so that silent
// ones never keep the daemon out. It reports whether there was one.
func (v *server) evict() bool {
	oldest := -1
	for i := range v.n {
		if !v.conns[i].watching && (oldest < 0 || v.conns[i].deadline < v.conns[oldest].deadline) {
			oldest = i
		}
	}
	if oldest < 0 {
		return false
	}
	v.drop(oldest)
	return true
}

// serve takes what came on the connection fd. An event of one that was closed
// in the same turn finds none.
func (v *server) serve(s *supervisor, fd int, now int64) {
	for i := range v.n {
		if v.conns[i].fd == fd {
			if !v.answer(s, &v.conns[i], now) {
				v.drop(i)
			}
			return
		}
	}
}

// answer reports whether the connection is to be kept.
func (v *server) answer(s *supervisor, c *conn, now int64) bool {
	n, err := retry(func() (int, error) { return unix.Read(c.fd, v.packet[:]) })
	if errors.Is(err, unix.EAGAIN) {
		return true
	}
	if err != nil || n == 0 || c.watching {
		return false
	}
	req, err := decodeRequest(v.packet[:n])
	if err != nil {
		return false
	}
	reply := s.handle(req, now)
	if err := unix.Send(c.fd, appendReply(v.packet[:0], &reply), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		return false
	}
	c.watching = req.Op == OpWatchLog
	return c.watching
}

// handle does what req asks for.
func (s *supervisor) handle(req Request, now int64) Reply {
	var errno unix.Errno
	if req.Run != "" && req.Run != s.spec.Run {
		return Reply{Errno: unix.ESTALE, State: State{Run: s.spec.Run}}
	}
	switch req.Op {
	case OpSignal:
		errno = s.signal(req.Signal)
	case OpStop:
		s.stop(StoppedByStop, req.Signal, int64(req.Grace), now)
	case OpPause:
		errno = s.pause()
	case OpResume:
		errno = s.resume()
	}
	return Reply{Errno: errno, State: State{
		Run:       s.spec.Run,
		Stopping:  s.stopping,
		Paused:    s.paused,
		Alive:     s.alive,
		PID:       s.pid,
		StartedNs: s.startedNs,
	}}
}

// logChanged tells those who watch the log. One whose queue is full is told
// nothing: it has packets to read, and looks at the log after each of them.
func (v *server) logChanged() {
	for i := v.n - 1; i >= 0; i-- {
		if !v.conns[i].watching {
			continue
		}
		v.packet[0] = wireVersion
		err := unix.Send(v.conns[i].fd, v.packet[:1], unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			v.drop(i)
		}
	}
}

// nextDeadline returns when expire has something to do.
func (v *server) nextDeadline() int64 {
	next := int64(math.MaxInt64)
	for i := range v.n {
		if !v.conns[i].watching {
			next = min(next, v.conns[i].deadline)
		}
	}
	return next
}

// expire drops connections that sent no request in time.
func (v *server) expire(now int64) {
	for i := v.n - 1; i >= 0; i-- {
		if !v.conns[i].watching && now >= v.conns[i].deadline {
			v.drop(i)
		}
	}
}

// drop closes a connection; the last one takes its place in the table. Closing
// takes it out of the epoll set too, as nobody else has the descriptor.
func (v *server) drop(i int) {
	closeFD(v.conns[i].fd)
	v.n--
	v.conns[i] = v.conns[v.n]
}
