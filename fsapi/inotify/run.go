package inotify

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nice is a compromise: on a busy machine a notification must neither take the processor
// from what it tells of, nor wait for a quiet moment.
const nice = 5

// Run is the whole life of the notifier process. It carries out what it gets through the
// descriptor conn, and returns when the daemon has closed the other end or is dead. args
// are those that Start gave to Spawn.
func Run(conn int, args []string) error {
	if len(args) != 1 {
		return errors.New("the notifier is started by boxlited")
	}
	// The daemon knows the notifier's requests by the thread that makes them.
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&[]byte("boxlite-notify\x00")[0])), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	// Whoever changes something or waits for it comes first. Where that is refused,
	// it does not.
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH, Nice: nice}, 0)
	hello := binary.NativeEndian.AppendUint32(nil, uint32(unix.Gettid()))
	if _, err := unix.Write(conn, hello); err != nil {
		return ended(err)
	}
	buf := make([]byte, maxMessage)
	for {
		n, err := unix.Read(conn, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return ended(err)
		case n == 0:
			return nil
		}
		if err := carryOut(args[0], buf[:n]); err != nil {
			return err
		}
		if _, err := unix.Write(conn, buf[:1]); err != nil {
			return ended(err)
		}
	}
}

// ended makes no error of the daemon's death.
func ended(err error) error {
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return err
}

// carryOut makes the requests of a message. The mount is held only meanwhile, so that
// nobody finds it busy. It must be the daemon's own, not what has taken its place. A
// request that fails needn't succeed: the box is gone, or the daemon is.
func carryOut(mount string, message []byte) error {
	device, message, _ := bytes.Cut(message, []byte{0})
	root, err := unix.Open(mount, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(root) }()
	var st unix.Statx_t
	// The number of the device is not asked for: the kernel knows it.
	if err := unix.Statx(root, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return nil
	}
	if strconv.Itoa(int(st.Dev_major))+":"+strconv.Itoa(int(st.Dev_minor)) != string(device) {
		return nil
	}
	// New times for the contents alone are what makes MODIFY and nothing else.
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}
	for len(message) > 0 {
		op, path, rest, err := next(message)
		if err != nil {
			return err
		}
		name := uintptr(unsafe.Pointer(&path[0]))
		switch op {
		case Touch:
			_, _, _ = unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(root), name, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
		case Rmdir:
			_, _, _ = unix.Syscall(unix.SYS_UNLINKAT, uintptr(root), name, unix.AT_REMOVEDIR)
		case Unlink:
			_, _, _ = unix.Syscall(unix.SYS_UNLINKAT, uintptr(root), name, 0)
		default:
			return fmt.Errorf("a message that begins with %q", op)
		}
		message = rest
	}
	return nil
}
