package shim

import (
	"context"
	"errors"
	"fmt"
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
