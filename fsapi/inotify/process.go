package inotify

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Spawn starts a child without a descriptor of /dev/fuse that calls Run with conn and
// args. The child has a session of its own, since it must not end with a terminal's Ctrl-C
// before the daemon does.
type Spawn func(conn *os.File, args []string) (*os.Process, error)

const (
	// answerBound is how long the notifier may take to begin, or for what it is given at once.
	answerBound = time.Second
	// endBound is how long it may take to end by itself.
	endBound = 200 * time.Millisecond
)

var errNoAnswer = errors.New("it did not answer in time")

// Process is a notifier, as the daemon sees it.
type Process struct {
	conn *os.File
	proc *os.Process
	// tid stays until the process is reaped: until then requests of it may come.
	tid   atomic.Uint32
	ready chan struct{} // closed when tid is known
	done  chan struct{} // an answer
	gone  chan struct{} // closed when it is reaped
}

// Start starts a notifier for what is mounted, or will be, at the path mount. It returns at
// once.
func Start(spawn Spawn, mount string) (*Process, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "notifier")
	// Only then is it waited for without a thread.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, errors.Join(err, unix.Close(fds[0]), theirs.Close())
	}
	p := &Process{
		conn:  os.NewFile(uintptr(fds[0]), "notifier"),
		ready: make(chan struct{}), done: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	p.proc, err = spawn(theirs, []string{filepath.Clean(mount)})
	if err := errors.Join(err, theirs.Close()); err != nil {
		return nil, errors.Join(err, p.conn.Close())
	}
	go p.listen()
	return p, nil
}

// listen takes the answers, and reaps the process when it can give no more.
func (p *Process) listen() {
	defer close(p.gone)
	defer func() {
		_ = p.proc.Kill() // it has ended, or should
		_, _ = p.proc.Wait()
		p.tid.Store(0)
		_ = p.conn.Close()
	}()
	buf := make([]byte, 4)
	if n, err := p.conn.Read(buf); err != nil || n != len(buf) {
		return
	}
	p.tid.Store(binary.NativeEndian.Uint32(buf))
	close(p.ready)
	for {
		if _, err := p.conn.Read(buf); err != nil {
			return
		}
		select {
		case p.done <- struct{}{}:
		default:
			return // an answer that nobody asked for
		}
	}
}

// Thread returns the id of the thread that makes the notifier's requests; 0 before it has
// begun, and when it has ended.
func (p *Process) Thread() uint32 { return p.tid.Load() }

// AwaitReady returns when the notifier works. It fails when that takes longer than a second,
// when the process ends, and with os.ErrClosed when quit is closed.
func (p *Process) AwaitReady(quit <-chan struct{}) error { return p.await(p.ready, quit) }

// await waits for a sign of life.
func (p *Process) await(sign <-chan struct{}, quit <-chan struct{}) error {
	timer := time.NewTimer(answerBound)
	defer timer.Stop()
	select {
	case <-sign:
		return nil
	case <-p.gone:
		return io.ErrUnexpectedEOF
	case <-quit:
		return os.ErrClosed
	case <-timer.C:
		return errNoAnswer
	}
}

// Do has at most MaxRequests requests made, in that order, if device is what is mounted:
// major:minor, as mountinfo shows it. It returns when they were made, whether or not they
// succeeded, and fails as AwaitReady does.
func (p *Process) Do(device string, requests []Request, quit <-chan struct{}) error {
	if _, err := p.conn.Write(encode(device, requests)); err != nil {
		return err
	}
	return p.await(p.done, quit)
}

// Ended reports whether the process has ended and is reaped.
func (p *Process) Ended() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// Kill kills the process and returns when it is reaped, or quit is closed. Its pid is its
// own until then.
func (p *Process) Kill(quit <-chan struct{}) {
	_ = p.proc.Kill() // ended: as well
	select {
	case <-p.gone:
	case <-quit:
	}
}

// Stop lets the process end, and kills one that does not. That is bounded: one that can't
// die, because its request is not answered, dies with the mount.
func (p *Process) Stop() {
	// Shutdown, and not Close: the end of its reader is that of the process.
	rc, err := p.conn.SyscallConn()
	if err == nil {
		err = rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
	if err != nil || !p.endsIn(endBound) {
		_ = p.proc.Kill()
		p.endsIn(endBound)
	}
}

func (p *Process) endsIn(bound time.Duration) bool {
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-p.gone:
		return true
	case <-timer.C:
		return false
	}
}
