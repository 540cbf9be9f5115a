package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// These tests run the real program as root. Whatever a box leaves behind fails
// the test: see newBox.

const (
	patience = time.Minute // on a machine that is busy with other things
	allCaps  = ^uint64(0)
	path     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

func TestMain(m *testing.M) {
	if os.Getenv("SHIM_TEST_HELPER") != "" {
		os.Exit(helper())
	}
	code := m.Run()
	if buildDir != "" {
		if err := os.RemoveAll(buildDir); err != nil {
			panic(err)
		}
	}
	os.Exit(code)
}

var buildDir string

// shimProgram builds the shim for the first test that wants it. A fuzzer's
// workers never do.
var shimProgram = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "shim-test")
	if err != nil {
		panic(err)
	}
	buildDir = dir
	// Not the name it is installed under, so that comm cannot come from there.
	program := filepath.Join(dir, "shim-under-test")
	build := exec.Command("go", "build", "-trimpath", "-o", program, "github.com/boxlitefs/boxlite/cmd/boxlite-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%s%v", out, err))
	}
	return program
})

// box is a box under test.
type box struct {
	t      testing.TB
	path   string
	dir    *os.File
	spec   wire.Spec
	hold   *os.File
	tag    string
	h      *client.Handle
	reaped bool
	status unix.WaitStatus
	usage  unix.Rusage
}

var boxes int

// newBox makes a box that runs argv. At the end of the test its shim is killed
// and reaped, and no process that had its environment may be left.
func newBox(t testing.TB, argv ...string) *box {
	t.Helper()
	return newBoxIn(t, t.TempDir(), argv...)
}

func newBoxIn(t testing.TB, dir string, argv ...string) *box {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("these tests have to be run as root")
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	boxes++
	b := &box{t: t, path: dir, dir: f, tag: fmt.Sprintf("BOXTAG=%d.%d", os.Getpid(), boxes)}
	b.spec = wire.Spec{
		Box: "test", Run: fmt.Sprint("run", boxes), Argv: argv, Env: []string{"PATH=" + path, b.tag}, Workdir: "/",
		Capabilities: allCaps, StopSignal: syscall.SIGTERM, StopGraceNs: int64(10 * time.Second), LogMax: 10 << 20,
	}
	t.Cleanup(func() {
		if b.h != nil {
			if !b.reaped {
				// ESRCH: it ended by itself.
				if err := unix.PidfdSendSignal(b.h.PIDFD, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
					t.Error(err)
				}
				b.wait()
			}
			b.h.Close()
			sys.Close(b.h.PIDFD)
		}
		_ = f.Close()
		if left := processesWith(t, b.tag); len(left) > 0 {
			t.Errorf("processes left behind: %v", left)
		}
		if t.Failed() {
			own, _ := os.ReadFile(filepath.Join(dir, client.LogFile))
			t.Logf("shim.log: %s", own)
		}
	})
	return b
}

// sh makes a box that runs a shell script.
func sh(t testing.TB, script string) *box {
	t.Helper()
	return newBox(t, "/bin/sh", "-c", script)
}

