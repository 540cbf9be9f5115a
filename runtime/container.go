package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxlitefs/boxlite/runtime/atomicfile"
	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/image"
	"github.com/boxlitefs/boxlite/runtime/oci"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/runtime/userdb"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// ociRuntime finds an OCI runtime on PATH: the one of that name, or any.
func ociRuntime(name string) (found, path string, err error) {
	for _, r := range config.Runtimes {
		if name != "" && r != name {
			continue
		}
		path, err := exec.LookPath(r)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err == nil {
			// The shim covers /run, where some hosts have links to their programs.
			path, err = filepath.EvalSymlinks(path)
		}
		if err == nil {
			return r, path, nil
		}
	}
	if name != "" {
		return "", "", fmt.Errorf("runtime: %s is not on the daemon's PATH: install it (apt-get install %s), or leave the key runtime out", name, name)
	}
	return "", "", errors.New("engine container needs an OCI runtime, and neither crun nor runc is on the daemon's PATH: install one (apt-get install crun)")
}

// changesDir is where, in a box's directory, its changes to an image or directory
// are, each in a directory of its own: they fit no other.
const changesDir = "changes"

// root finds, and makes where it is missing, what the root of the run's container is
// made of.
func (b *Box) root(ctx context.Context, r *run) (*oci.Root, error) {
	if r.cfg.Image != "" {
		return b.imageRoot(ctx, r)
	}
	dir, err := filepath.EvalSymlinks(r.cfg.Rootfs)
	if err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	if fi, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("rootfs: %s is no directory", dir)
	}
	for _, hidden := range append([]string{b.rt.opt.State}, b.rt.opt.Mask...) {
		if dir == "/" || hidden == dir || strings.HasPrefix(hidden, dir+"/") {
			return nil, fmt.Errorf("rootfs: %s holds %s, which no box may see", dir, hidden)
		}
	}
	if err := b.useImage(""); err != nil {
		return nil, err
	}
	root := &oci.Root{Layers: []string{dir}}
	if r.cfg.Overlay {
		sum := sha256.Sum256([]byte(dir))
		root.Upper, err = b.changes(r, "rootfs-"+hex.EncodeToString(sum[:8]), dir)
	}
	return root, err
}

// imageRoot pulls the run's image if it is not here, and returns what it makes. The box
// uses the image from now on, until its container is made from another.
func (b *Box) imageRoot(ctx context.Context, r *run) (*oci.Root, error) {
	ref, err := image.ParseRef(r.cfg.Image)
	if err != nil {
		return nil, err
	}
	told := -1
	say := func(p image.Progress) {
		detail := fmt.Sprintf("image: %s: %d of %d layers, %d of %d bytes", p.Step, p.Done, p.Layers, p.Bytes, p.Total)
		b.explain(r, detail, func(t *tx) {
			if p.Done != told {
				told = p.Done
				t.event("image", fmt.Sprintf("step=%s layers=%d/%d bytes=%d/%d", p.Step, p.Done, p.Layers, p.Bytes, p.Total))
			}
		})
	}
	get := map[string]func(context.Context, image.Ref, func(image.Progress)) (*image.Image, func(), error){
		config.PullMissing: b.rt.images.Ensure, config.PullNewer: b.rt.images.Newest, config.PullAlways: b.rt.images.Refresh,
	}[r.cfg.Pull]
	img, release, err := get(ctx, ref, say)
	if img == nil {
		b.explain(r, "", nil)
		return nil, err
	}
	defer release()
	var note func(*tx)
	if err != nil {
		b.log("start").WithField("image", img.Name).WithError(err).Warn("the image that is here is used: a newer one cannot be had")
		note = func(t *tx) { t.event("image", "step=kept name="+img.Name+" reason="+strconv.Quote(err.Error())) }
	}
	b.explain(r, "", note)
	if err := b.useImage(img.Digest); err != nil {
		return nil, err
	}
	root := &oci.Root{Image: img}
	for _, dir := range slices.Backward(img.Layers) {
		root.Layers = append(root.Layers, dir)
	}
	if len(root.Layers) == 0 {
		return nil, fmt.Errorf("image: %s has no layers", ref)
	}
	root.Upper, err = b.changes(r, imageKey(img.Digest), root.Layers[0])
	return root, err
}

