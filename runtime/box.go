package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/boxlitefs/boxlite/runtime/atomicfile"
	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/deep"
	"github.com/boxlitefs/boxlite/runtime/epoll"
	"github.com/boxlitefs/boxlite/runtime/event"
	"github.com/boxlitefs/boxlite/runtime/fault"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// Box is one box. All methods may be called at any time from any goroutine.
type Box struct {
	rt     *Runtime
	name   string
	serial uint64
	dir    string

	snap   atomic.Pointer[Snapshot]
	events history
	infos  texts[infoState]

	mu      sync.Mutex    // the owner: guards what follows, and who publishes
	removed bool          // from the moment its removal is certain
	leaving chan struct{} // closed when it is, or has failed; nil while nobody removes it
	run     *run          // the last run, going on or ended; nil before the first
	stops   int           // stop and kill commands so far: a restart that is overtaken gives way
	record  stateRecord
	retries int // restarts in a row; see backoff

	kills atomic.Uint64 // kill commands so far

	// firstID is the first of the host's ids that the box's containers have; 0 as long
	// as it has had none.
	firstID atomic.Uint32

	restartTimer epoll.Timer
	// active is the moment at which somebody last showed that the box is wanted; see
	// expire.idle.
	active atomic.Int64
	// activeUnsaved says that active is to be written down, and activeRests that it has
	// been less than activePause ago.
	activeUnsaved, activeRests atomic.Bool
	activeTimer                epoll.Timer

	files rootSlot

	// holders are those who still read in the directory after a removal.
	holders sync.WaitGroup

	booted bool // under mu: the machine was booted since the run that another daemon began last

	execs  execs
	images imageUse

	look sync.Mutex // one look at an unknown box at a time; see reconsider

	// config orders commits of config.yaml, and save orders writes of
	// state.json. Both are held across disk I/O and never taken under mu.
	config sync.Mutex
	save   sync.Mutex
	kept   int // under save: the last run of which it was written how it ended
	// saveQueued says that a write of state.json waits to begin.
	saveQueued atomic.Bool
	again      epoll.Timer  // see saveLater
	savePause  atomic.Int64 // before the last write that was made again, in nanoseconds
	// keeper is the run that has ended and whose shim stays until that is written; nil if
	// there is none.
	keeper atomic.Pointer[run]
	// held is, under save, what state.json says of the last run as long as the keeper has
	// what is on record nowhere else; nil when there is no such.
	held *lastRun
}

// lastRun is the last run that was seen to end.
type lastRun struct {
	id string
	n  int
}

func newBox(rt *Runtime, name string) *Box {
	b := &Box{rt: rt, name: name, serial: rt.serial.Add(1), dir: rt.store.boxDir(name)}
	b.events.Max = boxHistory
	b.restartTimer.Fire = b.restartDue
	b.again.Fire = b.saveAgain
	b.activeTimer.Fire = func() {
		b.activeRests.Store(false)
		b.saveActive()
	}
	b.record = stateRecord{Version: recordVersion, Status: status.Empty, ExitCode: -1, LastError: "ok", Created: time.Now()}
	return b
}

// Name returns the box's name.
func (b *Box) Name() string { return b.name }

// Serial is a number that no other box of this daemon has or had.
func (b *Box) Serial() uint64 { return b.serial }

// Snapshot returns the state of the box now.
func (b *Box) Snapshot() *Snapshot { return b.snap.Load() }

// Events returns the box's history, oldest first.
func (b *Box) Events() []event.Event { return b.events.All() }

// EventsText returns the box's history as lines, and when the last event came.
func (b *Box) EventsText() (*Text, time.Time) { return b.events.text() }

// Follow returns a cursor over the box's events from now on.
func (b *Box) Follow() *event.Cursor { return b.events.Follow() }

func (b *Box) log(op string) *logrus.Entry {
	s := b.snap.Load()
	return b.rt.log.WithFields(logrus.Fields{"box": b.name, "op": op, "pid": s.PID, "state": s.Status})
}

