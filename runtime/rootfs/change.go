package rootfs

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Remove removes a name: that of an empty directory if dir is true, of anything else if not.
func (r *Root) Remove(ctx context.Context, path string, dir bool) error {
	flags := 0
	if dir {
		flags = unix.AT_REMOVEDIR
	}
	return r.in(ctx, path, func(d *place, name string) error {
		if err := r.replaceable(d, name); err != nil {
			return err
		}
		return unix.Unlinkat(d.fd, name, flags)
	})
}

// Rename is renameat2(2) with the flags RENAME_NOREPLACE and RENAME_EXCHANGE. Others give EINVAL.
func (r *Root) Rename(ctx context.Context, old, path string, flags uint) error {
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return unix.EINVAL
	}
	return r.in(ctx, old, func(from *place, oldName string) error {
		if err := r.replaceable(from, oldName); err != nil {
			return err
		}
		return r.walkIn(ctx, path, func(to *place, name string) error {
			if err := r.replaceable(to, name); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
			return r.as(0, 0, func() error { return unix.Renameat2(from.fd, oldName, to.fd, name, flags) })
		})
	})
}

// Change is what is to change of a file. A field that is nil stays as it is.
type Change struct {
	UID, GID     *uint32 // in the box
	Mode         *uint32 // without the type
	Size         *int64  // in bytes
	Atime, Mtime *unix.Timespec
}

// Change changes a file. What was changed before an error stays changed.
func (r *Root) Change(ctx context.Context, path string, c Change) error {
	return r.at(ctx, path, func(p *place) error {
		if p.hidden {
			return unix.EPERM
		}
		// The owner comes first: a change of it takes setuid away.
		if c.UID != nil || c.GID != nil || c.Mode != nil || c.Atime != nil || c.Mtime != nil {
			if !r.owns(p) {
				return unix.EPERM
			}
		}
		if c.UID != nil || c.GID != nil {
			uid, gid := -1, -1
			for _, id := range []struct {
				given *uint32
				host  *int
			}{{c.UID, &uid}, {c.GID, &gid}} {
				if id.given == nil {
					continue
				}
				n, err := r.run.IDs.given(*id.given)
				if err != nil {
					return err
				}
				*id.host = int(n)
			}
			if err := unix.Fchownat(p.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
				return fmt.Errorf("chown: %w", err)
			}
		}
		if c.Mode != nil {
			if p.is(unix.S_IFLNK) {
				return unix.EOPNOTSUPP
			}
			if err := chmod(p.fd, *c.Mode&0o7777); err != nil {
				return fmt.Errorf("chmod: %w", err)
			}
		}
		if c.Size != nil {
			if err := r.truncate(p, *c.Size); err != nil {
				return fmt.Errorf("truncate: %w", err)
			}
		}
		if c.Atime != nil || c.Mtime != nil {
			times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
			if c.Atime != nil {
				times[0] = *c.Atime
			}
			if c.Mtime != nil {
				times[1] = *c.Mtime
			}
			if err := unix.UtimesNanoAt(p.fd, "", times, unix.AT_EMPTY_PATH); err != nil {
				return fmt.Errorf("utimensat: %w", err)
			}
		}
		return nil
	})
}

// truncate sets the size of a regular file that was found.
func (r *Root) truncate(p *place, size int64) error {
	f, err := r.open(p, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.useNow(func(fd int) error { return unix.Ftruncate(fd, size) })
}
