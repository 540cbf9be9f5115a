//go:build linux && (amd64 || arm64)

package client

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// Tether connects to the shim of the box whose directory dir is, whether or not
// that answers, and returns a descriptor that hangs up when the shim ends. What
// comes through it before says nothing, and need not be read.
func Tether(ctx context.Context, dir *os.File) (int, error) {
	conn, err := dial(ctx, dir)
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	// Only who watches the log is kept on the line.
	if _, err := conn.Write(wire.Request{Op: wire.OpWatchLog}.Append(nil)); err != nil {
		return -1, err
	}
	fd := -1
	// Not the file itself: the Go runtime would wake up for all that comes.
	err = withFD(conn, func(c int) error {
		var derr error
		fd, derr = unix.FcntlInt(uintptr(c), unix.F_DUPFD_CLOEXEC, 0)
		return derr
	})
	return fd, err
}
