//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

const (
	// recordRetryNs is how long what could not be put on record is left alone.
	recordRetryNs = 1e9
	// keepEndNs is how long a shim outlives its box, at most, for the sake of what could
	// not be put on record: a daemon that is away comes back within that, and what nobody
	// asks for any more must not hold the box's mounts for ever.
	keepEndNs = 3600e9
)

// pending is what could not be put on record, because the disk is full as a rule. The
// shim keeps it, answers for it, and tries again: nothing that is known of an end is in
// a file alone.
//
// With the end of the run the shim would be gone, too. So it stays, after all that was in
// the box has been killed, until everything is on record, the daemon has written it
// elsewhere (and kills the shim), or somebody sends it a signal that is a stop. The daemon
// tells of the end meanwhile, so it hears of it only when nothing else of the box is left.
type pending struct {
	execs   int   // how many of their ends are not on record
	retryAt int64 // monotonic time of the next try; 0: there is nothing to write
	untold  bool  // who watches the execs has missed that there are such

	end     *wire.ExitRecord // of the run, once that has ended and there is something to keep
	alone   bool             // nothing else of the box is left
	written bool             // end is on record
	until   int64            // monotonic time at which the shim ends all the same
}

// isGone reports whether a record could not be written because its directory is not there
// any more: nobody will ask for it.
func isGone(err error) bool { return errors.Is(err, unix.ENOENT) }

// record puts the end of an exec on record, or keeps it.
func (e *execProcess) record(s *supervisor) {
	r := wire.ExitRecord{
		Run: s.spec.Run, Code: e.state.Code, Signal: e.state.Signal, Failed: e.state.Failed,
		StartedNs: e.state.StartedNs, EndedNs: e.state.EndedNs,
	}
	if e.state.TimedOut {
		r.StoppedBy = wire.StoppedByTimeout
	}
	dir, err := s.openExec(e.name)
	if err == nil {
		// Not synced: a power loss ends the box too, and nobody waits for it then.
		err = tryWriteRecord(dir, r.AppendJSON(s.srv.packet[:0]), false)
		sys.Close(dir)
	}
	switch {
	case err == nil || isGone(err):
		e.written(s)
	case !e.unwritten:
		say("cannot write the exit record of an exec: " + err.Error())
		e.unwritten = true
		s.pending.execs++
		s.writeLater(monotonic())
	}
}

// written says that there is nothing to write of an exec.
func (e *execProcess) written(s *supervisor) {
	if e.unwritten {
		e.unwritten = false
		s.pending.execs--
	}
}

func (s *supervisor) writeLater(now int64) {
	if s.pending.retryAt == 0 {
		s.pending.retryAt = now + recordRetryNs
	}
}

// writePending tries again to write what is not on record.
func (s *supervisor) writePending(now int64) {
	p := &s.pending
	p.retryAt = 0
	for _, e := range s.execs.list {
		if !e.unwritten {
			continue
		}
		if e.record(s); !e.unwritten {
			s.srv.execsChanged(s) // who could not take the end from here finds it on record
		}
	}
	if p.end != nil && !p.written {
		err := tryWriteRecord(s.dirfd, p.end.AppendJSON(nil), true)
		p.written = err == nil || isGone(err)
	}
	if p.end != nil && !p.alone {
		s.killAll()
	}
	if p.execs > 0 || p.end != nil && !p.written {
		s.writeLater(now)
		s.srv.endPending(s)
	}
}

// keepEnd stays with the end of a run as long as there is something to keep. err is why
// the record of the run could not be written, if it could not.
func (s *supervisor) keepEnd(r *wire.ExitRecord, err error) {
	if err != nil {
		say("cannot write the exit record: " + err.Error())
	}
	if s.pending.execs == 0 && (err == nil || isGone(err)) {
		return
	}
	s.killAll() // all that is left of the box
	s.unwatch(s.log.pipe)
	now := monotonic()
	s.pending.end, s.pending.written, s.pending.until = r, err == nil, now+keepEndNs
	s.writeLater(now)
	s.srv.endPending(s)
	s.run()
	if !s.pending.written {
		say("the exit record is not written")
	}
}

// nobodyLeft is told, when there was nobody to reap, whether the shim has no children. Of
// an init that says that there are no other processes.
func (s *supervisor) nobodyLeft(none bool) {
	p := &s.pending
	if p.end != nil && none && !p.alone {
		p.alone = true
		s.srv.endPending(s)
	}
}

// over reports whether the shim has nothing left to do.
func (s *supervisor) over(now int64) bool {
	p := &s.pending
	if p.end == nil {
		return !s.alive
	}
	return p.written && p.execs == 0 || now >= p.until
}

// next returns when writePending, or over, is to be called.
func (p *pending) next() int64 {
	next := int64(math.MaxInt64)
	if p.retryAt != 0 {
		next = p.retryAt
	}
	if p.end != nil {
		next = min(next, p.until)
	}
	return next
}
