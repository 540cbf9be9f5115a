package runtime

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/epoll"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/wire"
)

func FuzzExecRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"created":"2026-01-01T00:00:00Z","uid":1,"gid":2,"run":"r","boot":"b","cmd":"ls","owners":{"":{"uid":1,"gid":1,"mode":493}}}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeExecRecord(b)
		if err != nil {
			return
		}
		for name, o := range r.Owners {
			if o.Mode&^0o777 != 0 {
				t.Errorf("mode of %q is %o", name, o.Mode)
			}
		}
	})
}

// execBox is a box without a shim, and its exec.
func execBox(t *testing.T) (*Box, *Exec) {
	t.Helper()
	rt := testRuntime(t)
	var err error
	rt.poller, err = epoll.NewPoller("streams of execs")
	must(t, err)
	t.Cleanup(func() {
		rt.work.Wait()
		must(t, rt.poller.Close())
	})
	b, err := rt.Create("box")
	must(t, err)
	e, err := b.CreateExec("e1", status.Owner{UID: 1, GID: 2})
	must(t, err)
	t.Cleanup(func() {
		if b.Exec("e1") == e {
			e.closeStreams()
		}
	})
	return b, e
}

// inRun gives a box a run that nothing stands behind.
func (b *Box) inRun(t *testing.T, text string) *run {
	t.Helper()
	c, err := config.Parse("box", []byte(text))
	must(t, err)
	r := newRun(1, "r1", c, []byte(text))
	must(t, b.update("test", func(t *tx) error { t.Config, t.Status = c, status.Configured; return nil }))
	must(t, b.update("test", func(t *tx) error { t.Status, t.run = status.Starting, r; return nil }))
	must(t, b.update("test", func(t *tx) error { t.Status = status.Running; return nil }))
	b.run = r
	return r
}

func TestWhoIsNotRootGetsNoMoreThanTheBoxHas(t *testing.T) {
	b, _ := execBox(t)
	b.rt.bounding = 1 << unix.CAP_KILL
	for name, c := range map[string]struct {
		config string
		cmd    config.Exec
		by     uint32
		err    error
		uid    uint32
	}{
		"root":                    {"command: [a]\nuser: nobody", config.Exec{User: "root"}, 0, nil, 0},
		"root, without a word":    {"command: [a]\nuser: nobody", config.Exec{}, 0, nil, 65534},
		"another":                 {"command: [a]\nuser: nobody", config.Exec{}, 1000, nil, 65534},
		"another says the same":   {"command: [a]\nuser: nobody", config.Exec{User: "nobody"}, 1000, nil, 65534},
		"another chooses":         {"command: [a]\nuser: nobody", config.Exec{User: "root"}, 1000, ErrDenied, 0},
		"another chooses no root": {"command: [a]\nuser: nobody", config.Exec{User: "daemon"}, 1000, ErrDenied, 0},
		"another in a root box":   {"command: [a]", config.Exec{}, 1000, ErrDenied, 0},
		"another in a uid 0 box":  {"command: [a]\nuser: '0:5'", config.Exec{}, 1000, ErrDenied, 0},
		"nobody of that name":     {"command: [a]\nuser: no-such-user", config.Exec{}, 0, ErrInvalid, 0},
		"root chooses a bad name": {"command: [a]", config.Exec{User: "no-such-user"}, 0, ErrInvalid, 0},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := config.Parse("box", []byte(c.config))
			must(t, err)
			c.cmd.Command = []string{"true"}
			r := &run{cfg: cfg}
			who, err := b.execUser(r, &c.cmd)
			var x *wire.ExecSpec
			if err == nil {
				x, err = b.execSpec(r, &c.cmd, who, (&ExecSnapshot{}).rights(c.by))
			}
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if err == nil && x.UID != c.uid {
				t.Errorf("uid %d, not %d", x.UID, c.uid)
			}
		})
	}
}

