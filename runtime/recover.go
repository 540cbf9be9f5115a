package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/reaper/procfs"
	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/fault"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/wire"
)

const (
	// askers is how many shims are asked at once: each question takes descriptors.
	askers = 128
	// recoverers is how many boxes are looked at at once. The work is small reads;
	// nobody is waited for meanwhile.
	recoverers = 32
	// patience is how long the daemon's start waits for the shims that do not
	// answer. All are asked at once, and answer from memory.
	patience = 250 * time.Millisecond
)

// recover finds every box on disk, adopts what lives and tells how the rest
// ended. A box that cannot be read is kept and says why.
func (rt *Runtime) recover() error {
	fault.Point("recover.locked")
	entries, err := os.ReadDir(filepath.Join(rt.store.dir, "boxes"))
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	rt.background(func() {
		if err := rt.store.emptyTrash(rt.life); err != nil && rt.life.Err() == nil {
			rt.log.WithField("op", "recover").WithError(err).Warn("trash not emptied")
		}
	})
	var wg sync.WaitGroup
	for _, e := range entries {
		if !e.IsDir() || !ValidName(e.Name()) {
			rt.log.WithFields(logrus.Fields{"op": "recover", "path": e.Name()}).Warn("not a box, left alone")
			continue
		}
		b := newBox(rt, e.Name())
		rt.mu.Lock() // a box that was recovered may be removing itself
		rt.boxes[b.name] = b
		rt.mu.Unlock()
		wg.Go(func() {
			b.recover()
			fault.Point("recover.box")
		})
	}
	wg.Wait()
	fault.Point("recover.done")
	if err := rt.starved.Load(); err != nil {
		return fmt.Errorf("%w: boxes cannot be read back: %w", ErrHost, *err)
	}
	return nil
}

// Autostart starts the boxes that ask for it and do not run, and from then on those
// whose backoff is over. It is for the moment when the daemon is ready.
func (rt *Runtime) Autostart() {
	rt.ready.Store(true)
	for _, b := range rt.Boxes() {
		s := b.Snapshot()
		b.awaitRestart()
		if s.Config == nil || !s.Config.Autostart && !b.wantedAtBoot() || s.Status.Active() || s.Status == status.Restarting {
			continue
		}
		if s.Config.Restart.Policy == config.RestartNo {
			b.autostart()
		} else if _, err := b.start(fmt.Sprintf("by=0:%d start", os.Getpid()), bootStart); err != nil {
			b.log("autostart").WithError(err).Warn("autostart refused")
		}
		fault.Point("recover.autostart")
	}
}

// wantedAtBoot reports whether the box is to be started because the machine was
// booted since its last run: by its restart policy, of which only `always` counts
// for more than that a person had stopped it.
func (b *Box) wantedAtBoot() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.snap.Load()
	if s.Config == nil || b.run != nil && !b.run.rebooted || !b.booted || !s.Status.Ended() {
		return false
	}
	last := b.record.LastRun
	if b.run != nil {
		last = b.run.id // it may not be written down yet that it has ended
	}
	switch s.Config.Restart.Policy {
	case config.RestartAlways:
		return true
	case config.RestartUnlessStopped:
		return b.record.Asked != last
	}
	return false
}

// recover brings back one box from its directory.
func (b *Box) recover() {
	b.rt.looks <- struct{}{}
	complaints := b.readBack()
	<-b.rt.looks
	if err := errors.Join(complaints...); scarce(err) {
		// To go on would be to write down as the box's what could not be read.
		b.rt.starved.Store(&err)
		return
	}
	b.reconsider(complaints, patience)
	if b.Snapshot().Status == status.Unknown {
		// It may be that its shim needs longer.
		b.rt.background(func() { b.reconsider(nil, askBound) })
	}
}

