//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// checkRoot refuses a root that could lead the runtime astray: runc makes links in
// /dev before the host is out of its sight, and follows that if it is a link itself.
func checkRoot() *wire.StartError {
	for _, name := range [...]string{"/dev", "/proc", "/sys"} {
		var st unix.Stat_t
		err := unix.Lstat(wire.ContainerRoot+name, &st)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return &wire.StartError{Step: wire.StepMount, Errno: unix.ENOTDIR, Detail: "the container's root has no directory " + name}
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return wire.NewStartError(wire.StepMount, "cannot look at "+name+" of the container's root", err)
		}
	}
	return nil
}

// openTree returns a detached copy of the mount at a directory, without those below.
func openTree(path string) (int, error) {
	return sys.Retry(func() (int, error) {
		return unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	})
}

// mapAll gives detached mounts the ids of the container.
func mapAll(c *wire.Container, ids int, given []wire.Mount, mounts, layers []int) *wire.StartError {
	for i, tree := range mounts {
		// A file system that cannot map ids is given as it is: its owners are nobody
		// in the box.
		if err := mapIDs(tree, ids, unix.AT_RECURSIVE); err != nil && !errors.Is(err, unix.EINVAL) {
			return wire.NewStartError(wire.StepMount, "mount "+given[i].Source+" on "+given[i].Target, err)
		}
		// Not all runtimes do this to what is below.
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
		if given[i].ReadOnly {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			return wire.NewStartError(wire.StepMount, "mount "+given[i].Source+" on "+given[i].Target, err)
		}
	}
	for i, tree := range layers {
		err := mapIDs(tree, ids, 0)
		if errors.Is(err, unix.EINVAL) {
			return &wire.StartError{Step: wire.StepMount, Errno: unix.EINVAL, Detail: "the file system of " + c.Layers[i] + " cannot be mounted with other ids (ext4, xfs, btrfs and tmpfs can)"}
		}
		if err != nil {
			return wire.NewStartError(wire.StepMount, "cannot mount "+c.Layers[i]+" with the ids of the container", err)
		}
	}
	return nil
}

// makeTmp makes /tmp where the root has none: programs take it for granted.
func makeTmp(owner int) error {
	const tmp = wire.ContainerRoot + "/tmp"
	err := unix.Mkdir(tmp, 0o700)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err == nil {
		err = unix.Lchown(tmp, owner, owner)
	}
	if err == nil {
		err = unix.Chmod(tmp, 0o777|unix.S_ISVTX)
	}
	return err
}

// mountRoot puts the root together. Device files of an image are dead in it: those
// of the box are bind mounts.
func mountRoot(layers []int, changes int) error {
	if changes < 0 {
		if err := restrict(layers[0]); err != nil {
			return err
		}
		return place(layers[0], wire.ContainerRoot)
	}
	lower := make([]string, len(layers))
	for i, tree := range layers {
		lower[i] = layersDir + "/" + strconv.Itoa(i)
		if err := place(tree, lower[i]); err != nil {
			return err
		}
	}
	if err := place(changes, changesDir); err != nil {
		return err
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + changesDir + "/upper,workdir=" + changesDir + "/work"
	return unix.Mount("overlay", wire.ContainerRoot, "overlay", unix.MS_NODEV, options)
}

func restrict(tree int) error {
	return unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV})
}

// mapIDs gives a detached mount the ids of a user namespace.
func mapIDs(tree, userns int, flags uint) error {
	return unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)})
}

// place mounts a detached tree on a new directory, or file, of the shim's own.
func place(tree int, target string) error {
	var st unix.Stat_t
	err := unix.Fstat(tree, &st)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err = unix.Mkdir(target, 0o755); errors.Is(err, unix.EEXIST) {
			err = nil
		}
	} else {
		err = writeFile(target, nil, 0)
	}
	if err == nil {
		err = unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	if err != nil {
		return err
	}
	return unix.Close(tree)
}
