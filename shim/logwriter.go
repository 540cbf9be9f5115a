//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

const (
	// maxSplice is how much one splice may move: what a pipe holds.
	maxSplice = 64 << 10
	// splicesPerTurn bounds how long a flood of output keeps the shim from its
	// other work.
	splicesPerTurn = 16
	// logRetryNs is how long a file that could not be written is left alone
	// while there is output, and logIdleRetryNs how long when there is none.
	logRetryNs     = 200e6
	logIdleRetryNs = 5e9
)

// logWriter moves what comes out of a pipe into a box's log files.
//
// A log that cannot be written must neither stop nor kill the box. While the
// disk is full the output is counted and thrown away, and the first thing
// written when there is room again is a line that says so.
type logWriter struct {
	dirfd int
	pipe  int // read end, non-blocking
	null  int // /dev/null, writable
	max   int64

	fd   int // the newest file, or -1
	base int64
	size int64

	lost    int64
	lostErr error
	retryAt int64 // while lost > 0: monotonic time of the next try
	copying bool  // the file system knows no splice
	buf     []byte
}

// open goes on in the newest log file, or begins the first.
func (w *logWriter) open() error {
	bases, err := w.list()
	if err != nil {
		return err
	}
	newest := int64(0)
	for _, b := range bases {
		newest = max(newest, b)
	}
	return w.use(newest)
}

// list returns where the log files present begin, in no order.
func (w *logWriter) list() ([]int64, error) {
	// A descriptor of its own: the read position of dirfd is shared with the daemon.
	fd, err := sys.Retry(func() (int, error) {
		return unix.Openat(w.dirfd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, err
	}
	defer sys.Close(fd)
	var bases []int64
	var names []string
	buf := make([]byte, 2048)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return bases, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
		for _, name := range names {
			if base, ok := wire.ParseLogName(name); ok {
				bases = append(bases, base)
			}
		}
	}
}

// use makes the file that begins at base the current one.
func (w *logWriter) use(base int64) error {
	fd, err := sys.Retry(func() (int, error) {
		return unix.Openat(w.dirfd, wire.LogName(base), unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o640)
	})
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		sys.Close(fd)
		return err
	}
	if w.fd >= 0 {
		sys.Close(w.fd)
	}
	w.fd, w.base, w.size = fd, base, st.Size
	return nil
}

// room returns how much the current file may still take, beginning a new file
// when that is nothing.
func (w *logWriter) room() (int64, error) {
	if w.size >= w.max {
		if err := w.rotate(); err != nil {
			return 0, err
		}
	}
	return w.max - w.size, nil
}