// explain says what a run that is being started waits for. note may add to it.
func (b *Box) explain(r *run, detail string, note func(*tx)) {
	if err := b.update("start", func(t *tx) error {
		if b.run == r && (t.Status == status.Starting || detail == "") {
			t.Detail = detail
			if note != nil {
				note(t)
			}
		}
		return nil
	}); err != nil {
		b.log("start").WithError(err).Debug("progress not told")
	}
}

// useImage notes, on disk, from which image the box's container is made, or "" that it is
// from none: it cannot be removed while that runs.
func (b *Box) useImage(digest string) error {
	b.save.Lock()
	defer b.save.Unlock()
	b.mu.Lock()
	last := b.record.Image
	b.mu.Unlock()
	if last == digest {
		return nil
	}
	defer b.rt.imageTexts.uses.Add(1)
	err := b.saveNow(atomicfile.Atomic, func(s *stateRecord) { s.Image = digest })
	if err != nil {
		// The next start has to try it again.
		b.mu.Lock()
		b.record.Image = last
		b.mu.Unlock()
	}
	return err
}

// changes returns the directory that takes the box's changes of what key names, and
// makes it if need be. Its root looks like like.
func (b *Box) changes(r *run, key, like string) (string, error) {
	dir, err := b.pin()
	if err != nil {
		return "", err
	}
	defer dir.Close()
	name := filepath.Join(changesDir, key)
	fi, err := os.Stat(like)
	if err != nil {
		return "", err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s: no owner", like)
	}
	upper := filepath.Join(name, "upper")
	if _, err := dir.Lstat(upper); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(b.dir, name), err
	}
	// The upper directory comes last and whole: it is looked for.
	made := filepath.Join(name, "new")
	err = errors.Join(dir.MkdirAll(filepath.Join(name, "work"), 0o700), dir.RemoveAll(made), dir.Mkdir(made, 0o700))
	if err == nil {
		err = errors.Join(dir.Chown(made, int(r.firstID+st.Uid), int(r.firstID+st.Gid)), dir.Chmod(made, fi.Mode()&(fs.ModePerm|fs.ModeSticky)))
	}
	if err == nil {
		err = dir.Rename(made, upper)
	}
	return filepath.Join(b.dir, name), err
}

