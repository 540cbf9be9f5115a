package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/epoll"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// openFIFO opens a stream of the exec, and makes it known to the poller.
func (e *Exec) openFIFO(root *os.Root, name string, how int) (int, error) {
	dir, err := root.Open(filepath.Join(wire.ExecDir, e.name))
	if err != nil {
		return -1, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), name, how|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	if err := e.b.rt.poller.Add(fd); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// openStreams opens stdout and stderr: what is in them is lost when nobody has them
// open.
func (e *Exec) openStreams(root *os.Root) error {
	for _, o := range e.out {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.fd >= 0 {
			continue
		}
		fd, err := e.openFIFO(root, o.name, unix.O_RDONLY)
		if err != nil {
			return fmt.Errorf("open its %s: %w", o.name, err)
		}
		o.fd = fd
	}
	return nil
}

// closeStreams gives up what an exec that is gone has not been asked for.
func (e *Exec) closeStreams() {
	for _, o := range e.out {
		o.mu.Lock()
		if o.fd >= 0 {
			e.b.rt.poller.Remove(o.fd)
			o.fd = -1
		}
		o.back = nil
		o.mu.Unlock()
		o.wake()
	}
	e.in.close()
}

// waiters are those who wait for a descriptor, all for the same.
type waiters struct {
	mu   sync.Mutex
	more chan struct{} // nil while nobody waits
}

// wait returns a channel that is closed by wake. The caller then looks once more
// whether there is anything to wait for.
func (w *waiters) wait() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.more == nil {
		w.more = make(chan struct{})
	}
	return w.more
}

func (w *waiters) wakeAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.more != nil {
		close(w.more)
		w.more = nil
	}
}

// outStream is stdout or stderr of an exec, which all its readers share.
type outStream struct {
	e       *Exec
	name    string
	waiting waiters

	mu   sync.Mutex
	fd   int    // -1: not open
	back []byte // what was read and given back
}

func (o *outStream) wake() { o.waiting.wakeAll() }

// Output is stdout or stderr of an exec as a Stream, which is consumed like a pipe: what
// one reader has got no other gets. It ends when the command has ended and all is read
// that it, and what has its pipe, had written until then.
type Output struct{ o *outStream }

// Stdout returns the exec's stdout.
func (e *Exec) Stdout() *Output { return &Output{e.out[0]} }

// Stderr returns the exec's stderr.
func (e *Exec) Stderr() *Output { return &Output{e.out[1]} }

// Poll is that of a Stream.
func (s *Output) Poll(p []byte) (int, <-chan struct{}, error) {
	o := s.o
	more := o.waiting.wait() // before the look at what it tells of
	snap := o.e.Snapshot()
	o.mu.Lock()
	defer o.mu.Unlock()
	if snap.Removed {
		return 0, nil, o.e.fail(ErrRemoved)
	}
	if len(o.back) > 0 {
		n := copy(p, o.back)
		o.back = o.back[n:]
		return n, nil, nil
	}
	if o.fd < 0 && (snap.Status == ExecStopped || snap.Status == ExecFailed) {
		return 0, nil, io.EOF
	}
	if snap.Status == ExecEmpty && o.e.refused.Load() {
		return 0, nil, o.e.fail(fmt.Errorf("%w: its command was refused", ErrCanceled))
	}
	if o.fd < 0 {
		return 0, more, nil // not begun; or it is just being removed
	}
	for {
		n, errno := epoll.Read(o.fd, p)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == 0 && n > 0:
			return n, nil, nil
		case errno != 0 && errno != unix.EAGAIN:
			return 0, nil, o.e.fail(errno)
		case snap.Status == ExecStopped || snap.Status == ExecFailed:
			return 0, nil, io.EOF
		case errno == 0:
			// No shim has it open: it has not begun, or its end is about to be told.
			return 0, more, nil
		}
		if err := o.e.b.rt.poller.Arm(o.fd, unix.EPOLLIN, o.wake); err != nil {
			return 0, nil, o.e.fail(err)
		}
		return 0, more, nil
	}
}

// Unread gives back what was got and could not be passed on: it is read next.
func (s *Output) Unread(b []byte) {
	s.o.mu.Lock()
	s.o.back = append(append([]byte(nil), b...), s.o.back...)
	s.o.mu.Unlock()
	s.o.wake()
}

// Close does nothing: what was not read stays.
func (s *Output) Close() {}

// inStream is stdin of an exec, which all its writers share.
type inStream struct {
	e       *Exec
	waiting waiters

	mu sync.Mutex
	fd int // -1: not open
}

func (i *inStream) wake() { i.waiting.wakeAll() }

