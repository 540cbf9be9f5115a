package daemon

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// StopBound is how long a daemon may take to end after SIGTERM.
const StopBound = 2 * time.Second

// Daemon is one boxlited process.
type Daemon struct {
	PID int

	home   *Home
	exited chan struct{} // closed when code is known
	code   int           // -1 when a signal killed it
	killed bool
}

// Start runs boxlited and returns when it is ready. The test ends at once if that
// does not come about.
func (h *Home) Start(args ...string) *Daemon {
	h.T.Helper()
	d, ready := h.launch(args)
	if !ready {
		d.Kill()
		h.T.Fatalf("boxlited is not ready (exit code %d):\n%s", d.code, tail(h.Log(), 20))
	}
	return d
}

// Refused runs a boxlited that must end by itself before it is ready, and
// returns its exit code and what it said.
func (h *Home) Refused(args ...string) (code int, said string) {
	h.T.Helper()
	h.mu.Lock()
	before := h.daemon
	h.mu.Unlock()
	from := len(h.Log())
	d, ready := h.launch(args)
	h.mu.Lock()
	h.daemon = before
	h.mu.Unlock()
	if ready {
		d.Kill()
		h.T.Fatal("boxlited became ready, but should have refused to start")
	}
	if !d.wait(Bound) {
		d.Kill()
		h.T.Fatal("boxlited neither becomes ready nor ends")
	}
	return d.code, h.Log()[from:]
}

// launch starts a daemon and waits until it is ready or has ended.
func (h *Home) launch(args []string) (*Daemon, bool) {
	h.T.Helper()
	boxlited, _ := Binaries(h.T)
	if h.Boxlited != "" {
		boxlited = h.Boxlited
	}
	h.mu.Lock()
	h.launches++
	socket := filepath.Join(h.Dir, "notify"+strconv.Itoa(h.launches))
	h.mu.Unlock()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		h.T.Fatal(err)
	}
	words := append(append([]string{}, h.Wrap...), boxlited, "--mount", h.Mount, "--state", h.State, "--shim", h.Shim, "--log-level", "debug")
	words = append(words, args...)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append([]string{"NOTIFY_SOCKET=" + socket, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + h.Dir,
		// The race detector would have every daemon wait a second at its end.
		"GORACE=atexit_sleep_ms=10"}, h.Env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = h.log, h.log
	// What a person types at the terminal of the tests is not for the daemon.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		h.T.Fatal(errors.Join(err, conn.Close()))
	}
	d := &Daemon{PID: cmd.Process.Pid, home: h, exited: make(chan struct{})}
	h.mu.Lock()
	h.daemon = d
	h.mu.Unlock()
	ready := make(chan bool, 1)
	go func() {
		var ended *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &ended) {
			h.T.Errorf("wait for boxlited: %v", err)
		}
		d.code = cmd.ProcessState.ExitCode()
		if err := conn.Close(); err != nil {
			h.T.Error(err)
		}
		close(d.exited)
	}()
	go func() {
		buf := make([]byte, 256)
		n, err := conn.Read(buf)
		ready <- err == nil && strings.Contains(string(buf[:n]), "READY=1")
	}()
	select {
	case ok := <-ready:
		return d, ok
	case <-d.exited:
		return d, false
	case <-time.After(Bound):
		return d, false
	}
}

// wait reports whether the daemon has ended within the bound.
func (d *Daemon) wait(bound time.Duration) bool {
	select {
	case <-d.exited:
		return true
	case <-time.After(bound):
		return false
	}
}

// Running reports whether the daemon has not ended.
func (d *Daemon) Running() bool {
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// Exited is closed when the daemon has ended.
func (d *Daemon) Exited() <-chan struct{} { return d.exited }

// Code returns the exit code of a daemon that has ended, -1 for a signal.
func (d *Daemon) Code() int {
	<-d.exited
	return d.code
}

// Signal sends a signal to the daemon, which must be running.
func (d *Daemon) Signal(sig unix.Signal) {
	d.home.T.Helper()
	if err := unix.Kill(d.PID, sig); err != nil {
		d.home.T.Errorf("%s to boxlited: %v", sig, err)
	}
}

// Kill ends the daemon by SIGKILL. Its mount stays, dead, until the next Start.
func (d *Daemon) Kill() {
	d.home.T.Helper()
	if !d.Running() {
		return
	}
	d.killed = true
	d.Signal(unix.SIGKILL)
	if !d.wait(Bound) {
		d.home.T.Fatalf("boxlited does not die of SIGKILL: it is in state %s", State(d.PID))
	}
}

// AwaitKilled waits until a signal that the test did not send through Kill has
// ended the daemon. Its mount stays, dead, until the next Start.
func (d *Daemon) AwaitKilled() {
	d.home.T.Helper()
	d.killed = true
	if !d.wait(Bound) {
		d.Kill()
		d.home.T.Fatal("boxlited lives, but should have been killed")
	}
	if d.code != -1 {
		d.home.T.Fatalf("boxlited ended with %d, not by a signal", d.code)
	}
}

// AwaitEnd waits until the daemon has ended by itself with an exit code. Its mount stays,
// dead, until the next Start.
func (d *Daemon) AwaitEnd(code int) {
	d.home.T.Helper()
	d.killed = true
	if !d.wait(Bound) {
		d.Kill()
		d.home.T.Fatal("boxlited lives, but should have ended by itself")
	}
	if d.code != code {
		d.home.T.Fatalf("boxlited ended with %d, not %d:\n%s", d.code, code, tail(d.home.Log(), 20))
	}
}

// Stop ends the daemon as a service manager does. It must have reaped what has
// ended, exit with 0 in StopBound, and leave no mount.
func (d *Daemon) Stop() {
	d.home.T.Helper()
	t := d.home.T
	zombies := func() (out []int) {
		children, err := Children(d.PID)
		if err != nil {
			t.Error(err)
		}
		for _, pid := range children {
			if State(pid) == "Z" {
				out = append(out, pid)
			}
		}
		return out
	}
	if !await(2*time.Second, func() bool { return len(zombies()) == 0 }) {
		t.Errorf("leak: zombie children of boxlited: %v", zombies())
	}
	if !d.Running() {
		t.Errorf("boxlited ended by itself with %d", d.code)
		return
	}
	began := time.Now()
	d.Signal(unix.SIGTERM)
	if !d.wait(Bound) {
		d.Signal(unix.SIGQUIT)
		d.wait(StopBound) // it writes its stacks first
		d.Kill()
		t.Errorf("boxlited does not end after SIGTERM")
		return
	}
	if took := time.Since(began); took > StopBound {
		t.Errorf("boxlited took %s to end after SIGTERM, more than %s", took, StopBound)
	}
	if d.code != 0 {
		t.Errorf("boxlited ended with %d after SIGTERM, not 0", d.code)
	}
	if left, err := Mounts(d.home.Mount); err != nil || len(left) > 0 {
		t.Errorf("boxlited ended in order and left mounts %v (error %v)", left, err)
	}
}
