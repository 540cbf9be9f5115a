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

// streamFile is a file whose reads block: a file in wait/, or the output of an exec.
type streamFile struct {
	node
	mtime time.Time
	// open binds what is waited for to this moment.
	open func(runtime.By) (runtime.Stream, error)
	// guarded: each read checks again whether the opener may read the file.
	guarded bool
}

var (
	_ stater        = (*streamFile)(nil)
	_ fs.NodeOpener = (*streamFile)(nil)
)

// stat shows an empty file: how much there will be is not known.
func (f *streamFile) stat() (attr, syscall.Errno) {
	return f.own(attr{mtime: f.mtime, timeout: cacheTime})
}

// Open begins a stream.
func (f *streamFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := readOnly(flags); errno != 0 {
		return nil, 0, errno
	}
	if f.of.removed() {
		return nil, 0, syscall.ENOENT
	}
	h := &streamHandle{node: &f.node, nonblock: flags&syscall.O_NONBLOCK != 0}
	if f.guarded {
		var errno syscall.Errno
		if h.right, errno = newGrant(ctx, f, mayRead); errno != 0 {
			return nil, 0, errno
		}
	} else {
		h.waiters = f.fs.metrics.waiter(f.name)
	}
	stream, err := f.open(caller(ctx))
	if err != nil {
		return nil, 0, toErrno(err)
	}
	h.stream = stream
	if out, ok := stream.(*runtime.Output); ok {
		h.unread = out.Unread
	}
	// A stream has no offsets: the kernel sends 0 with every read, and the
	// position is the handle's.
	return h, readFlags | fuse.FOPEN_STREAM, 0
}

// streamHandle reads one stream.
type streamHandle struct {
	synced
	node     *node
	stream   runtime.Stream
	nonblock bool
	right    *grant           // nil where the right to read is checked at the open only
	unread   func([]byte)     // nil where a read consumes nothing
	waiters  prometheus.Gauge // nil where those who wait are not counted
}

var (
	_ fs.FileReader   = (*streamHandle)(nil)
	_ fs.FileReleaser = (*streamHandle)(nil)
)

// Read blocks until there is something to give, and then gives that. It ends with EINTR
// when the client is interrupted, and with ESHUTDOWN when the daemon shuts down.
func (h *streamHandle) Read(ctx context.Context, dest []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	n, errno := h.read(ctx, dest)
	if errno != 0 {
		return waited{}, errno
	}
	return waited{fuse.ReadResultData(dest[:n])}, 0
}

func (h *streamHandle) read(ctx context.Context, dest []byte) (int, syscall.Errno) {
	turn := h.node.fs.lane.turn(ctx)
	defer turn.end()
	if len(dest) == maxRead {
		// It may be a part of a greater read. If it came back full, the kernel would
		// ask for the next part before it gave this one to the client, and wait.
		dest = dest[:maxRead-1]
	}
	for {
		if h.right != nil {
			if err := h.right.check(); err != nil {
				return 0, toErrno(err)
			}
		}
		n, more, err := h.stream.Poll(dest)
		switch {
		case errors.Is(err, io.EOF):
			return 0, 0
		case err != nil:
			return 0, toErrno(err)
		case more == nil && h.unread != nil && ctx.Err() != nil:
			// It was taken for a client that has been interrupted meanwhile.
			h.unread(dest[:n])
			return 0, syscall.EINTR
		case more == nil:
			return n, 0
		case h.nonblock:
			return 0, syscall.EAGAIN
		}
		if errno := turn.await(func() syscall.Errno { return h.await(ctx, more) }); errno != 0 {
			return 0, errno
		}
	}
}

func (h *streamHandle) await(ctx context.Context, more <-chan struct{}) syscall.Errno {
	if h.waiters != nil {
		h.waiters.Inc()
		defer h.waiters.Dec()
	}
	return h.node.fs.await(ctx, more)
}

// Release ends the stream.
func (h *streamHandle) Release(context.Context) syscall.Errno {
	h.stream.Close()
	h.node.drop()
	return 0
}

// await waits for a channel to be closed, for as long as the client does: it ends with EINTR
// when that is interrupted, and with ESHUTDOWN when the daemon shuts down.
func (f *FS) await(ctx context.Context, done <-chan struct{}) syscall.Errno {
	select {
	case <-done:
		return 0
	case <-ctx.Done():
		return syscall.EINTR
	case <-f.closing:
		return syscall.ESHUTDOWN
	}
}
