package fsapi

import (
	"context"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// boxesDir is boxes/, where mkdir makes a box and rmdir removes one.
type boxesDir struct {
	dir
	mu      sync.Mutex // guards changed; the runtime's list of boxes is read under it
	changed time.Time  // when a box was last made or removed
}

var (
	_ stater           = (*boxesDir)(nil)
	_ fs.NodeLookuper  = (*boxesDir)(nil)
	_ fs.NodeReaddirer = (*boxesDir)(nil)
	_ fs.NodeMkdirer   = (*boxesDir)(nil)
	_ fs.NodeRmdirer   = (*boxesDir)(nil)
)

func (d *boxesDir) touch() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed = time.Now()
}

func (d *boxesDir) stat() (attr, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.own(attr{nlink: 2 + uint32(d.fs.rt.BoxCount()), mtime: d.changed, timeout: cacheTime})
}

// Lookup finds a box.
func (d *boxesDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	b := d.fs.rt.Box(name)
	if b == nil || b.Snapshot().Removed {
		return d.lookupDeleted(ctx, name, out)
	}
	return d.enter(ctx, b, out)
}

func (d *boxesDir) enter(ctx context.Context, b *runtime.Box, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return enter(ctx, d.EmbeddedInode(), d.fs.boxDir(b), boxIno(b, 0), fuse.S_IFDIR, out)
}

// Readdir lists the boxes by name.
func (d *boxesDir) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	boxes := d.fs.rt.Boxes()
	out := make([]fuse.DirEntry, 0, len(boxes))
	for _, b := range boxes {
		if b.Snapshot().Removed {
			continue
		}
		out = append(out, fuse.DirEntry{Name: b.Name(), Ino: boxIno(b, 0), Mode: fuse.S_IFDIR})
	}
	return d.fs.list(ctx, out)
}

// Mkdir makes a box. The box belongs to root, not to its maker: its configuration decides
// what runs as root.
func (d *boxesDir) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	b, err := d.fs.rt.CreateMode(name, mode&0o777)
	if err != nil {
		d.fs.rt.Refuse(err)
		return nil, toErrno(err)
	}
	d.touch()
	return d.enter(ctx, b, out)
}

// Rmdir removes a box that has no process.
func (d *boxesDir) Rmdir(ctx context.Context, name string) syscall.Errno {
	if d.fs.notifier.calls(ctx) {
		return d.rmdirDeleted(ctx, name)
	}
	b := d.fs.rt.Box(name)
	if b == nil {
		return syscall.ENOENT
	}
	return toErrno(b.Remove())
}
