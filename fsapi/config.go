package fsapi

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// configFile is config.yaml: read as it was written, committed when its writer
// closes it.
type configFile struct {
	fs.Inode
	boxFile
}

var (
	_ node             = (*configFile)(nil)
	_ fs.NodeGetattrer = (*configFile)(nil)
	_ fs.NodeSetattrer = (*configFile)(nil)
	_ fs.NodeOpener    = (*configFile)(nil)
)

func (c *configFile) stat() (attr, syscall.Errno) {
	s := c.box.Snapshot()
	if s.Removed {
		return attr{}, syscall.ENODEV
	}
	return attr{mode: c.mode, nlink: 1, size: int64(len(s.Text)), mtime: s.Changed(runtime.FieldConfig), timeout: long}, 0
}

// Getattr shows the committed configuration.
func (c *configFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(c, out)
}

// Setattr truncates what an open handle is writing. The owner and mode can't be
// changed: whoever can write the file decides what runs as root.
func (c *configFile) Setattr(_ context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		return syscall.EPERM
	}
	if c.removed() != 0 {
		return touchGhost(c, in, out)
	}
	if size, ok := in.GetSize(); ok {
		h, writing := f.(*configHandle)
		if !writing {
			// truncate(2) by path would have to be a commit of its own.
			return syscall.EPERM
		}
		if errno := h.truncate(size); errno != 0 {
			return errno
		}
	}
	return answerSetattr(c, out)
}

// Open gives the committed text to a reader; a writer begins with it, or with
// nothing when it truncates.
func (c *configFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	s := c.box.Snapshot()
	if s.Removed {
		return nil, 0, syscall.ENOENT
	}
	if flags&syscall.O_ACCMODE == syscall.O_RDONLY {
		return &textHandle{fs: c.fs, box: c.box, inode: c.EmbeddedInode(), text: &runtime.Text{Bytes: s.Text}}, readFlags, 0
	}
	h := &configHandle{fs: c.fs, doc: configDraft{c.box}, append: flags&syscall.O_APPEND != 0, owner: tgid(caller(ctx).PID)}
	if flags&syscall.O_TRUNC == 0 {
		h.buf = append(h.buf, s.Text...)
		h.paid = len(h.buf)
	} else {
		h.emptied = len(s.Text) > 0
	}
	return h, fuse.FOPEN_DIRECT_IO, 0
}

// draft is what a file is written for that is committed when its writer closes it.
type draft interface {
	gone() bool
	// mayWrite says why nothing can be committed at all, if that is so.
	mayWrite() error
	// checkPrefix says what of a beginning can't be mended by what follows.
	checkPrefix(text []byte) error
	// check says what commit would say.
	check(text []byte) error
	// refuse notes why a text is refused that is not committed, and returns that.
	refuse(err error) error
	// commit returns the work that the close has to wait for, or nil.
	commit(text []byte) (*runtime.Completion, error)
}

// configDraft is the configuration of a box.
type configDraft struct{ *runtime.Box }

func (d configDraft) gone() bool                    { return d.Snapshot().Removed }
func (d configDraft) mayWrite() error               { return nil }
func (d configDraft) checkPrefix(text []byte) error { return runtime.CheckConfigPrefix(d.Name(), text) }
func (d configDraft) check(text []byte) error       { return d.CheckConfig(text) }
func (d configDraft) refuse(err error) error        { return d.RefuseConfig(err) }

func (d configDraft) commit(text []byte) (*runtime.Completion, error) {
	return nil, d.Configure(text)
}

// configHandle is a configuration, or a command, being written. What is written stays
// in the handle, so that writers do not see each other, until it is committed whole.
type configHandle struct {
	fs     *FS
	doc    draft
	append bool
	owner  int // process that opened it, 0 if unknown
	lease  lease

	mu      sync.Mutex
	buf     []byte
	paid    int          // bytes that were written, or there at the open
	looked  int          // bytes that were looked at for a verdict; see worthALook
	emptied bool         // opened to replace a text, and nothing written since
	writers map[int]bool // processes that wrote
	dirty   bool         // there is something to commit
	// work is what an fsync has begun, whose end the next close of who has written tells.
	work *runtime.Completion
	// committed: what buf held was committed through this handle.
	committed bool
	refused   syscall.Errno
	// abandoned: a writer was killed half-way, so that what is there is not
	// what anybody meant.
	abandoned bool
}

var (
	_ fs.FileReader   = (*configHandle)(nil)
	_ fs.FileWriter   = (*configHandle)(nil)
	_ fs.FileFlusher  = (*configHandle)(nil)
	_ fs.FileFsyncer  = (*configHandle)(nil)
	_ fs.FileReleaser = (*configHandle)(nil)
)

