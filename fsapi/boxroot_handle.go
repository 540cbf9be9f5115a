package fsapi

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime/rootfs"
)

// Open opens a regular file. The kernel caches nothing of it, since the box changes it too.
// Nor does the kernel get the file to read and write by itself (FOPEN_PASSTHROUGH): a client
// could keep it open, and with it the mounts of a box that has ended, for as long as it likes.
func (n *rootNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	path, errno := n.path()
	if errno != 0 {
		return nil, 0, errno
	}
	f, err := n.tree.root.Open(ctx, path, int(flags))
	if err != nil {
		return nil, 0, stale(err)
	}
	if info, err := f.Lstat(ctx); err != nil || !n.is(info) {
		f.Close()
		return nil, 0, syscall.ESTALE
	}
	return &rootHandle{node: n, file: f}, readFlags, 0
}

// rootHandle is an open file of a box.
type rootHandle struct {
	node *rootNode
	file *rootfs.File
}

var (
	_ fs.FileReader    = (*rootHandle)(nil)
	_ fs.FileWriter    = (*rootHandle)(nil)
	_ fs.FileFsyncer   = (*rootHandle)(nil)
	_ fs.FileLseeker   = (*rootHandle)(nil)
	_ fs.FileAllocater = (*rootHandle)(nil)
	_ fs.FileReleaser  = (*rootHandle)(nil)
)

// Read reads, or gives ENODEV once the run of the box has ended.
func (h *rootHandle) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, err := h.file.ReadAt(ctx, dest, off)
	if err != nil {
		return nil, rootErrno(err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Write writes; at the end of a file that was opened with O_APPEND.
func (h *rootHandle) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	n, err := h.file.WriteAt(ctx, data, off)
	return uint32(n), rootErrno(err)
}

// Fsync waits until what was written is on the disk.
func (h *rootHandle) Fsync(ctx context.Context, _ uint32) syscall.Errno {
	return rootErrno(h.file.Sync(ctx))
}

// Lseek finds holes and data.
func (h *rootHandle) Lseek(ctx context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	at, err := h.file.Seek(ctx, int64(off), int(whence))
	return uint64(at), rootErrno(err)
}

// Allocate gives a part of the file its room on the disk, or takes it.
func (h *rootHandle) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	return rootErrno(h.file.Allocate(ctx, int64(off), int64(size), mode))
}

// Release closes the file.
func (h *rootHandle) Release(context.Context) syscall.Errno {
	h.file.Close()
	h.node.tree.fs.drop(h.node.tree.box, h.node.EmbeddedInode())
	return 0
}

// OpendirHandle begins to read a directory.
func (n *rootNode) OpendirHandle(ctx context.Context, _ uint32) (fs.FileHandle, uint32, syscall.Errno) {
	path, errno := n.path()
	if errno != 0 {
		return nil, 0, errno
	}
	d, err := n.tree.root.ReadDir(ctx, path)
	if err != nil {
		return nil, 0, stale(err)
	}
	return &rootDirHandle{node: n, dir: d}, 0, 0
}

// rootDirHandle is an open directory of a box.
type rootDirHandle struct {
	node *rootNode
	dir  *rootfs.Dir
}

var (
	_ fs.FileReaddirenter = (*rootDirHandle)(nil)
	_ fs.FileSeekdirer    = (*rootDirHandle)(nil)
	_ fs.FileReleasedirer = (*rootDirHandle)(nil)
	_ fs.FileFsyncdirer   = (*rootDirHandle)(nil)
)

// Readdirent gives the next name.
func (h *rootDirHandle) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	for {
		e, err := h.dir.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil, 0
		case err != nil:
			return nil, rootErrno(err)
		case e.Name == toRoot || e.Name == toParent:
			continue // that name leads elsewhere here
		}
		return &fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Mode, Off: e.Off}, 0
	}
}

// Seekdir goes to where a name was.
func (h *rootDirHandle) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	return rootErrno(h.dir.Seek(ctx, off))
}

// Fsyncdir waits until the names are on the disk.
func (h *rootDirHandle) Fsyncdir(ctx context.Context, _ uint32) syscall.Errno {
	return rootErrno(h.dir.Sync(ctx))
}

// Releasedir closes the directory.
func (h *rootDirHandle) Releasedir(context.Context, uint32) {
	h.dir.Close()
	h.node.tree.fs.drop(h.node.tree.box, h.node.EmbeddedInode())
}
