package cgroup

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	cgroup1 "github.com/opencontainers/cgroups/fs"
)

// Limits is what all processes of a group may use together; 0 is no limit.
type Limits struct {
	CPUs   float64 // processors
	Memory int64   // bytes, of which none is swapped out where the kernel counts swap
	Pids   int64   // threads, each process being one at least
	// PidsByDefault says that nobody has asked for Pids: a host without that controller
	// runs the processes without.
	PidsByDefault bool
}

// Asked returns what somebody has asked for.
func (r Limits) Asked() Limits {
	if r.PidsByDefault {
		r.Pids, r.PidsByDefault = 0, false
	}
	return r
}

// cpuPeriod is the period of a CPU quota in microseconds: the kernel's default.
const cpuPeriod = 100_000

// preparedV1 has the library find out once, with a group that is nowhere, what it keeps
// for all groups of v1: it does so at the first Set, without a lock.
var preparedV1 = sync.OnceValue(func() error {
	m, err := cgroup1.NewManager(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, map[string]string{})
	if err != nil {
		return err
	}
	return m.Set(&cgroups.Resources{})
})

// Limit makes the limits hold, at once and for what runs already. What is not
// limited becomes unlimited.
func (g *Group) Limit(res Limits) error {
	if !g.V2 {
		if err := preparedV1(); err != nil {
			return err
		}
	}
	r := &cgroups.Resources{MemoryCheckBeforeUpdate: true}
	if g.Dirs["memory"] != "" {
		r.Memory = -1
		if res.Memory > 0 {
			r.Memory = res.Memory
			if g.V2 || exists(filepath.Join(g.Dirs["memory"], "memory.memsw.limit_in_bytes")) {
				r.MemorySwap = res.Memory // of both together, so that there is no swap
			}
		}
	}
	if g.Dirs["cpu"] != "" {
		r.CpuPeriod, r.CpuQuota = cpuPeriod, -1
		if res.CPUs > 0 {
			r.CpuQuota = int64(res.CPUs * cpuPeriod)
		}
	}
	if g.Dirs["pids"] != "" {
		limit := int64(-1)
		if res.Pids > 0 {
			limit = res.Pids
		}
		r.PidsLimit = &limit
	}
	return g.m.Set(r)
}

// Unbound reports whether the limit of a controller, which its file has, is none for the group.
func (g *Group) Unbound(controller, file string) (bool, error) {
	dir := g.Dirs[controller]
	if dir == "" {
		return true, nil
	}
	text, err := cgroups.ReadFile(dir, file)
	return strings.TrimSpace(text) == "max", err
}

// Throttle limits the processor time of the group, as Limit does, to so many
// processors; 0 is no limit.
func (g *Group) Throttle(cpus float64) error {
	if g == nil || g.Dirs["cpu"] == "" {
		return nil
	}
	file, quota := "cpu.cfs_quota_us", "-1"
	if g.V2 {
		file, quota = "cpu.max", "max"
	}
	if cpus > 0 {
		quota = strconv.FormatInt(int64(cpus*cpuPeriod), 10)
	}
	err := g.write("cpu", file, quota)
	if Gone(err) {
		return nil
	}
	return err
}

// InForce leaves out of res the bound that nobody has asked for, where it cannot be had.
func (t *Tree) InForce(res Limits) Limits {
	if t.dirs["pids"] == "" {
		return res.Asked()
	}
	return res
}

// Missing says in one sentence which limit cannot be had on this host, or nil.
func (t *Tree) Missing(res Limits) error {
	res = res.Asked()
	for _, need := range []struct {
		key, controller string
		asked           bool
	}{
		{"cpus", "cpu", res.CPUs > 0},
		{"memory", "memory", res.Memory > 0},
		{"pids", "pids", res.Pids > 0},
	} {
		if need.asked && t.dirs[need.controller] == "" {
			return fmt.Errorf("resources.%s needs the cgroup controller %q, which is not to be had here: %w (remove the limit, or provide the controller)",
				need.key, need.controller, t.lack[need.controller])
		}
	}
	return nil
}
