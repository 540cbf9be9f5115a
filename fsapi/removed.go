package fsapi

import (
	"context"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// What watchers see of the removal of a box.
//
// The kernel makes DELETE in boxes/ of an rmdir and of nothing else. A box that removes
// itself is removed by no rmdir. So its deletion is pending until the notifier has made one:
// the notifier finds a directory of its name, and everybody else finds nothing.
//
// A watcher of a file in the box would never hear of the file's last state, nor of its end.
// The inode that it watches is an orphan: it is in no directory any more. So the notifier,
// and nobody else, finds the orphan by its number in a directory that is there for nothing
// else. It touches the orphan and unlinks it: MODIFY and DELETE_SELF.

// deletion is a box that has removed itself, of which watchers are still to be told.
type deletion struct {
	box  *runtime.Box
	told chan struct{} // closed when they were
}

// orphansName is the directory of orphans at the root.
const orphansName = ".orphans"

// deletionBound is how long a box that removes itself waits until watchers are told.
const deletionBound = 100 * time.Millisecond

// How many deletions and orphans are kept while there is no notifier. Each may keep all
// that is known of its box.
const (
	deletionsMax = 256
	orphansMax   = 256
)

// removed tells watchers of a removal. d is the box's directory, nil if the kernel
// does not have it. The deletion of a box that removed itself should be told before its
// name may be taken again. So that is waited for, but not long: a deletion can be told at
// any later time as well, unless another box has the name by then.
func (n *notifier) removed(b *runtime.Box, d *fs.Inode, asked bool) {
	var files []*fs.Inode
	if d != nil {
		for _, file := range boxFiles {
			if c := d.GetChild(file.name); c != nil {
				files = append(files, c)
			}
		}
	}
	pending := n.noteRemoved(b, files, asked)
	if pending == nil || n.unavailable.Load() {
		return
	}
	timer := time.NewTimer(deletionBound)
	defer timer.Stop()
	select {
	case <-pending.told:
	case <-n.quit:
	case <-timer.C:
		n.unavailable.Store(true)
	}
}

// noteRemoved notes what is to be told of a removed box. It returns the deletion that is
// pending now; nil after a removal that a client asked for, which the kernel has told.
func (n *notifier) noteRemoved(b *runtime.Box, files []*fs.Inode, asked bool) *deletion {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	if m := n.dirty[b]; m != nil { // no path leads there any more
		delete(n.dirty, b)
		n.order = slices.DeleteFunc(n.order, func(o *marks) bool { return o == m })
	}
	n.orphans = append(n.orphans, files...)
	var d *deletion
	if !asked {
		d = &deletion{box: b, told: make(chan struct{})}
		n.deletions[b.Name()] = d
		n.queued = append(n.queued, d)
	}
	if n.unavailable.Load() {
		n.dropOldest()
	}
	n.wake()
	return d
}

// finish ends a deletion: it is told, or is not going to be. mu is held.
func (n *notifier) finish(d *deletion) {
	close(d.told)
	if n.deletions[d.box.Name()] == d {
		delete(n.deletions, d.box.Name())
	}
}

// dropOldest gives up the oldest deletions and orphans if there are too many. mu is held.
func (n *notifier) dropOldest() {
	for ; len(n.queued) > deletionsMax; n.queued = n.queued[1:] {
		n.finish(n.queued[0])
	}
	n.orphans = slices.DeleteFunc(n.orphans, forgotten)
	if more := len(n.orphans) - orphansMax; more > 0 {
		n.orphans = slices.Delete(n.orphans, 0, more)
	}
}

// forgotten reports whether the kernel has an inode no more.
func forgotten(i *fs.Inode) bool {
	_, parent := i.Parent()
	return parent == nil
}

// calls reports whether a request is the notifier's.
func (n *notifier) calls(ctx context.Context) bool {
	p := n.process.Load()
	c, ok := fuse.FromContext(ctx)
	return ok && p != nil && c.Pid != 0 && c.Pid == p.Thread()
}

// deleted returns the box whose deletion is pending under a name that no box has now, if
// it is the notifier that asks.
func (n *notifier) deleted(ctx context.Context, name string) *runtime.Box {
	if !n.calls(ctx) {
		return nil
	}
	if b := n.fs.rt.Box(name); b != nil && !b.Snapshot().Removed {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if d := n.deletions[name]; d != nil {
		return d.box
	}
	return nil
}

// lookupDeleted answers a lookup of a name that no box has.
func (d *boxesDir) lookupDeleted(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	b := d.fs.notifier.deleted(ctx, name)
	if b == nil {
		return nil, syscall.ENOENT
	}
	attr{mode: 0o755, nlink: 2, mtime: b.Snapshot().Created}.fill(&out.Attr, boxIno(b, 0), fuse.S_IFDIR)
	return d.NewInode(ctx, d.fs.boxDir(b), fs.StableAttr{Mode: fuse.S_IFDIR, Ino: boxIno(b, 0)}), 0
}

// rmdirDeleted answers an rmdir by the notifier. Whatever it finds, it removes no box:
// the name may have been taken again. That can't happen while this is answered,
// since the kernel lets nobody else make or remove anything in boxes/ meanwhile.
func (d *boxesDir) rmdirDeleted(ctx context.Context, name string) syscall.Errno {
	if d.fs.notifier.deleted(ctx, name) == nil {
		return syscall.ENOENT
	}
	return 0
}

// orphansDir is the directory of orphans.
type orphansDir struct{ dir }

var (
	_ stater          = (*orphansDir)(nil)
	_ fs.NodeLookuper = (*orphansDir)(nil)
	_ fs.NodeUnlinker = (*orphansDir)(nil)
)

// lookupOrphans finds the directory of orphans, for the notifier.
func (d *topDir) lookupOrphans(ctx context.Context, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if !d.fs.notifier.calls(ctx) {
		return nil, syscall.ENOENT
	}
	o := &orphansDir{dir{node{place: place{fs: d.fs, of: ofDaemon{}, mode: 0o700}}}}
	a, _ := o.stat()
	a.fill(&out.Attr, inoOrphans, fuse.S_IFDIR)
	out.SetAttrTimeout(a.timeout) // else it is asked for again at the next step
	return d.NewInode(ctx, o, fs.StableAttr{Mode: fuse.S_IFDIR, Ino: inoOrphans}), 0
}

func (d *orphansDir) stat() (attr, syscall.Errno) {
	return d.own(attr{nlink: 2, mtime: d.fs.began, timeout: cacheTime})
}

// Lookup finds an orphan by its number.
func (d *orphansDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	c := d.find(ctx, name)
	if c == nil {
		return nil, syscall.ENOENT
	}
	orphanAttr().fill(&out.Attr, c.StableAttr().Ino, c.Mode())
	return c, 0
}

// Unlink succeeds: the orphan was in no directory before.
func (d *orphansDir) Unlink(ctx context.Context, name string) syscall.Errno {
	if d.find(ctx, name) == nil {
		return syscall.ENOENT
	}
	return 0
}

func (d *orphansDir) find(ctx context.Context, name string) *fs.Inode {
	n := d.fs.notifier
	if !n.calls(ctx) {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.unlinking[name]
}

// orphanAttr is what an orphan shows to who touches it. It is not cached.
func orphanAttr() attr { return attr{mode: 0o444, nlink: 1, mtime: time.Now()} }

// touchOrphan answers new times for an orphan, and ENODEV for any other change.
func touchOrphan(s stater, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID|fuse.FATTR_SIZE) != 0 {
		return syscall.ENODEV
	}
	i := s.EmbeddedInode()
	orphanAttr().fill(&out.Attr, i.StableAttr().Ino, i.Mode())
	return 0
}
