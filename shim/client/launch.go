//go:build linux && (amd64 || arm64)

package client

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// LogFile is where, in a box's directory, a shim writes what it has to say of
// itself, a crash included.
const LogFile = "shim.log"

// LaunchOptions says what Launch starts.
type LaunchOptions struct {
	// Path is the boxlite-shim program.
	Path string
	// Dir is the box's directory, where the shim keeps its log, its socket and
	// its exit record. It stays the caller's.
	Dir *os.File
	// Spec is the box.
	Spec wire.Spec
	// Hold, with Spec.DieWithDaemon, is the read end of a pipe whose write end
	// only the daemon has. It stays the caller's.
	Hold *os.File
}

// Handle is a shim that was launched.
type Handle struct {
	// PID is the shim's pid. The caller has to reap it.
	PID int
	// PIDFD is the shim's pidfd. The caller owns it and has to close it.
	PIDFD int
	// StartedNs is when the command was started, in nanoseconds since 1970.
	// WaitStarted sets it.
	StartedNs int64

	spec    []byte
	specW   *os.File
	reportR *os.File
}

// beginTimeout bounds how long Begin waits for a shim that does not take its
// spec.
const beginTimeout = 10 * time.Second

// Launch forks a shim, which then waits for Begin and runs nothing before. The
// caller records PID, calls Begin and WaitStarted, and closes the handle. A
// handle that is closed without Begin makes the shim exit. An error is a
// *StartError.
func Launch(opts LaunchOptions) (*Handle, error) {
	spec := opts.Spec.Append(nil)
	if len(spec) > wire.MaxSpec {
		return nil, &wire.StartError{Step: wire.StepSpec, Errno: unix.E2BIG, Detail: "the box's configuration is too large"}
	}
	if _, err := wire.DecodeSpec(spec); err != nil {
		return nil, &wire.StartError{Step: wire.StepSpec, Detail: err.Error()}
	}
	if opts.Spec.DieWithDaemon && opts.Hold == nil {
		return nil, &wire.StartError{Step: wire.StepSpec, Detail: "no pipe for a box that dies with the daemon"}
	}
	h := &Handle{PIDFD: -1, spec: append(wire.AppendSpecLength(nil, len(spec)), spec...)}
	err := withFD(opts.Dir, func(dir int) error { return h.launch(&opts, dir) })
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func (h *Handle) launch(opts *LaunchOptions, dir int) error {
	files := [wire.FDHold + 1]int{wire.FDHold: -1}
	open := files[:0]
	defer func() {
		for _, fd := range open {
			sys.Close(fd)
		}
	}()
	null, err := sys.Retry(func() (int, error) { return unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0) })
	if err != nil {
		return wire.NewStartError(wire.StepLaunch, "cannot open "+os.DevNull, err)
	}
	open = append(open, null)
	if dir, err = pathless(dir); err != nil {
		return wire.NewStartError(wire.StepLaunch, "cannot clone the mount of the box's directory", err)
	}
	open = append(open, dir)
	log, err := sys.Retry(func() (int, error) {
		return unix.Openat(dir, LogFile, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return wire.NewStartError(wire.StepLaunch, "cannot open "+LogFile, err)
	}
	open = append(open, log)
	var specPipe, reportPipe [2]int
	if err := unix.Pipe2(specPipe[:], unix.O_CLOEXEC); err != nil {
		return wire.NewStartError(wire.StepLaunch, "cannot make a pipe", err)
	}
	open = append(open, specPipe[0])
	h.specW = asyncFile(specPipe[1], "spec pipe")
	if err := unix.Pipe2(reportPipe[:], unix.O_CLOEXEC); err != nil {
		return wire.NewStartError(wire.StepLaunch, "cannot make a pipe", err)
	}
	open = append(open, reportPipe[1])
	h.reportR = asyncFile(reportPipe[0], "report pipe")
	listen, err := listenControl(dir)
	if err != nil {
		return wire.NewStartError(wire.StepLaunch, "cannot make the control socket", err)
	}
	open = append(open, listen)

	inherit := []uintptr{uintptr(null), uintptr(log), uintptr(log), uintptr(specPipe[0]), uintptr(reportPipe[1]), uintptr(dir), uintptr(listen)}
	if !opts.Spec.DieWithDaemon {
		// Closed in the child, whatever the daemon has there.
		return h.fork(opts, append(inherit, ^uintptr(0)))
	}
	return withFD(opts.Hold, func(hold int) error { return h.fork(opts, append(inherit, uintptr(hold))) })
}

// pathless opens a directory once more, by a mount of its own that is attached nowhere:
// the links in /proc of what is opened by way of it begin there. The box meets some, as the
// streams of its execs, and has no business with the daemon's paths.
func pathless(dir int) (int, error) {
	tree, err := sys.Retry(func() (int, error) {
		return unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	})
	if errors.Is(err, unix.EINVAL) {
		// The host's mount is unbindable: it is this path or none.
		return sys.Retry(func() (int, error) { return unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0) })
	}
	return tree, err
}

func (h *Handle) fork(opts *LaunchOptions, files []uintptr) error {
	flags := uintptr(unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if opts.Spec.PrivateNet {
		flags |= unix.CLONE_NEWNET
	}
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=1"},
		Files: files,
		Sys:   &syscall.SysProcAttr{Cloneflags: flags, Setsid: true, PidFD: &h.PIDFD},
	}
	pid, err := syscall.ForkExec(opts.Path, []string{"boxlite-shim", opts.Spec.Box}, attr)
	if err != nil {
		return wire.NewStartError(wire.StepLaunch, "cannot start "+opts.Path+" in namespaces of its own", err)
	}
	h.PID = pid
	return nil
}

// Begin gives the shim its spec: it makes the box and runs the command. To be
// called when PID is on disk. An error means that the shim is dead or stuck.
func (h *Handle) Begin() error {
	if err := h.specW.SetWriteDeadline(time.Now().Add(beginTimeout)); err != nil {
		return err
	}
	_, err := h.specW.Write(h.spec)
	return errors.Join(err, h.specW.Close())
}

// WaitStarted waits until the command was executed. That it never will be is a
// *StartError; else the error is that of ctx.
func (h *Handle) WaitStarted(ctx context.Context) error {
	defer deadlineOn(ctx, h.reportR)()
	b, err := io.ReadAll(io.LimitReader(h.reportR, wire.MaxReport+1))
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return wire.NewStartError(wire.StepLaunch, "cannot hear from the shim", err)
	}
	if len(b) == 0 {
		return &wire.StartError{Step: wire.StepLaunch, Detail: "the shim died before the command ran"}
	}
	startedNs, failed, err := wire.DecodeReport(b)
	if err != nil {
		return &wire.StartError{Step: wire.StepLaunch, Detail: "the shim is of another version of boxlite"}
	}
	if failed != nil {
		return failed
	}
	h.StartedNs = startedNs
	return nil
}

// Close releases the handle's pipes; it may be called twice. It does not close
// PIDFD, and it does not end a shim that has got its spec.
func (h *Handle) Close() {
	if h.specW != nil {
		_ = h.specW.Close()
	}
	if h.reportR != nil {
		_ = h.reportR.Close()
	}
}
