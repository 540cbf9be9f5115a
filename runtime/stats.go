package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Stats is what a box uses.
type Stats struct {
	// CPU is the user and system time of all its processes in this run, or in
	// the last one if none goes on.
	CPU time.Duration
	// Memory is the memory, in bytes, that counts against its limit; on a host
	// without the controller the private resident memory of its processes.
	Memory int64
	// Pids is the number of its threads without the shim's; on a host without the
	// controller that of its processes.
	Pids int
	// OOMKills is how many of its processes the OOM killer has killed in this
	// run, or in the last one if none goes on.
	OOMKills uint64
}

// clockTick is the unit of times in /proc: USER_HZ is 100 on every Linux port
// that Go runs on.
const clockTick = 10 * time.Millisecond

// Stats tells what the cgroup of the run counts. It asks no one, so a box can't
// hold it up.
func (b *Box) Stats() (Stats, error) {
	s := b.Snapshot()
	last := Stats{CPU: s.CPU, OOMKills: s.OOMKills}
	if s.PID <= 0 {
		return last, nil
	}
	st, complete, err := s.run.cgroup().usage()
	if gone(err) {
		return last, nil // it has just ended
	}
	if err == nil && !complete {
		st, err = walk(s.PID, st)
	}
	if err != nil {
		return st, b.fail("stats", err)
	}
	return st, nil
}

// walk adds up what /proc says of a box's processes, for a host without cgroups.
// All of them descend from the shim, which is their init.
func walk(pid int, known Stats) (Stats, error) {
	st := Stats{OOMKills: known.OOMKills}
	err := st.add(pid, true)
	return st, err
}

// add counts a process and what descends from it. One that ends meanwhile counts
// nothing: its time is in its parent's.
func (st *Stats) add(pid int, shim bool) error {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(f) < 15 {
		return fmt.Errorf("%s/stat has only %d fields", dir, len(f))
	}
	// utime and stime, and for the shim those of all it has reaped.
	times := f[11:13]
	if shim {
		times = f[13:15]
	}
	for _, t := range times {
		n, err := strconv.ParseInt(t, 10, 64)
		if err != nil {
			return err
		}
		st.CPU += time.Duration(n) * clockTick
	}
	if !shim {
		st.Pids++
		if st.Memory, err = addPrivate(st.Memory, dir); err != nil {
			return err
		}
	}
	tasks, err := os.ReadDir(dir + "/task")
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, t := range tasks {
		children, err := os.ReadFile(dir + "/task/" + t.Name() + "/children")
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, c := range strings.Fields(string(children)) {
			n, err := strconv.Atoi(c)
			if err != nil {
				return err
			}
			if shim && sameProgram(dir, "/proc/"+c) {
				continue // the init of a container, which its cgroup would not count either
			}
			if err := st.add(n, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// addPrivate adds a process's resident pages that are not shared with a file.
func addPrivate(sum int64, dir string) (int64, error) {
	statm, err := os.ReadFile(dir + "/statm")
	if gone(err) {
		return sum, nil
	}
	if err != nil {
		return sum, err
	}
	f := strings.Fields(string(statm))
	if len(f) < 3 {
		return sum, fmt.Errorf("%s/statm has only %d fields", dir, len(f))
	}
	resident, err1 := strconv.ParseInt(f[1], 10, 64)
	shared, err2 := strconv.ParseInt(f[2], 10, 64)
	return sum + max(0, resident-shared)*int64(os.Getpagesize()), errors.Join(err1, err2)
}

// gone reports whether a read of /proc or of a cgroup failed because what it tells
// of has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.ENODEV)
}

// sameProgram reports whether two processes, given by their directories in /proc, have
// the same program: the init of a container has that of its shim, and no process of the box
// can have it.
func sameProgram(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a+"/exe", &sa) == nil && unix.Stat(b+"/exe", &sb) == nil && sa.Dev == sb.Dev && sa.Ino == sb.Ino
}
