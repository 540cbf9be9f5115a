package fsapi

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/boxlitefs/boxlite/runtime"
)

// long is how long the kernel may keep names and attributes. They are dropped
// explicitly when they change.
const long = time.Hour

// FS is the control filesystem of one Runtime.
type FS struct {
	rt      *runtime.Runtime
	log     *logrus.Entry
	version string
	began   time.Time
	top     *topDir
	boxes   *boxesDir
	images  *imagesDir
	metrics *metrics
	lane    *lane
	private bool // see KeepPrivate
	budget  *budget
	// closing wakes every waiting reader when the daemon shuts down.
	closing chan struct{}
	// serving says that the kernel can be told of changes; see early.
	serving atomic.Bool
	earlyMu sync.Mutex
	rooted  bool     // under earlyMu: the tree has its root
	missed  []func() // under earlyMu: what is to be told once serving

	notifier *notifier
	end      func(value any, stack []byte) // see OnPanic
	// rootGen tells apart what is shown of the files of boxes, see rootNode.
	rootGen atomic.Uint64
}

// New returns the filesystem, which is not yet mounted. version is what the file
// of that name gives, and reg what the file metrics does, with what the filesystem
// adds of its own. The runtime it shows is given to Serve: that needs the
// filesystem first, as its observer.
func New(version string, log *logrus.Entry, reg *prometheus.Registry) *FS {
	f := &FS{log: log, version: version, began: time.Now(), closing: make(chan struct{}), lane: newLane()}
	f.metrics = newMetrics(reg, func(err error) {
		log.WithField("op", "metrics").WithError(err).Warn("not all metrics could be gathered")
	})
	f.budget = newBudget(f.metrics.refused)
	f.top = &topDir{dir: dir{fs: f}}
	f.boxes = &boxesDir{dir: dir{fs: f}, changed: f.began}
	f.images = &imagesDir{dir: dir{fs: f}, changed: f.began, serials: map[imageID]uint64{}}
	f.notifier = newNotifier(f)
	return f
}

// Close wakes every waiting reader: its read fails with ESHUTDOWN. It ends the
// notifier, so that the mount can be taken away.
func (f *FS) Close() {
	close(f.closing)
	f.notifier.close()
}

// Inode numbers: the fixed files have small ones, a box has a range of its own,
// made from its serial, which is never used again. So a handle on a removed box
// never becomes one on its successor of the same name.
const (
	inoRoot = 1 + iota
	inoBoxes
	inoWait
	inoVersion
	inoFeatures
	inoEvents
	inoLastError
	inoWaitEvent
	inoMetrics
	inoOrphans
	inoImagesDir
	inoImagesCtl
	inoImagesError

	inoPerBox = 64 // more than a box has files
)

// What a box has besides boxFiles and waitFiles counts down from the end of its range.
const (
	boxInoExec = inoPerBox - 1 - iota
	boxInoRoot
)

func boxIno(b *runtime.Box, index int) uint64 {
	return (b.Serial()+1)*inoPerBox + uint64(index)
}

// attr is what a file or directory shows.
type attr struct {
	mode    uint32 // permission bits
	uid     uint32
	gid     uint32
	size    int64
	nlink   uint32
	mtime   time.Time
	timeout time.Duration
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

// node is what all files and directories of the tree have in common.
type node interface {
	fs.InodeEmbedder
	stat() (attr, syscall.Errno)
}

func getattr(n node, out *fuse.AttrOut) syscall.Errno {
	a, errno := n.stat()
	if errno != 0 {
		return errno
	}
	ino := n.EmbeddedInode()
	a.fill(&out.Attr, ino.StableAttr().Ino, ino.Mode())
	out.SetTimeout(a.timeout)
	return 0
}

// enter answers a lookup of child. Its attributes are not cached from that: they
// may change before the kernel knows the inode, and a change could not be
// announced. From the first Getattr on they are.
func enter(ctx context.Context, parent *fs.Inode, child node, ino uint64, kind uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	a, errno := child.stat()
	if errno != 0 {
		return nil, errno
	}
	a.fill(&out.Attr, ino, kind)
	out.SetEntryTimeout(long)
	if _, ok := child.(*boxDir); ok {
		// But a box's directory changes only by chown, which goes through the
		// kernel, and `ls -l boxes` looks up a thousand of them.
		out.SetAttrTimeout(a.timeout)
	}
	return parent.NewInode(ctx, child, fs.StableAttr{Mode: kind, Ino: ino}), 0
}

// dir is a directory of the tree. What is not offered is refused, never silently
// accepted: go-fuse's own Unlink and Rmdir succeed.
type dir struct {
	fs.Inode
	fs *FS
}

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

// touchOnly answers a Setattr on what can't be changed: new times are accepted
// and mean nothing, all else is refused.
func touchOnly(n node, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID|fuse.FATTR_SIZE) != 0 {
		return syscall.EPERM
	}
	return answerSetattr(n, out)
}

