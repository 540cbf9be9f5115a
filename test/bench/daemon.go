package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killAllBound is what the daemon gets for ending all of its boxes.
const killAllBound = 20 * time.Second

// A daemon is a boxlited of the bench's own, with its own mount and state directory.
type daemon struct {
	dir, mount string
	bin        string // what it runs
	shim       string
	cmd        *exec.Cmd
	exited     chan struct{} // closed when it has been reaped
	exit       error         // valid then
	stop       func() error  // ends its boxes, then itself; safe to repeat

	// more is added to the configuration of each box that is made.
	more string

	mu    sync.Mutex
	boxes []string
}

// startDaemon returns when the mount answers. The daemon ends with the run, or with stop.
func (b *bench) startDaemon(ctx context.Context) (*daemon, error) {
	dir, err := os.MkdirTemp(b.dir, "boxlited-")
	if err != nil {
		return nil, err
	}
	d := &daemon{
		dir:   dir,
		mount: filepath.Join(dir, "mount"),
		bin:   b.bin("boxlited"),
		shim:  b.bin("boxlite-shim"),
	}
	if err := os.Mkdir(d.mount, 0o755); err != nil {
		return nil, err
	}
	d.stop = sync.OnceValue(d.end)
	b.onEnd(d.stop)
	_, err = d.launch(ctx)
	return d, err
}

// launch starts the daemon's program and returns when it says that it is ready, and how long
// that took.
func (d *daemon) launch(ctx context.Context) (time.Duration, error) {
	// An abstract address leaves no file and knows no long directory.
	address := fmt.Sprintf("@boxlite-bench-%d-%s", os.Getpid(), filepath.Base(d.dir))
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return 0, err
	}
	defer ready.Close() // nothing was written
	log, err := os.OpenFile(filepath.Join(d.dir, "boxlited.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close() // the daemon writes it, through its own descriptor

	cmd := exec.Command(d.bin, "--mount", d.mount, "--state", filepath.Join(d.dir, "state"), "--shim", d.shim)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+address)
	// A session of its own: Ctrl-C is for the bench, which then ends the daemon in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	exited := make(chan struct{})
	d.cmd, d.exited = cmd, exited
	go func() {
		d.exit = cmd.Wait()
		close(exited)
		// Wakes the wait for readiness.
		_ = ready.Close() // it may be closed already
	}()

	if err := ready.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return 0, err
	}
	cancel := context.AfterFunc(ctx, func() { _ = ready.Close() }) // it may be closed already
	defer cancel()
	message := make([]byte, 4096)
	for {
		n, err := ready.Read(message)
		if err != nil {
			select {
			case <-exited:
				// Its end, and what it said, is told by stop.
				return 0, errors.New("boxlited did not get ready")
			default:
				return 0, errors.Join(fmt.Errorf("boxlited did not get ready: %w", err), ctx.Err(), d.lastWords())
			}
		}
		for line := range bytes.Lines(message[:n]) {
			if string(bytes.TrimSpace(line)) == "READY=1" {
				return time.Since(begin), nil
			}
		}
	}
}

// lastWords is the end of the daemon's log, as an error.
func (d *daemon) lastWords() error {
	text, err := os.ReadFile(filepath.Join(d.dir, "boxlited.log"))
	if err != nil {
		return err
	}
	const enough = 2000
	if len(text) > enough {
		text = text[len(text)-enough:]
	}
	return fmt.Errorf("its log ends with:\n%s", text)
}

