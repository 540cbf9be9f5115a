//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// startProgram starts the command of a probe.
func (p *probe) startProgram(s *supervisor) {
	if s.spec.Container != nil {
		p.startContained(s)
		return
	}
	if p.child == nil {
		argv := s.spec.Probe.Argv
		p.files = wire.Candidates(s.spec.Env, argv[0])
		c, err := s.newChild(argv, p.files)
		if err != nil {
			p.finish(wire.ProbeResult{Code: failedCode, Reason: err.Error()})
			return
		}
		c.apart = true
		p.child = c
	}
	if errno := p.fork(s, p.child); errno != 0 {
		p.finish(wire.ProbeResult{Code: failedCode, Reason: reasonFork + ": " + errno.Error()})
	}
}

// fork starts the child of a probe and its two pipes.
func (p *probe) fork(s *supervisor, c *child) unix.Errno {
	var out, report [2]int
	if err := unix.Pipe2(out[:], unix.O_CLOEXEC); err != nil {
		return toErrno(err)
	}
	p.fd = out[0]
	defer sys.Close(out[1])
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return toErrno(err)
	}
	p.report = report[0]
	defer sys.Close(report[1])
	// The box's end stays blocking, as with the log.
	if err := unix.SetNonblock(out[0], true); err != nil {
		return toErrno(err)
	}
	if err := s.watch(out[0]); err != nil {
		return toErrno(err)
	}
	if err := giveStream(out[1], s.spec.UID, s.spec.GID, outputMode); err != nil {
		return toErrno(err)
	}
	c.files, c.report = [3]uintptr{wire.FDNull, uintptr(out[1]), uintptr(out[1])}, uintptr(report[1])
	pid, errno := forkExec(c)
	runtimeAfterFork()
	if errno != 0 {
		return unix.Errno(errno)
	}
	p.pid, p.group = int(pid), int(pid)
	return 0
}

// takeOutput keeps the beginning of the output and throws the rest away.
func (p *probe) takeOutput(s *supervisor) {
	for range splicesPerTurn {
		n, err := p.readOutput()
		if n == 0 && len(p.out) == wire.MaxProbeOutput {
			var moved int64
			moved, err = sys.Retry(func() (int64, error) {
				return unix.Splice(p.fd, nil, s.log.null, nil, maxSplice, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			})
			n = int(moved)
		}
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if n <= 0 || err != nil {
			// All that could write are gone, or write elsewhere: epoll would tell for ever.
			p.close(s)
			return
		}
	}
}

// readOutput reads into what is left of the room. 0 says that there is none, or
// that the output is at its end.
func (p *probe) readOutput() (int, error) {
	room := p.out[len(p.out):cap(p.out)]
	if len(room) == 0 {
		return 0, nil
	}
	n, err := sys.Retry(func() (int, error) { return unix.Read(p.fd, room) })
	p.out = p.out[:len(p.out)+max(n, 0)]
	return n, err
}

// reaped is told of each process that was reaped.
func (p *probe) reaped(s *supervisor, pid int, status unix.WaitStatus) {
	if i := p.place(pid); i >= 0 {
		p.late[i] = 0
		if p.calls[i] {
			p.calls[i] = false
			s.callEnded()
		}
		return
	}
	switch pid {
	case p.starter:
		p.started(s, status)
	case p.pid:
		p.ended(s, status)
	}
}

// ended is told how the command of a probe ended.
func (p *probe) ended(s *supervisor, status unix.WaitStatus) {
	p.pid = 0
	// What it has left behind. The number cannot be another's as long as the group
	// has a member, and takes a while to come round.
	kill(-p.group)
	r := wire.ProbeResult{Code: status.ExitStatus()}
	if status.Signaled() {
		r.Code = 128 + int(status.Signal())
	}
	if p.notExecuted(s.spec) {
		r = p.whyNot
	}
	for p.fd != 0 {
		if n, err := p.readOutput(); n <= 0 || err != nil {
			break
		}
	}
	p.finish(r)
	p.conclude(s)
}

// notExecuted reports whether the child of the probe failed, and sets whyNot.
func (p *probe) notExecuted(spec *wire.Spec) bool {
	var t trouble
	b := (*[unsafe.Sizeof(t)]byte)(unsafe.Pointer(&t))
	if n, err := sys.Retry(func() (int, error) { return unix.Read(p.report, b[:]) }); err != nil || n != len(b) {
		return false
	}
	if t == p.why {
		return true
	}
	p.why = t
	code, e := p.child.notExecuted(t, spec, spec.Probe.Argv[0], p.files)
	p.whyNot = wire.ProbeResult{Code: code, Reason: e.Error()}
	return true
}