func processesWith(t testing.TB, env string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil { // it has ended meanwhile
			continue
		}
		if slices.Contains(strings.Split(string(b), "\x00"), env) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (b *box) launch() {
	b.t.Helper()
	h, err := client.Launch(client.LaunchOptions{Path: shimProgram(), Dir: b.dir, Spec: b.spec, Hold: b.hold})
	if err != nil {
		b.t.Fatal(err)
	}
	b.h = h
}

// start launches the box and returns how its start went.
func (b *box) start() error {
	b.t.Helper()
	b.launch()
	if err := b.h.Begin(); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := b.h.WaitStarted(ctx)
	if err == nil {
		b.lend()
	}
	return err
}

func (b *box) mustStart() *box {
	b.t.Helper()
	if err := b.start(); err != nil {
		b.t.Fatal(err)
	}
	return b
}

// wait reaps the shim.
func (b *box) wait() unix.WaitStatus {
	b.t.Helper()
	if b.reaped {
		return b.status
	}
	deadline := time.Now().Add(patience)
	for {
		fds := []unix.PollFd{{Fd: int32(b.h.PIDFD), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			_ = unix.Kill(b.h.PID, unix.SIGKILL)
			_, _ = unix.Wait4(b.h.PID, nil, 0, nil)
			b.reaped = true
			b.t.Fatalf("the shim did not end (%v)", err)
		}
		break
	}
	if _, err := unix.Wait4(b.h.PID, &b.status, 0, &b.usage); err != nil {
		b.t.Fatal(err)
	}
	b.reaped = true
	return b.status
}

func (b *box) record() wire.ExitRecord {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(b.path, wire.RecordName))
	if err != nil {
		b.t.Fatal(err)
	}
	var r wire.ExitRecord
	if err := json.Unmarshal(data, &r); err != nil {
		b.t.Fatalf("%s: %v", data, err)
	}
	if r.Run != b.spec.Run {
		b.t.Errorf("the record is of run %q, not %q", r.Run, b.spec.Run)
	}
	if r.EndedNs < r.StartedNs || r.EndedNs > time.Now().UnixNano() {
		b.t.Errorf("times of the record: %+v", r)
	}
	return r
}

// logFiles returns the log's files in order, after checking that each begins
// where the one before ends.
func (b *box) logFiles() (bases []int64, sizes []int64) {
	b.t.Helper()
	entries, err := os.ReadDir(b.path)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		if base, ok := wire.ParseLogName(e.Name()); ok {
			info, err := e.Info()
			if err != nil {
				b.t.Fatal(err)
			}
			bases, sizes = append(bases, base), append(sizes, info.Size())
		}
	}
	for i := 1; i < len(bases); i++ {
		if bases[i-1]+sizes[i-1] != bases[i] {
			b.t.Errorf("a hole in the log: %v %v", bases, sizes)
		}
	}
	return bases, sizes
}

func (b *box) log() string {
	b.t.Helper()
	var all []byte
	bases, _ := b.logFiles()
	for _, base := range bases {
		data, err := os.ReadFile(filepath.Join(b.path, wire.LogName(base)))
		if err != nil {
			b.t.Fatal(err)
		}
		all = append(all, data...)
	}
	return string(all)
}

