package rootfs

import (
	"context"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// openFile is a descriptor that is closed at the end of the run, if not before.
type openFile struct {
	root *Root
	mu   sync.RWMutex // held for reading by whatever uses fd; guards fd
	fd   int          // -1: closed
}

// keep has fd closed at the end of the run. The caller is inside use.
func (r *Root) keep(fd int) *openFile {
	f := &openFile{root: r, fd: fd}
	r.filesMu.Lock()
	defer r.filesMu.Unlock()
	r.files[f] = struct{}{}
	return f
}

// use runs fn while the descriptor is certainly open.
func (f *openFile) use(ctx context.Context, fn func(fd int) error) error {
	return f.root.inTurn(ctx, func() error { return f.useNow(fn) })
}

// useNow is use for a caller that has its turn.
func (f *openFile) useNow(fn func(fd int) error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return ErrEnded
	}
	return fn(f.fd)
}

// Sync is fsync(2).
func (f *openFile) Sync(ctx context.Context) error { return f.use(ctx, unix.Fsync) }

// Close closes it. What was written is with the kernel already, so there is no error.
func (f *openFile) Close() {
	f.root.filesMu.Lock()
	delete(f.root.files, f)
	f.root.filesMu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd >= 0 {
		closeFD(f.fd)
		f.fd = -1
	}
}

// File is an open regular file of a box.
type File struct {
	*openFile
	writable bool
}

// openFlags are the flags of open(2) that are passed on.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC

// reopen opens what an O_PATH descriptor holds, and nothing else. The caller has
// made sure that it is a regular file or a directory. O_NONBLOCK is there because a process of
// the box may hold a lease on the file.
func reopen(fd, flags int) (int, error) {
	return retry(func() (int, error) {
		return unix.Open("/proc/self/fd/"+strconv.Itoa(fd), flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
}

// open opens a regular file that was found, if root in the box may use it as flags say.
func (r *Root) open(p *place, flags int) (*File, error) {
	switch {
	case p.is(unix.S_IFLNK) || p.is(unix.S_IFDIR):
		return nil, unix.ESTALE
	case !p.is(unix.S_IFREG):
		return nil, unix.EACCES
	}
	how := uint16(mayRead)
	switch flags & unix.O_ACCMODE {
	case unix.O_WRONLY:
		how = mayWrite
	case unix.O_RDWR:
		how |= mayWrite
	}
	if flags&unix.O_TRUNC != 0 {
		how |= mayWrite
	}
	if !r.may(p, how) {
		return nil, unix.EACCES
	}
	fd, err := reopen(p.fd, flags&openFlags)
	if err != nil {
		return nil, err
	}
	return &File{r.keep(fd), flags&unix.O_ACCMODE != unix.O_RDONLY}, nil
}

// Open opens a regular file. Of flags, the access mode, O_APPEND, O_TRUNC, O_SYNC and
// O_DSYNC count. It gives EACCES for a FIFO, a socket or a device, and ESTALE for a directory or
// a symbolic link.
func (r *Root) Open(ctx context.Context, path string, flags int) (f *File, err error) {
	err = r.at(ctx, path, func(p *place) error {
		f, err = r.open(p, flags)
		return err
	})
	return f, err
}

// ReadAt reads up to len(buf) bytes at off: fewer or none, and no error, at the end of the file.
func (f *File) ReadAt(ctx context.Context, buf []byte, off int64) (n int, err error) {
	err = f.use(ctx, func(fd int) error {
		n, err = retry(func() (int, error) { return unix.Pread(fd, buf, off) })
		return err
	})
	return max(n, 0), err
}

// WriteAt writes at off, or at the end of a file that was opened with O_APPEND.
func (f *File) WriteAt(ctx context.Context, buf []byte, off int64) (n int, err error) {
	err = f.use(ctx, func(fd int) error {
		n, err = retry(func() (int, error) { return unix.Pwrite(fd, buf, off) })
		return err
	})
	return max(n, 0), err
}

// Seek finds data or a hole, as lseek(2) with SEEK_DATA and SEEK_HOLE.
func (f *File) Seek(ctx context.Context, off int64, whence int) (at int64, err error) {
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, unix.EINVAL
	}
	err = f.use(ctx, func(fd int) error {
		at, err = unix.Seek(fd, off, whence)
		return err
	})
	return at, err
}

// Allocate is fallocate(2).
func (f *File) Allocate(ctx context.Context, off, size int64, mode uint32) error {
	return f.use(ctx, func(fd int) error { return unix.Fallocate(fd, mode, off, size) })
}

// Lstat tells what the file is, also when it has no name any more.
func (f *File) Lstat(ctx context.Context) (info Info, err error) {
	err = f.use(ctx, func(fd int) error {
		p := place{fd: fd}
		if err := statx(fd, &p.st); err != nil {
			return err
		}
		info = f.root.info(&p)
		return nil
	})
	return info, err
}

// Truncate sets the size, in bytes. It gives EINVAL for a file that was opened for reading only.
func (f *File) Truncate(ctx context.Context, size int64) error {
	if !f.writable {
		return unix.EINVAL
	}
	return f.use(ctx, func(fd int) error { return unix.Ftruncate(fd, size) })
}
