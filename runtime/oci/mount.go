package oci

import (
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// addMounts adds the mounts of a container. v2 says that its cgroup is one of v2.
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

// addFiles returns the files that a container needs and no image has right, and adds their
// mounts.
func addFiles(spec *specs.Spec, c *config.Config) []wire.File {
	files := []wire.File{
		{Name: "hosts", Data: []byte("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t" + c.Hostname + "\n")},
		{Name: "hostname", Data: []byte(c.Hostname + "\n")},
	}
	if c.Network == "host" {
		if text, err := os.ReadFile("/etc/resolv.conf"); err == nil && len(text) <= 64<<10 {
			files = append(files, wire.File{Name: "resolv.conf", Data: text})
		}
	}
	// They are read-only: the box could fill the file system that they are on, which is the shim's.
	for _, f := range files {
		target := "/etc/" + f.Name
		if slices.ContainsFunc(c.Mounts, func(m config.Mount) bool { return m.Target == target || m.Target == "/etc" }) {
			continue
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: wire.ContainerFile(f.Name), Destination: target, Options: []string{"bind", "nosuid", "nodev", "noexec", "ro"}})
	}
	return files
}

// UsualMounts are the targets of the mounts that containers have, whatever their configuration
// says.
func UsualMounts() (targets []string) {
	spec, c := &specs.Spec{}, &config.Config{Network: "host"}
	addMounts(spec, c, true)
	addFiles(spec, c)
	return mountTargets(spec)
}

func mountTargets(spec *specs.Spec) (targets []string) {
	for _, m := range spec.Mounts {
		targets = append(targets, m.Destination)
	}
	return targets
}
