package runtime

import (
	"errors"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/config"
)

// A shim that has kept an end lives for a moment after state.json says that its run has
// ended. A daemon that dies then leaves it behind, and so may one of another version leave
// one that still has something to tell. It has to go: what it writes when there is room
// would replace what a later run has written.

// findLeft returns the run of live, which counts as ended, if its shim lives.
func (b *Box) findLeft(live *shimRecord) *run {
	if live.Identity.Inode == 0 && !isShim(live.Identity.PID) {
		return nil
	}
	p, err := reaper.Find(b.rt.bootID, live.Identity)
	if err == nil {
		if err = b.isHome(p.PID()); err != nil { // it is another daemon's
			err = errors.Join(err, p.Release())
		}
	}
	if err != nil {
		if !errors.Is(err, reaper.ErrGone) {
			b.log("recover").WithError(err).Debug("the shim of a run that has ended is left alone")
		}
		return nil
	}
	cfg, err := config.Parse(b.name, []byte(live.Config))
	if err != nil {
		cfg = config.Default(b.name) // nothing is done with it any more
	}
	r := newRun(live.Number, live.Run, cfg, []byte(live.Config))
	r.proc, r.group = p, live.Cgroup
	r.began.complete(nil)
	close(r.forked)
	close(r.launched)
	r.over.Do(func() {}) // its end is told
	close(r.done)
	close(r.accounted)
	return r
}

// askLeft asks the shim of such a run, if there is one, how the execs ended of which it is
// not on record.
func (b *Box) askLeft(r *run) {
	if r == nil {
		return
	}
	b.log("recover").WithField("shim", r.proc.PID()).Warn("the shim of a run that has ended was left")
	all, _ := b.Execs()
	for _, e := range all {
		s := e.Snapshot()
		if !s.Status.Active() || s.run != r.id {
			continue
		}
		if err := e.inquire(r); err != nil {
			b.log("recover").WithError(err).Warn("how an exec has ended is not known")
			if !noShim(err) {
				return // it would take as long for each
			}
		}
	}
}

// keepLeft has that shim killed once what it has told is written.
func (b *Box) keepLeft(r *run) {
	if r == nil {
		return
	}
	b.keeper.Store(r)
	if err := b.rt.watcher.Watch(r.proc, func(e reaper.Exit) { b.rt.background(func() { b.ended(r, e) }) }); err != nil {
		b.log("recover").WithError(err).Error("the shim of a run that has ended is not under watch")
		b.keeper.Store(nil) // a start would wait for it for ever
		b.killKeeper(r)
		return
	}
	b.save.Lock()
	defer b.save.Unlock()
	if err := b.writeAll(nil); err != nil {
		b.log("recover").WithError(err).Warn("the shim of a run that has ended is kept until that is written")
		b.saveLater()
	}
}
