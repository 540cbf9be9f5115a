//go:build linux && (amd64 || arm64)

package client

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// withFD calls f with the descriptor of file, which stays open meanwhile.
// File.Fd would make it blocking.
func withFD(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}

// asyncFile makes a file whose reads and writes wait without a thread, and have
// deadlines.
func asyncFile(fd int, name string) *os.File {
	// The error would only say that fd is no descriptor.
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}

// deadlineOn makes waiting on file end when ctx does, until the function that
// it returns is called.
func deadlineOn(ctx context.Context, file *os.File) (done func()) {
	stop := context.AfterFunc(ctx, func() {
		// A file that is closed already needs no deadline.
		_ = file.SetDeadline(time.Unix(1, 0))
	})
	return func() { stop() }
}