// A shim that knows no exec drops the question, and answers what it knows.
func TestExecOfAnOlderShim(t *testing.T) {
	b, e := execBox(t)
	b.inRun(t, "command: [a]\nuser: nobody")
	dir, err := os.Open(b.dir)
	must(t, err)
	defer dir.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(b.dir, wire.SocketName)}))
	must(t, unix.Listen(fd, 8))
	served := make(chan struct{})
	go func() {
		defer close(served)
		// What an OpState of run r1 is answered with; all else is dropped, as by a shim
		// that cannot decode it.
		for {
			c, _, err := unix.Accept(fd)
			if err != nil {
				return
			}
			buf := make([]byte, 1024)
			n, _ := unix.Read(c, buf)
			if n > 1 && wire.Op(buf[1]) == wire.OpState {
				_ = unix.Send(c, []byte("\x01\x00\x00\x00\x00\x02\x00\x00\x00r1\x00\x00\x01\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
			}
			_ = unix.Close(c)
		}
	}()
	done, err := e.Run(By{}, []byte("true"))
	must(t, err)
	err = done.Wait(t.Context())
	if !errors.Is(err, ErrStart) || !strings.Contains(err.Error(), "started by an older boxlite") {
		t.Errorf("got %v", err)
	}
	if s := e.Snapshot(); s.Status != ExecFailed || s.ExitCode != notExecuted {
		t.Errorf("%+v", s)
	}
	if got := b.Snapshot().LastError; !strings.Contains(got, "restart it") {
		t.Errorf("last_error %q", got)
	}
	must(t, unix.Shutdown(fd, unix.SHUT_RDWR))
	must(t, unix.Close(fd))
	<-served
}

func TestOutputIsConsumedAndGivenBack(t *testing.T) {
	b, e := execBox(t)
	root, err := b.pin()
	must(t, err)
	defer root.Close()
	must(t, e.openStreams(root))
	w, err := os.OpenFile(filepath.Join(b.dir, wire.ExecDir, "e1", wire.ExecStdout), os.O_WRONLY, 0)
	must(t, err)
	defer w.Close()
	e.mu.Lock()
	e.publish(func(s *ExecSnapshot) { s.Status = ExecRunning })
	e.mu.Unlock()
	out := e.Stdout()
	buf := make([]byte, 3)
	poll := func(want string) {
		t.Helper()
		n, more, err := out.Poll(buf)
		if err != nil || more != nil || string(buf[:n]) != want {
			t.Fatalf("%q, %v, %v; want %q", buf[:n], more, err, want)
		}
	}
	n, more, err := out.Poll(buf)
	if n != 0 || more == nil || err != nil {
		t.Fatalf("%d, %v, %v of an empty pipe", n, more, err)
	}
	_, err = w.WriteString("abcdef")
	must(t, err)
	wait := func(c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(10 * time.Second):
			t.Fatal("not woken")
		}
	}
	wait(more)
	poll("abc")
	out.Unread([]byte("bc"))
	poll("bc")
	poll("def")
	_, more, _ = out.Poll(buf)
	if more == nil {
		t.Fatal("nothing to wait for")
	}
	out.Unread([]byte("x"))
	wait(more)
	_, err = w.WriteString("yz")
	must(t, err)
	e.end(outcome{status: ExecStopped, code: 3})
	poll("x")
	poll("yz")
	if _, _, err := out.Poll(buf); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	must(t, b.RemoveExec("e1", 0))
	if _, _, err := out.Poll(buf); !errors.Is(err, ErrRemoved) {
		t.Errorf("of what is gone: %v", err)
	}
}

