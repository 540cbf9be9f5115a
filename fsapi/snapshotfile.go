package fsapi

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// readFlags are those of every file that is only read: its contents are never
// cached, since an open has to take a new snapshot, and closing it is nothing to
// wait for.
const readFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH

// readOnly refuses to open a file for writing that nobody can write. The mode does not keep
// root from that, so it is refused here, as kernfs does.
func readOnly(flags uint32) syscall.Errno {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return syscall.EACCES
	}
	return 0
}

// snapshotFile is a file that is read as it was when it was opened.
type snapshotFile struct {
	node
	// render gives the contents, their mtime and how long their size holds; no contents if
	// the subject has just been removed. It is called at each look, so what is long or costs
	// much it makes once for each state.
	render func() (*runtime.Text, attr)
}

var (
	_ stater        = (*snapshotFile)(nil)
	_ fs.NodeOpener = (*snapshotFile)(nil)
)

// stat shows the size and time that an open would find.
func (f *snapshotFile) stat() (attr, syscall.Errno) {
	text, a := f.render()
	if text == nil {
		return attr{}, syscall.ENODEV
	}
	a.size = int64(len(text.Bytes))
	return f.own(a)
}

// Open takes the snapshot that all reads through the handle give.
func (f *snapshotFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := readOnly(flags); errno != 0 {
		return nil, 0, errno
	}
	if f.of.removed() {
		return nil, 0, syscall.ENOENT
	}
	text, _ := f.render()
	if text == nil {
		return nil, 0, syscall.ENOENT
	}
	return f.show(ctx, text)
}

// show opens a text. Its size is charged to the opener, as if no other handle had it.
func (n *node) show(ctx context.Context, text *runtime.Text) (fs.FileHandle, uint32, syscall.Errno) {
	lease, errno := n.fs.budget.lease(ctx, len(text.Bytes))
	if errno != 0 {
		return nil, 0, errno
	}
	return &snapshotHandle{node: n, text: text, lease: lease}, readFlags, 0
}

// snapshotHandle reads one snapshot.
type snapshotHandle struct {
	synced
	node  *node
	text  *runtime.Text
	lease lease
}

var (
	_ fs.FileReader   = (*snapshotHandle)(nil)
	_ fs.FileReleaser = (*snapshotHandle)(nil)
)

// Read gives the snapshot, or ENODEV once what it is of is removed.
func (h *snapshotHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if h.node.of.removed() {
		return nil, syscall.ENODEV
	}
	text := h.text.Bytes
	n := int64(len(text))
	off = min(off, n)
	return fuse.ReadResultData(text[off:min(n, off+int64(len(dest)))]), 0
}

// Release ends the reading.
func (h *snapshotHandle) Release(context.Context) syscall.Errno {
	h.lease.end()
	h.node.drop()
	return 0
}

// synced is a handle on which there is nothing to sync: it only reads, or what is written to
// it is no contents of a file. Without the method go-fuse would answer ENOTSUP, which a client
// that syncs what it has written does not expect.
type synced struct{}

// Fsync has nothing to do.
func (synced) Fsync(context.Context, uint32) syscall.Errno { return 0 }

// line makes the text of a file that shows one value.
func line(value string) *runtime.Text { return &runtime.Text{Bytes: []byte(value + "\n")} }