// awaitLog waits for text to be in the log, by means of WatchLog.
func (b *box) awaitLog(text string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w, err := client.WatchLog(ctx, b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	defer closeFile(w)
	for !strings.Contains(b.log(), text) {
		if err := w.Next(ctx); err != nil {
			b.t.Fatalf("waiting for %q: %v; log: %q", text, err, b.log())
		}
	}
}

func (b *box) ask(req wire.Request) wire.Reply {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := client.Ask(ctx, b.dir, req)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// output runs the box to its end, which has to be good, and returns its log.
func (b *box) output() string {
	b.t.Helper()
	b.mustStart()
	if ws := b.wait(); ws.ExitStatus() != 0 {
		b.t.Fatalf("exit %d, log %q", ws.ExitStatus(), b.log())
	}
	return b.log()
}

func expect(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// until waits for a condition outside, which nothing tells of.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func TestTheBoxSeesItsEnvironmentOnly(t *testing.T) {
	t.Setenv("SECRET_OF_THE_DAEMON", "x")
	b := newBox(t, "/usr/bin/env")
	b.spec.Env = []string{"PATH=" + path, "A=b c", b.tag}
	expect(t, "env", b.output(), "PATH="+path+"\nA=b c\n"+b.tag+"\n")
}

func TestTheBoxSeesItsDescriptorsOnly(t *testing.T) {
	// A descriptor of the daemon that somebody forgot to close on exec.
	leak, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(leak)
	if _, err := unix.FcntlInt(uintptr(leak), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	b := sh(t, `cd /proc/self/fd; for f in *; do echo "$f $(readlink /proc/$$/fd/$f)"; done`)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(w)
	b.hold, b.spec.DieWithDaemon = r, true // the shim then has the most of them
	defer closeFile(r)
	out := b.output()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	// The shell's glob has the directory it reads open as 3 in itself.
	if len(lines) == 4 && strings.HasPrefix(lines[3], "3 ") && !strings.Contains(lines[3], "/") {
		lines = lines[:3]
	}
	if len(lines) != 3 || lines[0] != "0 /dev/null" || !strings.HasPrefix(lines[1], "1 pipe:") || lines[2][2:] != lines[1][2:] {
		t.Errorf("descriptors:\n%s", out)
	}
}

func TestTheShimSeesNothingOfTheDaemon(t *testing.T) {
	t.Setenv("SECRET_OF_THE_DAEMON", "x")
	b := sh(t, "exec sleep 1000").mustStart()
	read := func(name string) string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", b.h.PID, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	expect(t, "comm", read("comm"), "boxlite-shim\n")
	expect(t, "cmdline", read("cmdline"), "boxlite-shim\x00test\x00")
	expect(t, "environ", read("environ"), "GOMAXPROCS=1\x00")
	if sid, err := unix.Getsid(b.h.PID); err != nil || sid != b.h.PID {
		t.Errorf("session %d, %v", sid, err)
	}
}

func TestProcessState(t *testing.T) {
	// Ignored signals outlive execve: the daemon may have been started by nohup.
	// And it may have been given descriptors that it knows nothing of.
	odd := exec.Command(os.Args[0])
	odd.Env = append(os.Environ(), "SHIM_TEST_HELPER=1", "SHIM="+shimProgram(), "DIR="+t.TempDir())
	for range 12 {
		odd.ExtraFiles = append(odd.ExtraFiles, os.Stdin)
	}
	out, err := odd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := map[string]string{"SigBlk": "0000000000000000", "SigIgn": "0000000000000000", "SigCgt": "0000000000000000", "SigPnd": "0000000000000000", "Umask": "0022", "fds of the shim": "11", "fds of the box": "3"}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(line, ":")
		if w, ok := want[key]; ok {
			expect(t, key, strings.TrimSpace(value), w)
			delete(want, key)
		}
	}
	if len(want) > 0 {
		t.Errorf("not seen: %v in %s", want, out)
	}
}

// helper is another program that launches a box, in a state of its own.
func helper() int {
	fail := func(err error) int { fmt.Fprintln(os.Stderr, err); return 1 }
	unix.Umask(0o077)
	dir, err := os.Open(os.Getenv("DIR"))
	if err != nil {
		return fail(err)
	}
	// Signals that Go does not take over stay as they are set here.
	var act struct{ handler, flags, restorer, mask uint64 }
	act.handler = 1 // SIG_IGN
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGPIPE, unix.SIGTTOU, 40} {
		if errno := sigactionForTest(sig, &act); errno != 0 {
			return fail(errno)
		}
	}
	h, err := client.Launch(client.LaunchOptions{Path: os.Getenv("SHIM"), Dir: dir, Spec: wire.Spec{
		Run: "r", Workdir: "/",
		// The directory that ls reads is the one more.
		Argv: []string{"/bin/sh", "-c", `cat /proc/self/status
			for i in $(seq 500); do
				set -- /proc/1/fd/*
				test $# = 10 && break # the pipe of the report has been closed
				sleep 0.01
			done
			echo "fds of the shim: $#"
			set -- $(ls /proc/self/fd); echo "fds of the box: $(($# - 1))"`},
		Capabilities: allCaps, StopSignal: syscall.SIGTERM, LogMax: 1 << 20,
	}})
	if err != nil {
		return fail(err)
	}
	err = errors.Join(h.Begin(), h.WaitStarted(context.Background()))
	_, werr := unix.Wait4(h.PID, nil, 0, nil)
	if err = errors.Join(err, werr); err != nil {
		return fail(err)
	}
	log, err := os.ReadFile(filepath.Join(dir.Name(), wire.LogName(0)))
	if err != nil {
		return fail(err)
	}
	if _, err := os.Stdout.Write(log); err != nil {
		return fail(err)
	}
	return 0
}

func TestStartFailures(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	noLine := file("noline", "echo hi\n", 0o755)
	noInterpreter := file("nointerp", "#!/no/such/thing\n", 0o755)
	plain := file("plain", "x", 0o644)
	private := file("private", "#!/bin/sh\n", 0o700)
	locked := filepath.Join(dir, "locked")
	if err := os.Mkdir(locked, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		argv  string
		set   func(*wire.Spec)
		step  string
		errno syscall.Errno
		want  string
	}{
		"not found":      {"foo", func(s *wire.Spec) { s.Env = append(s.Env, "PATH=/usr/bin:/bin") }, wire.StepLookup, unix.ENOENT, `command "foo" not found in PATH /usr/bin:/bin`},
		"no such file":   {"/no/such", nil, wire.StepLookup, unix.ENOENT, `command "/no/such" not found`},
		"not executable": {"/etc/passwd", nil, wire.StepExec, unix.EACCES, `/etc/passwd is not executable: permission denied`},
		"in PATH only not executable": {"plain", func(s *wire.Spec) { s.Env = append(s.Env, "PATH="+dir) }, wire.StepExec, unix.EACCES,
			plain + ` is not executable: permission denied`},
		"directory":      {"/usr", nil, wire.StepExec, unix.EISDIR, `cannot run /usr: is a directory`},
		"no #! line":     {noLine, nil, wire.StepExec, unix.ENOEXEC, `cannot run ` + noLine + `: exec format error (is the #! line missing?)`},
		"no interpreter": {noInterpreter, nil, wire.StepExec, unix.ENOENT, `cannot run ` + noInterpreter + `: no such file or directory (is its interpreter missing?)`},
		"another's file": {private, func(s *wire.Spec) { s.UID, s.GID = 65534, 65534 }, wire.StepExec, unix.EACCES,
			private + ` is not executable for user 65534: permission denied`},
		"no workdir": {"/bin/true", func(s *wire.Spec) { s.Workdir = "/nope" }, wire.StepWorkdir, unix.ENOENT, `cannot chdir to /nope: no such file or directory`},
		"locked workdir": {"/bin/true", func(s *wire.Spec) { s.Workdir, s.UID, s.GID = locked, 65534, 65534 }, wire.StepWorkdir, unix.EACCES,
			`cannot chdir to ` + locked + `: permission denied`},
		"no source": {"/bin/true", func(s *wire.Spec) { s.Mounts = []wire.Mount{{Source: "/nope", Target: "/mnt"}} }, wire.StepMount, unix.ENOENT,
			`mount /nope on /mnt: no such file or directory`},
		"no target": {"/bin/true", func(s *wire.Spec) { s.Mounts = []wire.Mount{{Source: "/etc", Target: "/nope"}} }, wire.StepMount, unix.ENOENT,
			`mount /etc on /nope: no such file or directory`},
		"file on directory": {"/bin/true", func(s *wire.Spec) { s.Mounts = []wire.Mount{{Source: "/etc/passwd", Target: "/mnt"}} }, wire.StepMount, unix.EISDIR,
			`mount /etc/passwd on /mnt: is a directory`},
		"directory on file": {"/bin/true", func(s *wire.Spec) { s.Mounts = []wire.Mount{{Source: "/mnt", Target: "/etc/passwd"}} }, wire.StepMount, unix.ENOTDIR,
			`mount /mnt on /etc/passwd: not a directory`},
		"rlimit": {"/bin/true", func(s *wire.Spec) {
			s.Rlimits = []wire.Rlimit{{Resource: unix.RLIMIT_CORE, Soft: 0, Hard: 0}, {Resource: unix.RLIMIT_NOFILE, Soft: 2, Hard: 1}}
		}, wire.StepRlimit, unix.EINVAL,
			`cannot set rlimit nofile to 2:1: invalid argument`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, c.argv)
			if c.set != nil {
				c.set(&b.spec)
			}
			err := b.start()
			var se *wire.StartError
			if !errors.As(err, &se) || se.Step != c.step || !errors.Is(err, c.errno) {
				t.Fatalf("got %#v", err)
			}
			said := c.want + " (step " + c.step + ")"
			expect(t, "error", err.Error(), said)
			if ws := b.wait(); ws.ExitStatus() != failedCode {
				t.Errorf("exit %#x", ws)
			}
			r := b.record()
			expect(t, "record", r.Failed, said)
			if r.Code != failedCode || r.StartedNs != 0 {
				t.Errorf("record %+v", r)
			}
		})
	}
}

