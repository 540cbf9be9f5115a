//go:build linux && (amd64 || arm64)

package shim

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
)

// Whom a probe talks to is asked of the kernel by sock_diag(7): which sockets listen there,
// or, where none does any more, which is at the other end of the connection.

// maxOwners bounds the sockets that may be the one that a probe talks to.
const maxOwners = 64

const (
	sockDiagByFamily = 20
	diagRequestSize  = unix.SizeofNlMsghdr + 56
	diagAnswerSize   = 72
	diagV6Only       = 11 // the attribute INET_DIAG_SKV6ONLY
	tcpListen        = 10
	loopback         = 1 // the index of lo, in each network namespace
)

// endpoint is one end of a connection: an address of 4 or 16 bytes, and a port.
type endpoint struct {
	addr [16]byte
	port uint16
	v4   bool
}

// connectionOf returns the two ends of a connected socket.
func connectionOf(fd int) (own, peer endpoint, errno unix.Errno) {
	for i, call := range [...]uintptr{unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME} {
		var raw unix.RawSockaddrInet6 // that of IPv4 is shorter
		size := uint32(unsafe.Sizeof(raw))
		if _, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size))); errno != 0 {
			return own, peer, errno
		}
		e := endpoint{v4: raw.Family == unix.AF_INET, addr: raw.Addr}
		port := (*[2]byte)(unsafe.Pointer(&raw.Port))
		e.port = binary.BigEndian.Uint16(port[:])
		if e.v4 {
			e.addr = [16]byte{}
			copy(e.addr[:4], (*unix.RawSockaddrInet4)(unsafe.Pointer(&raw)).Addr[:])
		} else if e.v4 = [12]byte(e.addr[:12]) == mappedPrefix; e.v4 {
			e.addr = [16]byte{0: e.addr[12], 1: e.addr[13], 2: e.addr[14], 3: e.addr[15]}
		}
		if i == 0 {
			own = e
		} else {
			peer = e
		}
	}
	return own, peer, 0
}

// owners are the sockets that a connection may have been made to, by their inodes. Of more
// than there is room for the first stand for all: each has to be the box's.
type owners struct {
	list [maxOwners]uint32
	n    int
	rank int // of those in the list
}

// add takes a socket, if none is in the list that the kernel would have preferred.
func (o *owners) add(inode uint32, rank int) {
	if rank < o.rank {
		return
	}
	if rank > o.rank {
		*o = owners{rank: rank}
	}
	if o.n == maxOwners {
		return
	}
	o.list[o.n] = inode
	o.n++
}

