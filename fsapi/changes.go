package fsapi

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/boxlitefs/boxlite/fsapi/inotify"
	"github.com/boxlitefs/boxlite/runtime"
)

// What is dirty is touched by the notifier. Marks are merged until they are handed
// over, one batch at a time; what is marked again meanwhile goes with the next. So a
// mark costs its maker nothing but a lock that nobody holds for long, there is
// nothing to do while nothing changes, and whoever reads a file at its last event
// reads its last state: a mark is taken away before the file is touched.

const (
	// settleTime is how long marks are merged before a batch. A start is over by
	// then, and a short run: they take one batch, and the processor only afterwards.
	settleTime = 4 * time.Millisecond
	// borrowMax is how many files the kernel has for the notifier alone: those of the
	// boxes that change most, which are touched at the cost of one request then.
	borrowMax = 64
	// pathsMax is how many files of a box's execs are kept to be told of while there is no
	// notifier to tell.
	pathsMax = 1024
	// A notifier that can't be started is tried again at doubling distances.
	backoffFirst = 50 * time.Millisecond
	backoffLast  = time.Minute
)

// watched are the fields whose files watchers of a box's directory are told of.
// Other files are touched only if the kernel has them, since somebody may watch
// them then; these are the contract's.
const watched = runtime.FieldStatus | runtime.FieldHealth | runtime.FieldExitCode | runtime.FieldPID |
	runtime.FieldLastError | runtime.FieldEvents | runtime.FieldLog

// urgent are those that come before all others, of whatever box.
const urgent = runtime.FieldStatus | runtime.FieldHealth

// The daemon's own files, as fields of no box.
const (
	rootEvents runtime.Field = 1 << iota
	rootLastError
	rootImages
	rootImagesError
)

// marks are what is to be touched of one box, or of the daemon's own files.
type marks struct {
	box    *runtime.Box // nil for the daemon's own
	fields runtime.Field
	paths  []string // files of the box's execs
	since  time.Time
}

// path returns the file of a field.
func (m *marks) path(f runtime.Field) string {
	if m.box == nil {
		switch f {
		case rootEvents:
			return "events"
		case rootImages:
			return "images"
		case rootImagesError:
			return "images/last_error"
		}
		return "last_error"
	}
	for _, file := range boxFiles {
		if file.fields&f != 0 {
			return "boxes/" + m.box.Name() + "/" + file.name
		}
	}
	panic("no file has the field " + strconv.Itoa(int(f)))
}

// notifier hands what is dirty to a notifier process.
type notifier struct {
	fs    *FS
	spawn inotify.Spawn // nil: nobody is told of anything
	mount string
	// device is the mount's, as mountinfo shows it.
	device string

	process atomic.Pointer[inotify.Process]
	// late says that it is no use to wait for the notifier.
	late atomic.Bool

	mu     sync.Mutex
	dirty  map[*runtime.Box]*marks
	order  []*marks // of dirty, oldest first
	graves map[string]*grave
	bury   []*grave    // of graves, those that the notifier was not asked for yet
	ghosts []*fs.Inode // files of removed boxes
	// farewells are ghosts that the notifier was asked for, by inode number.
	farewells map[string]*fs.Inode
	// borrowed are files that the kernel has because the notifier looked them up,
	// oldest first.
	borrowed  []borrowed
	refusedAt time.Time // of the last_error at the root that was told last
	busy      bool      // deliver runs
	closed    bool
	quit      chan struct{}
	work      sync.WaitGroup

	// These are deliver's own: no notifier is started before notBefore, and that
	// none can be started is told once.
	notBefore time.Time
	backoff   time.Duration
	told      bool

	merged, replaced atomic.Uint64
}

func newNotifier(f *FS) *notifier {
	return &notifier{
		fs: f, dirty: map[*runtime.Box]*marks{}, graves: map[string]*grave{}, farewells: map[string]*fs.Inode{},
		closed: true, quit: make(chan struct{}),
	}
}

// NotifyBy says how the notifier is started. Without it watchers see only what
// clients do. It comes before Serve.
func (f *FS) NotifyBy(spawn inotify.Spawn) { f.notifier.spawn = spawn }

// prepare starts the first notifier of a mount, before there is one. If it can't,
// deliver tries again.
func (n *notifier) prepare(mount string) {
	if n.spawn == nil {
		return
	}
	n.mount = mount
	if err := n.start(); err != nil {
		n.complain(err)
	}
}

// begin begins to tell of changes in what was mounted on that device.
func (n *notifier) begin(device string) {
	if n.spawn == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.device = device
	n.closed = false
	n.wake()
}

