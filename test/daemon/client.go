package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHung is the error of a call that did not return within its bound.
var ErrHung = errors.New("the call hangs")

// Call runs fn on a thread of its own that takes no signals, and fails the test
// when it does not return within Bound. The thread ends with it.
func (h *Home) Call(what string, fn func() error) error {
	h.T.Helper()
	return h.CallWithin(Bound, what, fn)
}

// CallWithin is Call with a bound of its own.
func (h *Home) CallWithin(bound time.Duration, what string, fn func() error) error {
	h.T.Helper()
	done := Go(fn)
	select {
	case err := <-done:
		return err
	case <-time.After(bound):
		h.T.Errorf("%s: no answer after %s", what, bound)
		return fmt.Errorf("%s: %w", what, ErrHung)
	}
}

// Go runs fn on a thread of its own that takes no signals and ends with it. The
// channel gives what fn returned.
func Go(fn func() error) <-chan error { return isolated(nil, 0, fn) }

// Interruptible is Go for a call that SIGUSR1 may interrupt; tid gets the thread
// to send it to.
func Interruptible(tid chan<- int, fn func() error) <-chan error {
	return isolated(tid, unix.SIGUSR1, fn)
}

func isolated(tid chan<- int, except unix.Signal, fn func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is thrown away
		if tid != nil {
			tid <- unix.Gettid()
		}
		var all unix.Sigset_t
		for i := range all.Val {
			all.Val[i] = ^uint64(0)
		}
		if except > 0 {
			all.Val[0] &^= 1 << (except - 1)
		}
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return done
}

// In returns the path of a file of the mount.
func (h *Home) In(path ...string) string {
	return filepath.Join(append([]string{h.Mount}, path...)...)
}

// Box returns the path of a file of a box.
func (h *Home) Box(name string, path ...string) string {
	return filepath.Join(append([]string{h.Mount, "boxes", name}, path...)...)
}

// Read reads a file of the mount to its end.
func (h *Home) Read(path ...string) (text string, err error) {
	h.T.Helper()
	err = h.Call("read "+filepath.Join(path...), func() (err error) {
		text, err = ReadAll(h.In(path...))
		return err
	})
	return text, err
}

// MustRead is Read of a file that must be readable.
func (h *Home) MustRead(path ...string) string {
	h.T.Helper()
	text, err := h.Read(path...)
	if err != nil {
		h.T.Fatalf("read %s: %v", filepath.Join(path...), err)
	}
	return text
}

// Put writes text into a file of a box, in one write, and returns what the write
// (or the open) and the close said.
func (h *Home) Put(name, file, text string) (write, closed error) {
	h.T.Helper()
	err := h.Call("write "+name+"/"+file, func() error {
		write, closed = Write(h.Box(name, file), text)
		return nil
	})
	if err != nil {
		return err, err
	}
	return write, closed
}

// MustPut is Put that must succeed.
func (h *Home) MustPut(name, file, text string) {
	h.T.Helper()
	if write, closed := h.Put(name, file, text); write != nil || closed != nil {
		h.T.Fatalf("write %q to %s/%s: write: %v, close: %v", text, name, file, write, closed)
	}
}

// Mkdir makes a box.
func (h *Home) Mkdir(name string) error {
	h.T.Helper()
	return h.Call("mkdir "+name, func() error { return unix.Mkdir(h.Box(name), 0o755) })
}

// Rmdir removes a box.
func (h *Home) Rmdir(name string) error {
	h.T.Helper()
	return h.Call("rmdir "+name, func() error { return unix.Rmdir(h.Box(name)) })
}

// MustBox makes a box with a configuration.
func (h *Home) MustBox(name, config string) {
	h.T.Helper()
	if err := h.Mkdir(name); err != nil {
		h.T.Fatalf("mkdir %s: %v", name, err)
	}
	if config != "" {
		h.MustPut(name, "config.yaml", config)
	}
}

// MustRun makes a box with a configuration and starts it.
func (h *Home) MustRun(name, config string) {
	h.T.Helper()
	h.MustBox(name, config)
	h.MustPut(name, "ctl", "start\n")
}

// AwaitFile waits until a file of a box reads want and a newline.
func (h *Home) AwaitFile(name, file, want string) {
	h.T.Helper()
	last := ""
	ok := await(Bound, func() bool {
		text, err := h.Read("boxes", name, file)
		last = text
		return err == nil && text == want+"\n" || errors.Is(err, ErrHung)
	})
	if !ok {
		h.T.Fatalf("%s/%s is %q and does not become %q", name, file, last, want)
	}
}

// Sh runs a script by /bin/sh, with the arguments as $1, $2, …, and returns what
// it wrote and its exit status. One that does not end is killed, and fails the
// test.
func (h *Home) Sh(script string, args ...string) (out, said string, code int) {
	h.T.Helper()
	return h.Run(append([]string{"/bin/sh", "-c", script, "sh"}, args...)...)
}

// Run runs a program as Sh does a script.
func (h *Home) Run(words ...string) (out, said string, code int) {
	h.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	err := cmd.Run()
	if ctx.Err() != nil {
		h.T.Errorf("%q does not end", words)
	}
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		h.T.Errorf("%q: %v", words, err)
		return "", err.Error(), -1
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// Retry makes a system call again for as long as a signal interrupts it. It is
// not for close, nor for a call on the mount, which no signal reaches in Call.
func Retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// ReadAll opens path, reads to the end and closes it.
func ReadAll(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	text, err := ReadFD(fd)
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	return text, err
}

// ReadFD reads from fd to the end.
func ReadFD(fd int) (string, error) {
	var out []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return string(out), err
		}
		if n == 0 {
			return string(out), nil
		}
		out = append(out, buf[:n]...)
	}
}

// Write opens path as a shell's `>` does, writes text in one write and closes it.
func Write(path, text string) (write, closed error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return err, nil
	}
	n, err := unix.Write(fd, []byte(text))
	if err == nil && n != len(text) {
		err = fmt.Errorf("only %d of %d bytes were written", n, len(text))
	}
	return err, unix.Close(fd)
}
