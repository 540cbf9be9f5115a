package fsapi

import (
	"context"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// stdinFile is stdin, whose writes block.
type stdinFile struct {
	node
	exec *runtime.Exec
}

var (
	_ stater           = (*stdinFile)(nil)
	_ fs.NodeSetattrer = (*stdinFile)(nil)
	_ fs.NodeOpener    = (*stdinFile)(nil)
)

// stdinSize is the size that stdin shows. The kernel lets several clients write at once only
// if none of them makes the file longer. Else a client that waits for the command to read
// would hold the inode's lock, and not even SIGKILL would end another's wait for that.
const stdinSize = 1 << 30

// stat shows a size that is not its own.
func (i *stdinFile) stat() (attr, syscall.Errno) { return i.own(attr{size: stdinSize}) }

// Setattr gives the file away. A new size is accepted and means nothing.
func (i *stdinFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return i.of.setattr(i.name, i, in, out)
}

// Open gives a writer.
func (i *stdinFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_WRONLY {
		return nil, 0, syscall.EACCES
	}
	if i.of.removed() {
		return nil, 0, syscall.ENOENT
	}
	g, errno := newGrant(ctx, i, mayWrite)
	if errno != 0 {
		return nil, 0, errno
	}
	w := i.exec.OpenStdin(func() bool { return g.check() == nil })
	if flags&syscall.O_TRUNC != 0 {
		go i.regrow()
	}
	return &stdinHandle{file: i, right: g, writer: w, nonblock: flags&syscall.O_NONBLOCK != 0}, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_STREAM | fuse.FOPEN_NOFLUSH | fuse.FOPEN_PARALLEL_DIRECT_WRITES, 0
}

// regrow makes the kernel take the file for as long as before, since an open that truncates
// sets the size to 0. It must come after the client has got the answer to the open, and before
// it writes. Nothing tells when that is, so it is tried several times.
func (i *stdinFile) regrow() {
	for _, pause := range [...]time.Duration{20 * time.Microsecond, 50 * time.Microsecond, 200 * time.Microsecond, time.Millisecond, 5 * time.Millisecond} {
		time.Sleep(pause)                        //nolint:forbidigo // there is no condition to wait for
		_ = i.WriteCache(stdinSize-1, []byte{0}) // ENOENT: it has been forgotten
	}
}

type stdinHandle struct {
	synced
	file     *stdinFile
	right    *grant
	writer   *runtime.StdinWriter
	nonblock bool
}

var (
	_ fs.FileWriter   = (*stdinHandle)(nil)
	_ fs.FileReleaser = (*stdinHandle)(nil)
)

// Write writes all of data, as to a pipe: it blocks while that is full, and gives a
// short count when the client is interrupted then.
func (h *stdinHandle) Write(ctx context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	done := 0
	for {
		var n int
		var more <-chan struct{}
		err := h.right.check()
		if err == nil {
			n, more, err = h.file.exec.PollWrite(data[done:])
		}
		done += n
		var errno syscall.Errno
		switch {
		case err != nil:
			errno = toErrno(err)
		case done == len(data):
			return uint32(done), 0
		case more == nil:
			continue
		case h.nonblock:
			errno = syscall.EAGAIN
		default:
			errno = h.file.fs.await(ctx, more)
		}
		if errno != 0 && done > 0 {
			return uint32(done), 0
		}
		if errno != 0 {
			return 0, errno
		}
	}
}

// Release ends the input. It comes when the last descriptor of an open is closed.
func (h *stdinHandle) Release(context.Context) syscall.Errno {
	h.writer.Close()
	h.file.drop()
	return 0
}