// close ends the notifier. It must come before the unmount.
func (n *notifier) close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	close(n.quit)
	n.work.Wait()
	if p := n.process.Load(); p != nil {
		p.Stop()
	}
}

// mark makes files of a box dirty, or the daemon's own if b is nil.
func (n *notifier) mark(b *runtime.Box, fields runtime.Field) {
	if fields == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	m := n.marksOf(b)
	if m.fields&fields != 0 {
		n.merged.Add(1)
	}
	m.fields |= fields
	n.wake()
}

// markPaths makes files of a box's execs dirty.
func (n *notifier) markPaths(b *runtime.Box, paths []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || len(paths) == 0 {
		return
	}
	m := n.marksOf(b)
	for _, p := range paths {
		if slices.Contains(m.paths, p) {
			n.merged.Add(1)
		} else {
			m.paths = append(m.paths, p)
		}
	}
	if more := len(m.paths) - pathsMax; more > 0 && n.late.Load() {
		m.paths = slices.Delete(m.paths, 0, more) // of execs that ended long ago
	}
	n.wake()
}

// marksOf returns the marks of a box. mu is held.
func (n *notifier) marksOf(b *runtime.Box) *marks {
	m := n.dirty[b]
	if m == nil {
		m = &marks{box: b, since: time.Now()}
		n.dirty[b] = m
		n.order = append(n.order, m)
	}
	return m
}

// markRoot makes the daemon's own files dirty that the kernel has.
func (n *notifier) markRoot(events, lastError *fs.Inode) {
	var fields runtime.Field
	if events != nil {
		fields |= rootEvents
	}
	if lastError != nil {
		_, at := n.fs.rt.LastError()
		n.mu.Lock()
		if !at.Equal(n.refusedAt) {
			n.refusedAt = at
			fields |= rootLastError
		}
		n.mu.Unlock()
	}
	n.mark(nil, fields)
}

// wake sees to it that something delivers. mu is held.
func (n *notifier) wake() {
	if n.busy || n.closed {
		return
	}
	n.busy = true
	n.work.Go(n.deliver)
}

// batch is what the notifier is asked for at once.
type batch struct {
	requests []inotify.Request
	marks    []marks // with the fields that were taken
	graves   []*grave
	ghosts   []string
}

// batchMax is how many requests fill a batch. A pair of them may exceed it by one.
const batchMax = inotify.MaxRequests - 1

func (b *batch) ask(op inotify.Op, path string) {
	b.requests = append(b.requests, inotify.Request{Op: op, Path: path})
}

func (b *batch) full() bool { return len(b.requests) >= batchMax }

// deliver hands over what is dirty until nothing is.
func (n *notifier) deliver() {
	if n.ready(nil) == nil {
		return
	}
	settled := false
	for {
		b, more := n.take(settled)
		switch {
		case !more:
			return
		case len(b.requests) > 0:
			if !n.handOver(b) {
				return
			}
			// What is left of a full batch has waited long enough.
			settled = settled && b.full()
		case settled:
			settled = false // it was nothing after all
		case n.pause(settleTime):
			settled = true
		default:
			return
		}
	}
}

// take makes the next batch. Without settled that is only what somebody waits for.
// It reports false, and deliver has to end, if there is nothing at all.
func (n *notifier) take(settled bool) (*batch, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.bury)+len(n.order)+len(n.ghosts) == 0 {
		n.busy = false
		return nil, false
	}
	b := &batch{}
	for len(n.bury) > 0 && !b.full() {
		g := n.bury[0]
		n.bury = n.bury[1:]
		b.graves = append(b.graves, g)
		b.ask(inotify.Rmdir, "boxes/"+g.box.Name())
	}
	if !settled {
		return b, true
	}
	for len(n.ghosts) > 0 && !b.full() {
		c := n.ghosts[0]
		n.ghosts = n.ghosts[1:]
		if gone(c) {
			continue // as most often
		}
		name := strconv.FormatUint(c.StableAttr().Ino, 10)
		n.farewells[name] = c
		b.ghosts = append(b.ghosts, name)
		b.ask(inotify.Touch, ghostsName+"/"+name)
		b.ask(inotify.Unlink, ghostsName+"/"+name)
	}
	// A share is kept for the others: the urgent may never end.
	n.takeMarks(b, urgent, batchMax*3/4)
	n.takeMarks(b, ^runtime.Field(0), batchMax)
	for _, m := range n.order {
		for len(m.paths) > 0 && !b.full() {
			b.ask(inotify.Touch, m.paths[0])
			m.paths = m.paths[1:]
		}
	}
	left := n.order[:0]
	for _, m := range n.order {
		if m.fields != 0 || len(m.paths) > 0 {
			left = append(left, m)
		} else {
			delete(n.dirty, m.box)
		}
	}
	clear(n.order[len(left):])
	n.order = left
	return b, true
}

