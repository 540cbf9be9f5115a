package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/atomicfile"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/fault"
	"github.com/boxlitefs/boxlite/runtime/oci"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/runtime/userdb"
	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// MaxExecs is how many execs a box may have at once.
const MaxExecs = wire.MaxExecs

// rootExecs of them are root's alone: who was given exec/ does not fill it up.
const rootExecs = 16

const (
	// execFile is an execRecord in the directory of an exec.
	execFile = "exec.json"
	// execBegins is how many execs of a box begin at once: a shim has room for so many
	// that wait for its answer.
	execBegins = 16
	// adoptPause is how long a shim is left alone that could not say how its execs are. It
	// doubles up to maxAdoptPause.
	adoptPause    = 250 * time.Millisecond
	maxAdoptPause = 30 * time.Second
	// notExecuted is the exit code of an exec that failed before its shim was asked.
	notExecuted = 125
)

// ExecStatus is the word that an exec's file status gives.
type ExecStatus string

// The states of an exec, in the order in which they come.
const (
	ExecEmpty    ExecStatus = "empty"    // no command yet
	ExecStarting ExecStatus = "starting" // its command is being executed
	ExecRunning  ExecStatus = "running"  // its command runs
	ExecStopped  ExecStatus = "stopped"  // its command has ended
	ExecFailed   ExecStatus = "failed"   // its command could not be executed
)

// Active reports whether there may be a process.
func (s ExecStatus) Active() bool { return s == ExecStarting || s == ExecRunning }

// ExecSnapshot is the state of an exec at one moment, and is never changed.
type ExecSnapshot struct {
	Status ExecStatus
	PID    int // host pid of the command; -1 when it does not run
	// ExitCode is 128+N for signal N, 124 for the timeout; 127 when the command was
	// not found, 126 when it could not be executed, 125 when a step before that
	// failed; -1 before the end, and when nobody witnessed it.
	ExitCode int
	Text     []byte // cmd as it was written
	Created  time.Time
	Changed  time.Time
	// Removed says that the exec, or its box, is gone.
	Removed bool

	stdinClosed bool
	run         string       // id of the run that it belongs to
	owner       status.Owner // who made it
	owners      map[string]status.Owner
	next        chan struct{}
}

// Next is closed when a newer snapshot has been published.
func (s *ExecSnapshot) Next() <-chan struct{} { return s.next }

// Owner returns who may use the file name of the exec ("" is its directory): by
// default who made it, with that mode.
func (s *ExecSnapshot) Owner(name string, mode uint32) status.Owner {
	if o, ok := s.owners[name]; ok {
		return o
	}
	return status.Owner{UID: s.owner.UID, GID: s.owner.GID, Mode: mode}
}

// Exec is a command that is run in a box beside its own. All methods may be called at
// any time from any goroutine.
type Exec struct {
	b      *Box
	name   string
	serial uint64

	snap atomic.Pointer[ExecSnapshot]
	mu   sync.Mutex // the owner: who publishes; and guards what follows

	out     [2]*outStream // stdout and stderr
	in      inStream
	writers map[*StdinWriter]bool
	began   string // the event of its begin, until that is told
	// unwritten is how it ended, as long as that may not be on record.
	unwritten *wire.ExitRecord
	// askAgain says that the shim has said, while this one was being started, that there are
	// ends which are not on record: it says so once, and this may be one.
	askAgain bool
	// refused says that the last command it was given was refused: who waits for its
	// output would wait for ever.
	refused atomic.Bool
	kills   atomic.Uint64 // kill commands so far
	done    chan struct{} // closed when it has ended
}

// execs are the execs of a box.
type execs struct {
	// making orders those that make an exec. It is held across disk I/O; mu is not, since
	// the loop of all timers takes it.
	making  sync.Mutex
	mu      sync.Mutex
	byName  map[string]*Exec
	changed time.Time // when one last came or went
	begins  chan struct{}
	// Of a run that was found: names of those whose record was unusable, and those of
	// which it is not known yet how they are. They are its recovery's, and then of the one
	// adoptExecs that goes on.
	lost  []string
	found []*Exec
	pause time.Duration // before the last time that the shim was asked again

	watching sync.Mutex // guards watched; held across a question to the shim
	watched  *run       // whose shim tells of the ends of execs
}

// execRecord is exec.json. It holds the command, which may hold secrets.
type execRecord struct {
	Version int                     `json:"version"`
	Created time.Time               `json:"created"`
	UID     uint32                  `json:"uid"`
	GID     uint32                  `json:"gid"`
	Owners  map[string]status.Owner `json:"owners,omitempty"`
	Run     string                  `json:"run,omitempty"` // empty: no command yet
	Boot    string                  `json:"boot,omitempty"`
	Cmd     string                  `json:"cmd,omitempty"`
}

