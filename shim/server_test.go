package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

func TestLongPath(t *testing.T) {
	dir := t.TempDir()
	for len(dir) < 600 {
		dir = filepath.Join(dir, strings.Repeat("d", 100))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b := newBoxIn(t, dir, "/bin/sh", "-c", "echo hi; exec sleep 1000").mustStart()
	b.awaitLog("hi")
	if r := b.ask(wire.Request{Op: wire.OpState}); !r.State.Alive {
		t.Errorf("%+v", r)
	}
	info, err := os.Stat(filepath.Join(dir, wire.SocketName))
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
}

func TestNobodyToAsk(t *testing.T) {
	b := sh(t, "exit 0")
	if _, err := client.Ask(context.Background(), b.dir, wire.Request{Op: wire.OpState}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("before: %v", err)
	}
	b.mustStart()
	b.wait()
	if _, err := client.Ask(context.Background(), b.dir, wire.Request{Op: wire.OpState}); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after: %v", err)
	}
}

// TestStuckShim asks a shim that is stopped, which has to end with the context.
func TestStuckShim(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	b.stands()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Ask(ctx, b.dir, wire.Request{Op: wire.OpState}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// rawConn connects without ever sending anything.
func rawConn(t *testing.T, b *box) *os.File {
	t.Helper()
	var c *os.File
	until(t, "there is room in the queue", func() bool {
		var err error
		if c, err = b.connect(); err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
		return err == nil
	})
	return c
}

// connect connects to the shim, or says by EAGAIN that too many wait to be accepted.
func (b *box) connect() (*os.File, error) {
	fd := must(unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
	err := unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", b.dir.Fd(), wire.SocketName)})
	if err != nil {
		sys.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), wire.SocketName), nil
}

func TestHostileClients(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	// More silent connections than the shim takes, and some that talk rubbish.
	var silent []*os.File
	for range wire.MaxConns - 4 {
		silent = append(silent, rawConn(t, b))
	}
	for _, packet := range [][]byte{{0}, {wire.Version}, {wire.Version, 99}, make([]byte, 5000)} {
		c := rawConn(t, b)
		if _, err := c.Write(packet); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 10)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%v was answered: %d, %v", packet[:min(len(packet), 4)], n, err)
		}
		_ = c.Close()
	}
	if r := b.ask(wire.Request{Op: wire.OpState}); !r.State.Alive {
		t.Errorf("%+v", r)
	}
	// The oldest make room for the newest.
	for range 20 {
		silent = append(silent, rawConn(t, b))
	}
	if r := b.ask(wire.Request{Op: wire.OpState}); !r.State.Alive {
		t.Errorf("%+v", r)
	}
	if n, err := silent[0].Read(make([]byte, 10)); !errors.Is(err, io.EOF) {
		t.Errorf("the first of too many: %d, %v", n, err)
	}
	if _, err := silent[len(silent)-1].Write(wire.Request{Op: wire.OpState}.Append(nil)); err != nil {
		t.Errorf("the last of too many: %v", err)
	}
	for _, c := range silent {
		_ = c.Close()
	}
	if r := b.ask(wire.Request{Op: wire.OpState}); !r.State.Alive {
		t.Errorf("%+v", r)
	}
}

func TestSilentClientsAreDropped(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	c := rawConn(t, b)
	defer closeFile(c)
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", n, err)
	}
}

func TestWatcherThatNeverReads(t *testing.T) {
	b := newBox(t, "/usr/bin/python3", "-c", "import os\nfor i in range(20000): os.write(1, b'x'*100)")
	b.mustStart()
	c := rawConn(t, b)
	defer closeFile(c)
	if _, err := c.Write(wire.Request{Op: wire.OpWatchLog}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	b.wait()
	if got := len(b.log()); got != 2_000_000 {
		t.Errorf("%d bytes", got)
	}
}

func TestOnlyRootIsAnswered(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	for _, p := range []string{b.path, filepath.Dir(b.path)} {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(b.path, wire.SocketName), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-c", `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
try:
    s.send(bytes([1, 1] + [0]*16))
    sys.stdout.write("answer %d" % len(s.recv(1024)))
except OSError as e:
    sys.stdout.write("answer 0")
`, filepath.Join(b.path, wire.SocketName))
	for uid, want := range map[uint32]bool{65534: false, 0: true} {
		c := *cmd
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := c.Output()
		if err != nil {
			t.Fatal(err)
		}
		if answered := string(out) != "answer 0"; answered != want {
			t.Errorf("uid %d: %s", uid, out)
		}
	}
}