// readBack makes of a box what its directory says of it, but for its last run.
func (b *Box) readBack() (complaints []error) {
	note := func(err error) {
		if err != nil {
			complaints = append(complaints, err)
		}
	}
	state, err := load(b.dir, stateFile, decodeState)
	note(err)
	if state != nil {
		b.record = *state
		b.firstID.Store(state.FirstID)
	} else if fi, err := os.Stat(b.dir); err == nil {
		b.record.Created = fi.ModTime()
	}
	rec := b.record
	s := &Snapshot{
		Status: status.Unknown, Health: status.HealthNone, PID: -1, ExitCode: rec.ExitCode, LastError: rec.LastError,
		Runs: rec.Runs, Created: rec.Created, Started: rec.Started, Ended: rec.Ended, owners: rec.Owners,
		CPU: time.Duration(rec.CPUUsec) * time.Microsecond, OOMKills: rec.OOMKills, Restarts: rec.Restarts,
	}
	b.retries = rec.Retries
	thisBoot := rec.BootID == b.rt.bootID
	if !rec.Active.IsZero() {
		b.active.Store(int64(recall(rec.ActiveAt, thisBoot, rec.Active)))
	}
	if !rec.RestartAt.IsZero() {
		b.record.RestartAt = recallDue(rec.RestartDue, thisBoot, rec.RestartAt, backoffMost).time()
	}
	text, err := os.ReadFile(filepath.Join(b.dir, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	} else if err == nil {
		s.Text = text
		s.Config, err = config.Parse(b.name, text)
		if err != nil {
			err = fmt.Errorf("config.yaml: %w", err)
		}
	}
	note(err)
	if rec.FirstID != 0 { // it has had a container
		p, err := b.readBackProcess()
		note(err)
		if p != nil && len(p.Args) > 0 {
			s.effective = effectiveOf(p)
		}
	}
	b.publish(s, rec.lastChange())
	note(b.readBackExecs())
	return complaints
}

// finding is what is found out of the last run of a box.
type finding struct {
	known  bool // whether there is a process or not
	run    *run // nil if that run had been seen to end
	live   *shimRecord
	frozen bool
	reply  *client.Reply // nil if there is no shim, or none that answers
	silent bool          // its shim lives and took longer than it had
	others *othersRun    // the process of that run is another daemon's
	left   *run          // one that counts as ended, and whose shim lives

	complaints []error
}

func (f *finding) note(err error) {
	if err != nil {
		f.complaints = append(f.complaints, err)
	}
}

// reconsider finds out what became of the last run of a box whose status is
// unknown, and says so. Where that can't be had, it stays unknown: nothing may be
// concluded from not knowing, and lookAgain comes back here. The shim has so long
// for an answer.
func (b *Box) reconsider(complaints []error, bound time.Duration) {
	if !b.look.TryLock() {
		return // somebody does already
	}
	defer b.look.Unlock()
	if s := b.Snapshot(); s.Status != status.Unknown || s.run != nil {
		return
	}
	b.settle(b.lookAt(complaints, bound))
}

// lookAt finds out and says. No configuration is committed meanwhile: its limits
// would miss a run that is not known yet.
func (b *Box) lookAt(complaints []error, bound time.Duration) *finding {
	b.config.Lock()
	defer b.config.Unlock()
	b.rt.looks <- struct{}{}
	f := b.find(complaints, bound)
	<-b.rt.looks
	if f.run != nil && f.run.proc != nil && !f.run.proc.Ended() {
		b.rt.asks <- struct{}{}
		b.greet(f, bound)
		<-b.rt.asks
	}
	b.conclude(f)
	return f
}

// find looks at the records of the last run, and for its process.
func (b *Box) find(complaints []error, bound time.Duration) *finding {
	f := &finding{known: true, complaints: complaints}
	b.mu.Lock()
	last, number := b.record.LastRun, b.record.LastNumber
	b.mu.Unlock()
	var err error
	if f.live, err = load(b.dir, shimFile, decodeShim); err != nil {
		f.note(err)
		f.known = errors.As(err, new(*unusable))
	}
	if f.live == nil && f.known {
		if f.live, err = b.findShim(bound); err != nil {
			f.note(err)
			f.known = false
		}
	}
	if f.live != nil && f.live.Run != last && f.live.Number >= number {
		if f.run, err = b.adopt(f.live); err != nil && !errors.As(err, &f.others) {
			f.known = false
		}
		f.note(err)
	} else if f.live != nil {
		f.left = b.findLeft(f.live)
	}
	if f.run != nil {
		b.regroup(f)
	}
	return f
}

// greet asks the shim of a run how its box is.
func (b *Box) greet(f *finding, bound time.Duration) {
	reply, err := b.askShim(f.run, wire.Request{Op: wire.OpState}, bound)
	if err == nil {
		f.reply = &reply
		return
	}
	b.log("recover").WithError(err).Warn("shim does not answer")
	f.silent = errors.Is(err, context.DeadlineExceeded)
}

// conclude says what was found.
func (b *Box) conclude(f *finding) {
	for _, err := range f.complaints {
		b.log("recover").WithError(err).Warn("recovery")
	}
	said := ""
	if len(f.complaints) > 0 {
		said = oneLine("recovery: " + ExplainFiles(errors.Join(f.complaints...)).Error())
	}
	if err := b.update("recover", func(t *tx) error {
		if said != "" {
			t.LastError = said
		}
		r := f.run
		switch {
		case !f.known:
		case f.others != nil:
			t.Status, t.ExitCode, t.Health = status.Stopped, -1, status.HealthNone
			t.Runs, t.Started, t.Ended = max(t.Runs, f.live.Number), f.live.Started, time.Now()
		case r == nil:
			t.Status = b.record.rest(t.Config)
			if b.record.Health != "" {
				t.Health = b.record.Health
			}
			b.booted = f.live != nil && f.live.Identity.BootID != b.rt.bootID
			// What is to be started after a boot is not what had only failed before it.
			if t.Status == status.Stopped && !b.record.RestartAt.IsZero() && !b.record.Remove && !b.booted {
				t.Status, t.RestartAt = status.Restarting, b.record.RestartAt
			}
			if again := b.record.Again; again != "" && again == b.record.LastRun && t.Status.Ended() && t.Config != nil {
				t.Status, t.RestartAt = status.Restarting, time.Now() // the second half of a restart is left
			}
		default:
			r.said = said
			r.final, r.resumed = b.record.Asked == r.id, b.record.Again == r.id
			r.rebooted = f.live.Identity.BootID != b.rt.bootID
			b.booted = r.rebooted
			b.run, t.run = r, r
			t.Runs, t.Started = max(t.Runs, r.n), f.live.Started
			t.Pending = t.Config != nil && !r.cfg.RunsLike(t.Config)
			if r.proc != nil {
				t.PID = r.proc.PID()
			}
			if f.reply != nil || f.silent {
				t.Status = f.status()
			}
			if r.proc == nil {
				break
			}
			switch h := &r.cfg.Health; {
			case h.Disabled:
			case b.record.HealthRun == r.id && (b.record.Health == status.Healthy || b.record.Health == status.Unhealthy):
				t.Health = b.record.Health
			case h.Pings() && f.reply != nil && f.reply.State.Alive:
				t.Health = status.Healthy
			default:
				t.Health = status.HealthStarting
			}
			r.setWell(t.Health == status.HealthNone || t.Health == status.Healthy, r.since)
		}
		return nil
	}); err != nil {
		b.log("recover").WithError(err).Error("recovered, but cannot be said to be")
	}
	fault.Point("recover.adopted")
}

// settle takes a box into the daemon's care as what it was said to be, and returns
// when its state is one that stays.
func (b *Box) settle(f *finding) {
	r := f.run
	switch {
	case !f.known:
		return
	case f.others != nil:
		b.disown(f.live)
		return
	case r == nil:
		b.askLeft(f.left)
		b.endExecs()
		b.keepLeft(f.left)
		b.mu.Lock()
		remove := b.record.Remove
		b.mu.Unlock()
		b.awaitRestart()
		if remove {
			b.removeItself() // the daemon died before it got to that
		}
		return
	case r.proc == nil:
		gone := reaper.Exit{Outcome: reaper.AlreadyGone, Code: -1, At: time.Now()}
		b.rt.background(func() { b.ended(r, gone) })
		select {
		case <-r.done: // said; to write it down takes longer
		case <-b.rt.closing:
		}
		return
	}
	b.lookAfter(r, true)
	if err := b.rt.watcher.Watch(r.proc, func(e reaper.Exit) { b.rt.background(func() { b.ended(r, e) }) }); err != nil {
		b.log("recover").WithError(err).Error("adopted, but not under watch")
	}
	fault.Point("recover.watched")
	if f.reply != nil {
		b.adoptExecs(r)
	} else {
		go b.adoptExecs(r)
	}
	b.finish(r)
	switch {
	case f.ended():
		b.takeEnd(r)
		select {
		case <-r.done:
			return
		case <-time.After(askBound): // the line to the shim tells it again
		}
	case f.silent:
		go b.listen(f)
	case f.reply == nil:
		// It has ended, or is about to: it has no socket any more.
		select {
		case <-r.done:
			return
		case <-time.After(askBound):
		}
		b.becomes(f)
	}
	b.log("recover").Info("adopted")
}

// finish does to an adopted run that goes on what an earlier daemon was about to do
// when it died.
func (b *Box) finish(r *run) {
	s := b.Snapshot()
	b.mu.Lock()
	final := r.final
	b.mu.Unlock()
	var err error
	by := fmt.Sprintf("by=0:%d ", os.Getpid())
	switch {
	case s.Status != status.Running && s.Status != status.Paused:
	case r.resumed:
		_, err = b.restart(by+"restart", Command{Verb: VerbRestart})
	case final:
		_, _, err = b.stop(by+"stop", Command{Verb: VerbStop})
	case s.Status == status.Running && s.Health == status.Unhealthy && r.cfg.Health.OnUnhealthy == "restart":
		go b.bounce(r)
	}
	if err != nil {
		b.log("recover").WithError(err).Warn("what an earlier daemon was asked for is not done")
	}
}

// listen asks a shim that gave no answer in time until it gives one. Meanwhile its box
// runs, for all that is known.
func (b *Box) listen(f *finding) {
	for f.silent {
		select {
		case <-f.run.done:
			return
		case <-b.rt.closing:
			return
		default:
			b.listenOnce(f)
		}
	}
}

func (b *Box) listenOnce(f *finding) {
	f.run.asking.Lock()
	defer f.run.asking.Unlock()
	b.greet(f, askBound)
	var err error
	if f.frozen, err = f.run.group.Frozen(); err != nil && !cgroup.Gone(err) {
		b.log("recover").WithError(err).Warn("it is not known whether it is frozen")
	}
	b.becomes(f)
}

// becomes says what an adopted box is now known to be, unless a command was faster.
func (b *Box) becomes(f *finding) {
	if err := b.update("recover", func(t *tx) error {
		now := f.status()
		if b.run == f.run && (t.Status == status.Unknown || t.Status == status.Running || t.Status == status.Paused && now == status.Stopping) {
			t.Status = now
		}
		return nil
	}); err != nil {
		b.log("recover").WithError(err).Error("adopted, but cannot be said to be")
	}
}

// ended reports whether a run is over, and its shim only there for what it could not put
// on record.
func (f *finding) ended() bool { return f.reply != nil && !f.reply.State.Alive }

// status is the state of a box whose shim lives.
func (f *finding) status() status.Status {
	reply := client.Reply{}
	if f.reply != nil {
		reply = *f.reply
	}
	reply.State.Paused = reply.State.Paused || f.frozen
	return adopted(&reply)
}

// regroup takes the cgroup of an adopted run under this daemon's care.
func (b *Box) regroup(f *finding) {
	r := f.run
	r.group = f.live.Cgroup
	if r.proc == nil && !b.rt.groups.Has(r.group) {
		r.group = nil // in a copy of the state directory it may be what another's box has by now
	}
	if r.group == nil {
		return
	}
	note := func(err error) {
		if err != nil && !cgroup.Gone(err) {
			f.note(fmt.Errorf("cgroup: %w", err))
		}
	}
	note(r.group.Open(b.rt.groups))
	if r.proc == nil || r.proc.Ended() {
		return
	}
	// The last daemon may have died between the commit of new limits and now, or
	// before it.
	if c := b.Snapshot().Config; c != nil {
		res := cgroup.Limits(c.Resources)
		if unbound, err := r.group.Unbound("pids", "pids.max"); err == nil && unbound {
			res = res.Asked() // an older boxlite has started it, without the bound that is the default now
		} else {
			note(err)
		}
		note(r.group.Limit(res))
		note(b.watchOOM(r, res))
	}
	var err error
	f.frozen, err = r.group.Frozen()
	note(err)
	if f.frozen {
		b.guardFrozen(r)
	}
}

// lookAgain is the refusal of a command to a box whose status is unknown. It
// cannot wait for the shim, but the next command finds it looked at.
func (b *Box) lookAgain() error {
	b.rt.background(func() { b.reconsider(nil, askBound) })
	return fmt.Errorf("%w: it is not known whether its process lives; that is being looked at again, so repeat the command", ErrBusy)
}

// rest is the state of a box of which no run goes on.
func (r *stateRecord) rest(c *config.Config) status.Status {
	switch {
	case r.Status.Ended():
		return r.Status
	case c == nil:
		return status.Empty
	}
	return status.Configured
}

// findShim looks for the shim of a run whose record is lost, to this daemon or to
// one that died before it had renewed it: one that answers on the box's socket
// lives, whatever the disk says. The kernel vouches for its pid. One that takes
// the question and does not answer may live; that is an error.
func (b *Box) findShim(bound time.Duration) (*shimRecord, error) {
	reply, err := b.askShim(nil, wire.Request{Op: wire.OpState}, bound)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("a shim without a record does not answer: %w", err)
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, nil // as dead
	}
	if err != nil {
		return nil, fmt.Errorf("a shim without a record cannot be asked: %w", err)
	}
	id, err := reaper.Identify(b.rt.bootID, reply.Peer)
	if err != nil {
		b.log("recover").WithError(err).Warn("a shim answered, and is gone")
		return nil, nil
	}
	s := b.Snapshot()
	b.mu.Lock()
	image := b.record.Image
	b.mu.Unlock()
	live := &shimRecord{
		Version: recordVersion, Run: reply.State.Run, Number: s.Runs, Identity: id, Cgroup: b.rt.groups.Of(b.name, s.Config != nil && s.Config.Engine == config.EngineContainer),
		Started: time.Unix(0, reply.State.StartedNs), Config: string(s.Text), Image: image,
	}
	fault.Point("recover.found")
	if err := b.putOnRecord(live); err != nil {
		b.log("recover").WithError(err).Error("the record of a living run cannot be renewed")
	}
	return live, nil
}