// answerSetattr shows a node after a Setattr. The attributes are not cached from
// that: kernels before 6.15 or so do not see that a change has overtaken them.
func answerSetattr(n node, out *fuse.AttrOut) syscall.Errno {
	errno := getattr(n, out)
	out.SetTimeout(0)
	return errno
}

// invalidate makes the kernel forget the attributes of an inode it may know. It
// takes no lock that a request could hold, so it may be called from anywhere.
func invalidate(i *fs.Inode) {
	if i == nil {
		return
	}
	// ENOENT: the kernel has forgotten it already, which serves as well.
	_ = i.NotifyContent(-1, 0)
}

// caller returns who made a request.
func caller(ctx context.Context) runtime.By {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return runtime.By{}
	}
	return runtime.By{UID: c.Uid, PID: int(c.Pid)}
}

// early keeps a notification for later if the server cannot send it yet: until
// fs.Mount has returned it is not even safe to try.
func (f *FS) early(notify func()) bool {
	if f.serving.Load() {
		return false
	}
	f.earlyMu.Lock()
	defer f.earlyMu.Unlock()
	if f.serving.Load() {
		return false
	}
	if f.rooted { // before, there is nothing that the kernel could know
		f.missed = append(f.missed, notify)
	}
	return true
}

// serve makes good for what early has kept.
func (f *FS) serve() {
	f.earlyMu.Lock()
	f.serving.Store(true)
	missed := f.missed
	f.missed = nil
	f.earlyMu.Unlock()
	for _, notify := range missed {
		notify()
	}
}

// BoxChanged makes the kernel forget what it holds of the files that changed, and
// has watchers told of them.
func (f *FS) BoxChanged(b *runtime.Box, fields runtime.Field) {
	if f.early(func() { f.BoxChanged(b, fields) }) {
		return
	}
	d := f.boxes.GetChild(b.Name())
	if d == nil || d.StableAttr().Ino != boxIno(b, 0) {
		return
	}
	if fields&runtime.FieldOwner != 0 {
		invalidate(d)
		for _, c := range d.Children() {
			invalidate(c)
			for _, w := range c.Children() {
				invalidate(w)
			}
		}
		return
	}
	var dirty runtime.Field
	for _, file := range boxFiles {
		if file.fields&fields == 0 {
			continue
		}
		c := d.GetChild(file.name)
		if file.fields != runtime.FieldLog { // whose attributes are never cached
			invalidate(c)
		}
		if c != nil || file.fields&watched != 0 {
			dirty |= file.fields
		}
	}
	f.notifier.mark(b, dirty)
}

// BoxRemoved makes the kernel forget a box that is gone, and has watchers told. A
// removal that a client asked for needs no more than the latter: the kernel saw it.
func (f *FS) BoxRemoved(b *runtime.Box, asked bool) {
	f.boxes.touch()
	if f.early(func() { f.BoxRemoved(b, asked) }) {
		return
	}
	d := f.boxes.GetChild(b.Name())
	if d != nil && d.StableAttr().Ino != boxIno(b, 0) {
		d = nil
	}
	if !asked {
		invalidate(f.boxes.EmbeddedInode())
		_ = f.boxes.NotifyEntry(b.Name()) // ENOENT: it was not known
	}
	f.notifier.removed(b, d, asked)
}

// Changed makes the kernel forget the sizes of the daemon's own files.
func (f *FS) Changed() {
	if f.early(f.Changed) {
		return
	}
	events, lastError := f.top.GetChild("events"), f.top.GetChild("last_error")
	invalidate(events)
	invalidate(lastError)
	f.notifier.markTop(events, lastError)
}