func TestStdinBlocksAndBreaks(t *testing.T) {
	b, e := execBox(t)
	if _, _, err := e.PollWrite([]byte("x")); !errors.Is(err, ErrNoProcess) {
		t.Fatalf("before it begins: %v", err)
	}
	r, err := os.OpenFile(filepath.Join(b.dir, wire.ExecDir, "e1", wire.ExecStdin), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	must(t, err)
	e.mu.Lock()
	e.publish(func(s *ExecSnapshot) { s.Status = ExecRunning })
	e.mu.Unlock()
	chunk := make([]byte, 1<<16)
	n, more, err := e.PollWrite(chunk)
	must(t, err)
	for more == nil {
		n, more, err = e.PollWrite(chunk)
		must(t, err)
	}
	if n != 0 {
		t.Fatalf("%d written, and something to wait for", n)
	}
	_, err = io.ReadFull(r, chunk)
	must(t, err)
	select {
	case <-more:
	case <-time.After(10 * time.Second):
		t.Fatal("not woken by room")
	}
	must(t, r.Close())
	if _, _, err := e.PollWrite(chunk); !errors.Is(err, ErrPipe) {
		t.Errorf("without a reader: %v", err)
	}
	r, err = os.OpenFile(filepath.Join(b.dir, wire.ExecDir, "e1", wire.ExecStdin), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	must(t, err)
	defer r.Close()
	if n, _, err := e.PollWrite(chunk); n == 0 || err != nil {
		t.Errorf("with a reader again: %v", err)
	}
	e.closeIn()
	if _, _, err := e.PollWrite(chunk); !errors.Is(err, ErrPipe) {
		t.Errorf("after close_stdin: %v", err)
	}
	e.end(outcome{status: ExecStopped})
}

func TestExecsAreFoundAgain(t *testing.T) {
	b, e := execBox(t)
	must(t, e.SetOwner("cmd", status.Owner{UID: 7, GID: 8, Mode: 0o640}))
	for _, name := range []string{"ended", "lost", "rebooted"} {
		_, err := b.CreateExec(name, status.Owner{})
		must(t, err)
		boot := b.rt.bootID
		if name == "rebooted" {
			boot = "another"
		}
		x := b.Exec(name)
		root, err := b.pin()
		must(t, err)
		must(t, x.save(root, &execRecord{Version: recordVersion, Run: "r1", Boot: boot, Cmd: "sleep 1"}))
		must(t, root.Close())
	}
	dir := filepath.Join(b.dir, wire.ExecDir)
	rec := wire.ExitRecord{Run: "r1", Code: 5, EndedNs: 1}
	must(t, os.WriteFile(filepath.Join(dir, "ended", wire.RecordName), rec.AppendJSON(nil), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "half"), 0o700))

	again := newBox(b.rt, "box")
	again.publish(&Snapshot{Status: status.Stopped, PID: -1, LastError: "ok"}, time.Now())
	must(t, again.readBackExecs())
	again.endExecs()
	defer again.dropExecs()
	all, _ := again.Execs()
	var got []string
	for _, x := range all {
		s := x.Snapshot()
		got = append(got, x.Name()+" "+string(s.Status)+" "+string(s.Text))
		if want := map[string]int{"e1": -1, "ended": 5, "lost": 137, "rebooted": -1}[x.Name()]; s.ExitCode != want {
			t.Errorf("exit code of %s is %d, not %d", x.Name(), s.ExitCode, want)
		}
	}
	if want := "e1 empty ,ended stopped sleep 1,lost stopped sleep 1,rebooted stopped sleep 1"; strings.Join(got, ",") != want {
		t.Errorf("got %q", got)
	}
	if o := again.Exec("e1").Snapshot().Owner("cmd", 0o600); o != (status.Owner{UID: 7, GID: 8, Mode: 0o640}) {
		t.Errorf("owner %+v", o)
	}
	if o := again.Exec("e1").Snapshot().Owner("ctl", 0o200); o != (status.Owner{UID: 1, GID: 2, Mode: 0o200}) {
		t.Errorf("owner %+v of a file that was not given away", o)
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half made: %v", err)
	}
	rec2, err := load(filepath.Join(dir, "lost"), wire.RecordName, decodeExit)
	if err != nil || rec2 == nil || rec2.Code != 137 {
		t.Errorf("what was concluded is not on record: %+v, %v", rec2, err)
	}
}
