package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/shim"
)

// recoverers is how many boxes are looked at at once: the work is small reads
// and one question to a shim, and one that does not answer must not hold up the
// others.
const recoverers = 32

// recover finds every box on disk, adopts what lives and tells how the rest
// ended. A box that cannot be read is kept and says why.
func (rt *Runtime) recover() error {
	Fault("recover.locked")
	entries, err := os.ReadDir(filepath.Join(rt.store.dir, "boxes"))
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	rt.background(func() {
		if err := rt.store.emptyTrash(); err != nil {
			rt.log.WithField("op", "recover").WithError(err).Warn("trash not emptied")
		}
	})
	var wg sync.WaitGroup
	slots := make(chan struct{}, recoverers)
	for _, e := range entries {
		if !e.IsDir() || !ValidName(e.Name()) {
			rt.log.WithFields(logrus.Fields{"op": "recover", "path": e.Name()}).Warn("not a box, left alone")
			continue
		}
		b := newBox(rt, e.Name())
		rt.mu.Lock() // a box that was recovered may be removing itself
		rt.boxes[b.name] = b
		rt.mu.Unlock()
		slots <- struct{}{}
		wg.Go(func() {
			b.recover()
			Fault("recover.box")
			<-slots
		})
	}
	wg.Wait()
	Fault("recover.done")
	return nil
}

// Autostart starts the boxes that ask for it and do not run. It is for the moment
// when the daemon is ready.
func (rt *Runtime) Autostart() {
	for _, b := range rt.Boxes() {
		s := b.Snapshot()
		if s.Config == nil || !s.Config.Autostart || s.Status.Active() {
			continue
		}
		b.autostart()
		Fault("recover.autostart")
	}
}

// recover brings back one box from its directory.
func (b *Box) recover() {
	var complaints []error
	note := func(err error) {
		if err != nil {
			complaints = append(complaints, err)
		}
	}
	state, err := load(b.dir, stateFile, decodeState)
	note(err)
	if state != nil {
		b.record = *state
	} else if fi, err := os.Stat(b.dir); err == nil {
		b.record.Created = fi.ModTime()
	}
	rec := b.record
	s := &Snapshot{
		Status: StatusUnknown, Health: HealthNone, PID: -1, ExitCode: rec.ExitCode, LastError: rec.LastError,
		Runs: rec.Runs, Created: rec.Created, Started: rec.Started, Ended: rec.Ended, owners: rec.Owners,
		CPU: time.Duration(rec.CPUUsec) * time.Microsecond, OOMKills: rec.OOMKills,
	}
	text, err := os.ReadFile(filepath.Join(b.dir, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	} else if err == nil {
		s.Text = text
		s.Config, err = ParseConfig(b.name, text)
		if err != nil {
			err = fmt.Errorf("config.yaml: %w", err)
		}
	}
	note(err)
	b.publish(s, rec.lastChange())

	b.reconsider(complaints)
}

// reconsider finds out what became of the last run of a box whose status is
// unknown, and says so. Where that can't be had, it stays unknown: nothing may be
// concluded from not knowing, and lookAgain comes back here.
func (b *Box) reconsider(complaints []error) {
	b.look.Lock()
	defer b.look.Unlock()
	if s := b.Snapshot(); s.Status != StatusUnknown || s.run != nil {
		return
	}
	b.mu.Lock()
	rec := b.record
	b.mu.Unlock()
	var r *run
	var reply *shim.Reply
	live, err := load(b.dir, shimFile, decodeShim)
	known := true
	if err != nil {
		complaints = append(complaints, err)
		known = errors.As(err, new(*unusable))
	}
	if live == nil && known {
		if live, err = b.findShim(); err != nil {
			complaints = append(complaints, err)
			known = false
		}
	}
	if live != nil && live.Run != rec.LastRun {
		if r, reply, err = b.adopt(live); err != nil {
			complaints = append(complaints, err)
			known = false
		}
	}
	if r != nil {
		complaints = append(complaints, b.regroup(r, live, reply)...)
	}
	for _, err := range complaints {
		b.log("recover").WithError(err).Warn("recovery")
	}
	if err := b.update("recover", func(t *tx) error {
		if len(complaints) > 0 {
			t.LastError = oneLine("recovery: " + errors.Join(complaints...).Error())
		}
		switch {
		case !known:
		case r == nil:
			t.Status = rec.rest(t.Config)
		default:
			b.run, t.run = r, r
			t.Runs, t.Started = max(t.Runs, r.n), live.Started
			t.Pending = t.Config != nil && !r.cfg.runsLike(t.Config)
			if r.proc != nil {
				t.PID = r.proc.PID()
			}
			if reply != nil {
				t.Status = adopted(reply)
			}
		}
		return nil
	}); err != nil {
		b.log("recover").WithError(err).Error("recovered, but cannot be said to be")
	}
	Fault("recover.adopted")
	switch {
	case !known:
	case r == nil:
		if rec.Remove {
			b.removeItself() // the daemon died before it got to that
		}
	case r.proc == nil:
		b.ended(r, reaper.Exit{Outcome: reaper.AlreadyGone, Code: -1, At: time.Now()})
	default:
		if err := b.rt.watcher.Watch(r.proc, func(e reaper.Exit) { b.rt.background(func() { b.ended(r, e) }) }); err != nil {
			b.log("recover").WithError(err).Error("adopted, but not under watch")
		}
		Fault("recover.watched")
		b.settle(r, reply)
	}
}

// regroup takes the cgroup of an adopted run under this daemon's care.
func (b *Box) regroup(r *run, live *shimRecord, reply *shim.Reply) (complaints []error) {
	r.group = live.Cgroup
	if r.group == nil {
		return nil
	}
	note := func(err error) {
		if err != nil && !gone(err) {
			complaints = append(complaints, fmt.Errorf("cgroup: %w", err))
		}
	}
	note(r.group.open())
	if r.proc == nil {
		return complaints
	}
	// The last daemon may have died between the commit of new limits and now, or
	// before it.
	if c := b.Snapshot().Config; c != nil && (c.Resources != Resources{} || r.cfg.Resources != Resources{}) {
		note(r.group.limit(c.Resources))
		note(b.watchOOM(r, c.Resources))
	}
	frozen, err := r.group.frozen()
	note(err)
	if frozen {
		b.guardFrozen(r)
		if reply != nil {
			reply.State.Paused = true
		}
	}
	return complaints
}

// lookAgain is the refusal of a command to a box whose status is unknown. It
// cannot wait for the shim, but the next command finds it looked at.
func (b *Box) lookAgain() error {
	b.rt.background(func() { b.reconsider(nil) })
	return fmt.Errorf("%w: it is not known whether its process lives; that is being looked at again, so repeat the command", ErrBusy)
}

// rest is the state of a box of which no run goes on.
func (r *stateRecord) rest(c *Config) Status {
	switch {
	case r.Status.ended():
		return r.Status
	case c == nil:
		return StatusEmpty
	}
	return StatusConfigured
}

// findShim looks for the shim of a run whose record is lost, to this daemon or to
// one that died before it had renewed it: one that answers on the box's socket
// lives, whatever the disk says. The kernel vouches for its pid. One that takes
// the question and does not answer may live; that is an error.
func (b *Box) findShim() (*shimRecord, error) {
	reply, err := b.askShim(nil, shim.Request{Op: shim.OpState})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("a shim without a record does not answer: %w", err)
	}
	if err != nil {
		return nil, nil // as dead
	}
	id, err := reaper.Identify(b.rt.bootID, reply.Peer)
	if err != nil {
		b.log("recover").WithError(err).Warn("a shim answered, and is gone")
		return nil, nil
	}
	s := b.Snapshot()
	live := &shimRecord{
		Version: recordVersion, Run: reply.State.Run, Number: s.Runs, Identity: id, Cgroup: b.rt.groups.of(b.name),
		Started: time.Unix(0, reply.State.StartedNs), Config: string(s.Text),
	}
	Fault("recover.found")
	if err := b.putOnRecord(live); err != nil {
		b.log("recover").WithError(err).Error("the record of a living run cannot be renewed")
	}
	return live, nil
}

