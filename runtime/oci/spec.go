package oci

import (
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// newSpec is the config.json of a container, without its mounts, its path in the cgroups, and its seccomp profile.
// firstID is the host's id that is 0 in the container.
func newSpec(c *config.Config, p *specs.Process, firstID uint32) *specs.Spec {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: firstID, Size: IDs}}
	spaces := []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.UserNamespace, specs.CgroupNamespace}
	var sysctls map[string]string
	if c.Network == "none" {
		spaces = append(spaces, specs.NetworkNamespace)
		// The network is the box's own: whoever it is in there may have any port, and ping.
		sysctls = map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "0",
			"net.ipv4.ping_group_range":           "0 " + strconv.Itoa(IDs-1),
		}
	}
	spec := &specs.Spec{
		Version: "1.0.2", Process: p, Hostname: c.Hostname,
		Root: &specs.Root{Path: wire.ContainerRoot, Readonly: c.Security.ReadonlyRootfs},
		Linux: &specs.Linux{
			UIDMappings: ids, GIDMappings: ids, Sysctl: sysctls,
			Resources: &specs.LinuxResources{Devices: deviceRules()},
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

// deviceRules lets a container use the devices of cgroup.DeviceRules, and no other.
func deviceRules() []specs.LinuxDeviceCgroup {
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
