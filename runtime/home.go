package runtime

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/atomicfile"
	"github.com/boxlitefs/boxlite/shim/client"
)

// A shim belongs to the directory of its box, which it has open: to the inode, and so
// wherever that is moved. The records in a copy of a state directory name the processes
// of the original, whose daemon may run beside this one, or be started again.

// othersRun is the error of a run that a record in a copied directory names.
type othersRun struct{ pid int }

func (o *othersRun) Error() string {
	return fmt.Sprintf("its directory is a copy: the run that is on record is process %d, which belongs to the original and was left alone", o.pid)
}

// isHome returns an *othersRun if a shim lives in another directory than this box.
// What cannot be asked any more is as good as at home: it has ended.
func (b *Box) isHome(pid int) error {
	var own unix.Stat_t
	if err := unix.Stat(b.dir, &own); err != nil {
		return err
	}
	dir, err := client.Home(pid)
	switch {
	case err != nil:
		b.log("recover").WithError(err).Debug("the directory of the shim is not known")
		return nil
	case dir.Dev == own.Dev && dir.Ino == own.Ino:
		return nil
	}
	return &othersRun{pid: pid}
}

// disown ends, for this box, a run that is another's. That is written down, so that
// nothing is made of its end when it comes.
func (b *Box) disown(live *shimRecord) {
	all, _ := b.Execs()
	for _, e := range all {
		if e.Snapshot().Status.Active() {
			e.disown()
		}
	}
	b.save.Lock()
	defer b.save.Unlock()
	if err := b.saveNow(atomicfile.Atomic, func(s *stateRecord) {
		s.LastRun, s.LastNumber, s.Asked, s.Again, s.Remove = live.Run, live.Number, "", "", false
	}); err != nil {
		b.log("recover").WithError(err).Error("that its last run is another's is not written down")
		b.saveLater()
	}
}

// disown ends an exec of such a run: how it ends is not for this daemon to know.
func (e *Exec) disown() {
	rec := e.record(e.snap.Load())
	rec.Boot = "" // as after a boot: nobody saw its end
	root, err := e.b.pin()
	if err == nil {
		err = e.save(root, rec)
		_ = root.Close() // it was only read
	}
	if err != nil {
		e.b.log("recover").WithError(err).Error("that an exec is another's is not written down")
	}
	e.end(outcome{status: ExecStopped, code: -1})
}
