package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/atomicfile"
	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// An end is on record before anybody is told, so that all daemons tell the same. Where it
// cannot be written, because the disk is full as a rule, it is told all the same: the shim
// keeps what it could not write and answers for it, and what this daemon could not write
// it writes later. That shim stays, after the end was told, until all is written: a daemon
// that is killed before there is room must not take the end along.

const (
	// savePause is how long a write that has failed is left alone. It doubles up to
	// maxSavePause.
	savePause    = 500 * time.Millisecond
	maxSavePause = 30 * time.Second
)

// saveLater has all that could not be written of the box written later.
func (b *Box) saveLater() {
	pause := min(max(2*time.Duration(b.savePause.Load()), savePause), maxSavePause)
	b.savePause.Store(int64(pause))
	b.rt.timers.Set(&b.again, time.Now().Add(pause))
}

// saveAgain is called when the timer of saveLater has fired.
func (b *Box) saveAgain() {
	b.rt.background(func() {
		b.save.Lock()
		defer b.save.Unlock()
		if err := b.writeAll(nil); err != nil {
			b.log("save").WithError(err).Warn("still not written")
			b.saveLater()
			return
		}
		b.savePause.Store(0)
	})
}

// writeAll writes what could not be written, with the state changed by edit, and lets the
// shim go that has kept it. The state says that there is nothing to ask that shim for, so
// it comes last; who else writes the state meanwhile does not let it say so. The caller
// holds save.
func (b *Box) writeAll(edit func(*stateRecord)) error {
	k := b.keeper.Load()
	err := b.writeExecEnds()
	if err != nil && k != nil {
		b.mu.Lock()
		if b.held == nil {
			b.held = &lastRun{b.record.LastRun, b.record.LastNumber}
		}
		b.mu.Unlock()
		b.nextState(edit)
		return err
	}
	b.held = nil
	if err := errors.Join(err, b.saveNow(atomicfile.Atomic, edit)); err != nil || k == nil {
		return err
	}
	b.killKeeper(k)
	return nil
}

func (b *Box) killKeeper(k *run) {
	if err := k.proc.Kill(); err != nil {
		b.log("reap").WithError(err).Error("the shim of a run that has ended is not killed")
	}
}

// dismissKeeper makes room for the shim of a run: one that still keeps the end of a run
// before goes, once that is written.
func (b *Box) dismissKeeper(r *run) error {
	k := b.keeper.Load()
	if k == nil {
		return nil
	}
	select {
	case <-k.accounted: // else its end is being told
	case <-r.prepare.Done():
		return nil
	case <-b.rt.closing:
		r.giveUp()
		return nil
	}
	b.save.Lock()
	err := b.writeAll(nil)
	b.save.Unlock()
	if err != nil {
		return fmt.Errorf("how the run before has ended cannot be written down: %w", err)
	}
	select {
	case <-k.gone:
	case <-r.prepare.Done():
	case <-b.rt.closing:
		r.giveUp()
	}
	return nil
}

// dropKeeper lets a shim go that keeps what nobody will ask for: the box is removed.
func (b *Box) dropKeeper() {
	if k := b.keeper.Load(); k != nil {
		b.killKeeper(k)
	}
}

// keeperGone is called when the shim of a run is gone of which the end was told before.
func (b *Box) keeperGone(r *run, e reaper.Exit) {
	b.keeper.CompareAndSwap(r, nil)
	if err := b.update("reap", func(t *tx) error {
		t.event("reaped", fmt.Sprintf("pid=%d outcome=%s", r.proc.PID(), e.Outcome))
		return nil
	}); err != nil && !errors.Is(err, ErrRemoved) && !errors.Is(err, ErrBusy) {
		b.log("reap").WithError(err).Error("a shim that has kept an end is gone, and cannot be said to be")
	}
	b.rt.ends.Later(func() { b.ungroup(r) })
}

