package fsapi

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/rootfs"
)

// rootName is the directory of a box that leads to its files.
const rootName = "root"

// The kernel caches attributes for the time of one call, and the name of a directory for some
// more. It costs little if these are outdated: each operation walks the path anew, and where
// it finds something else the answer is ESTALE. The kernel then looks the names of the path
// up and tries again.
//
// The name of a file is not cached at all, nor is that there is none: the kernel answers
// ENOTDIR for a path through a file without a lookup. It also answers EISDIR for a write to a
// directory without one, so that the name of a directory is not cached for long.
const (
	rootAttrTime = 2 * time.Millisecond
	rootNameTime = 10 * time.Millisecond
)

// rootTree is what is shown of the files of one run of a box.
type rootTree struct {
	fs   *FS
	box  *runtime.Box
	root *rootfs.Root
	top  *rootNode
	mu   sync.Mutex // orders lookups of the same name; only go-fuse's locks of inodes are taken under it
}

// rootNode is a file of a box, as it was found at a path. Each path has a node of its own,
// since the kernel allows a directory one path only. As long as number and type at the path
// stay the same it is the same node. A generation distinguishes it from all others.
type rootNode struct {
	fs.Inode
	tree *rootTree
}

var (
	_ fs.NodeLookuper       = (*rootNode)(nil)
	_ fs.NodeGetattrer      = (*rootNode)(nil)
	_ fs.NodeSetattrer      = (*rootNode)(nil)
	_ fs.NodeOpendirHandler = (*rootNode)(nil)
	_ fs.NodeReadlinker     = (*rootNode)(nil)
	_ fs.NodeOpener         = (*rootNode)(nil)
	_ fs.NodeCreater        = (*rootNode)(nil)
	_ fs.NodeMkdirer        = (*rootNode)(nil)
	_ fs.NodeMknoder        = (*rootNode)(nil)
	_ fs.NodeSymlinker      = (*rootNode)(nil)
	_ fs.NodeLinker         = (*rootNode)(nil)
	_ fs.NodeUnlinker       = (*rootNode)(nil)
	_ fs.NodeRmdirer        = (*rootNode)(nil)
	_ fs.NodeRenamer        = (*rootNode)(nil)
	_ fs.NodeStatfser       = (*rootNode)(nil)
	_ fs.NodeTmpfiler       = (*rootNode)(nil)
)

// stale gives the errno of an operation on a file that had been found at a path. After the
// run has ended that is ESTALE, so that the kernel looks for the files of the next run.
func stale(err error) syscall.Errno {
	if errors.Is(err, rootfs.ErrEnded) {
		return syscall.ESTALE
	}
	return rootErrno(err)
}

// rootErrno gives the errno of the box's file system if the error has one, else that of the
// core's error.
func rootErrno(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return toErrno(err)
}

// lookupRoot finds the box's files, if it runs.
func (d *boxDir) lookupRoot(ctx context.Context, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	root, err := d.box.OpenRoot()
	if err != nil {
		return nil, rootErrno(err)
	}
	if c := d.GetChild(rootName); c != nil {
		if n, ok := c.Operations().(*rootNode); ok && n.tree.root == root {
			n.enter(out)
			return c, 0
		}
	}
	t := &rootTree{fs: d.fs, box: d.box, root: root}
	t.top = &rootNode{tree: t}
	i := d.NewInode(ctx, t.top, t.id(t.topInfo()))
	t.top.enter(out)
	return i, 0
}

func (t *rootTree) id(info rootfs.Info) fs.StableAttr {
	return fs.StableAttr{Mode: info.Mode & syscall.S_IFMT, Ino: info.Ino, Gen: t.fs.rootGen.Add(1)}
}

// maxDepth is how many names lead to a file at most, those of links (toRoot, toParent)
// included. The longest path that the kernel takes in one piece has so many if each name has
// three letters. There is a bound because each call walks all of them anew, and a box makes a
// hundred thousand levels in a second.
const maxDepth = unix.PathMax / 4

// path gives the node's path in the box.
func (n *rootNode) path() (string, syscall.Errno) {
	var names []string
	for i := n.EmbeddedInode(); i != n.tree.top.EmbeddedInode(); {
		name, parent := i.Parent()
		if parent == nil {
			return "", syscall.ESTALE // another has its place
		}
		if len(names) == maxDepth {
			return "", syscall.ENAMETOOLONG
		}
		names = append(names, name)
		i = parent
	}
	slices.Reverse(names)
	path := names[:0] // what is written is not before what is read
	for _, name := range names {
		switch name {
		case toRoot:
			path = path[:0]
		case toParent:
			path = path[:max(len(path)-1, 0)]
		default:
			path = append(path, name)
		}
	}
	return strings.Join(path, "/"), 0
}

// child gives the path of a name in the directory.
func (n *rootNode) child(name string) (string, syscall.Errno) {
	dir, errno := n.path()
	if errno == 0 && strings.Count(dir, "/") >= maxDepth-1 {
		errno = syscall.ENAMETOOLONG
	}
	return below(dir, name), errno
}

