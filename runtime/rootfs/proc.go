package rootfs

import (
	"bufio"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
)

// FindCommand opens /proc/PID of a box's command, O_PATH. It gives ErrNoProcess if it finds none.
//
// The command is the oldest child of the shim, since what else becomes its child (probes,
// orphans) comes later. Of a box that has ids of its own it is the oldest process that is in
// another user namespace, child or grandchild: an OCI runtime that has not ended yet has the
// host's files. A container's init is not the command.
func FindCommand(bootID string, shim reaper.Identity, ids IDs) (int, error) {
	executed := func(fd int) bool {
		return ids == HostIDs || !sameProgram("/proc/self/fd/"+strconv.Itoa(fd), "/proc/"+strconv.Itoa(shim.PID))
	}
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
	text, err := readProc(dir, "stat", 1<<10)
	if err != nil {
		return -1, err
	}
	number, _, _ := strings.Cut(text, " ")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return -1, err
	}
	found, err := oldestChild(pid, wanted)
	if err != nil || found < 0 {
		return -1, err
	}
	if _, _, err := parentOf(dir); err != nil { // it has ended, and the pid may be another's
		closeFD(found)
		return -1, err
	}
	return found, nil
}

// oldestChild returns /proc/PID of the oldest child of pid that is wanted, or -1.
func oldestChild(pid int, wanted func(fd int) bool) (int, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	threads, err := os.ReadDir(dir + "/task")
	if err != nil {
		return -1, err
	}
	oldest, since := -1, uint64(math.MaxUint64)
	for _, thread := range threads {
		// The children of a thread that has ended meanwhile are another thread's.
		list, err := os.ReadFile(dir + "/task/" + thread.Name() + "/children")
		if err != nil {
			continue
		}
		for _, child := range strings.Fields(string(list)) {
			fd, err := unix.Open("/proc/"+child, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			parent, started, err := parentOf(fd)
			if err != nil || parent != pid || started >= since || !wanted(fd) {
				closeFD(fd)
				continue
			}
			if oldest >= 0 {
				closeFD(oldest)
			}
			oldest, since = fd, started
		}
	}
	return oldest, nil
}

// ourUsers reports whether the process of /proc/PID dir is in the daemon's user
// namespace, or may be: it has ended, say.
func ourUsers(dir int) bool {
	var ours, its unix.Stat_t
	return unix.Stat("/proc/self/ns/user", &ours) != nil || unix.Fstatat(dir, "ns/user", &its, 0) != nil || ours.Dev == its.Dev && ours.Ino == its.Ino
}

// sameProgram reports whether two processes, given by their directories in /proc, have
// the same program: the init of a container has that of its shim, and no process of the box
// can have it.
func sameProgram(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a+"/exe", &sa) == nil && unix.Stat(b+"/exe", &sb) == nil && sa.Dev == sb.Dev && sa.Ino == sb.Ino
}

// parentOf reads the parent and the start time, in ticks after boot, of a process.
func parentOf(dir int) (parent int, started uint64, err error) {
	text, err := readProc(dir, "stat", 1<<10)
	if err != nil {
		return 0, 0, err
	}
	// The name of the program, in parentheses, may have any character.
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 20 || f[0] == "Z" {
		return 0, 0, ErrNoProcess
	}
	if parent, err = strconv.Atoi(f[1]); err != nil {
		return 0, 0, err
	}
	started, err = strconv.ParseUint(f[19], 10, 64)
	return parent, started, err
}

// readProc reads a file of /proc/PID, up to max bytes.
func readProc(dir int, name string, max int64) (string, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(bufio.NewReaderSize(f, 32<<10), max))
	return string(text), err
}
