package oci

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// Container is what a container is made from.
type Container struct {
	Config *config.Config
	Root   *Root
	// Runtime is the name of the OCI runtime and Path its file, as Find gives them.
	Runtime, Path string
	// FirstID is the host's id that is 0 in the container. The container has IDs of them.
	FirstID uint32
	// Capabilities are those that the daemon can give, bit N being capability N.
	Capabilities uint64
	// Group is the cgroup that the container is to be in, nil on a host without cgroups.
	Group *cgroup.Group
	// Probe is the command of its health check, nil for none.
	Probe []string
}

// Bundle is a container that was made.
type Bundle struct {
	// Process is what it runs.
	Process *Process
	// InCgroup says that the OCI runtime is started in the cgroup. Else it puts the container
	// there itself.
	InCgroup bool

	path      string // of the OCI runtime
	name      string
	spec      *specs.Spec
	container *wire.Container
}

// Make makes the container, but for its seccomp profile. Names of users are looked up in its
// root, which ctx can end.
func (c *Container) Make(ctx context.Context) (*Bundle, error) {
	p, err := newProcess(ctx, c.Config, c.Root, c.Capabilities)
	if err != nil {
		return nil, err
	}
	spec := newSpec(c.Config, p, c.FirstID)
	sc := &wire.Container{
		Runtime: []string{c.Path}, Layers: c.Root.Layers, Upper: c.Root.Upper, FirstID: c.FirstID, IDs: IDs,
		Init: c.Config.Init, PrivateNet: c.Config.Network == "none",
	}
	// runc sets the limits from outside, which takes a capability or to be the owner.
	if c.Runtime == "crun" || c.Capabilities&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		sc.Owner = c.FirstID
	}
	v2 := false
	var dirs map[string]string
	if c.Group != nil {
		v2, dirs, spec.Linux.CgroupsPath = c.Group.V2, c.Group.Dirs, c.Group.Path()
	}
	b := &Bundle{path: c.Path, name: c.Runtime, spec: spec, container: sc}
	switch {
	case !v2 && c.Runtime == "crun":
		// crun refuses hosts with both kinds of cgroups, and has nothing to do here: it
		// is started in the cgroup.
		sc.Runtime = append(sc.Runtime, "--cgroup-manager=disabled")
		b.InCgroup = true
	case c.Runtime == "crun":
		// No systemd is asked for the cgroup, whatever crun was built for.
		sc.Runtime = append(sc.Runtime, "--cgroup-manager=cgroupfs")
	default:
		// runc puts the container into the cgroup, and wants to find it empty. In it, its
		// own threads and memory would count against the limits.
	}
	if !v2 {
		if sc.Detach, err = foreignHierarchies(dirs, c.Runtime); err != nil {
			return nil, err
		}
	}
	addMounts(spec, c.Config, v2)
	if c.Root.Upper != "" {
		sc.Files = addFiles(spec, c.Config)
	}
	if c.Probe != nil {
		probe := *p
		probe.Args = c.Probe
		if sc.Probe, err = json.Marshal(probe); err != nil {
			return nil, err
		}
	}
	b.Process = &Process{
		Process: *p, HomeSet: setsHome(c.Config, c.Root), Mounts: mountTargets(spec),
		StopSignal: c.Config.Stop.SignalFor(c.Root.image().StopSignal),
	}
	if c.Root.Image != nil {
		b.Process.Image = c.Root.Image.Digest
	}
	return b, nil
}

// Seal adds the seccomp profile, with the filter that crun has compiled of it if that is known,
// and returns what the shim takes. learn is the key of a filter that is not known.
func (b *Bundle) Seal(filters *Filters) (sc *wire.Container, learn *FilterKey, err error) {
	b.spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(b.spec)
	if err != nil {
		return nil, nil, fmt.Errorf("seccomp profile: %w", err)
	}
	if b.name == "crun" {
		if learn, err = filters.apply(b.spec, b.path); err != nil {
			return nil, nil, fmt.Errorf("seccomp profile: %w", err)
		}
	}
	b.container.Config, err = json.Marshal(b.spec)
	return b.container, learn, err
}