// new gives the path of a name that is to be made or removed.
func (n *rootNode) new(name string) (string, syscall.Errno) {
	if name == toRoot || name == toParent {
		return "", syscall.EPERM
	}
	return n.child(name)
}

// nodeOf returns the node of what was found at a name.
func (n *rootNode) nodeOf(ctx context.Context, name string, info rootfs.Info, out *fuse.EntryOut) *fs.Inode {
	t := n.tree
	t.mu.Lock()
	defer t.mu.Unlock()
	c := n.GetChild(name)
	known := false
	if c != nil {
		k, ok := c.Operations().(*rootNode)
		known = ok && k.is(info)
	}
	if !known {
		c = n.NewInode(ctx, &rootNode{tree: t}, t.id(info))
		n.AddChild(name, c, true)
	}
	fillRoot(info, &out.Attr)
	out.SetEntryTimeout(0)
	if c.IsDir() {
		out.SetEntryTimeout(rootNameTime)
	}
	out.SetAttrTimeout(rootAttrTime)
	return c
}

// topInfo is what root/ itself shows. Its mode keeps all users but root out. It does not
// ask the box's file system: a client that lists a thousand boxes looks these up too.
func (t *rootTree) topInfo() rootfs.Info {
	at := unix.StatxTimestamp{Sec: t.box.Snapshot().Started.Unix()}
	return rootfs.Info{
		Mode: syscall.S_IFDIR | 0o700, Nlink: 2, Blksize: 4096, Ino: boxIno(t.box, boxInoRoot),
		Atime: at, Mtime: at, Ctime: at,
	}
}

func (n *rootNode) enter(out *fuse.EntryOut) {
	fillRoot(n.tree.topInfo(), &out.Attr)
	out.SetEntryTimeout(rootNameTime)
	out.SetAttrTimeout(rootAttrTime)
}

func fillRoot(info rootfs.Info, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: info.Ino, Size: info.Size, Blocks: info.Blocks, Mode: info.Mode, Nlink: info.Nlink,
		Owner: fuse.Owner{Uid: info.UID, Gid: info.GID}, Blksize: info.Blksize,
		// No device number: a copy on the host is no device of the host.
		Atime: uint64(info.Atime.Sec), Atimensec: info.Atime.Nsec,
		Mtime: uint64(info.Mtime.Sec), Mtimensec: info.Mtime.Nsec,
		Ctime: uint64(info.Ctime.Sec), Ctimensec: info.Ctime.Nsec,
	}
}

// Lookup finds a name.
func (n *rootNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	path, errno := n.child(name)
	if errno != 0 {
		return nil, errno
	}
	info, err := n.tree.root.Lstat(ctx, path)
	if err != nil {
		return nil, stale(err)
	}
	return n.nodeOf(ctx, name, info, out), 0
}

// is reports whether the node stands for what was found.
func (n *rootNode) is(info rootfs.Info) bool {
	id := n.StableAttr()
	return id.Ino == info.Ino && id.Mode == info.Mode&syscall.S_IFMT
}

// stat returns what is at the node's path now, or ESTALE if that is another file.
func (n *rootNode) stat(ctx context.Context, f fs.FileHandle) (info rootfs.Info, errno syscall.Errno) {
	if h, ok := f.(*rootHandle); ok {
		info, err := h.file.Lstat(ctx)
		return info, rootErrno(err)
	}
	if n == n.tree.top {
		return n.tree.topInfo(), 0
	}
	path, errno := n.path()
	if errno != 0 {
		return info, errno
	}
	info, err := n.tree.root.Lstat(ctx, path)
	if err != nil {
		return info, stale(err)
	}
	if !n.is(info) {
		return info, syscall.ESTALE
	}
	return info, 0
}

// Getattr shows the file as it is.
func (n *rootNode) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	info, errno := n.stat(ctx, f)
	if errno != 0 {
		return errno
	}
	fillRoot(info, &out.Attr)
	out.SetTimeout(rootAttrTime)
	return 0
}

// Setattr changes the file. That of root/ is the box's "/", whatever root/ shows.
func (n *rootNode) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	var c rootfs.Change
	if uid, ok := in.GetUID(); ok {
		c.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		c.GID = &gid
	}
	if mode, ok := in.GetMode(); ok {
		c.Mode = &mode
	}
	if size, ok := in.GetSize(); ok {
		n := int64(size)
		c.Size = &n
	}
	c.Atime = setTime(in, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec)
	c.Mtime = setTime(in, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec)
	h, open := f.(*rootHandle)
	if open && c.Size != nil {
		if err := h.file.Truncate(ctx, *c.Size); err != nil {
			return rootErrno(err)
		}
		c.Size = nil
	}
	if c != (rootfs.Change{}) {
		path, errno := n.path()
		if errno != 0 {
			return errno
		}
		if err := n.tree.root.Change(ctx, path, c); err != nil {
			return stale(err)
		}
	}
	info, errno := n.stat(ctx, f)
	fillRoot(info, &out.Attr)
	return errno
}

