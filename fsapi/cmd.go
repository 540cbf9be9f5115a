package fsapi

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/config"
)

// cmdFile is cmd: read as it was written, run when its writer closes it.
type cmdFile struct {
	node
	exec *runtime.Exec
}

var (
	_ stater           = (*cmdFile)(nil)
	_ fs.NodeSetattrer = (*cmdFile)(nil)
	_ fs.NodeOpener    = (*cmdFile)(nil)
)

// stat shows the command that was given.
func (c *cmdFile) stat() (attr, syscall.Errno) {
	return c.own(attr{size: int64(len(c.exec.Snapshot().Text))})
}

// Setattr gives the file away, or truncates what an open handle is writing.
func (c *cmdFile) Setattr(_ context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok && !c.of.removed() {
		h, writing := f.(*draftHandle)
		if !writing {
			return syscall.EPERM
		}
		if errno := h.truncate(size); errno != 0 {
			return errno
		}
	}
	return c.of.setattr(c.name, c, in, out)
}

// Open gives the text to a reader. A writer begins with nothing.
func (c *cmdFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	s := c.exec.Snapshot()
	if s.Removed {
		return nil, 0, syscall.ENOENT
	}
	if flags&syscall.O_ACCMODE == syscall.O_RDONLY {
		return c.show(ctx, &runtime.Text{Bytes: s.Text})
	}
	g, errno := newGrant(ctx, c, mayWrite)
	if errno != 0 {
		return nil, 0, errno
	}
	lease, errno := c.fs.budget.lease(ctx, config.MaxSize)
	if errno != 0 {
		return nil, 0, errno
	}
	by := process(ctx)
	return &draftHandle{node: &c.node, doc: cmdDraft{c.exec, by, g}, append: flags&syscall.O_APPEND != 0, owner: by.PID, lease: lease}, fuse.FOPEN_DIRECT_IO, 0
}

// cmdDraft is a cmd being written. It runs with the rights of its opener, also when another
// process was given the descriptor.
type cmdDraft struct {
	*runtime.Exec
	by    runtime.By
	right *grant
}

func (d cmdDraft) checkPrefix(b []byte) error { return config.CheckExecPrefix(d.Box().Name(), b) }
func (d cmdDraft) check(b []byte) error       { return d.Check(b) }
func (d cmdDraft) refuse(err error) error     { return d.Refuse(err) }

func (d cmdDraft) mayWrite() error {
	if err := d.right.check(); err != nil {
		return err
	}
	return d.MayRun()
}

func (d cmdDraft) commit(b []byte) (*runtime.Completion, error) {
	if err := d.right.check(); err != nil {
		return nil, err
	}
	return d.Run(d.by, b)
}
