package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/cgroups"
	cgroup1 "github.com/opencontainers/cgroups/fs"
	cgroup2 "github.com/opencontainers/cgroups/fs2"

	"github.com/boxlitefs/boxlite/runtime/fault"
)

// Group is a cgroup: one directory on v2, one in each hierarchy on v1. A nil Group is that of a
// host that has none; its methods do nothing.
type Group struct {
	V2   bool              `json:"v2,omitempty"`
	Dirs map[string]string `json:"dirs"` // by controller

	tree *Tree
	m    cgroups.Manager
	leaf bool // on v2: no groups are made in it
}

// Of returns the group of a name, which Create makes; nil on a host without any controller. That
// of a container is limited in the devices that it may use, and has no groups in it.
func (t *Tree) Of(name string, container bool) *Group {
	dirs := make(map[string]string, len(t.dirs))
	for c, dir := range t.dirs {
		if c != devicesController || container {
			dirs[c] = filepath.Join(dir, prefix+name)
		}
	}
	if len(dirs) == 0 {
		return nil
	}
	return &Group{V2: t.v2, Dirs: dirs, tree: t, leaf: container}
}

// Plausible reports whether a group that was read from a record may be one that was made here:
// its directories are removed one day.
func (g *Group) Plausible() bool {
	for _, dir := range g.Dirs {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || !strings.HasPrefix(filepath.Base(dir), prefix) {
			return false
		}
	}
	return len(g.Dirs) > 0
}

// Open prepares a group for use that was read from a record.
func (g *Group) Open(tree *Tree) (err error) {
	g.tree = tree
	conf := &cgroups.Cgroup{Resources: &cgroups.Resources{}}
	if g.V2 {
		g.m, err = cgroup2.NewManager(conf, uniq(g.Dirs)[0])
	} else {
		g.m, err = cgroup1.NewManager(conf, maps.Clone(g.Dirs))
	}
	return err
}

// Create makes a group, new and empty, with limits.
func (t *Tree) Create(g *Group, res Limits) error {
	if g == nil {
		return nil
	}
	err := t.make(g)
	switch {
	case err != nil:
		return err
	case res.Asked() != (Limits{}):
		err = g.Limit(res)
		fault.Point("group.limited")
	case res.PidsByDefault && g.Dirs["pids"] != "":
		err = cgroups.WriteFile(g.Dirs["pids"], "pids.max", strconv.FormatInt(res.Pids, 10))
	}
	return err
}

func (t *Tree) make(g *Group) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	// One that was left behind would bring its counters along.
	err := g.remove()
	fault.Point("group.cleared")
	if err == nil {
		err = g.Open(t)
	}
	if err == nil {
		for _, dir := range uniq(g.Dirs) {
			t.owner[dir] = g
		}
		err = g.m.Apply(-1)
	}
	if err == nil && g.V2 && g.leaf {
		// crun gives the group to the container's root, who could fill the host with
		// groups if it may mount. What the file says stays the host's.
		err = cgroups.WriteFile(uniq(g.Dirs)[0], "cgroup.max.descendants", "0")
	}
	if dir := g.Dirs[devicesController]; err == nil && dir != "" {
		err = cgroups.WriteFile(dir, "devices.deny", "a")
		for _, rule := range append(slices.Clone(DeviceRules), "c *:*", "b *:*") {
			access := " rwm"
			if strings.HasSuffix(rule, " *:*") {
				access = " m" // to make one is not to use it, and overlayfs makes some to remove a file
			}
			if err == nil {
				err = cgroups.WriteFile(dir, "devices.allow", rule+access)
			}
		}
	}
	return err
}

// Has reports whether a group was made for this state directory, also by a daemon with another
// parent.
func (t *Tree) Has(g *Group) bool {
	if g == nil {
		return false
	}
	for _, dir := range g.Dirs {
		if filepath.Base(filepath.Dir(dir)) != filepath.Base(t.place) {
			return false
		}
	}
	return true
}

// Path is the group's path from the root of each hierarchy.
func (g *Group) Path() string {
	return filepath.Join(g.tree.place, filepath.Base(uniq(g.Dirs)[0]))
}

// Remove removes a group whose processes are proven gone, unless a later one has its path.
func (t *Tree) Remove(g *Group) error {
	if g == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, dir := range uniq(g.Dirs) {
		if t.isOf(dir, g) {
			delete(t.owner, dir)
			errs = append(errs, removeGroup(dir))
		}
	}
	return errors.Join(errs...)
}

// isOf reports whether a directory is that of a group, and not of a later one. The
// group of a record has no owner here. The caller holds mu.
func (t *Tree) isOf(dir string, g *Group) bool {
	o := t.owner[dir]
	return o == nil || o == g
}

// write writes to a file of the group, unless a later one has its path by now: nothing is
// written then, and Gone reports it of the error.
func (g *Group) write(controller, file, word string) error {
	dir := g.Dirs[controller]
	g.tree.mu.Lock()
	defer g.tree.mu.Unlock()
	if !g.tree.isOf(dir, g) {
		return fmt.Errorf("cgroup %s: %w", dir, syscall.ENOENT)
	}
	return cgroups.WriteFile(dir, file, word)
}

func (g *Group) remove() error {
	var errs []error
	for _, dir := range uniq(g.Dirs) {
		errs = append(errs, removeGroup(dir))
	}
	return errors.Join(errs...)
}

// Made reports whether the group was created, or opened.
func (g *Group) Made() bool { return g != nil && g.m != nil }

// JoinFiles are the files that a process writes itself into to be in the group.
func (g *Group) JoinFiles() []string {
	if g == nil {
		return nil
	}
	file := "tasks"
	if g.V2 {
		file = cgroups.CgroupProcesses
	}
	files := uniq(g.Dirs)
	for i, dir := range files {
		files[i] = filepath.Join(dir, file)
	}
	return files
}
