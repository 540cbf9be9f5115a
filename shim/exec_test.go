package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// command is an exec under test, with the daemon's ends of its streams.
type command struct {
	t           testing.TB
	b           *box
	name        string
	dir         string
	in          *os.File
	out, errOut *os.File
	reply       client.ExecReply
}

// prepare makes what the daemon makes of an exec.
func (b *box) prepare(name string, edit func(*wire.ExecSpec), argv ...string) *command {
	b.t.Helper()
	c := &command{t: b.t, b: b, name: name, dir: filepath.Join(b.path, wire.ExecDir, name)}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		b.t.Fatal(err)
	}
	for _, f := range []string{wire.ExecStdin, wire.ExecStdout, wire.ExecStderr} {
		if err := unix.Mkfifo(filepath.Join(c.dir, f), 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			b.t.Fatal(err)
		}
	}
	x := wire.ExecSpec{Argv: argv, Env: b.spec.Env, Workdir: "/", Capabilities: allCaps}
	if edit != nil {
		edit(&x)
	}
	if err := os.WriteFile(filepath.Join(c.dir, wire.ExecSpecName), x.Append(nil), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (c *command) try(op wire.Op, sig syscall.Signal) (client.ExecReply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := client.AskExec(ctx, c.b.dir, wire.Request{Op: op, Run: c.b.spec.Run, Exec: c.name, Signal: sig})
	if r.Stdin >= 0 {
		sys.Close(r.Stdin) // all here goes through the FIFO, as with a daemon that knows no other way
	}
	return r, err
}

func (c *command) ask(op wire.Op, sig syscall.Signal) client.ExecReply {
	c.t.Helper()
	r, err := c.try(op, sig)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// open opens the daemon's ends.
func (c *command) open() {
	c.t.Helper()
	end := func(name string, how int) *os.File {
		f, err := os.OpenFile(filepath.Join(c.dir, name), how|unix.O_NONBLOCK, 0)
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = f.Close() })
		return f
	}
	c.out, c.errOut = end(wire.ExecStdout, os.O_RDONLY), end(wire.ExecStderr, os.O_RDONLY)
	c.in = end(wire.ExecStdin, os.O_RDWR) // until it runs there is no reader
}

// writes leaves the command as the only reader of its stdin.
func (c *command) writes() {
	c.t.Helper()
	in := must(os.OpenFile(filepath.Join(c.dir, wire.ExecStdin), os.O_WRONLY|unix.O_NONBLOCK, 0))
	closeFile(c.in)
	c.in = in
	c.t.Cleanup(func() { _ = in.Close() })
}

// run starts an exec, and opens the daemon's ends.
func (b *box) exec(name string, edit func(*wire.ExecSpec), argv ...string) *command {
	b.t.Helper()
	c := b.prepare(name, edit, argv...)
	c.open()
	c.reply = c.ask(wire.OpExec, 0)
	if c.reply.Errno != 0 || c.reply.State.Phase != wire.ExecRunning && c.reply.State.Phase != wire.ExecEnded {
		b.t.Fatalf("not begun: %+v", c.reply)
	}
	return c
}

// record waits for the exec to end, by its record.
func (c *command) record() wire.ExitRecord {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w, err := client.WatchExecs(ctx, c.b.dir, c.b.spec.Run)
	if err == nil {
		defer closeFile(w)
	}
	for {
		data, rerr := os.ReadFile(filepath.Join(c.dir, wire.RecordName))
		if rerr == nil {
			var r wire.ExitRecord
			if err := json.Unmarshal(data, &r); err != nil {
				c.t.Fatalf("%s: %v", data, err)
			}
			if r.Run != c.b.spec.Run || r.EndedNs < r.StartedNs || r.StartedNs == 0 {
				c.t.Errorf("record %+v", r)
			}
			return r
		}
		if err == nil {
			_, err = w.Next(ctx)
			continue // once more also when the shim has ended
		}
		c.t.Fatalf("no record of the exec %s: %v, %v", c.name, rerr, err)
	}
}

