package runtime

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/fault"
	"github.com/boxlitefs/boxlite/runtime/image"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// Verb is what a command asks for.
type Verb string

// The commands of a box.
const (
	VerbStart   Verb = "start"
	VerbStop    Verb = "stop"
	VerbKill    Verb = "kill"
	VerbRestart Verb = "restart"
	VerbPause   Verb = "pause"
	VerbResume  Verb = "resume"
	VerbSignal  Verb = "signal"
	// VerbCloseStdin is for execs only.
	VerbCloseStdin Verb = "close_stdin"
)

// Command is one command to a box.
type Command struct {
	Verb Verb
	// Grace replaces the configured stop.timeout of a stop or restart, unless
	// it is nil.
	Grace *time.Duration
	// Signal is what a signal command sends.
	Signal syscall.Signal
	// Image is what a pull is of, and All says that a prune spares nothing but what is
	// used; see Runtime.ImagesDo.
	Image image.Ref
	All   bool
	// because replaces the verb as the cause of the end in the metrics.
	because string
	// only is the run that a stop is for: it does nothing to another, to a backoff, or
	// to an end that somebody has asked for.
	only *run
	// waiting: a stop is for a backoff, and does nothing to a run.
	waiting bool
	// said is the last_error of a box that waited, instead of "ok": nobody may see it
	// stopped for no reason in between.
	said string
}

// cause names the command as what ended a run.
func (c Command) cause() string { return cmp.Or(c.because, string(c.Verb)) }

// By says who gave a command.
type By struct {
	UID uint32
	PID int
}

const (
	// KillBound is how long a force-stop waits for the reaping.
	KillBound = 2 * time.Second
	// askBound is how long a shim has for an answer. It answers from memory.
	askBound = time.Second
	// maxGrace is the longest grace: a year is as good as for ever.
	maxGrace = 365 * 24 * time.Hour
	// stopMargin is what a stop adds to the grace before it doubts that the
	// shim keeps time.
	stopMargin = 500 * time.Millisecond
)

// Do accepts or refuses a command at once, and returns the work it started. What
// is accepted goes on whether or not anybody waits for it.
func (b *Box) Do(by By, c Command) (*Completion, error) {
	if b.rt.isClosing() {
		return nil, b.fail(string(c.Verb), ErrClosed)
	}
	b.keepAlive()
	failed := b.Snapshot().LastError != "ok"
	var done *Completion
	var err error
	note := fmt.Sprintf("by=%d:%d %s", by.UID, by.PID, c.Verb)
	switch c.Verb {
	case VerbStart:
		done, err = b.start(note, personStart)
	case VerbStop, VerbKill:
		done, _, err = b.stop(note, c)
	case VerbRestart:
		done, err = b.restart(note, c)
	case VerbPause, VerbResume, VerbSignal:
		done, err = b.ask(note, c)
	default:
		err = b.fail(string(c.Verb), ErrInvalid)
	}
	if err != nil {
		return nil, b.refuse(err)
	}
	if failed {
		b.saveSoon() // that it is over
	}
	return done, nil
}

// Kills returns how many kills the box has taken. Who has a command that waits for its
// turn learns by it that a kill came later, which wins.
func (b *Box) Kills() uint64 { return b.kills.Load() }

const (
	personStart = -1 // a start command
	policyStart = -2 // the end of a backoff
	bootStart   = -3 // the start of the daemon, of a box that has a restart policy
)