func TestLaunchFailures(t *testing.T) {
	b := newBox(t, "/bin/true")
	_, err := client.Launch(client.LaunchOptions{Path: "/no/shim", Dir: b.dir, Spec: b.spec})
	var se *wire.StartError
	if !errors.As(err, &se) || se.Step != wire.StepLaunch || se.Errno != unix.ENOENT || !strings.Contains(err.Error(), "/no/shim") {
		t.Errorf("got %#v", err)
	}
	b.spec.Argv = nil
	if _, err := client.Launch(client.LaunchOptions{Path: shimProgram(), Dir: b.dir, Spec: b.spec}); !errors.As(err, &se) || se.Step != wire.StepSpec {
		t.Errorf("got %#v", err)
	}
	b.spec.Argv = []string{strings.Repeat("x", wire.MaxSpec)}
	if _, err := client.Launch(client.LaunchOptions{Path: shimProgram(), Dir: b.dir, Spec: b.spec}); !errors.Is(err, unix.E2BIG) {
		t.Errorf("got %#v", err)
	}
}

func TestShimThatDiesEarly(t *testing.T) {
	b := sh(t, "exec sleep 1000")
	b.launch()
	if err := unix.PidfdSendSignal(b.h.PIDFD, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	b.wait()
	if err := b.h.Begin(); !errors.Is(err, unix.EPIPE) {
		t.Errorf("Begin: %v", err)
	}
	err := b.h.WaitStarted(context.Background())
	if err == nil || err.Error() != "the shim died before the command ran (step launch)" {
		t.Errorf("WaitStarted: %v", err)
	}
}

func TestNothingRunsWithoutASpec(t *testing.T) {
	for name, part := range map[string]int{"none": 0, "half the length": 2, "half the spec": 20} {
		t.Run(name, func(t *testing.T) {
			mark := filepath.Join(t.TempDir(), "ran")
			b := newBox(t, "/usr/bin/touch", mark)
			b.launch()
			pipe := must(os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", b.h.PID, wire.FDSpec), os.O_WRONLY, 0))
			spec := b.spec.Append(nil)
			if _, err := pipe.Write(append(wire.AppendSpecLength(nil, len(spec)), spec...)[:part]); err != nil {
				t.Fatal(err)
			}
			closeFile(pipe)
			b.h.Close()
			if ws := b.wait(); ws.ExitStatus() != failedCode {
				t.Errorf("exit %#x", ws)
			}
			if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the command ran: %v", err)
			}
			if _, err := os.Stat(filepath.Join(b.path, wire.RecordName)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a record was written: %v", err)
			}
		})
	}
}

func TestWaitStartedHonoursItsContext(t *testing.T) {
	b := sh(t, ":")
	b.launch()
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("why")
	time.AfterFunc(10*time.Millisecond, func() { cancel(why) })
	if err := b.h.WaitStarted(ctx); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func TestCredentials(t *testing.T) {
	const chown, netBind = 1 << 0, 1 << unix.CAP_NET_BIND_SERVICE
	// What there is to give away: a root in a container has less than all.
	full := must(strconv.ParseUint(field(string(must(os.ReadFile("/proc/self/status"))), "CapPrm"), 16, 64))
	hex := func(v uint64) string { return fmt.Sprintf("%016x", v) }
	for name, c := range map[string]struct {
		set  func(*wire.Spec)
		want map[string]string
	}{
		"root, all": {func(*wire.Spec) {}, map[string]string{"Uid": "0\t0\t0\t0", "Gid": "0\t0\t0\t0", "Groups": "", "CapBnd": hex(full), "CapEff": hex(full), "CapPrm": hex(full), "CapInh": hex(0), "CapAmb": hex(0), "NoNewPrivs": "0"}},
		"root, some": {func(s *wire.Spec) { s.Capabilities, s.NoNewPrivs = chown|netBind, true },
			map[string]string{"CapBnd": hex(chown | netBind), "CapEff": hex(chown | netBind), "CapPrm": hex(chown | netBind), "CapInh": hex(0), "NoNewPrivs": "1"}},
		"root, none": {func(s *wire.Spec) { s.Capabilities = 0 }, map[string]string{"CapBnd": hex(0), "CapEff": hex(0), "CapPrm": hex(0)}},
		"user": {func(s *wire.Spec) { s.UID, s.GID, s.Groups = 1234, 2345, []uint32{7, 9} },
			map[string]string{"Uid": "1234\t1234\t1234\t1234", "Gid": "2345\t2345\t2345\t2345", "Groups": "7 9", "CapBnd": hex(full), "CapEff": hex(0), "CapPrm": hex(0), "CapInh": hex(0), "CapAmb": hex(0)}},
		"user, ambient": {func(s *wire.Spec) {
			s.UID, s.GID, s.Capabilities, s.CapAmbient, s.NoNewPrivs = 1234, 1234, chown|netBind, netBind, true
		}, map[string]string{"CapBnd": hex(chown | netBind), "CapEff": hex(netBind), "CapPrm": hex(netBind), "CapInh": hex(netBind), "CapAmb": hex(netBind), "NoNewPrivs": "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "/usr/bin/cat", "/proc/self/status")
			c.set(&b.spec)
			got := map[string]string{}
			for line := range strings.Lines(b.output()) {
				key, value, _ := strings.Cut(line, ":")
				got[key] = strings.TrimSpace(value)
			}
			for key, want := range c.want {
				expect(t, key, got[key], want)
			}
		})
	}
}

func TestTheShimKeepsItsOwnCredentialsAndLimits(t *testing.T) {
	b := newBox(t, "/bin/sleep", "1000")
	b.spec.UID, b.spec.GID, b.spec.Capabilities, b.spec.NoNewPrivs, b.spec.Workdir = 1234, 1234, 0, true, "/tmp"
	b.spec.Rlimits = []wire.Rlimit{{Resource: unix.RLIMIT_NPROC, Soft: 5, Hard: 5}, {Resource: unix.RLIMIT_CPU, Soft: 3, Hard: 4}, {Resource: unix.RLIMIT_AS, Soft: 1 << 28, Hard: 1 << 28}, {Resource: unix.RLIMIT_CORE, Soft: 0, Hard: 0}}
	b.mustStart()
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	shim, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.h.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"Uid", "Gid", "Groups", "CapBnd", "CapEff", "NoNewPrivs"} {
		expect(t, key, field(string(shim), key), field(string(own), key))
	}
	for _, res := range []int{unix.RLIMIT_NPROC, unix.RLIMIT_CPU, unix.RLIMIT_AS, unix.RLIMIT_CORE} {
		var ours, its unix.Rlimit
		if err := errors.Join(unix.Prlimit(0, res, nil, &ours), unix.Prlimit(b.h.PID, res, nil, &its)); err != nil || ours != its {
			t.Errorf("rlimit %s: %v, ours %v (%v)", rlimitName(res), its, ours, err)
		}
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", b.h.PID)); err != nil || cwd != "/" {
		t.Errorf("cwd %q, %v", cwd, err)
	}
	if adj, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", b.h.PID)); err != nil || string(adj) != string(must(os.ReadFile("/proc/self/oom_score_adj"))) {
		t.Errorf("oom_score_adj %q, %v", adj, err)
	}
}

