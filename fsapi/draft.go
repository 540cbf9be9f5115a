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
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/fault"
)

// draft is what becomes of a file that is committed when its writer closes it.
type draft interface {
	// mayWrite fails if nothing can be committed at all.
	mayWrite() error
	// checkPrefix fails if the text can't be valid whatever follows it.
	checkPrefix(text []byte) error
	// check fails as commit would.
	check(text []byte) error
	// refuse notes why a text is not committed, and returns that.
	refuse(err error) error
	// commit takes the text, and returns the work that the close has to wait for, or nil.
	commit(text []byte) (*runtime.Completion, error)
}

// draftHandle is a configuration, or a command, being written. What is written stays
// in the handle, so that writers do not see each other, until it is committed whole.
type draftHandle struct {
	node   *node
	doc    draft
	append bool
	owner  int // pid of the process that opened it, 0 if unknown
	lease  lease

	mu      sync.Mutex // guards what follows; the box is configured, or the exec begun, under it
	buf     []byte
	credit  int          // bytes that were written, or there at the open
	checked int          // bytes that were checked before a commit; see worthChecking
	emptied bool         // opened to replace a text, and nothing written since
	writers map[int]bool // pids of the processes that wrote
	dirty   bool         // there is something to commit
	// work is what an fsync has begun. The next close by a process that has written tells how
	// it ended.
	work *runtime.Completion
	// committed: what buf held was committed through this handle.
	committed bool
	refused   syscall.Errno
	// abandoned: a writer was killed half-way, so that nobody meant what is there.
	abandoned bool
}

var (
	_ fs.FileReader   = (*draftHandle)(nil)
	_ fs.FileWriter   = (*draftHandle)(nil)
	_ fs.FileFlusher  = (*draftHandle)(nil)
	_ fs.FileFsyncer  = (*draftHandle)(nil)
	_ fs.FileReleaser = (*draftHandle)(nil)
)

// Read gives what is being written.
func (h *draftHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.node.of.removed() {
		return nil, syscall.ENODEV
	}
	n := 0
	if off < int64(len(h.buf)) {
		n = copy(dest, h.buf[off:])
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Write takes a piece of the text. It refuses here already what no further text could mend,
// since the builtin echo and printf of shells ignore the result of close.
func (h *draftHandle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	who := tgid(caller(ctx).PID)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.node.of.removed() {
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
	if off+int64(len(data)) > config.MaxSize {
		return 0, h.refuse(config.ErrTooBig)
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
	h.credit += len(data)
	fault.Point("config.part")
	if next && bytes.IndexByte(data, '\n') >= 0 && h.worthChecking(checkWork) {
		if err := h.doc.checkPrefix(h.buf); err != nil {
			return 0, h.refuse(err)
		}
	}
	return uint32(len(data)), 0
}

// checkWork is how many bytes of a draft are checked, before it is committed, for each byte
// that is written. lastCheckWork is the same with the check at a close. A check is of the
// whole draft, and a write may be of one byte.
const (
	checkWork     = 32
	lastCheckWork = checkWork + 8
)

// worthChecking reports whether the draft may be checked once more. Suppose that the lines
// have about the same length and come one by one, as the builtins of bash write them. Then
// a draft of up to 2*checkWork lines is checked after each line, and a longer one after more
// and more lines at a time. mu is held.
func (h *draftHandle) worthChecking(work int) bool {
	if h.checked+len(h.buf) > work*h.credit {
		return false
	}
	h.checked += len(h.buf)
	return true
}

// refuse makes the handle fail from now on. Else the flush would commit what was written up
// to the fault.
func (h *draftHandle) refuse(err error) syscall.Errno {
	h.refused, h.emptied = toErrno(h.doc.refuse(err)), false
	return h.refused
}

func (h *draftHandle) truncate(size uint64) syscall.Errno {
	h.mu.Lock()
	defer h.mu.Unlock()
	if size > config.MaxSize {
		return h.refuse(config.ErrTooBig)
	}
	// A truncation alone is nothing to commit: a program makes it before it writes. But it
	// changes a text that was committed through this very handle.
	h.dirty = h.dirty || h.committed && size != uint64(len(h.buf))
	if size <= uint64(len(h.buf)) {
		h.buf = h.buf[:size]
	} else {
		h.buf = append(h.buf, make([]byte, size-uint64(len(h.buf)))...)
	}
	return 0
}

// Flush commits when the writer closes the file, and tells it the result.
//
// Every process that has the file open flushes it when it exits, also a forked child while
// another process writes. The flush that commits is that of the process that opened the
// file. A process that has written all there is is told whether that is valid, too. But
// more may follow, so nothing is committed yet: for `cat a > config.yaml` dash opens the
// file itself, cat writes it, and dash closes it next.
func (h *draftHandle) Flush(ctx context.Context) syscall.Errno {
	work, errno := h.flush(ctx)
	if work == nil {
		return errno
	}
	// No lock is held any more.
	if errno := h.node.fs.await(ctx, work.Done()); errno != 0 {
		return errno
	}
	return toErrno(work.Wait(ctx))
}

func (h *draftHandle) flush(ctx context.Context) (*runtime.Completion, syscall.Errno) {
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
			// It has passed the file on, or will, to a process that writes, and does not
			// wait for that one's work. See ctlHandle.Flush.
			return nil, errno
		case work == nil && errno == 0:
			work = h.work
		}
		h.work = nil
		return work, errno
	}
	if wrote && len(h.writers) == 1 && h.dirty && h.refused == 0 && h.worthChecking(lastCheckWork) {
		if err := h.doc.check(h.buf); err != nil {
			return nil, toErrno(err)
		}
	}
	if !wrote {
		return nil, 0
	}
	// The owner is not told, if it has written nothing.
	work := h.work
	h.work = nil
	return work, 0
}

// Fsync commits for any process: an editor wants to know the result before it closes. It does
// not wait for the work of the commit, as the close does. The kernel holds the inode's lock
// meanwhile, and a process that waited for that lock, in a chmod, could not even be killed.
func (h *draftHandle) Fsync(context.Context, uint32) syscall.Errno {
	h.mu.Lock()
	defer h.mu.Unlock()
	work, errno := h.commit()
	if work != nil {
		h.work = work
	}
	return errno
}

// Release commits what no flush has: a file that was passed on to another process and closed
// last there. Only last_error has this result.
func (h *draftHandle) Release(context.Context) syscall.Errno {
	defer h.lease.end()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.emptied {
		// An empty configuration is none. Before, a flush with nothing written may also
		// be that of a shell which closes a spare descriptor.
		return toErrno(h.doc.refuse(fmt.Errorf("%w: nothing was written; the configuration stays as it was", runtime.ErrInvalid)))
	}
	_, errno := h.commit()
	return errno
}

// commit is called with mu held.
func (h *draftHandle) commit() (*runtime.Completion, syscall.Errno) {
	switch {
	case h.refused != 0:
		return nil, h.refused
	case !h.dirty:
		return nil, 0
	case h.abandoned:
		h.dirty = false
		return nil, toErrno(h.doc.refuse(fmt.Errorf("%w: its writer was killed before it had closed the file; nothing was changed", runtime.ErrInvalid)))
	}
	fault.Point("config.closed")
	h.dirty, h.committed = false, true
	work, err := h.doc.commit(append([]byte(nil), h.buf...))
	return work, toErrno(err)
}