// container makes s the spec of a container.
func (b *Box) container(ctx context.Context, r *run, s *wire.Spec) error {
	c := r.cfg
	name, path, err := ociRuntime(c.Runtime)
	if err == nil {
		err = b.claimIDs(r)
	}
	var root *oci.Root
	if err == nil {
		root, err = b.root(ctx, r)
	}
	if err != nil {
		return err
	}
	if r.layers, err = root.ImageLayers(); err != nil {
		return err
	}
	p, who, err := containerProcess(ctx, c, root, b.rt.bounding)
	if err != nil {
		return err
	}
	s.Argv, s.Workdir = p.Args, p.Cwd
	s.UID, s.GID = r.firstID+who.UID, r.firstID+who.GID
	for _, m := range c.Mounts {
		s.Mounts = append(s.Mounts, wire.Mount{Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	sc := &wire.Container{Runtime: []string{path}, Layers: root.Layers, Upper: root.Upper, FirstID: r.firstID, IDs: oci.IDs, Init: c.Init, PrivateNet: c.Network == "none"}
	// runc sets the limits from outside, which takes a capability or to be the owner.
	if name == "crun" || b.rt.bounding&config.CapabilityMask([]string{"SYS_RESOURCE"}) != 0 {
		sc.Owner = r.firstID
	}
	spec := containerSpec(c, p, r.firstID)
	v2 := r.group != nil && r.group.V2
	switch {
	case !v2 && name == "crun":
		// crun refuses hosts with both kinds of cgroups, and has nothing to do here: it
		// is started in the group.
		sc.Runtime = append(sc.Runtime, "--cgroup-manager=disabled")
	case name == "crun":
		// No systemd is asked for the group, whatever crun was built for.
		sc.Runtime = append(sc.Runtime, "--cgroup-manager=cgroupfs")
		s.Cgroups = nil
	default:
		// runc puts the container into the group, and wants to find it empty. In it, its
		// own threads and memory would count against the limits.
		s.Cgroups = nil
	}
	if r.group != nil {
		spec.Linux.CgroupsPath = r.group.Path()
	}
	if !v2 {
		if sc.Detach, err = foreignHierarchies(r.group, name); err != nil {
			return err
		}
	}
	addMounts(spec, c, v2)
	if root.Upper != "" {
		sc.Files = containerFiles(c, spec)
	}
	if s.Probe.Kind == wire.ProbeCommand {
		probe := *p
		probe.Args = s.Probe.Argv
		if sc.Probe, err = json.Marshal(probe); err != nil {
			return err
		}
	}
	made := &oci.Process{Process: *p, HomeSet: setsHome(c, root.Image)}
	if root.Image != nil {
		made.Image = root.Image.Digest
		s.StopSignal = c.Stop.SignalFor(root.Image.StopSignal)
	}
	made.StopSignal = s.StopSignal
	for _, m := range spec.Mounts {
		made.Mounts = append(made.Mounts, m.Destination)
	}
	if err := b.keepProcess(made); err != nil {
		return err
	}
	r.effective = effectiveOf(made)
	spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(spec)
	if err != nil {
		return fmt.Errorf("seccomp profile: %w", err)
	}
	if name == "crun" {
		if r.filter, err = b.rt.filters.Apply(spec, path); err != nil {
			return fmt.Errorf("seccomp profile: %w", err)
		}
	}
	if sc.Config, err = json.Marshal(spec); err != nil {
		return err
	}
	s.Container = sc
	return nil
}

// containerProcess is what the container runs: what the configuration says, and the image
// where that says nothing.
func containerProcess(ctx context.Context, c *config.Config, root *oci.Root, bounding uint64) (*specs.Process, userdb.User, error) {
	img := root.Image
	if img == nil {
		img = &image.Image{}
	}
	args := slices.Clone(img.Entrypoint)
	if c.Entrypoint != nil {
		args = slices.Clone(c.Entrypoint)
	}
	if len(c.Command) > 0 {
		args = append(args, c.Command...)
	} else if c.Entrypoint == nil {
		args = append(args, img.Cmd...)
	}
	if len(args) == 0 {
		return nil, userdb.User{}, errors.New("the image does not say what it runs: add command to the configuration")
	}
	name := c.User
	if name == "" {
		name = img.User
	}
	u, err := oci.User(ctx, usersOf(root, c.Mounts), name)
	if err != nil {
		return nil, u, err
	}
	env := map[string]string{"PATH": oci.DefaultPath, "HOME": u.Home}
	maps.Copy(env, imageEnv(img))
	maps.Copy(env, c.Env)
	p := &specs.Process{
		Args: args, Cwd: "/", User: specs.User{UID: u.UID, GID: u.GID, AdditionalGids: u.Groups},
		NoNewPrivileges: c.Security.NoNewPrivileges,
		Capabilities:    containerCapabilities(&c.Security, bounding, u.UID == 0),
	}
	for _, dir := range []string{img.WorkingDir, c.Workdir} {
		if filepath.IsAbs(dir) {
			p.Cwd = filepath.Clean(dir)
		}
	}
	p.Env = oci.Environ(env)
	for _, name := range slices.Sorted(maps.Keys(c.Rlimits)) {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: c.Rlimits[name].Soft, Hard: c.Rlimits[name].Hard})
	}
	return p, u, nil
}

// imageEnv is the environment that an image asks for.
func imageEnv(img *image.Image) map[string]string {
	env := map[string]string{}
	if img == nil {
		return env
	}
	for _, kv := range img.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env
}

// containedExec is execSpec for a container.
func (b *Box) containedExec(r *run, cmd *config.Exec, who userdb.User) (*wire.ExecSpec, error) {
	c := r.cfg
	made, err := b.readBackProcess()
	if err == nil && len(made.Args) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("the process of the container is not known: %w", err)
	}
	p := &made.Process
	p.Args = cmd.Command
	env := map[string]string{}
	for _, kv := range p.Env {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	if cmd.User != "" {
		p.User = specs.User{UID: who.UID, GID: who.GID, AdditionalGids: who.Groups}
		// No more than the command can have: the container may be one of an older boxlite.
		var most uint64
		if p.Capabilities != nil {
			most = config.CapabilityMask(p.Capabilities.Bounding)
		}
		p.Capabilities = containerCapabilities(&c.Security, most, who.UID == 0)
		if !made.HomeSet {
			env["HOME"] = who.Home
		}
	}
	if cmd.Workdir != "" {
		p.Cwd = cmd.Workdir
	}
	if cmd.TTY {
		p.Terminal, p.ConsoleSize = true, &specs.Box{Height: wire.TTYRows, Width: wire.TTYCols}
		env["TERM"] = "xterm"
	}
	maps.Copy(env, cmd.Env)
	p.Env = oci.Environ(env)
	first := b.firstID.Load()
	x := &wire.ExecSpec{
		Argv: p.Args, Env: p.Env, Workdir: p.Cwd, UID: first + p.User.UID, GID: first + p.User.GID,
		TimeoutNs: cmd.Timeout.Nanoseconds(), TTY: cmd.TTY,
	}
	x.Process, err = json.Marshal(p)
	return x, err
}

// profileOf returns the profile of a container, and empty for engine host.
func profileOf(c *config.Config) string {
	if c.Engine != config.EngineContainer {
		return ""
	}
	return c.Security.Profile
}

// containerCapabilities returns the capabilities of a process in a container, of all that there are.
func containerCapabilities(s *config.Security, all uint64, root bool) *specs.LinuxCapabilities {
	add := config.CapabilityMask(s.Capabilities.Add)
	names := config.CapabilityNames((config.CapabilityMask(config.ProfileCapabilities(s.Profile))&^config.CapabilityMask(s.Capabilities.Drop) | add) & all)
	sets := &specs.LinuxCapabilities{Bounding: names}
	if root {
		sets.Effective, sets.Permitted = names, names
		return sets
	}
	// As on engine host: another user has what was asked for.
	names = config.CapabilityNames(add & all)
	sets.Effective, sets.Permitted, sets.Inheritable, sets.Ambient = names, names, names, names
	return sets
}

// containerSpec is the config.json of a container, without what depends on the host.
func containerSpec(c *config.Config, p *specs.Process, firstID uint32) *specs.Spec {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: firstID, Size: oci.IDs}}
	spaces := []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.UserNamespace, specs.CgroupNamespace}
	var sysctls map[string]string
	if c.Network == "none" {
		spaces = append(spaces, specs.NetworkNamespace)
		// The network is the box's own: whoever it is in there may have any port, and ping.
		sysctls = map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "0",
			"net.ipv4.ping_group_range":           "0 " + strconv.Itoa(oci.IDs-1),
		}
	}
	spec := &specs.Spec{
		Version: "1.0.2", Process: p, Hostname: c.Hostname,
		Root: &specs.Root{Path: wire.ContainerRoot, Readonly: c.Security.ReadonlyRootfs},
		Linux: &specs.Linux{
			UIDMappings: ids, GIDMappings: ids, Sysctl: sysctls,
			Resources: &specs.LinuxResources{Devices: containerDevices()},
			// What the kernel tells of the whole host, or can be told for it.
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
				"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	made := map[specs.LinuxNamespaceType]string{specs.UserNamespace: wire.UserNamespace}
	if c.Init {
		made[specs.PIDNamespace], made[specs.NetworkNamespace] = wire.PIDNamespace, wire.NetworkNamespace
	}
	for _, t := range spaces {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: made[t]})
	}
	return spec
}