// end kills every box, because boxes outlive their daemon, and then ends the daemon.
func (d *daemon) end() error {
	var errs []error
	killed := make(chan error, 1)
	go func() {
		killed <- d.parallel(context.Background(), d.names(), func(box string) error { return d.ctl(box, "kill") })
	}()
	select {
	case err := <-killed:
		errs = append(errs, err)
	case <-d.exited:
	case <-time.After(killAllBound):
		errs = append(errs, fmt.Errorf("boxlited did not kill its boxes within %v", killAllBound))
	}
	select {
	case <-d.exited:
		errs = append(errs, fmt.Errorf("boxlited ended too early: %w", exitError(d.exit)), d.lastWords())
	default:
		errs = append(errs, d.terminate())
	}
	mounts, err := mountsBelow(d.dir)
	errs = append(errs, err)
	for _, m := range mounts {
		errs = append(errs, fmt.Errorf("boxlited left its mount %s", m))
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			return errors.Join(append(errs, fmt.Errorf("unmount %s: %w", m, err))...)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

func (d *daemon) terminate() error {
	for _, step := range []struct {
		signal syscall.Signal
		bound  time.Duration
	}{{syscall.SIGTERM, 5 * time.Second}, {syscall.SIGKILL, 10 * time.Second}} {
		if err := d.cmd.Process.Signal(step.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		select {
		case <-d.exited:
			if d.exit != nil {
				return fmt.Errorf("boxlited: %w", d.exit)
			}
			return nil
		case <-time.After(step.bound):
		}
	}
	return fmt.Errorf("boxlited (pid %d) does not die", d.cmd.Process.Pid)
}

// exitError makes an error of a clean exit, where there should have been none.
func exitError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

func (d *daemon) names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.boxes...)
}

// processes returns the daemon and its helpers: all that runs its program.
func (d *daemon) processes() ([]int, error) {
	below, err := descendants(d.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	return running(append(below, d.cmd.Process.Pid), d.bin)
}

// shims returns the shims of the daemon's boxes, which must be so many.
func (d *daemon) shims(count int) ([]int, error) {
	below, err := descendants(d.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	shims, err := running(below, d.shim)
	if err == nil && len(shims) < count {
		err = fmt.Errorf("%d boxes have %d shims", count, len(shims))
	}
	return shims, err
}

func (d *daemon) path(box, file string) string {
	return d.mount + "/boxes/" + box + "/" + file
}

// create makes a box and configures it.
func (d *daemon) create(box string, command ...string) error {
	if err := unix.Mkdir(d.mount+"/boxes/"+box, 0o755); err != nil {
		return fmt.Errorf("mkdir boxes/%s: %w", box, err)
	}
	d.mu.Lock()
	d.boxes = append(d.boxes, box)
	d.mu.Unlock()
	words := make([]string, len(command))
	for i, word := range command {
		words[i] = strconv.Quote(word)
	}
	config := "command: [" + strings.Join(words, ", ") + "]\n" + d.more
	if err := store(d.path(box, "config.yaml"), unix.O_CREAT|unix.O_TRUNC, config); err != nil {
		return fmt.Errorf("configure box %s: %w", box, d.explain(box, err))
	}
	return nil
}

// ctl gives a box a command; it returns when the command is done.
func (d *daemon) ctl(box, command string) error {
	if err := store(d.path(box, "ctl"), 0, command+"\n"); err != nil {
		return fmt.Errorf("%s box %s: %w", command, box, d.explain(box, err))
	}
	return nil
}

// start starts a box and returns the pid of its shim.
func (d *daemon) start(box string) (int, error) {
	if err := d.ctl(box, "start"); err != nil {
		return 0, err
	}
	text, err := load(d.path(box, "pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// explain adds a box's own sentence to an error.
func (d *daemon) explain(box string, err error) error {
	reason, readErr := load(d.path(box, "last_error"))
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	return fmt.Errorf("%w (last_error: %s)", err, reason)
}

// parallel calls the function for the boxes, four at a time, until an error or the context ends it.
func (d *daemon) parallel(ctx context.Context, boxes []string, call func(string) error) error {
	work := make(chan string)
	results := make(chan error)
	const workers = 4
	for range workers {
		go func() {
			var errs []error
			for box := range work {
				// After a first error the rest is only taken off the queue.
				if len(errs) > 0 {
					continue
				}
				err := ctx.Err()
				if err == nil {
					err = call(box)
				}
				if err != nil {
					errs = append(errs, err)
				}
			}
			results <- errors.Join(errs...)
		}()
	}
	for _, box := range boxes {
		work <- box
	}
	close(work)
	var errs []error
	for range workers {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// populate makes boxes number from to below to, starts them if told so, and sees that each says
// the status it should have: that is also the look that every box gets from somebody, some day.
func (d *daemon) populate(ctx context.Context, b *bench, from, to int, start bool, command ...string) error {
	var names []string
	for i := from; i < to; i++ {
		names = append(names, fmt.Sprintf("box-%04d", i))
	}
	want := "configured"
	if start {
		want = "running"
	}
	return d.parallel(ctx, names, func(box string) error {
		b.alive()
		if err := d.create(box, command...); err != nil {
			return err
		}
		if start {
			if err := d.ctl(box, "start"); err != nil {
				return err
			}
		}
		status, err := load(d.path(box, "status"))
		if err == nil && status != want {
			err = fmt.Errorf("box %s is %s, want %s", box, status, want)
		}
		return err
	})
}

// store opens, writes and closes a file as a shell's redirection does, and tells each error.
func store(path string, flags int, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|flags, 0o644)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return errors.Join(fmt.Errorf("write: %w", err), unix.Close(fd))
	}
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// load opens a file, reads it once and closes it, and returns its line.
func load(path string) (string, error) {
	var buffer [4096]byte
	n, err := readOnce(path, buffer[:])
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return strings.TrimSuffix(string(buffer[:n]), "\n"), nil
}

// readOnce is the cycle that is measured: open, one read, close.
func readOnce(path string, buffer []byte) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open: %w", err)
	}
	n, err := unix.Read(fd, buffer)
	if err != nil {
		return 0, errors.Join(fmt.Errorf("read: %w", err), unix.Close(fd))
	}
	if err := unix.Close(fd); err != nil {
		return 0, fmt.Errorf("close: %w", err)
	}
	return n, nil
}