func (b *Box) fail(op string, err error) error {
	return &Error{Box: b.name, Op: op, Err: ExplainFiles(err)}
}

// publish makes s the box's snapshot, with the times of what changed.
func (b *Box) publish(s *Snapshot, now time.Time) Field {
	s.next = make(chan struct{})
	old := b.snap.Load()
	if old == nil {
		for i := range s.changed {
			s.changed[i] = now
		}
		b.snap.Store(s)
		return 0
	}
	f := s.diff(old)
	for i := range s.changed {
		if f&(1<<i) != 0 {
			s.changed[i] = now
		}
	}
	b.snap.Store(s)
	return f
}

// tx is one change of a box, made by the function given to update.
type tx struct {
	Snapshot // what will be published; changed at will
	touched  Field
	events   []event.Event
	why      string // words to add to what is said of a change of health
}

// event adds an event to the change.
func (t *tx) event(name, detail string) {
	t.events = append(t.events, event.Event{Name: name, Detail: detail})
}

// update is the only way a box changes. fn runs under the box's lock and edits a
// copy of its snapshot; if it returns nil and the state table allows the move,
// the copy is published, the events are recorded, the observer is told, and who
// waited for a change is woken, in this order. Else nothing has changed. A box that is
// removed changes no more: that is ErrRemoved.
func (b *Box) update(op string, fn func(t *tx) error) error {
	old, f, events, err := b.change(fn)
	if err != nil {
		return b.fail(op, err)
	}
	if f != 0 {
		if b.rt.opt.Observer != nil {
			b.rt.opt.Observer.BoxChanged(b, f)
		}
		if events {
			b.rt.announce()
		}
		close(old.next)
	}
	return nil
}

// change is the part of update that runs under the box's lock. It returns the snapshot
// that was replaced, what differs in the new one, and whether there are new events.
func (b *Box) change(fn func(t *tx) error) (old *Snapshot, f Field, events bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.removed:
		return nil, 0, false, ErrRemoved
	case b.leaving != nil:
		return nil, 0, false, fmt.Errorf("%w: it is being removed", ErrBusy)
	}
	old = b.snap.Load()
	t := &tx{Snapshot: *old}
	if err := fn(t); err != nil {
		return nil, 0, false, err
	}
	if t.Status != old.Status && !status.CanMove(old.Status, t.Status) {
		return nil, 0, false, &TransitionError{From: old.Status, To: t.Status}
	}
	s := t.Snapshot
	now := time.Now()
	if t.Status != old.Status {
		detail := fmt.Sprintf("from=%s to=%s", old.Status, t.Status)
		if !t.Status.Active() && old.Status.Active() {
			detail += fmt.Sprintf(" exit_code=%d", t.ExitCode)
		}
		t.event("status", detail)
	}
	if t.Health != old.Health {
		t.event("health", fmt.Sprintf("from=%s to=%s", old.Health, t.Health)+t.why)
	}
	for i := range s.changed {
		if t.touched&(1<<i) != 0 {
			s.changed[i] = now
		}
	}
	if len(t.events) > 0 {
		t.touched |= FieldEvents
		s.changed[bits.TrailingZeros(uint(FieldEvents))] = now
	}
	f = s.diff(old) | t.touched
	b.rt.metrics.changed(old, &s)
	if f != 0 {
		b.publish(&s, now)
	}
	if t.Status != old.Status {
		b.rt.imageTexts.uses.Add(1)
	}
	for _, e := range t.events {
		b.rt.record(b, e, false)
	}
	return old, f, len(t.events) > 0, nil
}

// refuse notes in last_error why a command or a configuration was refused, and
// passes the error on.
func (b *Box) refuse(err error) error {
	if uerr := b.update("last_error", func(t *tx) error {
		t.LastError = oneLine(err.Error())
		return nil
	}); uerr != nil {
		b.log("last_error").WithError(uerr).Debug("refusal not noted")
	}
	b.log("refuse").WithError(err).Debug("refused")
	b.saveSoon()
	return err
}

