package fsapi

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/boxlitefs/boxlite/runtime"
)

// readFlags are those of every file that is only read: its contents are never
// cached, since an open has to take a new snapshot, and closing it is nothing to
// wait for.
const readFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH

// readOnly refuses to open a file for writing that nobody can write. Root is not
// held by the mode, so it is said here, as kernfs does.
func readOnly(flags uint32) syscall.Errno {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return syscall.EACCES
	}
	return 0
}

// drop makes the kernel forget a file of a removed box that was just closed. By
// itself it keeps what was open at the removal until it is short of memory, and with
// it all that is known here of the box.
func (f *FS) drop(b *runtime.Box, i *fs.Inode) {
	if b == nil || !b.Snapshot().Removed {
		return
	}
	for name, parent := i.Parent(); parent != nil && parent != f.boxes.EmbeddedInode(); name, parent = parent.Parent() {
		_ = parent.NotifyEntry(name) // ENOENT: it has been forgotten
	}
}

// textFile is a file that is read as it was when it was opened.
type textFile struct {
	fs.Inode
	fs   *FS
	box  *runtime.Box // nil for the daemon's own
	name string
	mode uint32
	// render gives the contents, their mtime and how long their size holds. It is called
	// at each look, so what is long or costs much it makes once for each state.
	render func() (*runtime.Text, attr)
}

var (
	_ node             = (*textFile)(nil)
	_ fs.NodeGetattrer = (*textFile)(nil)
	_ fs.NodeSetattrer = (*textFile)(nil)
	_ fs.NodeOpener    = (*textFile)(nil)
)

func (t *textFile) stat() (attr, syscall.Errno) {
	text, a := t.render()
	a.size, a.mode, a.nlink = int64(len(text.Bytes)), t.mode, 1
	return ownedBy(t.box, t.name, a)
}

// Getattr shows the size and time that an open would find.
func (t *textFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(t, out)
}

// Setattr delegates a box's file.
func (t *textFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return chown(t.box, t.name, t, in, out)
}

// Open takes the snapshot that all reads through the handle give.
func (t *textFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := readOnly(flags); errno != 0 {
		return nil, 0, errno
	}
	if t.box != nil && t.box.Snapshot().Removed {
		return nil, 0, syscall.ENOENT
	}
	text, _ := t.render()
	lease, errno := t.fs.budget.lease(ctx, len(text.Bytes))
	if errno != 0 {
		return nil, 0, errno
	}
	return &textHandle{fs: t.fs, box: t.box, inode: t.EmbeddedInode(), text: text, lease: lease}, readFlags, 0
}

// synced is a handle on which there is nothing to sync: it only reads, or what it takes is
// no contents of a file. Without a method go-fuse would answer ENOTSUP, which nobody who
// syncs what he has written expects.
type synced struct{}

// Fsync has nothing to do.
func (synced) Fsync(context.Context, uint32) syscall.Errno { return 0 }

// textHandle reads one snapshot.
type textHandle struct {
	synced
	fs    *FS
	box   *runtime.Box // nil for the daemon's own
	inode *fs.Inode
	text  *runtime.Text
	lease lease // of the text, as if it were the handle's alone
}

var (
	_ fs.FileReader   = (*textHandle)(nil)
	_ fs.FileReleaser = (*textHandle)(nil)
)

// Read gives the snapshot, or ENODEV once the box is gone.
func (h *textHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if h.box != nil && h.box.Snapshot().Removed {
		return nil, syscall.ENODEV
	}
	return readAt(h.text.Bytes, dest, off), 0
}

// readAt gives a part of a text, as much as there is room for in dest.
func readAt(text, dest []byte, off int64) fuse.ReadResult {
	n := int64(len(text))
	off = min(off, n)
	return fuse.ReadResultData(text[off:min(n, off+int64(len(dest)))])
}

// Release ends the reading.
func (h *textHandle) Release(context.Context) syscall.Errno {
	h.lease.end()
	h.fs.drop(h.box, h.inode)
	return 0
}

// logFile is the log of a box.
type logFile struct {
	fs.Inode
	boxFile
}

var (
	_ node             = (*logFile)(nil)
	_ fs.NodeGetattrer = (*logFile)(nil)
	_ fs.NodeSetattrer = (*logFile)(nil)
	_ fs.NodeOpener    = (*logFile)(nil)
)

func (l *logFile) stat() (attr, syscall.Errno) {
	size, mtime := l.box.LogSize()
	return l.owned(attr{size: size, mtime: mtime})
}

// Getattr shows the size: how much was ever written.
func (l *logFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(l, out)
}

