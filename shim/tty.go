//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

const (
	// ttyRoom is how much of a terminal's output or input is under way in the shim.
	ttyRoom = 4096
	// ttyPipe is the size of the pipe that takes what a terminal has left when its
	// command has ended, in bytes.
	ttyPipe = 1 << 20
	// endOfFile is what a terminal takes for the end of its input: ^D.
	endOfFile = 4
)

// tty is the terminal of an exec. The shim moves what comes and goes, since nothing
// but a pipe keeps what was written when its reader is gone.
type tty struct {
	master  int // 0: there is none
	listen  int // where an OCI runtime sends the master to; 0: nowhere
	stdin   int // what the master gets
	out, in []byte
	nout    int    // bytes of out that the pipe has no room for
	nin     int    // bytes of in that the master has no room for
	watched [3]int // what the epoll waits for: master, stdin, stdout
	eof     bool   // the input is at its end, and ^D is, or was, in in
	hung    bool   // nobody has the other end of the terminal
}

// has reports whether fd belongs to the terminal of e.
func (t *tty) has(e *execProcess, fd int) bool {
	return t.master != 0 && (fd == t.master || fd == t.stdin || fd == e.stdout)
}

// openTTY makes a terminal, and returns it as the three files of the command.
func (e *execProcess) openTTY(s *supervisor, dir int) (files [3]int, failed *wire.StartError) {
	const what = "cannot make a terminal"
	t := &e.tty
	if s.spec.Container != nil {
		return files, e.openTTYStreams(dir)
	}
	master, err := sys.Retry(func() (int, error) {
		return unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return files, wire.NewStartError(wire.StepExecFiles, what, err)
	}
	t.master = master
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &unix.Winsize{Row: wire.TTYRows, Col: wire.TTYCols})
	}
	if err != nil {
		return files, wire.NewStartError(wire.StepExecFiles, what, err)
	}
	name := "/dev/pts/" + strconv.Itoa(number)
	slave, err := sys.Retry(func() (int, error) { return unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return files, wire.NewStartError(wire.StepExecFiles, what, err)
	}
	files = [3]int{slave, slave, slave}
	if err := unix.Fchown(slave, int(e.order.UID), -1); err != nil {
		return files, wire.NewStartError(wire.StepExecFiles, what, err)
	}
	if failed := e.openTTYStreams(dir); failed != nil {
		return files, failed
	}
	e.pumpTTY(s)
	return files, nil
}

// openTTYStreams makes what is needed to move data from and to a terminal.
func (e *execProcess) openTTYStreams(dir int) (failed *wire.StartError) {
	t := &e.tty
	t.stdin, failed = openFIFO(dir, wire.ExecStdin, unix.O_RDONLY|execFD)
	room := make([]byte, 2*ttyRoom)
	t.out, t.in = room[:ttyRoom], room[ttyRoom:]
	return failed
}

// pumpTTY moves what can be moved, and waits for what can not.
func (e *execProcess) pumpTTY(s *supervisor) {
	t := &e.tty
	for range splicesPerTurn {
		if !t.moveOut(e.stdout) && !t.moveIn() {
			break
		}
	}
	var want [3]uint32
	switch {
	case t.nout > 0:
		want[2] = unix.EPOLLOUT
	case !t.hung:
		want[0] = unix.EPOLLIN
	}
	switch {
	case t.hung:
	case t.nin > 0:
		want[0] |= unix.EPOLLOUT
	case !t.eof:
		want[1] = unix.EPOLLIN
	}
	for i, fd := range [...]int{t.master, t.stdin, e.stdout} {
		s.await(fd, want[i], &t.watched[i])
	}
}

// await has the epoll wait for events of fd, and for nothing when there are none: an
// end that hung up would be told for ever.
func (s *supervisor) await(fd int, events uint32, now *int) {
	if fd == 0 || *now == int(events) {
		return
	}
	op := unix.EPOLL_CTL_MOD
	if *now == 0 {
		op = unix.EPOLL_CTL_ADD
	} else if events == 0 {
		op = unix.EPOLL_CTL_DEL
	}
	ev := unix.EpollEvent{Events: events, Fd: int32(fd)}
	if err := unix.EpollCtl(s.epfd, op, fd, &ev); err != nil {
		say("cannot watch a terminal: " + err.Error())
		return
	}
	*now = int(events)
}

// moveOut moves output to the pipe, and reports whether there may be more.
func (t *tty) moveOut(pipe int) bool {
	if t.nout == 0 {
		n, err := sys.Retry(func() (int, error) { return unix.Read(t.master, t.out) })
		t.hung = errors.Is(err, unix.EIO)
		if n <= 0 || err != nil {
			return false
		}
		t.nout = n
	}
	n, err := sys.Retry(func() (int, error) { return unix.Write(pipe, t.out[:t.nout]) })
	if n <= 0 || err != nil {
		return false
	}
	t.nout = copy(t.out, t.out[n:t.nout])
	return true
}

// moveIn moves input to the terminal, and reports whether there may be more.
func (t *tty) moveIn() bool {
	if t.nin == 0 && !t.eof {
		n, err := sys.Retry(func() (int, error) { return unix.Read(t.stdin, t.in) })
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if t.nin = max(n, 0); t.nin == 0 {
			t.in[0], t.nin, t.eof = endOfFile, 1, true
		}
	}
	if t.nin == 0 {
		return false
	}
	n, err := sys.Retry(func() (int, error) { return unix.Write(t.master, t.in[:t.nin]) })
	if n <= 0 || err != nil {
		return false
	}
	t.nin = copy(t.in, t.in[n:t.nin])
	return true
}

// closeTTY takes the rest of the output, and closes the terminal. Its end of the pipe
// is made so large that the rest has room: nobody may ever read it.
func (e *execProcess) closeTTY(s *supervisor) {
	t := &e.tty
	if t.listen != 0 {
		sys.Close(t.listen)
		t.listen = 0
	}
	if t.master == 0 {
		if t.stdin != 0 {
			sys.Close(t.stdin)
		}
		*t = tty{}
		return
	}
	for t.moveOut(e.stdout) || t.nout > 0 && t.enlarge(e.stdout) {
	}
	for i, fd := range [...]int{t.master, t.stdin, e.stdout} {
		s.await(fd, 0, &t.watched[i])
	}
	sys.Close(t.master)
	if t.stdin != 0 {
		sys.Close(t.stdin)
	}
	*t = tty{}
}

// enlarge makes room in the pipe, once.
func (t *tty) enlarge(pipe int) bool {
	size, err := unix.FcntlInt(uintptr(pipe), unix.F_GETPIPE_SZ, 0)
	if err != nil || size >= ttyPipe {
		return false
	}
	_, err = unix.FcntlInt(uintptr(pipe), unix.F_SETPIPE_SZ, ttyPipe)
	return err == nil
}