func decodeExecRecord(b []byte) (*execRecord, error) {
	r := &execRecord{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("version %d is not %d", r.Version, recordVersion)
	}
	for name, o := range r.Owners {
		if o.Mode&^0o777 != 0 {
			return nil, fmt.Errorf("mode of %q is %o", name, o.Mode)
		}
	}
	return r, nil
}

// Exec returns the exec of that name, or nil.
func (b *Box) Exec(name string) *Exec {
	b.execs.mu.Lock()
	defer b.execs.mu.Unlock()
	return b.execs.byName[name]
}

// Execs returns the box's execs by name, and when one last came or went.
func (b *Box) Execs() ([]*Exec, time.Time) {
	b.execs.mu.Lock()
	defer b.execs.mu.Unlock()
	all := make([]*Exec, 0, len(b.execs.byName))
	for _, name := range slices.Sorted(maps.Keys(b.execs.byName)) {
		all = append(all, b.execs.byName[name])
	}
	return all, b.execs.changed
}

// execsActive reports how many execs may have a process, and how many there are.
func (b *Box) execsActive() (active, total int) {
	b.execs.mu.Lock()
	defer b.execs.mu.Unlock()
	for _, e := range b.execs.byName {
		if e.Snapshot().Status.Active() {
			active++
		}
	}
	return active, len(b.execs.byName)
}

// ExecCount returns how many execs the box has, and when one last came or went.
func (b *Box) ExecCount() (int, time.Time) {
	b.execs.mu.Lock()
	defer b.execs.mu.Unlock()
	return len(b.execs.byName), b.execs.changed
}

func (b *Box) newExec(name string, rec *execRecord) *Exec {
	e := &Exec{b: b, name: name, serial: b.rt.serial.Add(1), done: make(chan struct{})}
	for i := range e.out {
		e.out[i] = &outStream{e: e, fd: -1, name: [...]string{wire.ExecStdout, wire.ExecStderr}[i]}
	}
	e.in = inStream{e: e, fd: -1}
	e.snap.Store(&ExecSnapshot{
		Status: ExecEmpty, PID: -1, ExitCode: -1, Created: rec.Created, Changed: rec.Created,
		owner: status.Owner{UID: rec.UID, GID: rec.GID}, owners: rec.Owners, run: rec.Run, Text: []byte(rec.Cmd), next: make(chan struct{}),
	})
	return e
}

// CreateExec makes an empty exec that belongs to owner, whose mode is that of its
// directory; 0 is the default.
func (b *Box) CreateExec(name string, owner status.Owner) (*Exec, error) {
	rec := &execRecord{Version: recordVersion, Created: time.Now(), UID: owner.UID, GID: owner.GID}
	if owner.Mode != 0 && owner.Mode != ExecMode {
		rec.Owners = map[string]status.Owner{"": owner}
	}
	e, err := b.createExec(name, rec)
	if err != nil {
		return nil, b.refuse(b.fail("exec", fmt.Errorf("%q: %w", name, err)))
	}
	b.keepAlive()
	return e, nil
}

func (b *Box) createExec(name string, rec *execRecord) (*Exec, error) {
	if !ValidName(name) {
		return nil, ErrName
	}
	root, err := b.pin()
	if err != nil {
		return nil, ErrRemoved
	}
	defer root.Close()
	b.execs.making.Lock()
	defer b.execs.making.Unlock()
	if err := b.execs.room(name, rec.UID); err != nil {
		return nil, err
	}
	dir := filepath.Join(wire.ExecDir, name)
	if err := root.Mkdir(wire.ExecDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := root.RemoveAll(dir); err != nil { // what a daemon that died has left half-made
		return nil, err
	}
	if err := root.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := makeFIFOs(root, dir); err != nil {
		return nil, errors.Join(err, root.RemoveAll(dir))
	}
	fault.Point("exec.made")
	e := b.newExec(name, rec)
	if err := e.save(root, rec); err != nil {
		return nil, errors.Join(err, root.RemoveAll(dir))
	}
	b.execs.add(e)
	return e, nil
}

// room says why uid can make no exec of that name. The caller holds making, so that it
// stays so.
func (x *execs) room(name string, uid uint32) error {
	room := MaxExecs
	if uid != 0 {
		room -= rootExecs
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.byName[name] != nil:
		return ErrExist
	case len(x.byName) >= room:
		return ErrExecs
	}
	return nil
}

// add makes an exec known.
func (x *execs) add(e *Exec) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byName == nil {
		x.byName = map[string]*Exec{}
		x.begins = make(chan struct{}, execBegins)
	}
	x.byName[e.name] = e
	x.changed = time.Now()
}

