package rootfs

import (
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper/procfs"
)

// localTypes are the file systems whose files are on this machine and need nobody's help to
// answer. These are not among them: what the kernel makes up (proc, sysfs, cgroup, devpts, …),
// what has a server (FUSE, NFS, 9p, …), autofs, and overlay. The layers of an overlay can be
// anything, so only the root, which was made for the box, may be one.
var localTypes = map[string]bool{
	"bcachefs": true, "btrfs": true, "devtmpfs": true, "erofs": true, "exfat": true, "ext2": true, "ext3": true, "ext4": true, "f2fs": true,
	"iso9660": true, "jfs": true, "ramfs": true, "reiserfs": true, "squashfs": true, "tmpfs": true, "udf": true, "vfat": true, "xfs": true, "zfs": true,
}

// mountInfoMax bounds what is read to find a mount, in bytes. A mount that is listed after that
// is not entered.
const mountInfoMax = 1 << 20

// mountType returns the type of a mount of the box by its number, or EACCES if the box's
// command does not see it. The caller has a descriptor in the mount, so that no other mount
// gets the number.
func (r *Root) mountType(id uint64) (string, error) {
	mounts, err := procfs.At(r.proc).Mounts(mountInfoMax)
	if err != nil {
		return "", err
	}
	for m := range mounts {
		if m.ID == id {
			return m.Type, nil
		}
	}
	return "", unix.EACCES
}

// enters reports whether the mount of fd, whose number is id, may be entered.
func (r *Root) enters(fd int, id uint64) bool {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID_UNIQUE, &st)
	unique := err == nil && st.Mask&unix.STATX_MNT_ID_UNIQUE != 0 // since Linux 6.8
	if unique {
		r.mountsMu.Lock()
		ok, known := r.mounts[st.Mnt_id]
		r.mountsMu.Unlock()
		if known {
			return ok
		}
	}
	typ, err := r.mountType(id)
	ok := err == nil && localTypes[typ]
	if unique && err == nil {
		r.mountsMu.Lock()
		defer r.mountsMu.Unlock()
		if len(r.mounts) >= 1024 {
			clear(r.mounts)
		}
		r.mounts[st.Mnt_id] = ok
	}
	return ok
}