func setTime(in *fuse.SetAttrIn, set, now uint32, sec uint64, nsec uint32) *unix.Timespec {
	switch {
	case in.Valid&set == 0:
		return nil
	case in.Valid&now != 0:
		return &unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return &unix.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}

// Readlink gives a text that can't lead out: see showLink.
func (n *rootNode) Readlink(ctx context.Context) ([]byte, syscall.Errno) {
	path, errno := n.path()
	if errno != 0 {
		return nil, errno
	}
	text, err := n.tree.root.Readlink(ctx, path)
	if err != nil {
		return nil, stale(err)
	}
	shown, errno := showLink(text)
	return []byte(shown), errno
}

// callerIDs returns the ids of the client that made a request.
func callerIDs(ctx context.Context) (uid, gid uint32) {
	if c, ok := fuse.FromContext(ctx); ok {
		return c.Uid, c.Gid
	}
	return 0, 0
}

// Create makes a regular file and opens it.
func (n *rootNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	path, errno := n.new(name)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	uid, gid := callerIDs(ctx)
	f, info, err := n.tree.root.Create(ctx, path, int(flags), mode, uid, gid)
	if err != nil {
		return nil, nil, 0, rootErrno(err)
	}
	i := n.nodeOf(ctx, name, info, out)
	c, ok := i.Operations().(*rootNode)
	if !ok {
		f.Close()
		return nil, nil, 0, syscall.EIO
	}
	return i, &rootHandle{node: c, file: f}, readFlags, 0
}

// Mkdir makes a directory.
func (n *rootNode) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	path, errno := n.new(name)
	if errno != 0 {
		return nil, errno
	}
	uid, gid := callerIDs(ctx)
	info, err := n.tree.root.Mkdir(ctx, path, mode, uid, gid)
	if err == nil && info.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		err = syscall.ESTALE
	}
	if err != nil {
		return nil, rootErrno(err)
	}
	return n.nodeOf(ctx, name, info, out), 0
}

// Mknod is refused: what could be made is not shown as it is, see rootfs.Info.
func (n *rootNode) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Tmpfile is refused; programs do without it.
func (n *rootNode) Tmpfile(context.Context, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	return nil, nil, 0, syscall.EOPNOTSUPP
}

// Symlink makes a symbolic link with the text that target stands for.
func (n *rootNode) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	path, errno := n.new(name)
	if errno != 0 {
		return nil, errno
	}
	uid, gid := callerIDs(ctx)
	info, err := n.tree.root.Symlink(ctx, readLink(target), path, uid, gid)
	if err == nil && info.Mode&syscall.S_IFMT != syscall.S_IFLNK {
		err = syscall.ESTALE
	}
	if err != nil {
		return nil, rootErrno(err)
	}
	return n.nodeOf(ctx, name, info, out), 0
}

// Link gives a file one more name.
func (n *rootNode) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	old, ok := target.(*rootNode)
	if !ok || old.tree != n.tree {
		return nil, syscall.EXDEV
	}
	from, errno := old.path()
	if errno != 0 {
		return nil, errno
	}
	path, errno := n.new(name)
	if errno != 0 {
		return nil, errno
	}
	info, err := n.tree.root.Link(ctx, from, path)
	if err == nil && info.Mode&syscall.S_IFMT != old.Mode() {
		err = syscall.ESTALE
	}
	if err != nil {
		return nil, rootErrno(err)
	}
	return n.nodeOf(ctx, name, info, out), 0
}

// Unlink removes a name.
func (n *rootNode) Unlink(ctx context.Context, name string) syscall.Errno {
	return n.remove(ctx, name, false)
}

// Rmdir removes an empty directory.
func (n *rootNode) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.remove(ctx, name, true)
}

func (n *rootNode) remove(ctx context.Context, name string, dir bool) syscall.Errno {
	path, errno := n.new(name)
	if errno != 0 {
		return errno
	}
	return rootErrno(n.tree.root.Remove(ctx, path, dir))
}

// Rename moves a name within the box.
func (n *rootNode) Rename(ctx context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	to, ok := newParent.(*rootNode)
	if !ok || to.tree != n.tree {
		return syscall.EXDEV
	}
	old, errno := n.new(name)
	if errno != 0 {
		return errno
	}
	path, errno := to.new(newName)
	if errno != 0 {
		return errno
	}
	return rootErrno(n.tree.root.Rename(ctx, old, path, uint(flags)))
}

// Statfs tells about the file system that the file is on.
func (n *rootNode) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	path, errno := n.path()
	if errno != 0 {
		return errno
	}
	st, err := n.tree.root.Statfs(ctx, path)
	if err != nil {
		return rootErrno(err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), NameLen: uint32(st.Namelen), Frsize: uint32(st.Frsize),
	}
	return 0
}