func makeFIFOs(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, name := range []string{wire.ExecStdin, wire.ExecStdout, wire.ExecStderr} {
		if err := unix.Mkfifoat(int(d.Fd()), name, 0o600); err != nil {
			return fmt.Errorf("make a FIFO: %w", err)
		}
	}
	return nil
}

// record is what is to be on disk of an exec in the state s.
func (e *Exec) record(s *ExecSnapshot) *execRecord {
	r := &execRecord{
		Version: recordVersion, Created: s.Created, UID: s.owner.UID, GID: s.owner.GID, Owners: s.owners, Run: s.run, Cmd: string(s.Text),
	}
	if s.run != "" {
		r.Boot = e.b.rt.bootID
	}
	return r
}

// save writes exec.json. A power loss may lose it, with the box's processes.
func (e *Exec) save(root *os.Root, rec *execRecord) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	dir, err := root.OpenRoot(filepath.Join(wire.ExecDir, e.name))
	if err != nil {
		return err
	}
	return errors.Join(atomicfile.Replace(dir, execFile, append(data, '\n'), atomicfile.BestEffort), dir.Close())
}

// Name returns the exec's name.
func (e *Exec) Name() string { return e.name }

// Box returns the box that it belongs to.
func (e *Exec) Box() *Box { return e.b }

// Serial is a number that no box and no other exec of this daemon has or had.
func (e *Exec) Serial() uint64 { return e.serial }

// Snapshot returns the state of the exec now.
func (e *Exec) Snapshot() *ExecSnapshot {
	s := e.snap.Load()
	if !s.Removed && e.b.Snapshot().Removed {
		gone := *s
		gone.Removed = true
		return &gone
	}
	return s
}

func (e *Exec) fail(err error) error {
	return e.b.fail("exec", fmt.Errorf("%q: %w", e.name, err))
}

// Refuse notes in the box's last_error why a request was refused, and passes the
// error on.
func (e *Exec) Refuse(err error) error {
	if e.Snapshot().Status == ExecEmpty {
		e.refused.Store(true)
		for _, o := range e.out {
			o.wake()
		}
	}
	return e.b.refuse(e.fail(err))
}

// publish makes what fn has made of a copy of the snapshot the exec's own. The caller
// holds mu.
func (e *Exec) publish(fn func(s *ExecSnapshot)) {
	old := e.snap.Load()
	s := *old
	s.Changed, s.next = time.Now(), make(chan struct{})
	fn(&s)
	e.snap.Store(&s)
	close(old.next)
	for _, o := range e.out {
		o.wake()
	}
	e.in.wake()
}

// tell records an event of the exec, and what else of the box has changed with it.
func (e *Exec) tell(detail string) {
	if err := e.b.update("exec", func(t *tx) error {
		t.event("exec", "name="+e.name+" "+detail)
		t.touched |= FieldInfo
		return nil
	}); err != nil && !errors.Is(err, ErrRemoved) {
		e.b.log("exec").WithError(err).Error("not told")
	}
	if o := e.b.rt.opt.Observer; o != nil {
		o.ExecChanged(e)
	}
}

// SetOwner changes who may use the file name of the exec ("" is its directory), for
// good. What cannot be written down does not hold either.
func (e *Exec) SetOwner(name string, o status.Owner) error {
	root, err := e.b.pin()
	if err != nil {
		return e.fail(ErrRemoved)
	}
	defer root.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.Snapshot().Removed {
		return e.fail(ErrRemoved)
	}
	changed := *e.snap.Load()
	changed.owners = maps.Clone(changed.owners)
	if changed.owners == nil {
		changed.owners = map[string]status.Owner{}
	}
	changed.owners[name] = o
	if err := e.save(root, e.record(&changed)); err != nil {
		return e.fail(err)
	}
	e.publish(func(s *ExecSnapshot) { s.owners = changed.owners })
	return nil
}

// RemoveExec removes an exec that has no process, for the user uid: ErrBusy if it has
// one, ErrDenied if it is another's.
func (b *Box) RemoveExec(name string, uid uint32) error {
	e := b.Exec(name)
	if e == nil {
		return b.fail("exec", fmt.Errorf("%q: %w", name, ErrNoExec))
	}
	if err := e.Snapshot().mayRemove(uid); err != nil {
		// Not by Refuse: who waits for the command's output waits on.
		return b.refuse(e.fail(err))
	}
	err := e.remove()
	if err != nil {
		return e.Refuse(err)
	}
	return nil
}