func (i *inStream) close() {
	i.mu.Lock()
	if i.fd >= 0 {
		i.e.b.rt.poller.Remove(i.fd)
		i.fd = -1
	}
	i.mu.Unlock()
	i.wake()
}

// StdinWriter is somebody who has stdin of an exec open.
type StdinWriter struct {
	e   *Exec
	may func() bool
}

// OpenStdin notes that somebody has opened stdin, who may write to it as long as may says
// so, which must take no lock.
func (e *Exec) OpenStdin(may func() bool) *StdinWriter {
	w := &StdinWriter{e, may}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.writers == nil {
		e.writers = map[*StdinWriter]bool{}
	}
	e.writers[w] = true
	return w
}

// Close notes that he has closed it. With the last who may write stdin is at its end:
// whoever may not any more does not end it, and keeps nobody from that.
func (w *StdinWriter) Close() {
	e := w.e
	e.mu.Lock()
	delete(e.writers, w)
	last := e.snap.Load().Status == ExecRunning && w.may() && !e.mayBeWritten()
	run := e.snap.Load().run
	e.mu.Unlock()
	if !last {
		return
	}
	e.b.rt.background(func() {
		if err := e.carryOut(wire.Request{Op: wire.OpExecEOF, Run: run}); err != nil {
			e.b.log("exec").WithError(err).Warn("its stdin stays open")
		}
	})
}

// mayBeWritten reports whether somebody who may write has stdin open. The caller holds mu.
func (e *Exec) mayBeWritten() bool {
	for w := range e.writers {
		if w.may() {
			return true
		}
	}
	return false
}

// closeIn lets nobody write to stdin any more.
func (e *Exec) closeIn() {
	e.mu.Lock()
	if e.snap.Load().Status == ExecRunning {
		e.publish(func(s *ExecSnapshot) { s.stdinClosed = true })
	}
	e.mu.Unlock()
	e.in.close()
}

// PollWrite writes what there is room for in stdin, without waiting; where there is
// none, it returns 0 and a channel that is closed when it is worth trying again.
// ErrPipe says that nobody will read it, and ErrNoProcess that the exec has not begun.
func (e *Exec) PollWrite(p []byte) (int, <-chan struct{}, error) {
	i := &e.in
	more := i.waiting.wait()
	snap := e.Snapshot()
	switch {
	case snap.Removed:
		return 0, nil, e.fail(ErrRemoved)
	case snap.Status == ExecEmpty:
		return 0, nil, e.Refuse(fmt.Errorf("stdin: %w: write cmd first", ErrNoProcess))
	case snap.Status == ExecStarting:
		return 0, more, nil
	case snap.Status != ExecRunning:
		return 0, nil, e.fail(ErrPipe)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fd < 0 {
		if err := i.open(); err != nil {
			return 0, nil, err
		}
	}
	n, err := retryWrite(i.fd, p)
	switch {
	case err == nil:
		return n, nil, nil
	case errors.Is(err, unix.EPIPE):
		return 0, nil, e.fail(ErrPipe)
	case !errors.Is(err, unix.EAGAIN):
		return 0, nil, e.fail(err)
	}
	if err := e.b.rt.poller.Arm(i.fd, unix.EPOLLOUT, i.wake); err != nil {
		return 0, nil, e.fail(err)
	}
	return 0, more, nil
}

// take has a descriptor that the shim has sent for the pipe that the command reads from;
// -1 is none.
func (i *inStream) take(fd int) {
	if fd < 0 {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	// What ends it closes it after it has said so.
	s := i.e.Snapshot()
	over := s.Removed || s.stdinClosed || s.Status == ExecStopped || s.Status == ExecFailed
	// One that cannot be waited for is none: open then says why the FIFO can't either.
	if i.fd >= 0 || over || i.e.b.rt.poller.Add(fd) != nil {
		_ = unix.Close(fd)
		return
	}
	i.fd = fd
}

// open opens the FIFO of a command that the shim gives no pipe for: of a terminal, and
// where the shim is an older one. It is called with mu held.
func (i *inStream) open() error {
	root, err := i.e.b.pin()
	if err != nil {
		return i.e.fail(ErrRemoved)
	}
	defer root.Close()
	fd, err := i.e.openFIFO(root, wire.ExecStdin, unix.O_WRONLY)
	if errors.Is(err, syscall.ENXIO) {
		return i.e.fail(ErrPipe) // the command has closed it
	}
	if err != nil {
		return i.e.fail(err)
	}
	// closeIn may have come before the descriptor was there.
	if s := i.e.snap.Load(); s.stdinClosed {
		i.e.b.rt.poller.Remove(fd)
		return i.e.fail(ErrPipe)
	}
	i.fd = fd
	return nil
}

func retryWrite(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Write(fd, p)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
