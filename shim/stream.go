//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// What a process opens by the name of /dev/stdin, /dev/stdout or /dev/stderr is opened
// anew, by the permissions of its inode: that of a pipe or a FIFO, which the shim has
// made as root of the host.

const (
	// inputMode and outputMode are the permissions of a stream. Nobody else can name it:
	// a FIFO lies in a directory of root's, and a pipe has a name only for who has it
	// already, among them those who have changed their user since they got it.
	inputMode  = 0o644
	outputMode = 0o622
)

// giveStream lets the user of a command, and whom that becomes, open the stream fd again.
func giveStream(fd int, uid, gid uint32, mode uint32) error {
	// The mode first: FOWNER is not needed for one's own.
	if err := unix.Fchmod(fd, mode); err != nil {
		return err
	}
	return unix.Fchown(fd, int(uid), int(gid))
}

// inPump moves what is written into the FIFO that is an exec's stdin into the pipe that
// the command has for it. A FIFO itself would not do: who opens one for reading waits for
// a writer, so that a command which opens /dev/stdin when all was written and closed
// would wait for ever. A pipe gives what it holds, and then EOF.
//
// Nothing is copied: the pages go from one to the other.
type inPump struct {
	fifo    int    // 0: it is at its end, or has no reader any more
	pipe    int    // the same
	watched [2]int // what the epoll waits for
}

// has reports whether fd belongs to the pump.
func (p *inPump) has(fd int) bool { return p.pipe != 0 && (fd == p.fifo || fd == p.pipe) }

// open makes the pipe, and returns the end that the command is to have, with the pump
// begun.
func (p *inPump) open(dir int) (int, *wire.StartError) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return 0, wire.NewStartError(wire.StepExecFiles, "cannot make a pipe", err)
	}
	fifo, failed := openFIFO(dir, wire.ExecStdin, unix.O_RDONLY|execFD)
	if failed != nil {
		sys.Close(ends[0])
		sys.Close(ends[1])
		return 0, failed
	}
	p.fifo, p.pipe = fifo, ends[1]
	// The command's end stays blocking.
	if err := unix.SetNonblock(p.pipe, true); err != nil {
		return ends[0], wire.NewStartError(wire.StepExecFiles, "cannot make a pipe", err)
	}
	return ends[0], nil
}

// pumpStdin moves what can be moved of the stdin of an exec, and waits for more.
func (e *execProcess) pumpStdin(s *supervisor) {
	p := &e.in
	for range splicesPerTurn {
		n, err := sys.Retry(func() (int64, error) {
			return unix.Splice(p.fifo, nil, p.pipe, nil, maxSplice, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		})
		if errors.Is(err, unix.EAGAIN) && !unread(p.pipe) {
			break
		}
		if n <= 0 || err != nil {
			// All writers have closed it and it is empty, or nobody reads it any more: who
			// goes on writing meets EPIPE.
			e.closePump(s)
			return
		}
	}
	// EPOLLERR comes when the last reader has closed its end, asked for or not.
	fifo, pipe := uint32(unix.EPOLLIN), uint32(unix.EPOLLERR)
	if left, err := unix.IoctlGetInt(p.fifo, unix.TIOCINQ); err == nil && left > 0 {
		// The end of the writers would be told again and again while there is no room.
		fifo, pipe = 0, unix.EPOLLOUT
	}
	s.await(p.fifo, fifo, &p.watched[0])
	s.await(p.pipe, pipe, &p.watched[1])
}

// unread reports whether nobody reads a pipe any more. splice does not say so while there
// is nothing to move, and the epoll would say it again and again.
func unread(pipe int) bool {
	fds := []unix.PollFd{{Fd: int32(pipe)}}
	n, err := sys.Retry(func() (int, error) { return unix.Poll(fds, 0) })
	return err == nil && n > 0 && fds[0].Revents&unix.POLLERR != 0
}

// closePump gives the readers of an exec's stdin EOF, and its writers EPIPE.
func (e *execProcess) closePump(s *supervisor) {
	p := &e.in
	for i, fd := range [...]int{p.fifo, p.pipe} {
		if fd != 0 {
			s.await(fd, 0, &p.watched[i])
			sys.Close(fd)
		}
	}
	*p = inPump{}
}
