package fsapi

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/config"
)

// configFile is config.yaml: read as it was written, committed when its writer
// closes it.
type configFile struct {
	node
	box *runtime.Box
}

var (
	_ stater           = (*configFile)(nil)
	_ fs.NodeSetattrer = (*configFile)(nil)
	_ fs.NodeOpener    = (*configFile)(nil)
)

// stat shows the committed configuration.
func (c *configFile) stat() (attr, syscall.Errno) {
	s := c.box.Snapshot()
	if s.Removed {
		return attr{}, syscall.ENODEV
	}
	return attr{mode: c.mode, nlink: 1, size: int64(len(s.Text)), mtime: s.Changed(runtime.FieldConfig), timeout: cacheTime}, 0
}

// Setattr truncates what an open handle is writing. It does not change the owner and mode:
// whoever can write the file decides what runs as root.
func (c *configFile) Setattr(_ context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		return syscall.EPERM
	}
	if c.of.removed() {
		return touchOrphan(c, in, out)
	}
	if size, ok := in.GetSize(); ok {
		h, writing := f.(*draftHandle)
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

// Open gives the committed text to a reader. A writer begins with it, or with nothing when
// it truncates.
func (c *configFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	s := c.box.Snapshot()
	if s.Removed {
		return nil, 0, syscall.ENOENT
	}
	if flags&syscall.O_ACCMODE == syscall.O_RDONLY {
		return &snapshotHandle{node: &c.node, text: &runtime.Text{Bytes: s.Text}}, readFlags, 0
	}
	h := &draftHandle{node: &c.node, doc: configDraft{c.box}, append: flags&syscall.O_APPEND != 0, owner: tgid(caller(ctx).PID)}
	if flags&syscall.O_TRUNC == 0 {
		h.buf = append(h.buf, s.Text...)
		h.credit = len(h.buf)
	} else {
		h.emptied = len(s.Text) > 0
	}
	return h, fuse.FOPEN_DIRECT_IO, 0
}

// configDraft is the configuration of a box.
type configDraft struct{ *runtime.Box }

func (d configDraft) mayWrite() error               { return nil }
func (d configDraft) checkPrefix(text []byte) error { return config.CheckPrefix(d.Name(), text) }
func (d configDraft) check(text []byte) error       { return d.CheckConfig(text) }
func (d configDraft) refuse(err error) error        { return d.RefuseConfig(err) }

func (d configDraft) commit(text []byte) (*runtime.Completion, error) {
	return nil, d.Configure(text)
}
