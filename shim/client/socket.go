//go:build linux && (amd64 || arm64)

package client

import (
	"context"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// listenControl makes the control socket in the directory dir. It is bound by
// way of /proc: the path of a socket may have 108 bytes, that of a directory
// thousands.
func listenControl(dir int) (int, error) {
	if err := unix.Unlinkat(dir, wire.SocketName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	// The mode of the socket becomes that of its file, so there is no moment at
	// which others could connect.
	err = unix.Fchmod(fd, 0o600)
	if err == nil {
		err = unix.Bind(fd, controlAddress(dir))
	}
	if err == nil {
		err = unix.Listen(fd, 2*wire.MaxConns)
	}
	if err != nil {
		sys.Close(fd)
		return -1, err
	}
	return fd, nil
}

func controlAddress(dir int) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dir) + "/" + wire.SocketName}
}

// dial connects to a shim. A unix socket is connected at once or not at all;
// EAGAIN says that too many wait to be accepted, and nothing tells when there
// are fewer.
func dial(ctx context.Context, dir *os.File) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		sys.Close(fd)
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err = withFD(dir, func(dirfd int) error { return unix.Connect(fd, controlAddress(dirfd)) })
		if err == nil {
			return os.NewFile(uintptr(fd), wire.SocketName), nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			sys.Close(fd)
			return nil, err
		}
		select {
		case <-ctx.Done():
			sys.Close(fd)
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}