// Read gives what is being written.
func (h *configHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.doc.gone() {
		return nil, syscall.ENODEV
	}
	n := 0
	if off < int64(len(h.buf)) {
		n = copy(dest, h.buf[off:])
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Write takes a piece of the text. What no further text could mend is refused
// here already, since the builtin echo and printf of shells do not look at close.
func (h *configHandle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	who := tgid(caller(ctx).PID)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.doc.gone() {
		return 0, syscall.ENODEV
	}
	if h.refused != 0 {
		return 0, h.refused
	}
	if err := h.doc.mayWrite(); err != nil {
		return 0, toErrno(err)
	}
	if h.append {
		// The kernel takes the position from a size that it may have cached.
		off = int64(len(h.buf))
	}
	if off+int64(len(data)) > runtime.MaxConfigSize {
		return 0, h.refuse(runtime.ErrConfigTooBig)
	}
	next := off == int64(len(h.buf))
	if end := int(off) + len(data); end > len(h.buf) {
		h.buf = append(h.buf, make([]byte, end-len(h.buf))...)
	}
	copy(h.buf[off:], data)
	if h.writers == nil {
		h.writers = map[int]bool{}
	}
	h.writers[who] = true
	h.dirty, h.emptied = true, false
	h.paid += len(data)
	runtime.Fault("config.part")
	if next && bytes.IndexByte(data, '\n') >= 0 && h.worthALook(lookWork) {
		if err := h.doc.checkPrefix(h.buf); err != nil {
			return 0, h.refuse(err)
		}
	}
	return uint32(len(data)), 0
}

// lookWork is how much of a draft is looked at for each byte of it that is written, before
// it is committed, and lastLookWork is the same with the verdict at a close. A look is at
// all of the draft, and a write may be of one byte.
const (
	lookWork     = 32
	lastLookWork = lookWork + 8
)

// worthALook reports whether the draft may be looked at once more. All lines of a draft of
// up to 2*lookWork lines are, if they have about the same length and come one by one, as
// the builtins of bash write them; of a longer one more and more come together. mu is held.
func (h *configHandle) worthALook(work int) bool {
	if h.looked+len(h.buf) > work*h.paid {
		return false
	}
	h.looked += len(h.buf)
	return true
}

// refuse poisons the handle: without it the flush would commit what was written
// up to the fault.
func (h *configHandle) refuse(err error) syscall.Errno {
	h.refused, h.emptied = toErrno(h.doc.refuse(err)), false
	return h.refused
}

func (h *configHandle) truncate(size uint64) syscall.Errno {
	h.mu.Lock()
	defer h.mu.Unlock()
	if size > runtime.MaxConfigSize {
		return h.refuse(runtime.ErrConfigTooBig)
	}
	// A flush follows every truncation that a program makes before it writes. To
	// a text that was committed through this very handle it is a change.
	h.dirty = h.dirty || h.committed && size != uint64(len(h.buf))
	if size <= uint64(len(h.buf)) {
		h.buf = h.buf[:size]
	} else {
		h.buf = append(h.buf, make([]byte, size-uint64(len(h.buf)))...)
	}
	return 0
}

// Flush commits when the writer closes the file, and gives it the verdict.
//
// Every process that has the file open flushes it when it exits, also a forked
// child in the middle of somebody else's writing. The flush that commits is that
// of the process that opened the file. One that has written all there is gets a
// verdict, too, but more may follow, so nothing is committed yet: dash opens the
// file itself for `cat a > config.yaml`, cat writes it, and dash closes it next.
func (h *configHandle) Flush(ctx context.Context) syscall.Errno {
	work, errno := h.flush(ctx)
	return h.await(ctx, work, errno)
}

// await waits for the work of a commit, with no lock held.
func (h *configHandle) await(ctx context.Context, work *runtime.Completion, errno syscall.Errno) syscall.Errno {
	if work == nil {
		return errno
	}
	select {
	case <-work.Done():
		return toErrno(work.Wait(ctx))
	case <-ctx.Done():
		return syscall.EINTR
	case <-h.fs.closing:
		return syscall.ESHUTDOWN
	}
}

func (h *configHandle) flush(ctx context.Context) (*runtime.Completion, syscall.Errno) {
	tid := caller(ctx).PID
	who := tgid(tid)
	h.mu.Lock()
	defer h.mu.Unlock()
	wrote := h.writers[who]
	if (who == h.owner || wrote) && h.dirty && dying(tid) {
		h.abandoned = true
		return nil, 0
	}
	if who == h.owner {
		work, errno := h.commit()
		switch {
		case !wrote:
			// It has passed the file on, to one that has closed it, or is to: what waits is
			// no business of its own. See ctlHandle.Flush.
			return nil, errno
		case work == nil && errno == 0:
			work = h.work
		}
		h.work = nil
		return work, errno
	}
	if wrote && len(h.writers) == 1 && h.dirty && h.refused == 0 && h.worthALook(lastLookWork) {
		if err := h.doc.check(h.buf); err != nil {
			return nil, toErrno(err)
		}
	}
	if !wrote {
		return nil, 0
	}
	// Who opened the file is not told, if he has written nothing.
	work := h.work
	h.work = nil
	return work, 0
}

// Fsync commits for whoever asks: an editor that wants to know before it closes. For the work
// of a commit it does not wait, as the close does: the kernel holds the lock of the inode, and
// who wants to chmod the file meanwhile could not even be killed.
func (h *configHandle) Fsync(context.Context, uint32) syscall.Errno {
	h.mu.Lock()
	defer h.mu.Unlock()
	work, errno := h.commit()
	if work != nil {
		h.work = work
	}
	return errno
}

// Release commits what no flush has: a file that was passed on to another process
// and closed last there. Nobody sees this verdict but the reader of last_error.
func (h *configHandle) Release(context.Context) syscall.Errno {
	defer h.lease.end()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.emptied {
		// An empty configuration is none. It can't be told earlier from the
		// close of a shell's spare descriptor, before the text is written.
		return toErrno(h.doc.refuse(fmt.Errorf("%w: nothing was written; the configuration stays as it was", runtime.ErrInvalid)))
	}
	_, errno := h.commit()
	return errno
}

// commit is called with mu held.
func (h *configHandle) commit() (*runtime.Completion, syscall.Errno) {
	switch {
	case h.refused != 0:
		return nil, h.refused
	case !h.dirty:
		return nil, 0
	case h.abandoned:
		h.dirty = false
		return nil, toErrno(h.doc.refuse(fmt.Errorf("%w: its writer was killed before it had closed the file; nothing was changed", runtime.ErrInvalid)))
	}
	runtime.Fault("config.closed")
	h.dirty, h.committed = false, true
	work, err := h.doc.commit(append([]byte(nil), h.buf...))
	return work, toErrno(err)
}
