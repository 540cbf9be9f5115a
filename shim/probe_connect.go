//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

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
func (p *probe) connect(s *supervisor, try int) {
	p.try = try
	family := unix.AF_INET
	if _, v6 := p.addrs[try].(*unix.SockaddrInet6); v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		p.unconnected(s, err)
		return
	}
	p.fd = fd
	ev := unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(fd)}
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		p.unconnected(s, err)
		return
	}
	p.connected(s)
}

// connected looks whether there is a connection, which another connect tells: an
// event may be one of a closed descriptor that had the same number.
func (p *probe) connected(s *supervisor) {
	err := unix.Connect(p.fd, p.addrs[p.try])
	switch {
	case err == nil || errors.Is(err, unix.EISCONN):
	case errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EALREADY) || errors.Is(err, unix.EINTR):
		return
	default:
		p.unconnected(s, err)
		return
	}
	if toItself(p.fd) {
		p.unconnected(s, unix.ECONNREFUSED)
		return
	}
	p.meetPeer(s)
}

// talk goes on with a probe that is connected to the box.
func (p *probe) talk(s *supervisor) {
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
	p.converse(s)
}

// unconnected goes on to the next address, or ends the probe. The first address
// says why.
func (p *probe) unconnected(s *supervisor, err error) {
	p.close(s)
	if p.try == 0 {
		p.refused = err
	}
	if p.try+1 < len(p.addrs) {
		p.connect(s, p.try+1)
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
func (p *probe) converse(s *supervisor) {
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