// takeEnd takes from a shim, of a run that has ended, what it could not put on record, and
// has it told. Nothing but the shim is left of the box then.
func (b *Box) takeEnd(r *run) {
	if !r.taking.TryLock() {
		return
	}
	defer r.taking.Unlock()
	if r.told.Load() != nil {
		return
	}
	rec, err := b.askEnd(r)
	if errors.Is(err, syscall.EBUSY) {
		return // something else of the box is left: the shim says when that is gone
	}
	if err != nil {
		b.log("reap").WithError(err).Warn("the shim has an end that it cannot put on record, and does not say which")
		return
	}
	r.told.Store(rec)
	b.log("reap").Warn("the shim could not put everything on record, and was asked for it")
	b.rt.background(func() {
		<-r.launched
		r.over.Do(func() {
			b.keeper.Store(r)
			at := endOf(rec, b.Snapshot().Started)
			b.account(r, reaper.Exit{Outcome: reaper.TimedOut, Code: rec.Code, Signal: unix.Signal(rec.Signal), At: at}, rec, nil)
		})
	})
}

// endOf is when a run ended that its shim tells of, maybe long after, by a clock that may
// have been set since.
func endOf(rec *wire.ExitRecord, started time.Time) time.Time {
	at, now := time.Unix(0, rec.EndedNs), time.Now()
	if rec.EndedNs == 0 || at.After(now) {
		at = now
	}
	if at.Before(started) {
		at = started
	}
	return at
}

// askEnd asks for the ends of the execs, and then for that of the run.
func (b *Box) askEnd(r *run) (*wire.ExitRecord, error) {
	all, _ := b.Execs()
	for _, e := range all {
		if !e.Snapshot().Status.Active() {
			continue
		}
		// ENOENT: it has not begun, and will not.
		if err := e.inquire(r); err != nil && !errors.Is(err, syscall.ENOENT) {
			return nil, fmt.Errorf("exec %q: %w", e.name, err)
		}
	}
	dir, err := os.Open(b.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(context.Background(), askBound)
	defer cancel()
	text, err := client.AskEnd(ctx, dir, r.id)
	if err != nil {
		return nil, err
	}
	return decodeExit(text)
}

// endAs ends the exec as its shim says that it ended.
func (e *Exec) endAs(s *wire.ExecState) {
	o := outcome{status: ExecStopped, code: s.Code, late: s.TimedOut}
	if s.Phase == wire.ExecFailed {
		o.status = ExecFailed
	}
	rec := &wire.ExitRecord{Run: e.snap.Load().run, Code: s.Code, Signal: s.Signal, Failed: s.Failed, StartedNs: s.StartedNs, EndedNs: s.EndedNs}
	if s.TimedOut {
		rec.StoppedBy = wire.StoppedByTimeout
	}
	e.keep(rec)
	e.end(o)
}

// keep notes how the exec ended: as long as its shim lives it is the shim that writes it.
func (e *Exec) keep(rec *wire.ExitRecord) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unwritten = rec
}

// writeExecEnds writes the ends of the execs of which the shim is gone.
func (b *Box) writeExecEnds() error {
	going := ""
	if r, ok := b.Snapshot().Run(); ok {
		going = r.r.id
	}
	var errs []error
	all, _ := b.Execs()
	for _, e := range all {
		if e.snap.Load().run != going {
			errs = append(errs, e.writeEnd())
		}
	}
	return errors.Join(errs...)
}

// writeEnd writes how the exec ended, if its shim could not.
func (e *Exec) writeEnd() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	rec := e.unwritten
	if rec == nil || e.snap.Load().Removed {
		return nil
	}
	root, err := e.b.pin()
	if errors.Is(err, ErrRemoved) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	name := filepath.Join(wire.ExecDir, e.name)
	dir, err := root.OpenRoot(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nobody will ask for it
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if old, err := load(filepath.Join(e.b.dir, name), wire.RecordName, decodeExit); err != nil || old == nil || old.Run != rec.Run {
		// Not where the shim, which may live and try the same, writes it first.
		if err := atomicfile.Replace(dir, wire.RecordName, rec.AppendJSON(nil), atomicfile.BestEffort); err != nil {
			return err
		}
	}
	e.unwritten = nil
	return nil
}