// rest is what is in a stream now.
func (c *command) rest(f *os.File) string {
	c.t.Helper()
	var all []byte
	buf := make([]byte, 64<<10)
	raw := must(f.SyscallConn())
	_ = raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.Read(int(fd), buf)
			if n <= 0 || err != nil {
				return true
			}
			all = append(all, buf[:n]...)
		}
	})
	return string(all)
}

func sleeper(t testing.TB) *box {
	t.Helper()
	return newBox(t, "/bin/sleep", "1000").mustStart()
}

func TestExecRunsInTheBox(t *testing.T) {
	b := sleeper(t)
	c := b.exec("e1", func(x *wire.ExecSpec) {
		x.Env = append(x.Env, "A=b c")
		x.Workdir = "/usr"
	}, "sh", "-c", `read line; echo "$line $A $(pwd) $(ps -o pid= -C boxlite-shim)"; echo oops >&2; ps -o sid= -p $$; exit 7`)
	if c.reply.PID <= 1 || !strings.Contains(readStat(t, c.reply.PID, "cmdline"), "read line") {
		t.Errorf("pid %d", c.reply.PID)
	}
	must(c.in.WriteString("hello\n"))
	if r := c.record(); r.Code != 7 || r.Signal != 0 || r.StoppedBy != "" || r.Failed != "" {
		t.Errorf("record %+v", r)
	}
	out := strings.Fields(c.rest(c.out))
	pid := strings.Fields(field(readStatOf(t, b.h.PID), "NSpid"))
	if len(out) != 6 || strings.Join(out[:5], " ") != "hello b c /usr 1" || pid[len(pid)-1] != "1" {
		t.Errorf("stdout %q", out)
	}
	expect(t, "stderr", c.rest(c.errOut), "oops\n")
	if s := c.ask(wire.OpExecState, 0); s.State.Phase != wire.ExecEnded || s.State.Code != 7 || s.PID != -1 {
		t.Errorf("state %+v", s)
	}
}

func readStatOf(t testing.TB, pid int) string { return readStat(t, pid, "status") }

