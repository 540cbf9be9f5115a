//go:build linux && (amd64 || arm64)

package client

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// OpenLine connects to the shim of the box whose directory dir is, asks it to make
// the connection its line, and waits for nothing: not for the answer either, a
// LineHello. A shim that knows no lines, being of an older version, closes the
// connection. The descriptor is non-blocking, close-on-exec and the caller's.
// EAGAIN says that too many wait to be accepted; ECONNREFUSED and ENOENT, that
// there is no shim.
//
// Who reads from it has to know that the kernel may tell the end while there is a
// packet left: after the end it is worth reading once more.
func OpenLine(dir *os.File, run string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = withFD(dir, func(dirfd int) error {
		address := controlAddress(dirfd)
		_, err := sys.Retry(func() (struct{}, error) { return struct{}{}, unix.Connect(fd, address) })
		return err
	})
	if err == nil {
		err = unix.Send(fd, wire.Request{Op: wire.OpLine, Run: run}.Append(nil), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}
	if err != nil {
		sys.Close(fd)
		return -1, err
	}
	return fd, nil
}