// adopted is the state of a box whose shim answered.
func adopted(reply *client.Reply) status.Status {
	switch {
	case reply.State.Stopping:
		return status.Stopping
	case reply.State.Paused:
		return status.Paused
	}
	return status.Running
}

// lastChange is the time that the files of a recovered box show.
func (r *stateRecord) lastChange() time.Time {
	t := r.Created
	for _, u := range []time.Time{r.Started, r.Ended} {
		if u.After(t) {
			t = u
		}
	}
	return t
}

// isShim reports whether a process has the name that a shim gives itself. A start
// time has a resolution of 10 ms only: where it decides alone, a stranger that got
// the pid within that must not be taken for the shim.
func isShim(pid int) bool {
	comm, err := procfs.Of(pid).Comm()
	return err == nil && comm == "boxlite-shim"
}

// adopt takes a run that an earlier daemon began under this one's care. The run
// has no process if its shim is gone; an error means that nothing can be known of
// it.
func (b *Box) adopt(live *shimRecord) (*run, error) {
	cfg, err := config.Parse(b.name, []byte(live.Config))
	if err != nil {
		// Another version's word. The process runs as it was started in any
		// case; for what the daemon does with it the defaults are safe.
		b.log("recover").WithError(err).Warn("configuration of the running process")
		cfg = config.Default(b.name)
	}
	r := newRun(live.Number, live.Run, cfg, []byte(live.Config))
	if live.Identity.BootID == b.rt.bootID {
		if r.since = live.Since; r.since == 0 { // as an older daemon wrote it
			r.since = moment(live.Identity.StartTicks) * moment(10*time.Millisecond)
		}
	}
	if b.firstID.CompareAndSwap(0, live.FirstID) && live.FirstID != 0 {
		b.mu.Lock()
		b.record.FirstID, b.record.Image = live.FirstID, live.Image
		b.mu.Unlock()
		b.rt.imageTexts.uses.Add(1)
	}
	r.began.complete(nil)
	close(r.forked)
	close(r.launched)
	if live.Identity.Inode == 0 && !isShim(live.Identity.PID) {
		return r, nil
	}
	r.proc, err = reaper.Find(b.rt.bootID, live.Identity)
	if errors.Is(err, reaper.ErrGone) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := b.isHome(r.proc.PID()); err != nil {
		return nil, errors.Join(err, r.proc.Release())
	}
	if live.Image != "" {
		// What runs tells what it runs on.
		b.mu.Lock()
		b.record.Image = live.Image
		b.mu.Unlock()
	}
	b.holdOverlay(r)
	r.adoption.Fire = func() { go b.adoptExecs(r) }
	if r.proc.Blind() {
		b.tether(r.proc)
	}
	return r, nil
}

// tether makes a connection to the shim the hint that it has ended, for a process
// that is not to be had by pidfd.
func (b *Box) tether(p *reaper.Process) {
	fd := -1
	dir, err := os.Open(b.dir)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), askBound)
		fd, err = client.Tether(ctx, dir)
		cancel()
		err = errors.Join(err, dir.Close())
	}
	if fd >= 0 {
		p.Hint(fd)
	}
	if err != nil {
		b.log("recover").WithError(err).Warn("no connection to the shim: its end may be noticed late")
	}
}