func field(status, key string) string {
	for line := range strings.Lines(status) {
		if k, v, _ := strings.Cut(line, ":"); k == key {
			return strings.TrimSpace(v)
		}
	}
	return "no " + key
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestRlimits(t *testing.T) {
	b := newBox(t, "/usr/bin/grep", "-E", "^Max (open files|core file|processes)", "/proc/self/limits")
	b.spec.Rlimits = []wire.Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 100, Hard: 200}, {Resource: unix.RLIMIT_CORE, Soft: 0, Hard: 0}, {Resource: unix.RLIMIT_NPROC, Soft: 50, Hard: 60}}
	out := strings.Join(strings.Fields(b.output()), " ")
	expect(t, "limits", out, "Max core file size 0 0 bytes Max processes 50 60 processes Max open files 100 200 files")
}

func TestNofileIsNotTheRaisedOneOfTheShim(t *testing.T) {
	b := sh(t, "ulimit -S -n")
	n, err := strconv.Atoi(strings.TrimSpace(b.output()))
	if err != nil || n > 1024 {
		t.Errorf("soft limit %d, %v", n, err)
	}
}

func TestNamesAndPlace(t *testing.T) {
	b := sh(t, "uname -n; pwd; read c </proc/1/comm; echo $c $PPID; read pid comm s pp pg sid rest </proc/self/stat; test $sid = $$ && echo own session; set -- /proc/[0-9]*; echo $#")
	b.spec.Hostname, b.spec.Workdir = "in-the-box", "/usr"
	expect(t, "output", b.output(), "in-the-box\n/usr\nboxlite-shim 1\nown session\n2\n")
	if h := must(os.Hostname()); h == "in-the-box" {
		t.Error("the host was renamed")
	}
}

