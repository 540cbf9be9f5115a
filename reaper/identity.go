package reaper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrGone says that no process with the identity asked for exists any more: it
// ended, its pid belongs to another process now, or the machine was rebooted.
var ErrGone = errors.New("process is gone")

// Identity names one process for good, also across a restart of the daemon and
// the reuse of its pid.
type Identity struct {
	// BootID is the kernel's random id of this boot.
	BootID string `json:"boot_id"`
	// PID is the process id as this daemon sees it.
	PID int `json:"pid"`
	// Inode is the inode of the process's pidfd: unique within a boot since
	// Linux 6.9 (pidfs). 0 on older kernels, where StartTicks decides alone.
	Inode uint64 `json:"pidfd_inode,omitempty"`
	// StartTicks is the start time in clock ticks after boot (10 ms each).
	StartTicks uint64 `json:"start_ticks"`
}

// pidfsMagic is PID_FS_MAGIC of linux/magic.h. Before pidfs all pidfds share
// the inode of anon_inodefs, which says nothing.
const pidfsMagic = 0x50494446

// BootID returns the kernel's id of this boot.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// identify reads the identity of the process behind an open pidfd. The caller
// must know that the process has not been reaped.
func identify(bootID string, pid, pidfd int) (Identity, error) {
	id := Identity{BootID: bootID, PID: pid}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(pidfd, &fs); err != nil {
		return id, fmt.Errorf("statfs of the pidfd of %d: %w", pid, err)
	}
	if fs.Type == pidfsMagic {
		var st unix.Stat_t
		if err := unix.Fstat(pidfd, &st); err != nil {
			return id, fmt.Errorf("stat of the pidfd of %d: %w", pid, err)
		}
		id.Inode = st.Ino
	}
	st, err := readStat(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/stat")
	id.StartTicks = st.startTicks
	return id, err
}

// same reports whether two identities are of one process. An inode counts where
// both have one: a daemon that was refused pidfds knows none.
func (id Identity) same(o Identity) bool {
	if id.Inode == 0 || o.Inode == 0 {
		id.Inode, o.Inode = 0, 0
	}
	return id == o
}

// stat is what is needed of /proc/PID/stat.
type stat struct {
	state      string
	parent     int
	threads    int
	startTicks uint64
	// exit is the wait status of a zombie; 0 where it is not for this process to see.
	exit unix.WaitStatus
}

// readStat reads a stat file of /proc, by a path that may start at a directory of
// a process.
func readStat(dirfd int, path string) (stat, error) {
	var buf [1024]byte
	b, err := read(dirfd, path, buf[:])
	if err != nil {
		return stat{}, err
	}
	// The second field, the command's name, may hold spaces and parentheses.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 50 {
		return stat{}, fmt.Errorf("%s of a process has only %d fields after the name", path, len(f))
	}
	s := stat{state: f[0]}
	var perr, terr, serr error
	s.parent, perr = strconv.Atoi(f[1])
	s.threads, terr = strconv.Atoi(f[17])
	s.startTicks, serr = strconv.ParseUint(f[19], 10, 64)
	exit, eerr := strconv.ParseUint(f[49], 10, 32)
	s.exit = unix.WaitStatus(exit)
	return s, errors.Join(perr, terr, serr, eerr)
}

// read fills buf from the beginning of a file of /proc, which gives in one read
// what fits.
func read(dirfd int, path string, buf []byte) ([]byte, error) {
	for {
		fd, err := unix.Openat(dirfd, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		n, err := unix.Read(fd, buf)
		_ = unix.Close(fd)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		return buf[:n], nil
	}
}

// State returns the one-letter scheduling state of a process as in proc(5):
// R, S, D, T, t, Z, …; "X" if it does not exist.
func State(pid int) string {
	st, err := readStat(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/stat")
	if err != nil {
		return "X"
	}
	return st.state
}