// settle decides what an adopted box is said to be whose shim gives no answer.
// It is a zombie that its parent has not reaped, or on its way out, and then its
// end is seen at once; or it hangs, and then it runs for all that is known.
func (b *Box) settle(r *run, reply *shim.Reply) {
	if reply == nil {
		select {
		case <-r.done:
			return
		case <-time.After(askBound):
		}
		if err := b.update("recover", func(t *tx) error {
			if t.Status == StatusUnknown {
				t.Status = StatusRunning
			}
			return nil
		}); err != nil {
			b.log("recover").WithError(err).Error("adopted, but cannot be said to run")
		}
	}
	b.log("recover").Info("adopted")
}

// adopted is the state of a box whose shim answered.
func adopted(reply *shim.Reply) Status {
	switch {
	case reply.State.Stopping:
		return StatusStopping
	case reply.State.Paused:
		return StatusPaused
	}
	return StatusRunning
}

// ended reports whether the state is one that a run left behind.
func (s Status) ended() bool { return s == StatusStopped || s == StatusFailed }

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
	comm, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	return err == nil && string(comm) == "boxlite-shim\n"
}

// adopt takes a run that an earlier daemon began under this one's care. The run
// has no process if its shim is gone, and there is no reply if the shim gives
// none; an error means that nothing can be known of it.
func (b *Box) adopt(live *shimRecord) (*run, *shim.Reply, error) {
	cfg, err := ParseConfig(b.name, []byte(live.Config))
	if err != nil {
		// Another version's word. The process runs as it was started in any
		// case; for what the daemon does with it the defaults are safe.
		b.log("recover").WithError(err).Warn("configuration of the running process")
		cfg = defaultConfig(b.name)
	}
	r := newRun(live.Number, live.Run, cfg, []byte(live.Config))
	r.began.complete(nil)
	close(r.forked)
	close(r.launched)
	if live.Identity.Inode == 0 && !isShim(live.Identity.PID) {
		return r, nil, nil
	}
	r.proc, err = reaper.Find(b.rt.bootID, live.Identity)
	if errors.Is(err, reaper.ErrGone) {
		return r, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if r.proc.Blind() {
		b.tether(r.proc)
	}
	reply, err := b.askShim(r, shim.Request{Op: shim.OpState})
	if err != nil {
		b.log("recover").WithError(err).Warn("shim does not answer")
		return r, nil, nil
	}
	return r, &reply, nil
}

// tether makes a connection to the shim the hint that it has ended, for a process
// that is not to be had by pidfd.
func (b *Box) tether(p *reaper.Process) {
	fd := -1
	dir, err := os.Open(b.dir)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), askBound)
		fd, err = shim.Tether(ctx, dir)
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