func (e *Exec) remove() error {
	b := e.b
	root, err := b.pin()
	if err != nil {
		return ErrRemoved
	}
	defer root.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.snap.Load()
	switch {
	case s.Removed:
		return ErrRemoved
	case s.Status.Active():
		return fmt.Errorf("%w: it is %s (kill it first)", ErrBusy, s.Status)
	}
	trash, err := b.rt.store.discardExec(b.name, e.name, e.serial)
	if err != nil {
		return err
	}
	fault.Point("exec.discarded")
	e.publish(func(s *ExecSnapshot) { s.Removed = true })
	e.closeStreams()
	b.execs.mu.Lock()
	delete(b.execs.byName, e.name)
	b.execs.changed = time.Now()
	b.execs.mu.Unlock()
	b.rt.background(func() {
		if s.run != "" && b.Exec(e.name) == nil {
			e.forget(s.run)
		}
		if trash == "" {
			return
		}
		if err := os.RemoveAll(trash); err != nil {
			b.log("exec").WithError(err).Error("left in the trash, deleted at the next start of the daemon")
		}
	})
	return nil
}

// dropExecs lets go of the execs of a box that is removed.
func (b *Box) dropExecs() {
	all, _ := b.Execs()
	for _, e := range all {
		e.mu.Lock()
		e.publish(func(s *ExecSnapshot) { s.Removed = true })
		e.closeStreams()
		e.mu.Unlock()
	}
}

// forget has the shim drop an exec. What it does not drop goes when it gets another of
// that name, or with its box.
func (e *Exec) forget(run string) {
	if r, going := e.b.Snapshot().Run(); !going || r.r.id != run {
		return
	}
	if _, err := e.ask(context.Background(), wire.Request{Op: wire.OpExecForget, Run: run}, askBound); err != nil {
		e.b.log("exec").WithError(err).Debug("not forgotten by the shim")
	}
}

// ask puts a request on the exec to the shim. What that could not do is the error. The
// bound may be 0 for none.
func (e *Exec) ask(ctx context.Context, req wire.Request, bound time.Duration) (client.ExecReply, error) {
	dir, err := os.Open(e.b.dir)
	if err != nil {
		return client.ExecReply{Stdin: -1}, err
	}
	defer dir.Close()
	if bound > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, bound)
		defer cancel()
	}
	req.Exec = e.name
	reply, err := client.AskExec(ctx, dir, req)
	e.in.take(reply.Stdin)
	if err == nil && reply.Errno != 0 {
		err = reply.Errno
	}
	return reply, err
}

// MayRun says why the exec cannot be given its command now, if it can't.
func (e *Exec) MayRun() error {
	if err := e.mayRun(); err != nil {
		return e.Refuse(err)
	}
	return nil
}

func (e *Exec) mayRun() error {
	s, box := e.Snapshot(), e.b.Snapshot()
	switch {
	case s.Removed:
		return ErrRemoved
	case s.Status != ExecEmpty:
		return fmt.Errorf("%w: it had its command already (rmdir it, and make another)", ErrBusy)
	case box.Status == status.Unknown:
		return e.b.lookAgain()
	case !box.Status.Active():
		return fmt.Errorf("%w: the box is %s", ErrNoProcess, box.Status)
	case box.Status != status.Running:
		return fmt.Errorf("%w: the box is %s", ErrBusy, box.Status)
	}
	return nil
}

// Check says what Run would say of text that is not meant to be run yet.
func (e *Exec) Check(text []byte) error {
	if _, err := config.ParseExec(e.b.name, text); err != nil {
		return e.Refuse(err)
	}
	return nil
}

// Run runs the command that text describes, for who has opened cmd. It returns the
// work: that is done when the command was executed, or could not be.
func (e *Exec) Run(by By, text []byte) (*Completion, error) {
	done, err := e.run(by, text)
	if err != nil {
		return nil, e.Refuse(err)
	}
	return done, nil
}

