//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// detachMounts cuts the box's mount namespace loose from the host's: what is
// mounted in the box stays there, while an unmount on the host still reaches
// the box, which therefore never keeps a file system of the host busy.
func detachMounts() *wire.StartError {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return wire.NewStartError(wire.StepNamespace, "cannot detach the box's mounts from the host's", err)
	}
	return nil
}

// setUp makes the box's view of the system as spec says.
func setUp(spec *wire.Spec) *wire.StartError {
	// Sources are taken before anything is covered: one may be in a place that
	// the box is not to see.
	trees := make([]int, len(spec.Mounts))
	for i, m := range spec.Mounts {
		fd, err := cloneTree(m.Source)
		if err != nil {
			return wire.NewStartError(wire.StepMount, "mount "+m.Source+" on "+m.Target, err)
		}
		trees[i] = fd
	}
	for _, path := range spec.Mask {
		if err := mask(path); err != nil {
			return wire.NewStartError(wire.StepMask, "cannot hide "+path, err)
		}
	}
	if spec.ReadonlyRoot {
		if err := readonlyRoot(); err != nil {
			return err
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return wire.NewStartError(wire.StepNamespace, "cannot mount /proc", err)
	}
	for i, m := range spec.Mounts {
		if err := attach(trees[i], m); err != nil {
			return wire.NewStartError(wire.StepMount, "mount "+m.Source+" on "+m.Target, err)
		}
	}
	if spec.Hostname != "" {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return wire.NewStartError(wire.StepHostname, "cannot set hostname "+spec.Hostname, err)
		}
	}
	if spec.PrivateNet {
		if err := loopbackUp(); err != nil {
			return wire.NewStartError(wire.StepNetwork, "cannot bring up the loopback interface", err)
		}
	}
	return nil
}

// cloneTree returns a detached copy of the mounts at path, which is all of them
// below a directory.
func cloneTree(path string) (int, error) {
	return sys.Retry(func() (int, error) {
		return unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	})
}

// attach mounts the detached tree on the target of m.
func attach(tree int, m wire.Mount) error {
	if m.ReadOnly {
		ro := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &ro); err != nil {
			return err
		}
	}
	flags := unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_SYMLINKS
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, m.Target, flags); err != nil {
		if errors.Is(err, unix.EINVAL) {
			err = mismatch(tree, m.Target)
		}
		return err
	}
	return unix.Close(tree)
}

// mismatch finds a better word than EINVAL for a mount that was refused: a
// directory goes on a directory only, and anything else on no directory.
func mismatch(tree int, target string) error {
	var from, to unix.Stat_t
	if unix.Fstat(tree, &from) != nil || unix.Stat(target, &to) != nil {
		return unix.EINVAL
	}
	fromDir, toDir := from.Mode&unix.S_IFMT == unix.S_IFDIR, to.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case fromDir && !toDir:
		return unix.ENOTDIR
	case toDir && !fromDir:
		return unix.EISDIR
	}
	return unix.EINVAL
}

// mask covers the directory at path with an empty read-only tmpfs. A path that
// does not exist needs none.
//
// The path is typically the daemon's own FUSE mount, alive or dead. It is never
// looked into, since a request to it would wait for the daemon that waits for
// this start, or fail because the daemon is gone: umount2 of a mount point and
// mounting on one send no request, and whatever is mounted there is unmounted
// (from the box only) before.
//
// The host goes on mounting and unmounting there while the box runs (a restart
// of the daemon does both), and propagation carries that into the box:
//
//   - A mount that arrives where something is mounted already is tucked
//     beneath it (attach_recursive_mnt): the tmpfs stays on top.
//   - An unmount takes away the lowest mount at that place in the box, be it
//     the copy of what the host unmounts or not. Here that would be the tmpfs,
//     since the copy was unmounted above, and the mount after that would lie open.
//
// Therefore the tmpfs is there twice. The lower one may be taken; the upper one
// then takes its place (propagate_umount keeps what covers a mount whole), and
// all later mounts have their copy beneath it, which goes when they go.
func mask(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if errors.Is(err, unix.EINVAL) { // nothing is mounted there any more
			break
		}
		if err != nil {
			return err
		}
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("tmpfs", path, "tmpfs", flags, "size=4k,nr_inodes=2,mode=0"); err != nil {
		return err
	}
	return unix.Mount(path, path, "", unix.MS_BIND, "")
}

// readonlyRoot makes every mount read-only. /dev is put back as it was: making
// it writable afterwards would also open what the host had read-only below it.
// What the host mounts later comes as the host mounts it.
func readonlyRoot() *wire.StartError {
	const what = "cannot make the root read-only"
	dev, err := cloneTree("/dev")
	if err != nil {
		return wire.NewStartError(wire.StepReadonlyRoot, what, err)
	}
	ro := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &ro); err != nil {
		return wire.NewStartError(wire.StepReadonlyRoot, what, err)
	}
	if err := attach(dev, wire.Mount{Target: "/dev"}); err != nil {
		return wire.NewStartError(wire.StepReadonlyRoot, what, err)
	}
	return nil
}

// loopbackUp brings up lo in the current network namespace.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer sys.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}
