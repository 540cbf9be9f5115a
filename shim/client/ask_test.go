package client

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// shimIn answers one request in a box's directory, as a shim does, and hangs up.
func shimIn(t *testing.T, dir string, answer wire.Reply) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, wire.SocketName)}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = unix.Close(conn) }()
		buf := make([]byte, wire.MaxMessage)
		if n, err := unix.Read(conn, buf); err != nil {
			t.Error(err)
		} else if _, err := wire.DecodeRequest(buf[:n]); err != nil {
			t.Error(err)
		}
		if err := unix.Send(conn, answer.Append(nil), unix.MSG_NOSIGNAL); err != nil {
			t.Error(err)
		}
	}()
}

// The answer and the end of the connection may both come after the kernel has
// looked for a packet, and before it looks for the end.
func TestAnAnswerBeforeTheEndIsNotLost(t *testing.T) {
	path := t.TempDir()
	shimIn(t, path, wire.Reply{State: wire.State{Run: "r", Alive: true}})
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	early := 0
	recvmsg = func(fd int, p, oob []byte, flags int) (n, oobn, recvflags int, from unix.Sockaddr, err error) {
		if early++; early > 1 {
			return unix.Recvmsg(fd, p, oob, flags)
		}
		end := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		for deadline := time.Now().Add(time.Minute); ; {
			n, err := unix.Poll(end, int(time.Until(deadline).Milliseconds()))
			if err == unix.EINTR {
				continue
			}
			if n != 1 || err != nil {
				t.Errorf("the shim does not hang up: %v", err)
			}
			return 0, 0, 0, nil, nil
		}
	}
	t.Cleanup(func() { recvmsg = unix.Recvmsg })
	r, err := Ask(t.Context(), dir, wire.Request{Op: wire.OpState})
	if err != nil || !r.State.Alive || r.Peer != os.Getpid() {
		t.Errorf("%+v, %v", r, err)
	}
	if early != 2 {
		t.Errorf("looked %d times", early)
	}
}