// Setattr delegates the log.
func (l *logFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return chown(l.box, l.name, l, in, out)
}

// Open gives a reader of all that is kept.
func (l *logFile) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := readOnly(flags); errno != 0 {
		return nil, 0, errno
	}
	if l.removed() != 0 {
		return nil, 0, syscall.ENOENT
	}
	return &logHandle{file: l, log: l.box.OpenLog()}, readFlags, 0
}

type logHandle struct {
	synced
	file *logFile
	log  *runtime.LogReader
}

var (
	_ fs.FileReader   = (*logHandle)(nil)
	_ fs.FileReleaser = (*logHandle)(nil)
)

// Read gives what the box wrote.
func (h *logHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, err := h.log.ReadAt(dest, off)
	if n == 0 && err != nil && !errors.Is(err, io.EOF) {
		return nil, toErrno(err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Release ends the reading.
func (h *logHandle) Release(context.Context) syscall.Errno {
	h.file.fs.drop(h.file.box, h.file.EmbeddedInode())
	return 0
}

// waitFile is a file in wait/, whose reads block.
type waitFile struct {
	fs.Inode
	fs    *FS
	box   *runtime.Box // nil for the daemon's own
	name  string
	mtime time.Time
	open  func(runtime.By) (runtime.Stream, error)
}

var (
	_ node             = (*waitFile)(nil)
	_ fs.NodeGetattrer = (*waitFile)(nil)
	_ fs.NodeSetattrer = (*waitFile)(nil)
	_ fs.NodeOpener    = (*waitFile)(nil)
)

func (w *waitFile) stat() (attr, syscall.Errno) {
	return ownedBy(w.box, w.name, attr{mode: w.fs.mode(w.name, 0o444), nlink: 1, mtime: w.mtime, timeout: long})
}

// Getattr shows an empty file: how much there will be is not known.
func (w *waitFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(w, out)
}

// Setattr delegates a box's file.
func (w *waitFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return chown(w.box, w.name, w, in, out)
}

// Open binds what is waited for to this moment.
func (w *waitFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := readOnly(flags); errno != 0 {
		return nil, 0, errno
	}
	if w.box != nil && w.box.Snapshot().Removed {
		return nil, 0, syscall.ENOENT
	}
	stream, err := w.open(caller(ctx))
	if err != nil {
		return nil, 0, toErrno(err)
	}
	// A stream has no offsets: the kernel sends 0 with every read, and the
	// position is the handle's.
	return &waitHandle{file: w, stream: stream, nonblock: flags&syscall.O_NONBLOCK != 0, waiters: w.fs.metrics.waiter(w.name)}, readFlags | fuse.FOPEN_STREAM, 0
}

type waitHandle struct {
	synced
	file     *waitFile
	stream   runtime.Stream
	nonblock bool
	waiters  prometheus.Gauge
}

var (
	_ fs.FileReader   = (*waitHandle)(nil)
	_ fs.FileReleaser = (*waitHandle)(nil)
)

// Read blocks until there is something to give. It ends with EINTR when the
// client is interrupted, and with ESHUTDOWN when the daemon shuts down.
func (h *waitHandle) Read(ctx context.Context, dest []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	result, errno := h.read(ctx, dest)
	return waited{result}, errno
}

func (h *waitHandle) read(ctx context.Context, dest []byte) (fuse.ReadResult, syscall.Errno) {
	turn := h.file.fs.lane.turn(ctx)
	defer turn.end()
	if len(dest) == maxRead {
		// It may be a part of a greater read. If it came back full, the kernel would
		// ask for the next part before it gave this one to the client, and wait.
		dest = dest[:maxRead-1]
	}
	for {
		n, more, err := h.stream.Poll(dest)
		switch {
		case errors.Is(err, io.EOF):
			return fuse.ReadResultData(nil), 0
		case err != nil:
			return nil, toErrno(err)
		case more == nil:
			return fuse.ReadResultData(dest[:n]), 0
		case h.nonblock:
			return nil, syscall.EAGAIN
		}
		if errno := turn.await(func() syscall.Errno { return h.await(ctx, more) }); errno != 0 {
			return nil, errno
		}
	}
}

func (h *waitHandle) await(ctx context.Context, more <-chan struct{}) syscall.Errno {
	h.waiters.Inc()
	defer h.waiters.Dec()
	return h.file.fs.await(ctx, more)
}

// Release ends the stream.
func (h *waitHandle) Release(context.Context) syscall.Errno {
	h.stream.Close()
	h.file.fs.drop(h.file.box, h.file.EmbeddedInode())
	return 0
}
