package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	cgroup1 "github.com/opencontainers/cgroups/fs"
	cgroup2 "github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/cgroups/fscommon"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/fault"
)

// controllers are the cgroup controllers that a box uses, by their v1 names. On
// v2 the time used and the freezer are part of every group.
var controllers = []string{"cpu", "cpuacct", "freezer", "memory", "pids"}

// devicesController is used by containers only, and on v1 only: on v2 it is no
// controller, but a program that the OCI runtime attaches.
const devicesController = "devices"

// groupTree is where on this host the cgroups of boxes are.
type groupTree struct {
	v2    bool
	place string // the path of dirs from the root of each hierarchy
	// dirs is, for each controller that can be used, the directory in which the
	// groups of this state directory's boxes are made. On v2 all are the same.
	dirs map[string]string
	// lack says of the others why not.
	lack map[string]error
	// unranked is why boxes have as much processor time as the daemon, if they do.
	unranked error

	// mu is held while groups are made and removed, which the kernel does one by
	// one in any case, and while they are frozen and thawed. owner has the group that
	// was made last at a path: a run's end is told before its group is removed, and
	// before its kill has done all that it does, and the next run may have begun.
	mu    sync.Mutex
	owner map[string]*group
}

// groupPrefix keeps a box's name from being that of a file of the kernel's.
const groupPrefix = "box-"

// openGroupTree finds the host's controllers and makes a place for the groups of
// one state directory below parent, which is a path from the root of each
// hierarchy. What is missing is no error here: not every box needs it.
func openGroupTree(parent, state string) (*groupTree, error) {
	fi, err := os.Stat(state)
	if err != nil {
		return nil, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s: no inode", state)
	}
	// Daemons beside each other have boxes of the same names.
	place := filepath.Join("/", parent, fmt.Sprintf("%x-%x", st.Dev, st.Ino))
	g := &groupTree{place: place, v2: cgroups.IsCgroup2UnifiedMode(), dirs: map[string]string{}, lack: map[string]error{}, owner: map[string]*group{}}
	if g.v2 {
		g.openV2(cgroup2.UnifiedMountpoint + place)
	} else {
		g.openV1(place)
	}
	return g, nil
}