// takeMarks puts those of the fields that are dirty into a batch that is not fuller
// than limit. mu is held.
func (n *notifier) takeMarks(b *batch, fields runtime.Field, limit int) {
	for _, m := range n.order {
		taken := marks{box: m.box, since: m.since}
		for left := m.fields & fields; left != 0 && len(b.requests) < limit; left &= left - 1 {
			f := left & -left
			b.ask(inotify.Touch, m.path(f))
			taken.fields |= f
		}
		if taken.fields != 0 {
			m.fields &^= taken.fields
			b.marks = append(b.marks, taken)
		}
		if len(b.requests) >= limit {
			return
		}
	}
}

// handOver has a batch carried out, by one notifier or the next. It reports false
// if there will be none.
func (n *notifier) handOver(b *batch) bool {
	for {
		p := n.ready(b)
		if p == nil {
			return false
		}
		err := p.Do(n.device, b.requests, n.quit)
		if err == nil {
			break
		}
		if errors.Is(err, os.ErrClosed) {
			return false
		}
		n.late.Store(true)
		n.fs.log.WithField("op", "notify").WithError(err).Warn("the notifier is replaced")
		p.Kill(n.quit)
	}
	n.late.Store(false)
	n.backoff, n.told = 0, false
	n.giveBack()
	now := time.Now()
	for _, m := range b.marks {
		for left := m.fields; left != 0; left &= left - 1 {
			n.fs.metrics.notified(now.Sub(m.since))
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, g := range b.graves {
		close(g.told)
		if n.graves[g.box.Name()] == g {
			delete(n.graves, g.box.Name())
		}
	}
	for _, name := range b.ghosts {
		delete(n.farewells, name)
	}
	return true
}

// borrowed is a name in a box's directory.
type borrowed struct {
	dir  *fs.Inode
	name string
}

// borrow notes that the kernel gets to know a file only because the notifier touches
// it. That would be 5 KiB a box if it kept them all.
func (n *notifier) borrow(dir *fs.Inode, name string) {
	if dir.GetChild(name) != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.borrowed = append(n.borrowed, borrowed{dir, name})
}

// giveBack makes the kernel forget what was borrowed, but for the newest. What
// somebody uses or watches meanwhile stays, and is looked up again.
func (n *notifier) giveBack() {
	n.mu.Lock()
	more := max(len(n.borrowed)-borrowMax, 0)
	back := slices.Clone(n.borrowed[:more])
	n.borrowed = slices.Delete(n.borrowed, 0, more)
	n.mu.Unlock()
	for _, f := range back {
		_ = f.dir.NotifyEntry(f.name) // ENOENT: it has forgotten it already
	}
}

// ready returns a notifier that works, and starts one if need be, as often as it
// takes while there is something for it to do. It returns nil if deliver has to end.
func (n *notifier) ready(b *batch) *inotify.Process {
	for {
		p := n.process.Load()
		if p != nil && p.Ended() {
			n.replaced.Add(1)
			p = nil
		}
		var err error
		if p == nil {
			if !n.pause(time.Until(n.notBefore)) {
				return nil
			}
			err = n.start()
			p = n.process.Load()
		}
		if err == nil {
			if err = p.AwaitReady(n.quit); err == nil {
				return p
			}
			p.Kill(n.quit)
		}
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		n.complain(err)
		if b == nil && n.rest() {
			return nil
		}
	}
}

// start starts a notifier, and sets the time before which there is to be no next.
func (n *notifier) start() error {
	n.backoff = min(max(2*n.backoff, backoffFirst), backoffLast)
	n.notBefore = time.Now().Add(n.backoff)
	p, err := inotify.Start(n.spawn, n.mount)
	if err == nil {
		n.process.Store(p)
	}
	return err
}

// complain says, once, that there is no notifier.
func (n *notifier) complain(err error) {
	n.late.Store(true)
	if n.told {
		return
	}
	n.told = true
	n.fs.log.WithField("op", "notify").WithError(err).Warn("no notifier: watchers are not told of changes")
}

// rest ends deliver if nothing is dirty.
func (n *notifier) rest() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.busy = len(n.bury)+len(n.order)+len(n.ghosts) > 0
	return !n.busy
}

// pause waits, and reports false if the notifier is closed meanwhile.
func (n *notifier) pause(d time.Duration) bool {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-n.quit:
		return false
	}
}
