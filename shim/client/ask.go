//go:build linux && (amd64 || arm64)

package client

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// Reply is a shim's answer.
type Reply struct {
	wire.Reply
	// Peer is the shim's pid as the asker sees it, by the kernel's word.
	Peer int
}

// ExecReply is a shim's answer to a request on an exec.
type ExecReply struct {
	wire.ExecReply
	// PID is that of the command as the asker sees it, by the kernel's word, or -1
	// when it does not run.
	PID int
	// Stdin is what to write to, to be closed by who has asked, or -1. It comes with the
	// answers to OpExec and OpExecState while the command runs and may meet no EOF yet;
	// not from older shims, nor for a terminal: those have the FIFO.
	Stdin int
}

// Ask sends a request to the shim of the box whose directory dir is, and waits
// for the answer. A reply with an Errno is no error of Ask. ECONNREFUSED and
// ENOENT say that there is no shim; io.ErrUnexpectedEOF and ECONNRESET that it
// ended, or refused the request, before it answered.
func Ask(ctx context.Context, dir *os.File, req wire.Request) (Reply, error) {
	conn, reply, err := ask(ctx, dir, req)
	if err != nil {
		return Reply{}, err
	}
	return reply, conn.Close()
}

func ask(ctx context.Context, dir *os.File, req wire.Request) (*os.File, Reply, error) {
	conn, err := dial(ctx, dir)
	if err != nil {
		return nil, Reply{}, err
	}
	reply, err := exchange(ctx, conn, req)
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, Reply{}, err
	}
	return conn, reply, nil
}

func exchange(ctx context.Context, conn *os.File, req wire.Request) (Reply, error) {
	packet, oob, err := converse(ctx, conn, req)
	if err != nil {
		return Reply{}, err
	}
	reply, err := wire.DecodeReply(packet)
	if err != nil {
		return Reply{}, err
	}
	peer, err := sender(oob)
	return Reply{reply, peer}, err
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
func AskExec(ctx context.Context, dir *os.File, req wire.Request) (ExecReply, error) {
	conn, err := dial(ctx, dir)
	if err != nil {
		return ExecReply{Stdin: -1}, err
	}
	defer conn.Close()
	packet, oob, err := converse(ctx, conn, req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return ExecReply{Stdin: -1}, err
	}
	reply := ExecReply{PID: -1, Stdin: descriptor(oob)}
	reply.ExecReply, err = wire.DecodeExecReply(packet)
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