func containerDevices() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, r := range cgroup.DeviceRules {
		var major, minor int64
		one := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Access: "rwm", Major: &major}
		if _, err := fmt.Sscanf(r, "c %d:%d", &major, &minor); err == nil {
			one.Minor = &minor
		}
		rules = append(rules, one)
	}
	return rules
}

// addMounts adds the mounts of a container.
func addMounts(spec *specs.Spec, c *config.Config, v2 bool) {
	add := func(kind, source, target string, options ...string) {
		spec.Mounts = append(spec.Mounts, specs.Mount{Type: kind, Source: source, Destination: target, Options: options})
	}
	add("proc", "proc", "/proc", "nosuid", "noexec", "nodev")
	add("tmpfs", "tmpfs", "/dev", "nosuid", "noexec", "strictatime", "mode=755", "size=64k")
	add("devpts", "devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")
	add("tmpfs", "shm", "/dev/shm", "nosuid", "noexec", "nodev", "mode=1777", "size=64m")
	add("mqueue", "mqueue", "/dev/mqueue", "nosuid", "noexec", "nodev")
	if c.Network == "none" {
		add("sysfs", "sysfs", "/sys", "nosuid", "noexec", "nodev", "ro")
	} else {
		// A sysfs of its own shows the devices of a network that is the container's.
		add("bind", "/sys", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro")
	}
	switch {
	case v2:
		add("cgroup", "cgroup", "/sys/fs/cgroup", "nosuid", "noexec", "nodev", "relatime", "ro")
	case c.Network != "none":
		add("tmpfs", "tmpfs", "/sys/fs/cgroup", "nosuid", "noexec", "nodev", "ro", "size=4k")
	}
	if c.Security.ReadonlyRootfs {
		for _, dir := range []string{"/run", "/tmp", "/var/tmp"} {
			add("tmpfs", "tmpfs", dir, "nosuid", "nodev", "mode=1777")
		}
	}
	for i, m := range c.Mounts {
		options := []string{"rbind", "nosuid", "nodev"}
		if m.ReadOnly {
			options = append(options, "ro")
		}
		add("bind", wire.ContainerMount(i), m.Target, options...)
	}
}

// containerFiles are the files that a container needs and no image has right, and
// their mounts.
func containerFiles(c *config.Config, spec *specs.Spec) []wire.File {
	files := []wire.File{
		{Name: "hosts", Data: []byte("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t" + c.Hostname + "\n")},
		{Name: "hostname", Data: []byte(c.Hostname + "\n")},
	}
	if c.Network == "host" {
		if text, err := os.ReadFile("/etc/resolv.conf"); err == nil && len(text) <= 64<<10 {
			files = append(files, wire.File{Name: "resolv.conf", Data: text})
		}
	}
	// They are read-only: the box could fill what they are on, which is the shim's.
	for _, f := range files {
		target := "/etc/" + f.Name
		if slices.ContainsFunc(c.Mounts, func(m config.Mount) bool { return m.Target == target || m.Target == "/etc" }) {
			continue
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: wire.ContainerFile(f.Name), Destination: target, Options: []string{"bind", "nosuid", "nodev", "noexec", "ro"}})
	}
	return files
}

// foreignHierarchies lists the mounts of cgroup hierarchies that an OCI runtime is
// not to see: in those the box has no group, and it would make one there.
func foreignHierarchies(g *cgroup.Group, name string) ([]string, error) {
	mounts, err := cgroups.GetCgroupMounts(true)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, m := range mounts {
		if name != "crun" && g != nil && slices.ContainsFunc(m.Subsystems, func(c string) bool { return g.Dirs[c] != "" }) {
			continue
		}
		out = append(out, m.Mountpoint)
	}
	return append(out, hybridMount), nil
}

// hybridMount is where hosts with cgroup v1 have v2.
const hybridMount = "/sys/fs/cgroup/unified"

// learnFilter keeps the seccomp filter of a run that has just begun, if it was not
// known. Without it the next start takes as long as this one.
func (b *Box) learnFilter(r *run) {
	if r.filter == nil {
		return
	}
	err := b.rt.filters.Learn(*r.filter, r.proc, b.name)
	// The command may have ended already, or the runtime keep no such file.
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		b.log("start").WithError(err).Warn("the compiled seccomp profile is not kept")
	}
}
