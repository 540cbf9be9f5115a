package rootfs

import (
	"context"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// place is a file of the box, held by an O_PATH descriptor.
type place struct {
	fd int
	st unix.Statx_t
	// hidden says that it is in a mount that is not entered. It looks empty, and nothing
	// can be done with it.
	hidden bool
}

// is reports whether it is of that type, S_IFREG say. What is hidden is of none.
func (p *place) is(kind uint16) bool { return !p.hidden && p.st.Mode&unix.S_IFMT == kind }

// statx looks at what fd holds. It asks for nothing that is not known to the kernel
// already: fd may be in a mount that must not be entered.
func statx(fd int, st *unix.Statx_t) error {
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, st)
	if err == nil && st.Mask&unix.STATX_MNT_ID == 0 {
		err = unix.ENOSYS
	}
	return err
}

// owns reports whether root in the box has power over a file. It has if both ids of the file
// are the box's, as capable_wrt_inode_uidgid in the kernel has it.
func (r *Root) owns(p *place) bool {
	return r.run.IDs == HostIDs || r.run.IDs.has(p.st.Uid) && r.run.IDs.has(p.st.Gid)
}

// What may is asked for. The bits are those of a file's mode for others.
const (
	mayRead   = 0o4
	mayWrite  = 0o2
	maySearch = 0o1
)

// may reports whether root in the box may use a file as how says.
func (r *Root) may(p *place, how uint16) bool {
	return !p.hidden && (r.owns(p) || p.st.Mode&how == how)
}

// step goes from a directory to one of its names. The caller closes the descriptor of what it
// returns. A mount that covers the name is entered.
func (r *Root) step(dir *place, name string) (*place, error) {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/'):
		return nil, unix.EINVAL
	case dir.hidden:
		return nil, unix.ENOENT
	case !dir.is(unix.S_IFDIR):
		return nil, unix.ESTALE // the box has swapped it
	case !r.may(dir, maySearch):
		return nil, unix.EACCES
	}
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := retry(func() (int, error) { return unix.Openat2(dir.fd, name, &how) })
	if err != nil {
		return nil, err
	}
	p := &place{fd: fd}
	switch err := statx(fd, &p.st); {
	case errors.Is(err, unix.EACCES): // somebody's FUSE mount
		p.hidden = true
		p.st.Mode = unix.S_IFDIR
	case err != nil:
		closeFD(fd)
		return nil, err
	case p.st.Mnt_id != dir.st.Mnt_id && !r.enters(fd, p.st.Mnt_id):
		p.hidden = true
	}
	return p, nil
}

// retry makes a system call until no signal cuts it short.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}

// at runs fn with what path names.
func (r *Root) at(ctx context.Context, path string, fn func(p *place) error) error {
	return r.use(ctx, func() error { return r.walk(ctx, path, fn) })
}

// walk is at for a caller inside use. It ends with ctx: a path may have thousands of names.
func (r *Root) walk(ctx context.Context, path string, fn func(p *place) error) error {
	p := &r.top
	for len(path) > 0 {
		var name string
		name, path, _ = strings.Cut(path, "/")
		var next *place
		err := error(unix.EINTR)
		if ctx.Err() == nil {
			next, err = r.step(p, name)
		}
		if p != &r.top {
			closeFD(p.fd)
		}
		if err != nil {
			return err
		}
		p = next
	}
	if p != &r.top {
		defer closeFD(p.fd)
	}
	return fn(p)
}

// in runs fn with the directory that holds what path names, and with the name there. Root in
// the box may change that directory.
func (r *Root) in(ctx context.Context, path string, fn func(dir *place, name string) error) error {
	return r.use(ctx, func() error { return r.walkIn(ctx, path, fn) })
}

// walkIn is in for a caller inside use.
func (r *Root) walkIn(ctx context.Context, path string, fn func(dir *place, name string) error) error {
	if path == "" {
		return unix.EBUSY
	}
	i := strings.LastIndexByte(path, '/')
	return r.walk(ctx, path[:max(i, 0)], func(dir *place) error {
		if !dir.hidden && !dir.is(unix.S_IFDIR) {
			return unix.ESTALE
		}
		if !r.may(dir, mayWrite|maySearch) {
			return unix.EACCES
		}
		return fn(dir, path[i+1:])
	})
}

// replaceable returns an error if root in the box may not remove or rename a name. A mount
// point stays: the kernel would refuse that for mounts of the daemon's own namespace only.
func (r *Root) replaceable(dir *place, name string) error {
	p, err := r.step(dir, name)
	if err != nil {
		return err
	}
	defer closeFD(p.fd)
	if p.hidden || p.st.Mnt_id != dir.st.Mnt_id {
		return unix.EBUSY
	}
	if dir.st.Mode&unix.S_ISVTX != 0 && dir.st.Uid != r.run.IDs.Base && !r.owns(p) {
		return unix.EPERM
	}
	return nil
}
