package fsapi

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/boxlitefs/boxlite/fsapi/inotify"
	"github.com/boxlitefs/boxlite/runtime"
)

const (
	// settleTime is how long marks are merged before a batch. A start is over by
	// then, and a short run: they take one batch, and the processor only afterwards.
	settleTime = 4 * time.Millisecond
	// dentriesMax is how many names the kernel keeps for the notifier alone. They are those
	// of the boxes that change most; to touch such a file takes one request only.
	dentriesMax = 64
	// A notifier that can't be started is tried again after a time that doubles.
	backoffFirst = 50 * time.Millisecond
	backoffLast  = time.Minute
)

// batch is what the notifier is given at once.
type batch struct {
	requests  []inotify.Request
	marks     []marks // with the fields that were taken
	deletions []*deletion
	orphans   []string // their names among the unlinking
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

// take makes the next batch. Until the marks have settled it has the deletions alone, since
// somebody waits for those. It reports false, and deliver has to end, if there is nothing at
// all.
func (n *notifier) take(settled bool) (*batch, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.queued)+len(n.order)+len(n.orphans) == 0 {
		n.busy = false
		return nil, false
	}
	b := &batch{}
	for len(n.queued) > 0 && !b.full() {
		d := n.queued[0]
		n.queued = n.queued[1:]
		b.deletions = append(b.deletions, d)
		b.ask(inotify.Rmdir, "boxes/"+d.box.Name())
	}
	if !settled {
		return b, true
	}
	for len(n.orphans) > 0 && !b.full() {
		c := n.orphans[0]
		n.orphans = n.orphans[1:]
		if forgotten(c) {
			continue // as most often
		}
		name := strconv.FormatUint(c.StableAttr().Ino, 10)
		n.unlinking[name] = c
		b.orphans = append(b.orphans, name)
		b.ask(inotify.Touch, orphansName+"/"+name)
		b.ask(inotify.Unlink, orphansName+"/"+name)
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

// takeMarks puts those of the fields that are dirty into a batch, up to limit requests. mu is
// held.
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
		n.unavailable.Store(true)
		n.fs.log.WithField("op", "notify").WithError(err).Warn("the notifier is replaced")
		p.Kill(n.quit)
	}
	n.unavailable.Store(false)
	n.backoff, n.complained = 0, false
	n.evict()
	now := time.Now()
	for _, m := range b.marks {
		for left := m.fields; left != 0; left &= left - 1 {
			n.fs.metrics.notified(now.Sub(m.since))
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range b.deletions {
		n.finish(d)
	}
	for _, name := range b.orphans {
		delete(n.unlinking, name)
	}
	return true
}

// dentry is a name in a box's directory that the kernel has looked up.
type dentry struct {
	dir  *fs.Inode
	name string
}

// noteDentry notes that the kernel looks a name up only because the notifier touches the
// file. It would take 5 KiB a box if it kept them all.
func (n *notifier) noteDentry(dir *fs.Inode, name string) {
	if dir.GetChild(name) != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dentries = append(n.dentries, dentry{dir, name})
}

// evict makes the kernel forget all but the newest of these names. A file that somebody uses
// or watches meanwhile stays, and its name is looked up again.
func (n *notifier) evict() {
	n.mu.Lock()
	more := max(len(n.dentries)-dentriesMax, 0)
	back := slices.Clone(n.dentries[:more])
	n.dentries = slices.Delete(n.dentries, 0, more)
	n.mu.Unlock()
	for _, f := range back {
		_ = f.dir.NotifyEntry(f.name) // ENOENT: it has forgotten it already
	}
}

// ready returns a notifier that works. It starts one if need be, as often as it takes while
// there is something to do. It returns nil if deliver has to end.
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

// start starts a notifier, and sets the time before which the next may not be started.
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
	n.unavailable.Store(true)
	if n.complained {
		return
	}
	n.complained = true
	n.fs.log.WithField("op", "notify").WithError(err).Warn("no notifier: watchers are not told of changes")
}

// rest ends deliver if nothing is dirty.
func (n *notifier) rest() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.busy = len(n.queued)+len(n.order)+len(n.orphans) > 0
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
