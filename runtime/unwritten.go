package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/boxlitefs/boxlite/shim"
)

// An end is on record before anybody is told, so that all daemons tell the same. Where it
// cannot be written, because the disk is full as a rule, it is told all the same: the shim
// keeps what it could not write and answers for it, and what this daemon could not write
// it writes later.

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
	b.rt.timers.set(&b.again, time.Now().Add(pause))
}

// saveAgain is called when the timer of saveLater has fired.
func (b *Box) saveAgain() {
	b.rt.background(func() {
		b.save.Lock()
		defer b.save.Unlock()
		if err := errors.Join(b.writeExecEnds(), b.saveNow(whole, nil)); err != nil {
			b.log("save").WithError(err).Warn("still not written")
			b.saveLater()
			return
		}
		b.savePause.Store(0)
	})
}

// takeEnd takes from a shim, of a run that has ended, what it could not put on record, and
// lets it go. It tells of it until that is done.
func (b *Box) takeEnd(r *run) {
	if !r.taking.TryLock() {
		return
	}
	defer r.taking.Unlock()
	if r.told.Load() == nil {
		rec, err := b.askEnd(r)
		if err != nil {
			b.log("reap").WithError(err).Warn("the shim has an end that it cannot put on record, and does not say which")
			return
		}
		r.told.Store(rec)
		b.log("reap").Warn("the shim could not put everything on record, and was asked for it")
	}
	if err := r.proc.Kill(); err != nil {
		b.log("reap").WithError(err).Error("the shim of a run that has ended is not killed")
	}
}

// askEnd asks for the ends of the execs, and then for that of the run.
func (b *Box) askEnd(r *run) (*shim.ExitRecord, error) {
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
	text, err := shim.AskEnd(ctx, dir, r.id)
	if err != nil {
		return nil, err
	}
	return decodeExit(text)
}

// endAs ends the exec as its shim says that it ended.
func (e *Exec) endAs(s *shim.ExecState) {
	o := outcome{status: ExecStopped, code: s.Code, late: s.TimedOut}
	if s.Phase == shim.ExecFailed {
		o.status = ExecFailed
	}
	rec := &shim.ExitRecord{Run: e.snap.Load().run, Code: s.Code, Signal: s.Signal, Failed: s.Failed, StartedNs: s.StartedNs, EndedNs: s.EndedNs}
	if s.TimedOut {
		rec.StoppedBy = shim.StoppedByTimeout
	}
	e.keep(rec)
	e.end(o)
}

// keep notes how the exec ended: as long as its shim lives it is the shim that writes it.
func (e *Exec) keep(rec *shim.ExitRecord) {
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
	name := filepath.Join(shim.ExecDir, e.name)
	dir, err := root.OpenRoot(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if old, err := load(filepath.Join(e.b.dir, name), shim.RecordName, decodeExit); err != nil || old == nil || old.Run != rec.Run {
		if err := replaceFile(dir, shim.RecordName, rec.AppendJSON(nil), scrap); err != nil {
			return err
		}
	}
	e.unwritten = nil
	return nil
}