// find asks which sockets may be at the other end of a connection from own to peer.
func (o *owners) find(own, peer endpoint, buf []byte) error {
	*o = owners{}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return err
	}
	defer sys.Close(fd)
	for _, family := range [...]byte{unix.AF_INET, unix.AF_INET6} {
		if family == unix.AF_INET && !peer.v4 {
			continue
		}
		err := o.ask(fd, appendDiagRequest(buf[:0], family, &endpoint{port: peer.port}, nil), buf, func(s *diagSocket) {
			if rank := s.rank(&peer); rank > 0 {
				o.add(s.inode, rank)
			}
		})
		if err != nil && !errors.Is(err, unix.ENOENT) { // a host without IPv6
			return err
		}
	}
	if o.n > 0 {
		return nil
	}
	// Who listens for one connection only has closed that by now.
	err = o.ask(fd, appendDiagRequest(buf[:0], peer.family(), &peer, &own), buf, func(s *diagSocket) {
		if s.inode != 0 && s.state != tcpListen {
			o.add(s.inode, 1)
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (e *endpoint) family() byte {
	if e.v4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// appendDiagRequest asks for the TCP socket that has a connection from its own end to a
// peer; without a peer, for all that listen on a port.
func appendDiagRequest(b []byte, family byte, own, peer *endpoint) []byte {
	flags, states := uint16(unix.NLM_F_REQUEST), uint32(1<<tcpListen)
	if peer == nil {
		flags |= unix.NLM_F_DUMP
		peer = &endpoint{}
	} else {
		states = ^uint32(0)
	}
	b = binary.NativeEndian.AppendUint32(b, diagRequestSize)
	b = binary.NativeEndian.AppendUint16(b, sockDiagByFamily)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, states)
	b = binary.BigEndian.AppendUint16(b, own.port)
	b = binary.BigEndian.AppendUint16(b, peer.port)
	b = append(append(b, own.addr[:]...), peer.addr[:]...)
	b = append(b, 0, 0, 0, 0)
	return append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff) // no cookie
}

// ask sends a request, and calls fn for each socket of the answer. The kernel makes that
// while it is asked and read: nothing is waited for.
func (o *owners) ask(fd int, request, buf []byte, fn func(*diagSocket)) error {
	if err := unix.Send(fd, request, unix.MSG_DONTWAIT); err != nil {
		return err
	}
	for {
		n, err := sys.Retry(func() (int, error) { return unix.Read(fd, buf) })
		if errors.Is(err, unix.EAGAIN) {
			return nil // an answer that is no list has no end of its own
		}
		if err != nil {
			return err
		}
		if done, err := parseDiag(buf[:n], fn); done || err != nil {
			return err
		}
	}
}

// diagSocket is a socket as sock_diag tells of it.
type diagSocket struct {
	state  byte
	v4     bool
	addr   [16]byte
	device uint32
	inode  uint32
	v6only bool
}

// rank says how the kernel prefers a socket that listens on the port of a connection: 0
// is not at all.
func (s *diagSocket) rank(peer *endpoint) int {
	rank := 0
	switch addr := s.mapped(); {
	case s.state != tcpListen || s.device != 0 && s.device != loopback:
		return 0 // the host talks to itself by way of lo, whatever the address
	case addr == peer.mapped():
		rank = 8
	case s.addr != [16]byte{} || peer.v4 && !s.v4 && s.v6only || !peer.v4 && s.v4:
		return 0
	}
	rank++
	if s.device != 0 {
		rank++
	}
	if s.v4 {
		rank++
	}
	return rank
}

func (s *diagSocket) mapped() [16]byte { e := endpoint{addr: s.addr, v4: s.v4}; return e.mapped() }

// mapped is the address in the form of IPv6.
func (e *endpoint) mapped() [16]byte {
	if !e.v4 {
		return e.addr
	}
	var m [16]byte
	copy(m[copy(m[:], mappedPrefix[:]):], e.addr[:4])
	return m
}

// mappedPrefix is what IPv6 has before the address of an IPv4.
var mappedPrefix = [12]byte{10: 0xff, 11: 0xff}

// parseDiag calls fn for each socket in what was read, and reports whether that was the
// last.
func parseDiag(b []byte, fn func(*diagSocket)) (done bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		kind := binary.NativeEndian.Uint16(b[4:])
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return true, unix.EBADMSG
		}
		body := b[unix.SizeofNlMsghdr:size]
		switch {
		case kind == unix.NLMSG_DONE:
			return true, nil
		case kind == unix.NLMSG_ERROR && len(body) >= 4:
			errno := int32(binary.NativeEndian.Uint32(body))
			if errno == 0 {
				return true, nil
			}
			return true, unix.Errno(-errno)
		case kind == sockDiagByFamily && len(body) >= diagAnswerSize:
			s := decodeDiag(body)
			fn(&s)
		default:
			return true, unix.EBADMSG
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false, nil
}

func decodeDiag(b []byte) diagSocket {
	s := diagSocket{
		v4: b[0] == unix.AF_INET, state: b[1],
		device: binary.NativeEndian.Uint32(b[40:]), inode: binary.NativeEndian.Uint32(b[68:]),
	}
	copy(s.addr[:], b[8:24])
	for b = b[diagAnswerSize:]; len(b) > 4; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			break
		}
		if binary.NativeEndian.Uint16(b[2:]) == diagV6Only && size > 4 {
			s.v6only = b[4] != 0
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return s
}