func TestExecExit(t *testing.T) {
	b := sleeper(t)
	for name, x := range map[string]struct {
		script string
		code   int
		signal int
	}{
		"zero": {"exit 0", 0, 0}, "last": {"exit 255", 255, 0}, "term": {"kill -TERM $$", 143, 15}, "kill": {"kill -KILL $$", 137, 9},
	} {
		if r := b.exec(name, nil, "sh", "-c", x.script).record(); r.Code != x.code || r.Signal != x.signal {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestExecCannotBegin(t *testing.T) {
	b := sleeper(t)
	script := filepath.Join(b.path, "script")
	if err := os.WriteFile(script, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		edit func(*wire.ExecSpec)
		argv string
		code int
		says string
	}{
		"missing": {nil, "nosuch", 127, `command "nosuch" not found in PATH ` + path + " (step lookup)"},
		"denied":  {nil, script, 126, script + " is not executable: permission denied (step exec)"},
		"workdir": {func(x *wire.ExecSpec) { x.Workdir = "/nosuch" }, "true", 125, "cannot chdir to /nosuch: no such file or directory (step workdir)"},
	} {
		c := b.prepare(name, x.edit, x.argv)
		r := c.ask(wire.OpExec, 0)
		if r.Errno != 0 || r.State.Phase != wire.ExecFailed || r.State.Code != x.code || r.State.Failed != x.says || r.PID != -1 {
			t.Errorf("%s: %+v", name, r)
		}
		if rec := c.record(); rec.Code != x.code || rec.Failed != x.says {
			t.Errorf("%s: record %+v", name, rec)
		}
	}
	for name, spoil := range map[string]func(c *command) error{
		"no order":    func(c *command) error { return os.Remove(filepath.Join(c.dir, wire.ExecSpecName)) },
		"empty order": func(c *command) error { return os.Truncate(filepath.Join(c.dir, wire.ExecSpecName), 0) },
		"cut order":   func(c *command) error { return os.Truncate(filepath.Join(c.dir, wire.ExecSpecName), 30) },
		"no FIFO": func(c *command) error {
			return os.Remove(filepath.Join(c.dir, wire.ExecStderr))
		},
	} {
		c := b.prepare("x"+strconv.Itoa(len(name)), nil, "true")
		if err := spoil(c); err != nil {
			t.Fatal(err)
		}
		if r := c.ask(wire.OpExec, 0); r.Errno == 0 && r.State.Phase != wire.ExecFailed {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for _, name := range []string{"", "..", "a/b", ".x", strings.Repeat("a", 65)} {
		c := &command{t: t, b: b, name: name}
		if r := c.ask(wire.OpExec, 0); r.Errno != unix.EINVAL {
			t.Errorf("%q: %+v", name, r)
		}
	}
	if r := (&command{t: t, b: b, name: "nosuch"}).ask(wire.OpExecState, 0); r.Errno != unix.ENOENT {
		t.Errorf("unknown: %+v", r)
	}
	b.alone()
}

func TestExecTimeoutKillsTheGroup(t *testing.T) {
	b := sleeper(t)
	limit := func(ns int64) func(x *wire.ExecSpec) { return func(x *wire.ExecSpec) { x.TimeoutNs = ns } }
	c := b.exec("e1", limit(100e6), "sh", "-c", "sleep 1000 & sleep 1000")
	if r := c.record(); r.Code != timedOutCode || r.Signal != 9 || r.StoppedBy != wire.StoppedByTimeout {
		t.Errorf("%+v", r)
	}
	b.alone()
	// The leader has ended, and with its own code.
	c = b.exec("e2", limit(3e9), "sh", "-c", "sleep 1000 & exit 3")
	if r := c.record(); r.Code != 3 || r.StoppedBy != "" {
		t.Errorf("%+v", r)
	}
	b.alone()
}

func TestExecKillAndSignal(t *testing.T) {
	b := sleeper(t)
	c := b.exec("e1", nil, "sh", "-c", `trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.01; done`)
	buf := make([]byte, 6)
	if _, err := io.ReadFull(c.out, buf); err != nil {
		t.Fatal(err)
	}
	if r := c.ask(wire.OpExecForget, 0); r.Errno != unix.EBUSY {
		t.Errorf("forgotten while it runs: %+v", r)
	}
	if r := c.ask(wire.OpExec, 0); r.Errno != unix.EBUSY {
		t.Errorf("started twice: %+v", r)
	}
	if r := c.ask(wire.OpExecSignal, unix.SIGUSR1); r.Errno != 0 {
		t.Errorf("%+v", r)
	}
	if r := c.record(); r.Code != 5 {
		t.Errorf("%+v", r)
	}
	if r := c.ask(wire.OpExecSignal, unix.SIGUSR1); r.Errno != unix.ESRCH {
		t.Errorf("%+v", r)
	}
	c = b.exec("e2", nil, "sh", "-c", "sleep 1000 & sleep 1000")
	c.ask(wire.OpExecKill, 0)
	if r := c.record(); r.Code != 137 {
		t.Errorf("%+v", r)
	}
	c = b.exec("e3", nil, "sh", "-c", "sleep 1000 & exit 0")
	c.record()
	c.ask(wire.OpExecKill, 0)
	b.alone()
}

func TestExecsEndWithTheBox(t *testing.T) {
	for name, end := range map[string]func(b *box){
		"stop": func(b *box) { b.ask(wire.Request{Op: wire.OpStop, Grace: time.Minute}) },
		"by itself": func(b *box) {
			_ = unix.Kill(must(strconv.Atoi(b.children()[0])), unix.SIGTERM)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := sleeper(t)
			c := b.exec("e1", nil, "sh", "-c", "echo x; echo y >&2; exec sleep 1000")
			if _, err := io.ReadFull(c.errOut, make([]byte, 2)); err != nil {
				t.Fatal(err)
			}
			end(b)
			if r := c.record(); r.Code != 137 || r.Signal != 9 {
				t.Errorf("%+v", r)
			}
			b.wait()
			expect(t, "rest", c.rest(c.out), "x\n")
			if r := b.record(); r.Code != 143 {
				t.Errorf("the box's own: %+v", r)
			}
		})
	}
}

func TestExecIsRefused(t *testing.T) {
	b := sleeper(t)
	b.ask(wire.Request{Op: wire.OpPause})
	if r := b.prepare("e1", nil, "true").ask(wire.OpExec, 0); r.Errno != unix.EBUSY {
		t.Errorf("paused: %+v", r)
	}
	b.ask(wire.Request{Op: wire.OpResume})
	c := b.prepare("e2", nil, "true")
	b.spec.Run = "another"
	if r := c.ask(wire.OpExec, 0); r.Errno != unix.ESTALE {
		t.Errorf("another run: %+v", r)
	}
}

// The record of an exec that was removed comes late, into the directory of its successor.
func TestALateRecordIsNotOfTheSuccessor(t *testing.T) {
	b := sleeper(t)
	c := b.prepare("e", nil, "sh", "-c", "read x; exit $x")
	late := wire.ExitRecord{Run: b.spec.Run, Code: 7}
	if err := os.WriteFile(filepath.Join(c.dir, wire.RecordName), late.AppendJSON(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	c.open()
	if c.reply = c.ask(wire.OpExec, 0); c.reply.State.Phase != wire.ExecRunning {
		t.Fatalf("%+v", c.reply)
	}
	if data, err := os.ReadFile(filepath.Join(c.dir, wire.RecordName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it has ended before its end: %s (%v)", data, err)
	}
	must(fmt.Fprintln(c.in, "3"))
	if r := c.record(); r.Code != 3 {
		t.Errorf("%+v", r)
	}
}

func TestManyExecs(t *testing.T) {
	b := sleeper(t)
	var work sync.WaitGroup
	turns := make(chan struct{}, 16)
	all := make([]*command, 100)
	for i := range all {
		work.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			all[i] = b.exec(fmt.Sprint("e", i), nil, "sh", "-c", fmt.Sprintf("read x; echo $x; exit %d", i))
		})
	}
	work.Wait()
	if t.Failed() {
		return
	}
	for i, c := range all {
		must(fmt.Fprintf(c.in, "%d\n", i))
	}
	for i, c := range all {
		if r := c.record(); r.Code != i {
			t.Errorf("%d: %+v", i, r)
		}
		expect(t, "stdout", c.rest(c.out), fmt.Sprintln(i))
	}
	b.alone()
	if l := b.line(); l != nil {
		l.quiet()
	}
}

// A frozen box holds up its exec, and nobody else.
func TestExecInAFrozenBox(t *testing.T) {
	g := newGroup(t)
	b := g.has(newBox(t, "/bin/sleep", "1000")).mustStart()
	g.freeze()
	c := b.prepare("e1", nil, "true")
	answer := make(chan client.ExecReply, 1)
	go func() {
		r, err := c.try(wire.OpExec, 0)
		if err != nil {
			r.State.Failed = err.Error()
		}
		answer <- r
	}()
	until(t, "it starts", func() bool { return c.ask(wire.OpExecState, 0).State.Phase == wire.ExecStarting })
	b.ask(wire.Request{Op: wire.OpState})
	g.thaw()
	if r := <-answer; r.Errno != 0 || r.State.Failed != "" {
		t.Errorf("%+v", r)
	}
	if r := c.record(); r.Code != 0 {
		t.Errorf("%+v", r)
	}
}

// One that never got to be executed ends with its box.
func TestExecEndsBeforeItBegins(t *testing.T) {
	g := newGroup(t)
	b := g.has(newBox(t, "/bin/sleep", "1000")).mustStart()
	g.freeze()
	c := b.prepare("e1", nil, "true")
	answer := make(chan error, 1)
	go func() {
		_, err := c.try(wire.OpExec, 0)
		answer <- err
	}()
	until(t, "it starts", func() bool { return c.ask(wire.OpExecState, 0).State.Phase == wire.ExecStarting })
	b.ask(wire.Request{Op: wire.OpStop})
	b.wait()
	if err := <-answer; err != nil {
		t.Log("the shim went before it answered:", err)
	}
	if r := c.record(); r.Code != 137 {
		t.Errorf("%+v", r)
	}
}
