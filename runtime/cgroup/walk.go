package cgroup

import (
	"github.com/boxlitefs/boxlite/reaper/procfs"
)

// Walk adds up what /proc says of all processes that descend from init, for a host without
// cgroups. init itself counts nothing but what it has reaped. Of known the OOM kills are taken.
func Walk(init int, known Stats) (Stats, error) {
	st := Stats{OOMKills: known.OOMKills}
	err := st.add(init, true)
	return st, err
}

// add counts a process and what descends from it. One that ends meanwhile counts
// nothing: its time is in its parent's.
func (st *Stats) add(pid int, init bool) error {
	p := procfs.Of(pid)
	stat, err := p.Stat()
	if Gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if init {
		st.CPU += stat.ReapedUserTime + stat.ReapedSystemTime
	} else {
		st.CPU += stat.UserTime + stat.SystemTime
		st.Pids++
		memory, err := p.PrivateMemory()
		if err != nil && !Gone(err) {
			return err
		}
		st.Memory += memory
	}
	children, err := p.Children()
	if err != nil && !Gone(err) {
		return err
	}
	for _, child := range children {
		if init && procfs.Of(child).SameProgram(p) {
			continue // the init of a container, which its cgroup would not count either
		}
		if err := st.add(child, false); err != nil {
			return err
		}
	}
	return nil
}