// saveSoon writes state.json in the background. Calls that come before the
// write has begun share it.
func (b *Box) saveSoon() {
	if !b.saveQueued.CompareAndSwap(false, true) {
		return
	}
	b.rt.background(func() {
		b.save.Lock()
		defer b.save.Unlock()
		b.saveQueued.Store(false)
		if err := b.saveNow(atomicfile.Atomic, nil); err != nil {
			b.log("save").WithError(err).Error("state not written")
			b.saveLater()
		}
	})
}

// saveNow writes state.json with the box's present state, changed by edit unless
// that is nil. The caller holds save.
func (b *Box) saveNow(d atomicfile.Durability, edit func(*stateRecord)) error {
	// First, so that edit is not lost where the directory cannot be opened.
	r := b.nextState(edit)
	if h := b.held; h != nil && b.keeper.Load() != nil {
		r.LastRun, r.LastNumber = h.id, h.n // so that the next daemon asks that shim
	}
	dir, err := b.pin()
	if errors.Is(err, ErrRemoved) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	data, err := json.Marshal(&r)
	if err != nil {
		return err
	}
	return atomicfile.Replace(dir, stateFile, append(data, '\n'), d)
}

// nextState makes what saveNow writes.
func (b *Box) nextState(edit func(*stateRecord)) stateRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.snap.Load()
	r := b.record
	r.Created, r.Runs, r.Owners = s.Created, s.Runs, s.owners
	r.Restarts, r.Retries = s.Restarts, b.retries
	if at := moment(b.active.Load()); at != 0 {
		r.Active, r.ActiveAt = at.time(), at
	}
	if r.Health, r.HealthRun = s.Health, ""; s.run != nil {
		r.HealthRun = s.run.id
	}
	if !s.Status.Active() {
		// While a run goes on, what is known of the last one stays.
		r.Status, r.ExitCode, r.Started, r.Ended, r.RestartAt = recordedStatus(s.Status), s.ExitCode, s.Started, s.Ended, s.RestartAt
	} else {
		r.Remove = false
	}
	r.LastError = s.LastError
	if edit != nil {
		edit(&r)
	}
	if r.BootID, r.RestartDue = b.rt.bootID, 0; !r.RestartAt.IsZero() {
		r.RestartDue = momentOf(r.RestartAt)
	}
	b.record = r
	return r
}

// keepMode writes the first state.json of a new box, at once for the next daemon. The
// caller holds mu.
func (b *Box) keepMode(s *Snapshot) error {
	r := b.record
	r.Created, r.Owners = s.Created, s.owners
	data, err := json.Marshal(&r)
	if err != nil {
		return err
	}
	dir, err := os.OpenRoot(b.dir)
	if err != nil {
		return err
	}
	return errors.Join(atomicfile.Replace(dir, stateFile, append(data, '\n'), atomicfile.BestEffort), dir.Close())
}

// CheckConfig says what Configure would say of text that is not meant to be
// committed yet.
func (b *Box) CheckConfig(text []byte) error {
	if _, err := config.Parse(b.name, text); err != nil {
		return b.refuse(b.fail("config", err))
	}
	return nil
}

// Configure commits text as the box's configuration. It returns a *config.Error
// inside an *Error if the text is refused; the old configuration then stays.
func (b *Box) Configure(text []byte) error {
	cfg, err := config.Parse(b.name, text)
	if err != nil {
		return b.refuse(b.fail("config", err))
	}
	fault.Point("config.accepted")
	b.config.Lock()
	defer b.config.Unlock()
	// Limits are tried on the running box first: what the kernel refuses is not
	// committed.
	undo, err := b.relimit(cgroup.Limits(cfg.Resources))
	if err == nil {
		var dir *os.Root
		if dir, err = b.pin(); err == nil {
			err = errors.Join(atomicfile.Replace(dir, configFile, text, atomicfile.Synced), dir.Close())
		}
		if err != nil {
			undo()
		}
	}
	if errors.Is(err, ErrRemoved) {
		return err
	}
	if err != nil {
		return b.refuse(b.fail("config", err))
	}
	fault.Point("config.written")
	first := false
	err = b.update("config", func(t *tx) error {
		first = t.Status == status.Empty
		if t.Status == status.Empty || t.Status == status.Failed {
			t.Status = status.Configured
		}
		t.Config, t.Text, t.LastError = cfg, text, "ok"
		t.Pending = t.Status.Active() && b.run != nil && !b.run.cfg.RunsLike(cfg)
		t.touched |= FieldConfig | FieldInfo
		t.event("configured", "")
		return nil
	})
	if err != nil {
		return err
	}
	fault.Point("config.published")
	b.saveSoon()
	if first && cfg.Autostart {
		b.autostart()
	}
	return nil
}

