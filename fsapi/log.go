package fsapi

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// logFile is the log of a box.
type logFile struct {
	node
	box *runtime.Box
}

var (
	_ stater        = (*logFile)(nil)
	_ fs.NodeOpener = (*logFile)(nil)
)

// stat shows how much was ever written as the size.
func (l *logFile) stat() (attr, syscall.Errno) {
	size, mtime := l.box.LogSize()
	return l.own(attr{size: size, mtime: mtime})
}

// Open gives a reader of all that is kept.
func (l *logFile) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := readOnly(flags); errno != 0 {
		return nil, 0, errno
	}
	if l.of.removed() {
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
	h.file.drop()
	return 0
}
