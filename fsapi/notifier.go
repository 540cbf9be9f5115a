package fsapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	goruntime "runtime"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SpawnNotifier starts the notifier: a child without a descriptor of /dev/fuse that
// calls RunNotifier with conn and args, in a session of its own, since it must not
// end with a terminal's Ctrl-C before the daemon does.
type SpawnNotifier func(conn *os.File, args []string) (*os.Process, error)

const (
	// answerBound is how long the notifier may take for a batch. One that takes
	// longer is replaced.
	answerBound = time.Second
	// endBound is how long it may take to end by itself.
	endBound = 200 * time.Millisecond
	// batchMax is how much is asked of it at once: little, so that the bound says
	// that it hangs, and not that the machine is busy.
	batchMax = 32
	// messageMax is the size of a batch, in bytes.
	messageMax = batchMax * 128
)

// What the notifier is asked to do with a path. A message is the device of the mount
// and a row of these, each with its path; a zero byte ends each.
const (
	askTouch  = 'T'
	askRmdir  = 'R'
	askUnlink = 'U'
)

// RunNotifier is the whole life of the notifier process. It carries out the batches
// that it gets through conn, and returns when the daemon has closed it or is dead.
// args are those that were given to SpawnNotifier.
//
// It is a process because nobody else may do this. inotify sees what goes through
// the mount and nothing else, and a thread of the daemon that waits for an answer
// of the daemon cannot be killed: it would keep /dev/fuse open, and so nobody would
// ever get an answer. This one has no such descriptor, so its requests fail when
// the daemon dies.
func RunNotifier(conn int, args []string) error {
	if len(args) != 1 {
		return errors.New("the notifier is started by boxlited")
	}
	// The daemon knows the notifier's requests by the thread that makes them.
	goruntime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&[]byte("boxlite-notify\x00")[0])), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	// Whoever changes something or waits for it comes first. Where that is refused,
	// it does not.
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH, Nice: notifierNice}, 0)
	hello := binary.NativeEndian.AppendUint32(nil, uint32(unix.Gettid()))
	if _, err := unix.Write(conn, hello); err != nil {
		return ended(err)
	}
	buf := make([]byte, messageMax)
	for {
		n, err := unix.Read(conn, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return ended(err)
		case n == 0:
			return nil
		}
		if err := carryOut(args[0], buf[:n]); err != nil {
			return err
		}
		if _, err := unix.Write(conn, buf[:1]); err != nil {
			return ended(err)
		}
	}
}

// notifierNice is a compromise: on a busy machine a notification must neither take
// the processor from what it tells of, nor wait for a quiet moment.
const notifierNice = 5

// ended makes no error of the daemon's death.
func ended(err error) error {
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return err
}

// carryOut does what a message asks for; it begins with the device of the mount. The mount is held only meanwhile, so that
// nobody finds it busy; and it must be the daemon's own, not what has taken its
// place. What can't be done needn't be: the box is gone, or the daemon is.
func carryOut(mount string, message []byte) error {
	device, message, _ := bytes.Cut(message, []byte{0})
	root, err := unix.Open(mount, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(root) }()
	var st unix.Statx_t
	// The number of the device is not asked for: the kernel knows it.
	if err := unix.Statx(root, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return nil
	}
	if strconv.Itoa(int(st.Dev_major))+":"+strconv.Itoa(int(st.Dev_minor)) != string(device) {
		return nil
	}
	// New times for the contents alone are what makes MODIFY and nothing else.
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}
	for len(message) > 0 {
		end := bytes.IndexByte(message, 0)
		if end < 1 {
			return errors.New("a message that is cut short")
		}
		path := uintptr(unsafe.Pointer(&message[1]))
		switch message[0] {
		case askTouch:
			_, _, _ = unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(root), path, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
		case askRmdir:
			_, _, _ = unix.Syscall(unix.SYS_UNLINKAT, uintptr(root), path, unix.AT_REMOVEDIR)
		case askUnlink:
			_, _, _ = unix.Syscall(unix.SYS_UNLINKAT, uintptr(root), path, 0)
		default:
			return fmt.Errorf("a message that begins with %q", message[0])
		}
		message = message[end+1:]
	}
	return nil
}

// helper is a notifier process, as the daemon sees it.
type helper struct {
	conn *os.File
	proc *os.Process
	// tid is the thread that makes its requests, 0 before it has said so. It stays
	// until the process is reaped: until then requests of it may come.
	tid   atomic.Uint32
	ready chan struct{} // closed when tid is known
	done  chan struct{} // an answer
	gone  chan struct{} // closed when it is reaped
}

// startHelper starts a notifier. It returns at once; ready says when it works.
func startHelper(spawn SpawnNotifier, args []string) (*helper, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "notifier")
	// Only then is it waited for without a thread.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, errors.Join(err, unix.Close(fds[0]), theirs.Close())
	}
	h := &helper{
		conn:  os.NewFile(uintptr(fds[0]), "notifier"),
		ready: make(chan struct{}), done: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	h.proc, err = spawn(theirs, args)
	if err := errors.Join(err, theirs.Close()); err != nil {
		return nil, errors.Join(err, h.conn.Close())
	}
	go h.listen()
	return h, nil
}

// listen takes the answers, and reaps the process when it can give no more.
func (h *helper) listen() {
	defer close(h.gone)
	defer func() {
		_ = h.proc.Kill() // it has ended, or should
		_, _ = h.proc.Wait()
		h.tid.Store(0)
		_ = h.conn.Close()
	}()
	buf := make([]byte, 4)
	if n, err := h.conn.Read(buf); err != nil || n != len(buf) {
		return
	}
	h.tid.Store(binary.NativeEndian.Uint32(buf))
	close(h.ready)
	for {
		if _, err := h.conn.Read(buf); err != nil {
			return
		}
		select {
		case h.done <- struct{}{}:
		default:
			return // an answer that nobody asked for
		}
	}
}

var errNoAnswer = errors.New("it did not answer in time")

// await waits for one of the helper's signs of life.
func (h *helper) await(sign <-chan struct{}, quit <-chan struct{}) error {
	timer := time.NewTimer(answerBound)
	defer timer.Stop()
	select {
	case <-sign:
		return nil
	case <-h.gone:
		return io.ErrUnexpectedEOF
	case <-quit:
		return os.ErrClosed
	case <-timer.C:
		return errNoAnswer
	}
}

// ask hands over a message and returns when it was carried out.
func (h *helper) ask(message []byte, quit <-chan struct{}) error {
	if _, err := h.conn.Write(message); err != nil {
		return err
	}
	return h.await(h.done, quit)
}

func (h *helper) isGone() bool {
	select {
	case <-h.gone:
		return true
	default:
		return false
	}
}

// kill ends the process and returns when it is reaped, or quit is closed. Its pid
// is its own until then.
func (h *helper) kill(quit <-chan struct{}) {
	_ = h.proc.Kill() // ended: as well
	select {
	case <-h.gone:
	case <-quit:
	}
}

// end lets the process end, and kills one that does not. That is bounded: what
// can't die, because its request is not answered, dies with the mount.
func (h *helper) end() {
	// Shutdown, and not Close: the end of its reader is that of the process.
	rc, err := h.conn.SyscallConn()
	if err == nil {
		err = rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
	if err != nil || !h.goneIn(endBound) {
		_ = h.proc.Kill()
		h.goneIn(endBound)
	}
}

func (h *helper) goneIn(bound time.Duration) bool {
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-h.gone:
		return true
	case <-timer.C:
		return false
	}
}
