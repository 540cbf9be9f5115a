//go:build linux && (amd64 || arm64)

package shim

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
)

// The shim takes SIGCHLD, and the signals that end a program, as events of its epoll
// loop. The latter are all a stop: what a terminal, a service manager or a person sends
// to a supervisor means the box. Go would end the shim over them, with status 2, and the
// box with it.
//
// SIGABRT and those of a fault (SIGSEGV, SIGBUS, …) stay with the runtime of Go, which
// writes the stacks of a shim to its log and ends it.
//
// os/signal would cost a goroutine and three threads more, 70 KiB for each box,
// and a signal would come by way of another thread. A signalfd needs the signals
// blocked, and the runtime unblocks them in all its threads. So the handler is
// our own: a few instructions of assembly that write to an eventfd and know
// nothing of Go. Whatever thread it interrupts, it runs on the stack which that
// one has for signals.

// signalFD is the eventfd, and signalWeight what a signal adds to it.
var (
	signalFD     int32         //nolint:unused // assembly uses it
	signalWeight = [65]uint64{ //nolint:unused // assembly uses it
		unix.SIGCHLD: 1,
		unix.SIGTERM: 1 << 32, unix.SIGHUP: 1 << 32, unix.SIGINT: 1 << 32, unix.SIGQUIT: 1 << 32,
	}
)

// signalEntries gives the addresses of the handler and of its return.
func signalEntries() (handler, restorer uintptr)

// sigaction is a signal's action as rt_sigaction takes it; the zero value is the
// default action.
type sigaction struct {
	handler, flags, restorer, mask uint64
}

// signalEvents returns a descriptor that is readable when a signal has come.
func signalEvents() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, err
	}
	signalFD = int32(fd)
	const (
		saNoCldStop = 0x00000001
		saRestorer  = 0x04000000
		saOnStack   = 0x08000000
		saRestart   = 0x10000000
	)
	handler, restorer := signalEntries()
	action := sigaction{
		handler:  uint64(handler),
		flags:    saNoCldStop | saRestorer | saOnStack | saRestart,
		restorer: uint64(restorer),
		mask:     ^uint64(0),
	}
	for _, sig := range [...]unix.Signal{unix.SIGCHLD, unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT} {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
		if errno != 0 {
			return -1, errno
		}
	}
	return fd, nil
}

// takeSignals says what has come since it was called the last time: that of a child,
// and one that is a stop.
func takeSignals(fd int) (child, term bool) {
	var buf [8]byte
	if _, err := sys.Retry(func() (int, error) { return unix.Read(fd, buf[:]) }); err != nil {
		if !errors.Is(err, unix.EAGAIN) {
			fatal("cannot read signals", err)
		}
		return false, false
	}
	sum := binary.NativeEndian.Uint64(buf[:])
	return uint32(sum) != 0, sum>>32 != 0
}
