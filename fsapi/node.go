package fsapi

import (
	"context"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// attr is what a file or directory shows.
type attr struct {
	mode    uint32 // permission bits
	uid     uint32
	gid     uint32
	size    int64
	nlink   uint32
	mtime   time.Time
	timeout time.Duration // for how long the kernel may keep this
}

func (a attr) fill(out *fuse.Attr, ino uint64, kind uint32) {
	out.Ino = ino
	out.Mode = kind | a.mode
	out.Uid, out.Gid = a.uid, a.gid
	out.Size = uint64(a.size)
	out.Nlink = a.nlink
	out.Blksize = 4096
	out.SetTimes(&a.mtime, &a.mtime, &a.mtime)
}

// stater is a file or directory of the tree.
type stater interface {
	fs.InodeEmbedder
	// stat tells what it shows now, or with which errno it can't: ENODEV once its subject is
	// removed.
	stat() (attr, syscall.Errno)
}

// place is where a file or directory is.
type place struct {
	fs   *FS
	of   subject
	name string // below its subject's directory, as in wait/log; "" for that directory
	mode uint32 // permission bits by default
}

// own adds the mode and the owner to what a file in this place shows.
func (p place) own(a attr) (attr, syscall.Errno) {
	a.mode, a.nlink = p.mode, max(a.nlink, 1)
	return p.of.own(p.name, a)
}

// node is what each file and directory of the tree embeds, but those in a box's root/.
type node struct {
	fs.Inode
	place
}

var (
	_ fs.NodeGetattrer = (*node)(nil)
	_ fs.NodeSetattrer = (*node)(nil)
)

// Getattr shows what stat tells.
func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	s, ok := n.Operations().(stater)
	if !ok {
		return syscall.EIO
	}
	return getattr(s, out)
}

// Setattr gives the file away if its subject can be given away, and accepts new times,
// which mean nothing. A new size is refused.
func (n *node) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	s, ok := n.Operations().(stater)
	if !ok {
		return syscall.EIO
	}
	if in.Valid&fuse.FATTR_SIZE != 0 {
		return syscall.EPERM
	}
	return n.of.setattr(n.name, s, in, out)
}

func getattr(s stater, out *fuse.AttrOut) syscall.Errno {
	a, errno := s.stat()
	if errno != 0 {
		return errno
	}
	ino := s.EmbeddedInode()
	a.fill(&out.Attr, ino.StableAttr().Ino, ino.Mode())
	out.SetTimeout(a.timeout)
	return 0
}

// answerSetattr shows a file after a Setattr. The attributes are not cached from
// that: kernels before 6.15 or so do not see that a change has overtaken them.
func answerSetattr(s stater, out *fuse.AttrOut) syscall.Errno {
	errno := getattr(s, out)
	out.SetTimeout(0)
	return errno
}

// drop makes the kernel forget the file if the box that it is in is removed. It is called when
// an open file is released. By itself the kernel keeps a file that was open at the removal
// until it is short of memory, and with the file all that is known here of the box.
func (n *node) drop() { n.fs.drop(n.of.inBox(), n.EmbeddedInode()) }

// enter answers a lookup of child. Its attributes are not cached from that: they
// may change before the kernel knows the inode, and a change could not be
// announced. From the first Getattr on they are.
func enter(ctx context.Context, parent *fs.Inode, child stater, ino uint64, kind uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	a, errno := child.stat()
	if errno != 0 {
		return nil, errno
	}
	a.fill(&out.Attr, ino, kind)
	out.SetEntryTimeout(cacheTime)
	if _, ok := child.(*boxDir); ok {
		// But a box's directory changes only by chown, which goes through the
		// kernel, and `ls -l boxes` looks up a thousand of them.
		out.SetAttrTimeout(a.timeout)
	}
	return parent.NewInode(ctx, child, fs.StableAttr{Mode: kind, Ino: ino}), 0
}

// dir is a directory of the tree. What is not offered is refused, never silently
// accepted: go-fuse's own Unlink and Rmdir succeed.
type dir struct{ node }

// Fsync succeeds on every directory: what was made or removed is on the disk as far as it
// will be.
func (*dir) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno { return 0 }

func (*dir) Mkdir(context.Context, string, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}
func (*dir) Rmdir(context.Context, string) syscall.Errno  { return syscall.EPERM }
func (*dir) Unlink(context.Context, string) syscall.Errno { return syscall.EPERM }
func (*dir) Rename(context.Context, string, fs.InodeEmbedder, string, uint32) syscall.Errno {
	// EINVAL would make mv print nonsense about moving into itself.
	return syscall.EPERM
}
func (*dir) Create(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EPERM
}
func (*dir) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}
func (*dir) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}
func (*dir) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}
func (*dir) Tmpfile(context.Context, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EOPNOTSUPP
}

// entry is one name in a directory whose names are fixed.
type entry struct {
	name string
	ino  uint64
	kind uint32
	make func() stater
}

func list(entries []entry) fs.DirStream {
	out := make([]fuse.DirEntry, 0, len(entries))
	for _, e := range entries {
		out = append(out, fuse.DirEntry{Name: e.name, Ino: e.ino, Mode: e.kind})
	}
	return fs.NewListDirStream(out)
}

func find(ctx context.Context, parent *fs.Inode, entries []entry, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	for _, e := range entries {
		if e.name == name {
			return enter(ctx, parent, e.make(), e.ino, e.kind, out)
		}
	}
	return nil, syscall.ENOENT
}

// fixedDir is a directory of fixed names: one of the wait directories.
type fixedDir struct {
	dir
	mtime   time.Time
	entries []entry
}

var (
	_ stater           = (*fixedDir)(nil)
	_ fs.NodeLookuper  = (*fixedDir)(nil)
	_ fs.NodeReaddirer = (*fixedDir)(nil)
)

func (d *fixedDir) stat() (attr, syscall.Errno) {
	return d.own(attr{nlink: 2, mtime: d.mtime, timeout: cacheTime})
}

// Lookup finds a fixed name.
func (d *fixedDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return find(ctx, d.EmbeddedInode(), d.entries, name, out)
}

// Readdir lists the fixed names.
func (d *fixedDir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return list(d.entries), 0
}