// start begins a run. With stops of 0 or more it is the second half of a restart
// command and gives way to any stop that came after that.
func (b *Box) start(note string, stops int) (*Completion, error) {
	var r *run
	done := completed()
	err := b.update("start", func(t *tx) error {
		switch {
		case stops >= 0 && stops != b.stops:
			return fmt.Errorf("%w: a later stop or kill wins over the restart", ErrCanceled)
		case stops == policyStart && (t.Status != status.Restarting || b.rt.isClosing()):
			return fmt.Errorf("%w: it does not wait for a restart any more", ErrCanceled)
		case t.Status == status.Running || t.Status == status.Paused:
			if stops == personStart {
				// An earlier daemon was asked to end it, and died before it did.
				b.run.final, b.record.Asked = false, ""
			}
		case t.Status == status.Starting:
			done = b.run.began
		case t.Status == status.Unknown:
			return b.lookAgain()
		case t.Status == status.Stopping:
			return fmt.Errorf("%w: it is stopping (wait/stopped tells when it has)", ErrBusy)
		case t.Config == nil:
			return ErrNotConfigured
		default:
			r = newRun(t.Runs+1, rand.Text(), t.Config, t.Text)
			r.group = b.rt.groups.Of(b.name, r.cfg.Engine == config.EngineContainer)
			r.before = b.run
			b.run, t.run = r, r
			done = r.began
			t.Status, t.Runs, t.Started, t.Pending = status.Starting, r.n, time.Now(), false
			t.OOMKills, t.RestartAt = 0, time.Time{}
			if t.Health = status.HealthStarting; r.cfg.Health.Disabled {
				t.Health = status.HealthNone
			}
			if r.again = stops < personStart; r.again {
				t.Restarts++
			} else {
				b.retries = 0
			}
		}
		t.LastError, t.Restarting = "ok", false
		if note != "" {
			t.event("command", note)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if r != nil {
		fault.Point("start.accepted")
		go b.launch(r)
		// The daemon's end waits until the shim is on record, and no longer: one
		// that hangs then would hold it up.
		b.rt.background(func() { <-r.forked })
	}
	return done, nil
}

// stop is the one road of every end that is asked for. It also returns how many
// stops there have been with this one.
func (b *Box) stop(note string, c Command) (*Completion, int, error) {
	var r *run
	var stops int
	var grace time.Duration
	waited, remove, final, resumed := false, false, false, false
	force := c.Verb == VerbKill
	err := b.update(string(c.Verb), func(t *tx) error {
		if t.Status == status.Unknown {
			return b.lookAgain()
		}
		if c.waiting && t.Status != status.Restarting {
			return ErrCanceled
		}
		if c.only != nil && (b.run != c.only || !t.Status.Active() || t.Status == status.Stopping) {
			return ErrCanceled
		}
		b.stops++
		stops = b.stops
		if force {
			b.kills.Add(1)
		}
		t.LastError = "ok"
		if t.Restarting = c.Verb == VerbRestart; !t.Restarting {
			b.record.Again = ""
		}
		t.event("command", note)
		if t.Status == status.Restarting {
			t.Status, t.RestartAt = status.Stopped, time.Time{}
			if c.said != "" {
				t.LastError = c.said
			}
			waited = true
			if b.run != nil {
				b.run.final = true
			}
			remove = b.removesItself(t.Config) && !t.Restarting
		}
		if !t.Status.Active() {
			return nil
		}
		r = b.run
		// A run that is ended because it is unhealthy is to be followed by another; one
		// that ends with the daemon, by the next, if its policy says so.
		r.final = r.final || c.because == "" || c.because == causeExpired
		r.bounced = r.bounced || c.because == causeUnhealthy
		final, resumed = r.final, r.resumed
		grace = r.cfg.Stop.Timeout
		if c.Grace != nil {
			grace = *c.Grace
		}
		force = force || grace == 0
		r.killed = r.killed || force
		r.asked = c.cause()
		t.Status = status.Stopping
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	if r == nil && !waited {
		return completed(), stops, nil
	}
	if r != nil {
		r.giveUp() // nothing of it runs yet, if it is still being prepared
	}
	fault.Point("stop.accepted")
	done := newCompletion()
	go func() {
		if waited {
			fault.Point("stop.waited")
			err := b.noteStop(nil, false)
			if err != nil {
				err = b.refuse(b.fail(string(c.Verb), err))
			}
			done.complete(err)
			if remove {
				b.removeItself()
			}
			return
		}
		if again := c.Verb == VerbRestart; again || final && (resumed || r.mayComeBack()) {
			b.noteInTime(r, again)
			fault.Point("stop.noted")
		}
		done.complete(b.end(r, string(c.Verb), grace, force))
	}()
	return done, stops, nil
}

// end carries out a stop or kill of a run and returns when it is proven gone, or
// ErrTimedOut when that could not be had in time. Force only skips the grace.
func (b *Box) end(r *run, op string, grace time.Duration, force bool) error {
	bound := time.Now().Add(KillBound)
	grace = min(grace, maxGrace)
	if !force {
		over := time.NewTimer(grace + stopMargin)
		defer over.Stop()
		select {
		case <-r.launched:
			// Where the configuration has none the shim knows that of the image.
			_, err := b.askShim(r, wire.Request{Op: wire.OpStop, Signal: r.cfg.Stop.Signal, Grace: grace}, askBound)
			fault.Point("stop.asked")
			if err != nil {
				// It may have ended meanwhile. If not, its grace counts all the same.
				b.log(op).WithError(err).Debug("shim does not answer")
			}
			select {
			case <-r.done:
				return nil
			case <-over.C:
			}
		case <-over.C:
			// A start that hangs gets no more grace than a command.
		}
		b.mu.Lock()
		r.killed = true
		b.mu.Unlock()
		bound = time.Now().Add(KillBound)
	}
	select {
	case <-r.forked:
	case <-r.done:
		return nil
	case <-time.After(time.Until(bound)):
		return b.late(r, op)
	}
	if r.proc == nil {
		<-r.done // the start is being given up: nothing was forked
		return nil
	}
	b.rt.metrics.killed(r)
	if err := r.proc.Kill(); err != nil {
		return b.refuse(b.fail(op, err))
	}
	fault.Point("kill.sent")
	b.letDie(r)
	select {
	case <-r.done:
		return nil
	case <-time.After(time.Until(bound)):
	}
	if !r.proc.Reap(context.Background(), bound).Outcome.Gone() {
		return b.late(r, op)
	}
	<-r.done // reaped in time: only its writing down takes longer
	return nil
}

// late says that a kill was not reaped in its bound, and what keeps it. Nothing is
// given up: the watch goes on, and the box becomes stopped when its process can end.
func (b *Box) late(r *run, op string) error {
	b.rt.metrics.late(r)
	what := "its shim is not even started"
	if s := b.Snapshot(); s.run == r && s.PID > 0 {
		shim, by := s.PID, reaper.FindSurvivor(s.PID)
		what = fmt.Sprintf("process %d was killed %s ago and is in state %s", shim, KillBound, reaper.State(shim))
		if by.PID != shim {
			what += fmt.Sprintf("; it waits for process %d (%s), which is in state %s", by.PID, by.Name, by.State)
		}
		if by.Tracer != 0 {
			what += fmt.Sprintf(", traced by process %d", by.Tracer)
		}
		if group := cgroup.FrozenIn(by.PID); group != "" {
			what += ", frozen in cgroup " + group
		}
	}
	return b.refuse(b.fail(op, fmt.Errorf("%w: %s; the box stays stopping and becomes stopped when that ends", ErrTimedOut, what)))
}

func (b *Box) restart(note string, c Command) (*Completion, error) {
	s := b.Snapshot()
	if s.Config == nil {
		return nil, b.fail("restart", ErrNotConfigured)
	}
	stopped, stops, err := b.stop(note, c)
	if err != nil {
		return nil, err
	}
	done := newCompletion()
	go func() { done.complete(b.startAgain(stopped, stops)) }()
	return done, nil
}

// startAgain is the second half of a restart.
func (b *Box) startAgain(stopped *Completion, stops int) error {
	err := stopped.Wait(context.Background())
	fault.Point("restart.stopped")
	if err == nil {
		var started *Completion
		if started, err = b.start("", stops); err == nil {
			return started.Wait(context.Background())
		}
		err = b.refuse(err)
	}
	// Who waits for the box is told that nothing more comes.
	if uerr := b.update("restart", func(t *tx) error {
		if b.stops == stops {
			t.Restarting, b.record.Again = false, ""
		}
		return nil
	}); uerr != nil && !errors.Is(uerr, ErrRemoved) {
		b.log("restart").WithError(uerr).Error("restart given up, but cannot be said to be")
	}
	b.saveSoon()
	return err
}

// ask carries out the commands that the shim does: pause, resume, signal.
func (b *Box) ask(note string, c Command) (*Completion, error) {
	var r *run
	err := b.update(string(c.Verb), func(t *tx) error {
		switch {
		case !t.Status.Active():
			return ErrNoProcess
		case t.Status == status.Unknown:
			return b.lookAgain()
		case t.Status != status.Running && t.Status != status.Paused:
			if c.Verb == VerbSignal && t.Status == status.Stopping {
				break // a process that is asked to end can take a signal
			}
			return fmt.Errorf("%w: it is %s", ErrBusy, t.Status)
		}
		if c.Verb == VerbSignal && c.Signal == syscall.SIGCONT && t.Status == status.Paused {
			return fmt.Errorf("%w: it is paused: resume it", ErrBusy)
		}
		if c.Verb == VerbSignal {
			note += " " + config.SignalName(c.Signal)
		}
		t.LastError = "ok"
		t.event("command", note)
		r = b.run
		return nil
	})
	if err != nil {
		return nil, err
	}
	fault.Point("ask.accepted")
	done := newCompletion()
	go func() { done.complete(b.asked(r, c)) }()
	return done, nil
}

func (b *Box) asked(r *run, c Command) error {
	req := wire.Request{Op: wire.OpSignal, Signal: c.Signal}
	switch {
	case c.Verb == VerbSignal:
	case r.group.CanFreeze():
		req.Op = wire.OpState
	case c.Verb == VerbPause:
		req.Op = wire.OpPause
	default:
		req.Op = wire.OpResume
	}
	r.asking.Lock()
	defer r.asking.Unlock()
	reply, err := b.askShim(r, req, askBound)
	if err == nil && req.Op == wire.OpState {
		reply.State.Paused, err = b.freeze(r, c.Verb == VerbPause, reply.State)
	}
	fault.Point("ask.answered")
	for _, gone := range []error{syscall.ESRCH, syscall.ESTALE, syscall.ENOENT, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ENODEV, io.ErrUnexpectedEOF} {
		if errors.Is(err, gone) {
			err = ErrNoProcess // it has just ended, or its shim is about to
		}
	}
	if errors.Is(err, syscall.EBUSY) {
		err = fmt.Errorf("%w: it is stopping", ErrBusy) // by a signal to its shim
	}
	if err != nil {
		return b.refuse(b.fail(string(c.Verb), err))
	}
	if c.Verb == VerbSignal {
		return nil
	}
	overtaken := false
	err = b.update(string(c.Verb), func(t *tx) error {
		// Whatever came between (an end, a stop) stands.
		if b.run != r || t.Status != status.Running && t.Status != status.Paused {
			overtaken = true
			return nil
		}
		t.Status = adopted(&reply)
		return nil
	})
	if overtaken {
		b.thaw(r) // the stop may have thawed it before it was frozen
	}
	if c.Verb == VerbResume {
		b.rt.prober.soon(r)
	}
	return err
}

// freeze freezes or thaws the cgroup of a run, and returns whether it is frozen.
// The shim is not in it: it still moves the log, takes a SIGTERM and answers. The
// caller holds asking.
func (b *Box) freeze(r *run, freeze bool, s wire.State) (bool, error) {
	if !freeze {
		r.unguard()
		return false, r.group.Thaw()
	}
	if s.Stopping {
		return false, syscall.EBUSY
	}
	// No other limit of processor time comes in between.
	b.config.Lock()
	defer b.config.Unlock()
	cpus := 0.0
	if c := b.Snapshot().Config; c != nil {
		cpus = c.Resources.CPUs
	}
	err := r.group.Freeze(cpus)
	b.mu.Lock()
	killed := r.killed
	b.mu.Unlock()
	if killed {
		b.letDie(r)
	}
	if err != nil {
		// A kill that came between has thawed it, and the library wonders.
		switch s := b.Snapshot(); {
		case s.run != r || !s.Status.Active():
			return false, ErrNoProcess
		case s.Status == status.Stopping:
			return false, syscall.EBUSY
		}
		return false, err
	}
	b.guardFrozen(r)
	return true, nil
}

// guardFrozen sees to it that a frozen box can die. A v1 freezer holds back even
// what was killed: when somebody kills the shim, nothing would end, and so nothing
// would be told. But the shim's socket closes before it waits for its processes.
func (b *Box) guardFrozen(r *run) {
	if r.group.V2 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.unguard()
	r.guard.Store(&cancel)
	go func() {
		defer cancel()
		if err := b.shimHangsUp(ctx); ctx.Err() == nil {
			b.log("pause").WithError(err).Info("the shim of a paused box is gone: thawed")
			b.thaw(r)
		}
	}()
}

// unguard ends what guardFrozen began.
func (r *run) unguard() {
	if cancel := r.guard.Swap(nil); cancel != nil {
		(*cancel)()
	}
}

// shimHangsUp returns when the box's shim has none of its descriptors any more, or
// ctx has ended.
func (b *Box) shimHangsUp(ctx context.Context) error {
	dir, err := os.Open(b.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	w, err := client.WatchLog(ctx, dir)
	if err != nil {
		return err
	}
	for err == nil {
		err = w.Next(ctx)
	}
	return errors.Join(err, w.Close())
}

// thaw lets a run go on that is frozen, whoever froze it.
func (b *Box) thaw(r *run) {
	if err := r.group.Thaw(); err != nil {
		b.log("thaw").WithError(err).Error("cgroup not thawed: what is in it cannot end")
	}
}

// letDie takes from a run that has been killed what keeps its processes from ending:
// that they are frozen, and that they get little processor time. To end takes some,
// and a box of a thousand processes would need minutes.
func (b *Box) letDie(r *run) {
	b.thaw(r)
	if c := b.Snapshot().Config; r.cfg.Resources.CPUs == 0 && (c == nil || c.Resources.CPUs == 0) {
		return
	}
	if err := r.group.Throttle(0); err != nil {
		b.log("kill").WithError(err).Error("what was killed ends within its limit of processor time")
	}
}

// askShim puts one request to the shim of a run; nil is whichever answers. What
// the shim could not do is the error, or that it has not answered within the bound.
func (b *Box) askShim(r *run, req wire.Request, bound time.Duration) (client.Reply, error) {
	dir, err := os.Open(b.dir)
	if err != nil {
		return client.Reply{}, err
	}
	defer dir.Close()
	if r != nil {
		req.Run = r.id
	}
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	reply, err := client.Ask(ctx, dir, req)
	if err == nil && reply.Errno != 0 {
		err = reply.Errno
	}
	return reply, err
}

// shutdown ends the box if it must not outlive the daemon.
func (b *Box) shutdown(ctx context.Context) {
	b.mu.Lock()
	r, active := b.run, b.snap.Load().Status.Active()
	b.mu.Unlock()
	if !active || r == nil || r.cfg.Detach {
		return
	}
	done, _, err := b.stop(fmt.Sprintf("by=0:%d kill", os.Getpid()), Command{Verb: VerbKill, because: causeShutdown})
	if err == nil {
		err = done.Wait(ctx)
	}
	if err != nil {
		b.log("shutdown").WithError(err).Error("may outlive the daemon")
	}
}
