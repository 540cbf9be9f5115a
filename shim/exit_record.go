//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// recordTemp is where a record is written before it changes places with the one of
// the run before, which is overwritten the next time: see package
// runtime/atomicfile, which does the same.
const recordTemp = ".exit.json.tmp"

// writeRecord writes the exit record. When that fails there is nothing to be
// done but to say so: the daemon then goes by the shim's own exit status, which
// carries the same code.
func writeRecord(dirfd int, r *wire.ExitRecord) {
	if err := tryWriteRecord(dirfd, r.AppendJSON(nil), true); err != nil {
		say("cannot write the exit record: " + err.Error())
	}
}

func tryWriteRecord(dirfd int, b []byte, sync bool) error {
	fd, err := sys.Retry(func() (int, error) {
		return unix.Openat(dirfd, recordTemp, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	size := int64(len(b))
	for len(b) > 0 && err == nil {
		var n int
		n, err = sys.Retry(func() (int, error) { return unix.Write(fd, b) })
		b = b[max(n, 0):]
	}
	if err == nil {
		err = unix.Ftruncate(fd, size)
	}
	if err == nil && sync {
		err = unix.Fsync(fd)
	}
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	err = unix.Renameat2(dirfd, recordTemp, dirfd, wire.RecordName, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// The first record of the box, or a file system without exchange.
		err = unix.Renameat(dirfd, recordTemp, dirfd, wire.RecordName)
	}
	return err
}
