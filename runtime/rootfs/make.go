package rootfs

import (
	"context"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// Create makes a regular file and opens it, or opens it if it is there already and
// flags does not have O_EXCL. uid and gid are the caller's in the box.
func (r *Root) Create(ctx context.Context, path string, flags int, mode, uid, gid uint32) (f *File, info Info, err error) {
	err = r.in(ctx, path, func(dir *place, name string) error {
		for range 8 { // the box may make it and remove it in turn
			var fd int
			err := r.as(uid, gid, func() error {
				// Only with O_EXCL is it certain that nothing of the box's is opened.
				how := unix.OpenHow{
					Flags:   uint64(flags&openFlags&^unix.O_TRUNC | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC),
					Mode:    uint64(mode & 0o7777),
					Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
				}
				var err error
				fd, err = retry(func() (int, error) { return unix.Openat2(dir.fd, name, &how) })
				return err
			})
			if err == nil {
				f = &File{r.keep(fd), flags&unix.O_ACCMODE != unix.O_RDONLY}
				info, err = r.made(fd, mode)
				if err != nil {
					f.Close()
				}
				return err
			}
			if !errors.Is(err, unix.EEXIST) || flags&unix.O_EXCL != 0 {
				return err
			}
			p, err := r.step(dir, name)
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			if err != nil {
				return err
			}
			defer closeFD(p.fd)
			if f, err = r.open(p, flags); err != nil {
				return err
			}
			info = r.info(p)
			return nil
		}
		return unix.ESTALE
	})
	return f, info, err
}

// made gives a new file the mode that was asked for, whatever the daemon's umask is, and tells
// what the file is.
func (r *Root) made(fd int, mode uint32) (Info, error) {
	p := place{fd: fd}
	if err := statx(fd, &p.st); err != nil {
		return Info{}, err
	}
	want := uint16(mode&0o7777) | p.st.Mode&unix.S_ISGID // a directory may inherit it
	if p.st.Mode&unix.S_IFMT != unix.S_IFLNK && p.st.Mode&0o7777 != want {
		if err := chmod(fd, uint32(want)); err != nil {
			return Info{}, err
		}
		p.st.Mode = p.st.Mode&unix.S_IFMT | want
	}
	return r.info(&p), nil
}

// chmod changes the mode of what a descriptor holds, also an O_PATH one.
func chmod(fd int, mode uint32) error {
	return unix.Fchmodat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), mode, 0)
}

// make makes a file by a call that gives no descriptor of it.
func (r *Root) make(ctx context.Context, path string, mode, uid, gid uint32, call func(dir int, name string) error) (info Info, err error) {
	err = r.in(ctx, path, func(dir *place, name string) error {
		if err := r.as(uid, gid, func() error { return call(dir.fd, name) }); err != nil {
			return err
		}
		p, err := r.step(dir, name)
		if err != nil {
			return err
		}
		defer closeFD(p.fd)
		if p.hidden || !r.run.IDs.has(p.st.Uid) {
			return unix.ESTALE // it is not what was made any more
		}
		info, err = r.made(p.fd, mode)
		return err
	})
	return info, err
}

// Mkdir makes a directory. uid and gid are the caller's in the box.
func (r *Root) Mkdir(ctx context.Context, path string, mode, uid, gid uint32) (Info, error) {
	return r.make(ctx, path, mode, uid, gid, func(dir int, name string) error { return unix.Mkdirat(dir, name, mode&0o7777) })
}

// Symlink makes a symbolic link with that text. uid and gid are the caller's in the box.
func (r *Root) Symlink(ctx context.Context, text, path string, uid, gid uint32) (Info, error) {
	return r.make(ctx, path, 0, uid, gid, func(dir int, name string) error { return unix.Symlinkat(text, dir, name) })
}

// Link gives the file old one more name.
func (r *Root) Link(ctx context.Context, old, path string) (info Info, err error) {
	err = r.at(ctx, old, func(p *place) error {
		if p.hidden || p.is(unix.S_IFDIR) || !r.owns(p) {
			return unix.EPERM
		}
		return r.walkIn(ctx, path, func(dir *place, name string) error {
			if err := r.as(0, 0, func() error { return unix.Linkat(p.fd, "", dir.fd, name, unix.AT_EMPTY_PATH) }); err != nil {
				return err
			}
			p := place{fd: p.fd}
			if err := statx(p.fd, &p.st); err != nil {
				return err
			}
			info = r.info(&p)
			return nil
		})
	})
	return info, err
}