func (e *Exec) run(by By, text []byte) (*Completion, error) {
	b := e.b
	if b.rt.isClosing() {
		return nil, ErrClosed
	}
	cmd, err := config.ParseExec(b.name, text)
	if err != nil {
		return nil, err
	}
	root, err := b.pin()
	if err != nil {
		return nil, ErrRemoved
	}
	defer root.Close()
	r, going := b.Snapshot().Run()
	var who userdb.User
	if going {
		// The host's name services may take their time: not with the exec's lock held.
		if who, err = b.execUser(r.r, cmd); err != nil {
			return nil, err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.mayRun(); err != nil {
		return nil, err
	}
	if now, still := b.Snapshot().Run(); !going || !still || now.r != r.r {
		return nil, ErrNoProcess
	}
	s := *e.snap.Load()
	spec, err := b.execSpec(r.r, cmd, who, s.rights(by.UID))
	if err != nil {
		return nil, err
	}
	s.run, s.Text = r.r.id, text
	if err := e.openStreams(root); err != nil {
		return nil, err
	}
	// The shim may have written it late, of one that had the name before.
	if err = root.Remove(filepath.Join(wire.ExecDir, e.name, wire.RecordName)); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = e.save(root, e.record(&s))
	}
	if err == nil {
		err = e.writeSpec(root, spec)
	}
	if err != nil {
		return nil, err
	}
	fault.Point("exec.recorded")
	e.began = fmt.Sprintf("by=%d:%d begin", by.UID, by.PID)
	e.refused.Store(false)
	e.publish(func(n *ExecSnapshot) { n.run, n.Text, n.Status = s.run, s.Text, ExecStarting })
	b.keepAlive()
	done := newCompletion()
	go func() {
		err := e.begin(r.r)
		if err != nil {
			err = e.Refuse(err)
		}
		done.complete(err)
	}()
	return done, nil
}

func (e *Exec) writeSpec(root *os.Root, spec *wire.ExecSpec) error {
	dir, err := root.OpenRoot(filepath.Join(wire.ExecDir, e.name))
	if err != nil {
		return err
	}
	return errors.Join(atomicfile.Replace(dir, wire.ExecSpecName, spec.Append(nil), atomicfile.BestEffort), dir.Close())
}

// removeSpec removes what the shim has read: it holds env.
func (e *Exec) removeSpec() {
	root, err := e.b.pin()
	if err != nil {
		return // it is gone with the box
	}
	err = root.Remove(filepath.Join(wire.ExecDir, e.name, wire.ExecSpecName))
	if err = errors.Join(err, root.Close()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		e.b.log("exec").WithError(err).Warn("its orders are left on disk")
	}
}

// execSpec is what the shim needs to run cmd in the run, as the user that execUser gave,
// with those rights. Who is not root gets no more than the box's own command has, and on
// the host not even root.
func (b *Box) execSpec(r *run, cmd *config.Exec, who userdb.User, rights execRights) (*wire.ExecSpec, error) {
	c := r.cfg
	if rights.limited && cmd.User != "" && cmd.User != c.User {
		return nil, rights.refuse("only root chooses the user: leave the key out")
	}
	if c.Engine == config.EngineContainer {
		return b.containedExec(r, cmd, who)
	}
	if rights.limited && who.UID == 0 {
		return nil, rights.refuse("the box runs as root, which on engine host is the host's: give it another user in config.yaml")
	}
	x := &wire.ExecSpec{
		Argv: cmd.Command, Workdir: c.Workdir, UID: who.UID, GID: who.GID, Groups: who.Groups,
		TimeoutNs: cmd.Timeout.Nanoseconds(), TTY: cmd.TTY,
	}
	if cmd.Workdir != "" {
		x.Workdir = cmd.Workdir
	}
	env := map[string]string{"PATH": oci.DefaultPath, "HOME": who.Home}
	if cmd.TTY {
		env["TERM"] = "xterm"
	}
	maps.Copy(env, c.Env)
	maps.Copy(env, cmd.Env)
	x.Env = oci.Environ(env)
	x.Capabilities, x.CapAmbient = c.Security.Capabilities.Mask(b.rt.bounding, who.UID == 0)
	return x, nil
}

// begin has the shim start the command, and returns when that has said how it went.
func (e *Exec) begin(r *run) error {
	b := e.b
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // an end of the run that the shim could not tell any more
		select {
		case <-r.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	b.execs.begins <- struct{}{}
	defer func() { <-b.execs.begins }()
	var reply client.ExecReply
	err := b.watchExecs(r)
	if err == nil {
		reply, err = e.ask(ctx, wire.Request{Op: wire.OpExec, Run: r.id}, 0)
	}
	fault.Point("exec.asked")
	e.removeSpec()
	if err != nil {
		err = e.notAsked(r, err)
		e.end(outcome{status: ExecFailed, code: notExecuted})
		return err
	}
	switch reply.State.Phase {
	case wire.ExecFailed:
		e.endAs(&reply.State)
		return fmt.Errorf("%w: %s", ErrStart, reply.State.Failed)
	case wire.ExecEnded:
		e.endAs(&reply.State)
		return nil
	}
	e.mu.Lock()
	again := e.askAgain
	began := ""
	if e.snap.Load().Status == ExecStarting {
		e.publish(func(s *ExecSnapshot) { s.Status, s.PID = ExecRunning, reply.PID })
		began, e.began = e.began, ""
	}
	e.mu.Unlock()
	if began != "" {
		e.tell(began)
	}
	if e.look() || !again {
		return nil
	}
	if err := e.inquire(r); err != nil && !noShim(err) {
		b.log("exec").WithError(err).Warn("it is not known how an exec is")
	}
	return nil
}

// hasBegun reports whether the exec runs, for all that is known. Of one that is being
// started begin tells, and asks again if it has to.
func (e *Exec) hasBegun(unwritten bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.snap.Load()
	if s.Status == ExecStarting && unwritten {
		e.askAgain = true
	}
	return s.Status == ExecRunning
}

// notAsked says why a shim has not taken the order to begin an exec.
func (e *Exec) notAsked(r *run, err error) error {
	switch {
	case errors.Is(err, syscall.EBUSY):
		return fmt.Errorf("%w: the box is paused or stopping, or what had that name before has not ended", ErrBusy)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		if reply, serr := e.b.askShim(r, wire.Request{Op: wire.OpState}, askBound); serr == nil && reply.State.Alive {
			return fmt.Errorf("%w: the box was started by an older boxlite, whose shim knows no exec: restart it", ErrStart)
		}
		return ErrNoProcess
	case noShim(err), errors.Is(err, context.Canceled):
		return ErrNoProcess
	}
	return fmt.Errorf("%w: %w", ErrStart, err)
}

// noShim reports whether an error of a question to a shim says that it has ended, or
// is about to.
func noShim(err error) bool {
	for _, gone := range []error{syscall.ESRCH, syscall.ESTALE, syscall.ENOENT, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ENODEV, io.ErrUnexpectedEOF} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// outcome is how an exec ended.
type outcome struct {
	status ExecStatus
	code   int
	late   bool // the timeout killed it
}

// end says how the exec ended, once.
func (e *Exec) end(o outcome) {
	e.mu.Lock()
	if !e.snap.Load().Status.Active() {
		e.mu.Unlock()
		return
	}
	e.publish(func(s *ExecSnapshot) {
		s.Status, s.ExitCode, s.PID, s.stdinClosed = o.status, o.code, -1, true
	})
	close(e.done)
	e.in.close()
	began := e.began
	e.began = ""
	e.mu.Unlock()
	if began != "" && o.status != ExecFailed {
		e.tell(began)
	}
	detail := "exit_code=" + strconv.Itoa(o.code)
	if o.late {
		detail += " timeout"
	}
	if o.status == ExecFailed {
		detail += " failed"
	}
	e.tell(detail)
	e.b.keepAlive()
}

// look ends the exec if its record says that it has ended, and reports whether.
func (e *Exec) look() bool {
	dir := filepath.Join(e.b.dir, wire.ExecDir, e.name)
	rec, err := load(dir, wire.RecordName, decodeExit)
	if err != nil {
		e.b.log("exec").WithError(err).Warn("record of an exec")
	}
	if rec == nil || rec.Run != e.snap.Load().run {
		return false
	}
	o := outcome{status: ExecStopped, code: rec.Code, late: rec.StoppedBy == wire.StoppedByTimeout}
	if rec.Failed != "" {
		o.status = ExecFailed
	}
	e.end(o)
	return true
}

// watchExecs sees to it that the shim of a run tells of the ends of execs as long as
// there is one.
func (b *Box) watchExecs(r *run) error {
	b.execs.watching.Lock()
	defer b.execs.watching.Unlock()
	if b.execs.watched == r {
		return nil
	}
	w, err := b.openExecWatch(r)
	if err != nil {
		return err
	}
	b.execs.watched = r
	go b.followExecs(r, w)
	return nil
}

func (b *Box) openExecWatch(r *run) (*client.ExecWatch, error) {
	dir, err := os.Open(b.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(context.Background(), askBound)
	defer cancel()
	return client.WatchExecs(ctx, dir, r.id)
}

// followExecs takes the ends of execs from their records, or from the shim's answer where
// those could not be written, when the shim says that there are any. It ends with the last exec that runs, and with the run.
func (b *Box) followExecs(r *run, w *client.ExecWatch) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-r.done:
		case <-b.rt.closing:
		case <-ctx.Done():
		}
		cancel()
	}()
	for {
		unwritten, err := w.Next(ctx)
		if err != nil {
			_ = w.Close() // nothing was written that could be lost
			if w = b.rewatch(ctx, r, err); w == nil {
				return
			}
			unwritten = true // for all that is known
		}
		all, _ := b.Execs()
		for _, e := range all {
			// Of one that is being started begin tells: until the shim has its order, it
			// may know another of that name.
			if !e.hasBegun(unwritten) || e.look() {
				continue
			}
			if s := e.Snapshot(); !unwritten && s.PID >= 0 {
				continue
			}
			if err := e.inquire(r); err != nil && !noShim(err) {
				b.log("exec").WithError(err).Warn("it is not known how an exec is")
			}
		}
		if b.unwatchIdle(r) {
			_ = w.Close()
			return
		}
	}
}

// rewatch gives another watch in place of one that broke off, unless the run has ended:
// what becomes of the execs then is told with its end.
func (b *Box) rewatch(ctx context.Context, r *run, err error) *client.ExecWatch {
	for {
		if !errors.Is(err, io.EOF) && !noShim(err) && ctx.Err() == nil {
			b.log("exec").WithError(err).Warn("no news of the execs: asked again")
			select {
			case <-ctx.Done():
			case <-time.After(askBound):
			}
		}
		if ctx.Err() == nil && !errors.Is(err, io.EOF) && !noShim(err) {
			var w *client.ExecWatch
			if w, err = b.openExecWatch(r); err == nil {
				return w
			}
			continue
		}
		b.execs.watching.Lock()
		if b.execs.watched == r {
			b.execs.watched = nil
		}
		b.execs.watching.Unlock()
		return nil
	}
}

// unwatchIdle ends the watch if no exec runs.
func (b *Box) unwatchIdle(r *run) bool {
	b.execs.watching.Lock()
	defer b.execs.watching.Unlock()
	b.execs.mu.Lock()
	defer b.execs.mu.Unlock()
	for _, e := range b.execs.byName {
		if e.snap.Load().Status.Active() {
			return false
		}
	}
	if b.execs.watched == r {
		b.execs.watched = nil
	}
	return true
}

// endExecs says how the execs ended of a box that is proven gone. Those that left no
// record were killed with it, unless that was another boot of the machine.
func (b *Box) endExecs() {
	all, _ := b.Execs()
	for _, e := range all {
		if e.Snapshot().Status.Active() && !e.look() {
			s := e.snap.Load()
			o := outcome{status: ExecStopped, code: 128 + int(unix.SIGKILL)}
			if rec, err := load(filepath.Join(b.dir, wire.ExecDir, e.name), execFile, decodeExecRecord); err != nil || rec == nil || rec.Boot != b.rt.bootID {
				o.code = -1
			} else {
				e.keep(&wire.ExitRecord{Run: s.run, Code: o.code, Signal: int(unix.SIGKILL), EndedNs: time.Now().UnixNano()})
			}
			e.end(o)
		}
		if err := e.writeEnd(); err != nil {
			b.log("exec").WithError(err).Error("end of an exec not put on record")
			b.saveLater()
		}
	}
}

// Do accepts or refuses a command on the exec at once, as Box.Do does: kill, signal or
// close_stdin.
func (e *Exec) Do(by By, c Command) (*Completion, error) {
	e.b.keepAlive()
	s := e.Snapshot()
	var err error
	req := wire.Request{Op: wire.OpExecKill, Run: s.run, Signal: c.Signal}
	switch {
	case s.Removed:
		err = ErrRemoved
	case c.Verb == VerbKill && !s.Status.Active() && s.run == "":
		e.kills.Add(1)
		return completed(), nil
	case c.Verb == VerbKill:
	case s.Status != ExecRunning:
		err = fmt.Errorf("%w: it is %s", ErrNoProcess, s.Status)
	case c.Verb == VerbSignal:
		req.Op = wire.OpExecSignal
	case c.Verb == VerbCloseStdin:
		req.Op = wire.OpExecEOF
	default:
		err = ErrInvalid
	}
	if err != nil {
		return nil, e.Refuse(fmt.Errorf("%s: %w", c.Verb, err))
	}
	if c.Verb == VerbKill {
		e.kills.Add(1)
	}
	done := newCompletion()
	go func() {
		err := e.carryOut(req)
		if err != nil {
			err = e.Refuse(fmt.Errorf("%s: %w", c.Verb, err))
		}
		done.complete(err)
	}()
	return done, nil
}

// Kills returns how many kills the exec has taken.
func (e *Exec) Kills() uint64 { return e.kills.Load() }

func (e *Exec) carryOut(req wire.Request) error {
	if req.Op == wire.OpExecEOF {
		e.closeIn()
	}
	_, err := e.ask(context.Background(), req, askBound)
	active := e.Snapshot().Status.Active()
	switch {
	case noShim(err) && req.Op == wire.OpExecSignal:
		return ErrNoProcess
	case noShim(err):
		err = nil // it has ended, or is about to
	}
	if err != nil || req.Op != wire.OpExecKill || !active {
		return err
	}
	over := time.NewTimer(KillBound)
	defer over.Stop()
	select {
	case <-e.done:
		return nil
	case <-over.C:
		return fmt.Errorf("%w: it was killed %s ago and has not ended (is the box paused?)", ErrTimedOut, KillBound)
	}
}

// WaitStopped gives the exit code once the exec has ended; at once where it has no
// process.
func (e *Exec) WaitStopped() Stream {
	return &answer{ask: func() (string, <-chan struct{}, error) {
		s := e.Snapshot()
		switch {
		case s.Status.Active():
			return "", e.done, nil
		case s.Removed:
			return "", nil, e.fail(ErrRemoved)
		}
		return strconv.Itoa(s.ExitCode), nil, nil
	}}
}

// readBackExecs makes the execs of a box from its directory. What is to be found out of
// those that had begun is left to adoptExecs or endExecs.
func (b *Box) readBackExecs() error {
	path := filepath.Join(b.dir, wire.ExecDir)
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	root, err := b.pin()
	if err != nil {
		return err
	}
	defer root.Close()
	b.execs.byName = map[string]*Exec{}
	b.execs.begins = make(chan struct{}, execBegins)
	b.execs.changed = time.Now()
	var errs []error
	for _, entry := range entries {
		name := entry.Name()
		dir := filepath.Join(path, name)
		rec, err := load(dir, execFile, decodeExecRecord)
		if err != nil {
			errs = append(errs, fmt.Errorf("exec %q: %w", name, err))
		} else if rec == nil {
			errs = append(errs, os.RemoveAll(dir)) // half made, or kept aside before
		}
		if rec == nil {
			b.execs.lost = append(b.execs.lost, name)
			continue
		}
		e := b.newExec(name, rec)
		b.execs.byName[name] = e
		if rec.Run == "" {
			continue
		}
		if err := e.openStreams(root); err != nil {
			errs = append(errs, fmt.Errorf("exec %q: %w", name, err))
		}
		e.publish(func(s *ExecSnapshot) { s.Status = ExecRunning })
		if e.quietly(dir); e.Snapshot().Status.Active() {
			b.execs.found = append(b.execs.found, e)
		}
	}
	return errors.Join(errs...)
}

// quietly ends an exec that had ended already, as nothing that happens now.
func (e *Exec) quietly(dir string) {
	rec, err := load(dir, wire.RecordName, decodeExit)
	if err != nil || rec == nil || rec.Run != e.snap.Load().run {
		return
	}
	e.publish(func(s *ExecSnapshot) {
		s.Status, s.ExitCode, s.stdinClosed = ExecStopped, rec.Code, true
		if rec.Failed != "" {
			s.Status = ExecFailed
		}
		s.Changed = time.Unix(0, rec.EndedNs)
	})
	close(e.done)
}

// adoptExecs finds out what the shim of an adopted run knows of the execs that were found,
// and comes back to what it could not say: it may be slow, and who waits for the end of
// an exec must not wait for ever.
func (b *Box) adoptExecs(r *run) {
	select {
	case <-r.done:
		return
	default:
	}
	x := &b.execs
	var err error
	for len(x.lost) > 0 && err == nil {
		// Nobody could ask for its end any more.
		e := b.newExec(x.lost[0], &execRecord{})
		if _, err = e.ask(context.Background(), wire.Request{Op: wire.OpExecKill, Run: r.id}, askBound); errors.Is(err, syscall.ENOENT) {
			err = nil
		}
		if err == nil {
			x.lost = x.lost[1:]
		}
	}
	for len(x.found) > 0 && err == nil {
		if e := x.found[0]; e.Snapshot().Status.Active() {
			err = e.adopt(r)
		}
		if err == nil {
			x.found = x.found[1:]
		}
	}
	if err == nil {
		return
	}
	b.log("recover").WithError(err).Warn("it is not known how the execs are: the shim is asked again")
	x.pause = min(max(2*x.pause, adoptPause), maxAdoptPause)
	b.rt.timers.Set(&r.adoption, time.Now().Add(x.pause))
}

func (e *Exec) adopt(r *run) error {
	if err := e.b.watchExecs(r); err != nil {
		return err
	}
	err := e.inquire(r)
	if errors.Is(err, syscall.ENOENT) {
		// The daemon before had not asked for it yet.
		e.end(outcome{status: ExecFailed, code: notExecuted})
		err = nil
	}
	if err == nil {
		e.removeSpec()
	}
	return err
}

// inquire finds out how an exec is: by its record, or from the shim, which also knows of an
// end that could not be put on record. One that is still being started has no pid; the shim
// says when it has.
func (e *Exec) inquire(r *run) error {
	if e.look() {
		return nil
	}
	reply, err := e.ask(context.Background(), wire.Request{Op: wire.OpExecState, Run: r.id}, askBound)
	if err != nil {
		return err
	}
	switch {
	case reply.State.Phase == wire.ExecEnded, reply.State.Phase == wire.ExecFailed:
		e.endAs(&reply.State)
		return nil
	case reply.PID < 0:
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.snap.Load().Status.Active() {
		e.publish(func(s *ExecSnapshot) { s.PID, s.stdinClosed = reply.PID, reply.State.StdinClosed })
	}
	return nil
}
