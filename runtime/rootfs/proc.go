package rootfs

import (
	"math"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/reaper/procfs"
)

// FindCommand opens /proc/PID of a box's command, O_PATH. It gives ErrNoProcess if it finds none.
//
// The command is the oldest child of the shim, since what else becomes its child (probes,
// orphans) comes later. Of a box that has ids of its own it is the oldest process that is in
// another user namespace, child or grandchild: an OCI runtime that has not ended yet has the
// host's files. A container's init is not the command.
func FindCommand(bootID string, shim reaper.Identity, ids IDs) (int, error) {
	// The init of a container has the program of its shim, and no process of the box can have it.
	executed := func(fd int) bool { return ids == HostIDs || !procfs.At(fd).SameProgram(procfs.Of(shim.PID)) }
	found, err := oldestChild(shim.PID, func(fd int) bool { return executed(fd) && (ids == HostIDs || !ourUsers(fd)) })
	if err == nil && found < 0 && ids != HostIDs {
		var parent int
		if parent, err = oldestChild(shim.PID, executed); err == nil && parent >= 0 {
			found, err = childOf(parent, func(fd int) bool { return !ourUsers(fd) })
			closeFD(parent)
		}
	}
	if err != nil || found < 0 {
		return -1, ErrNoProcess
	}
	// If the pid is still the shim's, it has been all the time, and the child is the shim's.
	now, err := reaper.Identify(bootID, shim.PID)
	if err != nil || now.StartTicks != shim.StartTicks || (shim.Inode != 0 && now.Inode != 0 && now.Inode != shim.Inode) {
		closeFD(found)
		return -1, ErrNoProcess
	}
	return found, nil
}

// childOf returns the oldest child that is wanted of the process of /proc/PID dir.
func childOf(dir int, wanted func(fd int) bool) (int, error) {
	parent, err := procfs.At(dir).Stat()
	if err != nil {
		return -1, err
	}
	found, err := oldestChild(parent.PID, wanted)
	if err != nil || found < 0 {
		return -1, err
	}
	if parent, err = procfs.At(dir).Stat(); err != nil || parent.State == "Z" { // it has ended, and the pid may be another's
		closeFD(found)
		return -1, ErrNoProcess
	}
	return found, nil
}

// oldestChild returns /proc/PID of the oldest child of pid that is wanted, or -1.
func oldestChild(pid int, wanted func(fd int) bool) (int, error) {
	children, err := procfs.Of(pid).Children()
	if err != nil {
		return -1, err
	}
	oldest, since := -1, uint64(math.MaxUint64)
	for _, child := range children {
		fd, err := unix.Open("/proc/"+strconv.Itoa(child), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		s, err := procfs.At(fd).Stat()
		if err != nil || s.State == "Z" || s.Parent != pid || s.StartTicks >= since || !wanted(fd) {
			closeFD(fd)
			continue
		}
		if oldest >= 0 {
			closeFD(oldest)
		}
		oldest, since = fd, s.StartTicks
	}
	return oldest, nil
}

// ourUsers reports whether the process of /proc/PID dir is in the daemon's user
// namespace, or may be: it has ended, say.
func ourUsers(dir int) bool {
	var ours, its unix.Stat_t
	return unix.Stat("/proc/self/ns/user", &ours) != nil || unix.Fstatat(dir, "ns/user", &its, 0) != nil || ours.Dev == its.Dev && ours.Ino == its.Ino
}