func (b *Box) autostart() {
	if _, err := b.Do(By{PID: os.Getpid()}, Command{Verb: VerbStart}); err != nil {
		b.log("autostart").WithError(err).Warn("autostart refused")
	}
}

// RefuseConfig notes why a configuration that was never committed (because a
// write of it already failed) was refused, and returns the refusal.
func (b *Box) RefuseConfig(err error) error { return b.refuse(b.fail("config", err)) }

// RefuseCommand is the same for a command that never reached the box.
func (b *Box) RefuseCommand(err error) error { return b.refuse(b.fail("ctl", err)) }

// Owner returns who may use the file name of the box ("" is its directory), and
// whether that was ever changed.
func (s *Snapshot) Owner(name string) (status.Owner, bool) {
	o, ok := s.owners[name]
	return o, ok
}

// SetOwner changes who may use the file name of the box ("" is its directory),
// for good. What cannot be written down does not hold either.
func (b *Box) SetOwner(name string, o status.Owner) error {
	// Under save nobody else changes an owner, or writes them down.
	b.save.Lock()
	defer b.save.Unlock()
	owners := maps.Clone(b.Snapshot().owners)
	if owners == nil {
		owners = map[string]status.Owner{}
	}
	owners[name] = o
	// At once for the next daemon, and soon for the next boot: a client holds a
	// kernel lock meanwhile.
	if err := b.saveNow(atomicfile.BestEffort, func(r *stateRecord) { r.Owners = owners }); err != nil {
		return b.fail("chown", err)
	}
	defer b.saveSoon()
	fault.Point("chown.saved")
	return b.update("chown", func(t *tx) error {
		t.owners = owners
		t.touched |= FieldOwner
		return nil
	})
}

// Remove removes the box: with a process it is refused with ErrBusy. Its
// directory is moved away in one step and deleted in the background.
func (b *Box) Remove() error {
	err := b.remove(true)
	if err != nil && !errors.Is(err, ErrRemoved) {
		return b.refuse(err)
	}
	return err
}

func (b *Box) remove(asked bool) error {
	s, trash, err := b.leave()
	if err != nil {
		return b.fail("remove", err)
	}
	b.dropKeeper()
	b.dropExecs()
	// The name is free for another box only when nobody can meet this one under
	// it any more, and when its end has been told.
	if b.rt.opt.Observer != nil {
		b.rt.opt.Observer.BoxRemoved(b, asked)
	}
	b.rt.record(b, event.Event{Name: "removed"}, true)
	b.rt.forget(b)
	b.rt.announce()
	fault.Point("remove.told")
	close(s.next)
	b.rt.background(func() {
		if trash == "" {
			return
		}
		err := b.shrink(trash)
		// The log stays for whoever still reads it. A reader may take its time, so no
		// lock is held.
		if err == nil && b.released() {
			err = deep.RemoveAll(b.rt.life, trash)
		}
		if err != nil && b.rt.life.Err() == nil {
			b.log("remove").WithError(err).Error("left in the trash, deleted at the next start of the daemon")
		}
	})
	return nil
}

// shrink deletes all that was a removed box's but its log.
func (b *Box) shrink(trash string) error {
	// A commit or a save that was under way ends before its files go.
	b.config.Lock()
	defer b.config.Unlock()
	b.save.Lock()
	defer b.save.Unlock()
	fault.PointIn("remove.deleting", trash)
	entries, err := os.ReadDir(trash)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, log := wire.ParseLogName(e.Name()); !log {
			err = errors.Join(err, deep.RemoveAll(b.rt.life, filepath.Join(trash, e.Name())))
		}
	}
	return err
}