// rotate begins the next file and removes all but the one before it.
func (w *logWriter) rotate() error {
	previous := w.base
	if err := w.use(w.base + w.size); err != nil {
		return err
	}
	bases, err := w.list()
	if err != nil {
		return err
	}
	for _, b := range bases {
		if b == previous || b == w.base {
			continue
		}
		if err := unix.Unlinkat(w.dirfd, wire.LogName(b), 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// pump moves output until the pipe is empty, or this turn's share is done.
// It reports whether the log grew.
func (w *logWriter) pump(now int64) bool {
	grew := false
	for range splicesPerTurn {
		n, wrote := w.move(maxSplice, now)
		grew = grew || wrote
		if n == 0 {
			break
		}
	}
	return grew
}

// drain moves what is in the pipe at this moment. Who goes on writing is not
// waited for.
func (w *logWriter) drain(now int64) {
	left, err := unix.IoctlGetInt(w.pipe, unix.TIOCINQ)
	if err != nil {
		say("cannot see what is left of the log: " + err.Error())
		return
	}
	for left > 0 {
		n, _ := w.move(int64(left), now)
		if n == 0 {
			return
		}
		left -= int(n)
	}
}

// move takes up to limit bytes out of the pipe, and returns how many, and
// whether they went into the log.
func (w *logWriter) move(limit, now int64) (n int64, wrote bool) {
	if w.lost > 0 && (now < w.retryAt || !w.recover(now)) {
		return w.discard(limit, now, w.lostErr), false
	}
	if w.fd < 0 {
		if err := w.open(); err != nil {
			return w.discard(limit, now, err), false
		}
	}
	room, err := w.room()
	if err != nil {
		return w.discard(limit, now, err), false
	}
	n, err = w.transfer(min(limit, room))
	switch {
	case err == nil:
		w.size += n
		return n, n > 0
	case errors.Is(err, unix.EAGAIN):
		return 0, false
	default:
		return w.discard(limit, now, err), false
	}
}

// transfer moves up to limit bytes from the pipe to the end of the file.
// EAGAIN says that there are none.
func (w *logWriter) transfer(limit int64) (int64, error) {
	if !w.copying {
		n, err := sys.Retry(func() (int64, error) {
			off := w.size
			return unix.Splice(w.pipe, nil, w.fd, &off, int(limit), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		})
		if !errors.Is(err, unix.EINVAL) {
			return n, err
		}
		w.copying = true
	}
	if w.buf == nil {
		w.buf = make([]byte, 4096)
	}
	n, err := sys.Retry(func() (int, error) {
		return unix.Read(w.pipe, w.buf[:min(limit, int64(len(w.buf)))])
	})
	if err != nil {
		return 0, err
	}
	if err := w.write(w.buf[:n]); err != nil {
		// The bytes are out of the pipe and cannot go back.
		w.lose(int64(n), err)
		return 0, err
	}
	return int64(n), nil
}

// write puts b, whole or not at all, at the end of the file.
func (w *logWriter) write(b []byte) error {
	for done := 0; done < len(b); {
		n, err := sys.Retry(func() (int, error) { return unix.Pwrite(w.fd, b[done:], w.size+int64(done)) })
		if err != nil {
			if terr := unix.Ftruncate(w.fd, w.size); terr != nil {
				say("cannot cut the log back to its last whole line: " + terr.Error())
			}
			return err
		}
		done += n
	}
	return nil
}

// discard takes up to limit bytes out of the pipe and counts them as lost.
func (w *logWriter) discard(limit, now int64, why error) int64 {
	n, err := sys.Retry(func() (int64, error) {
		return unix.Splice(w.pipe, nil, w.null, nil, int(limit), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	})
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		say("cannot discard output: " + err.Error())
	}
	if n <= 0 {
		return 0
	}
	if w.lost == 0 || now >= w.retryAt {
		w.retryAt = now + logRetryNs
	}
	w.lose(n, why)
	return n
}

func (w *logWriter) lose(n int64, why error) {
	w.lost += n
	w.lostErr = why
}

// recover writes how much was lost, if that works by now.
func (w *logWriter) recover(now int64) bool {
	w.retryAt = now + logRetryNs
	if w.fd < 0 {
		if err := w.open(); err != nil {
			w.lostErr = err
			return false
		}
	}
	line := w.lostLine()
	room, err := w.room()
	if err == nil && room < int64(len(line)) {
		// The bound holds for this line too; minLogMax makes it fit a new file.
		err = w.rotate()
	}
	if err == nil {
		err = w.write(line)
	}
	if err != nil {
		w.lostErr = err
		return false
	}
	w.size += int64(len(line))
	w.lost, w.lostErr = 0, nil
	return true
}

func (w *logWriter) lostLine() []byte {
	b := strconv.AppendInt([]byte("boxlite: "), w.lost, 10)
	b = append(b, " bytes of log lost: "...)
	return append(append(b, w.lostErr.Error()...), '\n')
}

// close says what was lost to the last, in the log or else where the shim
// itself writes.
func (w *logWriter) close(now int64) {
	if w.lost > 0 && !w.recover(now) {
		line := w.lostLine()
		say(string(line[len("boxlite: ") : len(line)-1]))
	}
}
