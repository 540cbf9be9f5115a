package reaper

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper/procfs"
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
	st, err := procfs.Of(pid).Stat()
	id.StartTicks = st.StartTicks
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

// State returns the one-letter scheduling state of a process as in proc(5):
// R, S, D, T, t, Z, …; "X" if it does not exist.
func State(pid int) string {
	st, err := procfs.Of(pid).Stat()
	if err != nil {
		return "X"
	}
	return st.State
}
