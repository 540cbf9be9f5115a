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

// What watchers see of the end of a box.
//
// The kernel makes DELETE in boxes/ of an rmdir and of nothing else. So when a box
// has removed itself, the notifier removes its directory once more: for it alone
// the box has a grave, a directory of that name, while everybody else finds nothing.
//
// A watcher of a file in the box would never hear again, neither of its last state
// nor of its end. The inode that he holds is in no directory any more, so the
// notifier, and nobody else, finds it by number in a directory of ghosts, where it
// is touched and unlinked: MODIFY and DELETE_SELF.

// grave is a box that has removed itself, until the notifier has told so.
type grave struct {
	box  *runtime.Box
	told chan struct{} // closed then
}

// ghostsName is the directory of ghosts at the root.
const ghostsName = ".ghosts"

// buryBound is how long the end of a box that removes itself waits to be told.
const buryBound = 100 * time.Millisecond

// removed tells watchers of a removal. d is the box's directory, nil if the kernel
// does not have it. That of a box that removed itself should be told before its
// name may be taken again, so that is waited for, but not long: a grave is told at
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
	g := n.dig(b, files, asked)
	if g == nil || n.late.Load() {
		return
	}
	timer := time.NewTimer(buryBound)
	defer timer.Stop()
	select {
	case <-g.told:
	case <-n.quit:
	case <-timer.C:
		n.late.Store(true)
	}
}

func (n *notifier) dig(b *runtime.Box, files []*fs.Inode, asked bool) *grave {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	if m := n.dirty[b]; m != nil { // no path leads there any more
		delete(n.dirty, b)
		n.order = slices.DeleteFunc(n.order, func(o *marks) bool { return o == m })
	}
	n.ghosts = append(n.ghosts, files...)
	var g *grave
	if !asked {
		g = &grave{box: b, told: make(chan struct{})}
		n.graves[b.Name()] = g
		n.bury = append(n.bury, g)
	}
	if n.late.Load() {
		n.dropOldest()
	}
	n.wake()
	return g
}

// How many removed boxes, and files of such, are kept to be told of while there is no
// notifier to tell. Each may keep all that is known of its box.
const (
	gravesMax = 256
	ghostsMax = 256
)

// dropOldest gives up telling of the oldest that are removed. mu is held.
func (n *notifier) dropOldest() {
	for ; len(n.bury) > gravesMax; n.bury = n.bury[1:] {
		g := n.bury[0]
		close(g.told)
		if n.graves[g.box.Name()] == g {
			delete(n.graves, g.box.Name())
		}
	}
	n.ghosts = slices.DeleteFunc(n.ghosts, gone)
	if more := len(n.ghosts) - ghostsMax; more > 0 {
		n.ghosts = slices.Delete(n.ghosts, 0, more)
	}
}

// gone reports whether nobody has a file any more that was in a removed box.
func gone(i *fs.Inode) bool {
	_, parent := i.Parent()
	return parent == nil
}

// calls reports whether a request is the notifier's.
func (n *notifier) calls(ctx context.Context) bool {
	p := n.process.Load()
	c, ok := fuse.FromContext(ctx)
	return ok && p != nil && c.Pid != 0 && c.Pid == p.Thread()
}

// grave returns the box that was buried under a name that no box has now, if it is
// the notifier that asks.
func (n *notifier) grave(ctx context.Context, name string) *runtime.Box {
	if !n.calls(ctx) {
		return nil
	}
	if b := n.fs.rt.Box(name); b != nil && !b.Snapshot().Removed {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if g := n.graves[name]; g != nil {
		return g.box
	}
	return nil
}

// lookupGrave answers a lookup of a box that there is not.
func (d *boxesDir) lookupGrave(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	b := d.fs.notifier.grave(ctx, name)
	if b == nil {
		return nil, syscall.ENOENT
	}
	attr{mode: 0o755, nlink: 2, mtime: b.Snapshot().Created}.fill(&out.Attr, boxIno(b, 0), fuse.S_IFDIR)
	return d.NewInode(ctx, &boxDir{dir: dir{fs: d.fs}, box: b}, fs.StableAttr{Mode: fuse.S_IFDIR, Ino: boxIno(b, 0)}), 0
}

// rmdirGrave answers an rmdir by the notifier. Whatever it finds, it removes no box:
// the name may have been taken again. That can't happen while this is answered,
// since the kernel lets nobody else make or remove anything in boxes/ meanwhile.
func (d *boxesDir) rmdirGrave(ctx context.Context, name string) syscall.Errno {
	if d.fs.notifier.grave(ctx, name) == nil {
		return syscall.ENOENT
	}
	return 0
}

// ghostDir is the directory of ghosts.
type ghostDir struct{ dir }

var (
	_ node             = (*ghostDir)(nil)
	_ fs.NodeGetattrer = (*ghostDir)(nil)
	_ fs.NodeLookuper  = (*ghostDir)(nil)
	_ fs.NodeUnlinker  = (*ghostDir)(nil)
)

// lookupGhosts finds the directory of ghosts, for the notifier.
func (d *rootDir) lookupGhosts(ctx context.Context, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if !d.fs.notifier.calls(ctx) {
		return nil, syscall.ENOENT
	}
	g := &ghostDir{dir: dir{fs: d.fs}}
	a, _ := g.stat()
	a.fill(&out.Attr, inoGhosts, fuse.S_IFDIR)
	out.SetAttrTimeout(a.timeout) // else it is asked for again at the next step
	return d.NewInode(ctx, g, fs.StableAttr{Mode: fuse.S_IFDIR, Ino: inoGhosts}), 0
}

func (d *ghostDir) stat() (attr, syscall.Errno) {
	return attr{mode: 0o700, nlink: 2, mtime: d.fs.began, timeout: long}, 0
}

// Getattr shows the directory as it is.
func (d *ghostDir) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(d, out)
}

// Lookup finds an inode by its number.
func (d *ghostDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	c := d.find(ctx, name)
	if c == nil {
		return nil, syscall.ENOENT
	}
	ghost().fill(&out.Attr, c.StableAttr().Ino, c.Mode())
	return c, 0
}

// Unlink tells watchers of an inode that it is gone, which it was already.
func (d *ghostDir) Unlink(ctx context.Context, name string) syscall.Errno {
	if d.find(ctx, name) == nil {
		return syscall.ENOENT
	}
	return 0
}

func (d *ghostDir) find(ctx context.Context, name string) *fs.Inode {
	n := d.fs.notifier
	if !n.calls(ctx) {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.farewells[name]
}

// ghost is what a file of a removed box shows to who touches it, and to nobody else:
// it is not cached.
func ghost() attr { return attr{mode: 0o444, nlink: 1, mtime: time.Now()} }

// touchGhost answers new times for a file of a removed box.
func touchGhost(n node, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID|fuse.FATTR_SIZE) != 0 {
		return syscall.ENODEV
	}
	i := n.EmbeddedInode()
	ghost().fill(&out.Attr, i.StableAttr().Ino, i.Mode())
	return 0
}