// leave moves the box's directory to the trash and makes the box a removed one. It returns
// its last snapshot and where the directory is. Nothing else of the box changes meanwhile,
// and who only looks does not wait for the disk.
func (b *Box) leave() (last *Snapshot, trash string, err error) {
	s, err := b.mayLeave()
	if err != nil {
		return nil, "", err
	}
	trash, err = b.rt.store.discard(b.name, b.serial)
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.leaving)
	b.leaving = nil
	if err != nil {
		return nil, "", err
	}
	fault.Point("remove.renamed")
	b.removed = true
	gone := *s
	gone.Removed = true
	b.publish(&gone, time.Now())
	b.rt.imageTexts.uses.Add(1)
	return s, trash, nil
}

// mayLeave begins a removal, or says why there can be none.
func (b *Box) mayLeave() (*Snapshot, error) {
	b.lockStaying()
	defer b.mu.Unlock()
	s := b.snap.Load()
	switch {
	case b.removed:
		return nil, ErrRemoved
	case s.Status == status.Unknown:
		return nil, b.lookAgain()
	case s.Status.Active() || s.Status == status.Restarting:
		return nil, fmt.Errorf("%w: it is %s (kill it first)", ErrBusy, s.Status)
	}
	fault.Point("remove.accepted")
	b.leaving = make(chan struct{})
	return s, nil
}

// lockStaying takes mu when no removal is under way.
func (b *Box) lockStaying() {
	b.mu.Lock()
	for b.leaving != nil {
		leaving := b.leaving
		b.mu.Unlock()
		<-leaving
		b.mu.Lock()
	}
}

// released waits until nobody reads in the directory any more; it returns false
// if the daemon shuts down before.
func (b *Box) released() bool {
	free := make(chan struct{})
	go func() { b.holders.Wait(); close(free) }()
	select {
	case <-free:
		return true
	case <-b.rt.closing:
		return false
	}
}

// Completion is the work of one accepted command.
type Completion struct {
	done chan struct{}
	err  error
}

func newCompletion() *Completion { return &Completion{done: make(chan struct{})} }

// NewCompletion returns work that is done when end is called, with how it ended. It is for
// those who stand in for a box.
func NewCompletion() (c *Completion, end func(error)) {
	c = newCompletion()
	return c, c.complete
}

func completed() *Completion {
	c := newCompletion()
	close(c.done)
	return c
}

func (c *Completion) complete(err error) {
	c.err = err
	close(c.done)
}

// Done is closed when the work is done: Wait then returns at once.
func (c *Completion) Done() <-chan struct{} { return c.done }

// Wait returns how the command ended, or ctx's error if that comes first; the
// work then goes on.
func (c *Completion) Wait(ctx context.Context) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pin opens the box's directory while that is certainly this box's. What is read
// and written through it never meets a later box of the same name. No lock is held while
// the disk is asked: who needs the box's for a moment, as the one loop of all timers does,
// would wait for it.
func (b *Box) pin() (*os.Root, error) {
	for {
		b.lockStaying()
		removed := b.removed
		b.mu.Unlock()
		if removed {
			return nil, b.fail("open", ErrRemoved)
		}
		dir, err := b.rt.store.openRoot(b.dir)
		b.mu.Lock()
		moved := b.removed || b.leaving != nil
		b.mu.Unlock()
		if !moved {
			return dir, err
		}
		if err == nil {
			_ = dir.Close() // it was only opened
		}
	}
}

// hold is pin for a reader that may go on reading after the box was removed; it
// calls holders.Done when it has closed the directory.
func (b *Box) hold() (*os.Root, error) {
	dir, err := b.pin()
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.removed {
		return nil, errors.Join(b.fail("open", ErrRemoved), dir.Close())
	}
	b.holders.Add(1)
	return dir, nil
}
