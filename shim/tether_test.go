package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// tether returns a tether to the shim of b, and closes it with the test.
func (b *box) tether() int {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fd, err := client.Tether(ctx, b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { sys.Close(fd) })
	return fd
}

// hungUp waits that long for a tether to hang up, as the watcher does: for nothing
// that comes through it.
func hungUp(t *testing.T, fd int, wait time.Duration) bool {
	t.Helper()
	for end := time.Now().Add(wait); ; {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, max(0, int(time.Until(end).Milliseconds())))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
}

func (b *box) signal(sig unix.Signal) {
	b.t.Helper()
	if err := unix.PidfdSendSignal(b.h.PIDFD, sig, nil, 0); err != nil {
		b.t.Fatal(err)
	}
}

// stands stops the shim, and returns when it does not run any more.
func (b *box) stands() {
	b.t.Helper()
	b.signal(unix.SIGSTOP)
	until(b.t, "the shim stands", func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.h.PID))
		return err == nil && field(string(status), "State")[0] == 'T'
	})
}

// The box logs, others ask, and there are more connections than the shim keeps:
// none of it hangs up a tether, to a shim that answered at first or to one that
// did not. The end of the shim does, however it comes.
func TestTetherHangsUpAtTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		stands bool
		end    func(b *box)
	}{
		"the command exits": {false, func(b *box) { b.ask(wire.Request{Op: wire.OpSignal, Signal: unix.SIGUSR2}) }},
		"killed":            {false, func(b *box) { b.signal(unix.SIGKILL) }},
		"stood at first":    {true, func(b *box) { b.signal(unix.SIGKILL) }},
	} {
		t.Run(name, func(t *testing.T) {
			// More lines than the queue of a connection holds packets.
			b := sh(t, `trap 'i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo $i; done; echo said' USR1; trap 'exit 3' USR2
				echo ready; while :; do sleep 0.01; done`).mustStart()
			b.awaitLog("ready")
			if c.stands {
				b.stands()
			}
			fd := b.tether()
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("children would inherit it: %#x, %v", flags, err)
			}
			if c.stands {
				if hungUp(t, fd, 50*time.Millisecond) {
					t.Error("it has hung up while the shim stands")
				}
				b.signal(unix.SIGCONT)
			}
			b.ask(wire.Request{Op: wire.OpState}) // behind the tether in the queue
			b.ask(wire.Request{Op: wire.OpSignal, Signal: unix.SIGUSR1})
			b.awaitLog("said")
			for range 2 * wire.MaxConns {
				defer closeFile(rawConn(t, b))
			}
			b.ask(wire.Request{Op: wire.OpState})
			if hungUp(t, fd, 0) {
				t.Error("it has hung up while the shim lives")
			}
			c.end(b)
			if !hungUp(t, fd, patience) {
				t.Error("it has not hung up at the end")
			}
			b.wait()
		})
	}
}

// A shim that stands still, and never goes on, can be killed.
func TestTetherToOneThatStands(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	b.stands()
	fd := b.tether()
	if hungUp(t, fd, 50*time.Millisecond) {
		t.Error("it has hung up while the shim stands")
	}
	b.signal(unix.SIGKILL)
	if !hungUp(t, fd, patience) {
		t.Error("it has not hung up at the end")
	}
	b.wait()
	if _, err := client.Tether(context.Background(), b.dir); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after the end: %v", err)
	}
}

// Others have asked a shim that stands, more than it keeps connections, and have
// given up or not: when it goes on, each request that waited is answered.
func TestTetherBeforeACrowd(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	b.stands()
	fd := b.tether()
	var crowd []*os.File
	for i := range wire.MaxConns + 20 {
		c := rawConn(t, b)
		defer closeFile(c)
		if _, err := c.Write(wire.Request{Op: wire.OpState}.Append(nil)); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			_ = c.Close()
		} else {
			crowd = append(crowd, c)
		}
	}
	b.signal(unix.SIGCONT)
	b.ask(wire.Request{Op: wire.OpState})
	if hungUp(t, fd, 0) {
		t.Error("it has hung up while the shim lives")
	}
	for i, c := range crowd {
		buf := make([]byte, wire.MaxMessage)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if r, err := wire.DecodeReply(buf[:n]); err != nil || !r.State.Alive {
			t.Errorf("request %d: %+v, %v", i, r, err)
		}
	}
	b.signal(unix.SIGKILL)
	if !hungUp(t, fd, patience) {
		t.Error("it has not hung up at the end")
	}
}

// Where too many wait to be accepted a tether waits too, no longer than its context
// lasts, and leaves nothing behind.
func TestTetherToOneWithAFullQueue(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	b.stands()
	for n := 0; ; n++ {
		c, err := b.connect()
		if errors.Is(err, unix.EAGAIN) {
			break // there was no room
		}
		if err != nil || n > 1000 {
			t.Fatalf("connection %d: %v", n, err)
		}
		defer closeFile(c)
	}
	type result struct {
		fd  int
		err error
	}
	tether := func(limit time.Duration) <-chan result {
		got := make(chan result, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			fd, err := client.Tether(ctx, b.dir)
			got <- result{fd, err}
		}()
		return got
	}
	before := openFiles(t)
	select {
	case r := <-tether(50 * time.Millisecond):
		if r.fd != -1 || !errors.Is(r.err, context.DeadlineExceeded) {
			t.Fatalf("got %+v", r)
		}
	case <-time.After(patience):
		t.Fatal("it goes on when its context has ended")
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	got := tether(patience)
	select {
	case r := <-got:
		t.Fatalf("there was room, so this shows nothing: %+v", r)
	case <-time.After(50 * time.Millisecond):
	}
	b.signal(unix.SIGCONT)
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer sys.Close(r.fd)
	b.ask(wire.Request{Op: wire.OpState})
	if hungUp(t, r.fd, 0) {
		t.Error("it has hung up while the shim lives")
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
