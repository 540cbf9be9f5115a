package runtime

import (
	"errors"
	"io/fs"
	"syscall"
	"time"

	"github.com/boxlitefs/boxlite/reaper/procfs"
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
	p := procfs.Of(pid)
	stat, err := p.Stat()
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if shim {
		st.CPU += stat.ReapedUserTime + stat.ReapedSystemTime
	} else {
		st.CPU += stat.UserTime + stat.SystemTime
		st.Pids++
		memory, err := p.PrivateMemory()
		if err != nil && !gone(err) {
			return err
		}
		st.Memory += memory
	}
	children, err := p.Children()
	if err != nil && !gone(err) {
		return err
	}
	for _, child := range children {
		if shim && procfs.Of(child).SameProgram(p) {
			continue // the init of a container, which its cgroup would not count either
		}
		if err := st.add(child, false); err != nil {
			return err
		}
	}
	return nil
}

// gone reports whether a read of /proc or of a cgroup failed because what it tells
// of has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.ENODEV)
}
