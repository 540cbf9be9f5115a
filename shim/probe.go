//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

const (
	// maxLate bounds how many processes of probes are left behind that were killed
	// and have not died: in a frozen box, or on a file system that does not answer.
	maxLate = 8
	// bodyWaitNs is how much longer the body of a response may take than its head.
	bodyWaitNs = 200e6
)

// What is wrong with a probe that is no command, or that did not come to be one.
const (
	reasonFork       = "cannot start a process"
	reasonConnecting = "not connected in time"
	reasonWaiting    = "no HTTP response in time"
	reasonEmpty      = "connection closed without an HTTP response"
	reasonNotHTTP    = "not an HTTP response"
	reasonInterim    = "no HTTP response after an interim one (status 1xx)"
)

// probe is the probe that runs, if one does. What it needs is made for the first
// one and kept: the heap of a shim is so small that no garbage is ever collected,
// which has to stay so however often it probes.
type probe struct {
	running  bool
	seq      uint32
	begun    int64 // monotonic time
	deadline int64 // monotonic time
	over     bool  // it has ended with result
	result   wire.ProbeResult
	out      []byte // what is kept of the output
	fd       int    // the pipe of a command's output, or the socket; 0, which is /dev/null, for none

	child   *child
	files   []string         // what the child tries to execute
	pid     int              // the process of a command; 0 for none
	group   int              // its process group
	starter int              // the OCI runtime that is to start it; 0 for none
	report  int              // the pipe that tells why it was not executed; 0 for none
	late    [maxLate]int     // processes of others that were killed and have not been reaped
	calls   [maxLate]bool    // which of them are runtimes that were to start one
	why     trouble          // of the last that could not be executed
	whyNot  wire.ProbeResult // the same in words

	peer    *peerSearch
	addrs   []unix.Sockaddr
	try     int   // which of addrs it is
	refused error // how the one before failed
	sent    int   // bytes of the request; -1 until there is a connection
	resp    response
	decided bool // the head has come: result stands, and the body is taken
}

// mayProbe says why no probe can begin now, or 0.
func (s *supervisor) mayProbe() unix.Errno {
	switch {
	case !s.alive:
		return unix.ESRCH
	case s.spec.Probe.Kind == wire.ProbeNone:
		return unix.ENOENT
	case s.stopping || s.paused || s.probe.running || s.probe.place(0) < 0:
		return unix.EBUSY
	}
	return 0
}

// place returns where among the late ones pid is, or -1.
func (p *probe) place(pid int) int {
	for i, late := range p.late {
		if late == pid {
			return i
		}
	}
	return -1
}

// begin starts Spec.Probe, which mayProbe has allowed. It may be over when
// begin returns.
func (p *probe) begin(s *supervisor, seq uint32, now int64) {
	if p.out == nil {
		p.out = make([]byte, 0, wire.MaxProbeOutput)
	}
	p.running, p.over, p.seq, p.begun = true, false, seq, now
	p.deadline = now + min(s.spec.Probe.TimeoutNs, math.MaxInt64-now)
	p.out = p.out[:0]
	p.sent, p.resp, p.decided = -1, response{}, false
	if s.spec.Probe.Kind == wire.ProbeCommand {
		p.startProgram(s)
		return
	}
	if p.addrs == nil {
		p.addrs = addresses(&s.spec.Probe)
	}
	p.connect(s, 0)
}

// decide notes how the probe has ended, as far as it is known now.
func (p *probe) decide(r wire.ProbeResult) {
	r.Duration = time.Duration(monotonic() - p.begun)
	p.result = r
}

// finish ends the probe with r.
func (p *probe) finish(r wire.ProbeResult) {
	p.decide(r)
	p.over = true
}

// conclude tells how a probe ended, if it has.
func (p *probe) conclude(s *supervisor) {
	if !p.running || !p.over {
		return
	}
	p.end(s)
	p.result.Output = p.out
	s.srv.tell(s, &wire.LineAnswer{Op: wire.LineProbe, Seq: p.seq, Result: p.result})
}

// end forgets the probe, if one runs, and kills what it started.
func (p *probe) end(s *supervisor) {
	if p.starter != 0 {
		p.dropStarter(s)
	}
	if p.pid != 0 {
		// It may be too young to have a group of its own.
		kill(p.pid)
		kill(-p.group)
		p.late[p.place(0)] = p.pid
		p.pid = 0
	}
	if p.searching() {
		p.peer.holders.giveUp(monotonic())
	}
	p.close(s)
	if p.report != 0 {
		sys.Close(p.report)
		p.report = 0
	}
	p.running = false
}

// close closes the pipe or socket of the probe.
func (p *probe) close(s *supervisor) {
	if fd := p.fd; fd != 0 {
		p.fd = 0
		s.unwatch(fd)
		sys.Close(fd)
	}
}

func kill(pid int) {
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		say("cannot kill a probe: " + err.Error())
	}
}

// progress takes what came of the probe's descriptor.
func (p *probe) progress(s *supervisor) {
	switch {
	case s.spec.Probe.Kind == wire.ProbeCommand:
		p.takeOutput(s)
	case p.searching():
	case p.sent < 0:
		p.connected(s)
	default:
		p.converse(s)
	}
	p.conclude(s)
}

// expire ends a probe whose time is over.
func (p *probe) expire(s *supervisor) {
	switch {
	case p.decided:
		p.over = true
	case s.spec.Probe.Kind == wire.ProbeCommand:
		p.finish(wire.ProbeResult{TimedOut: true, Code: 128 + int(unix.SIGKILL)})
	case p.searching():
		p.finish(wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonWhose})
	case p.sent < 0:
		p.finish(wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonConnecting})
	default:
		p.finish(wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonWaiting})
	}
	p.conclude(s)
}