func TestPrivateNet(t *testing.T) {
	b := sh(t, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; python3 -c 'import socket;s=socket.socket();s.bind((\"127.0.0.1\",0));s.listen();c=socket.create_connection(s.getsockname());print(\"connected\")'")
	b.spec.PrivateNet = true
	expect(t, "output", b.output(), "lo\nconnected\n")
}

func TestMounts(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	put := func(p, s string) string {
		if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	put(filepath.Join(src, "f"), "from src\n")
	target := put(filepath.Join(t.TempDir(), "file"), "below\n")
	rw, ro := filepath.Join(dst, "rw"), filepath.Join(dst, "ro")
	for _, d := range []string{rw, ro} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, readonly := range []bool{false, true} {
		t.Run(fmt.Sprint("readonly root ", readonly), func(t *testing.T) {
			b := sh(t, fmt.Sprintf(`cat %[1]s/f %[2]s/f %[3]s
				echo new >%[1]s/new && echo rw
				echo new >%[2]s/new2 || echo ro
				echo x >%[4]s/probe && echo root writable
				echo x >/dev/null && echo dev writable
				mkdir /dev/shm/$$ && rmdir /dev/shm/$$ && echo shm writable
				echo 5 >/proc/self/oom_score_adj && echo proc writable
				exec 2>/dev/null; true`, rw, ro, target, dst))
			b.spec.Mounts = []wire.Mount{{Source: src, Target: rw}, {Source: src, Target: ro, ReadOnly: true}, {Source: filepath.Join(src, "f"), Target: target}}
			b.spec.ReadonlyRoot = readonly
			out := b.output()
			for _, line := range []string{"rw\n", "ro\n", "dev writable\n", "shm writable\n", "proc writable\n"} {
				if !strings.Contains(out, "\n"+line) {
					t.Errorf("no %q in %s", line, out)
				}
			}
			if !strings.HasPrefix(out, "from src\nfrom src\nfrom src\n") {
				t.Errorf("contents: %s", out)
			}
			if strings.Contains(out, "root writable") == readonly {
				t.Errorf("root: %s", out)
			}
		})
	}
	if data := must(os.ReadFile(target)); string(data) != "below\n" {
		t.Error("the mount is seen on the host")
	}
}

func TestMask(t *testing.T) {
	secret := t.TempDir()
	inner := filepath.Join(secret, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inner, "f"), []byte("kept\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	place := t.TempDir()
	b := newBoxIn(t, secret, "/bin/sh", "-c", fmt.Sprintf(`ls -A %[1]s | wc -l; touch %[1]s/x 2>/dev/null || echo ro; cat %[2]s/f; stat -c %%a %[1]s`, secret, place))
	b.spec.Mask = []string{secret, "/no/such/path"}
	b.spec.Mounts = []wire.Mount{{Source: inner, Target: place}}
	expect(t, "output", b.output(), "0\nro\nkept\n0\n")
}

// TestMaskHolds is what a restart of the daemon does: the host unmounts and
// mounts at the masked place while the box lives, and propagation carries both
// into the box. It runs under a mount namespace that is shared, as that of a
// host is, so that the machine's own stays as it is.
func TestMaskHolds(t *testing.T) {
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprint("mounted before ", before), func(t *testing.T) {
			inSharedNamespace(t)
			place := t.TempDir()
			mount := func(name string) {
				if err := unix.Mount(name, place, "tmpfs", 0, ""); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(place, name), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			unmount := func() {
				if err := unix.Unmount(place, unix.MNT_DETACH); err != nil {
					t.Fatal(err)
				}
			}
			if before {
				mount("first")
			}
			b := sh(t, "exec sleep 1000")
			b.spec.Mask = []string{place}
			b.mustStart()
			look := func(when string) {
				t.Helper()
				seen, err := os.ReadDir(fmt.Sprintf("/proc/%d/root%s", b.h.PID, place))
				if err != nil || len(seen) != 0 {
					t.Errorf("%s the box sees %v (%v)", when, seen, err)
				}
			}
			look("at first")
			if before {
				unmount()
				look("after the unmount")
			}
			for i := range 3 {
				mount(fmt.Sprint("again", i))
				look(fmt.Sprint("after mount ", i))
				unmount()
				look(fmt.Sprint("after unmount ", i))
			}
		})
	}
}

// TestMaskAsksNoFUSEServer masks the mount of a server that is dead, and of one
// that never answers, where any request would wait for ever.
func TestMaskAsksNoFUSEServer(t *testing.T) {
	for _, dead := range []bool{true, false} {
		t.Run(fmt.Sprint("dead ", dead), func(t *testing.T) {
			inSharedNamespace(t)
			place := t.TempDir()
			fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			server := os.NewFile(uintptr(fd), "/dev/fuse")
			defer closeFile(server)
			if err := unix.Mount("boxlite", place, "fuse.boxlite", unix.MS_NOSUID|unix.MS_NODEV,
				fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd)); err != nil {
				t.Fatal(err)
			}
			// First, so that a request which waits all the same ends with the test.
			defer func() { _ = unix.Unmount(place, unix.MNT_DETACH) }()
			if dead {
				_ = server.Close()
				if _, err := os.Stat(place); !errors.Is(err, unix.ENOTCONN) {
					t.Fatalf("the mount is not dead: %v", err)
				}
			}
			b := newBox(t, "/bin/ls", "-A", place)
			b.spec.Mask = []string{place}
			expect(t, "ls", b.output(), "")
		})
	}
}

// TestUnmountOfTheHostReachesTheBox is why the box's mounts are slaves.
func TestUnmountOfTheHostReachesTheBox(t *testing.T) {
	inSharedNamespace(t)
	place := t.TempDir()
	if err := unix.Mount("x", place, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	b := sh(t, "exec sleep 1000").mustStart()
	seen := func() bool {
		return strings.Contains(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", b.h.PID)))), " "+place+" ")
	}
	if !seen() {
		t.Fatal("the box does not have the mount")
	}
	if err := unix.Unmount(place, 0); err != nil {
		t.Fatal(err)
	}
	if seen() {
		t.Error("the box still has the mount")
	}
}

func TestDaemonSeesNothingOfTheBoxesMounts(t *testing.T) {
	inSharedNamespace(t)
	before := must(os.ReadFile("/proc/thread-self/mountinfo"))
	b := sh(t, "exec sleep 1000")
	b.spec.Mask = []string{t.TempDir()}
	b.spec.ReadonlyRoot = true
	b.mustStart()
	if after := must(os.ReadFile("/proc/thread-self/mountinfo")); !bytes.Equal(before, after) {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

func TestTheDirectoryOfAShimHasNoPath(t *testing.T) {
	inSharedNamespace(t)
	place := t.TempDir()
	if err := unix.Mount("x", place, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(place, unix.MNT_DETACH) }()
	link := func() string {
		b := newBoxIn(t, place, "/bin/true")
		b.launch()
		return must(os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", b.h.PID, wire.FDDir)))
	}
	expect(t, "path", link(), "/")
	// One that nobody may clone is used all the same.
	if err := unix.Mount("", place, "", unix.MS_UNBINDABLE, ""); err != nil {
		t.Fatal(err)
	}
	expect(t, "path", link(), place)
}
