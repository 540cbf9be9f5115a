package shim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// command is an exec under test, with the daemon's ends of its streams.
type command struct {
	t           testing.TB
	b           *box
	name        string
	dir         string
	in          *os.File
	out, errOut *os.File
	reply       ExecReply
}

// prepare makes what the daemon makes of an exec.
func (b *box) prepare(name string, edit func(*ExecSpec), argv ...string) *command {
	b.t.Helper()
	c := &command{t: b.t, b: b, name: name, dir: filepath.Join(b.path, ExecDir, name)}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		b.t.Fatal(err)
	}
	for _, f := range []string{ExecStdin, ExecStdout, ExecStderr} {
		if err := unix.Mkfifo(filepath.Join(c.dir, f), 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			b.t.Fatal(err)
		}
	}
	x := ExecSpec{Argv: argv, Env: b.spec.Env, Workdir: "/", Capabilities: allCaps}
	if edit != nil {
		edit(&x)
	}
	if err := os.WriteFile(filepath.Join(c.dir, ExecSpecName), x.Append(nil), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (c *command) try(op Op, sig syscall.Signal) (ExecReply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := AskExec(ctx, c.b.dir, Request{Op: op, Run: c.b.spec.Run, Exec: c.name, Signal: sig})
	if r.Stdin >= 0 {
		closeFD(r.Stdin) // all here goes through the FIFO, as with a daemon that knows no other way
	}
	return r, err
}

func (c *command) ask(op Op, sig syscall.Signal) ExecReply {
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
	c.out, c.errOut = end(ExecStdout, os.O_RDONLY), end(ExecStderr, os.O_RDONLY)
	c.in = end(ExecStdin, os.O_RDWR) // until it runs there is no reader
}

// writes leaves the command as the only reader of its stdin.
func (c *command) writes() {
	c.t.Helper()
	in := must(os.OpenFile(filepath.Join(c.dir, ExecStdin), os.O_WRONLY|unix.O_NONBLOCK, 0))
	closeFile(c.in)
	c.in = in
	c.t.Cleanup(func() { _ = in.Close() })
}

// run starts an exec, and opens the daemon's ends.
func (b *box) exec(name string, edit func(*ExecSpec), argv ...string) *command {
	b.t.Helper()
	c := b.prepare(name, edit, argv...)
	c.open()
	c.reply = c.ask(OpExec, 0)
	if c.reply.Errno != 0 || c.reply.State.Phase != ExecRunning && c.reply.State.Phase != ExecEnded {
		b.t.Fatalf("not begun: %+v", c.reply)
	}
	return c
}

// record waits for the exec to end, by its record.
func (c *command) record() ExitRecord {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w, err := WatchExecs(ctx, c.b.dir, c.b.spec.Run)
	if err == nil {
		defer closeFile(w)
	}
	for {
		data, rerr := os.ReadFile(filepath.Join(c.dir, RecordName))
		if rerr == nil {
			var r ExitRecord
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
	c := b.exec("e1", func(x *ExecSpec) {
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
	if s := c.ask(OpExecState, 0); s.State.Phase != ExecEnded || s.State.Code != 7 || s.PID != -1 {
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
		edit func(*ExecSpec)
		argv string
		code int
		says string
	}{
		"missing": {nil, "nosuch", 127, `command "nosuch" not found in PATH ` + path + " (step lookup)"},
		"denied":  {nil, script, 126, script + " is not executable: permission denied (step exec)"},
		"workdir": {func(x *ExecSpec) { x.Workdir = "/nosuch" }, "true", 125, "cannot chdir to /nosuch: no such file or directory (step workdir)"},
	} {
		c := b.prepare(name, x.edit, x.argv)
		r := c.ask(OpExec, 0)
		if r.Errno != 0 || r.State.Phase != ExecFailed || r.State.Code != x.code || r.State.Failed != x.says || r.PID != -1 {
			t.Errorf("%s: %+v", name, r)
		}
		if rec := c.record(); rec.Code != x.code || rec.Failed != x.says {
			t.Errorf("%s: record %+v", name, rec)
		}
	}
	for name, spoil := range map[string]func(c *command) error{
		"no order":    func(c *command) error { return os.Remove(filepath.Join(c.dir, ExecSpecName)) },
		"empty order": func(c *command) error { return os.Truncate(filepath.Join(c.dir, ExecSpecName), 0) },
		"cut order":   func(c *command) error { return os.Truncate(filepath.Join(c.dir, ExecSpecName), 30) },
		"no FIFO": func(c *command) error {
			return os.Remove(filepath.Join(c.dir, ExecStderr))
		},
	} {
		c := b.prepare("x"+strconv.Itoa(len(name)), nil, "true")
		if err := spoil(c); err != nil {
			t.Fatal(err)
		}
		if r := c.ask(OpExec, 0); r.Errno == 0 && r.State.Phase != ExecFailed {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for _, name := range []string{"", "..", "a/b", ".x", strings.Repeat("a", 65)} {
		c := &command{t: t, b: b, name: name}
		if r := c.ask(OpExec, 0); r.Errno != unix.EINVAL {
			t.Errorf("%q: %+v", name, r)
		}
	}
	if r := (&command{t: t, b: b, name: "nosuch"}).ask(OpExecState, 0); r.Errno != unix.ENOENT {
		t.Errorf("unknown: %+v", r)
	}
	b.alone()
}

func TestExecStreamsTakeAndGiveAll(t *testing.T) {
	b := sleeper(t)
	c := b.exec("e1", nil, "cat")
	c.writes()
	data := make([]byte, 10<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	var work sync.WaitGroup
	work.Go(func() {
		if _, err := c.in.Write(data); err != nil {
			t.Error(err)
		}
		closeFile(c.in)
		c.ask(OpExecEOF, 0)
	})
	hash, n := sha256.New(), 0
	buf := make([]byte, 64<<10)
	for n < len(data) {
		m, err := c.out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		hash.Write(buf[:m])
		n += m
	}
	work.Wait()
	if want := sha256.Sum256(data); !bytes.Equal(hash.Sum(nil), want[:]) {
		t.Error("not what was written")
	}
	if r := c.record(); r.Code != 0 {
		t.Errorf("%+v", r)
	}
}

// What was not read is there for the next daemon, also when the command has ended.
func TestExecOutputOutlivesItsReader(t *testing.T) {
	b := sleeper(t)
	c := b.exec("e1", nil, "sh", "-c", "echo one; read x; echo two")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(c.out, buf); err != nil || string(buf) != "one\n" {
		t.Fatalf("%q, %v", buf, err)
	}
	for _, f := range []*os.File{c.out, c.errOut} {
		closeFile(f)
	}
	must(c.in.WriteString("\n"))
	c.record()
	closeFile(c.in)
	out := must(os.OpenFile(filepath.Join(c.dir, ExecStdout), os.O_RDONLY|unix.O_NONBLOCK, 0))
	defer closeFile(out)
	expect(t, "rest", c.rest(out), "two\n")
	if r := c.ask(OpExecForget, 0); r.Errno != 0 {
		t.Errorf("%+v", r)
	}
	if r := c.ask(OpExecState, 0); r.Errno != unix.ENOENT {
		t.Errorf("%+v", r)
	}
}

func TestExecTimeoutKillsTheGroup(t *testing.T) {
	b := sleeper(t)
	limit := func(ns int64) func(x *ExecSpec) { return func(x *ExecSpec) { x.TimeoutNs = ns } }
	c := b.exec("e1", limit(100e6), "sh", "-c", "sleep 1000 & sleep 1000")
	if r := c.record(); r.Code != timedOutCode || r.Signal != 9 || r.StoppedBy != StoppedByTimeout {
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
	if r := c.ask(OpExecForget, 0); r.Errno != unix.EBUSY {
		t.Errorf("forgotten while it runs: %+v", r)
	}
	if r := c.ask(OpExec, 0); r.Errno != unix.EBUSY {
		t.Errorf("started twice: %+v", r)
	}
	if r := c.ask(OpExecSignal, unix.SIGUSR1); r.Errno != 0 {
		t.Errorf("%+v", r)
	}
	if r := c.record(); r.Code != 5 {
		t.Errorf("%+v", r)
	}
	if r := c.ask(OpExecSignal, unix.SIGUSR1); r.Errno != unix.ESRCH {
		t.Errorf("%+v", r)
	}
	c = b.exec("e2", nil, "sh", "-c", "sleep 1000 & sleep 1000")
	c.ask(OpExecKill, 0)
	if r := c.record(); r.Code != 137 {
		t.Errorf("%+v", r)
	}
	c = b.exec("e3", nil, "sh", "-c", "sleep 1000 & exit 0")
	c.record()
	c.ask(OpExecKill, 0)
	b.alone()
}

func TestExecsEndWithTheBox(t *testing.T) {
	for name, end := range map[string]func(b *box){
		"stop": func(b *box) { b.ask(Request{Op: OpStop, Grace: time.Minute}) },
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
	b.ask(Request{Op: OpPause})
	if r := b.prepare("e1", nil, "true").ask(OpExec, 0); r.Errno != unix.EBUSY {
		t.Errorf("paused: %+v", r)
	}
	b.ask(Request{Op: OpResume})
	c := b.prepare("e2", nil, "true")
	b.spec.Run = "another"
	if r := c.ask(OpExec, 0); r.Errno != unix.ESTALE {
		t.Errorf("another run: %+v", r)
	}
}

// The record of an exec that was removed comes late, into the directory of its successor.
func TestALateRecordIsNotOfTheSuccessor(t *testing.T) {
	b := sleeper(t)
	c := b.prepare("e", nil, "sh", "-c", "read x; exit $x")
	late := ExitRecord{Run: b.spec.Run, Code: 7}
	if err := os.WriteFile(filepath.Join(c.dir, RecordName), late.AppendJSON(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	c.open()
	if c.reply = c.ask(OpExec, 0); c.reply.State.Phase != ExecRunning {
		t.Fatalf("%+v", c.reply)
	}
	if data, err := os.ReadFile(filepath.Join(c.dir, RecordName)); !errors.Is(err, fs.ErrNotExist) {
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
	answer := make(chan ExecReply, 1)
	go func() {
		r, err := c.try(OpExec, 0)
		if err != nil {
			r.State.Failed = err.Error()
		}
		answer <- r
	}()
	until(t, "it starts", func() bool { return c.ask(OpExecState, 0).State.Phase == ExecStarting })
	b.ask(Request{Op: OpState})
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
		_, err := c.try(OpExec, 0)
		answer <- err
	}()
	until(t, "it starts", func() bool { return c.ask(OpExecState, 0).State.Phase == ExecStarting })
	b.ask(Request{Op: OpStop})
	b.wait()
	if err := <-answer; err != nil {
		t.Log("the shim went before it answered:", err)
	}
	if r := c.record(); r.Code != 137 {
		t.Errorf("%+v", r)
	}
}

// What a terminal has left when its command ends is not lost, though nobody reads.
func TestExecTTYKeepsTheRest(t *testing.T) {
	b := sleeper(t)
	// More than the pipe takes, and not more than that and the terminal do.
	c := b.exec("e1", func(x *ExecSpec) { x.TTY = true }, "sh", "-c", "stty raw; seq 100000 109650")
	if r := c.record(); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	if out := c.rest(c.out); len(out) != 9651*7 || !strings.HasSuffix(out, "\n109650\n") {
		t.Errorf("%d bytes that end with %q", len(out), out[max(0, len(out)-20):])
	}
}

func TestExecOrderIsRefused(t *testing.T) {
	good := ExecSpec{Argv: []string{"/a"}, Env: []string{"A=b"}, Workdir: "/", Groups: []uint32{1}}
	whole := good.Append(nil)
	load := func(b []byte) error {
		var o execOrder
		err := o.load(len(b), func(p []byte) (int, error) { return copy(p, b), nil })
		o.free()
		return err
	}
	if err := load(whole); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < len(whole); n++ {
		if load(whole[:n]) == nil {
			t.Errorf("an order cut to %d of %d bytes was accepted", n, len(whole))
		}
	}
	if load(append(whole[:len(whole):len(whole)], 0)) == nil {
		t.Error("a byte too many was accepted")
	}
	for name, spoil := range map[string]func(x *ExecSpec){
		"relative dir":     func(x *ExecSpec) { x.Workdir = "a" },
		"no dir":           func(x *ExecSpec) { x.Workdir = "" },
		"NUL":              func(x *ExecSpec) { x.Env = []string{"A=\x00b"} },
		"negative timeout": func(x *ExecSpec) { x.TimeoutNs = -1 },
	} {
		x := good
		spoil(&x)
		if load(x.Append(nil)) == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestExecTTY(t *testing.T) {
	b := sleeper(t)
	tty := func(x *ExecSpec) { x.TTY = true }
	c := b.exec("e1", tty, "sh", "-c", `stty size; tty; stty -echo; echo ready; read x; echo "got $x"; ps -o tpgid= -p $$ >&2; cat`)
	var all strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(all.String(), "ready\r\n") {
		n, err := c.out.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, all.String())
		}
		all.Write(buf[:n])
	}
	must(c.in.WriteString("hello\nline\n"))
	closeFile(c.in)
	c.ask(OpExecEOF, 0)
	if r := c.record(); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	out := all.String() + c.rest(c.out)
	if !strings.HasPrefix(out, "24 80\r\n/dev/pts/") || !strings.Contains(out, "got hello\r\n") || !strings.HasSuffix(out, "line\r\n") {
		t.Errorf("%q", out)
	}
	expect(t, "stderr", c.rest(c.errOut), "")
	c = b.exec("e2", tty, "sh", "-c", "seq 1 20000; echo end")
	// Its output has no room in the pipe: it waits for a reader, and nobody else does.
	b.ask(Request{Op: OpState})
	all.Reset()
	for !strings.Contains(all.String(), "end\r\n") {
		n, err := c.out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(buf[:n])
	}
	if lines := strings.Count(all.String(), "\n"); lines != 20001 {
		t.Errorf("%d lines", lines)
	}
	c.record()
	b.alone()
}

// A frozen or slow reader of one exec holds up nobody else.
func TestExecFullPipe(t *testing.T) {
	b := sleeper(t)
	c := b.exec("e1", nil, "yes")
	until(t, "the pipe is full", func() bool {
		return strings.Contains(readStat(t, c.reply.PID, "wchan"), "pipe")
	})
	if r := b.exec("e2", nil, "true").record(); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	c.ask(OpExecKill, 0)
	c.record()
}

func FuzzExecOrder(f *testing.F) {
	x := ExecSpec{Argv: []string{"sh", "-c", "x"}, Env: []string{"PATH=/bin:/usr/bin", "A="}, Workdir: "/srv", UID: 1, GID: 2, Groups: []uint32{3}, Capabilities: 5, CapAmbient: 1, TimeoutNs: 1, TTY: true}
	f.Add(x.Append(nil))
	x = ExecSpec{Argv: []string{"/a"}, Workdir: "/"}
	f.Add(x.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > maxSpec {
			return
		}
		var o execOrder
		rest := b
		err := o.load(len(b), func(p []byte) (int, error) {
			n := copy(p, rest)
			rest = rest[n:]
			return n, nil
		})
		if err != nil {
			return
		}
		defer o.free()
		if o.argv[len(o.argv)-1] != nil || o.envv[len(o.envv)-1] != nil {
			t.Error("a list has no end")
		}
		for _, p := range append(append([]*byte{o.dir}, o.paths...), o.argv[:len(o.argv)-1]...) {
			_ = cString(p)
		}
		_, _ = o.name(), o.env()
	})
}

// An exec that lives on without its stdin costs nothing: nobody is waited for who reads it.
func TestTheStdinThatNobodyReadsIsGivenUp(t *testing.T) {
	b := sleeper(t)
	b.exec("e1", nil, "sh", "-c", "exec sleep 1000 </dev/null")
	until(t, "its stdin is given up", func() bool {
		ends := 0 // of the FIFO; the shim's own writer stays
		for _, e := range must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.h.PID))) {
			if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", b.h.PID, e.Name())); err == nil && strings.HasSuffix(to, "/"+ExecStdin) {
				ends++
			}
		}
		return ends == 1
	})
}
