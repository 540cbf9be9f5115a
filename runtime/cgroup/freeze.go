package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fscommon"
	"golang.org/x/sys/unix"
)

// ThawFile returns the file that thaws the group, and what to write into it.
func (g *Group) ThawFile() (path, word string) {
	switch {
	case !g.CanFreeze():
		return "", ""
	case g.V2:
		return filepath.Join(g.Dirs["freezer"], "cgroup.freeze"), "0"
	}
	return filepath.Join(g.Dirs["freezer"], "freezer.state"), string(cgroups.Thawed)
}

// CanFreeze reports whether the group can be frozen on this host.
func (g *Group) CanFreeze() bool { return g != nil && g.Dirs["freezer"] != "" }

// freezeBound is how long the processes of a group have to come to where they stop.
const freezeBound = 2 * time.Second

// Freeze stops every process of the group where it is, or none. The library would
// give those of a v1 group half a millisecond at a time, and thaw them in between:
// a group with a limit of cpus was seen never to be frozen so. But FROZEN has to be
// written more than once: one that is just being forked may miss it. And a group
// that has used up its share gets there when it has processor time again, so it is
// given some: all that it can do with it is to stop. EBUSY says that a kill has
// thawed the group meanwhile. cpus is the limit of the group, 0 for none.
func (g *Group) Freeze(cpus float64) (err error) {
	file, word := "freezer.state", string(cgroups.Frozen)
	if g.V2 {
		file, word = "cgroup.freeze", "1"
	}
	over := time.After(freezeBound)
	lifted := false
	defer func() {
		if lifted {
			err = errors.Join(err, g.Throttle(cpus))
		}
	}()
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		if err := g.write("freezer", file, word); err != nil {
			return errors.Join(err, g.Thaw())
		}
		if cpus > 0 && !lifted {
			lifted = true
			if err := g.Throttle(0); err != nil {
				return errors.Join(err, g.Thaw())
			}
		}
		stopped, err := g.stopped()
		if err != nil {
			return errors.Join(err, g.Thaw())
		}
		if stopped {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-over:
			return errors.Join(fmt.Errorf("not all of its processes could be stopped within %s", freezeBound), g.Thaw())
		}
		if frozen, err := g.Frozen(); err != nil {
			return errors.Join(err, g.Thaw())
		} else if !frozen {
			return unix.EBUSY
		}
	}
}

// stopped reports whether all that is in a group which freezes is where it stops.
func (g *Group) stopped() (bool, error) {
	if g.V2 {
		n, err := fscommon.GetValueByKey(g.Dirs["freezer"], "cgroup.events", "frozen")
		return n == 1, err
	}
	state, err := cgroups.ReadFile(g.Dirs["freezer"], "freezer.state")
	return strings.TrimSpace(state) == string(cgroups.Frozen), err
}

// Thaw undoes Freeze, whoever did it, also in groups that were made in this one.
func (g *Group) Thaw() error {
	if !g.CanFreeze() {
		return nil
	}
	top := g.Dirs["freezer"]
	path, word := g.ThawFile()
	g.tree.mu.Lock()
	defer g.tree.mu.Unlock()
	if !g.tree.isOf(top, g) {
		return nil // that of a later one
	}
	err := filepath.WalkDir(top, func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return cgroups.WriteFile(dir, filepath.Base(path), word)
	})
	if Gone(err) {
		return nil // the group itself, and so all that was in it
	}
	return err
}

// Frozen reports whether the group is frozen or about to be.
func (g *Group) Frozen() (bool, error) {
	if !g.CanFreeze() {
		return false, nil
	}
	file := "freezer.self_freezing"
	if g.V2 {
		file = "cgroup.freeze"
	}
	n, err := fscommon.GetCgroupParamUint(g.Dirs["freezer"], file)
	return n == 1, err
}

// FrozenIn returns the directory of the v1 freezer cgroup that keeps a process, any,
// from dying, or "".
func FrozenIn(pid int) string {
	paths, err := cgroups.ParseCgroupFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || paths["freezer"] == "" {
		return ""
	}
	mounts, err := cgroups.GetCgroupMounts(true)
	if err != nil {
		return ""
	}
	for _, m := range mounts {
		if !slices.Contains(m.Subsystems, "freezer") {
			continue
		}
		dir := filepath.Join(m.Mountpoint, paths["freezer"])
		if state, err := cgroups.ReadFile(dir, "freezer.state"); err == nil && strings.TrimSpace(state) == string(cgroups.Frozen) {
			return dir
		}
	}
	return ""
}
