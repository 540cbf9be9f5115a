// Package measured holds a test for each thing that was found out, by experiment,
// of how the kernel, the FUSE library and the tools of people behave, and that the
// product has to get right because of it. All of them drive a real daemon's mount.
package measured

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/test/daemon"
)

func TestMain(m *testing.M) { os.Exit(daemon.Main(m)) }

const (
	sleeper  = "command: [sleep, infinity]\n"
	stubborn = `command: [sh, -c, "trap '' TERM; echo ready; exec sleep infinity"]` + "\n"
	// late is a config whose fault shows only when the whole is there.
	late = "hostname: x\n"
	// early is one that nothing can mend.
	early = "comand: x\n"
	// prompt is how long a request may take that waits for nothing.
	prompt = 500 * time.Millisecond
)

func home(t *testing.T) (*daemon.Home, *daemon.Daemon) {
	t.Helper()
	t.Parallel()
	h := daemon.New(t)
	return h, h.Start()
}

// errno checks an error of a system call.
func errno(t *testing.T, what string, err error, expected unix.Errno) {
	t.Helper()
	if !errors.Is(err, expected) {
		t.Errorf("%s: %v, not %v", what, err, expected)
	}
}

// ready runs a stubborn box and waits until it ignores SIGTERM.
func ready(t *testing.T, h *daemon.Home, name string) {
	t.Helper()
	h.MustRun(name, stubborn)
	h.AwaitFile(name, "log", "ready")
}

// within checks that something is done soon enough.
func within(t *testing.T, bound time.Duration, what string, fn func()) {
	t.Helper()
	began := time.Now()
	fn()
	if took := time.Since(began); took > bound {
		t.Errorf("%s took %s, more than %s", what, took, bound)
	}
}

// process is a client of its own, with a process id.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	end chan error
}

// spawn runs a script that may block. It has to be joined.
func spawn(t *testing.T, script string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, args...)...), end: make(chan error, 1)}
	p.cmd.Dir = "/"
	// A group of its own, and the signals of a job in the foreground.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.end <- p.cmd.Wait() }()
	return p
}

// blocked waits until the process waits for an answer of the mount: its own, or that to
// a lookup of the same name by somebody else, who may be the notifier.
func (p *process) blocked() {
	p.t.Helper()
	path := fmt.Sprintf("/proc/%d/wchan", p.cmd.Process.Pid)
	seen, waits := "", false
	defer func() {
		if !waits {
			p.t.Logf("it waits in %q", seen)
		}
	}()
	daemon.Await(p.t, "the client to block in a request", func() bool {
		where, err := os.ReadFile(path)
		seen = string(where)
		for _, place := range []string{"request_wait_answer", "fuse", "d_alloc_parallel", "d_wait_lookup", "rwsem_down"} {
			waits = waits || err == nil && strings.Contains(seen, place)
		}
		return waits
	})
}

func (p *process) signal(sig unix.Signal) {
	p.t.Helper()
	if err := unix.Kill(p.cmd.Process.Pid, sig); err != nil {
		p.t.Fatal(err)
	}
}

// join waits for the end and returns how it came about.
func (p *process) join(bound time.Duration, what string) unix.WaitStatus {
	p.t.Helper()
	select {
	case err := <-p.end:
		if err != nil && !errors.As(err, new(*exec.ExitError)) {
			p.t.Fatal(err)
		}
	case <-time.After(bound):
		p.t.Errorf("%s: the client does not end within %s", what, bound)
		p.signal(unix.SIGKILL)
		if err := <-p.end; err == nil {
			p.t.Errorf("%s: it ended well after all", what)
		}
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		p.t.Fatal("no wait status")
	}
	return unix.WaitStatus(status)
}

// open opens a file of the mount.
func open(t *testing.T, h *daemon.Home, path string, flags int) int {
	t.Helper()
	fd := -1
	if err := h.Call("open "+path, func() (err error) {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0)
		return err
	}); err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	return fd
}

// shut closes a descriptor and returns what the close says.
func shut(h *daemon.Home, fd int) error {
	return h.Call("close", func() error { return unix.Close(fd) })
}

// count returns how many events of a box have the words.
func count(h *daemon.Home, name, words string) int {
	return strings.Count(h.MustRead("boxes", name, "events"), words)
}
