package runtime

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/boxlitefs/boxlite/runtime/atomicfile"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/fault"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/wire"
)

const (
	// backoffFirst is how long a box waits before its first restart. Each further
	// one in a row waits twice as long, up to backoffMost.
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 30 * time.Second
	// calmAfter is how long a box has to run healthily for the next restart to be
	// the first of its row.
	calmAfter = 10 * time.Second
)

// backoff is how long the restart waits that comes after so many in a row.
func backoff(retries int) time.Duration {
	d := backoffFirst
	for ; retries > 0 && d < backoffMost; retries-- {
		d *= 2
	}
	return min(d, backoffMost)
}

// wantsAgain reports whether a run that ended so is to be followed by another, and
// if not, whether that is because it was tried often enough. A stop that a person
// asked for always wins. retries is how many restarts in a row there were.
func (r *run) wantsAgain(v ending, rec *wire.ExitRecord, retries int) (again, exhausted bool) {
	c := r.cfg
	stopped := rec != nil && rec.StoppedBy == wire.StoppedByStop
	switch {
	case r.resumed && !r.final:
		return true, false
	case r.final || rec != nil && rec.StoppedBy == wire.StoppedByTerm:
		return false, false
	case r.failure != nil && !r.again:
		return false, false // who asked for the start was told
	case r.bounced || stopped && c.Health.OnUnhealthy == "restart":
		again = !r.rebooted // it was unhealthy; perhaps a daemon that is no more has said so
	case c.Restart.Policy == config.RestartAlways || c.Restart.Policy == config.RestartUnlessStopped:
		return true, false
	case c.Restart.Policy == config.RestartOnFailure:
		again = !r.rebooted && (v.code != 0 || v.status == status.Failed)
	}
	if again && c.Restart.MaxRetries > 0 && retries >= c.Restart.MaxRetries {
		return false, true
	}
	return again, false
}

// calm reports whether the run was healthy for long enough at a time.
func (r *run) calm(now moment) bool {
	return r.wasCalm || r.wellSince != 0 && now.sub(r.wellSince) >= calmAfter
}

// setWell notes that the run is healthy, or is no longer. mu is held.
func (r *run) setWell(well bool, now moment) {
	r.wasCalm = r.calm(now)
	switch {
	case !well:
		r.wellSince = 0
	case r.wellSince == 0:
		r.wellSince = now
	}
}

// afterwards decides in the update that tells the end of a run what comes after
// it. It returns what is to be said of it. mu is held.
func (t *tx) afterwards(b *Box, r *run, v *ending, rec *wire.ExitRecord, now time.Time) {
	if r.calm(momentOf(now)) {
		b.retries = 0
	}
	again, exhausted := r.wantsAgain(*v, rec, b.retries)
	switch {
	case exhausted:
		v.message += fmt.Sprintf("; not restarted again (max_retries: %d)", r.cfg.Restart.MaxRetries)
	case again && r.resumed:
		v.status, t.RestartAt = status.Restarting, now
	case again:
		wait := backoff(b.retries)
		b.retries++
		v.status = status.Restarting
		switch {
		case v.message != "ok":
		case r.bounced:
			v.message = "it was unhealthy (info.json has its last probe)"
		default:
			v.message = "the command exited with status 0"
		}
		v.message += fmt.Sprintf("; restart %d in a row in %s", b.retries, wait)
		t.RestartAt = now.Add(wait)
	}
}

// awaitRestart starts the box again when its backoff is over. A box that was found
// so waits for the daemon to be ready.
func (b *Box) awaitRestart() {
	s := b.Snapshot()
	if s.Status != status.Restarting || !b.rt.ready.Load() {
		return
	}
	b.rt.timers.Set(&b.restartTimer, s.RestartAt)
}

// restartDue is called when a backoff is over.
func (b *Box) restartDue() {
	fault.Point("restart.due")
	if c := b.Snapshot().Config; c != nil && b.idle(c.Expire) {
		b.expireWaiting(c.Expire)
		return
	}
	if _, err := b.start("", policyStart); err != nil && !errors.Is(err, ErrCanceled) && !errors.Is(err, ErrRemoved) {
		b.log("restart").WithError(err).Error("not restarted")
		b.giveUp(err)
	}
}

// giveUp ends a backoff after which the box could not even be asked to start: its
// configuration cannot be read any more.
func (b *Box) giveUp(why error) {
	if err := b.update("restart", func(t *tx) error {
		if t.Status == status.Restarting {
			t.Status, t.RestartAt, t.LastError = status.Stopped, time.Time{}, oneLine("not restarted: "+why.Error())
		}
		return nil
	}); err != nil && !errors.Is(err, ErrRemoved) {
		b.log("restart").WithError(err).Error("not restarted, but cannot be said to be stopped")
	}
	b.saveSoon()
}

// bounce stops a run that has become unhealthy, to be started again.
func (b *Box) bounce(r *run) {
	b.mu.Lock()
	busy := b.run != r || r.final || r.bounced
	b.mu.Unlock()
	if busy {
		return
	}
	_, _, err := b.stop(fmt.Sprintf("by=0:%d restart reason=unhealthy", os.Getpid()), Command{Verb: VerbStop, because: causeUnhealthy, only: r})
	if err != nil && !errors.Is(err, ErrCanceled) {
		b.log("health").WithError(err).Warn("unhealthy, and not restarted")
		return
	}
}

// mayComeBack reports whether anything but a command could start the box again
// after this run.
func (r *run) mayComeBack() bool {
	return r.cfg.Restart.Policy != config.RestartNo || r.cfg.Health.OnUnhealthy == "restart"
}

// noteStop writes down what a person wants of a box: that it does not run, before a
// run is ended or when a backoff was cut short (r is nil), or that it runs again. At
// once for the next daemon, and soon for the next boot.
func (b *Box) noteStop(r *run, again bool) error {
	b.save.Lock()
	defer b.save.Unlock()
	defer b.saveSoon()
	return b.saveNow(atomicfile.BestEffort, func(s *stateRecord) {
		s.RestartAt = time.Time{}
		last := s.LastRun
		switch {
		case r != nil:
			last = r.id
		case b.run != nil:
			last = b.run.id
		}
		if s.Again = ""; again {
			s.Again = last
		} else {
			s.Asked = last
		}
	})
}

// noteBound is how long the end of a run waits for what noteStop writes: a disk that
// hangs must not keep a box from being killed.
const noteBound = 250 * time.Millisecond

// noteInTime is noteStop, within its bound.
func (b *Box) noteInTime(r *run, again bool) {
	noted := make(chan error, 1)
	go func() { noted <- b.noteStop(r, again) }()
	var err error
	select {
	case err = <-noted:
	case <-time.After(noteBound):
		err = errors.New("the disk takes too long")
	}
	if err != nil {
		b.log("stop").WithError(err).Error("not written down what is wanted of it: another daemon may do something else")
	}
}

// removesItself reports whether the last run was to be followed by the removal of the
// box. Where its configuration is not known the present one says so; a daemon that cannot
// read that either removes nothing. mu is held.
func (b *Box) removesItself(present *config.Config) bool {
	if b.run != nil {
		present = b.run.cfg
	}
	return present != nil && present.RemoveOnExit
}
