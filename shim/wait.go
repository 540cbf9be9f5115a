//go:build linux && (amd64 || arm64)

package shim

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// maxEvents is how many events a turn of the loop takes.
const maxEvents = 16

// epollWait is epoll_wait, but that it answers the pings that come over l, as long
// as nothing else happens and timeout is -1.
//
// Each box is pinged all its life, and a ping should cost next to nothing. When a
// system call of a Go program has taken a while, the runtime wakes two more threads
// because of it, before and after, for 100 µs of CPU: twenty times of what the ping
// takes. So for the runtime all of this is one system call, and the rules of such
// code apply: nothing that grows the stack or allocates or writes a pointer.
//
//go:nosplit
//go:norace
//go:nocheckptr
func epollWait(epfd int, events *[maxEvents]unix.EpollEvent, timeout int, l *line) (n int, errno syscall.Errno) {
	entersyscall()
	for {
		var r uintptr
		r, _, errno = syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(events)), maxEvents, uintptr(timeout), 0, 0)
		n = int(r)
		if errno != 0 || n != 1 || timeout >= 0 || l.fd == 0 || events[0].Fd != int32(l.fd) || events[0].Events != unix.EPOLLIN {
			break
		}
		var e syscall.Errno
		r, _, e = syscall.RawSyscall(unix.SYS_READ, uintptr(l.fd), uintptr(unsafe.Pointer(&l.packet)), uintptr(len(l.packet)))
		if e != 0 {
			break
		}
		l.got = int(r)
		if l.got != wire.LineCallSize || l.packet[0] != wire.Version || l.packet[1] != byte(wire.LinePing) {
			break
		}
		for i := 2; i < wire.LineCallSize; i++ {
			l.pong[i] = l.packet[i]
		}
		// An answer that finds no room is left for the loop to fail with again.
		if _, _, e = syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(l.fd), uintptr(unsafe.Pointer(&l.pong)), uintptr(len(l.pong)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0); e != 0 {
			break
		}
		l.got = 0
	}
	exitsyscall()
	return n, errno
}
