package epoll

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These system calls never wait, or hardly, and are made without telling the
// Go scheduler: a usual one wakes its monitor thread, which then looks for 10 ms at
// short intervals whether it goes on. That costs ten times what a ping does.

// Read reads what is there of a descriptor that does not block.
func Read(fd int, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}

// Send sends a packet, or EAGAIN says that there is no room for it.
func Send(fd int, b []byte) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return errno
}

// wait gives the events that are there.
func wait(epfd int, events []unix.EpollEvent) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	return int(n), errno
}

// setTimer makes a timerfd readable after a time.
func setTimer(fd int, after time.Duration) syscall.Errno {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(after, 1)))}
	_, _, errno := syscall.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(fd), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
	return errno
}

// Sleep waits for a time of less than a millisecond, and keeps the thread meanwhile.
func Sleep(d time.Duration) {
	rest := unix.NsecToTimespec(int64(d))
	// EINTR: as good as over.
	_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&rest)), 0, 0)
}

// SinceBoot reads CLOCK_BOOTTIME, which counts from the boot of the machine on, also while that is
// suspended, and which nobody sets.
func SinceBoot() time.Duration {
	var now unix.Timespec
	if _, _, errno := syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&now)), 0); errno != 0 {
		panic("clock_gettime: " + errno.Error()) // there since Linux 2.6.39
	}
	return time.Duration(now.Nano())
}
