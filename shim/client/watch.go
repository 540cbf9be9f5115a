//go:build linux && (amd64 || arm64)

package client

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// LogWatch tells of changes of a box's log.
type LogWatch struct{ watch }

// ExecWatch tells of the ends of a box's execs.
type ExecWatch struct{ watch }

// watch is a connection over which packets come that say that something has changed.
type watch struct {
	conn *os.File
}

// WatchLog begins to watch the log of the box whose directory dir is. What is
// written after WatchLog has returned makes Next return; what was written
// before has to be looked for. Its errors are those of Ask.
func WatchLog(ctx context.Context, dir *os.File) (*LogWatch, error) {
	w, err := openWatch(ctx, dir, wire.Request{Op: wire.OpWatchLog})
	if err != nil {
		return nil, err
	}
	return &LogWatch{w}, nil
}

// WatchExecs begins to watch the execs of a run. Of one that ended before WatchExecs
// has returned, the record has to be looked for. Its errors are those of AskExec.
func WatchExecs(ctx context.Context, dir *os.File, run string) (*ExecWatch, error) {
	w, err := openWatch(ctx, dir, wire.Request{Op: wire.OpWatchExecs, Run: run})
	if err != nil {
		return nil, err
	}
	return &ExecWatch{w}, nil
}

func openWatch(ctx context.Context, dir *os.File, req wire.Request) (watch, error) {
	conn, reply, err := ask(ctx, dir, req)
	if err != nil {
		return watch{}, err
	}
	if reply.Errno != 0 {
		_ = conn.Close()
		return watch{}, reply.Errno
	}
	return watch{conn: conn}, nil
}

// Next waits for the log to have changed since Next returned the last time. One
// return may stand for many changes. io.EOF says that the shim has ended, after
// the last of the log was written; another error is that of ctx.
func (w *LogWatch) Next(ctx context.Context) error {
	_, err := w.next(ctx)
	return err
}

// Next waits for an exec to have ended since Next returned the last time. One return may
// stand for many. It reports whether there may be ends that are not on record, and the
// shim is to be asked; one of a version that does not say so always is. io.EOF says that
// the shim has ended; another error is that of ctx.
func (w *ExecWatch) Next(ctx context.Context) (unwritten bool, err error) { return w.next(ctx) }

// next waits for packets, and takes all that are there.
func (w *watch) next(ctx context.Context) (marked bool, err error) {
	defer deadlineOn(ctx, w.conn)()
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return false, err
	}
	changed, ended := false, false
	var buf [wire.MaxChange]byte
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.Read(int(fd), buf[:])
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return changed
			case errors.Is(err, unix.ECONNRESET) || err == nil && n == 0:
				ended = true
				return true
			case err != nil:
				rerr = err
				return true
			default:
				changed = true
				marked = marked || wire.DecodeChange(buf[:n])
			}
		}
	})
	switch {
	case changed:
		return marked, nil
	case ended:
		return false, io.EOF
	case err != nil && ctx.Err() != nil:
		return false, context.Cause(ctx)
	}
	return false, errors.Join(err, rerr)
}

// Close ends the watch; a waiting Next returns.
func (w *watch) Close() error { return w.conn.Close() }