func (t *groupTree) openV1(place string) {
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

func (t *groupTree) openV2(dir string) {
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

// rank gives the boxes together half the processor time of what is beside them, when there
// is not enough: the daemon and its shims among it. top is the topmost group that was made
// here. One that was there has the weight that somebody gave it.
func (t *groupTree) rank(top, file, weight string) {
	if top == "" || !exists(filepath.Join(top, file)) {
		return
	}
	if err := cgroups.WriteFile(top, file, weight); err != nil && !gone(err) {
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
		if err = mkdir(); !gone(err) && !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// features returns a word for each controller that boxes can use.
func (t *groupTree) features() []string {
	var words []string
	for c := range t.dirs {
		words = append(words, "cgroup."+c)
	}
	return words
}

// close removes what openGroupTree made, unless boxes still use it.
func (t *groupTree) close() {
	for _, dir := range t.dirs {
		if os.Remove(dir) == nil {
			_ = os.Remove(filepath.Dir(dir)) // the last daemon takes the parent along
		}
	}
}

// sweep removes the groups of boxes that do not use them, which a crash has left.
func (t *groupTree) sweep(used func(box string) bool) error {
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
			box, ours := strings.CutPrefix(e.Name(), groupPrefix)
			if e.IsDir() && ours && !used(box) {
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

// removeGroup removes a group and those that the box has made in it. It does not
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

// group is the cgroup of one run of a box: one directory on v2, one in each
// hierarchy on v1. The shim is not in it. A nil group is that of a host that has
// none; its methods do nothing.
type group struct {
	V2   bool              `json:"v2,omitempty"`
	Dirs map[string]string `json:"dirs"` // by controller

	tree *groupTree
	m    cgroups.Manager
	leaf bool // on v2: no groups are made in it
}

// of returns the group that a run of the box will have, or nil.
func (t *groupTree) of(box string, container bool) *group {
	dirs := make(map[string]string, len(t.dirs))
	for c, dir := range t.dirs {
		if c != devicesController || container {
			dirs[c] = filepath.Join(dir, groupPrefix+box)
		}
	}
	if len(dirs) == 0 {
		return nil
	}
	return &group{V2: t.v2, Dirs: dirs, tree: t, leaf: container}
}

// plausible reports whether a group that was read from a record may be a box's: its
// directories are removed one day.
func (g *group) plausible() bool {
	for _, dir := range g.Dirs {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || !strings.HasPrefix(filepath.Base(dir), groupPrefix) {
			return false
		}
	}
	return len(g.Dirs) > 0
}

// open prepares a group for use, also one that was read from a record.
func (g *group) open(tree *groupTree) (err error) {
	g.tree = tree
	conf := &cgroups.Cgroup{Resources: &cgroups.Resources{}}
	if g.V2 {
		g.m, err = cgroup2.NewManager(conf, uniq(g.Dirs)[0])
	} else {
		g.m, err = cgroup1.NewManager(conf, maps.Clone(g.Dirs))
	}
	return err
}

// create makes a group, new and empty, with limits.
func (t *groupTree) create(g *group, res Resources) error {
	if g == nil {
		return nil
	}
	err := t.make(g)
	switch {
	case err != nil:
		return err
	case res.asked() != (Resources{}):
		err = g.limit(res)
		fault.Point("group.limited")
	case res.PidsByDefault && g.Dirs["pids"] != "":
		err = cgroups.WriteFile(g.Dirs["pids"], "pids.max", strconv.FormatInt(res.Pids, 10))
	}
	return err
}

func (t *groupTree) make(g *group) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	// One that was left behind would bring its counters along.
	err := g.remove()
	fault.Point("group.cleared")
	if err == nil {
		err = g.open(t)
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
		for _, rule := range append(slices.Clone(deviceRules), "c *:*", "b *:*") {
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

// made reports whether a group was made for this state directory, also by a daemon with
// another parent.
func (t *groupTree) made(g *group) bool {
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

// path is the group's path from the root of each hierarchy.
func (g *group) path() string {
	return filepath.Join(g.tree.place, filepath.Base(uniq(g.Dirs)[0]))
}

// remove removes the group of a run that is proven gone, unless a later run has it.
func (t *groupTree) remove(g *group) error {
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
// group of an adopted run has no owner here. mu is held.
func (t *groupTree) isOf(dir string, g *group) bool {
	o := t.owner[dir]
	return o == nil || o == g
}

// write writes to a file of the group, unless a later run has it by now: nothing is
// written then, and gone reports it of the error.
func (g *group) write(controller, file, word string) error {
	dir := g.Dirs[controller]
	g.tree.mu.Lock()
	defer g.tree.mu.Unlock()
	if !g.tree.isOf(dir, g) {
		return fmt.Errorf("cgroup %s: %w", dir, syscall.ENOENT)
	}
	return cgroups.WriteFile(dir, file, word)
}

func (g *group) remove() error {
	var errs []error
	for _, dir := range uniq(g.Dirs) {
		errs = append(errs, removeGroup(dir))
	}
	return errors.Join(errs...)
}

// cpuPeriod is the period of a CPU quota in microseconds: the kernel's default.
const cpuPeriod = 100_000

// made reports whether the group was created, or adopted.
func (g *group) made() bool { return g != nil && g.m != nil }

// preparedV1 has the library find out once, with a group that is nowhere, what it keeps
// for all groups of v1: it does so at the first Set, without a lock.
var preparedV1 = sync.OnceValue(func() error {
	m, err := cgroup1.NewManager(&cgroups.Cgroup{Resources: &cgroups.Resources{}}, map[string]string{})
	if err != nil {
		return err
	}
	return m.Set(&cgroups.Resources{})
})

// limit makes the limits hold, at once and for what runs already. What is not
// limited becomes unlimited.
func (g *group) limit(res Resources) error {
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

// unbound reports whether a controller has no limit for the group.
func (g *group) unbound(controller, file string) (bool, error) {
	dir := g.Dirs[controller]
	if dir == "" {
		return true, nil
	}
	text, err := cgroups.ReadFile(dir, file)
	return strings.TrimSpace(text) == "max", err
}

// joinFiles are the files that a process writes itself into to be in the group.
func (g *group) joinFiles() []string {
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

// thawFile returns the file that thaws the group, and what to write into it.
func (g *group) thawFile() (path, word string) {
	switch {
	case !g.canFreeze():
		return "", ""
	case g.V2:
		return filepath.Join(g.Dirs["freezer"], "cgroup.freeze"), "0"
	}
	return filepath.Join(g.Dirs["freezer"], "freezer.state"), string(cgroups.Thawed)
}

func (g *group) canFreeze() bool { return g != nil && g.Dirs["freezer"] != "" }

// freezeBound is how long the processes of a group have to come to where they stop.
const freezeBound = 2 * time.Second

// freeze stops every process of the group where it is, or none. The library would
// give those of a v1 group half a millisecond at a time, and thaw them in between:
// a box with a limit of cpus was seen never to be frozen so. But FROZEN has to be
// written more than once: one that is just being forked may miss it. And a group
// that has used up its share gets there when it has processor time again, so it is
// given some: all that it can do with it is to stop. EBUSY says that a kill has
// thawed the group meanwhile.
func (g *group) freeze(cpus float64) (err error) {
	file, word := "freezer.state", string(cgroups.Frozen)
	if g.V2 {
		file, word = "cgroup.freeze", "1"
	}
	over := time.After(freezeBound)
	lifted := false
	defer func() {
		if lifted {
			err = errors.Join(err, g.throttle(cpus))
		}
	}()
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		if err := g.write("freezer", file, word); err != nil {
			return errors.Join(err, g.thaw())
		}
		if cpus > 0 && !lifted {
			lifted = true
			if err := g.throttle(0); err != nil {
				return errors.Join(err, g.thaw())
			}
		}
		stopped, err := g.stopped()
		if err != nil {
			return errors.Join(err, g.thaw())
		}
		if stopped {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-over:
			return errors.Join(fmt.Errorf("not all of its processes could be stopped within %s", freezeBound), g.thaw())
		}
		if frozen, err := g.frozen(); err != nil {
			return errors.Join(err, g.thaw())
		} else if !frozen {
			return unix.EBUSY
		}
	}
}

// stopped reports whether all that is in a group which freezes is where it stops.
func (g *group) stopped() (bool, error) {
	if g.V2 {
		n, err := fscommon.GetValueByKey(g.Dirs["freezer"], "cgroup.events", "frozen")
		return n == 1, err
	}
	state, err := cgroups.ReadFile(g.Dirs["freezer"], "freezer.state")
	return strings.TrimSpace(state) == string(cgroups.Frozen), err
}

// thaw undoes freeze, whoever did it, also in groups that the box has made.
func (g *group) thaw() error {
	if !g.canFreeze() {
		return nil
	}
	top := g.Dirs["freezer"]
	path, word := g.thawFile()
	g.tree.mu.Lock()
	defer g.tree.mu.Unlock()
	if !g.tree.isOf(top, g) {
		return nil // that of a later run
	}
	err := filepath.WalkDir(top, func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return cgroups.WriteFile(dir, filepath.Base(path), word)
	})
	if gone(err) {
		return nil // the group itself, and so all that was in it
	}
	return err
}

// throttle limits the processor time of the group, as limit does, to so many
// processors; 0 is no limit.
func (g *group) throttle(cpus float64) error {
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
	if gone(err) {
		return nil
	}
	return err
}

// frozen reports whether the group is frozen or about to be.
func (g *group) frozen() (bool, error) {
	if !g.canFreeze() {
		return false, nil
	}
	file := "freezer.self_freezing"
	if g.V2 {
		file = "cgroup.freeze"
	}
	n, err := fscommon.GetCgroupParamUint(g.Dirs["freezer"], file)
	return n == 1, err
}

// frozenIn returns the directory of the v1 freezer cgroup that keeps a process, any,
// from dying, or "".
func frozenIn(pid int) string {
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

// used returns the time and the OOM kills of the group. Where a controller is
// missing its figure is 0, and complete is false.
func (g *group) used() (st Stats, complete bool, err error) {
	if !g.made() {
		return st, false, nil
	}
	cpu, memory := g.Dirs["cpuacct"], g.Dirs["memory"]
	var cpuErr, oomErr error
	switch {
	case cpu == "":
	case g.V2:
		var n uint64
		n, cpuErr = fscommon.GetValueByKey(cpu, "cpu.stat", "usage_usec")
		st.CPU = time.Duration(n) * time.Microsecond
	default:
		var n uint64
		n, cpuErr = fscommon.GetCgroupParamUint(cpu, "cpuacct.usage")
		st.CPU = time.Duration(n)
	}
	if memory != "" {
		st.OOMKills, oomErr = g.m.OOMKillCount()
	}
	return st, cpu != "" && memory != "", errors.Join(cpuErr, oomErr)
}

// usage returns all that the group counts, as used does.
func (g *group) usage() (Stats, bool, error) {
	st, complete, err := g.counts(nil)
	if err == nil && g.made() && g.Dirs["memory"] != "" {
		st.OOMKills, err = g.m.OOMKillCount()
	}
	return st, complete, err
}

// inForce leaves out of res the bound that nobody has asked for, where it cannot be had.
func (t *groupTree) inForce(res Resources) Resources {
	if t.dirs["pids"] == "" {
		return res.asked()
	}
	return res
}

// missing says in one sentence which limit cannot be had on this host, or nil.
func (t *groupTree) missing(res Resources) error {
	res = res.asked()
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
