// Package cgroup makes, limits, freezes, counts and removes cgroups, of v1 and of v2. A group is
// that of a name, and holds processes; what they are is not its business.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/cgroups"
	cgroup2 "github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/fault"
)

// controllers are the cgroup controllers that groups use, by their v1 names. On
// v2 the time used and the freezer are part of every group.
var controllers = []string{"cpu", "cpuacct", "freezer", "memory", "pids"}

// devicesController is used by containers only, and on v1 only: on v2 it is no
// controller, but a program that the OCI runtime attaches.
const devicesController = "devices"

// Tree is where on this host the groups of one state directory are.
type Tree struct {
	v2    bool
	place string // the path of dirs from the root of each hierarchy
	// dirs is, for each controller that can be used, the directory in which the
	// groups are made. On v2 all are the same.
	dirs map[string]string
	// lack says of the others why not.
	lack map[string]error
	// unranked is why the groups have as much processor time as what is beside them, if they do.
	unranked error

	// mu guards owner. It is held while groups are made and removed, which the kernel does one by
	// one in any case, and while they are frozen and thawed. owner has the group that was made
	// last at a path. The one before it may still be there to be removed, frozen or thawed.
	mu    sync.Mutex
	owner map[string]*Group
}

// prefix keeps a group's name from being that of a file of the kernel's.
const prefix = "box-"

// Open finds the host's controllers and makes a place for the groups of the state directory
// state below parent, which is a path from the root of each hierarchy. A controller that is
// missing is no error here: Missing says so of those that are needed.
func Open(parent, state string) (*Tree, error) {
	fi, err := os.Stat(state)
	if err != nil {
		return nil, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s: no inode", state)
	}
	// Daemons beside each other have groups of the same names.
	place := filepath.Join("/", parent, fmt.Sprintf("%x-%x", st.Dev, st.Ino))
	g := &Tree{place: place, v2: cgroups.IsCgroup2UnifiedMode(), dirs: map[string]string{}, lack: map[string]error{}, owner: map[string]*Group{}}
	if g.v2 {
		g.openV2(cgroup2.UnifiedMountpoint + place)
	} else {
		g.openV1(place)
	}
	return g, nil
}

func (t *Tree) openV1(place string) {
	mounts, err := cgroups.GetCgroupMounts(true)
	for _, c := range append([]string{devicesController}, controllers...) {
		if err != nil {
			t.lack[c] = err
			continue
		}
		i := slices.IndexFunc(mounts, func(m cgroups.Mount) bool { return slices.Contains(m.Subsystems, c) })
		if i < 0 {
			t.lack[c] = errors.New("no cgroup v1 hierarchy with it is mounted")
			continue
		}
		dir := mounts[i].Mountpoint + place
		var top string
		if err := besideOthers(func() error {
			top = topmostNew(dir)
			return os.MkdirAll(dir, 0o755)
		}); err != nil {
			t.lack[c] = err
			continue
		}
		t.dirs[c] = dir
		if c == "cpu" {
			t.rank(top, "cpu.shares", "512")
		}
	}
}

func (t *Tree) openV2(dir string) {
	var words []string
	var top string
	err := besideOthers(func() error {
		top = topmostNew(dir)
		return cgroup2.CreateCgroupPath(dir, &cgroups.Cgroup{Resources: &cgroups.Resources{}})
	})
	if err == nil {
		t.rank(top, "cpu.weight", "50")
		var text string
		text, err = cgroups.ReadFile(dir, "cgroup.controllers")
		words = strings.Fields(text)
	}
	for _, c := range controllers {
		have := slices.Contains(words, c)
		switch c {
		case "cpuacct":
			have = true
		case "freezer":
			have = exists(filepath.Join(dir, "cgroup.freeze")) // since Linux 5.2
		}
		switch {
		case err != nil:
			t.lack[c] = err
		case have:
			t.dirs[c] = dir
		default:
			t.lack[c] = fmt.Errorf("it is not in %s/cgroup.controllers", dir)
		}
	}
}

// rank gives the groups together half the processor time of what is beside them, the daemon
// and its shims among it, when there is not enough. top is the topmost group that was made
// here. One that was there has the weight that somebody gave it.
func (t *Tree) rank(top, file, weight string) {
	if top == "" || !exists(filepath.Join(top, file)) {
		return
	}
	if err := cgroups.WriteFile(top, file, weight); err != nil && !Gone(err) {
		t.unranked = err
	}
}

// topmostNew returns the topmost directory on the way to one that is not there yet, or "".
func topmostNew(dir string) (top string) {
	for ; !exists(dir); dir = filepath.Dir(dir) {
		top = dir
	}
	return top
}

// besideOthers makes a directory below the parent of all daemons. The last one that
// ends removes that: also while this one has made it, or found it, and has nothing
// in it yet.
func besideOthers(mkdir func() error) (err error) {
	for range 100 {
		if err = mkdir(); !Gone(err) && !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// V2 reports whether the host has cgroup v2 alone.
func (t *Tree) V2() bool { return t.v2 }

// Unranked says why the groups have as much processor time as what is beside them, if they do.
func (t *Tree) Unranked() error { return t.unranked }

// Features returns a word for each controller that can be used: cgroup.NAME.
func (t *Tree) Features() []string {
	var words []string
	for c := range t.dirs {
		words = append(words, "cgroup."+c)
	}
	return words
}

// Close removes what Open made, unless groups are left in it.
func (t *Tree) Close() {
	for _, dir := range t.dirs {
		if os.Remove(dir) == nil {
			_ = os.Remove(filepath.Dir(dir)) // the last daemon takes the parent along
		}
	}
}

// Sweep removes the groups that are not used, by their names, which a crash has left.
func (t *Tree) Sweep(used func(name string) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, dir := range uniq(t.dirs) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range entries {
			name, ours := strings.CutPrefix(e.Name(), prefix)
			if e.IsDir() && ours && !used(name) {
				errs = append(errs, removeGroup(filepath.Join(dir, e.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// uniq returns the directories of a map, each once: hierarchies may have several
// controllers.
func uniq(dirs map[string]string) []string {
	return slices.Compact(slices.Sorted(maps.Values(dirs)))
}

// removeGroup removes a group and those that were made in it. It does not
// wait: what was in it is proven gone.
func removeGroup(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil {
		fault.Point("group.removed")
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, rerr := os.ReadDir(dir)
	if errors.Is(rerr, fs.ErrNotExist) {
		return nil
	}
	if rerr != nil {
		return rerr
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err = unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		if pids, perr := cgroups.GetPids(dir); perr == nil && len(pids) > 0 {
			return fmt.Errorf("cgroup %s still has process %d: %w", dir, pids[0], err)
		}
		return fmt.Errorf("cgroup %s: %w", dir, err)
	}
	return nil
}
