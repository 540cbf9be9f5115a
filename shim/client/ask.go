//go:build linux && (amd64 || arm64)

package client

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// Ask sends a request to the shim of the box whose directory dir is, and waits
// for the answer. A reply with an Errno is no error of Ask. ECONNREFUSED and
// ENOENT say that there is no shim; io.ErrUnexpectedEOF and ECONNRESET that it
// ended, or refused the request, before it answered.
func Ask(ctx context.Context, dir *os.File, req wire.Request) (wire.Reply, error) {
	conn, reply, err := ask(ctx, dir, req)
	if err != nil {
		return wire.Reply{}, err
	}
	return reply, conn.Close()
}

func ask(ctx context.Context, dir *os.File, req wire.Request) (*os.File, wire.Reply, error) {
	conn, err := dial(ctx, dir)
	if err != nil {
		return nil, wire.Reply{}, err
	}
	reply, err := exchange(ctx, conn, req)
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, wire.Reply{}, err
	}
	return conn, reply, nil
}

func exchange(ctx context.Context, conn *os.File, req wire.Request) (wire.Reply, error) {
	packet, oob, err := converse(ctx, conn, req)
	if err != nil {
		return wire.Reply{}, err
	}
	reply, err := wire.DecodeReply(packet)
	if err != nil {
		return wire.Reply{}, err
	}
	reply.Peer, err = sender(oob)
	return reply, err
}

// converse sends a request and waits for the answer, which comes with credentials, and
// to some requests with a descriptor.
func converse(ctx context.Context, conn *os.File, req wire.Request) (packet, oob []byte, err error) {
	defer deadlineOn(ctx, conn)()
	if _, err := conn.Write(req.Append(nil)); err != nil {
		return nil, nil, err
	}
	buf := make([]byte, wire.MaxMessage)
	room := unix.CmsgSpace(unix.SizeofUcred)
	if req.Op == wire.OpExec || req.Op == wire.OpExecState {
		room += unix.CmsgSpace(4)
	}
	oob = make([]byte, room)
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var n, oobn int
	var rerr error
	if err := raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, rerr = recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		if n == 0 && rerr == nil {
			// The kernel looks for a packet and then for the end, and tells the end
			// also where both come in between. 8 of 100,000 answers were lost so on a
			// busy machine. After the end no more comes.
			n, oobn, _, _, rerr = recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
		}
		return !errors.Is(rerr, unix.EAGAIN) && !errors.Is(rerr, unix.EINTR)
	}); err != nil {
		return nil, nil, err
	}
	if rerr != nil {
		return nil, nil, rerr
	}
	if n == 0 {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return buf[:n], oob[:oobn], nil
}

// AskExec sends a request on an exec, one of OpExec to OpExecForget, and waits for
// the answer; that to OpExec comes when the command was executed or could not be,
// and the exec goes on whether or not anybody waits for it. Its errors are those of
// Ask. A shim that knows no execs, being of an older version, gives
// io.ErrUnexpectedEOF.
func AskExec(ctx context.Context, dir *os.File, req wire.Request) (wire.ExecReply, error) {
	conn, err := dial(ctx, dir)
	if err != nil {
		return wire.ExecReply{Stdin: -1}, err
	}
	defer conn.Close()
	packet, oob, err := converse(ctx, conn, req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return wire.ExecReply{Stdin: -1}, err
	}
	reply, err := wire.DecodeExecReply(packet)
	reply.Stdin = descriptor(oob)
	// Before, there may be no process: the kernel would give the shim's own pid.
	if err == nil && reply.State.Phase == wire.ExecRunning {
		reply.PID, err = sender(oob)
	}
	if err != nil && reply.Stdin >= 0 {
		sys.Close(reply.Stdin)
		reply.Stdin = -1
	}
	return reply, err
}

// descriptor returns the descriptor that came with a packet, or -1.
func descriptor(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	for i := range messages {
		// There was room for one.
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil && len(fds) == 1 {
			return fds[0]
		}
	}
	return -1
}

// AskEnd asks the shim of a run that has ended for the ExitRecord, as JSON, that it could
// not write. Its errors are those of Ask; EBUSY says that something of the run goes on, or that the shim
// is of another. A shim of an older version gives io.ErrUnexpectedEOF.
func AskEnd(ctx context.Context, dir *os.File, run string) ([]byte, error) {
	conn, err := dial(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	packet, _, err := converse(ctx, conn, wire.Request{Op: wire.OpEnd, Run: run})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	errno, record, err := wire.DecodeEndReply(packet)
	if err == nil && errno != 0 {
		err = errno
	}
	return record, err
}

// recvmsg is replaced by tests.
var recvmsg = unix.Recvmsg

// sender returns the pid of the process that sent a packet, which the kernel
// adds to what a socket with SO_PASSCRED receives.
func sender(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, err
	}
	for i := range messages {
		if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			return int(cred.Pid), nil
		}
	}
	return 0, errors.New("the kernel does not say who answered")
}

// Home returns what the directory is that the shim with that pid keeps its box in. The
// shim has it open all its life, wherever that is moved. ENOENT says that there is no such
// process, or that it has ended.
func Home(pid int) (dir unix.Stat_t, err error) {
	err = unix.Stat("/proc/"+strconv.Itoa(pid)+"/fd/"+strconv.Itoa(wire.FDDir), &dir)
	return dir, err
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
