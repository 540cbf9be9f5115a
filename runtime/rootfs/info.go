package rootfs

import (
	"context"

	"golang.org/x/sys/unix"
)

// Info is what is shown of a file of a box. Ids are the box's.
type Info struct {
	// Mode has the type, too. A FIFO looks like a socket: whoever opened a FIFO would wait
	// for the box, and the kernel would not ask the daemon first.
	Mode                uint32
	UID, GID            uint32
	Nlink               uint32
	Size, Blocks        uint64 // in bytes; in units of 512 bytes
	Blksize             uint32
	Ino                 uint64 // the same for the same file, and for no other
	Atime, Mtime, Ctime unix.StatxTimestamp
}

func (r *Root) info(p *place) Info {
	st := &p.st
	i := Info{
		Mode: uint32(st.Mode), UID: r.run.IDs.shown(st.Uid), GID: r.run.IDs.shown(st.Gid), Nlink: st.Nlink,
		Size: st.Size, Blocks: st.Blocks, Blksize: st.Blksize,
		Ino:   shownIno(unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino),
		Atime: st.Atime, Mtime: st.Mtime, Ctime: st.Ctime,
	}
	if p.hidden {
		i.Mode &= unix.S_IFMT
		if i.Mode == unix.S_IFDIR {
			i.Mode |= 0o555
		}
		i.UID, i.GID, i.Nlink, i.Size, i.Blocks = 0, 0, 2, 0, 0
	}
	i.Mode = shownType(i.Mode)
	return i
}

// shownType is a mode with the type that is shown, see Info.Mode.
func shownType(mode uint32) uint32 {
	if mode&unix.S_IFMT == unix.S_IFIFO {
		return mode&^unix.S_IFMT | unix.S_IFSOCK
	}
	return mode
}

// shownIno makes one number of a device and an inode number. All files are shown on
// one device, and tools take equal numbers for a loop or for hard links; the numbers
// of the control filesystem itself are small.
func shownIno(dev, ino uint64) uint64 {
	x := ino + dev*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return (x^x>>31)&(1<<62-1) | 1<<62
}

// Lstat tells what path is. As all methods, it follows no symbolic link.
func (r *Root) Lstat(ctx context.Context, path string) (info Info, err error) {
	err = r.at(ctx, path, func(p *place) error {
		info = r.info(p)
		return nil
	})
	return info, err
}

// Readlink returns the text of a symbolic link, or ESTALE for anything else.
func (r *Root) Readlink(ctx context.Context, path string) (text string, err error) {
	err = r.at(ctx, path, func(p *place) error {
		if !p.is(unix.S_IFLNK) {
			return unix.ESTALE
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(p.fd, "", buf)
		text = string(buf[:max(n, 0)])
		return err
	})
	return text, err
}

// Statfs tells about the file system that path is on. All is zero for one that is not entered.
func (r *Root) Statfs(ctx context.Context, path string) (st unix.Statfs_t, err error) {
	err = r.at(ctx, path, func(p *place) error {
		if p.hidden {
			return nil
		}
		return unix.Fstatfs(p.fd, &st)
	})
	return st, err
}
